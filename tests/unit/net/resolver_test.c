#include "net/resolver.h"

#include "check.h"
#include "unit/net/frames.h"

#define SEEN  0x0a000203
#define REAL  0xc0a80101
#define GUEST 0x0a00020f

static struct resolver make(uint32_t real)
{
	struct resolver r = { 0 };

	be32_put(r.seen, SEEN);
	be32_put(r.real, real);
	return r;
}

/* A complete frame. */
static uint32_t packet(uint8_t *f, bool udp, uint32_t src, uint32_t dst, uint16_t sport,
		       uint16_t dport)
{
	struct frame_spec s = { .udp = udp,
				.src = src,
				.dst = dst,
				.sport = sport,
				.dport = dport,
				.payload = "question",
				.len = 8 };
	struct frame_meta m;
	uint32_t len = frame_make(f, &s, &m);
	uint16_t sum = csum_field(csum_add(0, f + 34, len - 34, 0));

	memcpy(f + m.csum_start + m.csum_offset, &sum, 2);
	return len;
}

static uint32_t src(const uint8_t *f)
{
	return be32_get(f + 14 + IP4_SRC);
}

static uint32_t dst(const uint8_t *f)
{
	return be32_get(f + 14 + IP4_DST);
}

TEST(a_question_goes_to_the_real_server_and_its_answer_comes_from_the_one_asked)
{
	for (int udp = 0; udp < 2; udp++) {
		struct resolver r = make(REAL);
		uint8_t f[200], copy[200];
		uint32_t len = packet(f, udp, GUEST, SEEN, 4000, 53);

		CHECK(resolver_out(&r, f, len));
		CHECK_EQ(dst(f), REAL);
		CHECK(frame_sums_hold(f, len, 14));
		len = packet(f, udp, REAL, GUEST, 53, 4000);

		const uint8_t *back = resolver_back(&r, f, len, copy);

		CHECK_EQ(src(back), SEEN);
		CHECK(frame_sums_hold(back, len, 14));
		CHECK_EQ(src(f), REAL);
	}
}

TEST(who_asks_the_real_server_gets_the_real_servers_answer)
{
	struct resolver r = make(REAL);
	uint8_t f[200], copy[200];
	uint32_t len = packet(f, true, GUEST, SEEN, 4000, 53);

	CHECK(resolver_out(&r, f, len));
	len = packet(f, true, GUEST, REAL, 4000, 53);
	CHECK(resolver_out(&r, f, len));
	CHECK_EQ(dst(f), REAL);
	len = packet(f, true, REAL, GUEST, 53, 4000);
	CHECK(resolver_back(&r, f, len, copy) == f);
	len = packet(f, false, REAL, GUEST, 53, 4000);
	CHECK(resolver_back(&r, f, len, copy) == f);
}

TEST(other_frames_pass_untouched)
{
	struct resolver r = make(REAL);
	uint8_t f[200], was[200];
	uint32_t len = packet(f, true, GUEST, SEEN, 4000, 54);

	memcpy(was, f, len);
	CHECK(resolver_out(&r, f, len));
	CHECK_MEM(f, was, len);
	len = packet(f, true, GUEST, 0x08080808, 4000, 53);
	memcpy(was, f, len);
	CHECK(resolver_out(&r, f, len));
	CHECK_MEM(f, was, len);
	/* A fragment's tail has no ports. */
	len = packet(f, true, GUEST, SEEN, 4000, 53);
	be16_put(f + 14 + IP4_FRAGMENT, 100);
	memcpy(was, f, len);
	CHECK(resolver_out(&r, f, len));
	CHECK_MEM(f, was, len);
	for (uint32_t cut = 0; cut < len; cut++)
		CHECK(resolver_out(&r, f, cut));
}

TEST(without_a_server_questions_are_dropped)
{
	struct resolver r = make(0);
	uint8_t f[200];
	uint32_t len = packet(f, true, GUEST, SEEN, 4000, 53);

	CHECK(!resolver_out(&r, f, len));
}

TEST(the_first_ipv4_server_of_resolv_conf_is_taken)
{
	uint8_t a[4] = { 0 };

	CHECK(resolver_parse("# nameserver 9.9.9.9\nsearch x\nnameserver fe80::1\n"
			     "\tnameserver   127.0.0.53 # stub\nnameserver 1.1.1.1\n",
			     a));
	CHECK_EQ(be32_get(a), 0x7f000035);
	CHECK(!resolver_parse("", a));
	CHECK(!resolver_parse("\n\nnameserver\n", a));
	CHECK(!resolver_parse("nameserver 1.2.3", a));
	CHECK(resolver_parse("\n\n nameserver 1.2.3.4", a));
}

TESTS(T(a_question_goes_to_the_real_server_and_its_answer_comes_from_the_one_asked),
      T(who_asks_the_real_server_gets_the_real_servers_answer), T(other_frames_pass_untouched),
      T(without_a_server_questions_are_dropped), T(the_first_ipv4_server_of_resolv_conf_is_taken))
