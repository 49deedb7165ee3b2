#include "dev/virtio/virtq.h"

#include "check.h"
#include "virtio_driver.h"

#include <errno.h>

#define RING 0x10000
#define DATA 0x200000

#define PACKED	 BIT(VIRTIO_F_RING_PACKED)
#define EVENT	 BIT(VIRTIO_F_RING_EVENT_IDX)
#define INDIRECT BIT(VIRTIO_F_RING_INDIRECT_DESC)

static const uint64_t kinds[] = { INDIRECT, PACKED | INDIRECT };

struct rig {
	struct physmap pm;
	struct vring r;
	struct virtq q;
	struct virtq_chain c;
	uint8_t rom[4096] __attribute__((aligned(4096)));
};

static void rig_up(struct rig *g, uint64_t features, uint16_t size)
{
	memset(g, 0, sizeof(*g));
	CHECK_EQ(physmap_init(&g->pm, 8 * MiB, 6 * MiB, NULL), 0);
	CHECK_EQ(physmap_add_rom(&g->pm, 7 * MiB, sizeof(g->rom), g->rom, NULL), 0);
	vring_init(&g->r, &g->pm, RING, size, features);
	CHECK(virtq_start(&g->q, &g->pm, &g->r.setup));
}

static void rig_down(struct rig *g)
{
	physmap_fini(&g->pm);
}

/* Pops what is there; -EPROTO for a broken ring. */
static int pop(struct rig *g)
{
	int ret = virtq_pop(&g->q, &g->c);

	CHECK_EQ(ret < 0, g->q.broken);
	return ret;
}

TEST(chains_go_round_the_ring_in_any_order)
{
	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct rig g;

		rig_up(&g, kinds[k], 8);
		for (unsigned i = 0; i < 100; i++) {
			struct vseg seg[3] = { { DATA, 10 },
					       { DATA + 0x1000, 20 },
					       { DATA + 0x2000, 30, true } };
			uint16_t id[2] = { vring_add(&g.r, seg, 3),
					   vring_add_indirect(&g.r, seg, 3) };
			struct virtq_chain first;
			uint16_t got;
			uint32_t len = 0;

			CHECK_EQ(pop(&g), 1);
			CHECK_EQ(g.c.id, id[0]);
			CHECK_EQ(g.c.n_out, 2);
			CHECK_EQ(g.c.n_in, 1);
			CHECK_EQ(g.c.out_bytes, 30);
			CHECK_EQ(g.c.in_bytes, 30);
			first = g.c;
			CHECK_EQ(pop(&g), 1);
			CHECK_EQ(g.c.id, id[1]);
			CHECK_EQ(g.c.out_bytes, 30);
			CHECK_EQ(pop(&g), 0);
			virtq_push(&g.q, &g.c, i);
			CHECK(vring_used(&g.r, &got, &len));
			CHECK_EQ(got, id[1]);
			CHECK_EQ(len, i);
			CHECK(!vring_used(&g.r, &got, &len));
			virtq_push(&g.q, &first, 30);
			CHECK(vring_used(&g.r, &got, &len));
			CHECK_EQ(got, id[0]);
			CHECK_EQ(len, 30);
		}
		CHECK_EQ(g.q.held, 0);
		rig_down(&g);
	}
}

TEST(a_chain_that_is_put_back_comes_again)
{
	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct rig g;

		rig_up(&g, kinds[k], 4);
		for (unsigned i = 0; i < 20; i++) {
			struct vseg seg[3] = { { DATA, 1 }, { DATA, 2 }, { DATA, 3 } };
			uint16_t id = vring_add(&g.r, seg, 3), got;
			uint32_t len = 0;

			CHECK_EQ(pop(&g), 1);
			virtq_unpop(&g.q, &g.c);
			CHECK_EQ(pop(&g), 1);
			CHECK_EQ(g.c.id, id);
			CHECK_EQ(g.c.out_bytes, 6);
			virtq_push(&g.q, &g.c, 0);
			CHECK(vring_used(&g.r, &got, &len));
		}
		rig_down(&g);
	}
}

