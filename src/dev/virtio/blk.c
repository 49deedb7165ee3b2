/* The loop's thread takes chains, checks them and hands them to the blk; when that is done it gives
 * them back. Requests are made once: a queue that finds none is looked at again when one is free.
 */
#include "dev/virtio/blk.h"

#include "base/err.h"
#include "base/own.h"
#include "dev/backend/blk.h"
#include "dev/backend/iov.h"
#include "dev/virtio/blk_wire.h"
#include "dev/virtio/vworker.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <time.h>

#define CLASS_STORAGE 0x010000 /* SCSI, as for all of virtio's */
#define QUEUE_SIZE    256
#define SEG_MAX	      (QUEUE_SIZE - 2) /* beside header and status */
#define SIZE_MAX_SEG  (4 * MiB)
#define MAX_SEGMENTS  64	/* of a discard */
#define MAX_SECTORS   (2 * MiB) /* of each: 1 GiB */
#define N_REQUESTS    256	/* under way at once, over all queues */
#define OPT_IO_BYTES  (64 * KiB)
#define RESIZE_S      10 /* how long somebody waits for a new size */

/* A chain while it is here. */
struct request {
	struct blk_req r;
	struct virtio_blk *disk;
	struct virtq_chain chain;
	struct iovec iov[VIRTQ_MAX_SEGS];
	uint16_t q;
	uint32_t type;
	unsigned segment, n_segments; /* DISCARD, WRITE_ZEROES: the one that is under way */
	struct request *next;	      /* free, or held */
};

/* A new size, from who asks to the loop's thread and back. lock guards all. */
struct resize {
	pthread_mutex_t lock;
	pthread_cond_t done;
	enum { RESIZE_NONE, RESIZE_ASKED, RESIZE_RUNNING, RESIZE_DONE } state;
	uint64_t bytes;
	int ret;
	struct err err;
};

struct virtio_blk {
	struct vworker w;
	struct evloop *loop; /* owned */
	struct blk *blk;     /* owned */
	struct virtio_blk_cfg cfg;
	uint16_t max_size[VIRTIO_BLK_MAX_QUEUES];
	char serial[VIRTIO_BLK_SERIAL_BYTES];
	uint64_t offered;

	_Atomic uint64_t capacity; /* bytes */
	_Atomic bool writeback;	   /* the driver flushes; else each write is flushed */
	_Atomic bool retry_asked;
	struct resize resize;

	/* The rest is the loop's thread's. */
	struct request *all; /* N_REQUESTS; owned */
	struct request *free;
	struct request *held;		    /* failed, for virtio_blk_retry */
	bool hungry[VIRTIO_BLK_MAX_QUEUES]; /* there were no free requests */
	struct ev_watch asked_watch;
	int asked_fd; /* eventfd: of what others ask for; owned */
};

static void finish(struct request *x, uint8_t status)
{
	struct virtio_blk *d = x->disk;

	virtq_write(&x->chain, x->chain.in_bytes - 1, &status, 1);
	/* All that may have been stored to, as the dirty log needs it. */
	vworker_push(&d->w, x->q, &x->chain, (uint32_t)x->chain.in_bytes);
	x->next = d->free;
	d->free = x;
	for (unsigned q = 0; q < d->cfg.n_queues; q++) {
		if (d->hungry[q])
			vworker_kick(&d->w, q);
		d->hungry[q] = false;
	}
}

static bool begin_segment(struct request *x);

static bool is_write(const struct blk_req *r)
{
	return r->op == BLK_WRITE || r->op == BLK_WRITE_ZEROES;
}

static void begin_flush(struct request *x)
{
	x->r.op = BLK_FLUSH;
	x->r.n_iov = 0;
	blk_submit(x->disk->blk, &x->r);
	blk_kick(x->disk->blk);
}

static void fail(struct request *x, int code)
{
	struct virtio_blk *d = x->disk;

	if (!d->cfg.on_error) {
		finish(x, VIRTIO_BLK_S_IOERR);
		return;
	}
	x->next = d->held;
	d->held = x;
	d->cfg.on_error(d->cfg.arg, d, code);
}

