/* Stress tests for several CPUs: what each file has, and what they share.
 *
 * A test runs for `seconds`, in `threads` threads or a few more, and returns NULL, or what went
 * wrong. All memory that it leaves behind is the process's.
 */
#ifndef STRESS_H
#define STRESS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_THREADS 64

extern unsigned threads;
extern double seconds;

const char *test_atomics(void);
const char *test_split(void);
const char *test_futex(void);
const char *test_fork(void);
const char *test_mapping(void);
const char *test_jit(void);
const char *test_crossmod(void);
const char *test_remap(void);
const char *test_signals(void);
const char *test_vectors(void);
const char *test_order(void);
const char *test_slots(void);
const char *test_code(void);
const char *test_traps(void);
const char *test_clocks(void);

/* Is there time left for the test that runs? */
bool time_left(void);
/* Run fn(number) in n threads and wait for all. The first failure that one of them noted, or NULL.
 */
const char *in_threads(unsigned n, void (*fn)(unsigned number));
/* Note a failure of the running test; text is constant. Any thread. */
void failed(const char *text);
bool has_failed(void);

#endif