TEST(a_batch_becomes_visible_at_once)
{
	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct rig g;
		struct vseg seg = { DATA, 64, true };

		rig_up(&g, kinds[k], 4);
		for (unsigned round = 0; round < 10; round++) {
			uint16_t got;
			uint32_t len = 0;

			for (unsigned i = 0; i < 3; i++)
				vring_add(&g.r, &seg, 1);
			for (unsigned i = 0; i < 3; i++) {
				CHECK_EQ(pop(&g), 1);
				virtq_fill(&g.q, &g.c, i + 1, i);
				CHECK(!vring_used(&g.r, &got, &len));
			}
			virtq_flush(&g.q, 3);
			for (unsigned i = 0; i < 3; i++) {
				CHECK(vring_used(&g.r, &got, &len));
				CHECK_EQ(len, i + 1);
			}
			CHECK(!vring_used(&g.r, &got, &len));
		}
		rig_down(&g);
	}
}

TEST(data_is_copied_across_segments)
{
	struct rig g;
	struct vseg seg[4] = {
		{ DATA, 3 }, { DATA + 100, 5 }, { DATA + 200, 2, true }, { DATA + 300, 4, true }
	};
	uint8_t *ram, buf[16];

	rig_up(&g, 0, 8);
	ram = physmap_host(&g.pm, DATA, 512, NULL);
	memcpy(ram, "abc", 3);
	memcpy(ram + 100, "defgh", 5);
	vring_add(&g.r, seg, 4);
	CHECK_EQ(pop(&g), 1);
	CHECK_EQ(virtq_read(&g.c, 0, buf, 16), 8);
	CHECK_MEM(buf, "abcdefgh", 8);
	CHECK_EQ(virtq_read(&g.c, 2, buf, 3), 3);
	CHECK_MEM(buf, "cde", 3);
	CHECK_EQ(virtq_read(&g.c, 8, buf, 3), 0);
	CHECK_EQ(virtq_write(&g.c, 0, "UVWXYZ!!", 8), 6);
	CHECK_MEM(ram + 200, "UV", 2);
	CHECK_MEM(ram + 300, "WXYZ\0", 5);
	CHECK_EQ(virtq_write(&g.c, 1, "12", 2), 2);
	CHECK_MEM(ram + 200, "U1", 2);
	CHECK_MEM(ram + 300, "2X", 2);
	rig_down(&g);
}

TEST(pages_that_the_device_wrote_are_told_of)
{
	struct rig g;
	struct vseg seg = { DATA + 0xff0, 0x2000, true };
	struct page_state *ps;

	rig_up(&g, 0, 8);
	ps = physmap_page(&g.pm, physmap_host(&g.pm, DATA, 1, NULL));
	vring_add(&g.r, &seg, 1);
	CHECK_EQ(pop(&g), 1);
	for (unsigned i = 0; i < 3; i++)
		ps[i].dirty = 0;
	ps[1].code_lines = 1;
	virtq_push(&g.q, &g.c, 0x11);
	CHECK_EQ(ps[0].dirty, 1);
	CHECK_EQ(ps[1].dirty, 1);
	CHECK_EQ(ps[2].dirty, 0);
	CHECK_EQ(ps[1].code_lines, 0);
	CHECK_EQ(ps[1].code_gen, 1);
	rig_down(&g);
}

TEST(interrupts_follow_the_drivers_flag)
{
	struct rig g;
	struct vseg seg = { DATA, 1 };

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		bool packed = kinds[k] & PACKED;

		rig_up(&g, kinds[k], 8);
		CHECK(!virtq_wants_irq(&g.q));
		vring_add(&g.r, &seg, 1);
		CHECK_EQ(pop(&g), 1);
		virtq_push(&g.q, &g.c, 0);
		CHECK(virtq_wants_irq(&g.q));
		CHECK(!virtq_wants_irq(&g.q));
		store16(g.r.driver + (packed ? 2 : 0), 1);
		vring_add(&g.r, &seg, 1);
		CHECK_EQ(pop(&g), 1);
		virtq_push(&g.q, &g.c, 0);
		CHECK(!virtq_wants_irq(&g.q));
		rig_down(&g);
	}
}

/* Asks for the n-th of many chains, over several rounds of the ring: exactly that one interrupts.
 */
