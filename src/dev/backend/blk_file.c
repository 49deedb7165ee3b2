/* A file or a block device as a disk's place. With O_DIRECT everything that is not aligned goes
 * through a bounce buffer, and a write of parts of blocks reads them first; a range lock keeps such
 * a write alone on its blocks.
 */
#include "base/err.h"
#include "base/own.h"
#include "dev/backend/blk_internal.h"
#include "host/filelock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define BOUNCE_BYTES MiB
#define MAX_ALIGN    (64 * KiB)

struct blk_file {
	struct blk_place place;
	int fd;
	bool direct, no_punch, no_zero; /* the host has said that it cannot */
	struct range_lock writes;	/* with direct: blocks that are being written */
};

static struct blk_file *of(struct blk_place *p)
{
	return container_of(p, struct blk_file, place);
}

struct file_wait {
	struct aio_req r;
	struct fiber *fiber;
};

static void on_done(struct aio_req *r)
{
	fiber_wake(container_of(r, struct file_wait, r)->fiber);
}

/* One request to the host. Fiber. The host cancels what a thread had begun that ends (the loop's,
 * at the end of a machine): such a request is begun again. */
static int64_t perform(struct blk_file *f, const struct aio_req *what)
{
	struct blk_driver *d = f->place.drv;
	struct file_wait w;

	do {
		w.r = *what;
		w.r.fd = f->fd;
		w.r.done = on_done;
		w.fiber = fiber_self(d->fibers);
		aio_submit(d->aio, &w.r);
		fiber_pause(d->fibers);
	} while (w.r.ret == -EAGAIN || w.r.ret == -EINTR || w.r.ret == -ECANCELED);
	return w.r.ret;
}

/* Read or write all of it, as far as the file goes: *done gets the bytes. Fiber. */
static int transfer(struct blk_file *f, enum aio_op op, uint64_t off, const struct iovec *iov,
		    unsigned n_iov, uint64_t len, uint64_t *done)
{
	struct iovec rest[BLK_MAX_IOV + 2];

	for (*done = 0; *done < len;) {
		struct aio_req r = { .op = op, .off = off + *done, .iov = rest };

		r.n_iov = iov_part(rest, ARRAY_SIZE(rest), iov, n_iov, *done, len - *done);
		if (r.n_iov == 0)
			return -EINVAL;

		int64_t ret = perform(f, &r);

		if (ret < 0)
			return (int)ret;
		if (ret == 0)
			return op == AIO_READ ? 0 : -ENOSPC;
		*done += (uint64_t)ret;
	}
	return 0;
}

static int plain_read(struct blk_file *f, uint64_t off, const struct iovec *iov, unsigned n_iov,
		      uint64_t len)
{
	uint64_t done;
	int ret = transfer(f, AIO_READ, off, iov, n_iov, len, &done);

	if (ret == 0 && done < len)
		iov_zero(iov, n_iov, done, len - done);
	return ret;
}

static int plain_write(struct blk_file *f, uint64_t off, const struct iovec *iov, unsigned n_iov,
		       uint64_t len)
{
	uint64_t done;
	int ret = transfer(f, AIO_WRITE, off, iov, n_iov, len, &done);

	if (!f->place.fixed_size)
		f->place.bytes = MAX(f->place.bytes, off + done);
	return ret;
}

static bool is_aligned(const struct blk_file *f, uint64_t off, const struct iovec *iov,
		       unsigned n_iov, uint64_t len)
{
	uint64_t all = off | len;

	for (unsigned i = 0; i < n_iov; i++)
		all |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
	return all % f->place.align == 0;
}

static int bounce_read(struct blk_file *f, uint64_t off, const struct iovec *iov, unsigned n_iov,
		       uint64_t len)
{
	uint64_t align = f->place.align;
	void *buf;
	int ret = 0;

	if (posix_memalign(&buf, MAX_ALIGN, BOUNCE_BYTES) != 0)
		return -ENOMEM;
	for (uint64_t done = 0; done < len && ret == 0;) {
		uint64_t begin = (off + done) & ~(align - 1), head = off + done - begin;
		uint64_t span = MIN(ALIGN_UP(off + len, align) - begin, BOUNCE_BYTES);
		uint64_t n = MIN(span - head, len - done);

		ret = plain_read(f, begin, &(struct iovec){ buf, span }, 1, span);
		if (ret == 0)
			iov_from(iov, n_iov, done, (uint8_t *)buf + head, n);
		done += n;
	}
	free(buf);
	return ret;
}

