#include "dev/virtio/vworker.h"

#include "base/err.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void wake(struct vworker *w)
{
	uint64_t one = 1;

	/* Full means that a wake-up is already under way. */
	if (write(w->wake_fd, &one, sizeof(one)) < 0)
		return;
}

void vworker_kick(struct vworker *w, unsigned q)
{
	uint64_t bit = BIT(q % 64);

	if (!(atomic_fetch_or(&w->kicked[q / 64], bit) & bit))
		wake(w);
}

static void on_activate(void *dev, uint64_t features, const struct virtq_setup *setup)
{
	struct vworker *w = dev;

	pthread_mutex_lock(&w->lock);
	w->start = true;
	w->features = features;
	memcpy(w->setup, setup, w->cfg.n_queues * sizeof(*setup));
	pthread_mutex_unlock(&w->lock);
	wake(w);
}

static void on_notify(void *dev, unsigned q)
{
	vworker_kick(dev, q);
}

static void on_reset(void *dev)
{
	struct vworker *w = dev;

	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_mutex_unlock(&w->lock);
	wake(w);
}

static void on_queue_reset(void *dev, unsigned q)
{
	struct vworker *w = dev;

	pthread_mutex_lock(&w->lock);
	w->queue_stop[q] = true;
	pthread_mutex_unlock(&w->lock);
	wake(w);
}

/* The queue's reset is done by now, or it could not be enabled again. */
static void on_queue_enable(void *dev, unsigned q, const struct virtq_setup *setup)
{
	struct vworker *w = dev;

	pthread_mutex_lock(&w->lock);
	w->queue_start[q] = true;
	w->setup[q] = *setup;
	pthread_mutex_unlock(&w->lock);
	wake(w);
}

static void on_config_read(void *dev, unsigned off, void *buf, unsigned len)
{
	const struct vworker *w = dev;

	if (w->cfg.config_read)
		w->cfg.config_read(w->cfg.dev, off, buf, len);
}

static void on_config_write(void *dev, unsigned off, const void *buf, unsigned len)
{
	const struct vworker *w = dev;

	if (w->cfg.config_write)
		w->cfg.config_write(w->cfg.dev, off, buf, len);
}

static void start_queue(struct vworker *w, unsigned q, const struct virtq_setup *setup)
{
	if (!setup->size)
		return;
	if (virtq_start(&w->vq[q], w->cfg.pm, setup))
		vworker_kick(w, q);
	else
		vdev_broken(w->vdev);
}

/* A driver may be gone again before its start was seen here; it may have written registers, though.
 */
static void stop_all(struct vworker *w)
{
	if (w->cfg.ops->stopped)
		w->cfg.ops->stopped(w->cfg.dev);
	w->running = false;
	for (unsigned q = 0; q < w->cfg.n_queues; q++)
		virtq_stop(&w->vq[q]);
}

static void stop_queue(struct vworker *w, unsigned q)
{
	if (w->running && w->cfg.ops->queue_stopped)
		w->cfg.ops->queue_stopped(w->cfg.dev, q);
	virtq_stop(&w->vq[q]);
	vdev_queue_reset_done(w->vdev, q);
}

/* Take the wishes and fulfil them, but not with the lock held. A reset overrides what came before
 * it, and nothing comes behind it until it is done.
 */
static void do_wishes(struct vworker *w)
{
	struct virtq_setup setup[VDEV_MAX_QUEUES];
	bool queue_start[VDEV_MAX_QUEUES], queue_stop[VDEV_MAX_QUEUES], start, stop;
	uint64_t features;

	pthread_mutex_lock(&w->lock);
	start = w->start;
	stop = w->stop;
	features = w->features;
	memcpy(setup, w->setup, sizeof(setup));
	memcpy(queue_start, w->queue_start, sizeof(queue_start));
	memcpy(queue_stop, w->queue_stop, sizeof(queue_stop));
	w->start = w->stop = false;
	memset(w->queue_start, 0, sizeof(w->queue_start));
	memset(w->queue_stop, 0, sizeof(w->queue_stop));
	pthread_mutex_unlock(&w->lock);

	if (stop) {
		stop_all(w);
		vdev_reset_done(w->vdev);
		return;
	}
	for (unsigned q = 0; start && q < w->cfg.n_queues; q++)
		start_queue(w, q, &setup[q]);
	if (start) {
		w->running = true;
		if (w->cfg.ops->started)
			w->cfg.ops->started(w->cfg.dev, features);
	}
	for (unsigned q = 0; q < w->cfg.n_queues; q++) {
		if (queue_stop[q])
			stop_queue(w, q);
		if (queue_start[q])
			start_queue(w, q, &setup[q]);
	}
}

