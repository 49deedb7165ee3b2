/* Time in all threads at once: it never steps back, also as seen from another CPU, and no timer is
 * lost: a periodic one counts what time has passed, and nobody sleeps for seconds too long.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SECOND	  1000000000ll
#define PERIOD_NS 2000000ll
#define LATE_NS	  (5 * SECOND) /* nobody's turn takes that long */

static _Atomic int64_t latest_ns;
static _Atomic uint64_t latest_tsc;

static int64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * SECOND + t.tv_nsec;
}

static uint64_t tsc(void)
{
	unsigned aux;

	return __builtin_ia32_rdtscp(&aux);
}

/* What any thread has read before is not later than what is read now. */
static void look(void)
{
	for (unsigned n = 0; n < 300; n++) {
		int64_t seen = atomic_load(&latest_ns), now = now_ns(CLOCK_MONOTONIC);
		uint64_t seen_tsc = atomic_load(&latest_tsc), now_tsc = tsc();

		if (now < seen)
			failed("CLOCK_MONOTONIC stepped back");
		if (now_tsc < seen_tsc)
			failed("the TSC stepped back");
		while (now > seen && !atomic_compare_exchange_weak(&latest_ns, &seen, now))
			;
		while (now_tsc > seen_tsc &&
		       !atomic_compare_exchange_weak(&latest_tsc, &seen_tsc, now_tsc))
			;
	}
}

static void nap(unsigned number)
{
	struct timespec t = { .tv_nsec = 100000 * (1 + number % 8) };
	int64_t begin = now_ns(CLOCK_MONOTONIC), took;

	nanosleep(&t, NULL);
	took = now_ns(CLOCK_MONOTONIC) - begin;
	if (took < t.tv_nsec)
		failed("a sleep was too short");
	if (took > LATE_NS)
		failed("a sleep did not end");
}

static void clocks_thread(unsigned number)
{
	struct itimerspec every = { { 0, PERIOD_NS }, { 0, PERIOD_NS } };
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	int64_t begin = now_ns(CLOCK_MONOTONIC), passed;
	uint64_t n, ticks = 0;

	if (fd < 0 || timerfd_settime(fd, 0, &every, NULL) < 0)
		failed("a timer cannot be made");
	while (time_left()) {
		struct pollfd p = { .fd = fd, .events = POLLIN };

		look();
		nap(number);
		if (poll(&p, 1, LATE_NS / 1000000) != 1)
			failed("a periodic timer stands still");
		if (read(fd, &n, sizeof(n)) == sizeof(n))
			ticks += n;
	}
	passed = now_ns(CLOCK_MONOTONIC) - begin;
	/* The kernel counts what it was late for, too. */
	if ((int64_t)ticks > passed / PERIOD_NS + 2)
		failed("a periodic timer ran ahead");
	if (passed - (int64_t)ticks * PERIOD_NS > LATE_NS)
		failed("a periodic timer lost time");
	close(fd);
}

const char *test_clocks(void)
{
	atomic_store(&latest_ns, 0);
	atomic_store(&latest_tsc, 0);
	return in_threads(threads * 2, clocks_thread);
}
