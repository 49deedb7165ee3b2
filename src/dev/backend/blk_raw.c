/* The raw format: the disk is the place. */
#include "base/err.h"
#include "base/own.h"
#include "dev/backend/blk_internal.h"

#include <errno.h>
#include <stdlib.h>

#define ZEROS_BYTES (64 * KiB)

struct blk_raw {
	struct blk_node node;
	struct blk_place *place; /* owned */
	void *zeros;		 /* owned; ZEROS_BYTES */
};

static struct blk_raw *of(struct blk_node *n)
{
	return container_of(n, struct blk_raw, node);
}

static int raw_read(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov,
		    uint64_t len)
{
	struct blk_place *p = of(n)->place;

	return p->ops->read(p, off, iov, n_iov, len);
}

static int raw_write(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov,
		     uint64_t len)
{
	struct blk_place *p = of(n)->place;

	return p->ops->write(p, off, iov, n_iov, len);
}

static int raw_flush(struct blk_node *n)
{
	struct blk_place *p = of(n)->place;

	return p->ops->flush(p);
}

static int raw_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
	struct blk_place *p = of(n)->place;

	return p->ops->discard(p, off, len);
}

static int write_zeros(struct blk_raw *r, uint64_t off, uint64_t len)
{
	int ret = 0;

	for (uint64_t n; len && ret == 0; off += n, len -= n) {
		n = MIN(len, ZEROS_BYTES);
		ret = place_write(r->place, off, r->zeros, n);
	}
	return ret;
}

static int raw_zero(struct blk_node *n, uint64_t off, uint64_t len, bool may_unmap)
{
	struct blk_raw *r = of(n);
	int ret = r->place->ops->zero(r->place, off, len, may_unmap);

	return ret == -EOPNOTSUPP ? write_zeros(r, off, len) : ret;
}

static int raw_resize(struct blk_node *n, uint64_t bytes, struct err *err)
{
	struct blk_place *p = of(n)->place;
	int ret = bytes % p->align ? -EINVAL : p->ops->truncate(p, bytes);

	if (ret == -EINVAL && bytes % p->align)
		return err_say(err, EINVAL,
			       "direct I/O needs a size that is a multiple of %u bytes here",
			       p->align);
	if (ret == -ENOTSUP)
		return err_say(err, ENOTSUP, "a device's size is its own");
	if (ret < 0)
		return err_set(err, -ret, "resize");
	__atomic_store_n(&n->bytes, bytes, __ATOMIC_RELAXED);
	return 0;
}

static int raw_map(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e)
{
	struct blk_place *p = of(n)->place;
	bool is_data;
	int ret = p->ops->map(p, off, len, &is_data, &len);

	*e = (struct blk_extent){ .off = off,
				  .len = len,
				  .kind = is_data ? BLK_DATA : BLK_HOLE,
				  .has_host_off = is_data,
				  .host_off = off };
	return ret;
}

static int raw_close(struct blk_node *n)
{
	struct blk_raw *r = of(n);
	int ret = n->readonly ? 0 : raw_flush(n);

	r->place->ops->close(r->place);
	free(r->zeros);
	free(r);
	return ret;
}

static const struct blk_node_ops raw_ops = {
	.read = raw_read,
	.write = raw_write,
	.flush = raw_flush,
	.discard = raw_discard,
	.zero = raw_zero,
	.resize = raw_resize,
	.map = raw_map,
	.close = raw_close,
};

static int check(const struct blk_place *p, const struct blk_open *how, struct err *err)
{
	if (p->bytes > BLK_MAX_BYTES)
		return err_say(err, EFBIG, "%s is too large for a disk", how->path);
	/* Its last block could only be written by making the file longer. */
	if (how->direct && !how->readonly && p->bytes % p->align)
		return err_say(err, EINVAL,
			       "%s has a size that is not a multiple of %u, which direct I/O "
			       "needs: leave direct out, or make it larger",
			       how->path, p->align);
	return 0;
}

int blk_raw_open(struct blk_node **out, struct blk_place *place, const struct blk_open *how,
		 struct err *err)
{
	struct blk_raw *r = calloc(1, sizeof(*r));
	int ret = check(place, how, err);

	if (ret == 0 && (!r || posix_memalign(&r->zeros, 4096, ZEROS_BYTES) != 0))
		ret = err_set(err, ENOMEM, "open %s", how->path);
	if (ret < 0) {
		place->ops->close(place);
		free(r);
		return ret;
	}
	memset(r->zeros, 0, ZEROS_BYTES);
	r->place = place;
	r->node = (struct blk_node){ .ops = &raw_ops,
				     .drv = place->drv,
				     .bytes = place->fixed_size
						      ? place->bytes / BLK_SECTOR * BLK_SECTOR
						      : ALIGN_UP(place->bytes, BLK_SECTOR),
				     .block = MAX(place->align, 4096),
				     .readonly = place->readonly,
				     .can_discard = place->can_discard };
	*out = &r->node;
	return 0;
}
