#include "host/aio_internal.h"

#include "base/err.h"
#include "base/log.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <stddef.h>

int aio_fallocate_mode(enum aio_op op)
{
	return op == AIO_PUNCH ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE;
}

int aio_new(struct aio **out, enum aio_kind kind, struct err *err)
{
	struct err why;

	if (kind != AIO_THREADS) {
		int ret = aio_uring_new(out, &why);

		if (ret == 0)
			return 0;
		if (kind == AIO_URING)
			return err_say(err, why.code, "%s", why.msg);
		log_say(LOG_INFO, "%s; threads do disk I/O instead", why.msg);
	}
	return aio_threads_new(out, err);
}

void aio_free(struct aio *a)
{
	if (a)
		a->ops->free(a);
}

enum aio_kind aio_kind(const struct aio *a)
{
	return a->ops->kind;
}

int aio_fd(const struct aio *a)
{
	return a->ops->fd(a);
}

void aio_submit(struct aio *a, struct aio_req *r)
{
	a->under_way++;
	a->ops->submit(a, r);
}

void aio_kick(struct aio *a)
{
	a->ops->kick(a);
}

unsigned aio_reap(struct aio *a, bool wait)
{
	a->ops->kick(a);
	return a->ops->reap(a, wait && a->under_way);
}
