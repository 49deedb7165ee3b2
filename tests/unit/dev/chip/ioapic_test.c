#include "dev/chip/ioapic.h"

#include "check.h"

static void write_reg(struct ioapic *io, uint32_t reg, uint32_t val)
{
	ioapic_write(io, 0x00, reg);
	ioapic_write(io, 0x10, val);
}

static uint32_t read_reg(struct ioapic *io, uint32_t reg)
{
	ioapic_write(io, 0x00, reg);
	return ioapic_read(io, 0x10);
}

static struct ioapic with(unsigned pin, uint32_t low, uint32_t high)
{
	struct ioapic io = { 0 };

	ioapic_reset(&io);
	write_reg(&io, 0x11 + 2 * pin, high);
	write_reg(&io, 0x10 + 2 * pin, low);
	return io;
}

TEST(version_says_24_pins_and_eoi_register)
{
	struct ioapic io = { 0 };

	ioapic_reset(&io);
	CHECK_EQ(read_reg(&io, 1), 0x00170020);
	CHECK_EQ(read_reg(&io, 0x10), 0x00010000); /* masked */
	write_reg(&io, 0, 0x0f000000);
	CHECK_EQ(read_reg(&io, 0), 0x0f000000);
}

TEST(an_edge_sends_once)
{
	struct ioapic io = with(4, 0x31, 0x02000000);
	struct apic_msg m;

	ioapic_set_pin(&io, 4, true);
	CHECK(ioapic_service(&io, 4, &m));
	CHECK_EQ(m.vector, 0x31);
	CHECK_EQ(m.dest, 2);
	CHECK(!m.level);
	CHECK(!ioapic_service(&io, 4, &m));
	ioapic_set_pin(&io, 4, true);
	CHECK(!ioapic_service(&io, 4, &m));
	ioapic_set_pin(&io, 4, false);
	ioapic_set_pin(&io, 4, true);
	CHECK(ioapic_service(&io, 4, &m));
}

TEST(a_level_sends_again_only_after_eoi)
{
	struct ioapic io = with(9, 0x8041, 0);
	struct apic_msg m;

	ioapic_set_pin(&io, 9, true);
	CHECK(ioapic_service(&io, 9, &m));
	CHECK(m.level);
	CHECK(read_reg(&io, 0x10 + 18) & IOAPIC_REDIR_REMOTE_IRR);
	CHECK(!ioapic_service(&io, 9, &m));
	ioapic_eoi(&io, 0x41);
	CHECK(ioapic_service(&io, 9, &m));
	ioapic_set_pin(&io, 9, false);
	ioapic_write(&io, 0x40, 0x41); /* directed EOI */
	CHECK(!ioapic_service(&io, 9, &m));
	CHECK(!(read_reg(&io, 0x10 + 18) & IOAPIC_REDIR_REMOTE_IRR));
}

TEST(eoi_of_another_vector_changes_nothing)
{
	struct ioapic io = with(9, 0x8041, 0);
	struct apic_msg m;

	ioapic_set_pin(&io, 9, true);
	ioapic_service(&io, 9, &m);
	ioapic_eoi(&io, 0x42);
	CHECK(!ioapic_service(&io, 9, &m));
}

TEST(a_masked_level_waits_and_a_masked_edge_is_lost)
{
	struct ioapic io = with(9, 0x18041, 0);
	struct apic_msg m;

	ioapic_set_pin(&io, 9, true);
	CHECK(!ioapic_service(&io, 9, &m));
	write_reg(&io, 0x10 + 18, 0x8041);
	CHECK(ioapic_service(&io, 9, &m));

	io = with(4, 0x10031, 0);
	ioapic_set_pin(&io, 4, true);
	CHECK(!ioapic_service(&io, 4, &m));
	write_reg(&io, 0x10 + 8, 0x31);
	CHECK(!ioapic_service(&io, 4, &m));
}

TEST(going_through_edge_mode_clears_remote_irr)
{
	struct ioapic io = with(9, 0x8041, 0);
	struct apic_msg m;

	ioapic_set_pin(&io, 9, true);
	ioapic_service(&io, 9, &m);
	write_reg(&io, 0x10 + 18, 0x10041);
	write_reg(&io, 0x10 + 18, 0x8041);
	CHECK(ioapic_service(&io, 9, &m));
}

TEST(read_only_bits_do_not_take_writes)
{
	struct ioapic io = with(3, 0xffffffff, 0xffffffff);

	CHECK_EQ(read_reg(&io, 0x16), 0x0001afff);
	CHECK_EQ(read_reg(&io, 0x17), 0xff000000);
	CHECK_EQ(read_reg(&io, 0xff), 0);
	write_reg(&io, 0xff, 0xffffffff);
}

TESTS(T(version_says_24_pins_and_eoi_register), T(an_edge_sends_once),
      T(a_level_sends_again_only_after_eoi), T(eoi_of_another_vector_changes_nothing),
      T(a_masked_level_waits_and_a_masked_edge_is_lost),
      T(going_through_edge_mode_clears_remote_irr), T(read_only_bits_do_not_take_writes))
