#include "dev/pci/pci.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "base/trace.h"
#include "mem/iospace.h"

#include <errno.h>
#include <pthread.h>

#define ADDRESS_ENABLE 0x80000000u

/* Reset control, in the byte at address_port + 1. Intel ICH datasheet "RST_CNT". */
#define RESET_SYSTEM 0x02
#define RESET_CPU    0x04

/* The chips whose ids the bridges bear: Intel 82G33 (MCH) and 82801IB (ICH9 LPC). Both are known to
 * every guest and none works around a flaw in them that matters here.
 */
static const struct pci_ids host_bridge_ids = { .vendor = 0x8086,
						.device = 0x29c0,
						.class_code = 0x060000 };
static const struct pci_ids isa_bridge_ids = {
	.vendor = 0x8086, .device = 0x2918, .class_code = 0x060100, .revision = 2
};

struct pci_bus {
	pthread_mutex_t lock;	    /* guards address, reset_control and each function's state */
	struct pci_func *func[256]; /* borrowed, but for the bridges below; fixed while vCPUs run */
	uint32_t address;
	uint8_t reset_control;
	struct pci_func host_bridge, isa_bridge;
	struct pci_bus_cfg cfg;
};

/* Where the guest put BAR i. */
static uint64_t bar_address(const struct pci_func *f, unsigned i)
{
	const uint8_t *p = f->cfg + PCI_BAR0 + 4 * i;
	uint64_t at = load32(p) & (f->bar[i].io ? ~3u : ~15u);

	if (f->bar[i].is64)
		at |= (uint64_t)load32(p + 4) << 32;
	return at;
}

static struct iospace *bar_space(const struct pci_func *f, unsigned i)
{
	return f->bar[i].io ? f->bus->cfg.pio : f->bus->cfg.mmio;
}

/* Bring the maps in line with the BARs and the command register. What the guest places over
 * something else, or at 0, does not decode. Needs the lock.
 */
static void update_bars(struct pci_func *f)
{
	uint16_t command = load16(f->cfg + PCI_COMMAND);

	for (unsigned i = 0; i < ARRAY_SIZE(f->bar); i++) {
		struct pci_bar *b = &f->bar[i];
		uint64_t at;
		bool on;

		if (!b->len)
			continue;
		at = bar_address(f, i);
		on = (command & (b->io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)) && at;
		if (b->mapped && (!on || at != b->at)) {
			iospace_unmap(bar_space(f, i), b->at);
			b->mapped = false;
		}
		if (!on || b->mapped)
			continue;
		b->at = at;
		b->mapped = iospace_map(bar_space(f, i), at, b->len, b->ops, b->dev, NULL) == 0;
		if (b->mapped && b->bells.n) {
			struct io_bells bells = b->bells;

			bells.base += at;
			iospace_add_bells(bar_space(f, i), &bells);
		}
		if (!b->mapped && trace_on(TRACE_GUEST))
			trace_print(TRACE_GUEST, "pci %02x.%x: BAR %u does not fit at %#llx",
				    f->devfn >> 3, f->devfn & 7u, i, (unsigned long long)at);
	}
}

/* Put the function's interrupt on its wire unless the command register forbids it. Needs the lock.
 */
static void drive_intx(const struct pci_func *f)
{
	bool silent = load16(f->cfg + PCI_COMMAND) & PCI_COMMAND_NO_INTX;

	irq_line_set(&f->intx, (f->cfg[PCI_STATUS] & PCI_STATUS_INTX) && !silent);
}

uint32_t pci_cfg_get(struct pci_func *f, unsigned off, unsigned size)
{
	uint32_t val = 0;

	pthread_mutex_lock(&f->bus->lock);
	for (unsigned i = 0; i < size && off + i < PCI_CONFIG_BYTES; i++)
		val |= (uint32_t)f->cfg[off + i] << (i * 8);
	pthread_mutex_unlock(&f->bus->lock);
	return val;
}

