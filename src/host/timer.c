/* The queue is a binary heap by deadline. The thread sleeps on a condition variable until the
 * earliest deadline; arming wakes it only if the earliest becomes earlier, so a guest that pushes
 * its deadline ahead costs no wake-up.
 */
#include "host/timer.h"

#include "base/err.h"
#include "host/clock.h"
#include "host/sandbox_threads.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

struct timer_queue {
	const struct vclock *clock; /* borrowed */
	bool threaded;
	pthread_t thread; /* if threaded */
	void (*earlier)(void *arg);
	void *earlier_arg;
	pthread_mutex_t lock;	/* guards all below, and the queue's fields of each timer */
	pthread_cond_t changed; /* the earliest deadline, the clock or stop changed */
	pthread_cond_t fn_done; /* running became NULL */
	struct timer *running;	/* whose fn is being called */
	struct timer **heap;	/* owned; the timers are their owners' */
	unsigned n, room;
	bool stop;
};

static void place(struct timer_queue *q, unsigned i, struct timer *t)
{
	q->heap[i] = t;
	t->slot = i + 1;
}

static void sift_up(struct timer_queue *q, unsigned i, struct timer *t)
{
	while (i > 0) {
		unsigned parent = (i - 1) / 2;

		if (q->heap[parent]->deadline_ns <= t->deadline_ns)
			break;
		place(q, i, q->heap[parent]);
		i = parent;
	}
	place(q, i, t);
}

static void sift_down(struct timer_queue *q, unsigned i, struct timer *t)
{
	for (;;) {
		unsigned child = 2 * i + 1;

		if (child >= q->n)
			break;
		if (child + 1 < q->n &&
		    q->heap[child + 1]->deadline_ns < q->heap[child]->deadline_ns)
			child++;
		if (t->deadline_ns <= q->heap[child]->deadline_ns)
			break;
		place(q, i, q->heap[child]);
		i = child;
	}
	place(q, i, t);
}

static void heap_remove(struct timer_queue *q, struct timer *t)
{
	if (!t->slot)
		return;

	unsigned i = t->slot - 1;
	struct timer *last = q->heap[--q->n];

	t->slot = 0;
	if (last == t)
		return;
	sift_down(q, i, last);
	sift_up(q, last->slot - 1, last);
}

static bool heap_insert(struct timer_queue *q, struct timer *t)
{
	if (q->n == q->room) {
		unsigned room = q->room ? 2 * q->room : 64;
		struct timer **heap = realloc(q->heap, room * sizeof(*heap));

		if (!heap)
			return false;
		q->heap = heap;
		q->room = room;
	}
	q->n++;
	sift_up(q, q->n - 1, t);
	return true;
}

/* Sleep until the earliest deadline or a change. Needs the lock. */
static void wait_for_change(struct timer_queue *q, int64_t now)
{
	bool paused = atomic_load(&q->clock->paused_ns) >= 0;

	if (!q->n || paused) {
		pthread_cond_wait(&q->changed, &q->lock);
		return;
	}

	/* An hour's limit keeps the sum far from overflow. */
	int64_t wait = q->heap[0]->deadline_ns - now;
	struct timespec until;

	if (wait > 3600 * 1000000000ll)
		wait = 3600 * 1000000000ll;
	clock_gettime(CLOCK_MONOTONIC, &until);
	wait += until.tv_nsec;
	until.tv_sec += wait / 1000000000;
	until.tv_nsec = wait % 1000000000;
	pthread_cond_timedwait(&q->changed, &q->lock, &until);
}

/* Call the fn of the earliest timer. Needs the lock, and gives it up meanwhile. */
static void run_first(struct timer_queue *q)
{
	struct timer *t = q->heap[0];

	heap_remove(q, t);
	t->deadline_ns = INT64_MAX;
	q->running = t;
	pthread_mutex_unlock(&q->lock);
	t->fn(t->arg);
	pthread_mutex_lock(&q->lock);
	q->running = NULL;
	pthread_cond_broadcast(&q->fn_done);
}

