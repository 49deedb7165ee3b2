/* What the stress tests share. Each runs until the time is over and returns how much it has done;
 * the first wrong value ends the program.
 */
#ifndef STRESS_H
#define STRESS_H

#include <stdbool.h>
#include <stdint.h>

#define MAX_THREADS 64

long stress_atomics(void);
long stress_order(void);
long stress_futex(void);
long stress_fork(void);
long stress_map(void);
long stress_code(void);
long stress_signals(void);

/* What a program started by stress_fork does: exits with a status made from the word. */
int stress_child(const char *word);

/* Is there time left? Costs a system call at worst: ask now and then. */
bool time_left(void);

/* Say what went wrong and end the program. From any thread. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* As many threads as CPUs, but at least least. */
unsigned n_threads(unsigned least);

/* Run fn(0) to fn(n - 1) at once, each on a thread of its own that stays on one CPU; returns the sum
 * of what they return. */
long on_threads(unsigned n, long (*fn)(unsigned i));

/* Cheap random numbers. *seed must not be 0. */
static inline uint32_t rnd(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

#endif
