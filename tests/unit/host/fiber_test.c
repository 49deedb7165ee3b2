#include "host/fiber.h"

#include "check.h"

#include <string.h>

struct rig {
	struct fiber_pool *pool;
	struct fiber_mutex lock;
	struct fiber_queue queue;
	struct fiber *paused;
	char log[32];
	unsigned n;
};

struct worker {
	struct rig *r;
	char name;
};

static void say(struct rig *r, char c)
{
	r->log[r->n++] = c;
}

static void pausing(void *arg)
{
	struct rig *r = arg;

	say(r, '1');
	r->paused = fiber_self(r->pool);
	fiber_pause(r->pool);
	say(r, '2');
}

TEST(a_fiber_goes_on_where_it_paused)
{
	struct rig r = { 0 };

	CHECK_EQ(fiber_pool_new(&r.pool, 2, NULL), 0);
	CHECK(fiber_start(r.pool, pausing, &r));
	CHECK_EQ(fiber_busy(r.pool), 1);
	say(&r, 'm');
	fiber_wake(r.paused);
	CHECK_STR(r.log, "1m");
	fiber_run(r.pool);
	CHECK_STR(r.log, "1m2");
	CHECK_EQ(fiber_busy(r.pool), 0);
	fiber_pool_free(r.pool);
}

TEST(a_pool_with_all_fibers_busy_says_so)
{
	struct rig r = { 0 };

	CHECK_EQ(fiber_pool_new(&r.pool, 1, NULL), 0);
	CHECK(fiber_start(r.pool, pausing, &r));
	CHECK(!fiber_start(r.pool, pausing, &r));
	fiber_wake(r.paused);
	fiber_run(r.pool);
	CHECK(fiber_start(r.pool, pausing, &r));
	fiber_wake(r.paused);
	fiber_run(r.pool);
	CHECK_STR(r.log, "1212");
	fiber_pool_free(r.pool);
}

static void locking(void *arg)
{
	struct worker *w = arg;
	struct rig *r = w->r;

	fiber_lock(r->pool, &r->lock);
	say(r, w->name);
	fiber_queue_wait(r->pool, &r->queue);
	say(r, w->name);
	fiber_unlock(&r->lock);
}

TEST(a_mutex_is_handed_over_in_order)
{
	struct rig r = { 0 };
	struct worker w[3] = { { &r, 'a' }, { &r, 'b' }, { &r, 'c' } };

	CHECK_EQ(fiber_pool_new(&r.pool, 3, NULL), 0);
	for (unsigned i = 0; i < 3; i++)
		CHECK(fiber_start(r.pool, locking, &w[i]));
	CHECK_STR(r.log, "a");
	for (unsigned i = 0; i < 3; i++) {
		CHECK(fiber_queue_wake_one(&r.queue));
		fiber_run(r.pool);
	}
	CHECK_STR(r.log, "aabbcc");
	CHECK(!r.lock.held);
	CHECK(!fiber_queue_wake_one(&r.queue));
	fiber_pool_free(r.pool);
}

static void deep(void *arg)
{
	volatile char much[100000];

	memset((char *)much, 1, sizeof(much));
	pausing(arg);
	((struct rig *)arg)->n += much[77777] != 1;
}

TEST(each_fiber_has_a_stack_of_its_own)
{
	struct rig r[3] = { 0 };
	struct fiber_pool *pool;

	CHECK_EQ(fiber_pool_new(&pool, 3, NULL), 0);
	for (unsigned i = 0; i < 3; i++) {
		r[i].pool = pool;
		CHECK(fiber_start(pool, deep, &r[i]));
	}
	for (unsigned i = 0; i < 3; i++)
		fiber_wake(r[i].paused);
	fiber_run(pool);
	for (unsigned i = 0; i < 3; i++)
		CHECK_STR(r[i].log, "12");
	CHECK_EQ(r[0].n + r[1].n + r[2].n, 6);
	fiber_pool_free(pool);
}

TESTS(T(a_fiber_goes_on_where_it_paused), T(a_pool_with_all_fibers_busy_says_so),
      T(a_mutex_is_handed_over_in_order), T(each_fiber_has_a_stack_of_its_own))
