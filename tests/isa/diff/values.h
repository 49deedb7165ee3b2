/* Random registers and memory, rich in what instructions treat specially. */
#ifndef TESTS_ISA_DIFF_VALUES_H
#define TESTS_ISA_DIFF_VALUES_H

#include "diff.h"
#include "unit/cpu/x86/decode_gen.h"

/* True once in n times. */
static inline bool gen_one_in(struct gen *g, unsigned n)
{
	return gen_below(g, n) == 0;
}

/* An integer: small, a border of some size, a power of two, or anything. */
uint64_t value_int(struct gen *g);
/* A linear address in the window for size bytes, often near the end of a page. */
uint64_t value_pointer(struct gen *g, unsigned size);

/* Segments, flags, and all registers of t; mode and code_off are set. */
void values_state(struct gen *g, struct test *t);
/* The memory images and the read-only page. */
void values_memory(struct gen *g, struct shared *s);

#endif
