/* A disk's contents: what a block device reads and writes. Raw and qcow2 are formats, files and
 * network block devices are places; blk_throttle stands before another.
 *
 * Requests are asynchronous. A blk belongs to one thread: its evloop's, on which all of blk_submit,
 * blk_kick and the requests' done are called; or, opened without a loop, its caller's, who drives
 * it with blk_wait. blk_open and blk_close are called before and after the loop serves it. A disk
 * of several queues has the queues' work on that one thread.
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

#define BLK_SECTOR    512
#define BLK_MAX_IOV   512	   /* in one request */
#define BLK_MAX_BYTES (1ull << 61) /* of a disk */
/* A chain of backing files is at most so long, the disk itself included. */
#define BLK_MAX_CHAIN 16

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
	unsigned n_iov; /* at most BLK_MAX_IOV */
	/* ret: 0 or -errno (EIO, ENOSPC ...). Never from inside blk_submit. */
	void (*done)(struct blk_req *r, int ret);
	struct blk_req *next; /* the backend's, while it has the request */
	void *priv;	      /* the same */
};

enum blk_format { BLK_RAW, BLK_QCOW2 };

/* "raw" or "qcow2". */
bool blk_format_parse(const char *text, enum blk_format *format);
const char *blk_format_name(enum blk_format format);

struct blk_open {
	const char *path;	/* a file, a block device, or nbd:// nbds:// nbd+unix:// URI */
	enum blk_format format; /* said by the user, or raw; never guessed */
	bool readonly;
	bool direct;		  /* O_DIRECT: past the host's page cache */
	bool backing;		  /* qcow2: follow the backing file that the header names */
	const char *backing_path; /* or this one, whatever the header says; may be NULL */
	enum blk_format backing_format;
	const char *snapshot; /* qcow2, readonly: an internal snapshot's id or name; or NULL */
	bool no_lock;	      /* the caller holds the lock, or nobody else can know the file */
	bool threads;	      /* I/O by threads also where the host has io_uring */
	bool as_is;	      /* qcow2: no repair of a dirty image; for who checks it */
};

struct blk_info {
	uint64_t bytes; /* a multiple of 512 */
	uint32_t block; /* what reads and writes are best aligned to, bytes */
	bool readonly, can_discard;
};

/* Open for use on loop's thread, or by blk_wait if loop is NULL. Takes the image's lock: a second
 * writer gets -EBUSY and a sentence that says who could have it. loop is borrowed; how's strings
 * need not outlive the call. -EINVAL with a sentence for an image that is not valid, -ENOTSUP for
 * one that needs what this program does not know.
 */
int blk_open(struct blk **out, struct evloop *loop, const struct blk_open *how, struct err *err);
/* Any thread. */
void blk_info(const struct blk *b, struct blk_info *info);
/* Begin r; any number may be under way. Order is kept only by waiting for done. What was submitted
 * may rest until blk_kick, so that several go to the host at once. */
void blk_submit(struct blk *b, struct blk_req *r);
void blk_kick(struct blk *b);
/* On the loop's thread: wait until nothing is under way; done is called meanwhile. Limits are
 * passed over: this is for a device's reset. */
void blk_drain(struct blk *b);
/* Without a loop: wait until something happened, and call done of what has finished. Returns at
 * once if nothing is under way. */
void blk_wait(struct blk *b);
/* Finish what is under way, flush, release the lock and free. From another thread than the loop's,
 * while the loop is still there; done is then called on the caller's. The error is what the flush
 * met, or what a write met that was told to nobody. NULL is fine. */
int blk_close(struct blk *b, struct err *err);

/* The following serve programs without a loop; they wait. */

/* Submit r and wait; its done is not called. 0 or -errno. */
int blk_do(struct blk *b, struct blk_req *r);
/* Whether path is a network block device's. */
bool blk_is_nbd(const char *path);

/* What a range of the disk consists of. */
enum blk_kind {
	BLK_HOLE, /* nothing is stored: zeros */
	BLK_ZERO, /* said to be zeros */
	BLK_DATA,
	BLK_COMPRESSED,
};
struct blk_extent {
	uint64_t off, len; /* of the disk, bytes */
	enum blk_kind kind;
	unsigned depth;	   /* 0: in this image, 1: in its backing file, ... */
	bool has_host_off; /* DATA: where in that depth's file */
	uint64_t host_off;
};
/* Say what begins at off, and for how long it stays the same: 1 to len bytes. */
int blk_map(struct blk *b, uint64_t off, uint64_t len, struct blk_extent *e);
/* Make the disk larger (new bytes are zeros) or smaller, to a multiple of 512. -ENOTSUP where the
 * place has a size of its own. */
int blk_resize(struct blk *b, uint64_t bytes, struct err *err);

/* Limits; 0: none. burst: what may come at once after a rest; 0: a tenth of a second's. */
struct blk_limits {
	uint64_t iops, iops_burst, bytes_per_s, bytes_burst;
};
/* A blk that passes what it gets to under (owned from now on, also on failure), no faster than the
 * limits. loop is not NULL. Flushes are not limited. */
int blk_throttle_new(struct blk **out, struct evloop *loop, struct blk *under,
		     const struct blk_limits *limits, struct err *err);

#endif
