/* Random tests, made from the instruction table. */
#ifndef TESTS_ISA_DIFF_GENERATE_H
#define TESTS_ISA_DIFF_GENERATE_H

#include "diff.h"

struct generator;

/* For code of mode 2, 4 or 8; with only not NULL, of instructions with that mnemonic; with smc, of
 * code that changes itself. NULL if no instruction is left. */
struct generator *generator_new(unsigned mode, const char *only, bool smc);
void generator_free(struct generator *g);
/* How many rows of the table it draws from. */
unsigned generator_rows(const struct generator *g);

/* The test that seed and index name. */
void generate(const struct generator *g, uint64_t seed, uint64_t index, struct test *t);

#endif
