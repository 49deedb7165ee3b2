/* What must be equal on both sides, and what cannot be. */
#ifndef TESTS_ISA_DIFF_COMPARE_H
#define TESTS_ISA_DIFF_COMPARE_H

#include <stdio.h>

#include "diff.h"

/* True if the guest (b) did as the host (a). Where they differ, each field is written to out, which
 * may be NULL. Without exact_flags arithmetic flags do not count after a fault. */
bool same_result(const struct test *t, const struct result *a, const struct result *b,
		 bool exact_flags, FILE *out);

/* The test in words: code, registers, how to run it again. */
void print_test(const struct test *t, FILE *out);

#endif
