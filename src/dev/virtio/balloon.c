#include "dev/virtio/balloon.h"

#include "base/err.h"
#include "dev/virtio/vworker.h"
#include "mem/physmap.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define CLASS_OTHER 0x00ff00
#define QUEUE_SIZE  128

#define VIRTIO_BALLOON_F_STATS_VQ	1
#define VIRTIO_BALLOON_F_DEFLATE_ON_OOM 2
#define VIRTIO_BALLOON_F_PAGE_POISON	4
#define VIRTIO_BALLOON_F_PAGE_REPORTING 5

/* Without FREE_PAGE_HINT its queue is not there and the reporting queue moves up: so drivers do. */
enum queue { INFLATE, DEFLATE, STATS, REPORTING, N_QUEUES };

enum config { NUM_PAGES = 0, ACTUAL = 4, HINT_ID = 8, POISON = 12, CONFIG_BYTES = 16 };

/* One turn's work: of longer chains the rest is not looked at, for all of it is advice. Linux sends
 * 256 page numbers at once, and reports 128 MiB. */
#define MAX_PFNS   16384
#define MAX_REPORT (256 * MiB)
#define MAX_CHAINS 4

#define STAT_BYTES 10 /* le16 tag, le64 value */
#define MAX_STATS  32

struct balloon {
	struct vworker w;
	_Atomic uint32_t num_pages, actual, poison; /* the configuration space */
	_Atomic uint64_t inflated, reported;
	_Atomic uint64_t stat[N_BALLOON_STATS];

	/* The loop's thread's: */
	bool has_poison;
	bool stats_held; /* the driver's buffer waits in stats until the next question */
	struct virtq_chain stats, chain;
	int timer_fd; /* -1 for none; owned */
	struct ev_watch timer;
};

static void discard(struct balloon *b, gpa_t gpa, uint64_t len)
{
	uint8_t *host = physmap_host(b->w.cfg.pm, gpa, len, NULL);

	if (host)
		atomic_fetch_add(&b->inflated, physmap_discard(b->w.cfg.pm, host, len));
}

/* Pages come one by one, mostly neighbours, up or down: give back whole runs of them. */
static void inflate(void *dev, unsigned q, struct virtq_chain *c)
{
	struct balloon *b = dev;
	gpa_t from = 0, to = 0;
	uint8_t pfn[4];

	for (size_t i = 0; i < MAX_PFNS && virtq_read(c, i * 4, pfn, 4) == 4; i++) {
		gpa_t page = (gpa_t)load32(pfn) << PAGE_SHIFT;

		if (page == to && from != to) {
			to += PAGE_SIZE;
		} else if (page + PAGE_SIZE == from) {
			from = page;
		} else {
			discard(b, from, to - from);
			from = page;
			to = page + PAGE_SIZE;
		}
	}
	discard(b, from, to - from);
	vworker_push(&b->w, q, c, 0);
}

/* The pages are the guest's again the moment it stores to them. */
static void deflate(void *dev, unsigned q, struct virtq_chain *c)
{
	struct balloon *b = dev;

	vworker_push(&b->w, q, c, 0);
}

/* Free pages that the guest expects to find poisoned stay as they are. */
static void take_report(void *dev, unsigned q, struct virtq_chain *c)
{
	struct balloon *b = dev;
	uint64_t left = b->has_poison && atomic_load(&b->poison) ? 0 : MAX_REPORT;

	for (unsigned i = 0; i < c->n_in && left; i++) {
		const struct iovec *v = &c->iov[c->n_out + i];
		uint64_t len = MIN(v->iov_len, left);

		atomic_fetch_add(&b->reported, physmap_discard(b->w.cfg.pm, v->iov_base, len));
		left -= len;
	}
	vworker_push(&b->w, q, c, 0);
}

static void take_stats(void *dev, unsigned q, struct virtq_chain *c)
{
	struct balloon *b = dev;
	uint8_t s[STAT_BYTES];

	for (unsigned i = 0; i < MAX_STATS; i++) {
		if (virtq_read(c, (size_t)i * STAT_BYTES, s, STAT_BYTES) < STAT_BYTES)
			break;
		if (load16(s) < N_BALLOON_STATS)
			atomic_store(&b->stat[load16(s)], load64(s + 2));
	}
	if (b->stats_held)
		vworker_push(&b->w, q, &b->stats, 0);
	b->stats = *c;
	b->stats_held = true;
}

/* The driver fills its buffer again once it gets it back. */
static void on_timer(void *arg, short revents)
{
	struct balloon *b = arg;
	uint64_t n;

	if (read(b->timer_fd, &n, sizeof(n)) < 0 || !b->stats_held)
		return;
	b->stats_held = false;
	vworker_push(&b->w, STATS, &b->stats, 0);
}

static void kick(void *dev, unsigned q)
{
	static void (*const serve[N_QUEUES])(void *dev, unsigned q,
					     struct virtq_chain *c) = { [INFLATE] = inflate,
									[DEFLATE] = deflate,
									[STATS] = take_stats,
									[REPORTING] = take_report };
	struct balloon *b = dev;

	vworker_serve(&b->w, q, &b->chain, MAX_CHAINS, serve[q]);
}

