#include "dev/backend/chr.h"

#include "base/err.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

static void null_start(struct chr *b)
{
}

static void null_write(struct chr *b, const uint8_t *buf, unsigned n)
{
}

static unsigned null_room(struct chr *b)
{
	return UINT_MAX;
}

static void null_unblock(struct chr *b, bool on)
{
}

static void null_free(struct chr *b)
{
	free(b);
}

static const struct chr_ops null_ops = {
	.start = null_start,
	.write = null_write,
	.room = null_room,
	.accept = null_start,
	.unblock = null_unblock,
	.free = null_free,
};

int chr_null_new(struct chr **out, struct err *err)
{
	struct chr *b = calloc(1, sizeof(*b));

	if (!b)
		return err_set(err, ENOMEM, "console");
	b->ops = &null_ops;
	*out = b;
	return 0;
}