static void do_kicks(struct vworker *w)
{
	for (unsigned i = 0; i < ARRAY_SIZE(w->kicked); i++) {
		uint64_t kicked = atomic_exchange(&w->kicked[i], 0);

		for (; kicked; kicked &= kicked - 1) {
			unsigned q = i * 64 + (unsigned)__builtin_ctzll(kicked);

			if (w->running && w->vq[q].ready)
				w->cfg.ops->kick(w->cfg.dev, q);
		}
	}
}

static void on_wake(void *arg, short revents)
{
	struct vworker *w = arg;
	uint64_t n;

	if (read(w->wake_fd, &n, sizeof(n)) < 0)
		return;
	do_wishes(w);
	do_kicks(w);
}

/* Whoever executes the guest has rung it for the driver, and does not tell for which queue. */
static void on_bell(void *arg, short revents)
{
	struct vworker *w = arg;
	uint64_t n;

	if (read(w->bell_fd, &n, sizeof(n)) < 0)
		return;
	for (unsigned q = 0; q < w->cfg.n_queues; q++)
		atomic_fetch_or(&w->kicked[q / 64], BIT(q % 64));
	do_kicks(w);
}

bool vworker_pop(struct vworker *w, unsigned q, struct virtq_chain *c)
{
	int ret = virtq_pop(&w->vq[q], c);

	if (ret < 0)
		vdev_broken(w->vdev);
	return ret > 0;
}

bool vworker_pop_or_ask(struct vworker *w, unsigned q, struct virtq_chain *c)
{
	return vworker_pop(w, q, c) || (virtq_enable_kicks(&w->vq[q]) && vworker_pop(w, q, c));
}

void vworker_irq(struct vworker *w, unsigned q)
{
	if (virtq_wants_irq(&w->vq[q]))
		vdev_irq(w->vdev, q);
}

void vworker_push(struct vworker *w, unsigned q, const struct virtq_chain *c, uint32_t len_bytes)
{
	virtq_push(&w->vq[q], c, len_bytes);
	vworker_irq(w, q);
}

void vworker_serve(struct vworker *w, unsigned q, struct virtq_chain *c, unsigned n,
		   void (*fn)(void *dev, unsigned q, struct virtq_chain *c))
{
	virtq_disable_kicks(&w->vq[q]);
	while (n && vworker_pop(w, q, c)) {
		fn(w->cfg.dev, q, c);
		n--;
	}
	if (virtq_enable_kicks(&w->vq[q]))
		vworker_kick(w, q);
}

int vworker_init(struct vworker *w, const struct vworker_cfg *cfg, struct err *err)
{
	struct vdev_cfg vdev = { .features = cfg->features,
				 .n_queues = cfg->n_queues,
				 .max_size = cfg->max_size,
				 .ops = &w->vdev_ops,
				 .dev = w };
	int ret;

	*w = (struct vworker){ .cfg = *cfg, .wake_fd = -1, .bell_fd = -1 };
	w->vdev_ops = (struct vdev_ops){
		.id = cfg->id,
		.class_code = cfg->class_code,
		.config_read = on_config_read,
		.config_write = on_config_write,
		.activate = on_activate,
		.notify = on_notify,
		.reset = on_reset,
		.queue_reset = on_queue_reset,
		.queue_enable = on_queue_enable,
	};
	pthread_mutex_init(&w->lock, NULL);
	w->vq = calloc(cfg->n_queues, sizeof(*w->vq));
	w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	vdev.bell_fd = w->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!w->vq || w->wake_fd < 0 || w->bell_fd < 0) {
		ret = err_set(err, w->vq ? errno : ENOMEM, "virtio device");
		vworker_fini(w);
		return ret;
	}
	w->watch = (struct ev_watch){ .fd = w->wake_fd, .fn = on_wake, .arg = w };
	w->bell = (struct ev_watch){ .fd = w->bell_fd, .fn = on_bell, .arg = w };
	ret = vdev_new_pci(&w->vdev, cfg->bus, &vdev, err);
	if (ret == 0)
		ret = evloop_add(cfg->loop, &w->watch, POLLIN, err);
	if (ret == 0)
		ret = evloop_add(cfg->loop, &w->bell, POLLIN, err);
	if (ret < 0)
		vworker_fini(w);
	return ret;
}

void vworker_fini(struct vworker *w)
{
	if (!w->cfg.loop)
		return;
	evloop_del(w->cfg.loop, &w->watch);
	evloop_del(w->cfg.loop, &w->bell);
	vdev_free(w->vdev);
	if (w->wake_fd >= 0)
		close(w->wake_fd);
	if (w->bell_fd >= 0)
		close(w->bell_fd);
	free(w->vq);
	pthread_mutex_destroy(&w->lock);
	*w = (struct vworker){ .wake_fd = -1, .bell_fd = -1 };
}
