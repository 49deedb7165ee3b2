/* A disk's contents: what a block device reads and writes. blk_raw, blk_qcow2 and blk_nbd are
 * formats and places, blk_throttle stands before another.
 *
 * Requests are asynchronous. A blk belongs to one thread, its evloop's, on which all of blk_submit,
 * blk_resize and the requests' done are called; blk_open and blk_free before and after that loop
 * serves it. A disk of several queues has the queues' work on that one thread.
 */
#ifndef DEV_BACKEND_BLK_H
#define DEV_BACKEND_BLK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct blk;
struct blk_req;
struct err;
struct evloop;

enum blk_op {
	BLK_READ,
	BLK_WRITE,
	BLK_FLUSH,	  /* all writes that are done are durable when this is done */
	BLK_DISCARD,	  /* may deallocate; reads give zeros or the old bytes after */
	BLK_WRITE_ZEROES, /* reads give zeros after */
};

/* Owned by the caller and untouched until done. off and len in bytes, multiples of 512, inside the
 * disk: the caller checked. The iovecs hold len bytes; they may be guest memory, which others write
 * to at the same time.
 */
struct blk_req {
	enum blk_op op;
	bool may_unmap; /* WRITE_ZEROES: may deallocate */
	uint64_t off, len;
	const struct iovec *iov;
	unsigned n_iov;
	/* ret: 0 or -errno (EIO, ENOSPC ...). Never from inside blk_submit. */
	void (*done)(struct blk_req *r, int ret);
	struct blk_req *next; /* the backend's, while it has the request */
	void *priv;	      /* the same */
};

enum blk_format { BLK_RAW, BLK_QCOW2 };

struct blk_open {
	const char *path;	/* a file, a block device, or nbd:// nbds:// nbd+unix:// URI */
	enum blk_format format; /* said by the user, or raw; never guessed */
	bool readonly;
	bool direct;		  /* O_DIRECT: past the host's page cache */
	bool backing;		  /* qcow2: follow the backing file that the header names */
	const char *backing_path; /* or this one, whatever the header says; may be NULL */
	enum blk_format backing_format;
};

struct blk_info {
	uint64_t bytes; /* a multiple of 512 */
	uint32_t block; /* what reads and writes are best aligned to, bytes */
	bool readonly, can_discard;
};

/* Open for use on loop's thread. Takes the image's lock: a second writer gets -EBUSY and a sentence
 * that says who could have it. loop is borrowed. */
int blk_open(struct blk **out, struct evloop *loop, const struct blk_open *how, struct err *err);
void blk_info(const struct blk *b, struct blk_info *info);
/* Begin r; any number may be under way. Order is kept only by waiting for done. */
void blk_submit(struct blk *b, struct blk_req *r);
/* Finish what is under way, flush, release the lock. The loop may be gone already. */
int blk_close(struct blk *b, struct err *err);

/* Limits; 0: none. burst: what may come at once after a rest. */
struct blk_limits {
	uint64_t iops, iops_burst, bytes_per_s, bytes_burst;
};
/* A blk that passes what it gets to under (owned from now on), no faster than the limits. */
int blk_throttle_new(struct blk **out, struct evloop *loop, struct blk *under,
		     const struct blk_limits *limits, struct err *err);

#endif
