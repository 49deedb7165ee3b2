#include "net/link.h"

#include "net/finish.h"

#include <stddef.h>

static void tell_peer(const struct link_end *e)
{
	const struct link_end *peer = e->peer;

	if (peer && peer->ops->changed)
		peer->ops->changed(peer->end, e->up, &e->caps);
}

void link_join(struct link_end *a, struct link_end *b)
{
	a->peer = b;
	b->peer = a;
	tell_peer(a);
	tell_peer(b);
}

void link_part(struct link_end *a)
{
	struct link_end *b = a->peer;

	if (!b)
		return;
	a->peer = b->peer = NULL;
	if (a->ops->changed)
		a->ops->changed(a->end, false, &b->caps);
	if (b->ops->changed)
		b->ops->changed(b->end, false, &a->caps);
}

static bool pass(void *arg, const struct frame_meta *meta, const struct iovec *iov, unsigned n_iov,
		 uint32_t len_bytes)
{
	const struct link_end *peer = arg;

	return peer->ops->send(peer->end, meta, iov, n_iov, len_bytes);
}

bool link_send(struct link_end *e, const struct frame_meta *meta, const struct iovec *iov,
	       unsigned n_iov, uint32_t len_bytes)
{
	struct link_end *peer = e->peer;

	if (!peer || !e->up || !peer->up)
		return true;
	if (!frame_needs_finish(meta, &peer->caps))
		return pass(peer, meta, iov, n_iov, len_bytes);
	return frame_finish(meta, iov, n_iov, len_bytes, &peer->caps, pass, peer) != FINISH_REFUSED;
}

void link_wake_peer(struct link_end *e)
{
	if (e->peer && e->peer->ops->wake)
		e->peer->ops->wake(e->peer->end);
}

void link_set_up(struct link_end *e, bool up)
{
	if (atomic_exchange(&e->up, up) != up)
		tell_peer(e);
}

void link_set_caps(struct link_end *e, const struct link_caps *caps)
{
	e->caps = *caps;
	tell_peer(e);
}
