/* One thread has the socket: it frames packets, and lets the main thread execute them. While the
 * guest runs it waits for gdb's Ctrl-C, for a vCPU that stopped, and for the machine's end.
 */
#include "machine/gdb/gdb.h"

#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "host/sandbox_threads.h"
#include "machine/gdb/gdb_internal.h"
#include "machine/machine_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/un.h>

#define CTRL_C	0x03
#define SEND_MS 10000 /* for a debugger that does not read */

struct gdb {
	struct machine *m; /* borrowed */
	pthread_t thread;
	bool started;
	int listener, stopped, quit; /* socket and eventfds; owned */
	int folder;		     /* of a Unix socket, -1: none; owned */
	char name[108];		     /* the socket's, there */

	/* The thread's. */
	int fd; /* the debugger's; -1: none */
	bool running;
	struct session s;
};

/* -- Bytes ------------------------------------------------------------------------------------ */

/* The next byte, or -1 if the debugger or the machine is gone. */
static int get_byte(struct gdb *g)
{
	struct pollfd p[] = { { .fd = g->fd, .events = POLLIN },
			      { .fd = g->quit, .events = POLLIN } };
	uint8_t byte;

	while (poll(p, 2, -1) < 0)
		if (errno != EINTR)
			return -1;
	return p[1].revents || recv(g->fd, &byte, 1, 0) != 1 ? -1 : byte;
}

static bool send_all(struct gdb *g, const char *buf, size_t len)
{
	struct pollfd p = { .fd = g->fd, .events = POLLOUT };

	while (len) {
		ssize_t n = send(g->fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN && poll(&p, 1, SEND_MS) == 1)
			continue;
		if (n <= 0)
			return false;
		buf += n;
		len -= (size_t)n;
	}
	return true;
}

static bool send_packet(struct gdb *g)
{
	struct session *s = &g->s;
	char frame[GDB_PACKET + 8];
	uint8_t sum = 0;
	int n;

	for (size_t i = 0; i < s->n_out; i++)
		sum += (uint8_t)s->out[i];
	n = snprintf(frame, sizeof(frame), "$%.*s#%02x", (int)s->n_out, s->out, sum);
	return n > 0 && send_all(g, frame, (size_t)n);
}

/* Read what is behind a $, up to the checksum. 1: a packet, 0: a broken one, -1: gone. */
static int get_packet(struct gdb *g)
{
	struct session *s = &g->s;
	uint8_t sum = 0;
	char text[3] = "";
	int byte;

	s->n_in = 0;
	while ((byte = get_byte(g)) != '#') {
		if (byte < 0)
			return -1;
		sum += (uint8_t)byte;
		if (s->n_in < GDB_PACKET)
			s->in[s->n_in++] = (char)byte;
	}
	for (unsigned i = 0; i < 2; i++) {
		byte = get_byte(g);
		if (byte < 0)
			return -1;
		text[i] = (char)byte;
	}
	return s->no_ack || strtoul(text, NULL, 16) == sum;
}

/* -- The machine ------------------------------------------------------------------------------ */

static void call_execute(void *arg)
{
	session_execute(arg);
}

static void call_say_stop(void *arg)
{
	struct session *s = arg;

	s->n_out = 0;
	session_say_stop(s, true);
}

static void call_resume(void *arg)
{
	session_resume(arg);
}

static void call_leave(void *arg)
{
	session_leave(arg);
}

static void go(struct gdb *g)
{
	g->running = true;
	machine_call(g->m, call_resume, &g->s);
	machine_continue(g->m);
}

/* The guest stands, or is about to: say why. False: the debugger or the machine is gone. */
static bool say_stop(struct gdb *g)
{
	uint64_t n;

	machine_pause(g->m);
	if (!machine_call(g->m, call_say_stop, &g->s))
		return false;
	g->running = false;
	(void)!read(g->stopped, &n, sizeof(n));
	return send_packet(g);
}

/* True if the debugger stays. */
static bool serve_packet(struct gdb *g)
{
	struct session *s = &g->s;
	bool ack = !s->no_ack;
	int got = get_packet(g);

	if (got < 0 || (ack && !send_all(g, got ? "+" : "-", 1)))
		return false;
	if (!got)
		return true;
	/* A packet while the guest runs, which no gdb sends: it stands from now on. */
	if (g->running)
		machine_pause(g->m);
	if (!machine_call(g->m, call_execute, s))
		return false;
	if (s->next == GDB_GO) {
		go(g);
		return true;
	}
	if (s->next == GDB_KILL) {
		machine_end(g->m, END_QUIT, 0);
		return false;
	}
	if (s->next == GDB_RESET)
		machine_reset(g->m);
	return send_packet(g) && s->next != GDB_DETACH;
}

/* -- Debuggers -------------------------------------------------------------------------------- */

static bool serve_byte(struct gdb *g)
{
	int byte = get_byte(g);

	if (byte == CTRL_C && g->running)
		return say_stop(g);
	return byte == '$' ? serve_packet(g) : byte >= 0;
}

/* Wait for the debugger, or for a vCPU that stops. False: one of them is gone. */
static bool serve(struct gdb *g)
{
	struct pollfd p[] = { { .fd = g->fd, .events = POLLIN },
			      { .fd = g->quit, .events = POLLIN },
			      { .fd = g->stopped, .events = g->running ? POLLIN : 0 } };

	if (poll(p, 3, -1) < 0)
		return errno == EINTR;
	if (p[1].revents)
		return false;
	return p[2].revents ? say_stop(g) : serve_byte(g);
}

