#include "net/finish.h"

#include "base/bits.h"
#include "check.h"
#include "unit/net/frames.h"

#include <stdlib.h>

/* A sink that puts the segments' payloads together again and checks each. */
struct got {
	unsigned l3, n, refuse_from;
	bool bad, psh_early;
	uint32_t bytes, first_seq, next_seq;
	uint16_t first_id;
	uint8_t cwr;
	uint8_t payload[70000];
};

static bool take(void *arg, const struct frame_meta *meta, const struct iovec *iov, unsigned n_iov,
		 uint32_t len)
{
	struct got *g = arg;
	uint8_t f[70000];
	uint32_t at = 0;

	if (g->n >= g->refuse_from)
		return false;
	for (unsigned i = 0; i < n_iov; i++) {
		memcpy(f + at, iov[i].iov_base, iov[i].iov_len);
		at += (uint32_t)iov[i].iov_len;
	}
	CHECK_EQ(at, len);
	CHECK(!(meta->flags & FRAME_NEEDS_CSUM));

	bool ip6 = f[g->l3] >> 4 == 6;
	unsigned l4 = g->l3 + (ip6 ? 40 : 20);
	bool udp = (ip6 ? f[g->l3 + IP6_NEXT] : f[g->l3 + IP4_PROTO]) == IPPROTO_IS_UDP;
	unsigned head = l4 + (udp ? 8 : 20);

	if (!frame_sums_hold(f, len, g->l3))
		g->bad = true;
	CHECK_EQ(ip6 ? be16_get(f + g->l3 + IP6_PAYLOAD_LEN) + 40
		     : be16_get(f + g->l3 + IP4_TOT_LEN),
		 len - g->l3);
	if (udp) {
		CHECK_EQ(be16_get(f + l4 + UDP_LEN), len - l4);
	} else {
		uint32_t seq = be32_get(f + l4 + TCP_SEQ);

		if (g->n)
			CHECK_EQ(seq, g->next_seq);
		g->next_seq = seq + len - head;
		g->cwr |= (uint8_t)(f[l4 + TCP_FLAGS] & TCP_CWR ? 1 << MIN(g->n, 7u) : 0);
		g->psh_early |= f[l4 + TCP_FLAGS] & TCP_PSH && len - head > 700;
	}
	if (!ip6)
		CHECK_EQ(be16_get(f + g->l3 + IP4_ID), 1000 + g->n);
	memcpy(g->payload + g->bytes, f + head, len - head);
	g->bytes += len - head;
	g->n++;
	return true;
}

static uint8_t payload[60000], frame[70000];

static void fill(void)
{
	srandom(3);
	for (unsigned i = 0; i < sizeof(payload); i++)
		payload[i] = (uint8_t)random();
}

/* Hand over frame in pieces of an odd size. */
static enum finish run(struct got *g, const struct frame_meta *meta, uint32_t len,
		       const struct link_caps *caps)
{
	struct iovec iov[200];
	unsigned n = 0;

	for (uint32_t at = 0; at < len; at += 777, n++)
		iov[n] = (struct iovec){ frame + at, MIN(777u, len - at) };
	return frame_finish(meta, iov, n, len, caps, take, g);
}

static struct got *fresh(unsigned l3)
{
	static struct got g;

	memset(&g, 0, sizeof(g));
	g.l3 = l3;
	g.refuse_from = ~0u;
	return &g;
}

TEST(an_open_checksum_is_filled)
{
	struct link_caps none = { 0 };

	for (unsigned kind = 0; kind < 8; kind++) {
		struct frame_spec s = { .ip6 = kind & 1,
					.udp = kind & 2,
					.vlan = kind & 4,
					.src = 0x0a00020f,
					.dst = 0x0a000202,
					.sport = 1,
					.dport = 2,
					.payload = payload,
					.len = 1001 };
		struct got *g = fresh(s.vlan ? 18 : 14);
		struct frame_meta m;
		uint32_t len = frame_make(frame, &s, &m);

		CHECK(frame_needs_finish(&m, &none));
		CHECK_EQ(run(g, &m, len, &none), FINISH_DONE);
		CHECK(!g->bad);
		CHECK_EQ(g->n, 1);
		CHECK_MEM(g->payload, payload, 1001);
	}
}

