/* The driver of a disk: each request runs on a fiber of its own; what finds none waits in line. The
 * loop (or blk_wait) watches the places' descriptors, and lets go on what has been waited for.
 */
#include "dev/backend/blk.h"

#include "base/err.h"
#include "dev/backend/blk_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define N_FIBERS    64
#define MAX_SOURCES (BLK_MAX_CHAIN + 2)

struct req_list {
	struct blk_req *head, *tail;
};

struct blk_image {
	struct blk blk;
	struct blk_driver drv;
	struct blk_node *node; /* owned */
	struct evloop *loop;   /* borrowed; or NULL */
	struct blk_source aio_source, wake_source;
	struct req_list waiting;  /* for a fiber */
	struct req_list finished; /* and not told yet; priv is the result */
	unsigned under_way;
	bool attached;
};

static struct blk_image *of(struct blk *b)
{
	return container_of(b, struct blk_image, blk);
}

static void put(struct req_list *l, struct blk_req *r)
{
	r->next = NULL;
	if (l->head)
		l->tail->next = r;
	else
		l->head = r;
	l->tail = r;
}

static struct blk_req *take(struct req_list *l)
{
	struct blk_req *r = l->head;

	if (r)
		l->head = r->next;
	return r;
}

void blk_driver_add(struct blk_driver *d, struct blk_source *s)
{
	s->next = d->sources;
	d->sources = s;
}

void blk_driver_remove(struct blk_driver *d, struct blk_source *s)
{
	struct blk_source **at = &d->sources;

	while (*at && *at != s)
		at = &(*at)->next;
	if (*at)
		*at = s->next;
}

static int perform(struct blk_node *n, struct blk_req *r)
{
	if (n->readonly && r->op != BLK_READ && r->op != BLK_FLUSH)
		return -EROFS;
	if (r->op != BLK_FLUSH && r->len == 0)
		return 0;
	switch (r->op) {
	case BLK_READ: return n->ops->read(n, r->off, r->iov, r->n_iov, r->len);
	case BLK_WRITE: return n->ops->write(n, r->off, r->iov, r->n_iov, r->len);
	case BLK_FLUSH: return n->readonly ? 0 : n->ops->flush(n);
	case BLK_DISCARD: return n->ops->discard(n, r->off, r->len);
	case BLK_WRITE_ZEROES: return n->ops->zero(n, r->off, r->len, r->may_unmap);
	}
	return -EINVAL;
}

/* A fiber's life: a request, then those that found no fiber. */
static void serve(void *arg)
{
	struct blk_image *m = arg;
	struct blk_req *r;

	while ((r = take(&m->waiting))) {
		int ret = perform(m->node, r);

		r->priv = (void *)(intptr_t)ret;
		put(&m->finished, r);
	}
}

static void tell_finished(struct blk_image *m)
{
	struct blk_req *r;

	while ((r = take(&m->finished))) {
		m->under_way--;
		r->done(r, (int)(intptr_t)r->priv);
	}
}

/* Let everything go on that can. Requests that done submits may finish at once, hence the loop. */
static void go_on(struct blk_image *m)
{
	do {
		fiber_run(m->drv.fibers);
		tell_finished(m);
	} while (m->finished.head);
	aio_kick(m->drv.aio);
}

static void set_events(struct blk_image *m)
{
	for (struct blk_source *s = m->drv.sources; s && m->attached; s = s->next)
		if (s->events)
			evloop_set(m->loop, &s->watch, s->events(s->arg));
}

static short readable(void *arg)
{
	return POLLIN;
}

static void on_aio(void *arg, short revents)
{
	struct blk_image *m = arg;

	aio_reap(m->drv.aio, false);
}

static void on_wake(void *arg, short revents)
{
	struct blk_image *m = arg;
	uint64_t count;

	(void)!read(m->wake_source.fd, &count, sizeof(count));
}

/* The watch of a source carries the image through the source's arg list: see attach. */
struct blk_watch {
	struct blk_image *image;
	struct blk_source *source;
};

static void on_watch(void *arg, short revents)
{
	struct blk_watch *w = arg;
	struct blk_image *m = w->image;

	w->source->ready(w->source->arg, revents);
	go_on(m);
	set_events(m);
}

/* Wait for any source, or only look. */
static void poll_sources(struct blk_image *m, bool wait)
{
	struct pollfd fds[MAX_SOURCES];
	struct blk_source *who[MAX_SOURCES];
	nfds_t n = 0;

	for (struct blk_source *s = m->drv.sources; s && n < MAX_SOURCES; s = s->next) {
		who[n] = s;
		fds[n++] = (struct pollfd){ .fd = s->fd, .events = s->events(s->arg) };
	}
	if (poll(fds, n, wait ? -1 : 0) <= 0)
		return;
	for (nfds_t i = 0; i < n; i++)
		if (fds[i].revents)
			who[i]->ready(who[i]->arg, fds[i].revents);
}

