/* What x86 promises about the order of plain loads and stores: SDM 3A 9.2. */
#define _GNU_SOURCE
#include "stress.h"

#include <sched.h>

#define STEPS 64

/* ---- both store, then load what the other has stored ---- */

static struct {
	volatile uint32_t x, pad0[31], y, pad1[31];
} cell[STEPS] __attribute__((aligned(128)));

static uint32_t seen[2][STEPS];
static _Atomic uint32_t arrived[2];
static _Atomic bool play_over;

/* Both threads are here a when-th time. */
static void meet(unsigned i, uint32_t when)
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
static void play(unsigned i)
{
	uint32_t when = 0;

	for (uint32_t round = 1; !atomic_load(&play_over); round++) {
		for (unsigned k = 0; k < STEPS; k++)
			seen[i][k] = i == 0 ? store_then_load(&cell[k].x, &cell[k].y, round, k & 1)
					    : store_then_load(&cell[k].y, &cell[k].x, round, k & 1);
		meet(i, ++when);
		for (unsigned k = 0; i == 0 && k < STEPS; k++)
			if (seen[0][k] != round && seen[1][k] != round)
				failed(k & 1 ? "two loads passed the xchg before them"
					     : "two loads passed the mfence before them");
		if (i == 0 && !time_left())
			atomic_store(&play_over, true);
		meet(i, ++when);
	}
}

/* ---- message passing: the data are stored before the flag ---- */

static struct {
	volatile uint64_t data, pad0[15], flag, pad1[15];
} message __attribute__((aligned(128)));

static _Atomic bool pass_over;

static void send(void)
{
	for (uint64_t n = 0; !atomic_load_explicit(&pass_over, memory_order_relaxed); n++) {
		message.data = n;
		message.flag = n;
	}
}

static void receive(void)
{
	while (time_left()) {
		for (unsigned k = 0; k < 1000; k++) {
			uint64_t flag = message.flag, data = message.data;

			if (data < flag)
				failed("data are older than their flag");
		}
	}
	atomic_store(&pass_over, true);
}

static void role(unsigned number)
{
	if (number < 2)
		play(number);
	else if (number == 2)
		send();
	else
		receive();
}

const char *test_order(void)
{
	atomic_store(&play_over, false);
	atomic_store(&pass_over, false);
	atomic_store(&arrived[0], 0);
	atomic_store(&arrived[1], 0);
	message.data = message.flag = 0;
	memset((void *)cell, 0, sizeof(cell));
	return in_threads(4, role);
}
