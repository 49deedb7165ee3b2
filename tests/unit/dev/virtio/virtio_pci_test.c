/* The transport, with an rng behind it. */
#include "check.h"
#include "virtio_driver.h"

#define RING 0x10000
#define DATA 0x200000

#define COMMON VBOARD_COMMON
#define ALL_RINGS                                                                                  \
	(BIT(VIRTIO_F_RING_INDIRECT_DESC) | BIT(VIRTIO_F_RING_EVENT_IDX) | BIT(VIRTIO_F_RING_RESET))

static void up(struct vboard *b)
{
	struct virtio_place at;

	vboard_up(b, 4 * MiB);
	at = vboard_place(b);
	CHECK_EQ(virtio_rng_new(&b->dev, &at, NULL), 0);
}

/* One buffer of n bytes is filled, at least partly. */
static void check_entropy(struct vboard *b, struct vring *r, uint32_t n)
{
	struct vseg seg = { DATA, n, true };
	uint16_t id, got;
	uint32_t len = 0;

	id = vring_add(r, &seg, 1);
	vboard_notify(b, 0);
	CHECK(vboard_wait(r, &got, &len));
	CHECK_EQ(got, id);
	CHECK(len > 0 && len <= n);
}

TEST(the_device_is_found_and_has_its_capabilities)
{
	struct vboard b;

	up(&b);
	CHECK_EQ(vboard_cfg_read(&b, 0, 4), 0x10441af4);
	CHECK_EQ(vboard_cfg_read(&b, PCI_REVISION, 1), 1);
	for (uint8_t type = 1; type <= 5; type++)
		CHECK(vboard_cap(&b, 9, type) != 0);
	CHECK_EQ(vboard_cfg_read(&b, vboard_cap(&b, 0x11, 0) + 2, 2), 1); /* two vectors */
	vboard_down(&b);
}

TEST(both_ring_formats_work_with_message_interrupts)
{
	for (unsigned packed = 0; packed < 2; packed++) {
		struct vboard b;
		struct vring r;

		up(&b);
		CHECK(vboard_start(&b, ALL_RINGS | (uint64_t)packed << VIRTIO_F_RING_PACKED, &r, 1,
				   RING, 16) != 0);
		for (unsigned i = 0; i < 50; i++) {
			vring_set_event(&r, 1);
			check_entropy(&b, &r, 100);
		}
		for (unsigned i = 0; i < 1000 && b.msis[1] < 50; i++)
			vboard_pause();
		CHECK_EQ(b.msis[1], 50);
		CHECK_EQ(b.msis[0], 0);
		vboard_down(&b);
	}
}

TEST(without_messages_the_pin_rises_until_isr_is_read)
{
	struct vboard b;
	struct vring r;

	up(&b);
	CHECK(vboard_start(&b, 0, &r, 1, RING, 16) != 0);
	vboard_cfg_write(&b, vboard_cap(&b, 0x11, 0) + 2, 2, 0);
	check_entropy(&b, &r, 16);
	for (unsigned i = 0; i < 1000 && !b.pin; i++)
		vboard_pause();
	CHECK_EQ(b.pin, 1);
	CHECK(vboard_cfg_read(&b, PCI_STATUS, 2) & PCI_STATUS_INTX);
	CHECK_EQ(vboard_read(&b, VBOARD_ISR, 1), 1);
	CHECK_EQ(b.pin, 0);
	CHECK_EQ(vboard_read(&b, VBOARD_ISR, 1), 0);
	vboard_down(&b);
}

TEST(masked_vectors_wait)
{
	struct vboard b;
	struct vring r;
	unsigned cap;

	up(&b);
	CHECK(vboard_start(&b, 0, &r, 1, RING, 16) != 0);
	cap = vboard_cap(&b, 0x11, 0);
	vboard_write(&b, VBOARD_TABLE + 16 + 12, 4, 1);
	check_entropy(&b, &r, 16);
	for (unsigned i = 0; i < 1000 && !vboard_read(&b, VBOARD_BAR + 0x5000, 4); i++)
		vboard_pause();
	CHECK_EQ(vboard_read(&b, VBOARD_BAR + 0x5000, 4), 2);
	CHECK_EQ(b.msis[1], 0);
	vboard_cfg_write(&b, cap + 2, 2, 0xc000); /* all are masked now */
	vboard_write(&b, VBOARD_TABLE + 16 + 12, 4, 0);
	CHECK_EQ(b.msis[1], 0);
	vboard_cfg_write(&b, cap + 2, 2, 0x8000);
	CHECK_EQ(b.msis[1], 1);
	CHECK_EQ(vboard_read(&b, VBOARD_BAR + 0x5000, 4), 0);
	vboard_down(&b);
}