static void image_wait(struct blk *b)
{
	struct blk_image *m = of(b);

	fiber_run(m->drv.fibers);
	aio_kick(m->drv.aio);
	if (!m->finished.head && fiber_busy(m->drv.fibers))
		poll_sources(m, true);
	go_on(m);
}

static void image_submit(struct blk *b, struct blk_req *r)
{
	struct blk_image *m = of(b);
	bool quiet = !m->finished.head;

	m->under_way++;
	put(&m->waiting, r);
	fiber_start(m->drv.fibers, serve, m);
	fiber_run(m->drv.fibers); /* whom it woke on its way */
	/* What is finished already is told from the loop, not from in here. */
	if (quiet && m->finished.head && m->loop) {
		uint64_t one = 1;

		(void)!write(m->wake_source.fd, &one, sizeof(one));
	}
}

static void image_kick(struct blk *b)
{
	struct blk_image *m = of(b);

	aio_kick(m->drv.aio);
	set_events(m);
}

static void image_drain(struct blk *b)
{
	struct blk_image *m = of(b);

	while (m->under_way)
		image_wait(b);
	set_events(m);
}

static void image_info(const struct blk *b, struct blk_info *info)
{
	const struct blk_node *n = container_of(b, struct blk_image, blk)->node;

	*info = (struct blk_info){ .bytes = __atomic_load_n(&n->bytes, __ATOMIC_RELAXED),
				   .block = n->block,
				   .readonly = n->readonly,
				   .can_discard = n->can_discard };
}

struct call {
	int (*fn)(void *arg);
	void *arg;
	int ret;
	bool done;
};

static void call_main(void *arg)
{
	struct call *c = arg;

	c->ret = c->fn(c->arg);
	c->done = true;
}

/* Run fn on a fiber and drive the disk until it is done. Not while the loop does. */
static int image_call(struct blk *b, int (*fn)(void *arg), void *arg)
{
	struct blk_image *m = of(b);
	struct call c = { .fn = fn, .arg = arg };

	while (!fiber_start(m->drv.fibers, call_main, &c))
		image_wait(b);
	while (!c.done)
		image_wait(b);
	return c.ret;
}

static struct blk_node *image_node(struct blk *b)
{
	return of(b)->node;
}

static void detach(struct blk_image *m)
{
	for (struct blk_source *s = m->drv.sources; s && m->attached; s = s->next) {
		evloop_del(m->loop, &s->watch);
		free(s->watch.arg);
	}
	m->attached = false;
	m->loop = NULL;
}

static int attach(struct blk_image *m, struct evloop *loop, struct err *err)
{
	int ret = 0;

	m->loop = loop;
	for (struct blk_source *s = m->drv.sources; s; s = s->next) {
		struct blk_watch *w = malloc(sizeof(*w));

		if (w)
			*w = (struct blk_watch){ .image = m, .source = s };
		else
			ret = err_set(err, ENOMEM, "disk");
		s->watch = (struct ev_watch){ .fd = s->fd, .fn = on_watch, .arg = w };
	}
	m->attached = true;
	for (struct blk_source *s = m->drv.sources; s && ret == 0; s = s->next)
		ret = evloop_add(loop, &s->watch, s->events(s->arg), err);
	return ret;
}

static int close_node(void *arg)
{
	struct blk_node *n = arg;

	return n->ops->close(n);
}

static void release(struct blk_image *m)
{
	aio_free(m->drv.aio);
	if (m->wake_source.fd >= 0)
		close(m->wake_source.fd);
	fiber_pool_free(m->drv.fibers);
	free(m);
}

static int image_close(struct blk *b, struct blk_req *more, struct err *err)
{
	struct blk_image *m = of(b);
	int ret = 0;

	if (m->attached)
		detach(m);
	while (more) {
		struct blk_req *next = more->next;

		image_submit(b, more);
		more = next;
	}
	while (m->under_way)
		image_wait(b);
	if (m->node)
		ret = image_call(b, close_node, m->node);
	release(m);
	return ret < 0 ? err_set(err, -ret, "write the last of it") : 0;
}

static const struct blk_ops image_ops = {
	.submit = image_submit,
	.kick = image_kick,
	.info = image_info,
	.wait = image_wait,
	.drain = image_drain,
	.call = image_call,
	.node = image_node,
	.close = image_close,
};

int blk_place_open(struct blk_place **out, struct blk_driver *drv, const struct blk_open *how,
		   struct err *err)
{
	return blk_is_nbd(how->path) ? blk_nbd_open(out, drv, how, err)
				     : blk_file_open(out, drv, how, err);
}

int blk_node_open(struct blk_node **out, struct blk_driver *drv, const struct blk_open *how,
		  struct blk_chain *chain, struct err *err)
{
	struct blk_place *place;
	int ret = blk_place_open(&place, drv, how, err);

