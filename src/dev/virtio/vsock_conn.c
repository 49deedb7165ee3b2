#include "dev/virtio/vsock_internal.h"

#include "base/err.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIRST_PORT     (1u << 30) /* of ours: far from those that services have */
#define GREETING_BYTES 32
#define EVENTS_AT_ONCE 64
#define DATA_IOVS      64

static struct vsock_conn **bucket(struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	return &v->bucket[(host_port * 31 + guest_port) % VSOCK_BUCKETS];
}

struct vsock_conn *vsock_find(struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	struct vsock_conn *c = *bucket(v, host_port, guest_port);

	while (c && (c->host_port != host_port || c->guest_port != guest_port))
		c = c->next_in_bucket;
	return c;
}

static void enter(struct vsock_conn *c)
{
	struct vsock_conn **b = bucket(c->v, c->host_port, c->guest_port);

	c->next_in_bucket = *b;
	*b = c;
}

static void leave(struct vsock_conn *c)
{
	struct vsock_conn **b = bucket(c->v, c->host_port, c->guest_port);

	while (*b && *b != c)
		b = &(*b)->next_in_bucket;
	if (*b)
		*b = c->next_in_bucket;
}

static void unqueue(struct vsock_conn *c)
{
	struct vsock *v = c->v;
	struct vsock_conn *before = NULL;

	if (!c->queued)
		return;
	for (struct vsock_conn *q = v->queue; q != c; q = q->next_in_queue)
		before = q;
	*(before ? &before->next_in_queue : &v->queue) = c->next_in_queue;
	if (v->queue_tail == c)
		v->queue_tail = before;
	c->queued = false;
}

static void close_socket(struct vsock_conn *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->readable = c->writable = false;
}

/* epoll may have events of c at hand still: it is freed later. */
void vsock_conn_free(struct vsock_conn *c)
{
	struct vsock *v = c->v;

	unqueue(c);
	leave(c);
	close_socket(c);
	*(c->prev ? &c->prev->next : &v->first) = c->next;
	if (c->next)
		c->next->prev = c->prev;
	c->state = CONN_DEAD;
	c->next = v->dead;
	v->dead = c;
	v->n_conns--;
}

void vsock_reap(struct vsock *v)
{
	while (v->dead) {
		struct vsock_conn *c = v->dead;

		v->dead = c->next;
		free(c->out);
		free(c);
	}
}

void vsock_close_all(struct vsock *v)
{
	while (v->first)
		vsock_conn_free(v->first);
	v->n_resets = 0;
}

void vsock_fini_conns(struct vsock *v)
{
	vsock_close_all(v);
	vsock_reap(v);
	if (v->listen_fd >= 0) {
		close(v->listen_fd);
		unlinkat(v->folder, v->name, 0);
	}
	own_close(&v->epoll_fd);
	own_close(&v->folder);
}

/* A connection over fd, which it owns from now on. NULL: too many, or no memory. */
static struct vsock_conn *conn_new(struct vsock *v, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET };
	struct vsock_conn *c = v->n_conns < VSOCK_MAX_CONNS ? calloc(1, sizeof(*c)) : NULL;

	ev.data.ptr = c;
	if (!c || epoll_ctl(v->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
		close(fd);
		free(c);
		return NULL;
	}
	c->v = v;
	c->fd = fd;
	c->next = v->first;
	if (c->next)
		c->next->prev = c;
	v->first = c;
	v->n_conns++;
	return c;
}

static uint32_t credit(const struct vsock_conn *c)
{
	uint32_t under_way = c->sent - c->peer_forwarded;

	return under_way < c->peer_alloc ? c->peer_alloc - under_way : 0;
}

static bool may_read(const struct vsock_conn *c)
{
	return c->state == CONN_OPEN && c->readable && !c->eof &&
	       !(c->guest_shut & VSOCK_SHUTDOWN_RECEIVE);
}

bool vsock_conn_has_news(const struct vsock_conn *c)
{
	return c->news || (may_read(c) && credit(c));
}

void vsock_conn_queue(struct vsock_conn *c)
{
	struct vsock *v = c->v;

	if (c->queued || !vsock_conn_has_news(c))
		return;
	c->queued = true;
	c->next_in_queue = NULL;
	*(v->queue_tail ? &v->queue_tail->next_in_queue : &v->queue) = c;
	v->queue_tail = c;
}

void vsock_conn_abort(struct vsock_conn *c)
{
	close_socket(c);
	c->state = CONN_ENDS;
	c->news = NEWS_RST;
	vsock_conn_queue(c);
}

/* Tell the guest what was forwarded before it believes half of the buffer to be full. */
static void count_forwarded(struct vsock_conn *c, uint32_t n)
{
	c->forwarded += n;
	if (c->received - c->told > VSOCK_BUF_BYTES / 2) {
		c->news |= NEWS_CREDIT;
		vsock_conn_queue(c);
	}
}

