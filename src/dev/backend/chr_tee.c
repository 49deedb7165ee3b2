#include "dev/backend/chr_tee.h"

#include "base/bits.h"
#include "base/err.h"
#include "host/evloop.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define IN_BYTES      4096
#define HISTORY_BYTES 16384

/* Input of one of the two sides, until the device takes it. */
struct in_ring {
	uint8_t buf[IN_BYTES];
	unsigned head, n;
};

struct chr_tee {
	struct chr chr;
	struct chr *under;   /* owned */
	struct evloop *loop; /* borrowed */

	pthread_mutex_t in_lock; /* guards the rings; front's functions are called under it */
	struct in_ring from_under, from_socket;

	pthread_mutex_t out_lock; /* guards all below; taken inside in_lock, never around it */
	int fd;			  /* -1: nobody is attached */
	struct ev_watch watch;
	uint8_t history[HISTORY_BYTES];
	unsigned history_head, history_n;
};

static struct chr_tee *of(struct chr *b)
{
	return container_of(b, struct chr_tee, chr);
}

static void ring_put(struct in_ring *r, const uint8_t *buf, unsigned n)
{
	for (unsigned i = 0; i < n && r->n < IN_BYTES; i++)
		r->buf[(r->head + r->n++) % IN_BYTES] = buf[i];
}

/* Needs in_lock. */
static void deliver_ring(struct chr_tee *t, struct in_ring *r)
{
	while (r->n) {
		unsigned room = t->chr.front.room(t->chr.front.arg);
		unsigned n = MIN(MIN(r->n, IN_BYTES - r->head), room);

		if (!n)
			break;
		t->chr.front.rx(t->chr.front.arg, r->buf + r->head, n);
		r->head = (r->head + n) % IN_BYTES;
		r->n -= n;
	}
}

static void deliver(struct chr_tee *t)
{
	deliver_ring(t, &t->from_under);
	deliver_ring(t, &t->from_socket);
}

/* The front that the backend below sees. */

static unsigned under_room(void *arg)
{
	struct chr_tee *t = arg;

	pthread_mutex_lock(&t->in_lock);

	unsigned room = IN_BYTES - t->from_under.n;

	pthread_mutex_unlock(&t->in_lock);
	return room;
}

static void under_rx(void *arg, const uint8_t *buf, unsigned n)
{
	struct chr_tee *t = arg;

	pthread_mutex_lock(&t->in_lock);
	ring_put(&t->from_under, buf, n);
	deliver(t);
	pthread_mutex_unlock(&t->in_lock);
}

static void under_break(void *arg)
{
	struct chr_tee *t = arg;

	pthread_mutex_lock(&t->in_lock);
	if (t->chr.front.rx_break)
		t->chr.front.rx_break(t->chr.front.arg);
	pthread_mutex_unlock(&t->in_lock);
}

/* Who is attached. */

/* The loop's thread, or with the loop stopped. The place is free for another only when nothing of
 * the old one is watched any more.
 */
static void detach(struct chr_tee *t)
{
	pthread_mutex_lock(&t->out_lock);

	int fd = t->fd;

	pthread_mutex_unlock(&t->out_lock);
	if (fd < 0)
		return;
	evloop_del(t->loop, &t->watch);
	pthread_mutex_lock(&t->out_lock);
	t->fd = -1;
	pthread_mutex_unlock(&t->out_lock);
	close(fd);
}

static void on_input(void *arg, short revents)
{
	struct chr_tee *t = arg;
	uint8_t buf[IN_BYTES];
	ssize_t n;

	pthread_mutex_lock(&t->in_lock);

	unsigned room = IN_BYTES - t->from_socket.n;

	n = room ? recv(t->watch.fd, buf, room, MSG_DONTWAIT) : 1;
	if (room && n > 0) {
		ring_put(&t->from_socket, buf, (unsigned)n);
		deliver(t);
	}
	/* Rest until the device takes some. */
	if (t->from_socket.n == IN_BYTES)
		evloop_set(t->loop, &t->watch, 0);
	pthread_mutex_unlock(&t->in_lock);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		detach(t);
}

