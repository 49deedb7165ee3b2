/* MSI-X of one PCI function: the capability, the table of messages and the pending bits, which the
 * function's owner maps into a BAR. PCI Local Bus 3.0, 6.8.2.
 */
#ifndef DEV_PCI_MSIX_H
#define DEV_PCI_MSIX_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct err;
struct pci_func;

#define MSIX_ENTRY_BYTES 16
#define MSIX_MAX_VECTORS 2048

struct msix {
	pthread_mutex_t lock;  /* guards all below; taken before the bus's */
	struct pci_func *func; /* borrowed */
	unsigned cap;	       /* offset of the capability in func->cfg */
	unsigned n;
	bool enabled, masked; /* message control, as last seen */
	uint8_t *table;	      /* n entries as the guest reads them; owned */
	uint64_t *pending;    /* a bit a vector; owned */
};

struct msix_cfg {
	unsigned n;	     /* vectors, 1 to MSIX_MAX_VECTORS */
	unsigned bar;	     /* number */
	uint32_t table, pba; /* offsets in the BAR, multiples of 8 */
};

/* Add the capability to f, before pci_bus_add. -ENOMEM. */
int msix_init(struct msix *m, struct pci_func *f, const struct msix_cfg *cfg, struct err *err);
void msix_fini(struct msix *m);

/* The guest's accesses to the table (off counts from its start; 4 bytes or less) and to the pending
 * bits. Out of range reads as 0. vCPU threads.
 */
uint32_t msix_table_read(struct msix *m, uint32_t off, unsigned size);
void msix_table_write(struct msix *m, uint32_t off, unsigned size, uint32_t val);
uint32_t msix_pba_read(struct msix *m, uint32_t off, unsigned size);

/* Call it when the guest has written [off, off+size) of the function's configuration space. */
void msix_cfg_written(struct msix *m, unsigned off, unsigned size);
/* Whether the guest has chosen MSI-X over the interrupt pin. Any thread. */
bool msix_enabled(struct msix *m);
/* Send vector's message, or leave it pending while it is masked. A vector that is none, or with
 * MSI-X off, sends nothing. Any thread; not with the bus's lock held.
 */
void msix_send(struct msix *m, unsigned vector);
/* As after power-on. */
void msix_reset(struct msix *m);

#endif
