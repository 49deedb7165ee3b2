/* A hostile driver of the entropy device; after all it did, the device still gives entropy. */
#include "virtio_hostile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct hostile h;
	struct virtio_place at;
	uint16_t id;
	uint32_t got = 0;

	hostile_up(&h, 1, data, len);
	at = vboard_place(&h.b);
	assert(virtio_rng_new(&h.b.dev, &at, NULL) == 0);
	hostile_run(&h);
	assert(vboard_start(&h.b, 0, h.r, 1, HOSTILE_RING, HOSTILE_SIZE) != 0);
	vring_add(&h.r[0], &(struct vseg){ HOSTILE_DATA, 16, true }, 1);
	vboard_notify(&h.b, 0);
	assert(vboard_wait(&h.r[0], &id, &got) && got == 16);
	hostile_down(&h);
	return 0;
}
