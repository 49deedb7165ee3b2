/* A tap interface at the end of a cable. The kernel's header before each frame is struct
 * frame_meta, so open checksums and long frames pass unfinished both ways. Frames from the kernel
 * may have come from other machines on a bridge: hostile.
 */
#include "base/bits.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "dev/backend/net.h"
#include "host/evloop.h"
#include "host/tap.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#define BUDGET	64  /* frames between two looks at the loop's other work */
#define MAX_IOV 300 /* more than a virtqueue's chain and link_send's header make */

struct net_tap {
	struct net net;
	struct evloop *loop; /* borrowed */
	int fd;
	struct ev_watch watch;
	bool watched;
	_Atomic bool rx_waits; /* the peer refused the frame in buf */
	_Atomic bool tx_waits; /* the kernel refused a frame */
	/* The loop's thread. */
	struct frame_meta meta;
	uint32_t len; /* of the frame in buf; 0: none */
	uint8_t buf[NET_MAX_FRAME];
};

static struct net_tap *of(struct net *n)
{
	return container_of(n, struct net_tap, net);
}

/* Watch for what is waited for. POLLOUT is there most of the time: it is also how another thread
 * has the loop call on_event at once.
 */
static void watch(struct net_tap *t, bool now)
{
	short events = atomic_load(&t->rx_waits) ? 0 : POLLIN;

	if (now || atomic_load(&t->tx_waits))
		events |= POLLOUT;
	evloop_set(t->loop, &t->watch, events);
}

static bool send_frame(void *end, const struct frame_meta *meta, const struct iovec *iov,
		       unsigned n_iov, uint32_t len_bytes)
{
	struct net_tap *t = end;
	struct iovec out[MAX_IOV] = { { (void *)meta, sizeof(*meta) } };

	if (n_iov >= MAX_IOV)
		return true;
	memcpy(out + 1, iov, n_iov * sizeof(*iov));
	if (writev(t->fd, out, (int)n_iov + 1) >= 0 || errno != EAGAIN)
		return true; /* an interface that is down, or a bad frame: lost as on any wire */
	atomic_store(&t->tx_waits, true);
	watch(t, true);
	return false;
}

static bool deliver(struct net_tap *t)
{
	struct iovec iov = { t->buf, t->len };

	return link_send(&t->net.end, &t->meta, &iov, 1, t->len);
}

/* Hand on the frame in buf; false: the peer has no room. */
static bool hand_on(struct net_tap *t)
{
	if (deliver(t))
		return true;
	atomic_store(&t->rx_waits, true);
	/* The peer may have made room in between, before it saw rx_waits. */
	if (!deliver(t))
		return false;
	atomic_store(&t->rx_waits, false);
	return true;
}

static void receive(struct net_tap *t)
{
	struct iovec in[2] = { { &t->meta, sizeof(t->meta) }, { t->buf, sizeof(t->buf) } };

	for (unsigned n = 0; n < BUDGET; n++) {
		if (t->len && !hand_on(t))
			return;
		t->len = 0;

		ssize_t got = readv(t->fd, in, 2);

		if (got <= (ssize_t)sizeof(t->meta))
			return;
		t->len = (uint32_t)(got - (ssize_t)sizeof(t->meta));
	}
}

static void on_event(void *arg, short revents)
{
	struct net_tap *t = arg;

	if (revents & (POLLERR | POLLHUP) && !(revents & POLLIN)) {
		evloop_set(t->loop, &t->watch, 0);
		log_say(LOG_WARN,
			"the tap interface is gone: the link is down, the machine goes on");
		link_set_up(&t->net.end, false);
		return;
	}
	if (revents & POLLOUT && atomic_exchange(&t->tx_waits, false))
		link_wake_peer(&t->net.end);
	if (!atomic_load(&t->rx_waits))
		receive(t);
	/* A frame that was read when the budget ran out goes before the next ones. */
	watch(t, t->len && !atomic_load(&t->rx_waits));
}

static void peer_has_room(void *end)
{
	struct net_tap *t = end;

	if (atomic_exchange(&t->rx_waits, false))
		watch(t, true);
}

static void peer_changed(void *end, bool up, const struct link_caps *peer)
{
	struct net_tap *t = end;
	struct tap_offload o = { peer->csum, peer->tso4, peer->tso6, peer->uso };

	tap_set_offload(t->fd, &o);
}

static const struct link_ops tap_link_ops = {
	.send = send_frame,
	.wake = peer_has_room,
	.changed = peer_changed,
};

static void tap_start(struct net *n)
{
	struct net_tap *t = of(n);

	t->watched = true;
	if (evloop_add(t->loop, &t->watch, POLLIN, NULL) < 0)
		link_set_up(&n->end, false);
}

static void tap_free(struct net *n)
{
	struct net_tap *t = of(n);

	if (t->watched)
		evloop_del(t->loop, &t->watch);
	own_close(&t->fd);
	free(t);
}

static const struct net_ops tap_ops = { .start = tap_start, .free = tap_free };

int net_tap_new(struct net **out, struct evloop *loop, const char *name, struct err *err)
{
	struct net_tap *t = calloc(1, sizeof(*t));
	bool uso;

	if (!t)
		return err_set(err, ENOMEM, "tap interface %s", name);
	t->fd = tap_open(name, &uso, err);
	if (t->fd < 0) {
		int ret = t->fd;

		free(t);
		return ret;
	}
	t->loop = loop;
	t->watch = (struct ev_watch){ .fd = t->fd, .fn = on_event, .arg = t };
	t->net = (struct net){
		.ops = &tap_ops,
		.end = {
			.ops = &tap_link_ops,
			.end = t,
			.up = true,
			.caps = { .csum = true, .tso4 = true, .tso6 = true, .uso = uso,
				  .mtu = tap_mtu(name) },
		},
	};
	*out = &t->net;
	return 0;
}
