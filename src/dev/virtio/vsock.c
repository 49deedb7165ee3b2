/* The packets between driver and connections. The guest is told something only when it has a buffer
 * for it: until then connections wait in a queue, and at most VSOCK_MAX_RESETS answers to packets
 * of no connection; when those are full, the guest's packets wait.
 */
#include "dev/virtio/vsock_internal.h"

#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define CLASS_OTHER_COMMUNICATION 0x078000
#define QUEUE_SIZE		  128
#define PACKETS_AT_ONCE		  64

#define VIRTIO_VSOCK_F_STREAM 0
#define TYPE_STREAM	      1

enum { RX, TX, EVENT, N_QUEUES };

struct header {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));
_Static_assert(sizeof(struct header) == 44, "virtio 1.2, 5.10.6");

static void put_header(struct vsock *v, struct header *h, enum vsock_op op, uint32_t host_port,
		       uint32_t guest_port)
{
	*h = (struct header){
		.src_cid = VSOCK_HOST_CID,
		.dst_cid = v->cid,
		.src_port = host_port,
		.dst_port = guest_port,
		.type = TYPE_STREAM,
		.op = (uint16_t)op,
		.buf_alloc = VSOCK_BUF_BYTES,
	};
}

/* What c has to say first. Data goes before the news that there is no more of it. */
static enum vsock_op next_op(const struct vsock_conn *c, unsigned *news)
{
	static const struct {
		unsigned news;
		enum vsock_op op;
	} order[] = {
		{ NEWS_RST, VSOCK_OP_RST },
		{ NEWS_REQUEST, VSOCK_OP_REQUEST },
		{ NEWS_RESPONSE, VSOCK_OP_RESPONSE },
		{ NEWS_SHUTDOWN, VSOCK_OP_SHUTDOWN },
		{ NEWS_CREDIT, VSOCK_OP_CREDIT_UPDATE },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
		*news = order[i].news;
		if (c->news & *news)
			return order[i].op;
	}
	*news = 0;
	return VSOCK_OP_RW;
}

/* Put c's next packet into the chain; its bytes, 0 if there is none after all. */
static uint32_t make_packet(struct vsock_conn *c, const struct virtq_chain *chain)
{
	struct header h;
	unsigned news;
	enum vsock_op op = next_op(c, &news);
	uint32_t len = 0;

	if (op == VSOCK_OP_RW) {
		len = vsock_conn_fill(c, chain, sizeof(h));
		if (!len)
			return 0;
	}
	put_header(c->v, &h, op, c->host_port, c->guest_port);
	h.len = len;
	h.fwd_cnt = c->forwarded;
	if (op == VSOCK_OP_SHUTDOWN)
		h.flags = c->hung_up ? VSOCK_SHUTDOWN_BOTH : VSOCK_SHUTDOWN_SEND;
	virtq_write(chain, 0, &h, sizeof(h));
	c->told = c->forwarded;
	c->sent += len;
	c->news &= ~(news | NEWS_CREDIT); /* every packet tells the credit */
	return (uint32_t)sizeof(h) + len;
}

static struct vsock_conn *dequeue(struct vsock *v)
{
	struct vsock_conn *c = v->queue;

	v->queue = c->next_in_queue;
	if (!v->queue)
		v->queue_tail = NULL;
	c->queued = false;
	return c;
}

/* Let the first of the queue use the chain; false if it did not. */
static bool serve_first(struct vsock *v)
{
	struct vsock_conn *c = dequeue(v);
	uint32_t len = make_packet(c, &v->rx);

	if (len)
		virtq_push(&v->w.vq[RX], &v->rx, len);
	if (c->state == CONN_ENDS && !c->news)
		vsock_conn_free(c);
	else
		vsock_conn_queue(c);
	return len;
}

static void send_reset(struct vsock *v)
{
	const struct vsock_reset *r = &v->reset[--v->n_resets];
	struct header h;

	put_header(v, &h, VSOCK_OP_RST, r->host_port, r->guest_port);
	virtq_push(&v->w.vq[RX], &v->rx, (uint32_t)virtq_write(&v->rx, 0, &h, sizeof(h)));
}

