/* A network block device as a disk's place, by libnbd. */
#include "base/err.h"
#include "dev/backend/blk_internal.h"

#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <stdlib.h>

#define CHUNK_BYTES MiB /* in one command */

struct blk_nbd {
	struct blk_place place;
	struct nbd_handle *nbd; /* owned */
	struct blk_source source;
	bool can_flush, can_trim, can_zero;
};

static struct blk_nbd *of(struct blk_place *p)
{
	return container_of(p, struct blk_nbd, place);
}

bool blk_is_nbd(const char *path)
{
	static const char *const scheme[] = { "nbd://", "nbds://", "nbd+unix://", "nbds+unix://" };

	for (unsigned i = 0; i < ARRAY_SIZE(scheme); i++)
		if (strncmp(path, scheme[i], strlen(scheme[i])) == 0)
			return true;
	return false;
}

static short events(void *arg)
{
	struct blk_nbd *n = arg;
	unsigned dir = nbd_aio_get_direction(n->nbd);

	if (nbd_aio_is_dead(n->nbd) || nbd_aio_is_closed(n->nbd))
		return 0;
	return (short)((dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
		       (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
}

static void ready(void *arg, short revents)
{
	struct blk_nbd *n = arg;
	unsigned dir = nbd_aio_get_direction(n->nbd);

	/* One of them: the first may change what it waits for. A failure ends the connection, and
	 * with it all commands. */
	if (revents & (POLLIN | POLLHUP | POLLERR) && dir & LIBNBD_AIO_DIRECTION_READ)
		(void)!nbd_aio_notify_read(n->nbd);
	else if (revents & (POLLOUT | POLLHUP | POLLERR) && dir & LIBNBD_AIO_DIRECTION_WRITE)
		(void)!nbd_aio_notify_write(n->nbd);
}

struct command {
	struct fiber *fiber;
	bool done;
	int ret;
};

/* libnbd must not be called from here. */
static int on_done(void *arg, int *error)
{
	struct command *c = arg;

	c->ret = -*error;
	c->done = true;
	fiber_wake(c->fiber);
	return 1; /* forget the command */
}

/* Wait for a command that the call before gave cookie for. */
static int await(struct blk_nbd *n, struct command *c, int64_t cookie)
{
	if (cookie < 0)
		return nbd_get_errno() ? -nbd_get_errno() : -EIO;
	while (!c->done)
		fiber_pause(n->place.drv->fibers);
	return c->ret;
}

static struct command command(struct blk_nbd *n)
{
	return (struct command){ .fiber = fiber_self(n->place.drv->fibers) };
}

#define CALLBACK(c) ((nbd_completion_callback){ .callback = on_done, .user_data = (c) })

/* On the way to or from the server bytes lie in one piece. */
static int transfer(struct blk_nbd *n, bool write, uint64_t off, const struct iovec *iov,
		    unsigned n_iov, uint64_t len)
{
	uint8_t *bounce = malloc(MIN(len, CHUNK_BYTES));
	int ret = bounce ? 0 : -ENOMEM;

	for (uint64_t done = 0, take; done < len && ret == 0; done += take) {
		struct command c = command(n);
		int64_t cookie;

		take = MIN(len - done, CHUNK_BYTES);
		if (write)
			iov_to(iov, n_iov, done, bounce, take);
		cookie = write ? nbd_aio_pwrite(n->nbd, bounce, take, off + done, CALLBACK(&c), 0)
			       : nbd_aio_pread(n->nbd, bounce, take, off + done, CALLBACK(&c), 0);
		ret = await(n, &c, cookie);
		if (ret == 0 && !write)
			iov_from(iov, n_iov, done, bounce, take);
	}
	free(bounce);
	return ret;
}

static int nbd_read(struct blk_place *p, uint64_t off, const struct iovec *iov, unsigned n_iov,
		    uint64_t len)
{
	uint64_t have = off < p->bytes ? MIN(len, p->bytes - off) : 0;

	iov_zero(iov, n_iov, have, len - have);
	return have ? transfer(of(p), false, off, iov, n_iov, have) : 0;
}

static int nbd_write(struct blk_place *p, uint64_t off, const struct iovec *iov, unsigned n_iov,
		     uint64_t len)
{
	if (!range_fits(off, len, p->bytes))
		return -ENOSPC;
	return transfer(of(p), true, off, iov, n_iov, len);
}

static int nbd_sync(struct blk_place *p)
{
	struct blk_nbd *n = of(p);
	struct command c = command(n);

	if (!n->can_flush)
		return 0;
	return await(n, &c, nbd_aio_flush(n->nbd, CALLBACK(&c), 0));
}

static int nbd_discard(struct blk_place *p, uint64_t off, uint64_t len)
{
	struct blk_nbd *n = of(p);
	int ret = 0;

	for (uint64_t take; n->can_trim && len && ret == 0; off += take, len -= take) {
		struct command c = command(n);

		take = MIN(len, GiB);
		ret = await(n, &c, nbd_aio_trim(n->nbd, take, off, CALLBACK(&c), 0));
	}
	return ret;
}

static int nbd_zeroes(struct blk_place *p, uint64_t off, uint64_t len, bool may_unmap)
{
	struct blk_nbd *n = of(p);
	int ret = n->can_zero ? 0 : -EOPNOTSUPP;

	for (uint64_t take; len && ret == 0; off += take, len -= take) {
		struct command c = command(n);

		take = MIN(len, GiB);
		ret = await(n, &c,
			    nbd_aio_zero(n->nbd, take, off, CALLBACK(&c),
					 may_unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE));
	}
	return ret;
}

static int nbd_truncate(struct blk_place *p, uint64_t bytes)
{
	return -ENOTSUP;
}

static int nbd_map(struct blk_place *p, uint64_t off, uint64_t len, bool *is_data, uint64_t *n)
{
	*is_data = true;
	*n = len;
	return 0;
}

static void release(struct blk_nbd *n)
{
	nbd_close(n->nbd);
	free(n);
}

static void nbd_end(struct blk_place *p)
{
	struct blk_nbd *n = of(p);

	blk_driver_remove(p->drv, &n->source);
	(void)!nbd_shutdown(n->nbd, 0);
	release(n);
}

static const struct blk_place_ops nbd_ops = {
	.read = nbd_read,
	.write = nbd_write,
	.flush = nbd_sync,
	.discard = nbd_discard,
	.zero = nbd_zeroes,
	.truncate = nbd_truncate,
	.map = nbd_map,
	.close = nbd_end,
};

static int look(struct blk_nbd *n, const struct blk_open *how, struct err *err)
{
	int64_t bytes = nbd_get_size(n->nbd);
	int64_t least = nbd_get_block_size(n->nbd, LIBNBD_SIZE_MINIMUM);
	bool readonly = nbd_is_read_only(n->nbd) == 1;

	if (bytes < 0)
		return err_say(err, EIO, "%s: %s", how->path, nbd_get_error());
	if (readonly && !how->readonly)
		return err_say(err, EROFS, "%s can only be read: add readonly", how->path);
	if (least > (how->format == BLK_RAW ? BLK_SECTOR : 1))
		return err_say(err, ENOTSUP,
			       "%s wants requests of at least %lld bytes, which this disk cannot "
			       "promise",
			       how->path, (long long)least);
	n->can_flush = nbd_can_flush(n->nbd) == 1;
	n->can_trim = nbd_can_trim(n->nbd) == 1;
	n->can_zero = nbd_can_zero(n->nbd) == 1;
	n->place.bytes = (uint64_t)bytes;
	n->place.readonly = how->readonly;
	n->place.can_discard = n->can_trim && !how->readonly;
	return 0;
}

int blk_nbd_open(struct blk_place **out, struct blk_driver *drv, const struct blk_open *how,
		 struct err *err)
{
	struct blk_nbd *n = calloc(1, sizeof(*n));
	int ret;

	if (!n)
		return err_set(err, ENOMEM, "open %s", how->path);
	n->place =
		(struct blk_place){ .ops = &nbd_ops, .drv = drv, .align = 1, .fixed_size = true };
	n->nbd = nbd_create();
	if (!n->nbd || nbd_connect_uri(n->nbd, how->path) < 0)
		ret = err_say(err, nbd_get_errno() ? nbd_get_errno() : EIO, "%s: %s", how->path,
			      nbd_get_error());
	else
		ret = look(n, how, err);
	if (ret < 0) {
		release(n);
		return ret;
	}
	n->source = (struct blk_source){
		.fd = nbd_aio_get_fd(n->nbd), .events = events, .ready = ready, .arg = n
	};
	blk_driver_add(drv, &n->source);
	*out = &n->place;
	return 0;
}
