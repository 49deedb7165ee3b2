#include "net/ring.h"

#include "base/bits.h"
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

static struct ring_mem *make(struct ring *p, struct ring *c)
{
	struct ring_mem *m = aligned_alloc(64, sizeof(*m));

	CHECK(m);
	memset(m, 0, sizeof(*m));
	ring_init(p, m);
	ring_init(c, m);
	return m;
}

/* The nth frame of a made-up stream: its length and bytes follow from n. */
static uint32_t length(uint32_t n)
{
	return n % 7 == 0 ? NET_MAX_FRAME - n % 100 : n * 37 % 3000;
}

static int put(struct ring *r, uint32_t n)
{
	static uint8_t buf[NET_MAX_FRAME];
	struct frame_meta meta = { .flags = 1, .gso_size = (uint16_t)n };
	uint32_t len = length(n);
	struct iovec iov[2] = { { buf, len / 3 }, { buf + len / 3, len - len / 3 } };

	for (uint32_t i = 0; i < len; i += 64)
		buf[i] = (uint8_t)(n + i);
	return ring_put(r, &meta, iov, 2, len);
}

static void check_frame(uint32_t n, const struct frame_meta *meta, const uint8_t *data,
			uint32_t len)
{
	CHECK_EQ(len, length(n));
	CHECK_EQ(meta->gso_size, (uint16_t)n);
	for (uint32_t i = 0; i < len; i += 64)
		CHECK_EQ(data[i], (uint8_t)(n + i));
}

TEST(frames_come_out_as_they_went_in)
{
	struct ring p, c;
	struct ring_mem *m = make(&p, &c);
	struct frame_meta meta;
	const uint8_t *data;
	uint32_t len, in = 0, out = 0;

	while (out < 2000) {
		while (in < 2000 && put(&p, in) == 1)
			in++;
		ring_publish(&p);
		while (ring_peek(&c, &meta, &data, &len) == 1) {
			check_frame(out++, &meta, data, len);
			ring_pop(&c);
		}
		ring_release(&c);
	}
	free(m);
}

TEST(nothing_is_seen_before_it_is_published)
{
	struct ring p, c;
	struct ring_mem *m = make(&p, &c);
	struct frame_meta meta;
	const uint8_t *data;
	uint32_t len;

	CHECK_EQ(put(&p, 1), 1);
	CHECK_EQ(ring_peek(&c, &meta, &data, &len), 0);
	CHECK(!ring_publish(&p));
	CHECK_EQ(ring_peek(&c, &meta, &data, &len), 1);
	free(m);
}

TEST(sleepers_are_rung_once)
{
	struct ring p, c;
	struct ring_mem *m = make(&p, &c);
	struct frame_meta meta;
	const uint8_t *data;
	uint32_t len;

	CHECK(ring_sleep_for_frames(&c));
	CHECK_EQ(put(&p, 1), 1);
	CHECK(ring_publish(&p));
	CHECK_EQ(put(&p, 2), 1);
	CHECK(!ring_publish(&p));
	CHECK(!ring_sleep_for_frames(&c));
	while (put(&p, 7) == 1)
		;
	ring_publish(&p);
	CHECK(ring_sleep_for_room(&p, RING_DATA_BYTES / 2));
	while (ring_peek(&c, &meta, &data, &len) == 1)
		ring_pop(&c);
	CHECK(ring_release(&c));
	CHECK(!ring_sleep_for_room(&p, RING_DATA_BYTES / 2));
	CHECK_EQ(ring_room(&p), RING_DATA_BYTES);
	free(m);
}

TEST(a_position_that_makes_no_sense_breaks_the_ring)
{
	struct ring p, c;
	struct ring_mem *m = make(&p, &c);
	struct frame_meta meta;
	const uint8_t *data;
	uint32_t len;

	m->head = RING_DATA_BYTES + 16;
	CHECK_EQ(ring_peek(&c, &meta, &data, &len), -EPROTO);
	m->head = 0;
	CHECK_EQ(ring_peek(&c, &meta, &data, &len), -EPROTO);
	CHECK(!ring_sleep_for_frames(&c));
	ring_init(&c, m);
	m->head = 5;
	CHECK_EQ(ring_peek(&c, &meta, &data, &len), -EPROTO);
	while (put(&p, 7) == 1)
		;
	m->tail = p.pos + 16;
	CHECK_EQ(put(&p, 7), -EPROTO);
	CHECK_EQ(ring_room(&p), 0);
	CHECK(!ring_sleep_for_room(&p, 1));
	free(m);
}

TEST(a_frame_header_that_makes_no_sense_breaks_the_ring)
{
	static const uint32_t bad[] = { NET_MAX_FRAME + 1, 0x7fffffff, 0xffffffff, 0xfffffff0,
					200 };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct ring p, c;
		struct ring_mem *m = make(&p, &c);
		struct frame_meta meta;
		const uint8_t *data;
		uint32_t len;

		CHECK_EQ(put(&p, 1), 1);
		ring_publish(&p);
		memcpy(m->data, &bad[i], 4);
		CHECK_EQ(ring_peek(&c, &meta, &data, &len), -EPROTO);
		free(m);
	}
}

/* Whatever the memory holds, what is shown lies inside it. */
TEST(noise_never_leads_out_of_the_ring)
{
	struct ring p, c;
	struct ring_mem *m = make(&p, &c);

	srandom(4);
	for (unsigned round = 0; round < 3000; round++) {
		struct frame_meta meta;
		const uint8_t *data;
		uint32_t len;

		ring_init(&c, m);
		c.pos = c.seen = (uint32_t)random() & ~15u;
		m->head = c.pos + ((uint32_t)random() % RING_DATA_BYTES & ~15u);
		for (unsigned i = 0; i < 64; i++) {
			uint32_t v = random() & 1 ? (uint32_t)random() % 70000 : 0xffffffff;

			memcpy(m->data + ((c.pos + i * 16) & (RING_DATA_BYTES - 1)), &v, 4);
		}
		while (ring_peek(&c, &meta, &data, &len) == 1) {
			CHECK(data >= m->data && data + len <= m->data + RING_DATA_BYTES);
			ring_pop(&c);
		}
	}
	free(m);
}

struct duet {
	struct ring p, c;
	uint32_t n;
};

static void *produce(void *arg)
{
	struct duet *d = arg;

	for (uint32_t i = 0; i < d->n;) {
		int ret = put(&d->p, i);

		if (ret == 1)
			i++;
		ring_publish(&d->p);
		if (ret == 0)
			sched_yield();
	}
	return NULL;
}

TEST(two_threads_lose_nothing)
{
	struct duet d = { .n = 20000 };
	struct ring_mem *m = make(&d.p, &d.c);
	pthread_t t;

	CHECK_EQ(pthread_create(&t, NULL, produce, &d), 0);
	for (uint32_t i = 0; i < d.n;) {
		struct frame_meta meta;
		const uint8_t *data;
		uint32_t len;
		int ret = ring_peek(&d.c, &meta, &data, &len);

		CHECK(ret >= 0);
		if (ret == 0) {
			sched_yield();
			continue;
		}
		check_frame(i++, &meta, data, len);
		ring_pop(&d.c);
		ring_release(&d.c);
	}
	pthread_join(t, NULL);
	free(m);
}

TESTS(T(frames_come_out_as_they_went_in), T(nothing_is_seen_before_it_is_published),
      T(sleepers_are_rung_once), T(a_position_that_makes_no_sense_breaks_the_ring),
      T(a_frame_header_that_makes_no_sense_breaks_the_ring), T(noise_never_leads_out_of_the_ring),
      T(two_threads_lose_nothing))
