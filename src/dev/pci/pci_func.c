#include "dev/pci/pci.h"

#include "base/bits.h"

#include <assert.h>

#define CAPS_START 0x40

void pci_func_init(struct pci_func *f, const struct pci_ids *ids)
{
	memset(f, 0, sizeof(*f));
	store16(f->cfg + PCI_VENDOR_ID, ids->vendor);
	store16(f->cfg + PCI_DEVICE_ID, ids->device);
	f->cfg[PCI_REVISION] = ids->revision;
	f->cfg[PCI_CLASS] = (uint8_t)ids->class_code;
	f->cfg[PCI_CLASS + 1] = (uint8_t)(ids->class_code >> 8);
	f->cfg[PCI_CLASS + 2] = (uint8_t)(ids->class_code >> 16);
	store16(f->cfg + PCI_SUBVENDOR, ids->subvendor);
	store16(f->cfg + PCI_SUBDEVICE, ids->subdevice);
	f->cfg[PCI_IRQ_PIN] = ids->pin;
	store16(f->writable + PCI_COMMAND,
		PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_NO_INTX);
	f->writable[PCI_IRQ_LINE] = 0xff;
	f->writable[0x0c] = 0xff; /* cache line size: no effect in PCI Express, but writable */
	f->next_cap = CAPS_START;
}

void pci_func_bar(struct pci_func *f, unsigned i, const struct pci_bar *bar)
{
	uint8_t *cfg = f->cfg + PCI_BAR0 + 4 * i, *writable = f->writable + PCI_BAR0 + 4 * i;
	uint64_t mask = ~(bar->len - 1);

	f->bar[i] = *bar;
	store32(cfg, bar->io ? 1 : (bar->is64 ? 4u : 0) | (bar->prefetch ? 8u : 0));
	store32(writable, (uint32_t)mask & (bar->io ? ~3u : ~15u));
	if (bar->is64)
		store32(writable + 4, (uint32_t)(mask >> 32));
}

unsigned pci_func_cap(struct pci_func *f, uint8_t id, unsigned len)
{
	unsigned at = f->next_cap;

	/* Devices lay out their capabilities at build time; no guest or user has a say. */
	assert(at + len <= 256);
	f->cfg[at] = id;
	if (f->last_cap)
		f->cfg[f->last_cap + 1] = (uint8_t)at;
	else
		f->cfg[PCI_CAP_POINTER] = (uint8_t)at;
	f->cfg[PCI_STATUS] |= PCI_STATUS_CAPS;
	f->last_cap = (uint8_t)at;
	f->next_cap = (uint8_t)ALIGN_UP(at + len, 4u);
	return at;
}
