#include "base/err.h"
#include "base/own.h"
#include "dev/virtio/virtio.h"
#include "dev/virtio/vworker.h"

#include <errno.h>
#include <sys/random.h>

#define CLASS_OTHER 0x00ff00
#define QUEUE_SIZE  64
/* The device may use less than the whole buffer: what a guest can ask for at once is bounded. */
#define MAX_BYTES 4096

struct rng {
	struct vworker w;
	struct virtq_chain chain;
};

/* The kernel's pool is ready long before a machine starts, so this does not wait. */
static void fill(void *dev, unsigned q, struct virtq_chain *c)
{
	struct rng *r = dev;
	uint8_t buf[MAX_BYTES];
	size_t want = MIN(c->in_bytes, sizeof(buf));
	ssize_t got = getrandom(buf, want, 0);

	vworker_push(&r->w, q, c, (uint32_t)virtq_write(c, 0, buf, got > 0 ? (size_t)got : 0));
}

static void kick(void *dev, unsigned q)
{
	struct rng *r = dev;

	vworker_serve(&r->w, q, &r->chain, QUEUE_SIZE, fill);
}

static void rng_reset(void *dev)
{
	struct rng *r = dev;

	vdev_power_on(r->w.vdev);
}

static void rng_free(void *dev)
{
	struct rng *r = dev;

	vworker_fini(&r->w);
	free(r);
}

static const struct vworker_ops worker_ops = { .kick = kick };
static const struct dev_ops rng_ops = { .name = "virtio-rng",
					.reset = rng_reset,
					.free = rng_free };

int virtio_rng_new(struct dev *out, const struct virtio_place *at, struct err *err)
{
	static const uint16_t sizes[] = { QUEUE_SIZE };
	AUTO_FREE struct rng *r = calloc(1, sizeof(*r));
	int ret;

	if (!r)
		return err_set(err, ENOMEM, "virtio-rng");
	ret = vworker_init(&r->w,
			   &(struct vworker_cfg){
				   .id = VIRTIO_ID_RNG,
				   .class_code = CLASS_OTHER,
				   .n_queues = ARRAY_SIZE(sizes),
				   .max_size = sizes,
				   .ops = &worker_ops,
				   .dev = r,
				   .bus = at->bus,
				   .pm = at->pm,
				   .loop = at->loop,
			   },
			   err);
	if (ret < 0)
		return err_wrap(err, "virtio-rng");
	*out = (struct dev){ &rng_ops, move_ptr(&r) };
	return 0;
}
