/* Pairs of threads that hand a turn to each other, each asleep while it is the other's. */
#define _GNU_SOURCE
#include "stress.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct turn {
	_Atomic uint32_t whose; /* futex */
	uint32_t stop;
	uint64_t plain[2];
} __attribute__((aligned(64))) turn[MAX_THREADS];

static void wait_for(struct turn *t, uint32_t me)
{
	while (atomic_load(&t->whose) != me)
		syscall(SYS_futex, &t->whose, FUTEX_WAIT_PRIVATE, 1 - me, NULL, NULL, 0);
}

static void hand_over(struct turn *t, uint32_t me)
{
	atomic_store(&t->whose, 1 - me);
	syscall(SYS_futex, &t->whose, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void work(unsigned number)
{
	struct turn *t = &turn[number / 2];
	uint32_t me = number % 2;

	for (;;) {
		wait_for(t, me);
		/* The other's count, seen without a lock, tells that stores came in order. */
		if (t->plain[1 - me] != t->plain[me] + me)
			failed("a hand-over came before what was stored before it");
		t->plain[me]++;
		if (me == 0 && !t->stop && !time_left())
			t->stop = 1;
		bool stop = t->stop;

		hand_over(t, me);
		if (stop)
			return;
	}
}

const char *test_futex(void)
{
	memset(turn, 0, sizeof(turn));
	return in_threads(threads * 2 > 8 ? 8 : threads * 2, work);
}
