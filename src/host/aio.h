/* File I/O that does not block its thread: by io_uring, or where the host refuses that (containers
 * often do), by a pool of threads.
 *
 * A struct aio belongs to one thread, which submits, reaps, and on which done is called.
 */
#ifndef HOST_AIO_H
#define HOST_AIO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct aio;
struct err;

enum aio_op {
	AIO_READ,
	AIO_WRITE,
	AIO_SYNC,  /* fdatasync */
	AIO_PUNCH, /* make [off, off+len) a hole, which reads as zeros */
	AIO_ZERO,  /* make it zeros that stay allocated */
};

/* Embedded in its owner and untouched, as are the iovecs and what they point to, until done. */
struct aio_req {
	enum aio_op op;
	int fd;			 /* borrowed */
	uint64_t off, len;	 /* bytes; len counts for PUNCH and ZERO only */
	const struct iovec *iov; /* READ and WRITE: at most IOV_MAX */
	unsigned n_iov;
	/* Called by aio_reap. It may submit. */
	void (*done)(struct aio_req *r);
	int64_t ret; /* bytes done (READ and WRITE; fewer than asked are possible), 0, or -errno */
	struct aio_req *next;
};

enum aio_kind { AIO_BEST, AIO_URING, AIO_THREADS };

/* Errors: the host's. AIO_BEST is io_uring if the host has it. */
int aio_new(struct aio **out, enum aio_kind kind, struct err *err);
/* Nothing may be under way. NULL is fine. */
void aio_free(struct aio *a);
/* AIO_URING or AIO_THREADS */
enum aio_kind aio_kind(const struct aio *a);

/* Readable while requests have finished that were not reaped. Borrowed. */
int aio_fd(const struct aio *a);
/* Begin r, at the latest at the next aio_kick or aio_reap. */
void aio_submit(struct aio *a, struct aio_req *r);
void aio_kick(struct aio *a);
/* Call done of what has finished; wait for the first if nothing has and wait is set and something
 * is under way. Returns how many. */
unsigned aio_reap(struct aio *a, bool wait);

#endif
