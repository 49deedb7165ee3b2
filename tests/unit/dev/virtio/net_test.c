#include "dev/virtio/net.h"

#include "check.h"
#include "dev/virtio/net_internal.h"
#include "unit/net/frames.h"
#include "virtio_driver.h"

#define RING 0x10000
#define DATA 0x400000
#define SIZE 64

enum { RX0, TX0, RX1, TX1, CTRL, N_QUEUES };
#define ALL (~0ull & ~(BIT(NET_F_CTRL_VLAN) | BIT(VIRTIO_F_ACCESS_PLATFORM)))

struct rig {
	struct vboard b;
	struct vring r[N_QUEUES];
	uint8_t *data;
	struct link_end *card, other;
	uint64_t features;
	_Atomic bool full;
	_Atomic unsigned frames, wakes;
	struct frame_meta meta;
	uint8_t frame[70000];
	uint32_t len;
	struct link_caps caps;
};

static bool other_send(void *end, const struct frame_meta *meta, const struct iovec *iov,
		       unsigned n_iov, uint32_t len)
{
	struct rig *g = end;

	if (g->full)
		return false;
	g->meta = *meta;
	g->len = 0;
	for (unsigned i = 0; i < n_iov; i++) {
		memcpy(g->frame + g->len, iov[i].iov_base, iov[i].iov_len);
		g->len += (uint32_t)iov[i].iov_len;
	}
	assert(g->len == len);
	g->frames++;
	return true;
}

static void other_wake(void *end)
{
	((struct rig *)end)->wakes++;
}

static void other_changed(void *end, bool up, const struct link_caps *peer)
{
	((struct rig *)end)->caps = *peer;
}

static const struct link_ops other_ops = { other_send, other_wake, other_changed };

static struct rig *rig_up(uint64_t features)
{
	static const uint8_t mac[] = { 0x52, 0x54, 0, 0, 0, 1 };
	static struct rig g;
	struct virtio_net_cfg cfg = { .mtu = 1500, .n_pairs = 2 };

	memset(&g, 0, sizeof(g));
	vboard_up(&g.b, 16 * MiB);
	cfg.bus = g.b.bus;
	cfg.pm = &g.b.pm;
	cfg.loop = g.b.loop;
	memcpy(cfg.mac, mac, 6);
	CHECK_EQ(virtio_net_new(&g.b.dev, &g.card, &cfg, NULL), 0);
	g.other = (struct link_end){
		.ops = &other_ops, .end = &g, .up = true, .caps = { .csum = true, .tso4 = true }
	};
	link_join(g.card, &g.other);
	g.data = physmap_host(&g.b.pm, DATA, MiB, NULL);
	g.features = vboard_start(&g.b, features, g.r, N_QUEUES, RING, SIZE);
	CHECK(g.features);
	/* The start is the worker's: wait until a frame passes. */
	memset(g.data, 0, 64);
	for (unsigned i = 0; i < 1000 && !g.wakes; i++)
		vboard_pause();
	CHECK(g.wakes);
	g.wakes = 0;
	return &g;
}

static void rig_down(struct rig *g)
{
	evloop_stop(g->b.loop);
	link_part(g->card);
	vboard_down(&g->b);
}

static bool becomes(_Atomic unsigned *n, unsigned want)
{
	for (unsigned i = 0; i < 5000 && *n != want; i++)
		vboard_pause();
	return *n == want;
}

/* Have the card send a frame that stands behind its header, cut at byte cut. */
static void transmit(struct rig *g, unsigned q, const struct frame_meta *meta, const uint8_t *f,
		     uint32_t len, uint32_t cut)
{
	struct net_hdr h = { .meta = *meta };
	struct vseg seg[2] = { { DATA, cut, false },
			       { DATA + cut, (uint32_t)sizeof(h) + len - cut, false } };
	uint16_t id;
	uint32_t got;

	memcpy(g->data, &h, sizeof(h));
	memcpy(g->data + sizeof(h), f, len);
	vring_add(&g->r[q], seg, 2);
	vboard_notify(&g->b, q);
	if (!g->full)
		CHECK(vboard_wait(&g->r[q], &id, &got));
}

/* n buffers of len bytes on a receive queue, from data + at on. */
static void post(struct rig *g, unsigned q, unsigned n, uint32_t at, uint32_t len)
{
	for (unsigned i = 0; i < n; i++)
		vring_add(&g->r[q], &(struct vseg){ DATA + at + i * len, len, true }, 1);
	vboard_notify(&g->b, q);
}

static bool receive(struct rig *g, const uint8_t *f, uint32_t len)
{
	static const struct frame_meta valid = { .flags = FRAME_DATA_VALID };
	struct iovec iov[2] = { { (void *)f, len / 2 }, { (void *)(f + len / 2), len - len / 2 } };

	return link_send(&g->other, &valid, iov, 2, len);
}