void pci_cfg_set(struct pci_func *f, unsigned off, unsigned size, uint32_t val)
{
	pthread_mutex_lock(&f->bus->lock);
	for (unsigned i = 0; i < size && off + i < PCI_CONFIG_BYTES; i++)
		f->cfg[off + i] = (uint8_t)(val >> (i * 8));
	pthread_mutex_unlock(&f->bus->lock);
}

static uint32_t config_read(struct pci_bus *bus, unsigned devfn, unsigned off, unsigned size)
{
	struct pci_func *f = bus->func[devfn];

	if (!f)
		return 0xffffffff;
	if (f->reading)
		f->reading(f->dev, off, size);
	return pci_cfg_get(f, off, size);
}

static void config_write(struct pci_bus *bus, unsigned devfn, unsigned off, unsigned size,
			 uint32_t val)
{
	struct pci_func *f = bus->func[devfn];

	if (!f)
		return;
	pthread_mutex_lock(&bus->lock);
	for (unsigned i = 0; i < size && off + i < PCI_CONFIG_BYTES; i++) {
		uint8_t byte = (uint8_t)(val >> (i * 8)), *c = &f->cfg[off + i];

		*c = (uint8_t)((*c & ~f->writable[off + i]) | (byte & f->writable[off + i]));
		*c &= (uint8_t) ~(byte & f->w1c[off + i]);
	}
	if (off < PCI_BAR0 + 24) {
		update_bars(f);
		drive_intx(f);
	}
	pthread_mutex_unlock(&bus->lock);
	if (f->written)
		f->written(f->dev, off, size);
}

/* The function and register that the address register and a data port name; false for none. Needs
 * the lock.
 */
static bool target(const struct pci_bus *bus, uint64_t port, unsigned *devfn, unsigned *off)
{
	if (!(bus->address & ADDRESS_ENABLE) || (bus->address >> 16 & 0xff) != 0)
		return false;
	*devfn = bus->address >> 8 & 0xff;
	*off = (bus->address & 0xfc) + (unsigned)(port & 3);
	return true;
}

static uint64_t port_read(void *dev, uint64_t off, unsigned size)
{
	struct pci_bus *bus = dev;
	uint64_t val = ~0ull;
	unsigned devfn, reg;
	bool hit;

	pthread_mutex_lock(&bus->lock);
	if (off == 0 && size == 4)
		val = bus->address;
	else if (off == 1 && size == 1)
		val = bus->reset_control;
	hit = off >= 4 && target(bus, off, &devfn, &reg);
	pthread_mutex_unlock(&bus->lock);
	return hit ? config_read(bus, devfn, reg, size) : val;
}

/* Setting RESET_CPU starts the reset that RESET_SYSTEM chooses; both kinds reset the board here. */
static bool write_reset_control(struct pci_bus *bus, uint8_t val)
{
	bool start = val & ~bus->reset_control & RESET_CPU;

	bus->reset_control = val & (RESET_SYSTEM | 0x08);
	return start;
}

static void port_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct pci_bus *bus = dev;
	unsigned devfn, reg;
	bool reset = false, hit;

	pthread_mutex_lock(&bus->lock);
	if (off == 0 && size == 4)
		bus->address = (uint32_t)val & 0x80fffffc;
	else if (off == 1 && size == 1)
		reset = write_reset_control(bus, (uint8_t)val);
	hit = off >= 4 && target(bus, off, &devfn, &reg);
	pthread_mutex_unlock(&bus->lock);
	if (hit)
		config_write(bus, devfn, reg, size, (uint32_t)val);
	if (reset)
		bus->cfg.reset(bus->cfg.arg);
}

static const struct io_ops port_io = { .read = port_read, .write = port_write, .max = 4 };

static uint64_t ecam_read(void *dev, uint64_t off, unsigned size)
{
	struct pci_bus *bus = dev;

	if (off >> 20)
		return ~0ull;
	return config_read(bus, off >> 12 & 0xff, off & 0xfff, size);
}

static void ecam_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct pci_bus *bus = dev;

	if (off >> 20)
		return;
	config_write(bus, off >> 12 & 0xff, off & 0xfff, size, (uint32_t)val);
}

