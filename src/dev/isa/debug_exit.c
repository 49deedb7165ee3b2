#include "base/err.h"
#include "base/own.h"
#include "dev/isa/isa.h"
#include "mem/iospace.h"

#include <errno.h>

struct debug_exit {
	struct debug_exit_cfg cfg;
};

static uint64_t debug_exit_read(void *dev, uint64_t off, unsigned size)
{
	return 0;
}

static void debug_exit_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct debug_exit *d = dev;

	d->cfg.fn(d->cfg.arg, (uint32_t)val);
}

static const struct io_ops debug_exit_io = { .read = debug_exit_read,
					     .write = debug_exit_write,
					     .max = 4 };
static const struct dev_ops debug_exit_ops = { .name = "debug-exit", .free = free };

int debug_exit_new(struct dev *out, struct iospace *pio, const struct debug_exit_cfg *cfg,
		   struct err *err)
{
	AUTO_FREE struct debug_exit *d = calloc(1, sizeof(*d));

	if (!d)
		return err_set(err, ENOMEM, "debug exit");
	d->cfg = *cfg;

	int ret = iospace_map(pio, cfg->port, 4, &debug_exit_io, d, err);

	if (ret < 0)
		return err_wrap(err, "debug exit at port %#x", cfg->port);
	*out = (struct dev){ &debug_exit_ops, move_ptr(&d) };
	return 0;
}
