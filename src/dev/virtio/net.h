/* A virtio network card. virtio 1.2, 5.1. */
#ifndef DEV_VIRTIO_NET_H
#define DEV_VIRTIO_NET_H

#include "dev/dev.h"
#include "net/link.h"

#include <stdint.h>

struct err;
struct evloop;
struct pci_bus;
struct physmap;

#define VIRTIO_NET_MAX_PAIRS 8

struct virtio_net_cfg {
	struct pci_bus *bus; /* borrowed, like the next two */
	struct physmap *pm;  /* the guest's memory */
	struct evloop *loop; /* all work on queues is done there, but for frames that others send */
	uint8_t mac[ETH_ADDR_BYTES];
	uint16_t mtu;	  /* what the driver is told; 0: nothing */
	unsigned n_pairs; /* of receive and transmit queues, 1 to VIRTIO_NET_MAX_PAIRS */
};

/* Put a card on the bus. *link is its end of the cable: join it with another before the machine
 * starts, and part it before the device is freed. The loop must outlive the device. Errors: no room
 * on the bus, the host's.
 */
int virtio_net_new(struct dev *out, struct link_end **link, const struct virtio_net_cfg *cfg,
		   struct err *err);

#endif
