/* Fibers: functions with stacks of their own that give up the thread where they wait, so that work
 * which waits often reads as if it did not. A pool belongs to one thread at a time; nothing here
 * locks or blocks.
 */
#ifndef HOST_FIBER_H
#define HOST_FIBER_H

#include <stdbool.h>

struct err;
struct fiber;
struct fiber_pool;

/* n fibers, each with 256 KiB of stack below which a guard page lies. Errors: the host's. */
int fiber_pool_new(struct fiber_pool **out, unsigned n, struct err *err);
/* None may be busy. NULL is fine. */
void fiber_pool_free(struct fiber_pool *p);

/* Run fn on a free fiber until it pauses or returns. False, and fn was not called, if all are busy.
 * Not from a fiber. */
bool fiber_start(struct fiber_pool *p, void (*fn)(void *arg), void *arg);
/* Fibers that were started and have not returned. */
unsigned fiber_busy(const struct fiber_pool *p);
/* Run what was woken until nothing is left to run. Not from a fiber. */
void fiber_run(struct fiber_pool *p);

/* The fiber that runs, from within it. */
struct fiber *fiber_self(struct fiber_pool *p);
/* Give up the thread until fiber_wake; from a fiber. A wake-up that comes first is lost. */
void fiber_pause(struct fiber_pool *p);
/* Let f, which is paused, go on at the next fiber_run. From the pool's thread, in or out of a
 * fiber.
 */
void fiber_wake(struct fiber *f);

/* Fibers that wait for the same thing, first come first. All zero: empty. */
struct fiber_queue {
	struct fiber *head, *tail;
};
void fiber_queue_wait(struct fiber_pool *p, struct fiber_queue *q);
bool fiber_queue_wake_one(struct fiber_queue *q);
void fiber_queue_wake_all(struct fiber_queue *q);

/* All zero: free. Handed over in the order of asking. */
struct fiber_mutex {
	bool held;
	struct fiber_queue waiters;
};
void fiber_lock(struct fiber_pool *p, struct fiber_mutex *m);
void fiber_unlock(struct fiber_mutex *m);

#endif
