/* A tap interface in a network namespace that each test makes for itself, in a process of its own.
 */
#include "dev/backend/net.h"

#include "base/err.h"
#include "check.h"
#include "host/evloop.h"
#include "unit/net/frames.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define HOST	0x0a090001
#define GUEST	0x0a090002
#define NO_TAPS 77
#define DIED(x) fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, x)
#define NEED(x)                                                                                    \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			DIED(#x);                                                                  \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

struct guest {
	struct link_end e;
	struct evloop *loop;
	struct net *net;
	int came; /* eventfd: counts the frames kept */
	struct frame_meta meta;
	uint8_t frame[70000];
	uint32_t len;
	bool full;
};

/* Keep the last frame that is UDP over IPv4. */
static bool guest_send(void *end, const struct frame_meta *meta, const struct iovec *iov,
		       unsigned n_iov, uint32_t len)
{
	struct guest *g = end;
	const uint8_t *f = iov[0].iov_base;
	uint64_t one = 1;

	if (len < 34 || be16_get(f + ETH_TYPE) != ETH_P_IP4 || f[14 + IP4_PROTO] != IPPROTO_IS_UDP)
		return true;
	if (__atomic_load_n(&g->full, __ATOMIC_SEQ_CST))
		return false;
	g->meta = *meta;
	g->len = len;
	memcpy(g->frame, f, len);
	return write(g->came, &one, sizeof(one)) == sizeof(one);
}

static const struct link_ops guest_ops = { .send = guest_send };

static void configure(const char *name)
{
	struct ifreq r = { 0 };
	struct sockaddr_in *a = (struct sockaddr_in *)&r.ifr_addr;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	strcpy(r.ifr_name, name);
	a->sin_family = AF_INET;
	a->sin_addr.s_addr = htonl(HOST);
	NEED(ioctl(fd, SIOCSIFADDR, &r) == 0);
	a->sin_addr.s_addr = htonl(0xffffff00);
	NEED(ioctl(fd, SIOCSIFNETMASK, &r) == 0);
	r.ifr_flags = IFF_UP | IFF_RUNNING;
	NEED(ioctl(fd, SIOCSIFFLAGS, &r) == 0);
	close(fd);
}

/* The kernel learns the guest's address from an ARP request for its own. */
static void announce(struct guest *g)
{
	static const struct frame_meta none;
	uint8_t f[42];
	struct iovec iov = { f, sizeof(f) };

	memset(f, 0, sizeof(f));
	memset(f, 0xff, 6);
	memcpy(f + 6, frame_guest_mac, 6);
	be16_put(f + 12, 0x0806);
	memcpy(f + 14, "\0\1\x08\0\6\4\0\1", 8);
	memcpy(f + 22, frame_guest_mac, 6);
	be32_put(f + 28, GUEST);
	be32_put(f + 38, HOST);
	NEED(link_send(&g->e, &none, &iov, 1, sizeof(f)));
}

static struct guest *guest_new(const struct link_caps *caps)
{
	static struct guest g;
	struct err err = { 0 };

	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		_exit(NO_TAPS);
	g.came = eventfd(0, EFD_CLOEXEC);
	g.e = (struct link_end){ .ops = &guest_ops, .end = &g, .up = true, .caps = *caps };
	NEED(evloop_new(&g.loop, NULL) == 0);
	if (net_tap_new(&g.net, g.loop, "cable0", &err) < 0) {
		DIED(err.msg);
		_exit(NO_TAPS);
	}
	configure("cable0");
	link_join(&g.e, &g.net->end);
	net_start(g.net);
	announce(&g);
	return &g;
}

static void guest_free(struct guest *g)
{
	link_part(&g->e);
	net_free(g->net);
	evloop_free(g->loop);
}

static bool came(struct guest *g, int timeout_ms)
{
	struct pollfd p = { .fd = g->came, .events = POLLIN };
	uint64_t n;

	return poll(&p, 1, timeout_ms) == 1 && read(g->came, &n, sizeof(n)) == sizeof(n);
}

static int host_socket(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(7) };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	NEED(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	return fd;
}

