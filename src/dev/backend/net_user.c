/* The machine's side of user networking: frames go over two rings in shared memory to a helper
 * process (net_helper.c). The helper is exec'ed, not just forked: so it has none of the guest's
 * memory, none of the machine's descriptors and no lock that another thread held. Rings, because
 * they move a frame of 1,514 bytes in 0.15 us where a SEQPACKET socket with sendmmsg and recvmmsg
 * takes 0.9, and one of 64 KiB in 5 to 10 us where it takes 18.
 *
 * The helper parses what guests and the Internet send: nothing that it puts into the ring is
 * believed.
 */
#include "dev/backend/net.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "dev/backend/net_helper.h"
#include "host/evloop.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define READY_MS 10000
#define BUDGET	 256 /* frames between two looks at the loop's other work */

struct net_user {
	struct net net;
	struct evloop *loop; /* borrowed */
	struct helper_rings *rings;
	int socket, bell, helper_bell;
	_Atomic pid_t helper;
	struct ev_watch on_bell, on_socket;
	bool watched;

	pthread_mutex_t tx_lock; /* guards tx and tx_waits */
	struct ring tx;
	bool tx_waits; /* a frame was refused: the peer wants to be woken */

	struct ring rx;	       /* the loop's thread */
	_Atomic bool rx_waits; /* the peer refused a frame */
};

static struct net_user *of(struct net *n)
{
	return container_of(n, struct net_user, net);
}

