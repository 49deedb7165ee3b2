/* A virtio device whose queues are worked on by one event loop: what the transport says on vCPU
 * threads arrives on the loop's thread, in order, and the queues live here. For devices that need
 * no more threads than that.
 */
#ifndef DEV_VIRTIO_VWORKER_H
#define DEV_VIRTIO_VWORKER_H

#include "dev/virtio/vdev.h"
#include "host/evloop.h"

#include <pthread.h>

struct physmap;

/* All on the loop's thread. NULL means nothing to do. */
struct vworker_ops {
	/* The driver is there: enabled queues are ready, and each is kicked after this. */
	void (*started)(void *dev, uint64_t features);
	/* The driver is gone, perhaps before it was seen to start: drop (virtq_drop) all chains
	 * held, forget what it said. The queues stop after this. */
	void (*stopped)(void *dev);
	/* The same for one queue. */
	void (*queue_stopped)(void *dev, unsigned q);
	/* There may be chains on queue q, which is ready. Must be there. */
	void (*kick)(void *dev, unsigned q);
};

struct vworker_cfg {
	enum virtio_id id;
	uint32_t class_code;
	uint64_t features;
	unsigned n_queues;
	const uint16_t *max_size; /* of each */
	const struct vworker_ops *ops;
	/* As in vdev_ops, on vCPU threads; may be NULL. */
	void (*config_read)(void *dev, unsigned off, void *buf, unsigned len);
	void (*config_write)(void *dev, unsigned off, const void *buf, unsigned len);
	void *dev;
	struct pci_bus *bus;
	struct physmap *pm;
	struct evloop *loop;
}; /* pointers are borrowed */

/* Embedded in the device. */
struct vworker {
	struct vworker_cfg cfg;
	struct vdev_ops vdev_ops;
	struct vdev *vdev; /* owned */
	struct virtq *vq;  /* n_queues; owned; the loop's thread's */
	bool running;	   /* between started and stopped; the loop's thread's */
	struct ev_watch watch, bell;
	int wake_fd, bell_fd; /* eventfds; owned */

	pthread_mutex_t lock; /* guards the rest: what the loop has been asked to do */
	bool start, stop;
	uint64_t features;
	struct virtq_setup setup[VDEV_MAX_QUEUES];
	bool queue_start[VDEV_MAX_QUEUES], queue_stop[VDEV_MAX_QUEUES];
	_Atomic uint64_t kicked[(VDEV_MAX_QUEUES + 63) / 64]; /* not guarded */
};

/* Make the device and put it on the bus. Before vCPUs start. Errors: the host's, a full bus or
 * loop. */
int vworker_init(struct vworker *w, const struct vworker_cfg *cfg, struct err *err);
/* When it returns, none of the ops runs or will run. The vCPUs are stopped. A zeroed struct is
 * fine. */
void vworker_fini(struct vworker *w);

/* The rest on the loop's thread, but for vworker_kick: any thread. */

/* Have kick called for queue q, soon. */
void vworker_kick(struct vworker *w, unsigned q);
/* virtq_pop of queue q, with a broken ring told to the driver: true if *c is filled. */
bool vworker_pop(struct vworker *w, unsigned q, struct virtq_chain *c);
/* The same; if it is false, kick is called when the driver has made a chain available. With an
 * event index the driver only tells of what comes behind the place that the device named last. */
bool vworker_pop_or_ask(struct vworker *w, unsigned q, struct virtq_chain *c);
/* virtq_push to queue q, and an interrupt if the driver wants one. */
void vworker_push(struct vworker *w, unsigned q, const struct virtq_chain *c, uint32_t len_bytes);
/* Interrupt for queue q if the driver wants one for what was pushed. */
void vworker_irq(struct vworker *w, unsigned q);
/* Take up to n chains of queue q and hand each to fn, which gives them back. Leaves kicks enabled,
 * or the queue kicked if there may be more: one queue does not keep the loop for itself.
 */
void vworker_serve(struct vworker *w, unsigned q, struct virtq_chain *c, unsigned n,
		   void (*fn)(void *dev, unsigned q, struct virtq_chain *c));

#endif
