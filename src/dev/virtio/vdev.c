#include "dev/virtio/vdev_internal.h"

#include "base/trace.h"

#define DRIVER_BITS                                                                                \
	(VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK |              \
	 VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_FAILED)

static void init_queue(const struct vdev *v, struct vdev_queue *q, unsigned i)
{
	*q = (struct vdev_queue){ .setup.size = v->max_size[i], .vector = VIRTIO_NO_VECTOR };
}

void vdev_init_registers(struct vdev *v)
{
	v->accepted = 0;
	v->feature_select = v->driver_feature_select = 0;
	v->config_vector = VIRTIO_NO_VECTOR;
	v->queue_select = 0;
	v->status = v->isr = 0;
	for (unsigned i = 0; i < v->cfg.n_queues; i++)
		init_queue(v, &v->queue[i], i);
	vdev_update_pin(v);
}

static void activate(struct vdev *v)
{
	struct virtq_setup setup[VDEV_MAX_QUEUES] = { 0 };

	for (unsigned i = 0; i < v->cfg.n_queues; i++) {
		if (!v->queue[i].enabled)
			continue;
		v->queue[i].setup.features = v->accepted;
		setup[i] = v->queue[i].setup;
	}
	v->active = true;
	v->cfg.ops->activate(v->cfg.dev, v->accepted, setup);
	atomic_store(&v->notify_on, true);
}

/* The device is at rest: go on with what it was stopped for. */
static void halt_over(struct vdev *v)
{
	enum vdev_halt why = v->halt;

	v->active = false;
	v->halt = VDEV_RUNS;
	if (why == VDEV_RESETS) {
		vdev_init_registers(v);
	} else {
		v->status &= (uint8_t)~VIRTIO_STATUS_DRIVER_OK;
		v->status |= VIRTIO_STATUS_NEEDS_RESET;
	}
	pthread_cond_broadcast(&v->halted);
}

void vdev_halt(struct vdev *v, enum vdev_halt why)
{
	bool under_way = v->halt != VDEV_RUNS;

	v->halt = MAX(v->halt, why);
	atomic_store(&v->notify_on, false);
	if (under_way)
		return;
	if (v->active)
		v->cfg.ops->reset(v->cfg.dev);
	else
		halt_over(v);
}

/* virtio 1.2, 3.1.1: the driver sets bits one after the other and clears them only all at once. */
void vdev_write_status(struct vdev *v, uint8_t val)
{
	uint8_t set = val & ~v->status & DRIVER_BITS;

	if (val == 0) {
		vdev_halt(v, VDEV_RESETS);
		return;
	}
	if (v->halt != VDEV_RUNS)
		return;
	if ((set & VIRTIO_STATUS_FEATURES_OK) &&
	    ((v->accepted & ~v->offered) || !(v->accepted & BIT(VIRTIO_F_VERSION_1))))
		set &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
	v->status |= set & (uint8_t)~VIRTIO_STATUS_DRIVER_OK;
	if (!(set & VIRTIO_STATUS_DRIVER_OK) || !(v->status & VIRTIO_STATUS_FEATURES_OK) ||
	    (v->status & (VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED)))
		return;
	v->status |= VIRTIO_STATUS_DRIVER_OK;
	activate(v);
}

void vdev_write_features(struct vdev *v, uint32_t val)
{
	unsigned shift = v->driver_feature_select * 32;

	if (v->driver_feature_select > 1 || (v->status & VIRTIO_STATUS_FEATURES_OK) ||
	    v->halt != VDEV_RUNS)
		return;
	v->accepted &= ~(0xffffffffull << shift);
	v->accepted |= (uint64_t)val << shift;
}

/* After DRIVER_OK only a queue that was reset comes back (virtio 1.2, 2.6.1.2). */
void vdev_enable_queue(struct vdev *v, unsigned i)
{
	struct vdev_queue *q = &v->queue[i];
	bool late = v->active;

	if (q->enabled || q->resetting || !q->setup.size || v->halt != VDEV_RUNS)
		return;
	if (late && !(v->accepted & BIT(VIRTIO_F_RING_RESET)))
		return;
	q->enabled = true;
	q->setup.features = v->accepted;
	if (late)
		v->cfg.ops->queue_enable(v->cfg.dev, i, &q->setup);
}

void vdev_reset_queue(struct vdev *v, unsigned i)
{
	struct vdev_queue *q = &v->queue[i];

	if (!q->enabled || q->resetting || !v->active || v->halt != VDEV_RUNS ||
	    !(v->accepted & BIT(VIRTIO_F_RING_RESET)))
		return;
	q->resetting = true;
	v->cfg.ops->queue_reset(v->cfg.dev, i);
}

void vdev_queue_reset_done(struct vdev *v, unsigned i)
{
	pthread_mutex_lock(&v->lock);
	if (v->queue[i].resetting)
		init_queue(v, &v->queue[i], i);
	pthread_mutex_unlock(&v->lock);
}

void vdev_reset_done(struct vdev *v)
{
	pthread_mutex_lock(&v->lock);
	if (v->halt != VDEV_RUNS)
		halt_over(v);
	pthread_mutex_unlock(&v->lock);
}

void vdev_config_changed(struct vdev *v)
{
	pthread_mutex_lock(&v->lock);
	v->generation++;
	if (v->status & VIRTIO_STATUS_DRIVER_OK)
		vdev_config_irq(v);
	pthread_mutex_unlock(&v->lock);
}

void vdev_broken(struct vdev *v)
{
	pthread_mutex_lock(&v->lock);
	if (v->active && v->halt == VDEV_RUNS && !(v->status & VIRTIO_STATUS_NEEDS_RESET)) {
		v->status |= VIRTIO_STATUS_NEEDS_RESET;
		vdev_config_irq(v);
		if (trace_on(TRACE_GUEST))
			trace_print(TRACE_GUEST, "virtio %02x.0: the driver broke a ring",
				    v->func.devfn >> 3);
	}
	pthread_mutex_unlock(&v->lock);
}

void vdev_power_on(struct vdev *v)
{
	pthread_mutex_lock(&v->lock);
	vdev_halt(v, VDEV_RESETS);
	while (v->halt != VDEV_RUNS)
		pthread_cond_wait(&v->halted, &v->lock);
	v->generation = 0;
	msix_reset(&v->msix);
	pthread_mutex_unlock(&v->lock);
}
