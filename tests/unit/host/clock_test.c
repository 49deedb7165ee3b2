#include "host/clock.h"

#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

static void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

TEST(time_starts_at_zero_and_runs)
{
	struct vclock k;

	vclock_init(&k);
	CHECK(vclock_now(&k) < 100000000);
	sleep_ms(10);
	CHECK(vclock_now(&k) >= 10000000);
}

TEST(a_pause_takes_no_guest_time)
{
	struct vclock k;

	vclock_init(&k);
	vclock_pause(&k);
	int64_t then = vclock_now(&k);
	sleep_ms(20);
	CHECK(vclock_now(&k) == then);
	vclock_pause(&k);
	CHECK(vclock_now(&k) == then);
	vclock_resume(&k);
	CHECK(vclock_now(&k) - then < 15000000);
	vclock_resume(&k);
}

struct watcher {
	struct vclock k;
	_Atomic bool stop, went_back;
};

static void *watch(void *arg)
{
	struct watcher *w = arg;
	int64_t last = 0;

	while (!w->stop) {
		int64_t now = vclock_now(&w->k);

		if (now < last)
			w->went_back = true;
		last = now;
	}
	return NULL;
}

TEST(time_never_goes_back_over_pauses)
{
	struct watcher w = { 0 };
	pthread_t t;

	vclock_init(&w.k);
	pthread_create(&t, NULL, watch, &w);
	for (unsigned i = 0; i < 20000; i++) {
		vclock_pause(&w.k);
		vclock_resume(&w.k);
	}
	w.stop = true;
	pthread_join(t, NULL);
	CHECK(!w.went_back);
}

TEST(the_tsc_has_the_frequency_that_is_told)
{
	uint64_t khz = host_tsc_khz(), start = __builtin_ia32_rdtsc();
	struct timespec a, b;

	clock_gettime(CLOCK_MONOTONIC, &a);
	sleep_ms(50);
	clock_gettime(CLOCK_MONOTONIC, &b);

	double ns = (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
	double measured = (double)(__builtin_ia32_rdtsc() - start) / ns * 1e6;

	CHECK(measured > (double)khz * 0.98 && measured < (double)khz * 1.02);
}

TESTS(T(time_starts_at_zero_and_runs), T(a_pause_takes_no_guest_time),
      T(time_never_goes_back_over_pauses), T(the_tsc_has_the_frequency_that_is_told))
