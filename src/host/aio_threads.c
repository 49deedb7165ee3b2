#include "host/aio_internal.h"

#include "base/bits.h"
#include "base/err.h"
#include "host/sandbox_threads.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define N_THREADS 8

struct aio_list {
	struct aio_req *head, *tail;
};

struct aio_threads {
	struct aio aio;
	pthread_t thread[N_THREADS];
	unsigned n;
	int event_fd;
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t more;
	struct aio_list todo, finished;
	bool stop;
};

static struct aio_threads *of(const struct aio *a)
{
	return container_of(a, struct aio_threads, aio);
}

static void put(struct aio_list *l, struct aio_req *r)
{
	r->next = NULL;
	if (l->head)
		l->tail->next = r;
	else
		l->head = r;
	l->tail = r;
}

static int64_t perform(const struct aio_req *r)
{
	int64_t ret = -1;

	do {
		switch (r->op) {
		case AIO_READ: ret = preadv(r->fd, r->iov, (int)r->n_iov, (off_t)r->off); break;
		case AIO_WRITE: ret = pwritev(r->fd, r->iov, (int)r->n_iov, (off_t)r->off); break;
		case AIO_SYNC: ret = fdatasync(r->fd); break;
		case AIO_PUNCH:
		case AIO_ZERO:
			ret = fallocate(r->fd, aio_fallocate_mode(r->op), (off_t)r->off,
					(off_t)r->len);
			break;
		}
	} while (ret < 0 && errno == EINTR);
	return ret < 0 ? -errno : ret;
}

static void *worker(void *arg)
{
	static const enum sandbox_kind kind = SANDBOX_DISK_WORKER;
	struct aio_threads *t = arg;

	sandbox_thread_is(&kind);
	pthread_mutex_lock(&t->lock);
	for (;;) {
		while (!t->todo.head && !t->stop)
			pthread_cond_wait(&t->more, &t->lock);
		if (!t->todo.head)
			break;

		struct aio_req *r = t->todo.head;
		uint64_t one = 1;

		t->todo.head = r->next;
		pthread_mutex_unlock(&t->lock);
		r->ret = perform(r);
		pthread_mutex_lock(&t->lock);
		put(&t->finished, r);
		/* A full counter is readable already. */
		(void)!write(t->event_fd, &one, sizeof(one));
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

static int threads_fd(const struct aio *a)
{
	return of(a)->event_fd;
}

static void threads_submit(struct aio *a, struct aio_req *r)
{
	struct aio_threads *t = of(a);

	pthread_mutex_lock(&t->lock);
	put(&t->todo, r);
	pthread_cond_signal(&t->more);
	pthread_mutex_unlock(&t->lock);
}

static void threads_kick(struct aio *a)
{
}

static unsigned threads_reap(struct aio *a, bool wait)
{
	struct aio_threads *t = of(a);
	struct pollfd p = { .fd = t->event_fd, .events = POLLIN };
	struct aio_req *r;
	uint64_t count;
	unsigned n = 0;

	if (wait)
		(void)!poll(&p, 1, -1);
	pthread_mutex_lock(&t->lock);
	(void)!read(t->event_fd, &count, sizeof(count));
	r = t->finished.head;
	t->finished.head = NULL;
	pthread_mutex_unlock(&t->lock);
	while (r) {
		struct aio_req *next = r->next;

		a->under_way--;
		n++;
		r->done(r);
		r = next;
	}
	return n;
}

static void threads_free(struct aio *a)
{
	struct aio_threads *t = of(a);

	pthread_mutex_lock(&t->lock);
	t->stop = true;
	pthread_cond_broadcast(&t->more);
	pthread_mutex_unlock(&t->lock);
	for (unsigned i = 0; i < t->n; i++)
		pthread_join(t->thread[i], NULL);
	close(t->event_fd);
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->more);
	free(t);
}

static const struct aio_ops threads_ops = {
	.kind = AIO_THREADS,
	.fd = threads_fd,
	.submit = threads_submit,
	.kick = threads_kick,
	.reap = threads_reap,
	.free = threads_free,
};

int aio_threads_new(struct aio **out, struct err *err)
{
	struct aio_threads *t = calloc(1, sizeof(*t));
	int code = 0;

	if (!t)
		return err_set(err, ENOMEM, "disk I/O");
	t->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (t->event_fd < 0) {
		code = errno;
		free(t);
		return err_set(err, code, "disk I/O");
	}
	t->aio.ops = &threads_ops;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->more, NULL);
	for (; t->n < N_THREADS && code == 0; t->n += code == 0)
		code = pthread_create(&t->thread[t->n], NULL, worker, t);
	if (t->n == 0) {
		threads_free(&t->aio);
		return err_set(err, code, "start threads for disk I/O");
	}
	*out = &t->aio;
	return 0;
}
