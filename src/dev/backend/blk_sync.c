/* What programs without a loop do with a disk. */
#include "base/err.h"
#include "dev/backend/blk_internal.h"

#include <errno.h>

int place_read(struct blk_place *p, uint64_t off, void *buf, uint64_t len)
{
	return p->ops->read(p, off, &(struct iovec){ buf, len }, 1, len);
}

int place_write(struct blk_place *p, uint64_t off, const void *buf, uint64_t len)
{
	return p->ops->write(p, off, &(struct iovec){ (void *)(uintptr_t)buf, len }, 1, len);
}

struct waiter {
	struct blk_req r;
	int ret;
	bool done;
};

static void on_done(struct blk_req *r, int ret)
{
	struct waiter *w = container_of(r, struct waiter, r);

	w->ret = ret;
	w->done = true;
}

int blk_do(struct blk *b, struct blk_req *r)
{
	struct waiter w = { .r = *r };

	w.r.done = on_done;
	blk_submit(b, &w.r);
	while (!w.done)
		blk_wait(b);
	return w.ret;
}

struct map_call {
	struct blk_node *node;
	uint64_t off, len;
	struct blk_extent *e;
};

static int map(void *arg)
{
	struct map_call *c = arg;

	return c->node->ops->map(c->node, c->off, c->len, c->e);
}

int blk_map(struct blk *b, uint64_t off, uint64_t len, struct blk_extent *e)
{
	return b->ops->call(b, map, &(struct map_call){ b->ops->node(b), off, len, e });
}

struct resize_call {
	struct blk_node *node;
	uint64_t bytes;
	struct err *err;
};

static int resize(void *arg)
{
	struct resize_call *c = arg;

	return c->node->ops->resize(c->node, c->bytes, c->err);
}

int blk_resize(struct blk *b, uint64_t bytes, struct err *err)
{
	struct blk_node *n = b->ops->node(b);
	struct err here;

	if (bytes % BLK_SECTOR || bytes > BLK_MAX_BYTES)
		return err_say(err, EINVAL, "a disk's size is a multiple of 512 bytes");
	if (n->readonly)
		return err_say(err, EROFS, "the disk is read-only");

	int ret = b->ops->call(b, resize, &(struct resize_call){ n, bytes, &here });

	return ret < 0 ? err_say(err, -ret, "%s", here.msg) : 0;
}