TEST(features_that_were_not_offered_are_refused)
{
	struct vboard b;

	up(&b);
	vboard_enable(&b, 0);
	CHECK(vboard_reset(&b));
	vboard_set_status(&b, 3);
	vboard_write(&b, COMMON + 8, 4, 0);
	vboard_write(&b, COMMON + 12, 4, 1);
	vboard_write(&b, COMMON + 8, 4, 1);
	vboard_write(&b, COMMON + 12, 4, 1);
	vboard_set_status(&b, 0xb);
	CHECK_EQ(vboard_status(&b), 3);
	vboard_set_status(&b, 0xf); /* nor does it go on */
	CHECK_EQ(vboard_status(&b), 3);
	CHECK(vboard_reset(&b));
	CHECK_EQ(vboard_negotiate(&b, 0), 0); /* not even VERSION_1 */
	CHECK(vboard_reset(&b));
	CHECK(vboard_negotiate(&b, BIT(VIRTIO_F_VERSION_1)) != 0);
	vboard_write(&b, COMMON + 12, 4, 0); /* too late to change one's mind */
	vboard_write(&b, COMMON + 8, 4, 1);
	CHECK_EQ(vboard_read(&b, COMMON + 12, 4), 1);
	vboard_down(&b);
}

TEST(a_broken_ring_needs_a_reset_and_works_again_after_it)
{
	struct vboard b;
	struct vring r;
	struct vseg bad = { VBOARD_BAR, 16, true };

	up(&b);
	for (unsigned i = 0; i < 3; i++) {
		CHECK(vboard_start(&b, 0, &r, 1, RING, 16) != 0);
		check_entropy(&b, &r, 16);
		atomic_store(&b.msis[0], 0);
		vring_add(&r, &bad, 1);
		vboard_notify(&b, 0);
		for (unsigned k = 0; k < 1000 && !b.msis[0]; k++)
			vboard_pause();
		CHECK_EQ(vboard_status(&b), 0x4f);
		CHECK_EQ(b.msis[0], 1);
		vboard_notify(&b, 0);
		vboard_set_status(&b, 0xf);
		CHECK_EQ(vboard_status(&b), 0x4f);
	}
	CHECK(vboard_start(&b, 0, &r, 1, RING, 16) != 0);
	check_entropy(&b, &r, 16);
	vboard_down(&b);
}

TEST(a_ring_outside_of_memory_needs_a_reset)
{
	struct vboard b;
	struct vring r;

	up(&b);
	vboard_enable(&b, 2);
	CHECK(vboard_reset(&b));
	CHECK(vboard_negotiate(&b, BIT(VIRTIO_F_VERSION_1)) != 0);
	vring_init(&r, &b.pm, RING, 16, 0);
	r.setup.desc = 4 * MiB;
	vboard_queue(&b, 0, &r);
	vboard_set_status(&b, 0xf);
	for (unsigned i = 0; i < 1000 && vboard_status(&b) == 0xf; i++)
		vboard_pause();
	CHECK_EQ(vboard_status(&b), 0x4f);
	vboard_down(&b);
}

TEST(one_queue_can_be_reset_and_come_back)
{
	struct vboard b;
	struct vring r;

	up(&b);
	CHECK(vboard_start(&b, BIT(VIRTIO_F_RING_RESET), &r, 1, RING, 16) &
	      BIT(VIRTIO_F_RING_RESET));
	for (unsigned i = 0; i < 5; i++) {
		check_entropy(&b, &r, 16);
		vboard_write(&b, COMMON + 22, 2, 0);
		vboard_write(&b, COMMON + 58, 2, 1);
		for (unsigned k = 0; k < 1000 && vboard_read(&b, COMMON + 58, 2); k++)
			vboard_pause();
		CHECK_EQ(vboard_read(&b, COMMON + 58, 2), 0);
		CHECK_EQ(vboard_read(&b, COMMON + 28, 2), 0);
		vring_init(&r, &b.pm, RING, 8, 0);
		vboard_queue(&b, 0, &r);
		CHECK_EQ(vboard_status(&b), 0xf);
	}
	check_entropy(&b, &r, 16);
	vboard_down(&b);
}