/* Fill one buffer of the driver's; false if it has none. */
static bool pump_one(struct vsock *v)
{
	if (!vworker_pop(&v->w, RX, &v->rx))
		return false;
	if (v->rx.in_bytes <= sizeof(struct header))
		virtq_push(&v->w.vq[RX], &v->rx, 0);
	else if (v->n_resets)
		send_reset(v);
	else if (!serve_first(v))
		virtq_unpop(&v->w.vq[RX], &v->rx);
	return true;
}

void vsock_pump(struct vsock *v)
{
	bool was_full = v->n_resets == VSOCK_MAX_RESETS;
	unsigned n = 0;

	if (!v->w.vq[RX].ready)
		return;
	while (n < PACKETS_AT_ONCE && (v->queue || v->n_resets) && pump_one(v))
		n++;
	vworker_irq(&v->w, RX);
	if (was_full && v->n_resets < VSOCK_MAX_RESETS)
		vworker_kick(&v->w, TX);
	if (!v->queue && !v->n_resets)
		return;
	if (n == PACKETS_AT_ONCE || virtq_enable_kicks(&v->w.vq[RX]))
		vworker_kick(&v->w, RX);
}

static void answer_reset(struct vsock *v, const struct header *h)
{
	/* kick_tx leaves room for one. */
	if (h->op != VSOCK_OP_RST)
		v->reset[v->n_resets++] = (struct vsock_reset){ h->dst_port, h->src_port };
}

static void take_request(struct vsock *v, const struct header *h, struct vsock_conn *c)
{
	if (c) {
		vsock_conn_abort(c);
		return;
	}
	c = vsock_connect(v, h->dst_port, h->src_port);
	if (!c) {
		answer_reset(v, h);
		return;
	}
	c->peer_alloc = h->buf_alloc;
	c->peer_forwarded = h->fwd_cnt;
}

/* A packet of a connection that is there. */
static void take_for(struct vsock_conn *c, const struct header *h, const struct virtq_chain *chain)
{
	c->peer_alloc = h->buf_alloc;
	c->peer_forwarded = h->fwd_cnt;
	if (h->op == VSOCK_OP_RST) {
		vsock_conn_free(c);
		return;
	}
	if (c->state == CONN_ENDS)
		return;
	if (c->state == CONN_ASKED && h->op == VSOCK_OP_RESPONSE) {
		vsock_conn_accepted(c);
	} else if (c->state == CONN_ASKED) {
		vsock_conn_abort(c);
	} else if (h->op == VSOCK_OP_SHUTDOWN) {
		vsock_conn_shut(c, h->flags);
	} else if (h->op == VSOCK_OP_CREDIT_REQUEST) {
		c->news |= NEWS_CREDIT;
	} else if (h->op == VSOCK_OP_RW) {
		if (!vsock_conn_take(c, chain, sizeof(*h), h->len))
			vsock_conn_abort(c);
	} else if (h->op != VSOCK_OP_CREDIT_UPDATE) {
		vsock_conn_abort(c);
	}
	vsock_conn_queue(c);
}

/* Packets from or to somebody else, or shorter than they say, have no connection to reset. */
static void take_packet(void *dev, unsigned q, struct virtq_chain *chain)
{
	struct vsock *v = dev;
	struct header h;
	struct vsock_conn *c;

	if (virtq_read(chain, 0, &h, sizeof(h)) == sizeof(h) && h.src_cid == v->cid &&
	    h.dst_cid == VSOCK_HOST_CID && h.len <= chain->out_bytes - sizeof(h)) {
		c = vsock_find(v, h.dst_port, h.src_port);
		if (h.type != TYPE_STREAM)
			answer_reset(v, &h);
		else if (h.op == VSOCK_OP_REQUEST)
			take_request(v, &h, c);
		else if (c)
			take_for(c, &h, chain);
		else
			answer_reset(v, &h);
	}
	vworker_push(&v->w, q, chain, 0);
}

