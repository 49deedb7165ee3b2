/* A hostile driver of the balloon, whose target changes meanwhile. */
#include "dev/virtio/balloon.h"
#include "virtio_hostile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void host(void *arg, const uint8_t *buf, size_t n)
{
	struct balloon_info info;

	balloon_set(arg, n >= 4 ? load32(buf) : 0);
	balloon_look(arg, &info);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct hostile h;
	struct virtio_place at;
	struct balloon *b;

	hostile_up(&h, 4, data, len);
	at = vboard_place(&h.b);
	assert(virtio_balloon_new(&h.b.dev, &b, &at, 1, NULL) == 0);
	h.host = host;
	h.arg = b;
	hostile_run(&h);
	hostile_down(&h);
	return 0;
}
