/* What x86 promises about the order of plain loads and stores: SDM 3A 9.2.
 *
 * Threads 0 and 1 play rounds: in each one both store and load, and a third word counts who is done.
 */
#include "stress.h"

#include <sched.h>
#include <stdatomic.h>

#define STEPS 64

static struct {
	volatile uint32_t x, pad0[31], y, pad1[31];
} cell[STEPS] __attribute__((aligned(128)));

static uint32_t seen[2][STEPS];
static atomic_uint arrived[2];
static atomic_bool play_over, pass_over;

/* Message passing: the data are written before the flag. */
static struct {
	volatile uint64_t data, pad0[15], flag, pad1[15];
} message __attribute__((aligned(128)));

static void meet(unsigned i, unsigned when)
{
	atomic_store(&arrived[i], when);
	for (unsigned n = 0; atomic_load(&arrived[!i]) < when; n++) {
		if (n > 1000)
			sched_yield();
		else
			__builtin_ia32_pause();
	}
}

static uint32_t store_then_load(volatile uint32_t *to, volatile uint32_t *from, uint32_t val,
				bool by_xchg)
{
	uint32_t got, swapped = val;

	if (by_xchg)
		__asm__ volatile("xchgl %1, %2\n\tmovl %3, %0"
				 : "=&r"(got), "+r"(swapped), "+m"(*to)
				 : "m"(*from)
				 : "memory");
	else
		__asm__ volatile("movl %2, %1\n\tmfence\n\tmovl %3, %0"
				 : "=&r"(got), "=m"(*to)
				 : "r"(val), "m"(*from)
				 : "memory");
	return got;
}

/* With a fence between, not both can miss the other's store. */
static long play(unsigned i)
{
	uint32_t round = 0;
	unsigned when = 0;

	for (;;) {
		round++;
		for (unsigned s = 0; s < STEPS; s++)
			seen[i][s] = i == 0 ? store_then_load(&cell[s].x, &cell[s].y, round, s & 1)
					    : store_then_load(&cell[s].y, &cell[s].x, round, s & 1);
		meet(i, ++when);
		for (unsigned s = 0; i == 0 && s < STEPS; s++)
			if (seen[0][s] != round && seen[1][s] != round)
				fail("both loads passed the stores before them (%s)",
				     s & 1 ? "xchg" : "mfence");
		if (i == 0 && !time_left())
			atomic_store(&play_over, true);
		meet(i, ++when);
		if (atomic_load(&play_over))
			return round;
	}
}

static long pass(unsigned i)
{
	uint64_t n = 0;

	if (i == 0) {
		for (; !atomic_load_explicit(&pass_over, memory_order_relaxed); n++) {
			message.data = n;
			__asm__ volatile("" : : : "memory");
			message.flag = n;
		}
		return 0;
	}
	do {
		for (unsigned k = 0; k < 1000; k++, n++) {
			uint64_t flag = message.flag, data;

			__asm__ volatile("" : : : "memory");
			data = message.data;
			if (data < flag)
				fail("data %llu are older than their flag %llu",
				     (unsigned long long)data, (unsigned long long)flag);
		}
	} while (time_left());
	atomic_store(&pass_over, true);
	return (long)n;
}

static long either(unsigned i)
{
	return i < 2 ? play(i) : pass(i - 2);
}

long stress_order(void)
{
	return on_threads(4, either);
}
