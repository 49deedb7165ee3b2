#include "dev/virtio/balloon.h"

#include "check.h"
#include "virtio_driver.h"

#include <sys/mman.h>

#define RING  0x10000
#define DATA  0x400000
#define PAGES 0x800000

enum { INFLATE, DEFLATE, STATS, REPORTING, N_QUEUES };
#define WITH_STATS     BIT(1)
#define WITH_POISON    BIT(4)
#define WITH_REPORTING BIT(5)

struct rig {
	struct vboard b;
	struct vring r[N_QUEUES];
	struct balloon *balloon;
	uint8_t *data, *pages;
};

static void rig_up(struct rig *g, unsigned stats_s, uint64_t features)
{
	struct virtio_place at;

	memset(g, 0, sizeof(*g));
	vboard_up(&g->b, 16 * MiB);
	at = vboard_place(&g->b);
	CHECK_EQ(virtio_balloon_new(&g->b.dev, &g->balloon, &at, stats_s, NULL), 0);
	g->data = physmap_host(&g->b.pm, DATA, MiB, NULL);
	g->pages = physmap_host(&g->b.pm, PAGES, 4 * MiB, NULL);
	memset(g->pages, 0xaa, 4 * MiB);
	CHECK_EQ(vboard_start(&g->b, features, g->r, N_QUEUES, RING, 16) & features, features);
}

static void put(struct rig *g, unsigned q, const struct vseg *seg, unsigned n)
{
	uint16_t id;
	uint32_t len = 0;

	vring_add(&g->r[q], seg, n);
	vboard_notify(&g->b, q);
	CHECK(vboard_wait(&g->r[q], &id, &len));
	CHECK_EQ(len, 0);
}

static bool is_resident(const uint8_t *p)
{
	unsigned char there;

	CHECK_EQ(mincore((void *)(uintptr_t)p, 4096, &there), 0);
	return there & 1;
}

TEST(inflated_pages_go_back_to_the_host)
{
	static const uint32_t pfn[] = {
		0x800, 0x801, 0x803, 0x806, 0x805, 0x804, 0x810, 0xfffffff
	};
	struct balloon_info info;
	struct rig g;

	rig_up(&g, 0, 0);
	memcpy(g.data, pfn, sizeof(pfn));
	put(&g, INFLATE, &(struct vseg){ DATA, sizeof(pfn) }, 1);
	for (unsigned i = 0; i < 32; i++) {
		bool gone = false;

		for (unsigned k = 0; k < ARRAY_SIZE(pfn); k++)
			gone |= pfn[k] == 0x800 + i;
		CHECK_EQ(is_resident(g.pages + i * 4096), !gone);
		CHECK_EQ(g.pages[i * 4096], gone ? 0 : 0xaa);
	}
	balloon_look(g.balloon, &info);
	CHECK_EQ(info.inflated, 7 * 4096);
	put(&g, DEFLATE, &(struct vseg){ DATA, sizeof(pfn) }, 1);
	g.pages[0] = 1;
	CHECK(is_resident(g.pages));
	vboard_down(&g.b);
}

TEST(the_target_is_in_the_configuration_and_interrupts)
{
	struct balloon_info info;
	struct rig g;

	rig_up(&g, 0, 0);
	CHECK_EQ(vboard_read(&g.b, VBOARD_CONFIG, 4), 0);
	CHECK_EQ(vboard_read(&g.b, VBOARD_COMMON + 21, 1), 0);
	balloon_set(g.balloon, 2 * MiB);
	CHECK_EQ(g.b.msis[0], 1);
	CHECK_EQ(vboard_read(&g.b, VBOARD_COMMON + 21, 1), 1);
	CHECK_EQ(vboard_read(&g.b, VBOARD_CONFIG, 4), 512);
	vboard_write(&g.b, VBOARD_CONFIG + 4, 4, 500);
	vboard_write(&g.b, VBOARD_CONFIG, 4, 7); /* not the guest's to change */
	balloon_look(g.balloon, &info);
	CHECK_EQ(info.target, 2 * MiB);
	CHECK_EQ(info.actual, 500 * 4096);
	CHECK(vboard_reset(&g.b));
	balloon_look(g.balloon, &info);
	CHECK_EQ(info.target, 2 * MiB);
	CHECK_EQ(info.actual, 0);
	vboard_down(&g.b);
}

TEST(reported_pages_go_back_to_the_host)
{
	struct vseg seg[2] = { { PAGES, 8192, true }, { PAGES + 0x10800, 8192, true } };
	struct balloon_info info;
	struct rig g;

	rig_up(&g, 0, WITH_STATS | WITH_REPORTING | BIT(VIRTIO_F_RING_PACKED));
	put(&g, REPORTING, seg, 2);
	CHECK(!is_resident(g.pages) && !is_resident(g.pages + 4096));
	CHECK(is_resident(g.pages + 8192));
	CHECK(is_resident(g.pages + 0x10000)); /* only whole pages */
	CHECK(!is_resident(g.pages + 0x11000));
	balloon_look(g.balloon, &info);
	CHECK_EQ(info.reported, 3 * 4096);
	vboard_down(&g.b);
}

TEST(poisoned_pages_are_kept)
{
	struct vseg seg = { PAGES, 8192, true };
	struct rig g;

	rig_up(&g, 0, WITH_STATS | WITH_REPORTING | WITH_POISON);
	vboard_write(&g.b, VBOARD_CONFIG + 12, 4, 0xaaaaaaaa);
	put(&g, REPORTING, &seg, 1);
	CHECK(is_resident(g.pages));
	vboard_write(&g.b, VBOARD_CONFIG + 12, 4, 0);
	put(&g, REPORTING, &seg, 1);
	CHECK(!is_resident(g.pages));
	vboard_down(&g.b);
}

static void put_stat(uint8_t *p, uint16_t tag, uint64_t val)
{
	store16(p, tag);
	store64(p + 2, val);
}

TEST(statistics_are_asked_for_again_and_again)
{
	struct vseg seg = { DATA, 30 };
	struct balloon_info info;
	uint16_t id;
	uint32_t len = 0;
	struct rig g;

	rig_up(&g, 1, WITH_STATS);
	balloon_look(g.balloon, &info);
	CHECK(info.stat[BALLOON_FREE] == UINT64_MAX);
	for (unsigned i = 1; i <= 2; i++) {
		put_stat(g.data, 4, i * MiB);
		put_stat(g.data + 10, 5, 16 * MiB);
		put_stat(g.data + 20, 999, 1);
		vring_add(&g.r[STATS], &seg, 1);
		vboard_notify(&g.b, STATS);
		CHECK(vboard_wait(&g.r[STATS], &id, &len));
		balloon_look(g.balloon, &info);
		CHECK_EQ(info.stat[BALLOON_FREE], i * MiB);
		CHECK_EQ(info.stat[BALLOON_TOTAL], 16 * MiB);
	}
	vboard_down(&g.b);
}

TESTS(T(inflated_pages_go_back_to_the_host), T(the_target_is_in_the_configuration_and_interrupts),
      T(reported_pages_go_back_to_the_host), T(poisoned_pages_are_kept),
      T(statistics_are_asked_for_again_and_again))
