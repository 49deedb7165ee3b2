#include "base/err.h"
#include "base/own.h"
#include "dev/isa/isa.h"
#include "mem/iospace.h"

#include <errno.h>
#include <stdatomic.h>

struct post {
	_Atomic uint8_t code;
};

static uint64_t post_read(void *dev, uint64_t off, unsigned size)
{
	struct post *p = dev;

	return atomic_load_explicit(&p->code, memory_order_relaxed);
}

static void post_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct post *p = dev;

	atomic_store_explicit(&p->code, (uint8_t)val, memory_order_relaxed);
}

static const struct io_ops post_io = { .read = post_read, .write = post_write, .max = 1 };
static const struct dev_ops post_ops = { .name = "post", .free = free };

int post_new(struct dev *out, struct iospace *pio, uint16_t port, struct err *err)
{
	AUTO_FREE struct post *p = calloc(1, sizeof(*p));

	if (!p)
		return err_set(err, ENOMEM, "diagnostic port");

	int ret = iospace_map(pio, port, 1, &post_io, p, err);

	if (ret < 0)
		return err_wrap(err, "diagnostic port %#x", port);
	*out = (struct dev){ &post_ops, move_ptr(&p) };
	return 0;
}