TEST(the_event_index_chooses_which_chain_interrupts)
{
	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct rig g;
		struct vseg seg = { DATA, 1 };

		rig_up(&g, kinds[k] | EVENT, 8);
		for (unsigned n = 1; n <= 7; n++) {
			for (unsigned round = 0; round < 30; round++) {
				uint16_t got;
				uint32_t len = 0;

				vring_set_event(&g.r, n);
				for (unsigned i = 1; i <= 7; i++) {
					vring_add(&g.r, &seg, 1);
					CHECK_EQ(pop(&g), 1);
					virtq_push(&g.q, &g.c, 0);
					CHECK_EQ(virtq_wants_irq(&g.q), i == n);
				}
				while (vring_used(&g.r, &got, &len))
					;
			}
		}
		rig_down(&g);
	}
}

TEST(one_answer_stands_for_all_that_was_pushed)
{
	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct rig g;
		struct vseg seg = { DATA, 1 };

		rig_up(&g, kinds[k] | EVENT, 8);
		for (unsigned round = 0; round < 40; round++) {
			bool far = round % 2;
			uint16_t got;
			uint32_t len = 0;

			vring_set_event(&g.r, far ? 6 : 2);
			for (unsigned i = 0; i < 5; i++) {
				vring_add(&g.r, &seg, 1);
				CHECK_EQ(pop(&g), 1);
				virtq_push(&g.q, &g.c, 0);
			}
			CHECK_EQ(virtq_wants_irq(&g.q), !far);
			while (vring_used(&g.r, &got, &len))
				;
		}
		rig_down(&g);
	}
}

TEST(kicks_are_asked_for_without_losing_a_chain)
{
	static const uint64_t all[] = { 0, EVENT, PACKED, PACKED | EVENT };

	for (unsigned k = 0; k < ARRAY_SIZE(all); k++) {
		struct rig g;
		struct vseg seg = { DATA, 1 };

		rig_up(&g, all[k], 4);
		for (unsigned i = 0; i < 10; i++) {
			uint16_t got;
			uint32_t len = 0;

			virtq_disable_kicks(&g.q);
			CHECK(!virtq_enable_kicks(&g.q));
			if (all[k] == EVENT)
				CHECK_EQ(load16(g.r.device + 4 + 8 * 4), i);
			if (all[k] == (PACKED | EVENT))
				CHECK_EQ(load32(g.r.device),
					 2u << 16 | (i / 4 % 2 ? 0 : 0x8000) | i % 4);
			vring_add(&g.r, &seg, 1);
			CHECK(virtq_enable_kicks(&g.q));
			CHECK_EQ(pop(&g), 1);
			virtq_push(&g.q, &g.c, 0);
			CHECK(vring_used(&g.r, &got, &len));
		}
		rig_down(&g);
	}
}

TEST(setups_that_make_no_sense_are_refused)
{
	static const struct virtq_setup bad[] = {
		{ .size = 0, .desc = RING, .driver = RING, .device = RING },
		{ .size = 3, .desc = RING, .driver = RING, .device = RING },
		{ .size = 2048, .desc = RING, .driver = RING, .device = RING },
		{ .size = 2048, .desc = RING, .driver = RING, .device = RING, .features = PACKED },
		{ .size = 8, .desc = RING + 8, .driver = RING, .device = RING },
		{ .size = 8, .desc = RING, .driver = RING + 1, .device = RING },
		{ .size = 8, .desc = RING, .driver = RING, .device = RING + 2 },
		{ .size = 8, .desc = RING, .driver = RING + 2, .device = RING, .features = PACKED },
		{ .size = 8, .desc = 6 * MiB - 16, .driver = RING, .device = RING },
		{ .size = 8, .desc = RING, .driver = 6 * MiB, .device = RING },
		{ .size = 8, .desc = RING, .driver = RING, .device = 7 * MiB },
		{ .size = 8, .desc = ~0xfull, .driver = RING, .device = RING },
	};
	struct rig g;

	rig_up(&g, 0, 8);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		CHECK(!virtq_start(&g.q, &g.pm, &bad[i]));
		CHECK_EQ(virtq_pop(&g.q, &g.c), -EPROTO);
		CHECK(!virtq_wants_irq(&g.q));
		CHECK(!virtq_enable_kicks(&g.q));
	}
	rig_down(&g);
}