static void on_done(struct blk_req *r, int ret)
{
	struct request *x = container_of(r, struct request, r);

	if (ret < 0) {
		fail(x, -ret);
	} else if (x->segment + 1 < x->n_segments) {
		x->segment++;
		if (begin_segment(x))
			blk_kick(x->disk->blk);
	} else if (is_write(r) && !atomic_load(&x->disk->writeback)) {
		begin_flush(x);
	} else {
		finish(x, VIRTIO_BLK_S_OK);
	}
}

/* Fill in where x goes on the disk. False if that is not all on the disk. */
static bool place(struct request *x, uint64_t sector, uint64_t len)
{
	if (len % BLK_SECTOR || sector > UINT64_MAX / BLK_SECTOR ||
	    !range_fits(sector * BLK_SECTOR, len, atomic_load(&x->disk->capacity)))
		return false;
	x->r.off = sector * BLK_SECTOR;
	x->r.len = len;
	return true;
}

/* Each of the following begins x and returns true, or finishes it and returns false. */

static bool begin_transfer(struct request *x, const struct virtio_blk_header *h)
{
	const struct virtq_chain *c = &x->chain;
	bool in = h->type == VIRTIO_BLK_T_IN;
	uint64_t len = in ? c->in_bytes - 1 : c->out_bytes - sizeof(*h);

	x->r.op = in ? BLK_READ : BLK_WRITE;
	x->r.n_iov = in ? iov_part(x->iov, VIRTQ_MAX_SEGS, c->iov + c->n_out, c->n_in, 0, len)
			: iov_part(x->iov, VIRTQ_MAX_SEGS, c->iov, c->n_out, sizeof(*h), len);
	if (!place(x, h->sector, len)) {
		finish(x, VIRTIO_BLK_S_IOERR);
		return false;
	}
	blk_submit(x->disk->blk, &x->r);
	return true;
}

static bool begin_segment(struct request *x)
{
	bool zeroes = x->type == VIRTIO_BLK_T_WRITE_ZEROES;
	struct virtio_blk_segment s;
	uint8_t status = VIRTIO_BLK_S_OK;

	virtq_read(&x->chain, sizeof(struct virtio_blk_header) + x->segment * sizeof(s), &s,
		   sizeof(s));
	if (s.flags & ~(zeroes ? VIRTIO_BLK_UNMAP : 0u))
		status = VIRTIO_BLK_S_UNSUPP;
	else if (s.num_sectors > MAX_SECTORS ||
		 !place(x, s.sector, (uint64_t)s.num_sectors * BLK_SECTOR))
		status = VIRTIO_BLK_S_IOERR;
	if (status != VIRTIO_BLK_S_OK) {
		finish(x, status);
		return false;
	}
	x->r.op = zeroes ? BLK_WRITE_ZEROES : BLK_DISCARD;
	x->r.may_unmap = s.flags & VIRTIO_BLK_UNMAP;
	x->r.n_iov = 0;
	blk_submit(x->disk->blk, &x->r);
	return true;
}

static bool begin_segments(struct request *x)
{
	uint64_t bytes = x->chain.out_bytes - sizeof(struct virtio_blk_header);

	x->n_segments = (unsigned)MIN(bytes / sizeof(struct virtio_blk_segment), MAX_SEGMENTS + 1);
	if (x->n_segments == 0 || x->n_segments > MAX_SEGMENTS ||
	    bytes % sizeof(struct virtio_blk_segment)) {
		finish(x, VIRTIO_BLK_S_IOERR);
		return false;
	}
	return begin_segment(x);
}

static bool say_id(struct request *x)
{
	size_t n = MIN(x->chain.in_bytes - 1, VIRTIO_BLK_SERIAL_BYTES);

	virtq_write(&x->chain, 0, x->disk->serial, n);
	finish(x, VIRTIO_BLK_S_OK);
	return false;
}

static bool begin(struct request *x)
{
	const struct virtio_blk *d = x->disk;
	struct virtio_blk_header h;
	bool ro = d->offered & BIT(VIRTIO_BLK_F_RO);

	virtq_read(&x->chain, 0, &h, sizeof(h));
	x->type = h.type;
	x->segment = x->n_segments = 0;
	switch (h.type) {
	case VIRTIO_BLK_T_IN: return begin_transfer(x, &h);
	case VIRTIO_BLK_T_FLUSH: begin_flush(x); return true;
	case VIRTIO_BLK_T_GET_ID: return say_id(x);
	case VIRTIO_BLK_T_OUT:
		if (!ro)
			return begin_transfer(x, &h);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		if (!ro)
			return begin_segments(x);
		break;
	default: finish(x, VIRTIO_BLK_S_UNSUPP); return false;
	}
	finish(x, VIRTIO_BLK_S_IOERR);
	return false;
}