static void ring_bell(int fd)
{
	uint64_t one = 1;

	/* Full means that it rings already. */
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

/* End the helper if it still lives, and take its status. */
static int reap(struct net_user *u)
{
	pid_t pid = atomic_exchange(&u->helper, 0);
	int status = 0;

	if (!pid)
		return 0;
	kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

/* The helper is gone or talks nonsense. The loop's thread. */
static void lost(struct net_user *u, const char *why)
{
	evloop_set(u->loop, &u->on_bell, 0);
	evloop_set(u->loop, &u->on_socket, 0);
	if (!u->helper)
		return;

	int status = reap(u);
	char how[40] = "";

	if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
		snprintf(how, sizeof(how), " (signal %d)", WTERMSIG(status));
	log_say(LOG_WARN, "the network helper %s%s: the link is down, the machine goes on", why,
		how);
	link_set_up(&u->net.end, false);
}

static void on_socket(void *arg, short revents)
{
	lost(arg, "has ended");
}

static bool send_frame(void *end, const struct frame_meta *meta, const struct iovec *iov,
		       unsigned n_iov, uint32_t len_bytes)
{
	struct net_user *u = end;
	bool ring = false;
	int ret = 1;

	if (len_bytes > NET_MAX_FRAME)
		return true;
	pthread_mutex_lock(&u->tx_lock);
	do {
		ret = ring_put(&u->tx, meta, iov, n_iov, len_bytes);
	} while (ret == 0 && !ring_sleep_for_room(&u->tx, RING_DATA_BYTES / 4));
	if (ret == 0)
		u->tx_waits = true;
	else if (ret == 1)
		ring = ring_publish(&u->tx);
	pthread_mutex_unlock(&u->tx_lock);
	if (ring)
		ring_bell(u->helper_bell);
	/* A broken ring is found by its other direction or the helper's end; until then, no net. */
	return ret != 0;
}

/* Woken for room: tell the peer if it waits. */
static void look_at_tx(struct net_user *u)
{
	pthread_mutex_lock(&u->tx_lock);

	bool wake = u->tx_waits && !ring_sleep_for_room(&u->tx, RING_DATA_BYTES / 4);

	if (wake)
		u->tx_waits = false;
	pthread_mutex_unlock(&u->tx_lock);
	if (wake)
		link_wake_peer(&u->net.end);
}

/* The frame in the ring to the peer. False: it has no room. */
static bool deliver(struct net_user *u, const uint8_t *data, uint32_t len)
{
	/* libslirp's frames are complete, with the checksums that it made: not believed to be
	 * anything else. */
	struct frame_meta meta = { .flags = FRAME_DATA_VALID };
	struct iovec iov = { (void *)data, len };

	if (link_send(&u->net.end, &meta, &iov, 1, len))
		return true;
	atomic_store(&u->rx_waits, true);
	/* It may have made room, and looked at rx_waits, in between. */
	if (!link_send(&u->net.end, &meta, &iov, 1, len))
		return false;
	atomic_store(&u->rx_waits, false);
	return true;
}

/* Pass on frames until there are none, the peer has no room, or the budget is used up. */
static void look_at_rx(struct net_user *u)
{
	struct frame_meta meta;
	const uint8_t *data;
	unsigned n = 0;
	uint32_t len;
	int ret;

	while ((ret = ring_peek(&u->rx, &meta, &data, &len)) == 1 && n++ < BUDGET) {
		if (!deliver(u, data, len))
			break;
		ring_pop(&u->rx);
	}
	if (ring_release(&u->rx))
		ring_bell(u->helper_bell);
	if (ret < 0)
		lost(u, "breaks the rules");
	else if ((ret == 1 && n > BUDGET) || (ret == 0 && !ring_sleep_for_frames(&u->rx)))
		ring_bell(u->bell);
}

static void on_bell(void *arg, short revents)
{
	struct net_user *u = arg;
	uint64_t count;

	if (read(u->bell, &count, sizeof(count)) < 0)
		return;
	look_at_tx(u);
	if (!atomic_load(&u->rx_waits))
		look_at_rx(u);
}

static void peer_has_room(void *end)
{
	struct net_user *u = end;

	if (atomic_exchange(&u->rx_waits, false))
		ring_bell(u->bell);
}

static const struct link_ops user_link_ops = {
	.send = send_frame,
	.wake = peer_has_room,
};

static void user_start(struct net *n)
{
	struct net_user *u = of(n);

	u->on_bell = (struct ev_watch){ .fd = u->bell, .fn = on_bell, .arg = u };
	u->on_socket = (struct ev_watch){ .fd = u->socket, .fn = on_socket, .arg = u };
	u->watched = true;
	if (evloop_add(u->loop, &u->on_bell, POLLIN, NULL) < 0 ||
	    evloop_add(u->loop, &u->on_socket, POLLIN, NULL) < 0)
		link_set_up(&n->end, false);
	ring_bell(u->bell);
}

static void user_free(struct net *n)
{
	struct net_user *u = of(n);

	if (u->watched) {
		evloop_del(u->loop, &u->on_bell);
		evloop_del(u->loop, &u->on_socket);
	}
	reap(u);
	if (u->rings)
		munmap(u->rings, sizeof(*u->rings));
	own_close(&u->socket);
	own_close(&u->bell);
	own_close(&u->helper_bell);
	pthread_mutex_destroy(&u->tx_lock);
	free(u);
}

static const struct net_ops user_ops = { .start = user_start, .free = user_free };

int net_user_helper(const struct net *n)
{
	return container_of(n, const struct net_user, net)->helper;
}

/* The rings' memory, whose size nobody can change any more. */
static int make_rings(struct net_user *u, int *out, struct err *err)
{
	AUTO_FD int fd = memfd_create("net-rings", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, sizeof(*u->rings)) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		return err_set(err, errno, "make memory for frames");

	void *p = mmap(NULL, sizeof(*u->rings), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		return err_set(err, errno, "map memory for frames");
	u->rings = p;
	ring_init(&u->tx, &u->rings->to_helper);
	ring_init(&u->rx, &u->rings->to_machine);
	*out = move_fd(&fd);
	return 0;
}

/* Put fds at HELPER_FD_SOCKET and up. They are moved out of the way first: one may stand where
 * another goes.
 */
static int arrange(posix_spawn_file_actions_t *acts, const int *fds, int *high)
{
	int ret = 0;

	for (unsigned i = 0; i < HELPER_FD_END - HELPER_FD_SOCKET && ret == 0; i++) {
		high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, HELPER_FD_END);
		ret = high[i] < 0 ? errno
				  : posix_spawn_file_actions_adddup2(acts, high[i],
								     HELPER_FD_SOCKET + (int)i);
	}
	return ret;
}

/* Start the helper with the signals as in a new process, in a session of its own so that a
 * terminal's Ctrl-C does not reach it. */
static int spawn(struct net_user *u, const int *fds, struct err *err)
{
	char *argv[] = { "cleave", NET_HELPER_COMMAND, NULL }, *envp[] = { NULL };
	int high[HELPER_FD_END - HELPER_FD_SOCKET] = { -1, -1, -1, -1 };
	posix_spawn_file_actions_t acts;
	posix_spawnattr_t attr;
	sigset_t none, all;
	pid_t pid = 0;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&acts);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
						POSIX_SPAWN_SETSID);

	int ret = arrange(&acts, fds, high);

	if (ret == 0)
		ret = posix_spawn(&pid, "/proc/self/exe", &acts, &attr, argv, envp);
	for (unsigned i = 0; i < ARRAY_SIZE(high); i++)
		own_close(&high[i]);
	posix_spawn_file_actions_destroy(&acts);
	posix_spawnattr_destroy(&attr);
	if (ret)
		return err_set(err, ret, "start the network helper");
	u->helper = pid;
	return 0;
}

