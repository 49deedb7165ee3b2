/* User networking as a machine uses it, with a guest made of a few frames. The helper is this
 * program, started anew.
 */
#include "dev/backend/net.h"

#include "base/err.h"
#include "check.h"
#include "host/evloop.h"
#include "unit/net/frames.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GUEST	0x0a00020f
#define GATEWAY 0x0a000202
#define WAIT_S	10

struct guest {
	struct link_end e;
	struct evloop *loop;
	struct net *net;
	pthread_mutex_t lock;
	pthread_cond_t came;
	uint8_t frame[128][2048]; /* the first bytes of what came */
	uint32_t len[128];
	unsigned n, seen;
	bool down, full;
	uint8_t gateway_mac[6];
};

static bool guest_send(void *end, const struct frame_meta *meta, const struct iovec *iov,
		       unsigned n_iov, uint32_t len)
{
	struct guest *g = end;
	bool full;

	pthread_mutex_lock(&g->lock);
	full = g->full;
	if (!full && g->n < 128) {
		uint32_t at = 0;

		for (unsigned i = 0; i < n_iov && at < 2048; i++) {
			uint32_t part =
				iov[i].iov_len < 2048 - at ? (uint32_t)iov[i].iov_len : 2048 - at;

			memcpy(g->frame[g->n] + at, iov[i].iov_base, part);
			at += part;
		}
		g->len[g->n++] = len;
	}
	pthread_cond_signal(&g->came);
	pthread_mutex_unlock(&g->lock);
	return !full;
}

static void guest_changed(void *end, bool up, const struct link_caps *peer)
{
	struct guest *g = end;

	pthread_mutex_lock(&g->lock);
	g->down = !up;
	pthread_cond_signal(&g->came);
	pthread_mutex_unlock(&g->lock);
}

static const struct link_ops guest_ops = { .send = guest_send, .changed = guest_changed };

static int guest_try(struct guest *g, const struct net_user_cfg *cfg, struct err *err)
{
	memset(g, 0, sizeof(*g));
	pthread_mutex_init(&g->lock, NULL);
	pthread_cond_init(&g->came, NULL);
	g->e = (struct link_end){
		.ops = &guest_ops, .end = g, .up = true, .caps = { .csum = true }
	};
	CHECK_EQ(evloop_new(&g->loop, NULL), 0);

	int ret = net_user_new(&g->net, g->loop, cfg, err);

	if (ret < 0) {
		evloop_free(g->loop);
		return ret;
	}
	link_join(&g->e, &g->net->end);
	net_start(g->net);
	return 0;
}

static void guest_init(struct guest *g, const struct net_user_cfg *cfg)
{
	struct err err = { 0 };

	if (guest_try(g, cfg, &err) < 0)
		fail_msg("%s", err.msg);
}

static void guest_fini(struct guest *g)
{
	link_part(&g->e);
	net_free(g->net);
	evloop_free(g->loop);
}

static void put(struct guest *g, const struct frame_meta *meta, const uint8_t *f, uint32_t len)
{
	struct iovec iov = { (void *)f, len };

	CHECK(link_send(&g->e, meta, &iov, 1, len));
}

/* Wait for an IPv4 frame of a protocol, or ARP (0); its number, or -1 after timeout_s. */
static int wait_frame(struct guest *g, unsigned proto, int timeout_s)
{
	struct timespec until;
	int found = -1;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += timeout_s;
	pthread_mutex_lock(&g->lock);
	while (found < 0) {
		for (; g->seen < g->n && found < 0; g->seen++) {
			const uint8_t *f = g->frame[g->seen];
			bool ip = be16_get(f + ETH_TYPE) == ETH_P_IP4;

			if (proto ? ip && f[14 + IP4_PROTO] == proto
				  : be16_get(f + ETH_TYPE) == 0x0806)
				found = (int)g->seen;
		}
		if (found < 0 && pthread_cond_timedwait(&g->came, &g->lock, &until) == ETIMEDOUT)
			break;
	}
	pthread_mutex_unlock(&g->lock);
	return found;
}

