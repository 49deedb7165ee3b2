#include "dev/pci/pci.h"

#include "base/bits.h"
#include "check.h"
#include "mem/iospace.h"

#define ECAM 0xe0000000ull

struct rig {
	struct iospace *pio, *mmio;
	struct pci_bus *bus;
	struct dev dev;
	struct pci_func f;
	int resets, level;
	uint64_t msi_addr;
	uint32_t msi_data;
};

static void on_reset(void *arg)
{
	((struct rig *)arg)->resets++;
}

static void on_intx(void *to, unsigned pin, bool level)
{
	((struct rig *)to)->level = level ? (int)pin : -1;
}

static void on_msi(void *to, uint64_t addr, uint32_t data)
{
	struct rig *r = to;

	r->msi_addr = addr;
	r->msi_data = data;
}

static uint64_t bar_read(void *dev, uint64_t off, unsigned size)
{
	return 0x40 + off;
}

static const struct io_ops bar_ops = { .read = bar_read, .max = 4 };

/* A bus with one function at 3.0 that has a 64-bit memory BAR and an I/O BAR. */
static void rig_up(struct rig *r)
{
	static const struct pci_ids ids = {
		.vendor = 0x1af4, .device = 0x1042, .class_code = 0x010000, .pin = 1
	};

	*r = (struct rig){ .pio = iospace_new(0x10000), .mmio = iospace_new(1ull << 40) };
	struct pci_bus_cfg cfg = {
		.address_port = 0xcf8,
		.ecam_base = ECAM,
		.ecam_buses = 256,
		.pio = r->pio,
		.mmio = r->mmio,
		.msi = { on_msi, r },
		.reset = on_reset,
		.arg = r,
	};
	for (unsigned i = 0; i < 4; i++)
		cfg.intx[i] = (struct irq_line){ on_intx, r, i };
	CHECK_EQ(pci_bus_new(&r->dev, &r->bus, &cfg, NULL), 0);
	pci_func_init(&r->f, &ids);
	pci_func_bar(&r->f, 0, &(struct pci_bar){ .len = 0x4000, .is64 = true, .ops = &bar_ops });
	pci_func_bar(&r->f, 2, &(struct pci_bar){ .len = 0x20, .io = true, .ops = &bar_ops });
	CHECK_EQ(pci_func_cap(&r->f, 0x11, 12), 0x40);
	CHECK_EQ(pci_func_cap(&r->f, 0x09, 20), 0x4c);
	CHECK_EQ(pci_bus_add(r->bus, &r->f, PCI_DEVFN(3, 0), NULL), 0);
}

static void rig_down(struct rig *r)
{
	r->dev.ops->free(r->dev.dev);
	iospace_free(r->pio);
	iospace_free(r->mmio);
}

static uint32_t cf8_read(struct rig *r, unsigned devfn, unsigned off, unsigned size)
{
	iospace_write(r->pio, 0xcf8, 4, 0x80000000 | devfn << 8 | (off & 0xfc));
	return (uint32_t)iospace_read(r->pio, 0xcfc + (off & 3), size);
}

static void ecam_write(struct rig *r, unsigned off, unsigned size, uint32_t val)
{
	iospace_write(r->mmio, ECAM + (PCI_DEVFN(3, 0) << 12) + off, size, val);
}

static uint32_t ecam_read(struct rig *r, unsigned off, unsigned size)
{
	return (uint32_t)iospace_read(r->mmio, ECAM + (PCI_DEVFN(3, 0) << 12) + off, size);
}

TEST(bridges_and_functions_are_found_both_ways)
{
	struct rig r;

	rig_up(&r);
	CHECK_EQ(cf8_read(&r, 0, 0, 4), 0x29c08086);
	CHECK_EQ(cf8_read(&r, PCI_DEVFN(0x1f, 0), 0x0a, 2), 0x0601);
	CHECK_EQ(cf8_read(&r, PCI_DEVFN(3, 0), 2, 2), 0x1042);
	CHECK_EQ(ecam_read(&r, 0, 4), 0x10421af4);
	CHECK_EQ(cf8_read(&r, PCI_DEVFN(4, 0), 0, 4), 0xffffffff);
	CHECK_EQ(iospace_read(r.mmio, ECAM + (1 << 20), 4), 0xffffffff);
	iospace_write(r.pio, 0xcf8, 4, 0x80010000); /* bus 1 */
	CHECK_EQ(iospace_read(r.pio, 0xcfc, 4), 0xffffffff);
	iospace_write(r.pio, 0xcf8, 4, 0); /* not enabled */
	CHECK_EQ(iospace_read(r.pio, 0xcfc, 4), 0xffffffff);
	rig_down(&r);
}

TEST(bars_tell_their_size)
{
	struct rig r;

	rig_up(&r);
	ecam_write(&r, 0x10, 4, 0xffffffff);
	ecam_write(&r, 0x14, 4, 0xffffffff);
	CHECK_EQ(ecam_read(&r, 0x10, 4), 0xffffc004);
	CHECK_EQ(ecam_read(&r, 0x14, 4), 0xffffffff);
	ecam_write(&r, 0x18, 4, 0xffffffff);
	CHECK_EQ(ecam_read(&r, 0x18, 4), 0xffffffe1);
	ecam_write(&r, 0x1c, 4, 0xffffffff);
	CHECK_EQ(ecam_read(&r, 0x1c, 4), 0);
	rig_down(&r);
}

