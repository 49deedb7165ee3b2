#include "base/err.h"
#include "check.h"
#include "virtio_driver.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#define RING	 0x10000
#define DATA	 0x400000
#define RX_DATA	 0x500000
#define RX_BYTES 8192
#define CID	 5

enum { RX, TX, EVENT, N_QUEUES };
enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };

struct packet {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
	uint8_t data[RX_BYTES - 44];
} __attribute__((packed));

#define HEADER_BYTES offsetof(struct packet, data)

struct rig {
	struct vboard b;
	struct vring r[N_QUEUES];
	char dir[32], path[64];
	uint8_t *data, *rx;
	struct packet got;
	uint32_t alloc, forwarded; /* the credit that the guest says it gives */
};

/* The guest's n-th receive buffer has the id n as long as there is one format of them. */
static void offer(struct rig *g, unsigned n)
{
	vring_add(&g->r[RX], &(struct vseg){ RX_DATA + n * RX_BYTES, RX_BYTES, true }, 1);
	vboard_notify(&g->b, RX);
}

static void rig_up(struct rig *g, uint64_t features)
{
	struct virtio_place at;

	memset(g, 0, sizeof(*g));
	strcpy(g->dir, "/tmp/vsock-test.XXXXXX");
	CHECK(mkdtemp(g->dir) != NULL);
	snprintf(g->path, sizeof(g->path), "%s/s", g->dir);
	vboard_up(&g->b, 8 * MiB);
	at = vboard_place(&g->b);
	CHECK_EQ(virtio_vsock_new(&g->b.dev, &at,
				  &(struct virtio_vsock_cfg){ .cid = CID, .path = g->path }, NULL),
		 0);
	CHECK(vboard_start(&g->b, features, g->r, N_QUEUES, RING, 16) != 0);
	g->data = physmap_host(&g->b.pm, DATA, 0x80000, NULL);
	g->rx = physmap_host(&g->b.pm, RX_DATA, 16 * RX_BYTES, NULL);
	g->alloc = 65536;
	for (unsigned i = 0; i < 10; i++)
		vboard_pause(); /* the device knows of its driver */
}

static void rig_down(struct rig *g)
{
	vboard_down(&g->b);
	CHECK(access(g->path, F_OK) < 0);
	CHECK_EQ(rmdir(g->dir), 0);
}

static void send_from(struct rig *g, uint64_t cid, uint16_t op, uint32_t guest_port,
		      uint32_t host_port, uint32_t flags, const void *data, uint32_t len)
{
	struct packet p = { .src_cid = cid,
			    .dst_cid = 2,
			    .src_port = guest_port,
			    .dst_port = host_port,
			    .len = len,
			    .type = 1,
			    .op = op,
			    .flags = flags,
			    .buf_alloc = g->alloc,
			    .fwd_cnt = g->forwarded };
	struct vseg seg[2] = { { DATA, HEADER_BYTES }, { DATA + 0x100, len } };
	uint16_t id;
	uint32_t used = 0;

	memcpy(g->data, &p, HEADER_BYTES);
	if (len)
		memcpy(g->data + 0x100, data, len);
	vring_add(&g->r[TX], seg, len ? 2 : 1);
	vboard_notify(&g->b, TX);
	CHECK(vboard_wait(&g->r[TX], &id, &used));
}

static void say(struct rig *g, uint16_t op, uint32_t guest_port, uint32_t host_port)
{
	send_from(g, CID, op, guest_port, host_port, 0, NULL, 0);
}

static void send_data(struct rig *g, uint32_t guest_port, uint32_t host_port, const char *text)
{
	send_from(g, CID, RW, guest_port, host_port, 0, text, (uint32_t)strlen(text));
}

/* Give the device a buffer and wait for its packet, which must be op. */
static void expect(struct rig *g, uint16_t op)
{
	uint16_t id;
	uint32_t len = 0;

	offer(g, 0);
	CHECK(vboard_wait(&g->r[RX], &id, &len));
	CHECK(len >= HEADER_BYTES);
	memcpy(&g->got, g->rx, sizeof(g->got));
	CHECK_EQ(g->got.src_cid, 2);
	CHECK_EQ(g->got.dst_cid, CID);
	CHECK_EQ(g->got.type, 1);
	CHECK_EQ(g->got.op, op);
	CHECK_EQ(g->got.len, len - HEADER_BYTES);
}

