/* What every program of the suite shares: a table of benchmarks, each a fixed amount of work that
 * returns a checksum. The same binary runs natively and inside guests.
 */
#ifndef BENCH_GUEST_BENCH_H
#define BENCH_GUEST_BENCH_H

#include <stdint.h>

struct bench {
	const char *name;	/* "group.name" */
	uint64_t (*work)(void); /* timed; returns a checksum of all it computed */
	uint64_t want;		/* the checksum that is right */
	void (*setup)(void);	/* before the clock starts; NULL for none */
	const char *cpu;	/* feature as /proc/cpuinfo names it; NULL for none. Without it
				 * the benchmark is skipped.
				 */
};

/* Run the benchmarks of t, which ends with a row without a name; all of them, or those that argv
 * names. Prints lines for each:
 *	START name
 *	BENCH name milliseconds ms cpu milliseconds
 *	FAIL name got wanted
 *	SKIP name feature
 * Returns main's exit status: 1 if any failed.
 */
int bench_main(const struct bench *t, int argc, char **argv);

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t bench_clock_ns(void);

/* Nanoseconds of CPU that this process and the children it waited for have used. */
uint64_t bench_cpu_ns(void);

/* Print the line of a benchmark that went well. */
void bench_print(const char *name, uint64_t ns, uint64_t cpu_ns);

/* Print why and end the process with status 1: for a system call that cannot fail here. */
_Noreturn void bench_die(const char *why);

/* Stay on one CPU of those allowed: two processes that wake each other then switch contexts, on
 * every host.
 */
void bench_pin(void);

/* A stream of random words, the same on every run. *state must not be 0. */
static inline uint64_t bench_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

/* Add word to a checksum. */
static inline uint64_t bench_mix(uint64_t sum, uint64_t word)
{
	sum = (sum ^ word) * 0x9e3779b97f4a7c15ull;
	return sum ^ sum >> 29;
}

#endif