static uint32_t make(uint8_t *f, uint32_t len, struct frame_meta *meta)
{
	static uint8_t payload[60000];
	struct frame_spec s = { .src = 1, .dst = 2, .payload = payload, .len = len };

	for (unsigned i = 0; i < sizeof(payload); i++)
		payload[i] = (uint8_t)(i * 7 + i / 256);
	return frame_make(f, &s, meta);
}

TEST(a_frame_goes_out_with_what_it_lacks)
{
	static uint8_t f[70000];

	for (unsigned packed = 0; packed < 2; packed++) {
		struct rig *g = rig_up(ALL & ~(packed ? 0 : BIT(VIRTIO_F_RING_PACKED)));
		struct frame_meta m;
		uint32_t len = make(f, 40000, &m);

		m.gso_type = GSO_TCPV4;
		m.gso_size = 1448;
		for (unsigned cut = 1; cut < 40; cut += 6) {
			g->len = 0;
			transmit(g, cut & 2 ? TX0 : TX1, &m, f, len, cut);
			CHECK_EQ(g->len, len);
			CHECK_MEM(g->frame, f, len);
			CHECK_MEM(&g->meta, &m, sizeof(m));
		}
		rig_down(g);
	}
}

TEST(what_was_not_negotiated_or_is_no_frame_is_dropped)
{
	struct rig *g = rig_up(0);
	static uint8_t f[70000];
	struct frame_meta m, none = { 0 };
	uint32_t len = make(f, 2000, &m);

	transmit(g, TX0, &m, f, len, 12);
	CHECK_EQ(g->frames, 0);
	m.flags = 0;
	m.gso_type = GSO_TCPV4;
	transmit(g, TX0, &m, f, len, 12);
	transmit(g, TX0, &none, f, 13, 12);
	transmit(g, TX0, &none, f, 69000, 12);
	CHECK_EQ(g->frames, 0);
	transmit(g, TX0, &none, f, 14, 5);
	CHECK_EQ(g->frames, 1);
	rig_down(g);
}

TEST(a_frame_that_is_refused_goes_when_there_is_room)
{
	struct rig *g = rig_up(0);
	static const struct frame_meta none;
	uint8_t f[100] = { 0 };

	g->full = true;
	transmit(g, TX0, &none, f, sizeof(f), 12);
	usleep(50000);
	CHECK_EQ(g->frames, 0);
	g->full = false;
	link_wake_peer(&g->other);
	CHECK(becomes(&g->frames, 1));
	rig_down(g);
}

TEST(a_frame_comes_in_over_as_many_buffers_as_it_needs)
{
	static uint8_t f[70000];

	for (unsigned packed = 0; packed < 2; packed++) {
		struct rig *g = rig_up(ALL & ~(packed ? 0 : BIT(VIRTIO_F_RING_PACKED)));
		struct frame_meta m;
		uint32_t len = make(f, 5000, &m), got, at = 0;
		struct net_hdr h;
		uint16_t id;

		post(g, RX0, 6, 0, 1024);
		CHECK(receive(g, f, len));
		for (unsigned i = 0; i < 5; i++) {
			uint32_t head = i ? 0 : (uint32_t)sizeof(h);

			CHECK(vboard_wait(&g->r[RX0], &id, &got));
			CHECK_MEM(g->data + i * 1024 + head, f + at, got - head);
			at += got - head;
		}
		CHECK_EQ(at, len);
		memcpy(&h, g->data, sizeof(h));
		CHECK_EQ(h.num_buffers, 5);
		CHECK_EQ(h.meta.flags, FRAME_DATA_VALID);
		CHECK(g->b.msis[RX0 + 1] > 0);
		rig_down(g);
	}
}

TEST(without_buffers_a_frame_waits_at_the_other_end)
{
	struct rig *g = rig_up(ALL);
	static uint8_t f[70000];
	struct frame_meta m;
	uint32_t len = make(f, 3000, &m), got;
	uint16_t id;

	CHECK(!receive(g, f, len));
	/* Too few: told again when there are more. */
	post(g, RX0, 2, 0, 1024);
	CHECK(becomes(&g->wakes, 1));
	CHECK(!receive(g, f, len));
	post(g, RX0, 1, 2048, 1024);
	CHECK(becomes(&g->wakes, 2));
	CHECK(receive(g, f, len));
	for (unsigned i = 0; i < 3; i++)
		CHECK(vboard_wait(&g->r[RX0], &id, &got));
	/* One that fits no buffers that the driver could ever make is dropped. */
	rig_down(g);
	g = rig_up(0);
	post(g, RX0, 1, 0, 100);
	CHECK(receive(g, f, len));
	rig_down(g);
}

/* Send a control command; its answer. */
static uint8_t command(struct rig *g, uint8_t class, uint8_t number, const void *data, uint32_t len)
{
	struct vseg seg[3] = { { DATA + 0x8000, 2, false },
			       { DATA + 0x9000, len, false },
			       { DATA + 0xa000, 1, true } };
	uint16_t id;
	uint32_t got;

	g->data[0x8000] = class;
	g->data[0x8001] = number;
	g->data[0xa000] = 77;
	memcpy(g->data + 0x9000, data, len);
	vring_add(&g->r[CTRL], seg, 3);
	vboard_notify(&g->b, CTRL);
	CHECK(vboard_wait(&g->r[CTRL], &id, &got));
	CHECK_EQ(got, 1);
	return g->data[0xa000];
}