/* Needs the range to be locked alone where off or len is not aligned. */
static int bounce_write(struct blk_file *f, uint64_t off, const struct iovec *iov, unsigned n_iov,
			uint64_t len)
{
	uint64_t align = f->place.align;
	void *buf;
	int ret = 0;

	if (posix_memalign(&buf, MAX_ALIGN, BOUNCE_BYTES) != 0)
		return -ENOMEM;
	for (uint64_t done = 0; done < len && ret == 0;) {
		uint64_t begin = (off + done) & ~(align - 1), head = off + done - begin;
		uint64_t span = MIN(ALIGN_UP(off + len, align) - begin, BOUNCE_BYTES);
		uint64_t n = MIN(span - head, len - done);
		struct iovec flat = { buf, span };

		if (head || n < span)
			ret = plain_read(f, begin, &flat, 1, span);
		if (ret == 0) {
			iov_to(iov, n_iov, done, (uint8_t *)buf + head, n);
			ret = plain_write(f, begin, &flat, 1, span);
		}
		done += n;
	}
	free(buf);
	return ret;
}

static int file_read(struct blk_place *p, uint64_t off, const struct iovec *iov, unsigned n_iov,
		     uint64_t len)
{
	struct blk_file *f = of(p);

	if (!f->direct || is_aligned(f, off, iov, n_iov, len))
		return plain_read(f, off, iov, n_iov, len);
	return bounce_read(f, off, iov, n_iov, len);
}

/* Lock the blocks that [off, off+len) touches. */
static void lock_blocks(struct blk_file *f, struct range_hold *h, uint64_t off, uint64_t len,
			bool alone)
{
	uint64_t begin = off & ~(uint64_t)(f->place.align - 1);

	range_acquire(f->place.drv->fibers, &f->writes, h, begin,
		      ALIGN_UP(off + len, (uint64_t)f->place.align) - begin, alone);
}

static int file_write(struct blk_place *p, uint64_t off, const struct iovec *iov, unsigned n_iov,
		      uint64_t len)
{
	struct blk_file *f = of(p);
	struct range_hold h;
	int ret;

	if (!f->direct)
		return plain_write(f, off, iov, n_iov, len);
	lock_blocks(f, &h, off, len, (off | len) % p->align != 0);
	if (is_aligned(f, off, iov, n_iov, len))
		ret = plain_write(f, off, iov, n_iov, len);
	else
		ret = bounce_write(f, off, iov, n_iov, len);
	range_release(&f->writes, &h);
	return ret;
}

static int file_flush(struct blk_place *p)
{
	return (int)perform(of(p), &(struct aio_req){ .op = AIO_SYNC });
}

static bool is_refusal(int64_t ret)
{
	return ret == -EOPNOTSUPP || ret == -ENOSYS || ret == -ENODEV || ret == -EINVAL ||
	       ret == -EPERM;
}

static int allocate(struct blk_file *f, enum aio_op op, uint64_t off, uint64_t len)
{
	struct range_hold h;
	int ret;

	if (!f->direct)
		return (int)perform(f, &(struct aio_req){ .op = op, .off = off, .len = len });
	lock_blocks(f, &h, off, len, true);
	ret = (int)perform(f, &(struct aio_req){ .op = op, .off = off, .len = len });
	range_release(&f->writes, &h);
	return ret;
}

/* -EOPNOTSUPP, and no more tries, where the host refuses. */
static int try_allocate(struct blk_file *f, enum aio_op op, bool *never, uint64_t off, uint64_t len)
{
	int ret = *never ? -EOPNOTSUPP : allocate(f, op, off, len);

	if (!is_refusal(ret))
		return ret;
	/* A device refuses a range that is not aligned to its blocks, which says nothing. */
	if (ret != -EINVAL)
		*never = true;
	return -EOPNOTSUPP;
}

static int file_discard(struct blk_place *p, uint64_t off, uint64_t len)
{
	struct blk_file *f = of(p);

	if (off >= p->bytes)
		return 0;

	int ret = try_allocate(f, AIO_PUNCH, &f->no_punch, off, MIN(len, p->bytes - off));

	return ret == -EOPNOTSUPP ? 0 : ret;
}

static int file_zero(struct blk_place *p, uint64_t off, uint64_t len, bool may_unmap)
{
	struct blk_file *f = of(p);
	int ret = -EOPNOTSUPP;

	if (may_unmap && range_fits(off, len, p->bytes))
		ret = try_allocate(f, AIO_PUNCH, &f->no_punch, off, len);
	if (ret == -EOPNOTSUPP)
		ret = try_allocate(f, AIO_ZERO, &f->no_zero, off, len);
	if (ret == 0 && !p->fixed_size)
		p->bytes = MAX(p->bytes, off + len);
	return ret;
}

