/* The virtio devices that are no more than a constructor and a life: what the board puts on the PCI
 * bus. Each works on the event loop it is given.
 */
#ifndef DEV_VIRTIO_VIRTIO_H
#define DEV_VIRTIO_VIRTIO_H

#include "dev/dev.h"

#include <stdint.h>

struct chr;
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

#define VIRTIO_CONSOLE_PORTS 8

struct virtio_console_cfg {
	unsigned n_ports; /* 1 to VIRTIO_CONSOLE_PORTS; port 0 is a console (hvc0), others serial */
	struct chr *chr[VIRTIO_CONSOLE_PORTS];	/* made with the place's loop */
	const char *name[VIRTIO_CONSOLE_PORTS]; /* NULL for none; borrowed during the call */
};

/* Console with several ports. virtio 1.2, 5.3. On success the chrs are the device's. -ENOMEM, a
 * full bus. */
int virtio_console_new(struct dev *out, const struct virtio_place *at,
		       const struct virtio_console_cfg *cfg, struct err *err);

#define VSOCK_MIN_CID 3

struct virtio_vsock_cfg {
	uint32_t cid;	  /* the guest's address: VSOCK_MIN_CID to UINT32_MAX - 1 */
	const char *path; /* of the Unix socket; borrowed during the call */
};

/* Sockets between guest and host. Who connects to the Unix socket path and says "CONNECT port\n" is
 * connected to the guest's port, and told "OK port\n" with the one on the host's side; who in the
 * guest connects to port n of the host (CID 2) reaches the Unix socket "<path>_<n>".
 * virtio 1.2, 5.10. Works on a loop of its own. Errors: the host's, also that the path is taken or
 * too long.
 */
int virtio_vsock_new(struct dev *out, const struct virtio_place *at,
		     const struct virtio_vsock_cfg *cfg, struct err *err);
/* The folder of its socket, which is removed from there at the end. Borrowed. */
int virtio_vsock_folder(const struct dev *dev);

#endif
