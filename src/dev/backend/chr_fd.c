/* Output goes through a queue that a thread of its own empties, so that neither a slow terminal
 * nor a stopped pager holds up a vCPU. Input is read on the event loop's thread into a small
 * buffer: the escape key works even when the guest reads nothing.
 */
#include "dev/backend/chr_fd.h"

#include "base/bits.h"
#include "base/err.h"
#include "host/evloop.h"
#include "host/sandbox_threads.h"
#include "host/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define OUT_LIMIT MiB
#define OUT_SLACK 4096 /* beyond the limit, for writers that may not wait */
#define IN_LIMIT  16384
#define CHUNK	  16384 /* written at once */
#define WAIT_SAFE 4096	/* PIPE_BUF: where poll says that there is room this much fits a pipe */
#define FLUSH_MS  1000
#define ESCAPE	  0x01 /* Ctrl-A */

struct chr_fd {
	struct chr chr;
	struct chr_fd_cfg cfg;
	struct evloop *loop; /* borrowed */
	struct ev_watch watch;

	pthread_mutex_t in_lock; /* guards the input ring and after_escape */
	uint8_t in[IN_LIMIT];
	unsigned in_head, in_n;
	bool after_escape;
	_Atomic bool in_waits; /* the ring has bytes, or the watch rests */
	bool in_is_typed;      /* a person's terminal: read even while the guest takes nothing */

	unsigned chunk; /* bytes that may be written at once and not wait */
	pthread_t writer;
	pthread_mutex_t out_lock; /* guards all below */
	pthread_cond_t out_more, out_less;
	uint8_t *out; /* ring of OUT_LIMIT + OUT_SLACK bytes; owned */
	unsigned out_head, out_n;
	bool unblocked, stop, dead;
	bool room_wanted; /* chr_room said 0: tell front.drained */
};

static struct chr_fd *of(struct chr *b)
{
	return container_of(b, struct chr_fd, chr);
}

/* Hand bytes of the ring to the device. Needs in_lock. */
static void deliver(struct chr_fd *f)
{
	while (f->in_n) {
		unsigned n = MIN(f->in_n, IN_LIMIT - f->in_head);
		unsigned room = f->chr.front.room(f->chr.front.arg);

		if (!room)
			break;
		n = MIN(n, room);
		f->chr.front.rx(f->chr.front.arg, f->in + f->in_head, n);
		f->in_head = (f->in_head + n) % IN_LIMIT;
		f->in_n -= n;
	}
	atomic_store(&f->in_waits, f->in_n != 0);
}

/* Only if there is room: the input side must not wait for the output side. */
static void say(struct chr_fd *f, const char *text)
{
	unsigned n = (unsigned)strlen(text);

	pthread_mutex_lock(&f->out_lock);
	bool fits = f->out_n + n <= OUT_LIMIT;
	pthread_mutex_unlock(&f->out_lock);
	if (fits)
		chr_write(&f->chr, (const uint8_t *)text, n);
}

static void help(struct chr_fd *f)
{
	say(f, "\r\n"
	       "Ctrl-A x  end the machine\r\n"
	       "Ctrl-A p  press the power button\r\n"
	       "Ctrl-A r  reset the machine\r\n"
	       "Ctrl-A c  go on after a disk error stopped the machine\r\n"
	       "Ctrl-A b  send a break on the serial line\r\n"
	       "Ctrl-A h  this help\r\n"
	       "Ctrl-A Ctrl-A  send Ctrl-A\r\n");
}

/* Act on the key behind Ctrl-A; true if it is a byte for the guest. */
static bool escape(struct chr_fd *f, uint8_t key)
{
	const struct chr_escape_fn *e = &f->cfg.escape;

	switch (key) {
	case 'x': e->fn(e->arg, CHR_QUIT); return false;
	case 'p': e->fn(e->arg, CHR_POWER_BUTTON); return false;
	case 'r': e->fn(e->arg, CHR_RESET); return false;
	case 'b':
		if (f->chr.front.rx_break)
			f->chr.front.rx_break(f->chr.front.arg);
		return false;
	case 'c': e->fn(e->arg, CHR_CONTINUE); return false;
	case 'h':
	case '?': help(f); return false;
	default: return key == ESCAPE;
	}
}

/* Needs in_lock. Where the ring is full, what a person types on is lost. */
static void take(struct chr_fd *f, uint8_t byte)
{
	if (f->cfg.escape.fn && f->after_escape) {
		f->after_escape = false;
		if (!escape(f, byte))
			return;
	} else if (f->cfg.escape.fn && byte == ESCAPE) {
		f->after_escape = true;
		return;
	}
	if (f->in_n < IN_LIMIT)
		f->in[(f->in_head + f->in_n++) % IN_LIMIT] = byte;
}

/* Read bytes among which may be keys for us. Needs in_lock. */
static ssize_t read_keys(struct chr_fd *f)
{
	uint8_t buf[512];
	unsigned room = f->in_is_typed ? sizeof(buf) : MIN(IN_LIMIT - f->in_n, sizeof(buf));
	ssize_t n = room ? read(f->watch.fd, buf, room) : -1;

	for (ssize_t i = 0; i < n; i++)
		take(f, buf[i]);
	return n;
}

