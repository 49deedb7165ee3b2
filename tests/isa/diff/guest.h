/* Tests on an engine: a flat vCPU with the same linear memory as the native child. */
#ifndef TESTS_ISA_DIFF_GUEST_H
#define TESTS_ISA_DIFF_GUEST_H

#include "diff.h"

struct engine;
struct guest;

struct guest_options {
	const struct engine *engine;
	unsigned runs; /* of each test; more than one, so that code gets hot and chained */
	bool exact;    /* counting mode: flags are exact in what a fault saves */
};

/* images and ro_page are borrowed. */
struct guest *guest_new(const struct shared *images, const struct guest_options *opt);
/* r gets the result of the last run, or of the first that differs from the one before it. */
void guest_run(struct guest *g, const struct test *t, struct result *r);
void guest_free(struct guest *g);

#endif
