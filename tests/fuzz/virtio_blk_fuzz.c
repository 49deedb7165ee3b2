/* A hostile driver of the disk; after all it did, the disk still reads. */
#include "dev/backend/blk.h"
#include "dev/virtio/blk.h"
#include "dev/virtio/blk_wire.h"
#include "virtio_hostile.h"

#include <fcntl.h>
#include <stdio.h>

#define DISK_BYTES (256 * KiB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* A write to a header slot that makes the device's requests likelier than chance does. */
static void put_header(void *arg, const uint8_t *buf, size_t n)
{
	struct hostile *h = arg;
	uint8_t *p = physmap_host(&h->b.pm, HOSTILE_DATA, 65536, NULL);
	struct virtio_blk_header head = { 0 };

	if (n < 4)
		return;
	head.type = buf[0] % 16;
	head.sector = load16(buf + 1);
	memcpy(p + buf[3] * 16, &head, sizeof(head));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char path[] = "/tmp/cleave-fuzz.XXXXXX";
	struct virtio_blk_cfg cfg = { .n_queues = 2, .serial = "fuzz" };
	struct virtio_blk_header head = { .type = VIRTIO_BLK_T_IN };
	struct virtio_blk *disk;
	struct hostile h;
	uint16_t id;
	uint32_t got = 0;
	int fd = mkstemp(path);

	assert(fd >= 0 && ftruncate(fd, DISK_BYTES) == 0);
	close(fd);
	hostile_up(&h, 2, data, len);
	h.host = put_header;
	h.arg = &h;
	cfg.at = vboard_place(&h.b);
	assert(evloop_new(&cfg.at.loop, NULL) == 0);
	assert(blk_open(&cfg.blk, cfg.at.loop, &(struct blk_open){ .path = path }, NULL) == 0);
	unlink(path);
	assert(virtio_blk_new(&h.b.dev, &disk, &cfg, NULL) == 0);
	hostile_run(&h);
	assert(vboard_start(&h.b, 0, h.r, 2, HOSTILE_RING, HOSTILE_SIZE) != 0);
	memcpy(physmap_host(&h.b.pm, HOSTILE_DATA, sizeof(head), NULL), &head, sizeof(head));
	vring_add(&h.r[0],
		  (struct vseg[]){ { HOSTILE_DATA, sizeof(head) },
				   { HOSTILE_DATA + 1024, 512, true },
				   { HOSTILE_DATA + 2048, 1, true } },
		  3);
	vboard_notify(&h.b, 0);
	assert(vboard_wait(&h.r[0], &id, &got) && got == 513);
	hostile_down(&h);
	return 0;
}
