/* Futexes: pairs that play ping-pong, and all threads in a ring. A wake that is lost hangs, one too
 * many is seen in the numbers.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static unsigned n;
static atomic_uint token[MAX_THREADS]; /* 0: not here; else the number it was passed with */
static atomic_uint ball[MAX_THREADS];
static atomic_bool over;

#define LAST 0xffffffffu

static void wait_while(atomic_uint *word, unsigned val)
{
	while (atomic_load(word) == val) {
		/* Now and then with a limit, which must end it too. */
		struct timespec limit = { .tv_nsec = 2000000 };
		bool limited = (val & 7) == 3;
		long ret = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, val,
				   limited ? &limit : NULL, NULL, 0);

		if (ret < 0 && errno != EAGAIN && errno != EINTR &&
		    !(limited && errno == ETIMEDOUT))
			fail("futex wait: error %d", errno);
	}
}

static void put(atomic_uint *word, unsigned val)
{
	atomic_store(word, val);
	if (syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) < 0)
		fail("futex wake: error %d", errno);
}

/* Even counts are for the even thread to answer. */
static long ping_pong(unsigned i)
{
	atomic_uint *b = &ball[i / 2];
	unsigned want = i & 1;
	long rounds = 0;

	if ((i | 1) >= n)
		return 0;
	for (;;) {
		unsigned got;

		while ((got = atomic_load(b)) != LAST && (got & 1) != want)
			wait_while(b, got);
		if (got == LAST)
			return rounds;
		if (got != 2 * (unsigned)rounds + want)
			fail("thread %u has ball %u in round %ld", i, got, rounds);
		rounds++;
		if (want && rounds % 64 == 0 && !time_left()) {
			put(b, LAST);
			return rounds;
		}
		put(b, got + 1);
	}
}

static long ring(unsigned i)
{
	atomic_uint *here = &token[i], *next = &token[(i + 1) % n];
	unsigned want = i + 1;
	long rounds = 0;

	for (;;) {
		unsigned got;

		wait_while(here, 0);
		got = atomic_exchange(here, 0);
		if (got == LAST) {
			if (i + 1 < n)
				put(next, LAST);
			return rounds;
		}
		if (got != want)
			fail("thread %u got token %u, not %u", i, got, want);
		want += n;
		rounds++;
		if (i == 0 && rounds % 16 == 0 && atomic_load(&over)) {
			if (n > 1)
				put(next, LAST);
			return rounds;
		}
		put(next, got + 1);
	}
}

static long play(unsigned i)
{
	long done;

	if (i < n)
		return ring(i);
	done = ping_pong(i - n);
	atomic_store(&over, true);
	return done;
}

long stress_futex(void)
{
	n = n_threads(2);
	if (n > MAX_THREADS / 2)
		n = MAX_THREADS / 2;
	n &= ~1u;
	atomic_store(&token[0], 1);
	return on_threads(2 * n, play);
}