/* All that the guest sent has gone out: do what it wanted done then. */
static void flushed(struct vsock_conn *c)
{
	if (c->guest_shut & VSOCK_SHUTDOWN_SEND)
		shutdown(c->fd, SHUT_WR);
	if (c->guest_shut == VSOCK_SHUTDOWN_BOTH)
		vsock_conn_abort(c);
}

static void flush(struct vsock_conn *c)
{
	while (c->out_n && c->writable) {
		uint32_t n = MIN(c->out_n, VSOCK_BUF_BYTES - c->out_head);
		ssize_t done = send(c->fd, c->out + c->out_head, n, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (done < 0 && errno == EAGAIN) {
			c->writable = false;
			return;
		}
		if (done < 0) {
			vsock_conn_abort(c);
			return;
		}
		c->out_head = (c->out_head + (uint32_t)done) % VSOCK_BUF_BYTES;
		c->out_n -= (uint32_t)done;
		count_forwarded(c, (uint32_t)done);
	}
	if (!c->out_n)
		flushed(c);
}

/* It goes by way of the buffer: its size is the credit that the guest has. */
bool vsock_conn_take(struct vsock_conn *c, const struct virtq_chain *chain, size_t off, uint32_t n)
{
	if (n > VSOCK_BUF_BYTES - c->out_n || (c->guest_shut & VSOCK_SHUTDOWN_SEND))
		return false;
	if (!c->out)
		c->out = malloc(VSOCK_BUF_BYTES);
	if (!c->out)
		return false;
	c->received += n;
	while (n) {
		uint32_t at = (c->out_head + c->out_n) % VSOCK_BUF_BYTES;
		uint32_t part = MIN(n, VSOCK_BUF_BYTES - at);

		virtq_read(chain, off, c->out + at, part);
		c->out_n += part;
		off += part;
		n -= part;
	}
	flush(c);
	return true;
}

void vsock_conn_shut(struct vsock_conn *c, uint32_t flags)
{
	c->guest_shut |= flags & VSOCK_SHUTDOWN_BOTH;
	if (!c->out_n)
		flushed(c);
}

/* The end of what the host has to say; of the rest too, perhaps, but epoll has yet to tell. */
static void end_of_input(struct vsock_conn *c)
{
	struct pollfd p = { .fd = c->fd };

	c->eof = true;
	c->hung_up |= poll(&p, 1, 0) > 0 && (p.revents & POLLHUP);
	c->news |= NEWS_SHUTDOWN;
}

uint32_t vsock_conn_fill(struct vsock_conn *c, const struct virtq_chain *chain, size_t len)
{
	struct iovec iov[DATA_IOVS];
	struct msghdr msg = { .msg_iov = iov };
	uint64_t left = credit(c);
	ssize_t got;

	for (unsigned i = 0; i < chain->n_in && left && msg.msg_iovlen < DATA_IOVS; i++) {
		struct iovec v = chain->iov[chain->n_out + i];
		size_t skip = MIN(len, v.iov_len);

		len -= skip;
		v.iov_base = (uint8_t *)v.iov_base + skip;
		v.iov_len = MIN(v.iov_len - skip, left);
		left -= v.iov_len;
		if (v.iov_len)
			iov[msg.msg_iovlen++] = v;
	}
	/* A buffer of the driver's with room for no data is of no use, but no end of input either.
	 */
	if (!msg.msg_iovlen)
		return 0;
	got = recvmsg(c->fd, &msg, MSG_DONTWAIT);
	if (got < 0 && errno == EAGAIN)
		c->readable = false;
	else if (got < 0)
		vsock_conn_abort(c);
	else if (got == 0)
		end_of_input(c);
	return got > 0 ? (uint32_t)got : 0;
}

/* Connecting to a Unix socket does not take time: it is done or refused at once. */
struct vsock_conn *vsock_connect(struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct vsock_conn *c;
	int len = snprintf(to.sun_path, sizeof(to.sun_path), "%s_%u", v->path.sun_path, host_port);

	if (fd < 0 || len >= (int)sizeof(to.sun_path) ||
	    connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		return NULL;
	c = conn_new(v, move_fd(&fd));
	if (!c)
		return NULL;
	c->state = CONN_OPEN;
	c->host_port = host_port;
	c->guest_port = guest_port;
	c->news = NEWS_RESPONSE;
	enter(c);
	vsock_conn_queue(c);
	return c;
}

void vsock_conn_accepted(struct vsock_conn *c)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "OK %u\n", c->host_port);

	c->state = CONN_OPEN;
	/* Nothing was sent before, so there is room, unless the client has gone. */
	if (send(c->fd, text, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) != len)
		vsock_conn_abort(c);
}

static uint32_t free_port(struct vsock *v, uint32_t guest_port)
{
	do {
		v->last_port = MAX(v->last_port + 1, FIRST_PORT) % UINT32_MAX;
	} while (vsock_find(v, v->last_port, guest_port));
	return v->last_port;
}

