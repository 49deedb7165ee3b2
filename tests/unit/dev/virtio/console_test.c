#include "check.h"
#include "dev/backend/chr.h"
#include "dev/backend/chr_fd.h"
#include "virtio_driver.h"

#include <signal.h>
#include <stdio.h>

#define RING 0x10000
#define DATA 0x400000

enum { RX0, TX0, CTL_RX, CTL_TX, RX1, TX1, N_QUEUES };
enum { READY = 0, ADD = 1, PORT_READY = 3, CONSOLE_PORT = 4, OPEN = 6, NAME = 7 };

#define MULTIPORT BIT(1)

struct rig {
	struct vboard b;
	struct vring r[N_QUEUES];
	int in[2][2], out[2][2]; /* pipes of each port */
	uint8_t *data;
};

static void rig_up(struct rig *g)
{
	struct virtio_console_cfg cfg = { .n_ports = 2, .name = { NULL, "org.cleave.test" } };
	struct virtio_place at;

	memset(g, 0, sizeof(*g));
	signal(SIGPIPE, SIG_IGN);
	vboard_up(&g->b, 8 * MiB);
	at = vboard_place(&g->b);
	for (unsigned i = 0; i < 2; i++) {
		struct chr_fd_cfg fd = { .close_fds = true };

		CHECK_EQ(pipe(g->in[i]), 0);
		CHECK_EQ(pipe(g->out[i]), 0);
		fd.in_fd = g->in[i][0];
		fd.out_fd = g->out[i][1];
		CHECK_EQ(chr_fd_new(&cfg.chr[i], g->b.loop, &fd, NULL), 0);
	}
	CHECK_EQ(virtio_console_new(&g->b.dev, &at, &cfg, NULL), 0);
	g->b.dev.ops->start(g->b.dev.dev);
	g->data = physmap_host(&g->b.pm, DATA, 0x10000, NULL);
}

static void rig_down(struct rig *g)
{
	for (unsigned i = 0; i < 2; i++) {
		close(g->in[i][1]);
		close(g->out[i][0]);
	}
	vboard_down(&g->b);
}

static void start(struct rig *g, uint64_t features)
{
	CHECK(vboard_start(&g->b,
			   features | BIT(VIRTIO_F_RING_EVENT_IDX) |
				   BIT(VIRTIO_F_RING_INDIRECT_DESC),
			   g->r, N_QUEUES, RING, 16) != 0);
}

/* Send n bytes at DATA through queue q and wait until they are taken. */
static void send(struct rig *g, unsigned q, const void *buf, uint32_t n)
{
	struct vseg seg = { DATA, n };
	uint16_t id;
	uint32_t len = 0;

	memcpy(g->data, buf, n);
	vring_add(&g->r[q], &seg, 1);
	vboard_notify(&g->b, q);
	CHECK(vboard_wait(&g->r[q], &id, &len));
	CHECK_EQ(len, 0);
}

static void send_control(struct rig *g, uint32_t id, uint16_t event, uint16_t value)
{
	uint8_t msg[8];

	store32(msg, id);
	store16(msg + 4, event);
	store16(msg + 6, value);
	send(g, CTL_TX, msg, sizeof(msg));
}

/* Give queue q a buffer and wait for it to be filled; the bytes are at data + 0x1000. */
static uint32_t receive(struct rig *g, unsigned q)
{
	struct vseg seg = { DATA + 0x1000, 256, true };
	uint16_t id;
	uint32_t len = 0;

	vring_add(&g->r[q], &seg, 1);
	vboard_notify(&g->b, q);
	CHECK(vboard_wait(&g->r[q], &id, &len));
	return len;
}

static void expect_control(struct rig *g, uint32_t id, uint16_t event, const char *text)
{
	CHECK_EQ(receive(g, CTL_RX), 8 + strlen(text));
	CHECK_EQ(load32(g->data + 0x1000), id);
	CHECK_EQ(load16(g->data + 0x1004), event);
	CHECK_EQ(load16(g->data + 0x1006), 1);
	CHECK_MEM(g->data + 0x1008, text, strlen(text));
}

static void expect_out(struct rig *g, unsigned port, const char *text)
{
	char buf[64];
	size_t got = 0;

	while (got < strlen(text)) {
		ssize_t n = read(g->out[port][0], buf + got, sizeof(buf) - got);

		CHECK(n > 0);
		got += (size_t)n;
	}
	CHECK_MEM(buf, text, strlen(text));
}

TEST(without_multiport_the_one_port_works_both_ways)
{
	struct rig g;

	rig_up(&g);
	start(&g, 0);
	send(&g, TX0, "hello", 5);
	expect_out(&g, 0, "hello");
	CHECK_EQ(write(g.in[0][1], "typed", 5), 5);
	CHECK_EQ(receive(&g, RX0), 5);
	CHECK_MEM(g.data + 0x1000, "typed", 5);
	rig_down(&g);
}