static struct request *take_free(struct virtio_blk *d)
{
	struct request *x = d->free;

	if (x)
		d->free = x->next;
	return x;
}

/* Take the next chain of queue q and begin it. False if there is none, or no request for it. */
static bool serve_one(struct virtio_blk *d, unsigned q)
{
	struct request *x = take_free(d);

	if (!x) {
		d->hungry[q] = true;
		return false;
	}
	x->q = (uint16_t)q;
	if (!vworker_pop(&d->w, q, &x->chain)) {
		x->next = d->free;
		d->free = x;
		return false;
	}
	if (x->chain.out_bytes < sizeof(struct virtio_blk_header) || x->chain.in_bytes < 1) {
		/* No header, or nowhere to answer: the driver does not keep to 5.2.6. */
		vworker_push(&d->w, q, &x->chain, 0);
		vdev_broken(d->w.vdev);
		x->next = d->free;
		d->free = x;
		return false;
	}
	begin(x);
	return true;
}

static void kick(void *dev, unsigned q)
{
	struct virtio_blk *d = dev;
	unsigned left = QUEUE_SIZE;

	virtq_disable_kicks(&d->w.vq[q]);
	while (left && serve_one(d, q))
		left--;
	blk_kick(d->blk);
	if (virtq_enable_kicks(&d->w.vq[q]) && !d->hungry[q])
		vworker_kick(&d->w, q);
}

static void started(void *dev, uint64_t features)
{
	struct virtio_blk *d = dev;

	/* 5.2.5.2: a driver that knows no flush gets its writes written through. */
	atomic_store(&d->writeback, (features & BIT(VIRTIO_BLK_F_FLUSH)) != 0);
}

/* Forget what is held for queue q, or for all if q is -1. */
static void drop_held(struct virtio_blk *d, int q)
{
	struct request **at = &d->held;

	while (*at) {
		struct request *x = *at;

		if (q >= 0 && x->q != q) {
			at = &x->next;
			continue;
		}
		*at = x->next;
		virtq_drop(&d->w.vq[x->q], &x->chain, (uint32_t)x->chain.in_bytes);
		x->next = d->free;
		d->free = x;
	}
}

/* The disk's thread waits here until nothing of the guest's is being written or read; the driver,
 * which reads a status that is not 0 meanwhile, does not. */
static void stopped(void *dev)
{
	struct virtio_blk *d = dev;

	blk_drain(d->blk);
	drop_held(d, -1);
}

static void queue_stopped(void *dev, unsigned q)
{
	struct virtio_blk *d = dev;

	blk_drain(d->blk);
	drop_held(d, (int)q);
}

static void retry(struct virtio_blk *d)
{
	struct request *list = d->held;

	d->held = NULL;
	while (list) {
		struct request *x = list;

		list = x->next;
		blk_submit(d->blk, &x->r);
	}
	blk_kick(d->blk);
}

/* With nothing under way: a request that was checked against the old size knows that one only. */
static void resize(struct virtio_blk *d)
{
	struct resize *r = &d->resize;
	struct err err = { 0 };
	uint64_t bytes;
	bool asked;
	int ret;

	pthread_mutex_lock(&r->lock);
	asked = r->state == RESIZE_ASKED;
	if (asked)
		r->state = RESIZE_RUNNING;
	bytes = r->bytes;
	pthread_mutex_unlock(&r->lock);
	if (!asked)
		return;
	blk_drain(d->blk);
	ret = blk_resize(d->blk, bytes, &err);
	blk_kick(d->blk);
	if (ret == 0) {
		atomic_store(&d->capacity, bytes);
		vdev_config_changed(d->w.vdev);
	}
	pthread_mutex_lock(&r->lock);
	r->state = RESIZE_DONE;
	r->ret = ret;
	r->err = err;
	pthread_cond_broadcast(&r->done);
	pthread_mutex_unlock(&r->lock);
}