static const struct io_ops ecam_io = { .read = ecam_read, .write = ecam_write, .max = 4 };

void pci_intx(struct pci_func *f, bool level)
{
	pthread_mutex_lock(&f->bus->lock);
	f->cfg[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTX;
	f->cfg[PCI_STATUS] |= level ? PCI_STATUS_INTX : 0;
	drive_intx(f);
	pthread_mutex_unlock(&f->bus->lock);
}

void pci_msi(struct pci_func *f, uint64_t addr, uint32_t data)
{
	struct pci_bus *bus = f->bus;

	pthread_mutex_lock(&bus->lock);
	bool master = load16(f->cfg + PCI_COMMAND) & PCI_COMMAND_MASTER;
	pthread_mutex_unlock(&bus->lock);
	if (master && bus->cfg.msi.send)
		bus->cfg.msi.send(bus->cfg.msi.to, addr, data);
}

int pci_bus_add(struct pci_bus *bus, struct pci_func *f, unsigned devfn, struct err *err)
{
	if (devfn >= ARRAY_SIZE(bus->func) || bus->func[devfn])
		return err_set(err, EEXIST, "PCI slot %02x.%x", devfn >> 3, devfn & 7);
	f->bus = bus;
	f->devfn = (uint8_t)devfn;
	if (f->cfg[PCI_IRQ_PIN])
		f->intx = bus->cfg.intx[pci_wire(devfn >> 3, f->cfg[PCI_IRQ_PIN])];
	memcpy(f->power_on, f->cfg, sizeof(f->cfg));
	bus->func[devfn] = f;
	return 0;
}

void pci_bus_remove(struct pci_func *f)
{
	for (unsigned i = 0; i < ARRAY_SIZE(f->bar); i++)
		if (f->bar[i].mapped)
			iospace_unmap(bar_space(f, i), f->bar[i].at);
	f->bus->func[f->devfn] = NULL;
}

static void bus_reset(void *dev)
{
	struct pci_bus *bus = dev;

	pthread_mutex_lock(&bus->lock);
	bus->address = 0;
	bus->reset_control = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(bus->func); i++) {
		struct pci_func *f = bus->func[i];

		if (!f)
			continue;
		memcpy(f->cfg, f->power_on, sizeof(f->cfg));
		update_bars(f);
		drive_intx(f);
	}
	pthread_mutex_unlock(&bus->lock);
}

static void bus_free(void *dev)
{
	struct pci_bus *bus = dev;

	pthread_mutex_destroy(&bus->lock);
	free(bus);
}

static const struct dev_ops bus_ops = { .name = "pci", .reset = bus_reset, .free = bus_free };

int pci_bus_new(struct dev *out, struct pci_bus **bus, const struct pci_bus_cfg *cfg,
		struct err *err)
{
	AUTO_FREE struct pci_bus *b = calloc(1, sizeof(*b));
	uint64_t ecam_bytes = cfg->ecam_buses * MiB;

	if (!b)
		return err_set(err, ENOMEM, "PCI");
	b->cfg = *cfg;
	pci_func_init(&b->host_bridge, &host_bridge_ids);
	pci_func_init(&b->isa_bridge, &isa_bridge_ids);
	b->isa_bridge.cfg[PCI_HEADER_TYPE] = 0x80; /* other functions may follow */
	if (pci_bus_add(b, &b->host_bridge, PCI_DEVFN(0, 0), err) < 0 ||
	    pci_bus_add(b, &b->isa_bridge, PCI_DEVFN(0x1f, 0), err) < 0 ||
	    iospace_map(cfg->pio, cfg->address_port, 8, &port_io, b, err) < 0 ||
	    iospace_map(cfg->mmio, cfg->ecam_base, ecam_bytes, &ecam_io, b, err) < 0)
		return err_wrap(err, "PCI");
	pthread_mutex_init(&b->lock, NULL);
	*bus = b;
	*out = (struct dev){ &bus_ops, move_ptr(&b) };
	return 0;
}