/* Whether a frame to mac reaches the guest. */
static bool passes(struct rig *g, const char *mac)
{
	uint8_t f[64] = { 0 };
	uint16_t id;
	uint32_t len;

	memcpy(f, mac, 6);
	post(g, RX0, 1, 0, 2048);
	CHECK(receive(g, f, sizeof(f)));
	for (unsigned i = 0; i < 20; i++) {
		if (vring_used(&g->r[RX0], &id, &len))
			return true;
		vboard_pause();
	}
	return false;
}

TEST(the_guest_gets_the_frames_that_it_asks_for)
{
	static const uint8_t table[] = {
		1, 0, 0, 0, 2, 0, 0, 0, 0, 9, 1, 0, 0, 0, 3, 0, 0, 0, 0, 9
	};
	static const uint8_t many[] = { 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f };
	struct rig *g = rig_up(ALL);

	CHECK(passes(g, "\2\0\0\0\0\7"));
	CHECK_EQ(command(g, 0, 0, "\0", 1), 0);
	CHECK(!passes(g, "\2\0\0\0\0\7"));
	CHECK(passes(g, "\x52\x54\0\0\0\1"));
	CHECK(passes(g, "\xff\xff\xff\xff\xff\xff"));
	CHECK(!passes(g, "\3\0\0\0\0\x9"));
	CHECK_EQ(command(g, 1, 0, table, sizeof(table)), 0);
	CHECK(passes(g, "\3\0\0\0\0\x9") && passes(g, "\2\0\0\0\0\x9"));
	CHECK(!passes(g, "\3\0\0\0\0\x8"));
	CHECK_EQ(command(g, 0, 1, "\1", 1), 0);
	CHECK(passes(g, "\3\0\0\0\0\x8"));
	CHECK_EQ(command(g, 1, 1, "\2\0\0\0\0\5", 6), 0);
	CHECK(passes(g, "\2\0\0\0\0\5") && !passes(g, "\x52\x54\0\0\0\1"));
	/* Commands that make no sense. */
	CHECK_EQ(command(g, 1, 0, many, sizeof(many)), 1);
	CHECK_EQ(command(g, 1, 0, table, 7), 1);
	CHECK_EQ(command(g, 1, 1, "\2", 1), 1);
	CHECK_EQ(command(g, 0, 9, "\1", 1), 1);
	CHECK_EQ(command(g, 2, 0, "\5\0", 2), 1);
	CHECK_EQ(command(g, 9, 0, "\1", 1), 1);
	CHECK_EQ(command(g, 4, 0, "\0\0", 2), 1);
	CHECK_EQ(command(g, 4, 0, "\3\0", 2), 1);
	CHECK_EQ(command(g, 4, 0, "\2\0", 2), 0);
	rig_down(g);
}

TEST(offloads_follow_the_driver)
{
	struct rig *g = rig_up(ALL);
	uint64_t on = BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_TSO4), bad = BIT(NET_F_MRG_RXBUF);

	CHECK(g->caps.csum && g->caps.tso4 && g->caps.tso6);
	CHECK_EQ(command(g, 5, 0, &on, 8), 0);
	CHECK(g->caps.csum && g->caps.tso4 && !g->caps.tso6);
	CHECK_EQ(command(g, 5, 0, &bad, 8), 1);
	CHECK(vboard_reset(&g->b));
	CHECK(!g->caps.csum);
	rig_down(g);
}

TEST(the_configuration_says_what_there_is)
{
	struct rig *g = rig_up(ALL);

	CHECK_EQ(vboard_read(&g->b, VBOARD_CONFIG, 1), 0x52);
	CHECK_EQ(vboard_read(&g->b, VBOARD_CONFIG + 6, 2), NET_S_LINK_UP);
	CHECK_EQ(vboard_read(&g->b, VBOARD_CONFIG + 8, 2), 2);
	CHECK_EQ(vboard_read(&g->b, VBOARD_CONFIG + 10, 2), 1500);
	link_set_up(&g->other, false);
	CHECK_EQ(vboard_read(&g->b, VBOARD_CONFIG + 6, 2), 0);
	CHECK(g->b.msis[0] > 0);
	rig_down(g);
}

TESTS(T(a_frame_goes_out_with_what_it_lacks), T(what_was_not_negotiated_or_is_no_frame_is_dropped),
      T(a_frame_that_is_refused_goes_when_there_is_room),
      T(a_frame_comes_in_over_as_many_buffers_as_it_needs),
      T(without_buffers_a_frame_waits_at_the_other_end),
      T(the_guest_gets_the_frames_that_it_asks_for), T(offloads_follow_the_driver),
      T(the_configuration_says_what_there_is))
