/* Tests on the interpreter: a flat vCPU with the same linear memory as the native child. */
#ifndef TESTS_ISA_DIFF_GUEST_H
#define TESTS_ISA_DIFF_GUEST_H

#include "diff.h"

struct guest;

/* images and ro_page are borrowed. */
struct guest *guest_new(const struct shared *images);
void guest_run(struct guest *g, const struct test *t, struct result *r);
void guest_free(struct guest *g);

#endif