/* Read the guest's bytes into the ring, which is not full. Needs in_lock. */
static ssize_t read_data(struct chr_fd *f)
{
	unsigned at = (f->in_head + f->in_n) % IN_LIMIT;
	ssize_t n = read(f->watch.fd, f->in + at, MIN(IN_LIMIT - f->in_n, IN_LIMIT - at));

	f->in_n += n > 0 ? (unsigned)n : 0;
	return n;
}

static void on_input(void *arg, short revents)
{
	struct chr_fd *f = arg;
	ssize_t n = 1;

	pthread_mutex_lock(&f->in_lock);
	if (f->in_n < IN_LIMIT || f->in_is_typed)
		n = f->cfg.escape.fn ? read_keys(f) : read_data(f);

	bool is_over = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);

	deliver(f);
	/* End of input, or nobody at the pty, or no room: rest. The pty wakes up when it is
	 * written to, the others when the guest takes something. */
	if (is_over) {
		evloop_set(f->loop, &f->watch, 0);
	} else if (!f->in_is_typed && f->in_n == IN_LIMIT) {
		evloop_set(f->loop, &f->watch, 0);
		atomic_store(&f->in_waits, true);
	}
	pthread_mutex_unlock(&f->in_lock);
}

static void chr_fd_accept(struct chr *b)
{
	struct chr_fd *f = of(b);

	if (!atomic_load(&f->in_waits))
		return;
	pthread_mutex_lock(&f->in_lock);

	bool was_full = f->in_n == IN_LIMIT;

	deliver(f);
	if (was_full && f->in_n < IN_LIMIT)
		evloop_set(f->loop, &f->watch, POLLIN);
	pthread_mutex_unlock(&f->in_lock);
}

static void chr_fd_start(struct chr *b)
{
	struct chr_fd *f = of(b);

	if (f->cfg.in_fd < 0)
		return;
	f->watch = (struct ev_watch){ .fd = f->cfg.in_fd, .fn = on_input, .arg = f };
	if (evloop_add(f->loop, &f->watch, POLLIN, NULL) < 0)
		f->cfg.in_fd = -1;
}

/* Needs out_lock. Forget the oldest bytes so that n more fit below the limit. */
static void make_room(struct chr_fd *f, unsigned n)
{
	if (f->out_n + n <= OUT_LIMIT)
		return;

	unsigned drop = f->out_n + n - (unsigned)OUT_LIMIT;

	f->out_head = (f->out_head + drop) % (OUT_LIMIT + OUT_SLACK);
	f->out_n -= drop;
}

/* Put bytes into the output ring, which has room for n; how many went in at once. Needs out_lock.
 */
static unsigned put(struct chr_fd *f, const uint8_t *buf, unsigned n)
{
	unsigned at = (f->out_head + f->out_n) % (OUT_LIMIT + OUT_SLACK);

	n = MIN(n, (unsigned)(OUT_LIMIT + OUT_SLACK) - at);
	memcpy(f->out + at, buf, n);
	f->out_n += n;
	return n;
}

static void chr_fd_write(struct chr *b, const uint8_t *buf, unsigned n)
{
	struct chr_fd *f = of(b);

	pthread_mutex_lock(&f->out_lock);
	if (f->cfg.lossy)
		make_room(f, n);
	while (n && !f->dead) {
		while (f->out_n >= OUT_LIMIT && !f->unblocked && !f->dead)
			pthread_cond_wait(&f->out_less, &f->out_lock);

		/* One that may not wait fills the slack; what is beyond that is lost. */
		unsigned limit = f->out_n < OUT_LIMIT ? OUT_LIMIT : OUT_LIMIT + OUT_SLACK;
		unsigned part = put(f, buf, MIN(n, limit - f->out_n));

		if (!part)
			break;
		buf += part;
		n -= part;
	}
	pthread_cond_signal(&f->out_more);
	pthread_mutex_unlock(&f->out_lock);
}

/* A lossy backend always has room, and a dead one: what it takes goes nowhere. */
static unsigned chr_fd_room(struct chr *b)
{
	struct chr_fd *f = of(b);
	unsigned room = OUT_LIMIT;

	pthread_mutex_lock(&f->out_lock);
	if (!f->cfg.lossy && !f->dead)
		room -= MIN(f->out_n, room);
	if (!room)
		f->room_wanted = true;
	pthread_mutex_unlock(&f->out_lock);
	return room;
}

/* Tell who waits for room, once half of it is free. Needs out_lock, and drops it meanwhile. */
static void tell_drained(struct chr_fd *f)
{
	if (!f->room_wanted || f->out_n > OUT_LIMIT / 2)
		return;
	f->room_wanted = false;
	pthread_mutex_unlock(&f->out_lock);
	if (f->chr.front.drained)
		f->chr.front.drained(f->chr.front.arg);
	pthread_mutex_lock(&f->out_lock);
}

