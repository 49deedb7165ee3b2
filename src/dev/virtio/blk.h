/* A disk for the guest: virtio-blk. virtio 1.2, 5.2. */
#ifndef DEV_VIRTIO_BLK_H
#define DEV_VIRTIO_BLK_H

#include "dev/dev.h"
#include "dev/virtio/virtio.h"

#include <stdbool.h>
#include <stdint.h>

struct blk;
struct err;
struct virtio_blk;

#define VIRTIO_BLK_MAX_QUEUES	8
#define VIRTIO_BLK_SERIAL_BYTES 20

struct virtio_blk_cfg {
	struct virtio_place at; /* loop: the disk's own, on which blk works; owned from now on */
	struct blk *blk;	/* owned from now on */
	const char *serial;	/* at most VIRTIO_BLK_SERIAL_BYTES characters; NULL: none */
	unsigned n_queues;	/* 1 to VIRTIO_BLK_MAX_QUEUES */
	/* Where set, a request that fails (code: errno) is kept and this is called, on the loop's
	 * thread, in place of telling the guest. virtio_blk_retry tries them all again. */
	void (*on_error)(void *arg, struct virtio_blk *disk, int code);
	void *arg;
};

/* Make the disk and put it on the bus. On failure cfg's loop and blk are freed too. */
int virtio_blk_new(struct dev *out, struct virtio_blk **disk, const struct virtio_blk_cfg *cfg,
		   struct err *err);

/* Any thread: try again what on_error was told of. */
void virtio_blk_retry(struct virtio_blk *disk);
/* Make the disk larger and tell the driver. Waits for what is under way, at most 10 s; one at a
 * time. Any thread but the loop's. -EINVAL: it would be smaller, or what blk_resize says; -EBUSY,
 * -ETIMEDOUT (it may still be done).
 */
int virtio_blk_resize(struct virtio_blk *disk, uint64_t bytes, struct err *err);
/* Any thread: how large the disk is. */
uint64_t virtio_blk_bytes(const struct virtio_blk *disk);

#endif