/* Chains that the guest may not make: seg breaks the rules, in the ring and in a table. */
TEST(buffers_outside_of_memory_break_the_ring)
{
	static const struct vseg bad[][2] = {
		{ { DATA, 1, true }, { DATA, 1 } }, /* read after write */
		{ { 6 * MiB - 1, 2 }, { DATA, 1 } },
		{ { 6 * MiB, 1 }, { DATA, 1 } },
		{ { DATA, 1 }, { 6 * MiB - 4096, 4097, true } },
		{ { DATA, 1 }, { 7 * MiB, 1, true } }, /* ROM */
		{ { DATA, 1 }, { VBOARD_ECAM, 1, true } },
		{ { DATA, 1 }, { ~0ull, 1, true } },
		{ { ~0ull - 2, 0xffffffff }, { DATA, 1, true } },
		{ { 4 * GiB + 2 * MiB - 1, 2 }, { DATA, 1, true } },
	};

	for (unsigned k = 0; k < 2 * ARRAY_SIZE(kinds); k++) {
		for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
			struct rig g;

			rig_up(&g, kinds[k / 2], 8);
			if (k % 2)
				vring_add(&g.r, bad[i], 2);
			else
				vring_add_indirect(&g.r, bad[i], 2);
			CHECK_EQ(pop(&g), -EPROTO);
			CHECK_EQ(pop(&g), -EPROTO);
			rig_down(&g);
		}
	}
}

TEST(rom_may_be_read_and_empty_buffers_are_skipped)
{
	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct rig g;
		struct vseg seg[4] = {
			{ DATA, 0 }, { 7 * MiB + 4095, 1 }, { DATA, 0, true }, { DATA, 1, true }
		};

		rig_up(&g, kinds[k], 8);
		g.rom[4095] = 0x5a;
		vring_add(&g.r, seg, 4);
		CHECK_EQ(pop(&g), 1);
		CHECK_EQ(g.c.n_out, 1);
		CHECK_EQ(g.c.n_in, 1);
		CHECK_EQ(*(uint8_t *)g.c.iov[0].iov_base, 0x5a);
		rig_down(&g);
	}
}

TEST(loops_and_false_numbers_break_a_split_ring)
{
	struct rig g;
	struct vseg seg[2] = { { DATA, 1 }, { DATA, 1 } };

	rig_up(&g, 0, 8);
	vring_add(&g.r, seg, 2);
	store16(g.r.desc + 16 + 12, VRING_F_NEXT); /* back to the first */
	CHECK_EQ(pop(&g), -EPROTO);
	rig_down(&g);

	rig_up(&g, 0, 8);
	vring_add(&g.r, seg, 2);
	store16(g.r.desc + 14, 8); /* next is no descriptor */
	CHECK_EQ(pop(&g), -EPROTO);
	rig_down(&g);

	rig_up(&g, 0, 8);
	vring_add(&g.r, seg, 1);
	store16(g.r.driver + 4, 8); /* head is none */
	CHECK_EQ(pop(&g), -EPROTO);
	rig_down(&g);

	rig_up(&g, 0, 8);
	store16(g.r.driver + 2, 9); /* more available than there are */
	CHECK_EQ(pop(&g), -EPROTO);
	rig_down(&g);
}

TEST(a_driver_cannot_have_more_chains_taken_than_there_are)
{
	struct rig g;
	struct vseg seg = { DATA, 1 };

	rig_up(&g, 0, 4);
	for (unsigned i = 0; i < 4; i++) {
		vring_add(&g.r, &seg, 1);
		CHECK_EQ(pop(&g), 1);
	}
	vring_publish_split(&g.r, 0);
	CHECK_EQ(pop(&g), -EPROTO);
	rig_down(&g);

	rig_up(&g, PACKED, 4);
	for (unsigned i = 0; i < 4; i++) {
		vring_add(&g.r, &seg, 1);
		CHECK_EQ(pop(&g), 1);
	}
	g.r.n_free = 1;
	vring_add(&g.r, &seg, 1);
	CHECK_EQ(pop(&g), -EPROTO);
	rig_down(&g);
}