/* The port in "CONNECT port\n"; -1 if it is not that. */
static int64_t parse_greeting(const char *buf)
{
	static const char word[] = "CONNECT ";
	int64_t port = 0;

	if (strncmp(buf, word, strlen(word)) != 0 || buf[strlen(word)] == '\n')
		return -1;
	for (buf += strlen(word); *buf >= '0' && *buf <= '9' && port <= UINT32_MAX; buf++)
		port = port * 10 + (*buf - '0');
	return *buf == '\n' && port <= UINT32_MAX ? port : -1;
}

/* Read the line, and no byte more: what follows it is the guest's. */
static void read_greeting(struct vsock_conn *c)
{
	char buf[GREETING_BYTES + 1] = { 0 };
	ssize_t got = recv(c->fd, buf, GREETING_BYTES, MSG_PEEK | MSG_DONTWAIT);
	const char *end = got > 0 ? memchr(buf, '\n', (size_t)got) : NULL;
	int64_t port;

	if (got < 0 && errno == EAGAIN)
		return;
	if (!end) {
		if (got <= 0 || got == GREETING_BYTES)
			vsock_conn_free(c);
		return;
	}
	port = parse_greeting(buf);
	if (port < 0 || recv(c->fd, buf, (size_t)(end + 1 - buf), MSG_DONTWAIT) < 0) {
		vsock_conn_free(c);
		return;
	}
	c->state = CONN_ASKED;
	c->guest_port = (uint32_t)port;
	c->host_port = free_port(c->v, c->guest_port);
	c->news = NEWS_REQUEST;
	enter(c);
	vsock_conn_queue(c);
}

/* Nobody is let in before there is a driver. */
static void accept_client(struct vsock *v)
{
	int fd = accept4(v->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	if (v->w.running)
		conn_new(v, fd);
	else
		close(fd);
}

static void on_socket(struct vsock_conn *c, uint32_t events)
{
	if (c->state == CONN_DEAD || c->fd < 0)
		return;
	c->readable |= !!(events & (EPOLLIN | EPOLLHUP | EPOLLRDHUP | EPOLLERR));
	c->writable |= !!(events & (EPOLLOUT | EPOLLHUP | EPOLLERR));
	if (!c->hung_up && (events & (EPOLLHUP | EPOLLERR))) {
		c->hung_up = true;
		if (c->eof)
			c->news |= NEWS_SHUTDOWN; /* it was only half of it before */
	}
	if (c->state == CONN_GREETS) {
		read_greeting(c);
	} else if (c->state == CONN_ASKED && c->hung_up) {
		vsock_conn_abort(c);
	} else if (c->state == CONN_OPEN) {
		if (c->out_n)
			flush(c);
		vsock_conn_queue(c);
	}
}

static void on_epoll(void *arg, short revents)
{
	struct vsock *v = arg;
	struct epoll_event ev[EVENTS_AT_ONCE];
	int n;

	vsock_reap(v);
	n = epoll_wait(v->epoll_fd, ev, EVENTS_AT_ONCE, 0);
	for (int i = 0; i < n; i++) {
		if (ev[i].data.ptr)
			on_socket(ev[i].data.ptr, ev[i].events);
		else
			accept_client(v);
	}
	vsock_pump(v);
}

/* The sandbox lets nobody remove a file by its path. */
static int open_folder(struct vsock *v, struct err *err)
{
	char folder[sizeof(v->path.sun_path)];
	char *slash;

	memcpy(folder, v->path.sun_path, sizeof(folder));
	slash = strrchr(folder, '/');
	snprintf(v->name, sizeof(v->name), "%s", slash ? slash + 1 : folder);
	if (slash)
		slash[slash == folder ? 1 : 0] = 0;
	v->folder = open(slash ? folder : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return v->folder < 0 ? err_set(err, errno, "open the folder of %s", v->path.sun_path) : 0;
}

int vsock_listen(struct vsock *v, struct err *err)
{
	struct epoll_event ev = { .events = EPOLLIN };

	int ret = open_folder(v, err);

	if (ret < 0)
		return ret;
	v->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (v->epoll_fd < 0)
		return err_set(err, errno, "epoll");
	AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&v->path, sizeof(v->path)) < 0)
		return err_set(err, errno, "socket %s", v->path.sun_path);
	v->listen_fd = move_fd(&fd);
	if (listen(v->listen_fd, SOMAXCONN) < 0 ||
	    epoll_ctl(v->epoll_fd, EPOLL_CTL_ADD, v->listen_fd, &ev) < 0)
		return err_set(err, errno, "socket %s", v->path.sun_path);
	v->watch = (struct ev_watch){ .fd = v->epoll_fd, .fn = on_epoll, .arg = v };
	return evloop_add(v->loop, &v->watch, POLLIN, err);
}