TEST(ports_are_told_of_and_named)
{
	struct rig g;

	rig_up(&g);
	start(&g, MULTIPORT | BIT(VIRTIO_F_RING_PACKED));
	CHECK_EQ(vboard_read(&g.b, VBOARD_CONFIG + 4, 4), 2);
	send_control(&g, 0, READY, 1);
	expect_control(&g, 0, ADD, "");
	expect_control(&g, 1, ADD, "");
	send_control(&g, 1, PORT_READY, 1);
	expect_control(&g, 1, NAME, "org.cleave.test");
	expect_control(&g, 1, OPEN, "");
	send_control(&g, 0, PORT_READY, 1);
	expect_control(&g, 0, CONSOLE_PORT, "");
	expect_control(&g, 0, OPEN, "");
	send_control(&g, 77, PORT_READY, 1); /* no such port */
	send_control(&g, 77, OPEN, 1);
	send_control(&g, 0, 99, 1);
	send(&g, CTL_TX, "abc", 3);
	CHECK_EQ(write(g.in[1][1], "x", 1), 1);
	for (unsigned i = 0; i < 20; i++)
		vboard_pause();
	send_control(&g, 1, OPEN, 1); /* only now it reads */
	CHECK_EQ(receive(&g, RX1), 1);
	CHECK_EQ(g.data[0x1000], 'x');
	send(&g, TX1, "out", 3);
	expect_out(&g, 1, "out");
	CHECK_EQ(vboard_status(&g.b), 0xf);
	rig_down(&g);
}

/* 2 MiB into a pipe that nobody reads: they wait in the guest, the loop goes on, and none is lost.
 */
TEST(a_reader_that_stalls_holds_up_only_its_port)
{
	struct rig g;
	uint64_t got = 0, want = 32 * 65536;
	char buf[65536];

	rig_up(&g);
	start(&g, MULTIPORT);
	for (unsigned i = 0; i < 15; i++) {
		struct vseg seg[2] = { { DATA, 65536 }, { DATA + 65536, 65536 } };

		vring_add(&g.r[TX0], seg, 1);
		vring_add_indirect(&g.r[TX1], seg, 2);
	}
	vring_add(&g.r[TX1], (struct vseg[]){ { DATA, 65536 } }, 1);
	want = 31 * 65536;
	vboard_notify(&g.b, TX1);
	for (unsigned i = 0; i < 50; i++)
		vboard_pause();
	send_control(&g, 0, PORT_READY, 1);
	expect_control(&g, 0, CONSOLE_PORT, "");
	while (got < want) {
		ssize_t n = read(g.out[1][0], buf, sizeof(buf));

		CHECK(n > 0);
		got += (uint64_t)n;
	}
	rig_down(&g);
}

/* A driver notifies only where the event index asks for it (virtio 1.2, 2.7.10). */
TEST(input_that_waits_for_buffers_asks_to_be_told_of_them)
{
	struct rig g;
	const uint8_t *event;
	uint8_t text[1024];
	uint32_t len;
	uint16_t id;

	rig_up(&g);
	start(&g, 0);
	event = g.r[RX0].device + 4 + 8 * g.r[RX0].size;
	memset(text, 'x', sizeof(text));
	for (unsigned i = 0; i < 3; i++)
		vring_add(&g.r[RX0], &(struct vseg){ DATA + i * 256, 256, true }, 1);
	vboard_notify(&g.b, RX0);
	CHECK_EQ(write(g.in[0][1], text, sizeof(text)), sizeof(text));
	for (unsigned i = 0; i < 3; i++)
		CHECK(vboard_wait(&g.r[RX0], &id, &len));
	for (unsigned i = 0; i < 1000 && load16(event) != 3; i++)
		vboard_pause();
	CHECK_EQ(load16(event), 3);
	CHECK_EQ(receive(&g, RX0), 256);
	rig_down(&g);
}

TEST(a_reset_while_output_waits_forgets_it)
{
	struct rig g;

	rig_up(&g);
	for (unsigned round = 0; round < 3; round++) {
		start(&g, 0);
		for (unsigned i = 0; i < 16; i++)
			vring_add(&g.r[TX0], &(struct vseg){ DATA, 200000 }, 1);
		vboard_notify(&g.b, TX0);
		vboard_pause();
		CHECK(vboard_reset(&g.b));
	}
	rig_down(&g);
}

TESTS(T(without_multiport_the_one_port_works_both_ways), T(ports_are_told_of_and_named),
      T(a_reader_that_stalls_holds_up_only_its_port),
      T(input_that_waits_for_buffers_asks_to_be_told_of_them),
      T(a_reset_while_output_waits_forgets_it))
