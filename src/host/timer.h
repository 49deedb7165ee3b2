/* One-shot timers against guest time, all on one thread: the queue's, or with a clock that counts
 * the one that counts. */
#ifndef HOST_TIMER_H
#define HOST_TIMER_H

#include <stdint.h>

struct err;
struct vclock;
struct timer_queue;

/* Embedded in its owner. fn runs on the queue's thread with no queue lock held. It may arm its own
 * timer again. */
struct timer {
	void (*fn)(void *arg);
	void *arg;
	int64_t deadline_ns; /* guest time; INT64_MAX when not armed. Guarded by the queue. */
	unsigned slot;	     /* heap position + 1, or 0. Guarded by the queue. */
};

/* Start the thread, unless clock counts. clock is borrowed. Errors: the host's. */
int timer_queue_new(struct timer_queue **out, const struct vclock *clock, struct err *err);
/* Stop the thread and free the queue; timers left armed never fire. */
void timer_queue_free(struct timer_queue *q);

/* (Re-)arm t for guest time deadline_ns; a time that has passed fires at once. Any thread, any
 * number of times; INT64_MAX disarms. Does not wait for a fn that is already running.
 */
void timer_arm(struct timer_queue *q, struct timer *t, int64_t deadline_ns);
/* Disarm t and wait until a running fn has returned; not from a fn. */
void timer_cancel_sync(struct timer_queue *q, struct timer *t);

/* With a clock that counts: the earliest deadline, or INT64_MAX; */
int64_t timer_queue_next(const struct timer_queue *q);
/* call fn of all timers that are due, in their order; */
void timer_queue_run(struct timer_queue *q);
/* and who is called when a timer is armed for earlier than all others. arg is borrowed. */
void timer_queue_on_earlier(struct timer_queue *q, void (*fn)(void *arg), void *arg);

/* The guest clock was paused or resumed: look at the deadlines again. */
void timer_queue_kick(struct timer_queue *q);

#endif