static void serve_debugger(struct gdb *g)
{
	static const int yes = 1;

	setsockopt(g->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	memset(&g->s, 0, sizeof(g->s));
	g->s.m = g->m;
	g->running = false;
	machine_pause(g->m);
	while (serve(g))
		;
	if (machine_call(g->m, call_leave, &g->s)) {
		machine_continue(g->m);
	} else {
		g->s.n_out = 0;
		session_put(&g->s, "W00");
		send_packet(g);
	}
	close(g->fd);
	g->fd = -1;
}

static void *gdb_thread(void *arg)
{
	static const enum sandbox_kind kind = SANDBOX_GDB;
	struct gdb *g = arg;
	struct pollfd p[] = { { .fd = g->listener, .events = POLLIN },
			      { .fd = g->quit, .events = POLLIN } };

	sandbox_thread_is(&kind);
	for (;;) {
		if (poll(p, 2, -1) < 0)
			continue;
		if (p[1].revents)
			return NULL;
		g->fd = accept4(g->listener, NULL, NULL, SOCK_CLOEXEC);
		if (g->fd >= 0)
			serve_debugger(g);
	}
}

int gdb_folder(const struct gdb *g)
{
	return g->folder;
}

void gdb_stopped(struct gdb *g, struct vcpu *c)
{
	uint64_t one = 1;

	machine_pause(g->m);
	(void)!write(g->stopped, &one, sizeof(one));
}

/* -- Coming and going ------------------------------------------------------------------------- */

static int bad_address(struct err *err, const char *where)
{
	return err_say(err, EINVAL,
		       "--gdb: '%s' is not an address of this host's loopback or a socket, as in "
		       "--gdb tcp:127.0.0.1:1234 or --gdb unix:/run/user/1000/gdb",
		       where);
}

static int listen_tcp(struct gdb *g, const char *where, struct err *err)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	static const int yes = 1;
	unsigned port;
	char host[64];
	int end = 0;

	/* Who reaches it has the guest in his hands. */
	if (sscanf(where, "tcp:%63[0-9.]:%u%n", host, &port, &end) != 2 || where[end] || !port ||
	    port > 65535 || inet_pton(AF_INET, host, &a.sin_addr) != 1 ||
	    ntohl(a.sin_addr.s_addr) >> 24 != IN_LOOPBACKNET)
		return bad_address(err, where);
	a.sin_port = htons((uint16_t)port);
	g->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (g->listener < 0 ||
	    setsockopt(g->listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) < 0 ||
	    bind(g->listener, (struct sockaddr *)&a, sizeof(a)) < 0)
		return err_set(err, errno, "--gdb: listen at %s", where);
	return 0;
}

/* The socket's folder and its name there, so that it can be removed when nothing can be opened. */
static int open_folder(struct gdb *g, const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	char folder[108];

	snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - path) + 1 : 1,
		 slash ? path : ".");
	snprintf(g->name, sizeof(g->name), "%s", slash ? slash + 1 : path);
	g->folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return g->folder < 0 ? err_set(err, errno, "--gdb: open %s", folder) : 0;
}

static int listen_unix(struct gdb *g, const char *path, struct err *err)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct stat st;
	int ret;

	if (strlen(path) >= sizeof(a.sun_path))
		return err_say(err, ENAMETOOLONG, "--gdb: %s is too long a path for a socket",
			       path);
	memcpy(a.sun_path, path, strlen(path) + 1);
	/* What a crash left over; nothing else is removed. */
	if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
		unlink(path);
	g->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (g->listener < 0 || bind(g->listener, (struct sockaddr *)&a, sizeof(a)) < 0)
		return err_set(err, errno, "--gdb: listen at %s", path);
	ret = open_folder(g, path, err);
	if (ret == 0 && chmod(path, 0600) < 0)
		ret = err_set(err, errno, "--gdb: %s", path);
	return ret;
}

static int start(struct gdb *g, const char *where, struct err *err)
{
	int ret;

	if (strncmp(where, "unix:", 5) == 0 && where[5])
		ret = listen_unix(g, where + 5, err);
	else
		ret = listen_tcp(g, where, err);
	if (ret == 0 && listen(g->listener, 1) < 0)
		ret = err_set(err, errno, "--gdb: listen at %s", where);
	g->stopped = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	g->quit = eventfd(0, EFD_CLOEXEC);
	if (ret == 0 && (g->stopped < 0 || g->quit < 0))
		ret = err_set(err, errno, "--gdb");
	if (ret == 0) {
		ret = pthread_create(&g->thread, NULL, gdb_thread, g);
		g->started = ret == 0;
		ret = ret ? err_set(err, ret, "--gdb: start a thread") : 0;
	}
	return ret;
}

int gdb_new(struct gdb **out, struct machine *m, const char *where, struct err *err)
{
	struct gdb *g = calloc(1, sizeof(*g));
	int ret;

	if (!g)
		return err_set(err, ENOMEM, "--gdb");
	g->m = m;
	g->listener = g->stopped = g->quit = g->fd = g->folder = -1;
	ret = start(g, where, err);
	if (ret < 0)
		gdb_free(g);
	else
		*out = g;
	return ret;
}

void gdb_free(struct gdb *g)
{
	uint64_t one = 1;

	if (!g)
		return;
	if (g->started) {
		(void)!write(g->quit, &one, sizeof(one));
		pthread_join(g->thread, NULL);
	}
	if (g->folder >= 0)
		unlinkat(g->folder, g->name, 0);
	own_close(&g->folder);
	own_close(&g->listener);
	own_close(&g->stopped);
	own_close(&g->quit);
	free(g);
}