/* Announce the guest and learn the gateway's address. */
static void arp(struct guest *g)
{
	static const struct frame_meta none;
	uint8_t f[42] = { 0 };
	int i;

	memset(f, 0xff, 6);
	memcpy(f + 6, frame_guest_mac, 6);
	be16_put(f + 12, 0x0806);
	memcpy(f + 14, "\0\1\x08\0\6\4\0\1", 8);
	memcpy(f + 22, frame_guest_mac, 6);
	be32_put(f + 28, GUEST);
	be32_put(f + 38, GATEWAY);
	put(g, &none, f, sizeof(f));
	i = wait_frame(g, 0, WAIT_S);
	CHECK(i >= 0);
	memcpy(g->gateway_mac, g->frame[i] + 22, 6);
}

static int udp_server(uint16_t *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&a, len) == 0 &&
	      getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	*port = ntohs(a.sin_port);
	return fd;
}

static bool readable(int fd, int timeout_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, timeout_ms) == 1;
}

static void send_udp(struct guest *g, uint32_t to, uint16_t port, const void *payload, uint32_t len,
		     uint16_t gso_size)
{
	static uint8_t f[70000];
	struct frame_spec s = { .udp = true,
				.src = GUEST,
				.dst = to,
				.sport = 4000,
				.dport = port,
				.dst_mac = g->gateway_mac,
				.payload = payload,
				.len = len };
	struct frame_meta m;
	uint32_t bytes = frame_make(f, &s, &m);

	m.gso_type = gso_size ? GSO_UDP_L4 : 0;
	m.gso_size = gso_size;
	put(g, &m, f, bytes);
}

TEST(dhcp_gives_the_guest_its_address_name_and_resolver)
{
	struct net_user_cfg cfg = { .hostname = "box" };
	uint8_t payload[300] = { 1, 1, 6, 0, 1, 2, 3, 4 }, f[400];
	struct frame_spec s = { .udp = true,
				.src = 0,
				.dst = 0xffffffff,
				.sport = 68,
				.dport = 67,
				.payload = payload,
				.len = sizeof(payload) };
	struct frame_meta m;
	struct guest g;
	int i;

	guest_init(&g, &cfg);
	memcpy(payload + 28, frame_guest_mac, 6);
	memcpy(payload + 236, "\x63\x82\x53\x63\x35\x01\x01\xff", 8);
	put(&g, &m, f, frame_make(f, &s, &m));
	i = wait_frame(&g, IPPROTO_IS_UDP, WAIT_S);
	CHECK(i >= 0);
	CHECK_EQ(be32_get(g.frame[i] + 42 + 16), GUEST);
	CHECK(memmem(g.frame[i], g.len[i],
		     "\x0c\x03"
		     "box",
		     5));
	guest_fini(&g);
}

TEST(datagrams_reach_the_hosts_loopback_and_come_back)
{
	struct net_user_cfg cfg = { .mtu = NET_USER_MAX_MTU };
	static char big[40000], got[65536];
	struct sockaddr_in from;
	socklen_t from_len = sizeof(from);
	uint16_t port;
	int fd = udp_server(&port), i;
	struct guest g;

	guest_init(&g, &cfg);
	arp(&g);
	memset(big, 'x', sizeof(big));
	send_udp(&g, GATEWAY, port, big, sizeof(big), 0);
	CHECK(readable(fd, WAIT_S * 1000));
	CHECK_EQ(recvfrom(fd, got, sizeof(got), 0, (struct sockaddr *)&from, &from_len),
		 sizeof(big));
	CHECK_MEM(big, got, sizeof(big));
	CHECK_EQ(sendto(fd, big, 30000, 0, (struct sockaddr *)&from, from_len), 30000);
	i = wait_frame(&g, IPPROTO_IS_UDP, WAIT_S);
	CHECK(i >= 0);
	CHECK_EQ(g.len[i], 14 + 20 + 8 + 30000);
	/* A long frame is cut by the helper. */
	send_udp(&g, GATEWAY, port, big, 3000, 1000);
	for (unsigned n = 0; n < 3; n++) {
		CHECK(readable(fd, WAIT_S * 1000));
		CHECK_EQ(recv(fd, got, sizeof(got), 0), 1000);
	}
	guest_fini(&g);
	close(fd);
}