TEST(registers_outside_of_a_queue_or_out_of_order_change_nothing)
{
	struct vboard b;
	struct vring r;

	up(&b);
	CHECK(vboard_start(&b, 0, &r, 1, RING, 16) != 0);
	vboard_write(&b, COMMON + 22, 2, 0);
	vboard_write(&b, COMMON + 24, 2, 8); /* enabled: fixed */
	vboard_write(&b, COMMON + 32, 4, 0x1234);
	vboard_write(&b, COMMON + 58, 2, 1); /* RING_RESET was not negotiated */
	CHECK_EQ(vboard_read(&b, COMMON + 24, 2), 16);
	CHECK_EQ(vboard_read(&b, COMMON + 28, 2), 1);
	CHECK_EQ(vboard_read(&b, COMMON + 32, 4), RING);
	vboard_write(&b, COMMON + 22, 2, 7);
	CHECK_EQ(vboard_read(&b, COMMON + 24, 2), 0);
	vboard_write(&b, COMMON + 28, 2, 1);
	vboard_write(&b, COMMON + 26, 2, 0);
	CHECK_EQ(vboard_read(&b, COMMON + 26, 2), 0xffff);
	vboard_write(&b, COMMON + 22, 2, 0);
	vboard_write(&b, COMMON + 26, 2, 2); /* there are two vectors */
	CHECK_EQ(vboard_read(&b, COMMON + 26, 2), 0xffff);
	for (unsigned off = 0; off < 0x8000; off += 0x3f1)
		for (unsigned size = 1; size <= 8; size *= 2)
			vboard_read(&b, VBOARD_BAR + off, size);
	vboard_notify(&b, 66);
	check_entropy(&b, &r, 16);
	vboard_down(&b);
}

TEST(the_window_in_configuration_space_reaches_the_registers)
{
	struct vboard b;
	unsigned cap;

	up(&b);
	vboard_enable(&b, 0);
	cap = vboard_cap(&b, 9, 5);
	vboard_cfg_write(&b, cap + 4, 1, 0);
	vboard_cfg_write(&b, cap + 8, 4, 20);
	vboard_cfg_write(&b, cap + 12, 4, 1);
	vboard_cfg_write(&b, cap + 16, 1, 3);
	CHECK_EQ(vboard_status(&b), 3);
	CHECK_EQ(vboard_cfg_read(&b, cap + 16, 1), 3);
	vboard_cfg_write(&b, cap + 8, 4, 18);
	vboard_cfg_write(&b, cap + 12, 4, 2);
	CHECK_EQ(vboard_cfg_read(&b, cap + 16, 2), 1); /* queues */
	vboard_cfg_write(&b, cap + 12, 4, 3);
	vboard_cfg_write(&b, cap + 8, 4, 0x7fffffff);
	vboard_cfg_read(&b, cap + 16, 4);
	vboard_down(&b);
}

TEST(no_bus_mastering_stops_the_device)
{
	struct vboard b;
	struct vring r;

	up(&b);
	CHECK(vboard_start(&b, 0, &r, 1, RING, 16) != 0);
	check_entropy(&b, &r, 16);
	vboard_cfg_write(&b, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	for (unsigned i = 0; i < 1000 && vboard_status(&b) == 0xf; i++)
		vboard_pause();
	CHECK_EQ(vboard_status(&b), 0x4b);
	CHECK(vboard_start(&b, 0, &r, 1, RING, 16) != 0);
	check_entropy(&b, &r, 16);
	vboard_down(&b);
}

TEST(the_boards_reset_leaves_nothing_behind)
{
	struct vboard b;
	struct vring r;

	up(&b);
	CHECK(vboard_start(&b, 0, &r, 1, RING, 16) != 0);
	check_entropy(&b, &r, 16);
	b.bus_dev.ops->reset(b.bus_dev.dev);
	b.dev.ops->reset(b.dev.dev);
	CHECK_EQ(vboard_read(&b, VBOARD_COMMON, 4), 0xffffffff);
	vboard_enable(&b, 0);
	CHECK_EQ(vboard_status(&b), 0);
	CHECK_EQ(vboard_read(&b, VBOARD_TABLE + 12, 4), 1);
	CHECK_EQ(vboard_read(&b, VBOARD_TABLE, 4), 0);
	CHECK(vboard_start(&b, 0, &r, 1, RING, 16) != 0);
	check_entropy(&b, &r, 16);
	vboard_down(&b);
}

TESTS(T(the_device_is_found_and_has_its_capabilities),
      T(both_ring_formats_work_with_message_interrupts),
      T(without_messages_the_pin_rises_until_isr_is_read), T(masked_vectors_wait),
      T(features_that_were_not_offered_are_refused),
      T(a_broken_ring_needs_a_reset_and_works_again_after_it),
      T(a_ring_outside_of_memory_needs_a_reset), T(one_queue_can_be_reset_and_come_back),
      T(registers_outside_of_a_queue_or_out_of_order_change_nothing),
      T(the_window_in_configuration_space_reaches_the_registers),
      T(no_bus_mastering_stops_the_device), T(the_boards_reset_leaves_nothing_behind))
