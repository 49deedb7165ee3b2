/* The virtio devices that are no more than a constructor and a life: what the board puts on the PCI
 * bus. Each works on the event loop it is given.
 */
#ifndef DEV_VIRTIO_VIRTIO_H
#define DEV_VIRTIO_VIRTIO_H

#include "dev/dev.h"

struct err;
struct evloop;
struct pci_bus;
struct physmap;

/* Where a device is put; all borrowed. */
struct virtio_place {
	struct pci_bus *bus;
	struct physmap *pm;
	struct evloop *loop;
};

/* Entropy from the host's getrandom. virtio 1.2, 5.4. Errors: the host's. */
int virtio_rng_new(struct dev *out, const struct virtio_place *at, struct err *err);

#endif