TEST(a_bar_decodes_where_it_is_put_while_enabled)
{
	struct rig r;

	rig_up(&r);
	ecam_write(&r, 0x10, 4, 0xc0004000);
	CHECK_EQ(iospace_read(r.mmio, 0xc0004004, 1), 0xff);
	ecam_write(&r, 0x04, 2, 0x0002);
	CHECK_EQ(iospace_read(r.mmio, 0xc0004004, 1), 0x44);
	ecam_write(&r, 0x10, 4, 0xc0008000);
	CHECK_EQ(iospace_read(r.mmio, 0xc0004004, 1), 0xff);
	CHECK_EQ(iospace_read(r.mmio, 0xc0008004, 1), 0x44);
	ecam_write(&r, 0x04, 2, 0);
	CHECK_EQ(iospace_read(r.mmio, 0xc0008004, 1), 0xff);
	rig_down(&r);
}

TEST(a_bar_over_something_else_does_not_decode)
{
	struct rig r;

	rig_up(&r);
	ecam_write(&r, 0x10, 4, (uint32_t)ECAM);
	ecam_write(&r, 0x04, 2, 0x0002);
	CHECK_EQ(ecam_read(&r, 0, 4), 0x10421af4);
	ecam_write(&r, 0x14, 4, 0xffffffff); /* beyond the space */
	CHECK_EQ(ecam_read(&r, 0, 4), 0x10421af4);
	ecam_write(&r, 0x14, 4, 0);
	ecam_write(&r, 0x10, 4, 0xc0000000);
	CHECK_EQ(iospace_read(r.mmio, 0xc0000000, 1), 0x40);
	rig_down(&r);
}

TEST(reset_takes_bars_away)
{
	struct rig r;

	rig_up(&r);
	ecam_write(&r, 0x10, 4, 0xc0004000);
	ecam_write(&r, 0x04, 2, 0x0002);
	r.dev.ops->reset(r.dev.dev);
	CHECK_EQ(ecam_read(&r, 0x10, 4), 4);
	CHECK_EQ(iospace_read(r.mmio, 0xc0004004, 1), 0xff);
	rig_down(&r);
}

TEST(capabilities_are_chained)
{
	struct rig r;

	rig_up(&r);
	CHECK_EQ(ecam_read(&r, 6, 2) & 0x10, 0x10);
	CHECK_EQ(ecam_read(&r, 0x34, 1), 0x40);
	CHECK_EQ(ecam_read(&r, 0x40, 2), 0x4c11);
	CHECK_EQ(ecam_read(&r, 0x4c, 2), 0x0009);
	rig_down(&r);
}

TEST(identity_is_read_only)
{
	struct rig r;

	rig_up(&r);
	for (unsigned off = 0; off < 0x10; off += 4)
		ecam_write(&r, off, 4, 0xffffffff);
	CHECK_EQ(ecam_read(&r, 0, 4), 0x10421af4);
	CHECK_EQ(ecam_read(&r, 4, 2), 0x0407);
	rig_down(&r);
}

TEST(the_byte_at_cf9_resets)
{
	struct rig r;

	rig_up(&r);
	iospace_write(r.pio, 0xcf9, 1, 0x02);
	CHECK_EQ(r.resets, 0);
	iospace_write(r.pio, 0xcf9, 1, 0x06);
	CHECK_EQ(r.resets, 1);
	rig_down(&r);
}

TEST(intx_is_swizzled_and_can_be_silenced)
{
	struct rig r;

	rig_up(&r);
	pci_intx(&r.f, true);
	CHECK_EQ(r.level, 3); /* device 3, INTA */
	CHECK(ecam_read(&r, 6, 2) & PCI_STATUS_INTX);
	ecam_write(&r, 4, 2, PCI_COMMAND_NO_INTX);
	CHECK_EQ(r.level, -1);
	ecam_write(&r, 4, 2, 0);
	CHECK_EQ(r.level, 3);
	pci_intx(&r.f, false);
	CHECK_EQ(r.level, -1);
	rig_down(&r);
}

TEST(messages_need_bus_mastering)
{
	struct rig r;

	rig_up(&r);
	pci_msi(&r.f, 0xfee00000, 0x41);
	CHECK_EQ(r.msi_data, 0);
	ecam_write(&r, 4, 2, PCI_COMMAND_MASTER);
	pci_msi(&r.f, 0xfee00000, 0x41);
	CHECK_EQ(r.msi_data, 0x41);
	rig_down(&r);
}

TESTS(T(bridges_and_functions_are_found_both_ways), T(bars_tell_their_size),
      T(a_bar_decodes_where_it_is_put_while_enabled), T(a_bar_over_something_else_does_not_decode),
      T(reset_takes_bars_away), T(capabilities_are_chained), T(identity_is_read_only),
      T(the_byte_at_cf9_resets), T(intx_is_swizzled_and_can_be_silenced),
      T(messages_need_bus_mastering))