TEST(a_long_frame_is_cut_into_whole_segments)
{
	static const uint8_t gso[4] = { GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_UDP_L4 };
	struct link_caps none = { 0 };

	for (unsigned kind = 0; kind < 8; kind++) {
		struct frame_spec s = { .ip6 = kind & 1,
					.udp = kind & 2,
					.vlan = kind & 4,
					.src = 0x0a00020f,
					.dst = 0x0a000202,
					.sport = 1,
					.dport = 2,
					.seq = 0xfffff000,
					.tcp_flags = TCP_PSH | TCP_CWR | 0x10,
					.payload = payload,
					.len = 60000 };
		struct got *g = fresh(s.vlan ? 18 : 14);
		struct frame_meta m;
		uint32_t len = frame_make(frame, &s, &m);

		m.gso_type = gso[kind & 3];
		m.gso_size = 1448;
		CHECK_EQ(run(g, &m, len, &none), FINISH_DONE);
		CHECK(!g->bad);
		CHECK_EQ(g->n, 42);
		CHECK_EQ(g->bytes, 60000);
		CHECK_MEM(g->payload, payload, 60000);
		CHECK(!g->psh_early);
		CHECK_EQ(g->cwr, s.udp ? 0 : 1);
	}
}

TEST(an_end_that_cuts_gets_the_frame_whole)
{
	struct link_caps cuts = { .csum = true, .tso4 = true }, no_csum = { .tso4 = true };
	struct frame_spec s = { .payload = payload, .len = 30000 };
	struct frame_meta m;
	uint32_t len = frame_make(frame, &s, &m);
	struct got *g = fresh(14);

	m.gso_type = GSO_TCPV4 | GSO_ECN;
	m.gso_size = 1000;
	CHECK(!frame_needs_finish(&m, &cuts));
	CHECK(frame_needs_finish(&m, &no_csum));
	CHECK_EQ(run(g, &m, len, &no_csum), FINISH_DONE);
	CHECK_EQ(g->n, 1);
	CHECK(!g->bad);
}

TEST(what_does_not_add_up_is_dropped)
{
	struct link_caps none = { 0 };
	struct frame_spec s = { .payload = payload, .len = 3000 };
	struct frame_meta good, m;
	uint32_t len = frame_make(frame, &s, &good);

	good.gso_type = GSO_TCPV4;
	good.gso_size = 1000;
	m = good;
	m.gso_size = 0;
	CHECK_EQ(run(fresh(14), &m, len, &none), FINISH_BAD);
	m.gso_size = 1;
	CHECK_EQ(run(fresh(14), &m, len, &none), FINISH_BAD);
	m = good;
	m.gso_type = GSO_TCPV6;
	CHECK_EQ(run(fresh(14), &m, len, &none), FINISH_BAD);
	m.gso_type = 2;
	CHECK_EQ(run(fresh(14), &m, len, &none), FINISH_BAD);
	m = good;
	m.csum_start = 30;
	CHECK_EQ(run(fresh(14), &m, len, &none), FINISH_BAD);
	m.csum_start = 65535;
	CHECK_EQ(run(fresh(14), &m, len, &none), FINISH_BAD);
	m = good;
	CHECK_EQ(run(fresh(14), &m, 40, &none), FINISH_BAD);
	CHECK_EQ(run(fresh(14), &m, 54, &none), FINISH_BAD);
	m = good;
	m.gso_type = GSO_NONE;
	m.csum_offset = 65535;
	CHECK_EQ(run(fresh(14), &m, len, &none), FINISH_BAD);
	frame[14 + 20 + TCP_DATA_OFF] = 0xf0;
	CHECK_EQ(run(fresh(14), &good, 60, &none), FINISH_BAD);
	frame[14 + 20 + TCP_DATA_OFF] = 0x10;
	CHECK_EQ(run(fresh(14), &good, len, &none), FINISH_BAD);
	frame[14] = 0x4f;
	CHECK_EQ(run(fresh(14), &good, len, &none), FINISH_BAD);
}

TEST(a_refusal_of_the_first_segment_refuses_the_frame)
{
	struct link_caps none = { 0 };
	struct frame_spec s = { .payload = payload, .len = 3000 };
	struct frame_meta m;
	uint32_t len = frame_make(frame, &s, &m);
	struct got *g = fresh(14);

	m.gso_type = GSO_TCPV4;
	m.gso_size = 1000;
	g->refuse_from = 0;
	CHECK_EQ(run(g, &m, len, &none), FINISH_REFUSED);
	g->refuse_from = 2;
	CHECK_EQ(run(g, &m, len, &none), FINISH_DONE);
	CHECK_EQ(g->n, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(an_open_checksum_is_filled),
		T(a_long_frame_is_cut_into_whole_segments),
		T(an_end_that_cuts_gets_the_frame_whole),
		T(what_does_not_add_up_is_dropped),
		T(a_refusal_of_the_first_segment_refuses_the_frame),
	};

	fill();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