/* An endless list in a packed ring, tables that are odd, nested, or not negotiated. */
TEST(bad_tables_break_the_ring)
{
	static const struct {
		uint64_t features;
		uint32_t len;
		uint16_t flags;
		gpa_t at;
	} bad[] = {
		{ 0, 32, VRING_F_INDIRECT, DATA },
		{ INDIRECT, 0, VRING_F_INDIRECT, DATA },
		{ INDIRECT, 24, VRING_F_INDIRECT, DATA },
		{ INDIRECT, 32, VRING_F_INDIRECT | VRING_F_NEXT, DATA },
		{ INDIRECT, 32, VRING_F_INDIRECT, 6 * MiB - 16 },
		{ INDIRECT, 16, VRING_F_INDIRECT, 6 * MiB },
		{ INDIRECT, 0xfffffff0, VRING_F_INDIRECT, DATA },
	};

	for (unsigned i = 0; i < 2 * ARRAY_SIZE(bad); i++) {
		bool packed = i % 2;
		struct rig g;
		struct vseg seg = { bad[i / 2].at, bad[i / 2].len };

		rig_up(&g, bad[i / 2].features | (packed ? PACKED : 0), 8);
		vring_add(&g.r, &seg, 1);
		store16(g.r.desc + (packed ? 14 : 12),
			(uint16_t)(bad[i / 2].flags | (packed ? VRING_F_AVAIL : 0)));
		CHECK_EQ(pop(&g), -EPROTO);
		rig_down(&g);
	}
}

TEST(a_table_in_a_table_breaks_a_split_ring)
{
	struct rig g;
	struct vseg seg = { DATA, 16 };

	rig_up(&g, INDIRECT, 8);
	vring_add_indirect(&g.r, &seg, 1);
	store16(physmap_host(&g.pm, g.r.tables, 16, NULL) + 12, VRING_F_INDIRECT);
	CHECK_EQ(pop(&g), -EPROTO);
	rig_down(&g);
}

TEST(a_list_without_end_breaks_a_packed_ring)
{
	struct rig g;

	rig_up(&g, PACKED, 8);
	for (unsigned i = 0; i < 8; i++)
		vring_put_desc(g.r.desc + 16 * i, DATA, 1, 0, VRING_F_NEXT | VRING_F_AVAIL);
	CHECK_EQ(pop(&g), -EPROTO);
	rig_down(&g);
}

TEST(more_segments_than_a_chain_may_have_break_the_ring)
{
	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct rig g;
		uint8_t *t;

		rig_up(&g, kinds[k], 8);
		for (unsigned n = VIRTQ_MAX_SEGS; n <= VIRTQ_MAX_SEGS + 1; n++) {
			struct vseg table = { DATA, n * 16 };
			bool packed = kinds[k] & PACKED;

			t = physmap_host(&g.pm, DATA, n * 16, NULL);
			for (unsigned i = 0; i < n; i++)
				vring_put_desc(t + 16 * i, DATA + 0x10000, 1,
					       packed || i + 1 == n ? 0 : VRING_F_NEXT,
					       packed ? 0 : (uint16_t)(i + 1));
			vring_add(&g.r, &table, 1);
			store16(g.r.desc + 16 * (n - VIRTQ_MAX_SEGS) + (packed ? 14 : 12),
				VRING_F_INDIRECT | (packed ? VRING_F_AVAIL : 0));
			CHECK_EQ(pop(&g), n == VIRTQ_MAX_SEGS ? 1 : -EPROTO);
		}
		rig_down(&g);
	}
}

TESTS(T(chains_go_round_the_ring_in_any_order), T(a_chain_that_is_put_back_comes_again),
      T(a_batch_becomes_visible_at_once), T(data_is_copied_across_segments),
      T(pages_that_the_device_wrote_are_told_of), T(interrupts_follow_the_drivers_flag),
      T(the_event_index_chooses_which_chain_interrupts),
      T(one_answer_stands_for_all_that_was_pushed), T(kicks_are_asked_for_without_losing_a_chain),
      T(setups_that_make_no_sense_are_refused), T(buffers_outside_of_memory_break_the_ring),
      T(rom_may_be_read_and_empty_buffers_are_skipped),
      T(loops_and_false_numbers_break_a_split_ring),
      T(a_driver_cannot_have_more_chains_taken_than_there_are), T(bad_tables_break_the_ring),
      T(a_table_in_a_table_breaks_a_split_ring), T(a_list_without_end_breaks_a_packed_ring),
      T(more_segments_than_a_chain_may_have_break_the_ring))