static void host_sends(int fd, uint32_t len)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9) };
	static uint8_t payload[1400];

	to.sin_addr.s_addr = htonl(GUEST);
	NEED(sendto(fd, payload, len, 0, (struct sockaddr *)&to, sizeof(to)) == (ssize_t)len);
}

/* Run a scene in a child, which has no thread yet and gets the namespace. */
static void in_namespace(void (*scene)(void))
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		alarm(30);
		scene();
		_exit(0);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == NO_TAPS) {
		print_message("skipped: this host lets us make no tap interface in a namespace\n");
		skip();
	}
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void guest_to_host(void)
{
	struct link_caps caps = { 0 };
	struct guest *g = guest_new(&caps);
	int fd = host_socket();
	uint8_t f[2000], payload[1000] = { 1, 2, 3 }, got[2000], mac[6];
	struct frame_spec s = { .udp = true,
				.src = GUEST,
				.dst = HOST,
				.sport = 9,
				.dport = 7,
				.payload = payload,
				.len = sizeof(payload),
				.dst_mac = mac };
	struct ifreq r = { .ifr_name = "cable0" };
	struct frame_meta m;
	struct pollfd p = { .fd = fd, .events = POLLIN };

	NEED(ioctl(fd, SIOCGIFHWADDR, &r) == 0);
	memcpy(mac, r.ifr_hwaddr.sa_data, 6);

	struct iovec iov = { f, frame_make(f, &s, &m) };

	/* With an open checksum, which the kernel closes. */
	NEED(link_send(&g->e, &m, &iov, 1, (uint32_t)iov.iov_len));
	NEED(poll(&p, 1, 10000) == 1);
	NEED(recv(fd, got, sizeof(got), 0) == 1000 && memcmp(got, payload, 1000) == 0);
	guest_free(g);
}

TEST(frames_with_open_checksums_reach_the_host)
{
	in_namespace(guest_to_host);
}

static void host_to_guest(void)
{
	struct link_caps caps = { .csum = false };
	struct guest *g = guest_new(&caps);
	int fd = host_socket();

	host_sends(fd, 500);
	NEED(came(g, 10000));
	NEED(g->len == 14 + 28 + 500 && !(g->meta.flags & FRAME_NEEDS_CSUM));
	NEED(frame_sums_hold(g->frame, g->len, 14));
	/* A guest that says it can finish checksums gets them open. */
	caps.csum = true;
	link_set_caps(&g->e, &caps);
	host_sends(fd, 600);
	NEED(came(g, 10000));
	NEED(g->len == 14 + 28 + 600 && g->meta.flags & FRAME_NEEDS_CSUM);
	guest_free(g);
}

TEST(the_kernel_leaves_checksums_open_only_where_the_guest_agreed)
{
	in_namespace(host_to_guest);
}

static void full_guest(void)
{
	struct link_caps caps = { 0 };
	struct guest *g = guest_new(&caps);
	int fd = host_socket();

	__atomic_store_n(&g->full, true, __ATOMIC_SEQ_CST);
	host_sends(fd, 500);
	NEED(!came(g, 300));
	__atomic_store_n(&g->full, false, __ATOMIC_SEQ_CST);
	link_wake_peer(&g->e);
	NEED(came(g, 10000) && g->len == 14 + 28 + 500);
	guest_free(g);
}

TEST(a_full_guest_gets_its_frames_when_it_has_room)
{
	in_namespace(full_guest);
}

static void bad_names(void)
{
	struct evloop *loop;
	struct err err = { 0 };
	struct net *n;

	NEED(evloop_new(&loop, NULL) == 0);
	NEED(net_tap_new(&n, loop, "", &err) == -EINVAL && strstr(err.msg, "name"));
	NEED(net_tap_new(&n, loop, "sixteen_letters_", &err) == -EINVAL);
	evloop_free(loop);
}

TEST(a_bad_name_is_told)
{
	in_namespace(bad_names);
}

TESTS(T(frames_with_open_checksums_reach_the_host),
      T(the_kernel_leaves_checksums_open_only_where_the_guest_agreed),
      T(a_full_guest_gets_its_frames_when_it_has_room), T(a_bad_name_is_told))
