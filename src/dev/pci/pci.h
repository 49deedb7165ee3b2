/* A PCI Express root bus: configuration space by ports 0xcf8/0xcfc and by ECAM, functions with
 * BARs. PCI Local Bus 3.0, PCI Express Base "Enhanced Configuration Access Mechanism".
 */
#ifndef DEV_PCI_PCI_H
#define DEV_PCI_PCI_H

#include "dev/dev.h"
#include "mem/iospace.h"
#include "mem/irq_line.h"
#include "mem/msi.h"

#include <stdbool.h>
#include <stdint.h>

struct err;
struct iospace;
struct pci_bus;

#define PCI_CONFIG_BYTES   4096
#define PCI_DEVFN(dev, fn) ((dev) << 3 | (fn))

#define PCI_VENDOR_ID	0x00
#define PCI_DEVICE_ID	0x02
#define PCI_COMMAND	0x04
#define PCI_STATUS	0x06
#define PCI_REVISION	0x08
#define PCI_CLASS	0x09
#define PCI_HEADER_TYPE 0x0e
#define PCI_BAR0	0x10
#define PCI_SUBVENDOR	0x2c
#define PCI_SUBDEVICE	0x2e
#define PCI_CAP_POINTER 0x34
#define PCI_IRQ_LINE	0x3c
#define PCI_IRQ_PIN	0x3d

#define PCI_COMMAND_IO	    0x0001
#define PCI_COMMAND_MEMORY  0x0002
#define PCI_COMMAND_MASTER  0x0004
#define PCI_COMMAND_NO_INTX 0x0400
#define PCI_STATUS_INTX	    0x0008
#define PCI_STATUS_CAPS	    0x0010

/* A region that the guest places. len: a power of two, at least 16 (memory) or 4 (I/O) bytes; 0
 * for none. A 64-bit BAR takes two slots, the second one's len is 0.
 */
struct pci_bar {
	uint64_t len;
	bool io, is64, prefetch;
	const struct io_ops *ops; /* called like any iospace region */
	void *dev;		  /* borrowed */
	struct io_bells bells;	  /* of a memory BAR; base: offset in it */
	uint64_t at;		  /* where it is mapped; guarded by the bus */
	bool mapped;
};

/* One function, embedded in its owner. cfg is what the guest reads; a write changes the bits that
 * writable has, and clears those that w1c has where it writes ones. Both are guarded by the bus
 * once pci_bus_add was called.
 */
struct pci_func {
	uint8_t cfg[PCI_CONFIG_BYTES];
	uint8_t writable[PCI_CONFIG_BYTES];
	uint8_t w1c[PCI_CONFIG_BYTES];
	uint8_t power_on[PCI_CONFIG_BYTES]; /* cfg at pci_bus_add, put back by reset */
	struct pci_bar bar[6];
	uint8_t next_cap; /* where the next capability goes */
	uint8_t last_cap;
	uint8_t devfn;
	struct pci_bus *bus;  /* set by pci_bus_add */
	struct irq_line intx; /* bound by pci_bus_add if cfg names a pin */
	/* Called before the guest reads cfg and after it wrote, on its thread, with no lock held;
	 * may be NULL. By the time others may have written again: look with pci_cfg_get. */
	void (*reading)(void *dev, unsigned off, unsigned size);
	void (*written)(void *dev, unsigned off, unsigned size);
	void *dev; /* for these; borrowed */
};

struct pci_ids {
	uint16_t vendor, device, subvendor, subdevice;
	uint32_t class_code; /* 24 bits: class, subclass, interface */
	uint8_t revision;
	uint8_t pin; /* 0 none, 1 to 4: INTA to INTD */
};

/* Fill f's header (type 0) and forget everything else. */
void pci_func_init(struct pci_func *f, const struct pci_ids *ids);
/* Declare BAR i (0 to 5), before pci_bus_add. */
void pci_func_bar(struct pci_func *f, unsigned i, const struct pci_bar *bar);
/* Append a capability of len bytes (header included) to the list; returns its offset. Its bytes
 * behind the two of the header are 0 and read-only. 192 bytes in all; more is our mistake.
 */
unsigned pci_func_cap(struct pci_func *f, uint8_t id, unsigned len);

struct pci_bus_cfg {
	uint16_t address_port; /* 8 ports: 0xcf8 in a PC; the byte at +1 is reset control */
	uint64_t ecam_base;
	unsigned ecam_buses;	    /* 1 MiB each; only bus 0 has functions */
	struct iospace *pio, *mmio; /* borrowed */
	struct irq_line intx[4];    /* interrupt wires A to D of the root bus */
	struct msi_sink msi;
	void (*reset)(void *arg); /* reset control was written; vCPU's thread, no lock held */
	void *arg;
};

/* Make the bus with its host bridge (00.0) and ISA bridge (1f.0). *bus is for pci_bus_add and lives
 * as long as the device.
 */
int pci_bus_new(struct dev *out, struct pci_bus **bus, const struct pci_bus_cfg *cfg,
		struct err *err);

/* Plug f in at devfn, before the vCPUs start. f is borrowed, until pci_bus_remove or to the bus's
 * end. -EEXIST. */
int pci_bus_add(struct pci_bus *bus, struct pci_func *f, unsigned devfn, struct err *err);
/* Take f out again and unmap its BARs; with the vCPUs stopped. */
void pci_bus_remove(struct pci_func *f);

/* Bytes of f's configuration space as they are now, whatever writable says; size: 1, 2 or 4. They
 * take the bus's lock. */
uint32_t pci_cfg_get(struct pci_func *f, unsigned off, unsigned size);
void pci_cfg_set(struct pci_func *f, unsigned off, unsigned size, uint32_t val);

/* Drive f's INTx pin; the command register may silence it. Not with the bus's lock held. */
void pci_intx(struct pci_func *f, bool level);
/* Send a message-signalled interrupt, if f may master the bus. Takes the bus's lock. */
void pci_msi(struct pci_func *f, uint64_t addr, uint32_t data);
/* The interrupt wire (0 to 3) that a pin (1 to 4) of device number dev is on; the ACPI routing
 * table says the same.
 */
static inline unsigned pci_wire(unsigned dev, unsigned pin)
{
	return (dev + pin - 1) & 3;
}

#endif
