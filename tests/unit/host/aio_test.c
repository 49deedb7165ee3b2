#include "host/aio.h"

#include "base/bits.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#define N 200 /* more than a ring holds */

struct one {
	struct aio_req r;
	struct iovec iov;
	uint8_t buf[512];
	bool done;
};

static void on_done(struct aio_req *r)
{
	container_of(r, struct one, r)->done = true;
}

static int temporary(void)
{
	char path[] = "/tmp/cleave-aio.XXXXXX";
	int fd = mkstemp(path);

	CHECK(fd >= 0);
	unlink(path);
	return fd;
}

static void submit_all(struct aio *a, struct one *o, int fd, enum aio_op op)
{
	for (unsigned i = 0; i < N; i++) {
		o[i].iov = (struct iovec){ o[i].buf, sizeof(o[i].buf) };
		o[i].done = false;
		o[i].r = (struct aio_req){ .op = op,
					   .fd = fd,
					   .off = i * 512,
					   .iov = &o[i].iov,
					   .n_iov = 1,
					   .done = on_done };
		aio_submit(a, &o[i].r);
	}
	for (unsigned n = 0; n < N;)
		n += aio_reap(a, true);
}

static void try(enum aio_kind kind)
{
	struct one *o = calloc(N, sizeof(*o));
	struct aio *a;
	int fd = temporary();

	if (aio_new(&a, kind, NULL) < 0) {
		free(o);
		skip();
	}
	CHECK_EQ(aio_kind(a), kind);
	CHECK_EQ(aio_reap(a, true), 0); /* nothing is under way: does not wait */
	for (unsigned i = 0; i < N; i++)
		memset(o[i].buf, (int)i, 512);
	submit_all(a, o, fd, AIO_WRITE);
	for (unsigned i = 0; i < N; i++)
		memset(o[i].buf, 0xee, 512);
	submit_all(a, o, fd, AIO_READ);
	for (unsigned i = 0; i < N; i++) {
		CHECK(o[i].done);
		CHECK_EQ(o[i].r.ret, 512);
		CHECK_EQ(o[i].buf[0], (uint8_t)i);
		CHECK_EQ(o[i].buf[511], (uint8_t)i);
	}

	struct one *x = &o[0];
	struct pollfd p = { .fd = aio_fd(a), .events = POLLIN };

	x->r.op = AIO_SYNC;
	aio_submit(a, &x->r);
	aio_kick(a);
	CHECK_EQ(poll(&p, 1, 5000), 1);
	CHECK_EQ(aio_reap(a, false), 1);
	CHECK_EQ(x->r.ret, 0);

	x->r.op = AIO_READ;
	x->r.fd = 99999;
	aio_submit(a, &x->r);
	CHECK_EQ(aio_reap(a, true), 1);
	CHECK_EQ(x->r.ret, -EBADF);
	aio_free(a);
	close(fd);
	free(o);
}

TEST(the_ring_reads_and_writes)
{
	try(AIO_URING);
}

TEST(threads_do_the_same)
{
	try(AIO_THREADS);
}

TESTS(T(the_ring_reads_and_writes), T(threads_do_the_same))
