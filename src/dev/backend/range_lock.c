#include "dev/backend/range_lock.h"

#include <stddef.h>

static bool conflict(const struct range_hold *a, const struct range_hold *b)
{
	return (a->alone || b->alone) && a->off < b->end && b->off < a->end;
}

/* Whether one that came before h is in its way. */
static bool must_wait(const struct range_hold *h)
{
	for (const struct range_hold *o = h->prev; o; o = o->prev)
		if (conflict(o, h))
			return true;
	return false;
}

void range_acquire(struct fiber_pool *p, struct range_lock *l, struct range_hold *h, uint64_t off,
		   uint64_t len, bool alone)
{
	*h = (struct range_hold){ .off = off, .end = off + len, .alone = alone, .prev = l->last };
	if (l->last)
		l->last->next = h;
	else
		l->first = h;
	l->last = h;
	if (!must_wait(h))
		return;
	h->waiting = fiber_self(p);
	fiber_pause(p);
}

void range_release(struct range_lock *l, struct range_hold *h)
{
	*(h->prev ? &h->prev->next : &l->first) = h->next;
	*(h->next ? &h->next->prev : &l->last) = h->prev;
	for (struct range_hold *o = h->next; o; o = o->next) {
		if (!o->waiting || !conflict(h, o) || must_wait(o))
			continue;
		fiber_wake(o->waiting);
		o->waiting = NULL;
	}
}