	if (ret < 0)
		return ret;
	for (unsigned i = 0; i < chain->depth; i++) {
		if (place->ino && chain->seen[i].dev == place->dev &&
		    chain->seen[i].ino == place->ino)
			ret = err_say(err, ELOOP, "%s is its own backing file", how->path);
	}
	if (ret == 0 && chain->depth == BLK_MAX_CHAIN)
		ret = err_say(err, ELOOP, "more than %u images stand on each other", BLK_MAX_CHAIN);
	if (ret < 0) {
		place->ops->close(place);
		return ret;
	}
	chain->seen[chain->depth].dev = place->dev;
	chain->seen[chain->depth++].ino = place->ino;
	if (how->format == BLK_QCOW2)
		return qcow2_open(out, place, how, chain, err);
	return blk_raw_open(out, place, how, err);
}

struct open_call {
	struct blk_image *image;
	const struct blk_open *how;
	struct err *err;
};

static int open_node(void *arg)
{
	struct open_call *c = arg;
	struct blk_chain chain = { 0 };

	return blk_node_open(&c->image->node, &c->image->drv, c->how, &chain, c->err);
}

static int make_driver(struct blk_image *m, bool threads, struct err *err)
{
	int ret = fiber_pool_new(&m->drv.fibers, N_FIBERS, err);

	if (ret == 0)
		ret = aio_new(&m->drv.aio, threads ? AIO_THREADS : AIO_BEST, err);
	if (ret < 0)
		return ret;
	m->aio_source = (struct blk_source){
		.fd = aio_fd(m->drv.aio), .events = readable, .ready = on_aio, .arg = m
	};
	m->wake_source.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->wake_source.fd < 0)
		return err_set(err, errno, "disk");
	m->wake_source = (struct blk_source){
		.fd = m->wake_source.fd, .events = readable, .ready = on_wake, .arg = m
	};
	blk_driver_add(&m->drv, &m->aio_source);
	blk_driver_add(&m->drv, &m->wake_source);
	return 0;
}

int blk_open(struct blk **out, struct evloop *loop, const struct blk_open *how, struct err *err)
{
	struct blk_image *m = calloc(1, sizeof(*m));
	struct err here; /* the fiber's; err may be NULL */

	if (!m)
		return err_set(err, ENOMEM, "disk");
	m->blk.ops = &image_ops;
	m->wake_source.fd = -1;

	int ret = make_driver(m, how->threads, &here);

	if (ret < 0) {
		release(m);
		return err_say(err, here.code, "%s", here.msg);
	}
	ret = image_call(&m->blk, open_node, &(struct open_call){ m, how, &here });
	if (ret == 0 && loop)
		ret = attach(m, loop, &here);
	if (ret < 0) {
		if (err)
			*err = here;
		image_close(&m->blk, NULL, NULL);
		return ret;
	}
	*out = &m->blk;
	return 0;
}

struct place_call {
	struct blk_image *image;
	const struct blk_open *how;
	int (*fn)(struct blk_place *p, void *arg, struct err *err);
	void *arg;
	struct err *err;
	struct blk_place *place;
};

static int call_on_place(void *arg)
{
	struct place_call *c = arg;
	int ret = blk_place_open(&c->place, &c->image->drv, c->how, c->err);

	if (ret < 0)
		return ret;
	ret = c->fn(c->place, c->arg, c->err);
	c->place->ops->close(c->place);
	return ret;
}

int blk_on_place(const struct blk_open *how,
		 int (*fn)(struct blk_place *p, void *arg, struct err *err), void *arg,
		 struct err *err)
{
	struct blk_image *m = calloc(1, sizeof(*m));
	struct err here;

	if (!m)
		return err_set(err, ENOMEM, "disk");
	m->blk.ops = &image_ops;
	m->wake_source.fd = -1;

	int ret = make_driver(m, how->threads, &here);

	if (ret == 0)
		ret = image_call(&m->blk, call_on_place,
				 &(struct place_call){ m, how, fn, arg, &here, NULL });
	release(m);
	return ret < 0 ? err_say(err, -ret, "%s", here.msg) : 0;
}

bool blk_format_parse(const char *text, enum blk_format *format)
{
	bool qcow2 = strcmp(text, "qcow2") == 0;

	*format = qcow2 ? BLK_QCOW2 : BLK_RAW;
	return qcow2 || strcmp(text, "raw") == 0;
}

const char *blk_format_name(enum blk_format format)
{
	return format == BLK_QCOW2 ? "qcow2" : "raw";
}

void blk_info(const struct blk *b, struct blk_info *info)
{
	b->ops->info(b, info);
}

void blk_submit(struct blk *b, struct blk_req *r)
{
	b->ops->submit(b, r);
}

void blk_kick(struct blk *b)
{
	b->ops->kick(b);
}

void blk_wait(struct blk *b)
{
	b->ops->wait(b);
}

void blk_drain(struct blk *b)
{
	b->ops->drain(b);
}

int blk_close(struct blk *b, struct err *err)
{
	return b ? b->ops->close(b, NULL, err) : 0;
}