static void on_asked(void *arg, short revents)
{
	struct virtio_blk *d = arg;
	uint64_t n;

	(void)!read(d->asked_fd, &n, sizeof(n));
	if (atomic_exchange(&d->retry_asked, false))
		retry(d);
	resize(d);
}

static void wake(struct virtio_blk *d)
{
	uint64_t one = 1;

	/* Full means that it is under way. */
	(void)!write(d->asked_fd, &one, sizeof(one));
}

void virtio_blk_retry(struct virtio_blk *d)
{
	atomic_store(&d->retry_asked, true);
	wake(d);
}

uint64_t virtio_blk_bytes(const struct virtio_blk *d)
{
	return atomic_load(&d->capacity);
}

/* Needs the lock. Wait until the loop's thread is done, or it has been too long. */
static void wait_for_resize(struct resize *r)
{
	struct timespec end;
	int ret = 0;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += RESIZE_S;
	while (r->state != RESIZE_DONE && ret == 0)
		ret = pthread_cond_timedwait(&r->done, &r->lock, &end);
}

int virtio_blk_resize(struct virtio_blk *d, uint64_t bytes, struct err *err)
{
	struct resize *r = &d->resize;
	uint64_t now = virtio_blk_bytes(d);
	int ret;

	if (bytes < now)
		return err_say(
			err, EINVAL,
			"the disk has %llu bytes already, and a running machine's only grows",
			(unsigned long long)now);
	pthread_mutex_lock(&r->lock);
	if (r->state == RESIZE_ASKED || r->state == RESIZE_RUNNING) {
		ret = err_say(err, EBUSY, "the disk is being resized");
	} else {
		r->state = RESIZE_ASKED;
		r->bytes = bytes;
		wake(d);
		wait_for_resize(r);
		ret = r->ret;
		if (r->state != RESIZE_DONE)
			ret = err_say(err, ETIMEDOUT,
				      "the disk is busy; it gets its new size when it is not");
		else if (ret < 0)
			err_say(err, -ret, "%s", r->err.msg);
	}
	pthread_mutex_unlock(&r->lock);
	return ret;
}

static void config_read(void *dev, unsigned off, void *buf, unsigned len)
{
	struct virtio_blk *d = dev;
	struct blk_info info;
	struct virtio_blk_config c = {
		.capacity = atomic_load(&d->capacity) / BLK_SECTOR,
		.size_max = SIZE_MAX_SEG,
		.seg_max = SEG_MAX,
		.blk_size = BLK_SECTOR,
		.opt_io_size = OPT_IO_BYTES / BLK_SECTOR,
		.writeback = atomic_load(&d->writeback),
		.num_queues = (uint16_t)d->cfg.n_queues,
		.max_discard_sectors = MAX_SECTORS,
		.max_discard_seg = MAX_SEGMENTS,
		.max_write_zeroes_sectors = MAX_SECTORS,
		.max_write_zeroes_seg = MAX_SEGMENTS,
		.write_zeroes_may_unmap = 1,
	};

	blk_info(d->blk, &info);
	c.physical_block_exp = (uint8_t)__builtin_ctz(info.block / BLK_SECTOR);
	c.min_io_size = (uint16_t)(info.block / BLK_SECTOR);
	c.discard_sector_alignment = info.block / BLK_SECTOR;
	memset(buf, 0, len);
	if (off < sizeof(c))
		memcpy(buf, (const uint8_t *)&c + off, MIN(len, sizeof(c) - off));
}

static void config_write(void *dev, unsigned off, const void *buf, unsigned len)
{
	struct virtio_blk *d = dev;
	unsigned at = offsetof(struct virtio_blk_config, writeback);

	if (off <= at && at - off < len)
		atomic_store(&d->writeback, ((const uint8_t *)buf)[at - off] != 0);
}

static void disk_reset(void *dev)
{
	struct virtio_blk *d = dev;

	vdev_power_on(d->w.vdev);
	atomic_store(&d->writeback, true);
}

