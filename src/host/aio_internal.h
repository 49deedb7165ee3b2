/* The two ways of struct aio. */
#ifndef HOST_AIO_INTERNAL_H
#define HOST_AIO_INTERNAL_H

#include "host/aio.h"

struct aio_ops {
	enum aio_kind kind;
	int (*fd)(const struct aio *a);
	void (*submit)(struct aio *a, struct aio_req *r);
	void (*kick)(struct aio *a);
	unsigned (*reap)(struct aio *a, bool wait);
	void (*free)(struct aio *a);
};

struct aio {
	const struct aio_ops *ops;
	unsigned under_way;
};

int aio_uring_new(struct aio **out, struct err *err);
int aio_threads_new(struct aio **out, struct err *err);

/* The flags of fallocate(2) for op, and the same for both ways. */
int aio_fallocate_mode(enum aio_op op);

#endif
