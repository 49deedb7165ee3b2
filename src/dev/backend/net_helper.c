/* The helper process of user networking: libslirp between the machine's frame rings and sockets of
 * the host. It is shut in before the first frame: it may open sockets, and nothing else (sandbox
 * below). Frames come from a hostile guest; rings come from a machine that the guest may have taken
 * over.
 *
 * One thread, one loop: frames from the machine, then libslirp's sockets. What libslirp sends goes
 * to the machine's ring. When that has little room libslirp is not called at all, so that TCP's
 * windows fill up instead of frames being lost; what it sends beyond the room while it is called is
 * queued.
 */
#include "dev/backend/net.h"

#include "base/bits.h"
#include "base/own.h"
#include "dev/backend/net_helper.h"
#include "host/sandbox.h"
#include "net/ether.h"
#include "net/finish.h"
#include "net/resolver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <seccomp.h>
#include <signal.h>
#include <slirp/libslirp.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#define LOW_ROOM     (RING_DATA_BYTES / 2)
#define QUEUE_LIMIT  (16u << 20)
#define BUDGET	     128 /* frames from the machine between two looks at sockets */
#define MAX_FDS	     4096
#define MAX_DATA     (2ull << 30)
#define MAX_POLLFDS  (MAX_FDS + 2)
#define NO_TIMEOUT   UINT32_MAX
#define RESOLV_BYTES 8192

struct queued {
	struct queued *next;
	uint32_t len;
	uint8_t data[];
};

struct helper {
	struct helper_rings *rings;
	struct ring in, out;
	Slirp *slirp;
	struct resolver resolver;
	struct queued *first, **last;
	uint32_t queued_bytes;
	bool timer_armed; /* libslirp's only timer: router advertisements */
	void *timer_arg;
	int64_t timer_ms;
	struct pollfd fds[MAX_POLLFDS];
	unsigned n_fds;
	uint8_t frame[NET_MAX_FRAME];  /* libslirp's input */
	uint8_t answer[NET_MAX_FRAME]; /* its output, rewritten */
};