static int file_truncate(struct blk_place *p, uint64_t bytes)
{
	struct blk_file *f = of(p);

	if (p->fixed_size)
		return -ENOTSUP;
	if (ftruncate(f->fd, (off_t)bytes) < 0)
		return -errno;
	p->bytes = bytes;
	return 0;
}

static int file_map(struct blk_place *p, uint64_t off, uint64_t len, bool *is_data, uint64_t *n)
{
	int fd = of(p)->fd;
	off_t data = lseek(fd, (off_t)off, SEEK_DATA);
	uint64_t next;

	if (data < 0 && errno == ENXIO) {
		*is_data = false; /* no more data up to the end */
		*n = len;
		return 0;
	}
	*is_data = data < 0 || (uint64_t)data <= off;
	next = (uint64_t)data;
	if (*is_data) {
		off_t hole = data < 0 ? -1 : lseek(fd, (off_t)off, SEEK_HOLE);

		/* Where the file system cannot tell, all is data. */
		next = hole < 0 ? off + len : (uint64_t)hole;
	}
	*n = next > off ? MIN(next - off, len) : len;
	return 0;
}

static void file_close(struct blk_place *p)
{
	close(of(p)->fd);
	free(of(p));
}

static const struct blk_place_ops file_ops = {
	.read = file_read,
	.write = file_write,
	.flush = file_flush,
	.discard = file_discard,
	.zero = file_zero,
	.truncate = file_truncate,
	.map = file_map,
	.close = file_close,
};

/* What O_DIRECT wants offsets, lengths and addresses aligned to. */
static uint32_t direct_align(int fd, bool is_device)
{
	struct statx st;
	int sector;

	if (is_device && ioctl(fd, BLKSSZGET, &sector) == 0 && sector >= BLK_SECTOR &&
	    (sector & (sector - 1)) == 0)
		return (uint32_t)sector;
#ifdef STATX_DIOALIGN
	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) == 0 &&
	    (st.stx_mask & STATX_DIOALIGN) && st.stx_dio_offset_align)
		return MAX(st.stx_dio_offset_align, MAX(st.stx_dio_mem_align, BLK_SECTOR));
#else
	(void)st;
#endif
	return 4096;
}

static int open_fd(const struct blk_open *how, struct err *err)
{
	/* Not to wait for whoever writes to a FIFO. */
	int flags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (how->readonly ? O_RDONLY : O_RDWR);
	int fd = open(how->path, flags | (how->direct ? O_DIRECT : 0));

	if (fd < 0 && how->direct && errno == EINVAL)
		return err_say(err, EINVAL,
			       "%s is on a file system without direct I/O: leave direct out",
			       how->path);
	if (fd < 0 && errno == EACCES && !how->readonly)
		return err_say(err, EACCES,
			       "%s cannot be opened for writing: permission denied; readonly "
			       "may do",
			       how->path);
	return fd < 0 ? err_set(err, errno, "open %s", how->path) : fd;
}

int blk_file_open(struct blk_place **out, struct blk_driver *drv, const struct blk_open *how,
		  struct err *err)
{
	AUTO_FD int fd = open_fd(how, err);
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return err_set(err, errno, "look at %s", how->path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_say(err, EINVAL, "%s is neither a file nor a block device", how->path);

	off_t end = lseek(fd, 0, SEEK_END);
	int ret = how->no_lock ? 0 : filelock_take(fd, !how->readonly, how->path, err);

	if (end < 0)
		return err_set(err, errno, "find the size of %s", how->path);
	if (ret < 0)
		return ret;

	struct blk_file *f = calloc(1, sizeof(*f));

	if (!f)
		return err_set(err, ENOMEM, "open %s", how->path);
	f->place = (struct blk_place){
		.ops = &file_ops,
		.drv = drv,
		.bytes = (uint64_t)end,
		.align = how->direct ? direct_align(fd, S_ISBLK(st.st_mode)) : 1,
		.fixed_size = S_ISBLK(st.st_mode),
		.readonly = how->readonly,
		.can_discard = !how->readonly,
		.dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev,
		.ino = S_ISBLK(st.st_mode) ? UINT64_MAX : st.st_ino,
	};
	f->direct = how->direct;
	if (f->place.align > MAX_ALIGN || (f->place.align & (f->place.align - 1))) {
		free(f);
		return err_say(err, ENOTSUP, "%s wants direct I/O aligned to more than 64 KiB",
			       how->path);
	}
	f->fd = move_fd(&fd);
	*out = &f->place;
	return 0;
}
