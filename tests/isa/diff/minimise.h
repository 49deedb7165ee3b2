/* From a test that fails to a smaller one that still does. */
#ifndef TESTS_ISA_DIFF_MINIMISE_H
#define TESTS_ISA_DIFF_MINIMISE_H

#include "diff.h"

/* Does t fail? ctx is the caller's. */
typedef bool fails_fn(const struct test *t, void *ctx);

/* Drop instructions, then state, of the failing test t for as long as it fails. */
void minimise(struct test *t, fails_fn *fails, void *ctx);

#endif
