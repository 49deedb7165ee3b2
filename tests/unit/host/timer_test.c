#include "host/timer.h"

#include "check.h"
#include "host/clock.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#define MS 1000000ll

static void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

struct probe {
	struct timer t;
	struct vclock *k;
	struct timer_queue *q;
	_Atomic int fired;
	_Atomic int64_t at;
	int64_t again_every; /* ns; 0: not */
};

static void fire(void *arg)
{
	struct probe *p = arg;

	p->at = vclock_now(p->k);
	p->fired++;
	if (p->again_every)
		timer_arm(p->q, &p->t, p->at + p->again_every);
}

/* A busy host may be late, but not by two seconds. */
static void wait_fired(const _Atomic int *fired, int n)
{
	for (unsigned i = 0; i < 2000 && *fired < n; i++)
		sleep_ms(1);
}

static void probe_init(struct probe *p, struct vclock *k, struct timer_queue *q)
{
	*p = (struct probe){ .t = { .fn = fire, .arg = p, .deadline_ns = INT64_MAX },
			     .k = k,
			     .q = q };
}

TEST(a_timer_fires_once_and_not_early)
{
	struct timer_queue *q;
	struct probe p;
	struct vclock k;

	vclock_init(&k);
	timer_queue_new(&q, &k, NULL);
	probe_init(&p, &k, q);
	int64_t due = vclock_now(&k) + 20 * MS;
	timer_arm(q, &p.t, due);
	wait_fired(&p.fired, 1);
	sleep_ms(5);
	CHECK_EQ(p.fired, 1);
	CHECK(p.at >= due);
	timer_queue_free(q);
}

TEST(a_time_that_has_passed_fires_at_once)
{
	struct timer_queue *q;
	struct probe p;
	struct vclock k;

	vclock_init(&k);
	timer_queue_new(&q, &k, NULL);
	probe_init(&p, &k, q);
	timer_arm(q, &p.t, -5);
	wait_fired(&p.fired, 1);
	CHECK_EQ(p.fired, 1);
	timer_queue_free(q);
}

TEST(disarmed_timers_do_not_fire)
{
	struct timer_queue *q;
	struct probe p;
	struct vclock k;

	vclock_init(&k);
	timer_queue_new(&q, &k, NULL);
	probe_init(&p, &k, q);
	timer_arm(q, &p.t, vclock_now(&k) + 1000 * MS);
	timer_arm(q, &p.t, INT64_MAX);
	sleep_ms(40);
	CHECK_EQ(p.fired, 0);
	timer_queue_free(q);
}

TEST(a_timer_may_arm_itself_again)
{
	struct timer_queue *q;
	struct probe p;
	struct vclock k;

	vclock_init(&k);
	timer_queue_new(&q, &k, NULL);
	probe_init(&p, &k, q);
	p.again_every = 2 * MS;
	timer_arm(q, &p.t, 0);
	wait_fired(&p.fired, 5);
	timer_cancel_sync(q, &p.t);
	int n = p.fired;
	CHECK(n >= 5);
	sleep_ms(10);
	CHECK_EQ(p.fired, n);
	timer_queue_free(q);
}

TEST(paused_time_holds_timers)
{
	struct timer_queue *q;
	struct probe p;
	struct vclock k;

	vclock_init(&k);
	timer_queue_new(&q, &k, NULL);
	probe_init(&p, &k, q);
	vclock_pause(&k);
	timer_arm(q, &p.t, vclock_now(&k) + 10 * MS);
	sleep_ms(40);
	CHECK_EQ(p.fired, 0);
	vclock_resume(&k);
	timer_queue_kick(q);
	wait_fired(&p.fired, 1);
	CHECK_EQ(p.fired, 1);
	timer_queue_free(q);
}

TEST(counted_time_runs_timers_where_it_is_told_to)
{
	struct timer_queue *q;
	uint64_t count = 500;
	struct probe p;
	struct vclock k;

	vclock_init(&k);
	vclock_count(&k, &count);
	CHECK_EQ(vclock_now(&k), 0);
	CHECK_EQ(timer_queue_new(&q, &k, NULL), 0);
	probe_init(&p, &k, q);
	timer_arm(q, &p.t, 1000);
	CHECK_EQ(timer_queue_next(q), 1000);
	count += 999;
	timer_queue_run(q);
	CHECK_EQ(p.fired, 0);
	count++;
	timer_queue_run(q);
	CHECK_EQ(p.fired, 1);
	CHECK_EQ(p.at, 1000);
	CHECK_EQ(timer_queue_next(q), INT64_MAX);
	timer_queue_free(q);
}

struct order {
	struct timer t;
	int64_t deadline;
	int64_t *last;
	_Atomic int *wrong, *fired;
};

static void fire_in_order(void *arg)
{
	struct order *o = arg;

	if (o->deadline < *o->last)
		(*o->wrong)++;
	*o->last = o->deadline;
	(*o->fired)++;
}

TEST(many_timers_fire_in_the_order_of_their_deadlines)
{
	enum { N = 500 };
	struct order *o = calloc(N, sizeof(*o));
	_Atomic int wrong = 0, fired = 0;
	struct timer_queue *q;
	int64_t last = 0;
	struct vclock k;

	srand(7);
	vclock_init(&k);
	timer_queue_new(&q, &k, NULL);
	vclock_pause(&k);
	for (unsigned i = 0; i < N; i++) {
		o[i] = (struct order){ .last = &last, .wrong = &wrong, .fired = &fired };
		o[i].t = (struct timer){ fire_in_order, &o[i], INT64_MAX, 0 };
	}
	/* Armed several times each, some taken back: the last word counts. */
	for (unsigned i = 0; i < 4 * N; i++) {
		struct order *x = &o[i % N];

		x->deadline = vclock_now(&k) + rand() % 20 * MS + rand() % 1000;
		timer_arm(q, &x->t, x->deadline);
	}
	for (unsigned i = 0; i < N; i += 5)
		timer_arm(q, &o[i].t, INT64_MAX);
	vclock_resume(&k);
	timer_queue_kick(q);
	wait_fired(&fired, N - N / 5);
	sleep_ms(5);
	CHECK_EQ(fired, N - N / 5);
	CHECK_EQ(wrong, 0);
	timer_queue_free(q);
	free(o);
}

TESTS(T(a_timer_fires_once_and_not_early), T(a_time_that_has_passed_fires_at_once),
      T(disarmed_timers_do_not_fire), T(a_timer_may_arm_itself_again), T(paused_time_holds_timers),
      T(counted_time_runs_timers_where_it_is_told_to),
      T(many_timers_fire_in_the_order_of_their_deadlines))