static int listen_at(struct rig *g, unsigned port)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s_%u", g->path, port);
	CHECK_EQ(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	CHECK_EQ(listen(fd, 8), 0);
	return fd;
}

static void unlisten(struct rig *g, int fd, unsigned port)
{
	char name[128];

	snprintf(name, sizeof(name), "%s_%u", g->path, port);
	close(fd);
	unlink(name);
}

static int dial(struct rig *g, const char *greeting)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct timeval limit = { .tv_sec = 10 };

	strcpy(a.sun_path, g->path);
	CHECK_EQ(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	CHECK_EQ(write(fd, greeting, strlen(greeting)), (ssize_t)strlen(greeting));
	return fd;
}

static void expect_text(int fd, const char *text)
{
	char buf[256] = { 0 };
	size_t n = 0;

	while (n < strlen(text)) {
		ssize_t got = read(fd, buf + n, strlen(text) - n);

		CHECK(got > 0);
		n += (size_t)got;
	}
	CHECK_STR(buf, text);
}

static void expect_end(int fd)
{
	char c;

	CHECK_EQ(read(fd, &c, 1), 0);
}

/* A connection to the guest's port 1234; returns the client's socket. */
static int open_to_guest(struct rig *g, const char *greeting)
{
	int fd = dial(g, greeting);
	char ok[32];

	expect(g, REQUEST);
	CHECK_EQ(g->got.dst_port, 1234);
	say(g, RESPONSE, 1234, g->got.src_port);
	snprintf(ok, sizeof(ok), "OK %u\n", g->got.src_port);
	expect_text(fd, ok);
	return fd;
}

/* A connection from the guest's port 99 to the host's 7; returns the server's socket. */
static int open_to_host(struct rig *g, int listener)
{
	int fd;

	say(g, REQUEST, 99, 7);
	fd = accept(listener, NULL, NULL);
	CHECK(fd >= 0);
	expect(g, RESPONSE);
	CHECK_EQ(g->got.src_port, 7);
	CHECK_EQ(g->got.dst_port, 99);
	CHECK(g->got.buf_alloc > 0);
	return fd;
}

TEST(a_client_on_the_host_reaches_the_guest)
{
	static const uint64_t kinds[] = { 0, BIT(VIRTIO_F_RING_PACKED) };

	for (unsigned k = 0; k < 2; k++) {
		struct rig g;
		int fd;

		rig_up(&g, kinds[k] | BIT(VIRTIO_F_RING_EVENT_IDX));
		CHECK_EQ(vboard_read(&g.b, VBOARD_CONFIG, 4), CID);
		fd = open_to_guest(&g, "CONNECT 1234\nearly");
		expect(&g, RW);
		CHECK_EQ(g.got.len, 5);
		CHECK_MEM(g.got.data, "early", 5);
		send_data(&g, 1234, g.got.src_port, "answer");
		expect_text(fd, "answer");
		close(fd);
		expect(&g, SHUTDOWN);
		CHECK_EQ(g.got.flags, 3);
		say(&g, RST, 1234, g.got.src_port);
		rig_down(&g);
	}
}

TEST(a_client_in_the_guest_reaches_the_host)
{
	struct rig g;
	int listener, fd;

	rig_up(&g, 0);
	listener = listen_at(&g, 7);
	fd = open_to_host(&g, listener);
	send_data(&g, 99, 7, "hello");
	expect_text(fd, "hello");
	CHECK_EQ(write(fd, "there", 5), 5);
	expect(&g, RW);
	CHECK_MEM(g.got.data, "there", 5);
	send_from(&g, CID, SHUTDOWN, 99, 7, 2, NULL, 0); /* no more from the guest */
	expect_end(fd);
	CHECK_EQ(write(fd, "still", 5), 5);
	expect(&g, RW);
	CHECK_MEM(g.got.data, "still", 5);
	send_from(&g, CID, SHUTDOWN, 99, 7, 3, NULL, 0);
	expect(&g, RST);
	close(fd);
	unlisten(&g, listener, 7);
	rig_down(&g);
}