/* Needs out_lock. What does not fit the socket is lost: the machine does not wait. */
static void show(const struct chr_tee *t, const uint8_t *buf, size_t n)
{
	if (t->fd >= 0 && n && send(t->fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
}

bool chr_tee_is_taken(struct chr *tee)
{
	struct chr_tee *t = of(tee);

	pthread_mutex_lock(&t->out_lock);

	bool taken = t->fd >= 0;

	pthread_mutex_unlock(&t->out_lock);
	return taken;
}

int chr_tee_attach(struct chr *tee, int fd, struct err *err)
{
	struct chr_tee *t = of(tee);
	int ret = 0;

	pthread_mutex_lock(&t->out_lock);
	if (t->fd >= 0) {
		ret = err_say(err, EBUSY, "somebody else is at the console");
	} else {
		unsigned first = MIN(t->history_n, HISTORY_BYTES - t->history_head);

		t->watch = (struct ev_watch){ .fd = fd, .fn = on_input, .arg = t };
		t->fd = fd;
		show(t, t->history + t->history_head, first);
		show(t, t->history, t->history_n - first);
		ret = evloop_add(t->loop, &t->watch, POLLIN, err);
		if (ret < 0)
			t->fd = -1;
	}
	pthread_mutex_unlock(&t->out_lock);
	if (ret < 0)
		close(fd);
	return ret;
}

static void under_drained(void *arg)
{
	struct chr_tee *t = arg;

	if (t->chr.front.drained)
		t->chr.front.drained(t->chr.front.arg);
}

/* What the device calls. */

static unsigned tee_room(struct chr *b)
{
	return chr_room(of(b)->under);
}

static void tee_start(struct chr *b)
{
	struct chr_tee *t = of(b);

	chr_start(t->under, (struct chr_front){ .room = under_room,
						.rx = under_rx,
						.rx_break = under_break,
						.drained = under_drained,
						.arg = t });
}

static void remember(struct chr_tee *t, const uint8_t *buf, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		t->history[(t->history_head + t->history_n) % HISTORY_BYTES] = buf[i];
		if (t->history_n < HISTORY_BYTES)
			t->history_n++;
		else
			t->history_head = (t->history_head + 1) % HISTORY_BYTES;
	}
}

static void tee_write(struct chr *b, const uint8_t *buf, unsigned n)
{
	struct chr_tee *t = of(b);

	pthread_mutex_lock(&t->out_lock);
	remember(t, buf, n);
	show(t, buf, n);
	pthread_mutex_unlock(&t->out_lock);
	chr_write(t->under, buf, n);
}

static void tee_accept(struct chr *b)
{
	struct chr_tee *t = of(b);

	pthread_mutex_lock(&t->in_lock);

	bool was_full = t->from_socket.n == IN_BYTES;

	deliver(t);

	bool wake = was_full && t->from_socket.n < IN_BYTES;

	pthread_mutex_unlock(&t->in_lock);
	if (wake)
		evloop_set(t->loop, &t->watch, POLLIN);
	chr_accept(t->under);
}

static void tee_unblock(struct chr *b, bool on)
{
	chr_unblock(of(b)->under, on);
}

static void tee_free(struct chr *b)
{
	struct chr_tee *t = of(b);

	detach(t);
	chr_free(t->under);
	pthread_mutex_destroy(&t->in_lock);
	pthread_mutex_destroy(&t->out_lock);
	free(t);
}

static const struct chr_ops tee_ops = {
	.start = tee_start,
	.write = tee_write,
	.room = tee_room,
	.accept = tee_accept,
	.unblock = tee_unblock,
	.free = tee_free,
};

int chr_tee_new(struct chr **out, struct evloop *loop, struct chr *under, struct err *err)
{
	struct chr_tee *t = calloc(1, sizeof(*t));

	if (!t) {
		chr_free(under);
		return err_set(err, ENOMEM, "console");
	}
	t->chr.ops = &tee_ops;
	t->under = under;
	t->loop = loop;
	t->fd = -1;
	pthread_mutex_init(&t->in_lock, NULL);
	pthread_mutex_init(&t->out_lock, NULL);
	*out = &t->chr;
	return 0;
}