TEST(a_full_guest_gets_its_frames_when_it_has_room)
{
	struct net_user_cfg cfg = { 0 };
	struct guest g;

	guest_init(&g, &cfg);
	g.full = true;
	static const struct frame_meta none;
	uint8_t f[42] = { 0 };

	memset(f, 0xff, 6);
	memcpy(f + 6, frame_guest_mac, 6);
	be16_put(f + 12, 0x0806);
	memcpy(f + 14, "\0\1\x08\0\6\4\0\1", 8);
	memcpy(f + 22, frame_guest_mac, 6);
	be32_put(f + 28, GUEST);
	be32_put(f + 38, GATEWAY);
	put(&g, &none, f, sizeof(f));
	CHECK_EQ(wait_frame(&g, 0, 1), -1);
	pthread_mutex_lock(&g.lock);
	g.full = false;
	pthread_mutex_unlock(&g.lock);
	link_wake_peer(&g.e);
	CHECK(wait_frame(&g, 0, WAIT_S) >= 0);
	guest_fini(&g);
}

TEST(a_restricted_guest_reaches_nothing)
{
	struct net_user_cfg cfg = { .restricted = true };
	uint16_t port;
	int fd = udp_server(&port);
	struct guest g;

	guest_init(&g, &cfg);
	arp(&g);
	send_udp(&g, GATEWAY, port, "x", 1, 0);
	CHECK(!readable(fd, 500));
	guest_fini(&g);
	close(fd);
}

TEST(the_hosts_own_addresses_are_not_reached_behind_the_gateways_back)
{
	struct net_user_cfg cfg = { 0 };
	uint16_t port;
	int fd = udp_server(&port);
	struct guest g;

	guest_init(&g, &cfg);
	arp(&g);
	send_udp(&g, INADDR_LOOPBACK, port, "x", 1, 0);
	send_udp(&g, 0, port, "x", 1, 0);
	CHECK(!readable(fd, 500));
	guest_fini(&g);
	close(fd);
}

/* A free port. */
static uint16_t free_port(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK(bind(fd, (struct sockaddr *)&a, len) == 0 &&
	      getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	close(fd);
	return ntohs(a.sin_port);
}

TEST(a_forward_leads_into_the_guest)
{
	struct net_user_cfg cfg = { .n_forwards = 1 };
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), i;
	struct guest g;

	cfg.restricted = true; /* forwards stay */
	cfg.forward[0] = (struct net_forward){ INADDR_LOOPBACK, free_port(), 22, 0, { 0 } };
	a.sin_port = htons(cfg.forward[0].host_port);
	guest_init(&g, &cfg);
	arp(&g);
	CHECK(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 || errno == EINPROGRESS);
	i = wait_frame(&g, IPPROTO_IS_TCP, WAIT_S);
	CHECK(i >= 0);
	CHECK_EQ(be16_get(g.frame[i] + 34 + L4_DST_PORT), 22);
	CHECK_EQ(g.frame[i][34 + TCP_FLAGS], 0x02);
	guest_fini(&g);
	close(fd);
}

TEST(a_port_in_use_is_told)
{
	struct net_user_cfg cfg = { .n_forwards = 1 };
	struct err err = { 0 };
	struct guest g;
	uint16_t port;
	int fd = udp_server(&port);

	cfg.forward[0] = (struct net_forward){ INADDR_LOOPBACK, port, 53, 1, { 0 } };
	CHECK_EQ(guest_try(&g, &cfg, &err), -EADDRINUSE);
	CHECK(strstr(err.msg, "UDP port") && strstr(err.msg, "127.0.0.1"));
	close(fd);
}