static void *timer_thread(void *arg)
{
	static const enum sandbox_kind kind = SANDBOX_TIMER;
	struct timer_queue *q = arg;

	/* The default slack of 50 us would be added to every guest timer. */
	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	sandbox_thread_is(&kind);
	pthread_mutex_lock(&q->lock);
	while (!q->stop) {
		int64_t now = vclock_now(q->clock);

		if (!q->n || q->heap[0]->deadline_ns > now)
			wait_for_change(q, now);
		else
			run_first(q);
	}
	pthread_mutex_unlock(&q->lock);
	return NULL;
}

int timer_queue_new(struct timer_queue **out, const struct vclock *clock, struct err *err)
{
	struct timer_queue *q = calloc(1, sizeof(*q));
	pthread_condattr_t attr;

	if (!q)
		return err_set(err, ENOMEM, "timers");
	q->clock = clock;
	pthread_mutex_init(&q->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&q->changed, &attr);
	pthread_cond_init(&q->fn_done, NULL);
	pthread_condattr_destroy(&attr);

	q->threaded = !clock->count;

	int ret = q->threaded ? pthread_create(&q->thread, NULL, timer_thread, q) : 0;

	if (ret) {
		free(q);
		return err_set(err, ret, "start the timer thread");
	}
	if (q->threaded)
		pthread_setname_np(q->thread, "timer");
	*out = q;
	return 0;
}

void timer_queue_free(struct timer_queue *q)
{
	if (!q)
		return;
	pthread_mutex_lock(&q->lock);
	q->stop = true;
	pthread_cond_signal(&q->changed);
	pthread_mutex_unlock(&q->lock);
	if (q->threaded)
		pthread_join(q->thread, NULL);
	for (unsigned i = 0; i < q->n; i++)
		q->heap[i]->slot = 0;
	pthread_cond_destroy(&q->changed);
	pthread_cond_destroy(&q->fn_done);
	pthread_mutex_destroy(&q->lock);
	free(q->heap);
	free(q);
}

void timer_arm(struct timer_queue *q, struct timer *t, int64_t deadline_ns)
{
	pthread_mutex_lock(&q->lock);

	int64_t earliest = q->n ? q->heap[0]->deadline_ns : INT64_MAX;

	heap_remove(q, t);
	t->deadline_ns = deadline_ns;

	bool sooner = deadline_ns != INT64_MAX && heap_insert(q, t) && deadline_ns < earliest;

	if (sooner)
		pthread_cond_signal(&q->changed);
	pthread_mutex_unlock(&q->lock);
	if (sooner && q->earlier)
		q->earlier(q->earlier_arg);
}

int64_t timer_queue_next(const struct timer_queue *q)
{
	return q->n ? q->heap[0]->deadline_ns : INT64_MAX;
}

void timer_queue_run(struct timer_queue *q)
{
	int64_t now = vclock_now(q->clock);

	pthread_mutex_lock(&q->lock);
	while (q->n && q->heap[0]->deadline_ns <= now)
		run_first(q);
	pthread_mutex_unlock(&q->lock);
}

void timer_queue_on_earlier(struct timer_queue *q, void (*fn)(void *arg), void *arg)
{
	q->earlier = fn;
	q->earlier_arg = arg;
}

void timer_cancel_sync(struct timer_queue *q, struct timer *t)
{
	pthread_mutex_lock(&q->lock);
	heap_remove(q, t);
	while (q->running == t)
		pthread_cond_wait(&q->fn_done, &q->lock);
	heap_remove(q, t); /* fn may have armed it again */
	t->deadline_ns = INT64_MAX;
	pthread_mutex_unlock(&q->lock);
}

void timer_queue_kick(struct timer_queue *q)
{
	pthread_mutex_lock(&q->lock);
	pthread_cond_signal(&q->changed);
	pthread_mutex_unlock(&q->lock);
}
