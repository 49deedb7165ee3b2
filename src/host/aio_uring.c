#include "host/aio_internal.h"

#include "base/bits.h"
#include "base/err.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEPTH 128 /* requests before the kernel must be asked to take some */

struct aio_uring {
	struct aio aio;
	struct io_uring ring;
	struct aio_req *waiting, **waiting_end; /* that the ring had no room for */
};

static struct aio_uring *of(const struct aio *a)
{
	return container_of(a, struct aio_uring, aio);
}

static int uring_fd(const struct aio *a)
{
	return of(a)->ring.ring_fd;
}

static void prepare(struct io_uring_sqe *sqe, struct aio_req *r)
{
	switch (r->op) {
	case AIO_READ: io_uring_prep_readv(sqe, r->fd, r->iov, r->n_iov, r->off); break;
	case AIO_WRITE: io_uring_prep_writev(sqe, r->fd, r->iov, r->n_iov, r->off); break;
	case AIO_SYNC: io_uring_prep_fsync(sqe, r->fd, IORING_FSYNC_DATASYNC); break;
	case AIO_PUNCH:
	case AIO_ZERO:
		io_uring_prep_fallocate(sqe, r->fd, aio_fallocate_mode(r->op), (off_t)r->off,
					(off_t)r->len);
		break;
	}
	io_uring_sqe_set_data(sqe, r);
}

static void push_waiting(struct aio_uring *u)
{
	while (u->waiting) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

		if (!sqe)
			return;
		prepare(sqe, u->waiting);
		u->waiting = u->waiting->next;
	}
	u->waiting_end = &u->waiting;
}

static void uring_submit(struct aio *a, struct aio_req *r)
{
	struct aio_uring *u = of(a);

	r->next = NULL;
	*u->waiting_end = r;
	u->waiting_end = &r->next;
	push_waiting(u);
}

/* EAGAIN and EBUSY (no memory, completions to reap first) pass: what stays in the ring goes with
 * the next kick or reap. */
static void uring_kick(struct aio *a)
{
	struct aio_uring *u = of(a);

	while (io_uring_sq_ready(&u->ring) && io_uring_submit(&u->ring) > 0)
		push_waiting(u);
}

static unsigned uring_reap(struct aio *a, bool wait)
{
	struct aio_uring *u = of(a);
	struct io_uring_cqe *cqe;
	unsigned n = 0;

	if (wait && io_uring_cq_ready(&u->ring) == 0)
		io_uring_submit_and_wait(&u->ring, 1);
	/* What completes while we look is left for the next time. */
	for (unsigned left = io_uring_cq_ready(&u->ring); left > 0; left--) {
		if (io_uring_peek_cqe(&u->ring, &cqe) != 0)
			break;

		struct aio_req *r = io_uring_cqe_get_data(cqe);

		r->ret = cqe->res;
		io_uring_cqe_seen(&u->ring, cqe);
		a->under_way--;
		n++;
		r->done(r);
	}
	uring_kick(a);
	return n;
}

static void uring_free(struct aio *a)
{
	io_uring_queue_exit(&of(a)->ring);
	free(of(a));
}

static const struct aio_ops uring_ops = {
	.kind = AIO_URING,
	.fd = uring_fd,
	.submit = uring_submit,
	.kick = uring_kick,
	.reap = uring_reap,
	.free = uring_free,
};

static const int needed[] = { IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC,
			      IORING_OP_FALLOCATE };

/* The operations came with different kernels: 5.6 has all of them. */
static bool has_all(struct io_uring *ring)
{
	struct io_uring_probe *p = io_uring_get_probe_ring(ring);
	bool all = p != NULL;

	for (unsigned i = 0; all && i < ARRAY_SIZE(needed); i++)
		all = io_uring_opcode_supported(p, needed[i]);
	io_uring_free_probe(p);
	return all;
}

/* A ring opens files and sockets past any system call filter: this one does disk I/O only, from now
 * on and for whoever writes to its memory. Linux 5.10. */
static int restrict_ring(struct io_uring *ring)
{
	struct io_uring_restriction r[ARRAY_SIZE(needed)] = { 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(needed); i++) {
		r[i].opcode = IORING_RESTRICTION_SQE_OP;
		r[i].sqe_op = (uint8_t)needed[i];
	}
	/* By hand: Debian 12's liburing declares the functions for it and does not export them. */
	if (syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_RESTRICTIONS, r,
		    ARRAY_SIZE(r)) < 0)
		return -errno;
	return syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL,
		       0) < 0
		       ? -errno
		       : 0;
}

int aio_uring_new(struct aio **out, struct err *err)
{
	struct aio_uring *u = calloc(1, sizeof(*u));
	int ret = u ? io_uring_queue_init(DEPTH, &u->ring, IORING_SETUP_R_DISABLED) : -ENOMEM;

	if (ret < 0) {
		free(u);
		return err_set(err, -ret, "this host refuses io_uring");
	}
	if (!has_all(&u->ring) || !(u->ring.features & IORING_FEAT_NODROP) ||
	    restrict_ring(&u->ring) < 0) {
		uring_free(&u->aio);
		return err_say(err, ENOSYS, "this host's io_uring is too old");
	}
	u->aio.ops = &uring_ops;
	u->waiting_end = &u->waiting;
	*out = &u->aio;
	return 0;
}