/* One line of /proc/PID/status. */
static void status_line(int pid, const char *key, char *val, size_t size)
{
	char path[40], line[200];

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	FILE *f = fopen(path, "re");

	CHECK(f);
	*val = 0;
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':')
			snprintf(val, size, "%s", line + strlen(key) + 2);
	fclose(f);
	val[strcspn(val, "\n")] = 0;
}

TEST(the_helper_is_shut_in)
{
	struct net_user_cfg cfg = { 0 };
	struct guest g;
	char val[100];

#ifdef INSTRUMENTED
	skip(); /* it is not: host/sandbox.h */
#endif
	guest_init(&g, &cfg);
	status_line(net_user_helper(g.net), "Seccomp", val, sizeof(val));
	CHECK_STR(val, "2");
	status_line(net_user_helper(g.net), "NoNewPrivs", val, sizeof(val));
	CHECK_STR(val, "1");
	status_line(net_user_helper(g.net), "CapPrm", val, sizeof(val));
	CHECK_STR(val, "0000000000000000");
	guest_fini(&g);
}

TEST(a_dead_helper_takes_the_link_down_and_nothing_else)
{
	struct net_user_cfg cfg = { 0 };
	struct timespec until;
	struct guest g;

	guest_init(&g, &cfg);
	CHECK(!g.down);
	kill(net_user_helper(g.net), SIGKILL);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += WAIT_S;
	pthread_mutex_lock(&g.lock);
	while (!g.down && pthread_cond_timedwait(&g.came, &g.lock, &until) != ETIMEDOUT)
		;
	CHECK(g.down);
	pthread_mutex_unlock(&g.lock);
	CHECK_EQ(net_user_helper(g.net), 0);
	send_udp(&g, GATEWAY, 9, "x", 1, 0);
	guest_fini(&g);
}

TEST(the_helper_dies_with_its_machine)
{
	struct net_user_cfg cfg = { 0 };
	int pipe_fd[2], helper = 0;

	CHECK_EQ(pipe(pipe_fd), 0);

	pid_t child = fork();

	if (child > 0)
		close(pipe_fd[1]); /* so that a child that fails is not waited for */
	if (child == 0) {
		struct guest g;

		guest_init(&g, &cfg);
		helper = net_user_helper(g.net);
		if (write(pipe_fd[1], &helper, sizeof(helper)) < 0)
			_exit(1);
		pause();
	}
	CHECK_EQ(read(pipe_fd[0], &helper, sizeof(helper)), sizeof(helper));
	CHECK_EQ(kill(helper, 0), 0);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	for (unsigned i = 0; i < 1000; i++) {
		char life[100] = "Z";
		char path[40];

		snprintf(path, sizeof(path), "/proc/%d", helper);
		if (access(path, F_OK) == 0)
			status_line(helper, "State", life, sizeof(life));
		/* Whoever inherits it may be slow to bury it. */
		if (life[0] == 'Z' || life[0] == 'X')
			break;
		CHECK(i < 999);
		usleep(10000);
	}
	close(pipe_fd[0]);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(dhcp_gives_the_guest_its_address_name_and_resolver),
		T(datagrams_reach_the_hosts_loopback_and_come_back),
		T(a_full_guest_gets_its_frames_when_it_has_room),
		T(a_restricted_guest_reaches_nothing),
		T(the_hosts_own_addresses_are_not_reached_behind_the_gateways_back),
		T(a_forward_leads_into_the_guest),
		T(a_port_in_use_is_told),
		T(the_helper_is_shut_in),
		T(a_dead_helper_takes_the_link_down_and_nothing_else),
		T(the_helper_dies_with_its_machine),
	};

	if (argc > 1 && strcmp(argv[1], NET_HELPER_COMMAND) == 0)
		return net_helper_main();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