static int64_t now_ns(void *opaque)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void ring_bell(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

/* Frames to the machine. */

static void enqueue(struct helper *h, const uint8_t *data, uint32_t len)
{
	struct queued *q = NULL;

	if (h->queued_bytes + len <= QUEUE_LIMIT)
		q = malloc(sizeof(*q) + len);
	if (!q)
		return; /* lost, as on any wire */
	q->next = NULL;
	q->len = len;
	memcpy(q->data, data, len);
	h->queued_bytes += len;
	*h->last = q;
	h->last = &q->next;
}

static bool put(struct helper *h, const uint8_t *data, uint32_t len)
{
	static const struct frame_meta none;
	struct iovec iov = { (void *)data, len };

	return ring_put(&h->out, &none, &iov, 1, len) == 1;
}

static void flush_queue(struct helper *h)
{
	while (h->first && put(h, h->first->data, h->first->len)) {
		struct queued *q = h->first;

		h->first = q->next;
		h->queued_bytes -= q->len;
		free(q);
	}
	if (!h->first)
		h->last = &h->first;
}

/* SlirpCb.send_packet */
static ssize_t send_packet(const void *buf, size_t len, void *opaque)
{
	struct helper *h = opaque;

	if (len > sizeof(h->frame))
		return (ssize_t)len;
	buf = resolver_back(&h->resolver, buf, len, h->answer);
	if (h->first || !put(h, buf, (uint32_t)len))
		enqueue(h, buf, (uint32_t)len);
	return (ssize_t)len;
}

/* Frames from the machine. */

/* Addresses that mean the host itself: the guest has 10.0.2.2 for that, which `restrict` can close.
 */
static bool is_martian(const uint8_t *frame, size_t len)
{
	static const uint8_t zeros[10];
	const uint8_t *ip = frame + ETH_HDR_BYTES;

	if (len < ETH_HDR_BYTES + IP4_HDR_BYTES)
		return false;
	if (be16_get(frame + ETH_TYPE) == ETH_P_IP4)
		return ip[IP4_DST] == 127 || ip[IP4_DST] == 0;
	if (be16_get(frame + ETH_TYPE) != ETH_P_IP6 || len < ETH_HDR_BYTES + IP6_HDR_BYTES)
		return false;
	/* ::1 and ::, and IPv4 addresses in IPv6's clothes. */
	return memcmp(ip + IP6_DST, zeros, sizeof(zeros)) == 0;
}

/* A complete frame, whole in h->frame. */
static void input(struct helper *h, size_t len)
{
	if (!is_martian(h->frame, len) && resolver_out(&h->resolver, h->frame, len))
		slirp_input(h->slirp, h->frame, (int)len);
}

/* frame_sink: gather a frame, or a segment of one, into h->frame. */
static bool gather(void *arg, const struct frame_meta *meta, const struct iovec *iov,
		   unsigned n_iov, uint32_t len_bytes)
{
	struct helper *h = arg;
	uint32_t at = 0;

	for (unsigned i = 0; i < n_iov && iov[i].iov_len <= sizeof(h->frame) - at; i++) {
		memcpy(h->frame + at, iov[i].iov_base, iov[i].iov_len);
		at += (uint32_t)iov[i].iov_len;
	}
	input(h, at);
	return true;
}

/* Take frames from the ring while the other direction has room. True if there may be more. */
static bool take_frames(struct helper *h)
{
	/* libslirp takes TCP segments of any length, but no open checksum. */
	static const struct link_caps caps = { .tso4 = true, .tso6 = true };
	struct frame_meta meta;
	const uint8_t *data;
	uint32_t len;
	int ret = 0;

	for (unsigned n = 0; n < BUDGET; n++) {
		ret = 0;
		if (h->first || ring_room(&h->out) < LOW_ROOM)
			break;
		ret = ring_peek(&h->in, &meta, &data, &len);
		if (ret != 1)
			break;

		struct iovec iov = { (void *)data, len };

		if (frame_needs_finish(&meta, &caps))
			frame_finish(&meta, &iov, 1, len, &caps, gather, h);
		else
			gather(h, &meta, &iov, 1, len);
		ring_pop(&h->in);
	}
	if (ring_release(&h->in))
		ring_bell(HELPER_FD_PEER_BELL);
	return ret == 1;
}

/* libslirp's callbacks. */

static int add_poll(int fd, int events, void *opaque)
{
	struct helper *h = opaque;
	short ev = 0;

	if (h->n_fds == MAX_POLLFDS)
		return -1;
	if (events & SLIRP_POLL_IN)
		ev |= POLLIN;
	if (events & SLIRP_POLL_OUT)
		ev |= POLLOUT;
	if (events & SLIRP_POLL_PRI)
		ev |= POLLPRI;
	h->fds[h->n_fds] = (struct pollfd){ .fd = fd, .events = ev };
	return (int)h->n_fds++;
}

static int get_revents(int idx, void *opaque)
{
	struct helper *h = opaque;
	int ev = 0;

	if (idx < 0 || (unsigned)idx >= h->n_fds)
		return 0;

	short r = h->fds[idx].revents;

	ev |= r & POLLIN ? SLIRP_POLL_IN : 0;
	ev |= r & POLLOUT ? SLIRP_POLL_OUT : 0;
	ev |= r & POLLPRI ? SLIRP_POLL_PRI : 0;
	ev |= r & (POLLERR | POLLNVAL) ? SLIRP_POLL_ERR : 0;
	ev |= r & POLLHUP ? SLIRP_POLL_HUP : 0;
	return ev;
}

static void guest_error(const char *msg, void *opaque)
{
}

static void *timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
	struct helper *h = opaque;

	h->timer_arg = cb_opaque;
	return &h->timer_ms;
}

static void timer_free(void *timer, void *opaque)
{
	((struct helper *)opaque)->timer_armed = false;
}

static void timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	struct helper *h = opaque;

	h->timer_ms = expire_ms;
	h->timer_armed = true;
}

static void poll_fd_changed(int fd, void *opaque)
{
}

static void notify(void *opaque)
{
}

static const SlirpCb callbacks = {
	.send_packet = send_packet,
	.guest_error = guest_error,
	.clock_get_ns = now_ns,
	.timer_new_opaque = timer_new,
	.timer_free = timer_free,
	.timer_mod = timer_mod,
	.register_poll_fd = poll_fd_changed,
	.unregister_poll_fd = poll_fd_changed,
	.notify = notify,
};

static int64_t timer_left_ms(const struct helper *h)
{
	return h->timer_armed ? MAX(h->timer_ms - now_ns(NULL) / 1000000, 0) : INT64_MAX;
}

static void run_timer(struct helper *h)
{
	if (timer_left_ms(h) > 0)
		return;
	h->timer_armed = false;
	slirp_handle_timer(h->slirp, SLIRP_TIMER_RA, h->timer_arg);
}

