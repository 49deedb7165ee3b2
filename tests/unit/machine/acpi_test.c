#include "machine/acpi.h"

#include "check.h"
#include "dev/acpi/pm.h"
#include "machine/memmap.h"

static uint8_t buf[ACPI_END - ACPI_BASE];

static uint8_t sum(const void *p, size_t len)
{
	const uint8_t *byte = p;
	uint8_t s = 0;

	while (len--)
		s += *byte++;
	return s;
}

static const uint8_t *at(uint64_t gpa)
{
	CHECK(gpa >= ACPI_BASE && gpa < ACPI_END);
	return buf + (gpa - ACPI_BASE);
}

/* The table with the signature, by RSDP and XSDT. */
static const uint8_t *table(const char *signature)
{
	const uint8_t *xsdt = at(load64(buf + 24));

	for (unsigned i = 36; i < load32(xsdt + 4); i += 8) {
		const uint8_t *t = at(load64(xsdt + i));

		if (memcmp(t, signature, 4) == 0)
			return t;
	}
	return NULL;
}

/* Does the DSDT hold these bytes? */
static bool dsdt_has(const void *bytes, size_t len)
{
	const uint8_t *dsdt = at(load64(table("FACP") + 140));

	return memmem(dsdt, load32(dsdt + 4), bytes, len) != NULL;
}

TEST(all_checksums_are_right)
{
	static const char *const names[] = { "FACP", "APIC", "MCFG" };

	CHECK(acpi_build(buf, sizeof(buf), 4) > 0);
	CHECK_MEM(buf, "RSD PTR ", 8);
	CHECK_EQ(sum(buf, 20), 0);
	CHECK_EQ(sum(buf, 36), 0);
	const uint8_t *xsdt = at(load64(buf + 24));
	CHECK_EQ(sum(xsdt, load32(xsdt + 4)), 0);
	for (unsigned i = 0; i < 3; i++) {
		const uint8_t *t = table(names[i]);

		CHECK(t);
		CHECK_EQ(sum(t, load32(t + 4)), 0);
	}
	const uint8_t *dsdt = at(load64(table("FACP") + 140));
	CHECK_MEM(dsdt, "DSDT", 4);
	CHECK_EQ(sum(dsdt, load32(dsdt + 4)), 0);
	CHECK_EQ(load64(table("FACP") + 140), load32(table("FACP") + 40));
}

TEST(the_madt_lists_every_processor)
{
	for (unsigned n = 1; n <= 64; n += 21) {
		unsigned cpus = 0, ioapics = 0, overrides = 0;

		CHECK(acpi_build(buf, sizeof(buf), n) > 0);
		const uint8_t *m = table("APIC");
		for (unsigned off = 44; off < load32(m + 4); off += m[off + 1]) {
			CHECK(m[off + 1] >= 6);
			if (m[off] == 0)
				CHECK_EQ(m[off + 3], cpus++);
			ioapics += m[off] == 1;
			overrides += m[off] == 2;
		}
		CHECK_EQ(cpus, n);
		CHECK_EQ(ioapics, 1);
		CHECK_EQ(overrides, 2);
	}
}

TEST(the_fadt_points_at_the_boards_registers)
{
	CHECK(acpi_build(buf, sizeof(buf), 1) > 0);
	const uint8_t *f = table("FACP");
	CHECK_EQ(load32(f + 4), 276);
	CHECK_EQ(load16(f + 46), IRQ_SCI);
	CHECK_EQ(load32(f + 56), PORT_PM + PM_EVENT);
	CHECK_EQ(load32(f + 64), PORT_PM + PM_CONTROL);
	CHECK_EQ(load32(f + 76), PORT_PM + PM_TIMER);
	CHECK_EQ(load64(f + 120), PORT_RESET);
	CHECK_EQ(f[128], 6);
	CHECK_EQ(load32(f + 112) & (1 << 10), 1 << 10);
}

TEST(the_mcfg_points_at_ecam)
{
	CHECK(acpi_build(buf, sizeof(buf), 1) > 0);
	CHECK_EQ(load64(table("MCFG") + 44), ECAM_BASE);
	CHECK_EQ(table("MCFG")[55], ECAM_BUSES - 1);
}

TEST(the_dsdt_agrees_with_the_memory_map)
{
	uint8_t window32[12], window64[24], pm[6], ecam[8];

	CHECK(acpi_build(buf, sizeof(buf), 1) > 0);
	/* Minimum, maximum, translation, length of an address space descriptor; port and memory. */
	store32(window32, PCI_MMIO32_BASE);
	store32(window32 + 4, PCI_MMIO32_END - 1);
	store32(window32 + 8, 0);
	CHECK(dsdt_has(window32, 12));
	store64(window64, PCI_MMIO64_BASE);
	store64(window64 + 8, PCI_MMIO64_END - 1);
	store64(window64 + 16, 0);
	CHECK(dsdt_has(window64, 24));
	store16(pm, PORT_PM);
	store16(pm + 2, PORT_PM);
	pm[4] = 1;
	pm[5] = PM_PORTS;
	CHECK(dsdt_has(pm, 6));
	store32(ecam, ECAM_BASE);
	store32(ecam + 4, ECAM_BUSES * MiB);
	CHECK(dsdt_has(ecam, 8));
	/* The MADT tells of the I/O APIC; claimed here too, a guest could not reserve it. */
	store32(ecam, IOAPIC_BASE);
	CHECK(!dsdt_has(ecam, 4));
	/* Name (_S5, Package (4) { 5, 0, 0, 0 }) */
	CHECK(dsdt_has("_S5_\x12\x07\x04\x0a\x05", 9));
	CHECK_EQ(PM_SLEEP_TYPE_OFF, 5);
}

TEST(a_small_buffer_is_not_overrun)
{
	for (size_t size = 0; size < 3000; size++) {
		memset(buf, 0xa5, sizeof(buf));
		size_t len = acpi_build(buf, size, 8);

		CHECK(len <= size);
		for (size_t i = size; i < size + 64; i++)
			CHECK_EQ(buf[i], 0xa5);
	}
}

TESTS(T(all_checksums_are_right), T(the_madt_lists_every_processor),
      T(the_fadt_points_at_the_boards_registers), T(the_mcfg_points_at_ecam),
      T(the_dsdt_agrees_with_the_memory_map), T(a_small_buffer_is_not_overrun))