static void disk_free(void *dev)
{
	struct virtio_blk *d = dev;

	/* No more chains; then those that are under way come back; then the queues may go. */
	if (d->w.cfg.loop)
		evloop_del(d->loop, &d->w.watch);
	if (d->asked_fd >= 0) {
		evloop_del(d->loop, &d->asked_watch);
		close(d->asked_fd);
	}
	blk_close(d->blk, NULL);
	vworker_fini(&d->w);
	evloop_free(d->loop);
	pthread_cond_destroy(&d->resize.done);
	pthread_mutex_destroy(&d->resize.lock);
	free(d->all);
	free(d);
}

static const struct vworker_ops worker_ops = {
	.started = started,
	.stopped = stopped,
	.queue_stopped = queue_stopped,
	.kick = kick,
};
static const struct dev_ops disk_ops = {
	.name = "virtio-blk",
	.reset = disk_reset,
	.free = disk_free,
};

static uint64_t features(const struct virtio_blk *d)
{
	struct blk_info info;
	uint64_t f = BIT(VIRTIO_BLK_F_SIZE_MAX) | BIT(VIRTIO_BLK_F_SEG_MAX) |
		     BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH) |
		     BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_CONFIG_WCE) |
		     BIT(VIRTIO_BLK_F_MQ);

	blk_info(d->blk, &info);
	if (info.readonly)
		return f | BIT(VIRTIO_BLK_F_RO);
	f |= BIT(VIRTIO_BLK_F_WRITE_ZEROES);
	return info.can_discard ? f | BIT(VIRTIO_BLK_F_DISCARD) : f;
}

static int make_requests(struct virtio_blk *d, struct err *err)
{
	d->all = calloc(N_REQUESTS, sizeof(*d->all));
	if (!d->all)
		return err_set(err, ENOMEM, "requests");
	for (unsigned i = N_REQUESTS; i-- > 0;) {
		struct request *x = &d->all[i];

		x->disk = d;
		x->r.iov = x->iov;
		x->r.done = on_done;
		x->next = d->free;
		d->free = x;
	}
	d->asked_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->asked_fd < 0)
		return err_set(err, errno, "disk");
	d->asked_watch = (struct ev_watch){ .fd = d->asked_fd, .fn = on_asked, .arg = d };
	return evloop_add(d->loop, &d->asked_watch, POLLIN, err);
}

static int make_worker(struct virtio_blk *d, struct err *err)
{
	for (unsigned q = 0; q < d->cfg.n_queues; q++)
		d->max_size[q] = QUEUE_SIZE;
	return vworker_init(&d->w,
			    &(struct vworker_cfg){
				    .id = VIRTIO_ID_BLOCK,
				    .class_code = CLASS_STORAGE,
				    .features = d->offered,
				    .n_queues = d->cfg.n_queues,
				    .max_size = d->max_size,
				    .ops = &worker_ops,
				    .config_read = config_read,
				    .config_write = config_write,
				    .dev = d,
				    .bus = d->cfg.at.bus,
				    .pm = d->cfg.at.pm,
				    .loop = d->loop,
			    },
			    err);
}

static void resize_init(struct resize *r)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&r->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&r->done, &attr);
	pthread_condattr_destroy(&attr);
}

int virtio_blk_new(struct dev *out, struct virtio_blk **disk, const struct virtio_blk_cfg *cfg,
		   struct err *err)
{
	struct virtio_blk *d = calloc(1, sizeof(*d));
	struct blk_info info;

	if (!d) {
		blk_close(cfg->blk, NULL);
		evloop_free(cfg->at.loop);
		return err_set(err, ENOMEM, "virtio-blk");
	}
	d->cfg = *cfg;
	d->loop = cfg->at.loop;
	d->blk = cfg->blk;
	d->asked_fd = -1;
	resize_init(&d->resize);
	blk_info(d->blk, &info);
	atomic_store(&d->capacity, info.bytes);
	atomic_store(&d->writeback, true);
	d->offered = features(d);
	if (cfg->serial)
		memcpy(d->serial, cfg->serial, strnlen(cfg->serial, sizeof(d->serial)));

	int ret = make_requests(d, err);

	if (ret == 0)
		ret = make_worker(d, err);
	if (ret < 0) {
		disk_free(d);
		return err_wrap(err, "virtio-blk");
	}
	*disk = d;
	*out = (struct dev){ &disk_ops, d };
	return 0;
}