/* As many packets as there is room for answers; the pump takes up again where it stops. */
static void kick_tx(struct vsock *v)
{
	unsigned n = MIN(PACKETS_AT_ONCE, VSOCK_MAX_RESETS - v->n_resets);

	if (n)
		vworker_serve(&v->w, TX, &v->tx, n, take_packet);
}

static void kick(void *dev, unsigned q)
{
	struct vsock *v = dev;

	vsock_reap(v);
	if (q == TX)
		kick_tx(v);
	vsock_pump(v);
}

static void stopped(void *dev)
{
	vsock_close_all(dev);
}

/* The address never changes, so no lock. */
static void config_read(void *dev, unsigned off, void *buf, unsigned len)
{
	const struct vsock *v = dev;
	uint64_t cid = v->cid;

	if (range_fits(off, len, sizeof(cid)))
		memcpy(buf, (uint8_t *)&cid + off, len);
}

static void vsock_reset(void *dev)
{
	struct vsock *v = dev;

	vdev_power_on(v->w.vdev);
}

static void vsock_free(void *dev)
{
	struct vsock *v = dev;

	if (v->watch.fn)
		evloop_del(v->loop, &v->watch);
	vworker_fini(&v->w);
	vsock_fini_conns(v);
	evloop_free(v->loop);
	free(v);
}

static const struct vworker_ops worker_ops = { .stopped = stopped, .kick = kick };
static const struct dev_ops vsock_ops = { .name = "virtio-vsock",
					  .reset = vsock_reset,
					  .free = vsock_free };

static int make_worker(struct vsock *v, const struct virtio_place *at, struct err *err)
{
	static const uint16_t sizes[N_QUEUES] = { QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE };

	return vworker_init(&v->w,
			    &(struct vworker_cfg){
				    .id = VIRTIO_ID_VSOCK,
				    .class_code = CLASS_OTHER_COMMUNICATION,
				    .features = BIT(VIRTIO_VSOCK_F_STREAM),
				    .n_queues = N_QUEUES,
				    .max_size = sizes,
				    .ops = &worker_ops,
				    .config_read = config_read,
				    .dev = v,
				    .bus = at->bus,
				    .pm = at->pm,
				    .loop = v->loop,
			    },
			    err);
}

/* "_" and ten digits must fit behind the path, too. */
static int set_path(struct vsock *v, const char *path, struct err *err)
{
	size_t max = sizeof(v->path.sun_path) - sizeof("_4294967295");

	if (!*path || strlen(path) > max)
		return err_say(err, EINVAL, "the socket's path must have 1 to %zu characters", max);
	v->path.sun_family = AF_UNIX;
	snprintf(v->path.sun_path, sizeof(v->path.sun_path), "%s", path);
	return 0;
}

int virtio_vsock_new(struct dev *out, const struct virtio_place *at,
		     const struct virtio_vsock_cfg *cfg, struct err *err)
{
	struct vsock *v = calloc(1, sizeof(*v));
	int ret;

	if (!v)
		return err_set(err, ENOMEM, "virtio-vsock");
	v->listen_fd = v->epoll_fd = v->folder = -1;
	v->cid = cfg->cid;
	ret = set_path(v, cfg->path, err);
	if (ret == 0)
		ret = evloop_new(&v->loop, err);
	if (ret == 0) {
		evloop_set_kind(v->loop, SANDBOX_VSOCK);
		ret = make_worker(v, at, err);
	}
	if (ret == 0)
		ret = vsock_listen(v, err);
	if (ret < 0) {
		vsock_free(v);
		return err_wrap(err, "virtio-vsock");
	}
	*out = (struct dev){ &vsock_ops, v };
	return 0;
}

int virtio_vsock_folder(const struct dev *dev)
{
	return ((const struct vsock *)dev->dev)->folder;
}