static void chr_fd_unblock(struct chr *b, bool on)
{
	struct chr_fd *f = of(b);

	pthread_mutex_lock(&f->out_lock);
	f->unblocked = on;
	pthread_cond_broadcast(&f->out_less);
	pthread_mutex_unlock(&f->out_lock);
}

/* Write a chunk once the reader can take it. Needs out_lock, and drops it meanwhile. False if the
 * reader is gone for good.
 */
static bool write_chunk(struct chr_fd *f)
{
	unsigned n = MIN(f->out_n, (unsigned)(OUT_LIMIT + OUT_SLACK) - f->out_head);
	uint8_t chunk[CHUNK];
	struct pollfd p = { .fd = f->cfg.out_fd, .events = POLLOUT };
	ssize_t done = 0;

	n = MIN(n, f->chunk);
	memcpy(chunk, f->out + f->out_head, n);
	pthread_mutex_unlock(&f->out_lock);
	if (poll(&p, 1, 50) > 0)
		done = write(f->cfg.out_fd, chunk, n);

	bool gone = done < 0 && errno != EAGAIN && errno != EINTR && errno != EIO;

	pthread_mutex_lock(&f->out_lock);
	/* A lossy writer may have dropped some of them meanwhile: then a few come twice. */
	if (done > 0) {
		done = MIN(done, (ssize_t)f->out_n);
		f->out_head = (f->out_head + (unsigned)done) % (OUT_LIMIT + OUT_SLACK);
		f->out_n -= (unsigned)done;
		pthread_cond_broadcast(&f->out_less);
	}
	return !gone;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void *writer_thread(void *arg)
{
	static const enum sandbox_kind kind = SANDBOX_WRITER;
	struct chr_fd *f = arg;
	int64_t give_up = INT64_MAX;

	sandbox_thread_is(&kind);
	pthread_mutex_lock(&f->out_lock);
	for (;;) {
		while (!f->out_n && !f->stop)
			pthread_cond_wait(&f->out_more, &f->out_lock);
		if (f->stop && give_up == INT64_MAX)
			give_up = now_ms() + FLUSH_MS;
		if (f->stop && (!f->out_n || now_ms() >= give_up))
			break;
		if (!write_chunk(f)) {
			f->dead = true; /* EPIPE and the like: from now on output goes nowhere */
			f->out_n = 0;
			pthread_cond_broadcast(&f->out_less);
		}
		tell_drained(f);
	}
	pthread_mutex_unlock(&f->out_lock);
	return NULL;
}

static void close_fds(const struct chr_fd_cfg *cfg)
{
	if (!cfg->close_fds)
		return;
	if (cfg->in_fd >= 0 && cfg->in_fd != cfg->out_fd)
		close(cfg->in_fd);
	close(cfg->out_fd);
	if (cfg->keep_fd)
		close(cfg->keep_fd);
}

static void release(struct chr_fd *f)
{
	if (f->cfg.raw)
		terminal_restore();
	close_fds(&f->cfg);
	pthread_mutex_destroy(&f->in_lock);
	pthread_mutex_destroy(&f->out_lock);
	pthread_cond_destroy(&f->out_more);
	pthread_cond_destroy(&f->out_less);
	free(f->out);
	free(f);
}

static void chr_fd_free(struct chr *b)
{
	struct chr_fd *f = of(b);

	if (f->watch.fn)
		evloop_del(f->loop, &f->watch);
	pthread_mutex_lock(&f->out_lock);
	f->stop = true;
	pthread_cond_broadcast(&f->out_more);
	pthread_mutex_unlock(&f->out_lock);
	pthread_join(f->writer, NULL);
	release(f);
}

static const struct chr_ops chr_fd_ops = {
	.start = chr_fd_start,
	.write = chr_fd_write,
	.room = chr_fd_room,
	.accept = chr_fd_accept,
	.unblock = chr_fd_unblock,
	.free = chr_fd_free,
};

int chr_fd_new(struct chr **out, struct evloop *loop, const struct chr_fd_cfg *cfg, struct err *err)
{
	struct chr_fd *f = calloc(1, sizeof(*f));

	if (!f) {
		close_fds(cfg);
		return err_set(err, ENOMEM, "console");
	}
	f->chr.ops = &chr_fd_ops;
	f->cfg = *cfg;
	f->loop = loop;
	f->in_is_typed = cfg->escape.fn && cfg->in_fd >= 0 && isatty(cfg->in_fd);
	f->chunk = fcntl(cfg->out_fd, F_GETFL) & O_NONBLOCK ? CHUNK : WAIT_SAFE;
	pthread_mutex_init(&f->in_lock, NULL);
	pthread_mutex_init(&f->out_lock, NULL);
	pthread_cond_init(&f->out_more, NULL);
	pthread_cond_init(&f->out_less, NULL);
	f->out = malloc(OUT_LIMIT + OUT_SLACK);

	int ret = f->out ? pthread_create(&f->writer, NULL, writer_thread, f) : ENOMEM;

	if (ret) {
		release(f);
		return err_set(err, ret, "console");
	}
	pthread_setname_np(f->writer, "console");
	*out = &f->chr;
	return 0;
}