/* Tell the helper what to do and wait until it is shut in. */
static int agree(struct net_user *u, const struct net_user_cfg *cfg, struct err *err)
{
	struct pollfd p = { .fd = u->socket, .events = POLLIN };
	struct helper_reply reply = { 0 };

	if (send(u->socket, cfg, sizeof(*cfg), MSG_NOSIGNAL) != sizeof(*cfg))
		return err_set(err, errno, "talk to the network helper");
	if (poll(&p, 1, READY_MS) != 1)
		return err_say(err, ETIMEDOUT, "the network helper does not answer");
	if (recv(u->socket, &reply, sizeof(reply), 0) != sizeof(reply))
		return err_say(err, EIO, "the network helper ended before it was ready");
	reply.msg[ERR_LEN - 1] = 0;
	if (reply.code)
		return err_say(err, reply.code > 0 ? reply.code : EIO, "%s", reply.msg);
	log_say(LOG_INFO, "the network helper is process %d, shut in by seccomp%s", u->helper,
		reply.sandboxed > 1 ? " and Landlock" : "");
	return 0;
}

static int build(struct net_user *u, const struct net_user_cfg *cfg, struct err *err)
{
	AUTO_FD int rings = -1;
	int pair[2];
	int ret = make_rings(u, &rings, err);

	if (ret < 0)
		return ret;
	u->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	u->helper_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (u->bell < 0 || u->helper_bell < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set(err, errno, "make a channel to the network helper");
	u->socket = pair[0];

	int fds[] = { pair[1], rings, u->helper_bell, u->bell };

	ret = spawn(u, fds, err);
	close(pair[1]);
	return ret < 0 ? ret : agree(u, cfg, err);
}

int net_user_new(struct net **out, struct evloop *loop, const struct net_user_cfg *cfg,
		 struct err *err)
{
	struct net_user *u = calloc(1, sizeof(*u));
	struct net_user_cfg c = *cfg;

	if (!u)
		return err_set(err, ENOMEM, "user networking");
	c.mtu = c.mtu ? c.mtu : NET_DEFAULT_MTU;
	u->loop = loop;
	u->socket = u->bell = u->helper_bell = -1;
	pthread_mutex_init(&u->tx_lock, NULL);
	u->net = (struct net){
		.ops = &user_ops,
		.end = {
			.ops = &user_link_ops,
			.end = u,
			.up = true,
			/* The helper finishes frames itself, on its own time. */
			.caps = { .csum = true, .tso4 = true, .tso6 = true, .uso = true,
				  .mtu = (uint16_t)c.mtu },
		},
	};

	int ret = build(u, &c, err);

	if (ret < 0) {
		user_free(&u->net);
		return ret;
	}
	*out = &u->net;
	return 0;
}
