/* What a virtio device is to its transport, and what a transport does for it. virtio 1.2, 2.
 *
 * Threads. The transport's registers are written on vCPU threads; a device works on a thread of its
 * own choice (an evloop). The transport never waits for a device: notify and reset only wake it.
 * Reset is asynchronous: the driver reads a device status other than 0 until vdev_reset_done.
 */
#ifndef DEV_VIRTIO_VDEV_H
#define DEV_VIRTIO_VDEV_H

#include "dev/virtio/virtq.h"

#include <stdbool.h>
#include <stdint.h>

struct err;
struct pci_bus;
struct vdev;

#define VDEV_MAX_QUEUES	  66
#define VDEV_CONFIG_BYTES 256

enum virtio_id {
	VIRTIO_ID_NET = 1,
	VIRTIO_ID_BLOCK = 2,
	VIRTIO_ID_CONSOLE = 3,
	VIRTIO_ID_RNG = 4,
	VIRTIO_ID_BALLOON = 5,
	VIRTIO_ID_VSOCK = 19,
};

struct vdev_ops {
	enum virtio_id id;
	uint32_t class_code; /* PCI's: class, subclass, interface */
	/* vCPU thread, the transport's lock held: must not call vdev_* but vdev_config_changed. */
	void (*config_read)(void *dev, unsigned off, void *buf, unsigned len);
	void (*config_write)(void *dev, unsigned off, const void *buf, unsigned len);
	/* DRIVER_OK was set. features: negotiated; queue q is enabled if setup[q].size is not 0;
	 * setup is valid only during the call. The device starts its virtqs and its work. vCPU
	 * thread, lock held. */
	void (*activate)(void *dev, uint64_t features, const struct virtq_setup *setup);
	/* The driver made chains available on queue q. vCPU thread, no lock: wake a worker, no
	 * more.
	 */
	void (*notify)(void *dev, unsigned q);
	/* Stop all work on guest memory, then call vdev_reset_done from any thread (also at once).
	 * vCPU thread, lock held, so that calling it at once needs no lock of the device's that a
	 * worker holds while it calls vdev_irq. */
	void (*reset)(void *dev);
	/* VIRTIO_F_RING_RESET: the same for one queue, then vdev_queue_reset_done; and its new
	 * life. NULL if the device does not offer the feature. */
	void (*queue_reset)(void *dev, unsigned q);
	void (*queue_enable)(void *dev, unsigned q, const struct virtq_setup *setup);
};

struct vdev_cfg {
	uint64_t features;	  /* that the device offers; the transport adds its own */
	unsigned n_queues;	  /* at most VDEV_MAX_QUEUES */
	const uint16_t *max_size; /* of each queue: a power of two, at most VIRTQ_MAX_SIZE */
	const struct vdev_ops *ops;
	void *dev;   /* borrowed */
	int bell_fd; /* eventfd that says "notify, of any queue" (mem/iospace.h); -1: none */
};

/* Put a device on the bus as a modern virtio-pci function with MSI-X, at the first free device
 * number. Before vCPUs start. -ENOMEM, -ENOSPC if the bus is full. vdev_free takes it off the bus;
 * call it before the bus is freed, with the vCPUs stopped and the device's worker at rest.
 */
int vdev_new_pci(struct vdev **out, struct pci_bus *bus, const struct vdev_cfg *cfg,
		 struct err *err);
void vdev_free(struct vdev *v);
/* As after power-on, for the board's reset: resets the device and waits until that is done. The
 * vCPUs are stopped; not on the worker's thread.
 */
void vdev_power_on(struct vdev *v);

/* The rest: any thread, not with a lock held that the ops above take. */

/* Interrupt for queue q (asks no virtq: the caller did virtq_wants_irq). */
void vdev_irq(struct vdev *v, unsigned q);
/* The configuration space changed: counts the generation up and interrupts. */
void vdev_config_changed(struct vdev *v);
/* The driver broke the rules: DEVICE_NEEDS_RESET (virtio 1.2, 2.1.2), one trace point. */
void vdev_broken(struct vdev *v);
void vdev_reset_done(struct vdev *v);
void vdev_queue_reset_done(struct vdev *v, unsigned q);

#endif