TEST(half_a_connection_can_be_closed_by_the_host)
{
	struct rig g;
	int listener, fd;

	rig_up(&g, 0);
	listener = listen_at(&g, 7);
	fd = open_to_host(&g, listener);
	CHECK_EQ(write(fd, "end", 3), 3);
	shutdown(fd, SHUT_WR);
	expect(&g, RW);
	expect(&g, SHUTDOWN);
	CHECK_EQ(g.got.flags, 2);
	send_data(&g, 99, 7, "more");
	expect_text(fd, "more");
	close(fd);
	expect(&g, SHUTDOWN);
	CHECK_EQ(g.got.flags, 3);
	unlisten(&g, listener, 7);
	rig_down(&g);
}

TEST(what_is_not_there_is_reset)
{
	struct rig g;

	rig_up(&g, 0);
	say(&g, REQUEST, 99, 8); /* nobody listens */
	expect(&g, RST);
	CHECK_EQ(g.got.src_port, 8);
	CHECK_EQ(g.got.dst_port, 99);
	send_data(&g, 5, 6, "lost");
	expect(&g, RST);
	say(&g, RST, 5, 6);			      /* no answer to that */
	send_from(&g, CID + 1, RW, 5, 6, 0, NULL, 0); /* nor to a stranger */
	say(&g, 77, 3, 4);
	expect(&g, RST);
	CHECK_EQ(g.got.dst_port, 3);
	rig_down(&g);
}

TEST(false_greetings_are_hung_up_on)
{
	static const char *const bad[] = {
		"CONNECT\n",
		"CONNECT \n",
		"CONNECT -1\n",
		"CONNECT 4294967296\n",
		"HELLO 1234\n",
		"CONNECT 12 34\n",
		"CONNECT 1234567890123456789012345678901234567890\n",
	};
	struct rig g;

	rig_up(&g, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		int fd = dial(&g, bad[i]);

		/* What was not read makes it a reset. */
		char c;
		ssize_t n = read(fd, &c, 1);

		CHECK(n == 0 || (n < 0 && errno == ECONNRESET));
		close(fd);
	}
	close(open_to_guest(&g, "CONNECT 1234\n"));
	rig_down(&g);
}

TEST(the_guests_refusal_ends_the_client)
{
	struct rig g;
	int fd;

	rig_up(&g, 0);
	fd = dial(&g, "CONNECT 1234\n");
	expect(&g, REQUEST);
	say(&g, RST, 1234, g.got.src_port);
	expect_end(fd);
	close(fd);
	rig_down(&g);
}

TEST(the_guest_gets_no_more_than_it_has_room_for)
{
	struct rig g;
	int fd;
	char text[100];

	rig_up(&g, 0);
	g.alloc = 150;
	fd = open_to_guest(&g, "CONNECT 1234\n");
	memset(text, 'x', sizeof(text));
	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(write(fd, text, 100), 100);
	for (uint32_t n = 0; n < 300;) {
		uint32_t want = MIN(150, 300 - n);

		for (uint32_t part = 0; part < want; part += g.got.len)
			expect(&g, RW);
		n += want;
		g.forwarded = n;
		if (n < 300)
			say(&g, CREDIT_UPDATE, 1234, g.got.src_port);
	}
	say(&g, CREDIT_REQUEST, 1234, g.got.src_port);
	expect(&g, CREDIT_UPDATE);
	close(fd);
	rig_down(&g);
}

/* More than a Unix socket and the device's buffer hold: then the guest has lied about its credit.
 */
