/* Limits by two buckets, one of requests and one of bytes, that fill at their rates up to their
 * bursts. A request passes while neither bucket is empty and takes what it costs, so a bucket can
 * go into debt for one large request, which those behind it wait for.
 */
#include "base/err.h"
#include "dev/backend/blk_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

struct bucket {
	double rate;  /* a second; 0: no limit */
	double burst; /* what it holds at most */
	double level;
};

struct blk_throttle {
	struct blk blk;
	struct blk *under;   /* owned */
	struct evloop *loop; /* borrowed */
	struct ev_watch watch;
	struct bucket ops, bytes;
	int64_t filled_ns; /* when, CLOCK_MONOTONIC */
	struct blk_req *head, *tail;
};

static struct blk_throttle *of(struct blk *b)
{
	return container_of(b, struct blk_throttle, blk);
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static void fill(struct blk_throttle *t)
{
	int64_t now = now_ns();
	double seconds = (double)(now - t->filled_ns) / 1e9;

	t->filled_ns = now;
	t->ops.level = MIN(t->ops.burst, t->ops.level + t->ops.rate * seconds);
	t->bytes.level = MIN(t->bytes.burst, t->bytes.level + t->bytes.rate * seconds);
}

/* Seconds until there is something in it. */
static double wait_for(const struct bucket *b)
{
	return b->rate == 0 || b->level > 0 ? 0 : -b->level / b->rate + 1e-4;
}

static bool take(struct blk_throttle *t, const struct blk_req *r)
{
	if (wait_for(&t->ops) > 0 || wait_for(&t->bytes) > 0)
		return false;
	t->ops.level -= 1;
	if (r->op == BLK_READ || r->op == BLK_WRITE)
		t->bytes.level -= (double)r->len;
	return true;
}

static void arm(struct blk_throttle *t)
{
	double seconds = MAX(wait_for(&t->ops), wait_for(&t->bytes));
	int64_t ns = MAX((int64_t)(MIN(seconds, 3600) * 1e9), 1);
	struct itimerspec when = { .it_value = { ns / 1000000000, ns % 1000000000 } };

	timerfd_settime(t->watch.fd, 0, &when, NULL);
}

/* Pass on what may go. */
static void pass(struct blk_throttle *t)
{
	fill(t);
	while (t->head && take(t, t->head)) {
		struct blk_req *r = t->head;

		t->head = r->next;
		blk_submit(t->under, r);
	}
	if (t->head)
		arm(t);
}

static void on_timer(void *arg, short revents)
{
	struct blk_throttle *t = arg;
	uint64_t count;

	(void)!read(t->watch.fd, &count, sizeof(count));
	pass(t);
	blk_kick(t->under);
}

static void throttle_submit(struct blk *b, struct blk_req *r)
{
	struct blk_throttle *t = of(b);

	if (r->op == BLK_FLUSH) {
		blk_submit(t->under, r);
		return;
	}
	r->next = NULL;
	if (t->head) {
		t->tail->next = r;
		t->tail = r;
		return;
	}
	t->head = t->tail = r;
	pass(t);
}

static void throttle_kick(struct blk *b)
{
	blk_kick(of(b)->under);
}

static void throttle_info(const struct blk *b, struct blk_info *info)
{
	blk_info(container_of(b, struct blk_throttle, blk)->under, info);
}

static void throttle_wait(struct blk *b)
{
	blk_wait(of(b)->under);
}

static void throttle_drain(struct blk *b)
{
	struct blk_throttle *t = of(b);

	while (t->head) {
		struct blk_req *r = t->head;

		t->head = r->next;
		blk_submit(t->under, r);
	}
	blk_drain(t->under);
}

static int throttle_call(struct blk *b, int (*fn)(void *arg), void *arg)
{
	struct blk *under = of(b)->under;

	return under->ops->call(under, fn, arg);
}

static struct blk_node *throttle_node(struct blk *b)
{
	struct blk *under = of(b)->under;

	return under->ops->node(under);
}

/* What still waits goes at once: nobody is slowed by it any more. */
static int throttle_close(struct blk *b, struct blk_req *more, struct err *err)
{
	struct blk_throttle *t = of(b);
	int ret;

	evloop_del(t->loop, &t->watch);
	close(t->watch.fd);
	if (t->head)
		t->tail->next = more;
	ret = t->under->ops->close(t->under, t->head ? t->head : more, err);
	free(t);
	return ret;
}

static const struct blk_ops throttle_ops = {
	.submit = throttle_submit,
	.kick = throttle_kick,
	.info = throttle_info,
	.wait = throttle_wait,
	.drain = throttle_drain,
	.call = throttle_call,
	.node = throttle_node,
	.close = throttle_close,
};

static struct bucket make_bucket(uint64_t rate, uint64_t burst)
{
	double room = burst ? (double)burst : MAX((double)rate / 10, 1);

	return (struct bucket){ .rate = (double)rate, .burst = room, .level = room };
}

int blk_throttle_new(struct blk **out, struct evloop *loop, struct blk *under,
		     const struct blk_limits *limits, struct err *err)
{
	struct blk_throttle *t = calloc(1, sizeof(*t));
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	int ret = !t	   ? err_set(err, ENOMEM, "disk limits")
		  : fd < 0 ? err_set(err, errno, "disk limits")
			   : 0;

	if (ret == 0) {
		*t = (struct blk_throttle){
			.blk.ops = &throttle_ops,
			.under = under,
			.loop = loop,
			.watch = { .fd = fd, .fn = on_timer, .arg = t },
			.ops = make_bucket(limits->iops, limits->iops_burst),
			.bytes = make_bucket(limits->bytes_per_s, limits->bytes_burst),
			.filled_ns = now_ns(),
		};
		ret = evloop_add(loop, &t->watch, POLLIN, err);
	}
	if (ret < 0) {
		if (fd >= 0)
			close(fd);
		free(t);
		blk_close(under, NULL);
		return ret;
	}
	*out = &t->blk;
	return 0;
}
