/* Where message-signalled interrupts go. */
#ifndef MEM_MSI_H
#define MEM_MSI_H

#include <stdint.h>

/* send is a device's 32-bit store of data to addr in the interrupt controllers' window. Any thread;
 * takes the receiver's lock, as struct irq_line's set does.
 */
struct msi_sink {
	void (*send)(void *to, uint64_t addr, uint32_t data);
	void *to; /* borrowed from the board */
};

#endif
