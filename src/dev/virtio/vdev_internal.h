/* A virtio device's registers as its transport keeps them.
 *
 * vdev.c is the state machine of virtio 1.2, 2 and 3.1, and knows no bus; virtio_pci.c makes the
 * registers of 4.1 and the interrupts of it.
 */
#ifndef DEV_VIRTIO_VDEV_INTERNAL_H
#define DEV_VIRTIO_VDEV_INTERNAL_H

#include "dev/pci/msix.h"
#include "dev/pci/pci.h"
#include "dev/virtio/vdev.h"

#include <pthread.h>
#include <stdatomic.h>

#define VIRTIO_NO_VECTOR 0xffff

#define VIRTIO_STATUS_ACKNOWLEDGE 0x01
#define VIRTIO_STATUS_DRIVER	  0x02
#define VIRTIO_STATUS_DRIVER_OK	  0x04
#define VIRTIO_STATUS_FEATURES_OK 0x08
#define VIRTIO_STATUS_NEEDS_RESET 0x40
#define VIRTIO_STATUS_FAILED	  0x80

#define VIRTIO_ISR_QUEUE  1
#define VIRTIO_ISR_CONFIG 2

struct vdev_queue {
	struct virtq_setup setup; /* registers; features is filled in at activation */
	uint16_t vector;
	bool enabled, resetting;
};

/* What waits for the worker before the registers go on. */
enum vdev_halt {
	VDEV_RUNS,
	VDEV_STOPS,  /* bus mastering was taken away: NEEDS_RESET after */
	VDEV_RESETS, /* the driver wrote status 0: power-on values after */
};

struct vdev {
	/* Guards all below. Recursive: the ops are called with it and may call back. Taken before
	 * MSI-X's lock and the bus's, after none. */
	pthread_mutex_t lock;
	pthread_cond_t halted; /* halt became VDEV_RUNS */
	struct vdev_cfg cfg;   /* but for max_size, which is copied: */
	uint16_t max_size[VDEV_MAX_QUEUES];
	uint64_t offered;

	uint64_t accepted;
	uint32_t feature_select, driver_feature_select;
	uint16_t config_vector, queue_select;
	uint8_t status, generation, isr;
	struct vdev_queue queue[VDEV_MAX_QUEUES];
	bool active; /* the device was activated and not yet reset */
	enum vdev_halt halt;
	_Atomic bool notify_on; /* active and not halting; read without the lock */

	struct pci_func func;
	struct msix msix;
	unsigned access_cap; /* offset of the PCI configuration access capability */
};

/* Registers' initial values, the device itself left alone. Needs the lock, as do all below. */
void vdev_init_registers(struct vdev *v);
void vdev_write_status(struct vdev *v, uint8_t val);
void vdev_write_features(struct vdev *v, uint32_t val);
void vdev_enable_queue(struct vdev *v, unsigned q);
void vdev_reset_queue(struct vdev *v, unsigned q);
/* Stop the device because of why; done at once if it is not active. */
void vdev_halt(struct vdev *v, enum vdev_halt why);

/* virtio_pci.c: bring the pin in line with isr. */
void vdev_update_pin(struct vdev *v);
/* Interrupt for a change of the configuration. */
void vdev_config_irq(struct vdev *v);

#endif
