#include "net/link.h"

#include "check.h"
#include "unit/net/frames.h"

struct side {
	struct link_end e;
	unsigned frames, wakes, changes;
	bool full, peer_up;
	struct link_caps peer;
	struct frame_meta last;
};

static bool side_send(void *end, const struct frame_meta *meta, const struct iovec *iov,
		      unsigned n_iov, uint32_t len)
{
	struct side *s = end;

	if (s->full)
		return false;
	s->frames++;
	s->last = *meta;
	return true;
}

static void side_wake(void *end)
{
	((struct side *)end)->wakes++;
}

static void side_changed(void *end, bool up, const struct link_caps *peer)
{
	struct side *s = end;

	s->changes++;
	s->peer_up = up;
	s->peer = *peer;
}

static const struct link_ops side_ops = { side_send, side_wake, side_changed };

static void side_init(struct side *s)
{
	*s = (struct side){ .e = { .ops = &side_ops, .end = s, .up = true } };
}

static bool send_some(struct side *s, unsigned flags, unsigned gso)
{
	uint8_t frame[4000], payload[3000] = { 1 };
	struct frame_spec spec = { .payload = payload, .len = sizeof(payload) };
	struct frame_meta m;
	struct iovec iov = { frame, frame_make(frame, &spec, &m) };

	m.flags = (uint8_t)flags;
	m.gso_type = (uint8_t)gso;
	m.gso_size = gso ? 1000 : 0;
	return link_send(&s->e, &m, &iov, 1, (uint32_t)iov.iov_len);
}

TEST(a_frame_reaches_the_other_end_and_nobody_else)
{
	struct side a, b;

	side_init(&a);
	side_init(&b);
	CHECK(send_some(&a, 0, 0));
	link_join(&a.e, &b.e);
	CHECK(send_some(&a, 0, 0));
	CHECK_EQ(b.frames, 1);
	CHECK_EQ(a.frames, 0);
	link_part(&b.e);
	CHECK(send_some(&a, 0, 0));
	CHECK_EQ(b.frames, 1);
	CHECK(!a.peer_up && !b.peer_up);
}

TEST(frames_are_finished_as_far_as_the_other_end_asks)
{
	struct link_caps all = { .csum = true, .tso4 = true };
	struct side a, b;

	side_init(&a);
	side_init(&b);
	link_join(&a.e, &b.e);
	CHECK(send_some(&a, FRAME_NEEDS_CSUM, GSO_TCPV4));
	CHECK_EQ(b.frames, 3);
	CHECK_EQ(b.last.flags, 0);
	CHECK_EQ(b.last.gso_type, 0);
	link_set_caps(&b.e, &all);
	CHECK(a.peer.tso4);
	CHECK(send_some(&a, FRAME_NEEDS_CSUM, GSO_TCPV4));
	CHECK_EQ(b.frames, 4);
	CHECK_EQ(b.last.gso_type, GSO_TCPV4);
	/* A bad frame is dropped, not refused for ever. */
	CHECK(send_some(&a, FRAME_NEEDS_CSUM, GSO_TCPV6));
	CHECK_EQ(b.frames, 4);
}

TEST(a_full_end_refuses_and_wakes)
{
	struct side a, b;

	side_init(&a);
	side_init(&b);
	link_join(&a.e, &b.e);
	b.full = true;
	CHECK(!send_some(&a, 0, 0));
	CHECK(!send_some(&a, FRAME_NEEDS_CSUM, 0));
	link_wake_peer(&b.e);
	CHECK_EQ(a.wakes, 1);
}

TEST(frames_pass_while_both_halves_are_up)
{
	struct side a, b;

	side_init(&a);
	side_init(&b);
	link_join(&a.e, &b.e);
	link_set_up(&b.e, false);
	CHECK(!a.peer_up);
	CHECK(send_some(&a, 0, 0) && send_some(&b, 0, 0));
	CHECK_EQ(a.frames + b.frames, 0);

	unsigned changes = a.changes;

	link_set_up(&b.e, false);
	CHECK_EQ(a.changes, changes);
	link_set_up(&b.e, true);
	CHECK(a.peer_up);
	CHECK(send_some(&a, 0, 0));
	CHECK_EQ(b.frames, 1);
}

TESTS(T(a_frame_reaches_the_other_end_and_nobody_else),
      T(frames_are_finished_as_far_as_the_other_end_asks), T(a_full_end_refuses_and_wakes),
      T(frames_pass_while_both_halves_are_up))