/* One turn: frames, then wait, then sockets. False: the machine is gone or breaks the ring. */
static bool turn(struct helper *h)
{
	uint32_t timeout = NO_TIMEOUT;

	flush_queue(h);

	bool more = take_frames(h);
	bool has_room = !h->first && ring_room(&h->out) >= LOW_ROOM;

	if (ring_publish(&h->out))
		ring_bell(HELPER_FD_PEER_BELL);
	h->fds[0] = (struct pollfd){ .fd = HELPER_FD_SOCKET, .events = POLLIN };
	h->fds[1] = (struct pollfd){ .fd = HELPER_FD_BELL, .events = POLLIN };
	h->n_fds = 2;
	if (has_room) {
		slirp_pollfds_fill(h->slirp, &timeout, add_poll, h);
		more = more || !ring_sleep_for_frames(&h->in);
	} else {
		more = !ring_sleep_for_room(&h->out, LOW_ROOM);
	}
	timeout = (uint32_t)MIN((int64_t)timeout, timer_left_ms(h));

	int ready = poll(h->fds, h->n_fds, more ? 0 : (int)MIN(timeout, (uint32_t)INT_MAX));
	uint64_t count;

	if ((ready > 0 && h->fds[0].revents) || h->in.broken || h->out.broken)
		return false;
	if (ready > 0 && h->fds[1].revents && read(HELPER_FD_BELL, &count, sizeof(count)) < 0)
		return errno == EAGAIN;
	if (has_room) {
		slirp_pollfds_poll(h->slirp, ready < 0, get_revents, h);
		run_timer(h);
	}
	return true;
}

/* Set-up. */

/* What libslirp and the C library do after that. With new_sockets only if the guest may reach out.
 */
static int shut_in(bool new_sockets, bool *landlocked, struct err *err)
{
	struct sandbox_call calls[64];
	static const int plain[] = {
		SCMP_SYS(read),		  SCMP_SYS(write),	  SCMP_SYS(readv),
		SCMP_SYS(writev),	  SCMP_SYS(close),	  SCMP_SYS(poll),
		SCMP_SYS(ppoll),	  SCMP_SYS(accept),	  SCMP_SYS(accept4),
		SCMP_SYS(recvfrom),	  SCMP_SYS(recvmsg),	  SCMP_SYS(sendto),
		SCMP_SYS(sendmsg),	  SCMP_SYS(shutdown),	  SCMP_SYS(getsockopt),
		SCMP_SYS(setsockopt),	  SCMP_SYS(getsockname),  SCMP_SYS(getpeername),
		SCMP_SYS(fcntl),	  SCMP_SYS(munmap),	  SCMP_SYS(mremap),
		SCMP_SYS(madvise),	  SCMP_SYS(brk),	  SCMP_SYS(futex),
		SCMP_SYS(getrandom),	  SCMP_SYS(getpid),	  SCMP_SYS(gettid),
		SCMP_SYS(exit),		  SCMP_SYS(exit_group),	  SCMP_SYS(rt_sigreturn),
		SCMP_SYS(clock_gettime),  SCMP_SYS(gettimeofday), SCMP_SYS(restart_syscall),
		SCMP_SYS(rt_sigprocmask), SCMP_SYS(sigaltstack),
	};
	static const struct sandbox_call with_argument[] = {
		{ SCMP_SYS(ioctl), 1, ~0u, 0x541b /* FIONREAD */ },
		{ SCMP_SYS(ioctl), 1, ~0u, 0x5421 /* FIONBIO */ },
	};
	static const struct sandbox_call reach_out[] = {
		{ SCMP_SYS(socket), 0, ~0u, AF_INET },
		{ SCMP_SYS(socket), 0, ~0u, AF_INET6 },
		{ SCMP_SYS(connect), 0, 0, 0 },
	};
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(plain); i++)
		calls[n++] = (struct sandbox_call){ .nr = plain[i] };
	for (unsigned i = 0; i < ARRAY_SIZE(with_argument); i++)
		calls[n++] = with_argument[i];
	for (unsigned i = 0; i < ARRAY_SIZE(reach_out) && new_sockets; i++)
		calls[n++] = reach_out[i];
	return sandbox_enter(&(struct sandbox_cfg){ .calls = calls,
						    .n_calls = n,
						    .max_fds = MAX_FDS,
						    .max_data_bytes = MAX_DATA },
			     landlocked, err);
}

/* The host's name server as it is now; it is not looked at again. */
static void read_resolver(struct resolver *r)
{
	char text[RESOLV_BYTES] = "";
	AUTO_FD int fd = open("/etc/resolv.conf", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0 || !resolver_parse(text, r->real))
		memset(r->real, 0, sizeof(r->real));
}

/* Whether the host has a route to IPv6 addresses of the world: connect a datagram socket, which
 * sends nothing. */
static bool has_ip6(void)
{
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = htons(53) };
	AUTO_FD int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET6, "2001:db8::1", &to.sin6_addr);
	return fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0;
}

static int forward(struct helper *h, const struct net_forward *f, struct err *err)
{
	struct in_addr host = { htonl(f->host_addr) }, guest = { 0 };
	char text[INET_ADDRSTRLEN];

	if (slirp_add_hostfwd(h->slirp, f->udp, host, f->host_port, guest, f->guest_port) == 0)
		return 0;
	return err_set(err, errno, "forward %s port %u of %s", f->udp ? "UDP" : "TCP", f->host_port,
		       inet_ntop(AF_INET, &host, text, sizeof(text)));
}

