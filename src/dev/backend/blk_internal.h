/* The parts of a disk: a driver that runs requests on fibers, a format (node) whose functions run
 * on those, and a place that the format's bytes are in. Functions that say "fiber" may pause.
 */
#ifndef DEV_BACKEND_BLK_INTERNAL_H
#define DEV_BACKEND_BLK_INTERNAL_H

#include "base/bits.h"
#include "dev/backend/blk.h"
#include "dev/backend/iov.h"
#include "dev/backend/range_lock.h"
#include "host/aio.h"
#include "host/evloop.h"
#include "host/fiber.h"

struct blk_ops {
	void (*submit)(struct blk *b, struct blk_req *r);
	void (*kick)(struct blk *b);
	void (*info)(const struct blk *b, struct blk_info *info);
	void (*wait)(struct blk *b);
	void (*drain)(struct blk *b);
	int (*call)(struct blk *b, int (*fn)(void *arg), void *arg); /* run fn on a fiber, wait */
	struct blk_node *(*node)(struct blk *b);
	/* more: requests to begin before the end, linked by next */
	int (*close)(struct blk *b, struct blk_req *more, struct err *err);
};

struct blk {
	const struct blk_ops *ops;
};

/* A descriptor that the driver waits for; embedded in a place. */
struct blk_source {
	int fd;
	short (*events)(void *arg); /* what to poll for now */
	void (*ready)(void *arg, short revents);
	void *arg;
	struct ev_watch watch; /* the driver's */
	struct blk_source *next;
};

struct blk_node;
struct blk_place;

/* What all parts of one disk share. */
struct blk_driver {
	struct fiber_pool *fibers;
	struct aio *aio;
	struct blk_source *sources;
};

/* Add before the loop serves the disk; forget s before it is freed. */
void blk_driver_add(struct blk_driver *d, struct blk_source *s);
void blk_driver_remove(struct blk_driver *d, struct blk_source *s);

/* Where bytes are. All but size and close: fiber; 0 or -errno. Bytes beyond the end read as zeros.
 */
struct blk_place_ops {
	int (*read)(struct blk_place *p, uint64_t off, const struct iovec *iov, unsigned n_iov,
		    uint64_t len);
	/* Beyond the end: makes it longer, unless its size is fixed. */
	int (*write)(struct blk_place *p, uint64_t off, const struct iovec *iov, unsigned n_iov,
		     uint64_t len);
	int (*flush)(struct blk_place *p);
	/* A hint: 0 also where nothing was done. */
	int (*discard)(struct blk_place *p, uint64_t off, uint64_t len);
	/* -EOPNOTSUPP where only writing zeros would do it. */
	int (*zero)(struct blk_place *p, uint64_t off, uint64_t len, bool may_unmap);
	int (*truncate)(struct blk_place *p, uint64_t bytes);
	/* How long what begins at off stays data (*is_data) or hole: 1 to len bytes. */
	int (*map)(struct blk_place *p, uint64_t off, uint64_t len, bool *is_data, uint64_t *n);
	void (*close)(struct blk_place *p);
};

struct blk_place {
	const struct blk_place_ops *ops;
	struct blk_driver *drv; /* borrowed */
	uint64_t bytes;		/* the size now */
	uint32_t align;		/* what it is best accessed by, bytes */
	bool fixed_size;	/* a device: what was never written is not zeros */
	bool readonly, can_discard;
	uint64_t dev, ino; /* of a file: to find loops in chains; else 0 */
};

/* Outside of a fiber. */
int blk_file_open(struct blk_place **out, struct blk_driver *drv, const struct blk_open *how,
		  struct err *err);
int blk_nbd_open(struct blk_place **out, struct blk_driver *drv, const struct blk_open *how,
		 struct err *err);
int blk_place_open(struct blk_place **out, struct blk_driver *drv, const struct blk_open *how,
		   struct err *err);

/* Open a place without a format, and run fn on it in a fiber of a driver of its own; wait for it.
 */
int blk_on_place(const struct blk_open *how,
		 int (*fn)(struct blk_place *p, void *arg, struct err *err), void *arg,
		 struct err *err);

/* A flat buffer to or from a place. Fiber. */
int place_read(struct blk_place *p, uint64_t off, void *buf, uint64_t len);
int place_write(struct blk_place *p, uint64_t off, const void *buf, uint64_t len);

/* The bytes of a disk in a format. All but close: fiber; 0 or -errno. */
struct blk_node_ops {
	int (*read)(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov,
		    uint64_t len);
	int (*write)(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov,
		     uint64_t len);
	int (*flush)(struct blk_node *n);
	int (*discard)(struct blk_node *n, uint64_t off, uint64_t len);
	int (*zero)(struct blk_node *n, uint64_t off, uint64_t len, bool may_unmap);
	int (*resize)(struct blk_node *n, uint64_t bytes, struct err *err);
	int (*map)(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e);
	/* Write what is in memory only, free, close the place. Fiber. */
	int (*close)(struct blk_node *n);
};

struct blk_node {
	const struct blk_node_ops *ops;
	struct blk_driver *drv; /* borrowed */
	uint64_t bytes;
	uint32_t block;
	bool readonly, can_discard;
};

/* Open a format on place, which the node owns from now on, also on failure. Fiber. chain: how many
 * images stand above this one. */
struct blk_chain {
	unsigned depth;
	struct {
		uint64_t dev, ino;
	} seen[BLK_MAX_CHAIN];
};
int blk_raw_open(struct blk_node **out, struct blk_place *place, const struct blk_open *how,
		 struct err *err);
int qcow2_open(struct blk_node **out, struct blk_place *place, const struct blk_open *how,
	       struct blk_chain *chain, struct err *err);
/* Open the place and the format that how says. Fiber. */
int blk_node_open(struct blk_node **out, struct blk_driver *drv, const struct blk_open *how,
		  struct blk_chain *chain, struct err *err);

#endif
