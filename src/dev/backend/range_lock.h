/* Locks on ranges of bytes for the fibers of one pool: many may share a range, or one has it alone.
 */
#ifndef DEV_BACKEND_RANGE_LOCK_H
#define DEV_BACKEND_RANGE_LOCK_H

#include "host/fiber.h"

#include <stdbool.h>
#include <stdint.h>

/* All zero: nothing is locked. First come, first served, so that nobody starves. */
struct range_lock {
	struct range_hold *first, *last;
};

/* On its fiber's stack while it holds or waits. */
struct range_hold {
	uint64_t off, end; /* bytes, end not included */
	bool alone;
	struct fiber *waiting; /* NULL: it has what it asked for */
	struct range_hold *prev, *next;
};

/* Wait until [off, off+len) is free of what conflicts. Fiber. */
void range_acquire(struct fiber_pool *p, struct range_lock *l, struct range_hold *h, uint64_t off,
		   uint64_t len, bool alone);
void range_release(struct range_lock *l, struct range_hold *h);

#endif