static void started(void *dev, uint64_t features)
{
	struct balloon *b = dev;

	b->has_poison = features & BIT(VIRTIO_BALLOON_F_PAGE_POISON);
}

static void stopped(void *dev)
{
	struct balloon *b = dev;

	atomic_store(&b->actual, 0);
	atomic_store(&b->poison, 0);
	b->stats_held = false;
}

static void queue_stopped(void *dev, unsigned q)
{
	struct balloon *b = dev;

	if (q == STATS)
		b->stats_held = false;
}

static void config_read(void *dev, unsigned off, void *buf, unsigned len)
{
	struct balloon *b = dev;
	uint8_t config[CONFIG_BYTES] = { 0 };

	store32(config + NUM_PAGES, atomic_load(&b->num_pages));
	store32(config + ACTUAL, atomic_load(&b->actual));
	store32(config + POISON, atomic_load(&b->poison));
	if (range_fits(off, len, sizeof(config)))
		memcpy(buf, config + off, len);
}

static void config_write(void *dev, unsigned off, const void *buf, unsigned len)
{
	struct balloon *b = dev;

	if (len != 4)
		return;
	if (off == ACTUAL)
		atomic_store(&b->actual, load32(buf));
	else if (off == POISON)
		atomic_store(&b->poison, load32(buf));
}

void balloon_set(struct balloon *b, uint64_t bytes)
{
	atomic_store(&b->num_pages, (uint32_t)MIN(bytes >> PAGE_SHIFT, UINT32_MAX));
	vdev_config_changed(b->w.vdev);
}

void balloon_look(struct balloon *b, struct balloon_info *info)
{
	info->target = (uint64_t)atomic_load(&b->num_pages) << PAGE_SHIFT;
	info->actual = (uint64_t)atomic_load(&b->actual) << PAGE_SHIFT;
	info->inflated = atomic_load(&b->inflated);
	info->reported = atomic_load(&b->reported);
	for (unsigned i = 0; i < N_BALLOON_STATS; i++)
		info->stat[i] = atomic_load(&b->stat[i]);
}

static void balloon_reset(void *dev)
{
	struct balloon *b = dev;

	vdev_power_on(b->w.vdev);
}

static void balloon_free(void *dev)
{
	struct balloon *b = dev;

	if (b->timer.fn)
		evloop_del(b->w.cfg.loop, &b->timer);
	vworker_fini(&b->w);
	if (b->timer_fd >= 0)
		close(b->timer_fd);
	free(b);
}

static const struct vworker_ops worker_ops = {
	.started = started, .stopped = stopped, .queue_stopped = queue_stopped, .kick = kick
};
static const struct dev_ops balloon_ops = { .name = "virtio-balloon",
					    .reset = balloon_reset,
					    .free = balloon_free };

static int make_timer(struct balloon *b, struct evloop *loop, unsigned stats_s, struct err *err)
{
	struct itimerspec every = { .it_interval.tv_sec = stats_s, .it_value.tv_sec = stats_s };

	if (!stats_s)
		return 0;
	b->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (b->timer_fd < 0 || timerfd_settime(b->timer_fd, 0, &every, NULL) < 0)
		return err_set(err, errno, "timer");
	b->timer = (struct ev_watch){ .fd = b->timer_fd, .fn = on_timer, .arg = b };
	return evloop_add(loop, &b->timer, POLLIN, err);
}

static int make_worker(struct balloon *b, const struct virtio_place *at, struct err *err)
{
	static const uint16_t sizes[N_QUEUES] = { QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE };

	return vworker_init(&b->w,
			    &(struct vworker_cfg){
				    .id = VIRTIO_ID_BALLOON,
				    .class_code = CLASS_OTHER,
				    .features = BIT(VIRTIO_BALLOON_F_STATS_VQ) |
						BIT(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) |
						BIT(VIRTIO_BALLOON_F_PAGE_POISON) |
						BIT(VIRTIO_BALLOON_F_PAGE_REPORTING),
				    .n_queues = N_QUEUES,
				    .max_size = sizes,
				    .ops = &worker_ops,
				    .config_read = config_read,
				    .config_write = config_write,
				    .dev = b,
				    .bus = at->bus,
				    .pm = at->pm,
				    .loop = at->loop,
			    },
			    err);
}

int virtio_balloon_new(struct dev *out, struct balloon **to, const struct virtio_place *at,
		       unsigned stats_s, struct err *err)
{
	struct balloon *b = calloc(1, sizeof(*b));
	int ret;

	if (!b)
		return err_set(err, ENOMEM, "virtio-balloon");
	b->timer_fd = -1;
	for (unsigned i = 0; i < N_BALLOON_STATS; i++)
		atomic_store(&b->stat[i], UINT64_MAX);
	ret = make_worker(b, at, err);
	if (ret == 0)
		ret = make_timer(b, at->loop, stats_s, err);
	if (ret < 0) {
		balloon_free(b);
		return err_wrap(err, "virtio-balloon");
	}
	*to = b;
	*out = (struct dev){ &balloon_ops, b };
	return 0;
}