TEST(the_guest_cannot_send_more_than_its_credit)
{
	struct rig g;
	int listener, fd;
	uint64_t sent = 0;
	uint32_t allowed;
	char *piece;

	rig_up(&g, 0);
	listener = listen_at(&g, 7);
	fd = open_to_host(&g, listener);
	allowed = g.got.buf_alloc;
	piece = calloc(1, 8193);
	memset(piece, 'y', 8192);
	/* As a good driver does: wait for credit, until the host's socket is full as well. */
	for (uint32_t told = 0; sent < told + allowed;) {
		uint16_t id;
		uint32_t len = 0;

		send_data(&g, 99, 7, piece);
		sent += 8192;
		if (sent + 8192 <= told + allowed)
			continue;
		offer(&g, 0);
		for (unsigned i = 0; i < 200 && !len; i++) {
			vboard_pause();
			vring_used(&g.r[RX], &id, &len);
		}
		if (!len)
			break;
		memcpy(&g.got, g.rx, HEADER_BYTES);
		CHECK_EQ(g.got.op, CREDIT_UPDATE);
		told = g.got.fwd_cnt;
	}
	/* A buffer waits at the device now. One more breaks the rules. */
	for (unsigned i = 0; i < 8; i++)
		send_data(&g, 99, 7, piece);
	{
		uint16_t id;
		uint32_t len = 0;

		CHECK(vboard_wait(&g.r[RX], &id, &len));
		memcpy(&g.got, g.rx, HEADER_BYTES);
		while (g.got.op == CREDIT_UPDATE)
			expect(&g, RST);
		CHECK_EQ(g.got.op, RST);
	}
	free(piece);
	close(fd);
	unlisten(&g, listener, 7);
	rig_down(&g);
}

TEST(many_connections_are_kept_apart)
{
	enum { N = 200 };
	struct rig g;
	int fd[N];
	uint32_t port[N];

	rig_up(&g, 0);
	for (unsigned i = 0; i < N; i++) {
		fd[i] = open_to_guest(&g, "CONNECT 1234\n");
		port[i] = g.got.src_port;
	}
	for (unsigned i = 0; i < N; i++) {
		char text[16];

		snprintf(text, sizeof(text), "to %u", i);
		send_data(&g, 1234, port[i], text);
	}
	for (unsigned i = N; i-- > 0;) {
		char text[16];

		snprintf(text, sizeof(text), "to %u", i);
		expect_text(fd[i], text);
	}
	CHECK(vboard_reset(&g.b));
	for (unsigned i = 0; i < N; i++) {
		expect_end(fd[i]);
		close(fd[i]);
	}
	rig_down(&g);
}

TEST(answers_wait_for_the_guest_to_have_room)
{
	struct rig g;
	uint16_t id;
	uint32_t len = 0;

	rig_up(&g, 0);
	memset(g.data, 0, HEADER_BYTES);
	for (unsigned i = 0; i < 255; i++)
		say(&g, REQUEST, i, 9);
	for (unsigned i = 0; i < 255; i++)
		expect(&g, RST);
	CHECK(!vring_used(&g.r[RX], &id, &len));
	rig_down(&g);
}

TEST(a_path_that_is_taken_or_too_long_is_refused)
{
	struct rig g;
	struct virtio_place at;
	struct dev dev;
	struct err err;
	char name[200];

	rig_up(&g, 0);
	at = vboard_place(&g.b);
	CHECK_EQ(virtio_vsock_new(&dev, &at,
				  &(struct virtio_vsock_cfg){ .cid = CID, .path = g.path }, &err),
		 -EADDRINUSE);
	memset(name, 'a', sizeof(name));
	name[199] = 0;
	CHECK_EQ(virtio_vsock_new(&dev, &at, &(struct virtio_vsock_cfg){ .cid = CID, .path = name },
				  &err),
		 -EINVAL);
	close(open_to_guest(&g, "CONNECT 1234\n"));
	rig_down(&g);
}

TESTS(T(a_client_on_the_host_reaches_the_guest), T(a_client_in_the_guest_reaches_the_host),
      T(half_a_connection_can_be_closed_by_the_host), T(what_is_not_there_is_reset),
      T(false_greetings_are_hung_up_on), T(the_guests_refusal_ends_the_client),
      T(the_guest_gets_no_more_than_it_has_room_for), T(the_guest_cannot_send_more_than_its_credit),
      T(many_connections_are_kept_apart), T(answers_wait_for_the_guest_to_have_room),
      T(a_path_that_is_taken_or_too_long_is_refused))