static int start_slirp(struct helper *h, struct net_user_cfg *c, struct err *err)
{
	SlirpConfig cfg = {
		.version = 4,
		.restricted = c->restricted,
		.in_enabled = true,
		.in6_enabled = has_ip6(),
		.vhostname = c->hostname[0] ? c->hostname : NULL,
		.vprefix_len = 64,
		.if_mtu = c->mtu,
		.if_mru = c->mtu,
	};

	inet_pton(AF_INET, "10.0.2.0", &cfg.vnetwork);
	inet_pton(AF_INET, "255.255.255.0", &cfg.vnetmask);
	inet_pton(AF_INET, "10.0.2.2", &cfg.vhost);
	inet_pton(AF_INET, "10.0.2.15", &cfg.vdhcp_start);
	inet_pton(AF_INET, "10.0.2.3", &cfg.vnameserver);
	inet_pton(AF_INET6, "fec0::", &cfg.vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &cfg.vhost6);
	inet_pton(AF_INET6, "fec0::3", &cfg.vnameserver6);
	memcpy(h->resolver.seen, &cfg.vnameserver, 4);
	read_resolver(&h->resolver);
	cfg.disable_dns = load32(h->resolver.real) == 0;
	h->slirp = slirp_new(&cfg, &callbacks, h);
	if (!h->slirp)
		return err_say(err, EINVAL, "libslirp does not start");
	for (unsigned i = 0; i < c->n_forwards; i++) {
		int ret = forward(h, &c->forward[i], err);

		if (ret < 0)
			return ret;
	}
	return 0;
}

static int receive_cfg(struct net_user_cfg *c, struct err *err)
{
	if (recv(HELPER_FD_SOCKET, c, sizeof(*c), 0) != sizeof(*c))
		return err_say(err, EPROTO, "the network helper got no instructions");
	c->hostname[NET_HOSTNAME_SIZE - 1] = 0;
	if (c->n_forwards > NET_MAX_FORWARDS || c->mtu < NET_USER_MIN_MTU ||
	    c->mtu > NET_USER_MAX_MTU)
		return err_say(err, EINVAL, "the MTU is from %u to %u", NET_USER_MIN_MTU,
			       NET_USER_MAX_MTU);
	return 0;
}

/* End with the machine even in the middle of an endless loop: the socket's hang-up is a SIGIO,
 * whose default is the end. (A parent-death signal would come when the thread ends that started
 * us.)
 */
static int tie_life(struct err *err)
{
	if (fcntl(HELPER_FD_SOCKET, F_SETOWN, getpid()) < 0 ||
	    fcntl(HELPER_FD_SOCKET, F_SETFL, O_ASYNC | O_NONBLOCK) < 0)
		return err_set(err, errno, "watch the machine");
	signal(SIGPIPE, SIG_IGN);
	return 0;
}

static int set_up(struct helper *h, bool *landlocked, struct err *err)
{
	struct net_user_cfg cfg;
	int ret = receive_cfg(&cfg, err);

	if (ret == 0)
		ret = sandbox_close_files(HELPER_FD_END, err);
	if (ret < 0)
		return ret;
	h->rings = mmap(NULL, sizeof(*h->rings), PROT_READ | PROT_WRITE, MAP_SHARED,
			HELPER_FD_RINGS, 0);
	if (h->rings == MAP_FAILED)
		return err_set(err, errno, "map memory for frames");
	close(HELPER_FD_RINGS);
	ring_init(&h->in, &h->rings->to_helper);
	ring_init(&h->out, &h->rings->to_machine);
	h->last = &h->first;
	ret = start_slirp(h, &cfg, err);
	if (ret == 0)
		ret = tie_life(err);
	if (ret == 0)
		ret = shut_in(!cfg.restricted, landlocked, err);
	return ret;
}

int net_helper_main(void)
{
	AUTO_FREE struct helper *h = calloc(1, sizeof(*h));
	struct helper_reply reply = { 0 };
	struct err err = { 0 };
	bool landlocked = false;
	int ret = h ? set_up(h, &landlocked, &err) : err_set(&err, ENOMEM, "network helper");

	reply.code = -ret;
	reply.sandboxed = landlocked ? 2 : 1;
	memcpy(reply.msg, err.msg, sizeof(reply.msg));
	if (send(HELPER_FD_SOCKET, &reply, sizeof(reply), MSG_NOSIGNAL) < 0 || ret < 0)
		return 1;
	while (turn(h))
		;
	/* Not exit: what libraries do at the end is behind the filter. */
	_exit(0);
}
