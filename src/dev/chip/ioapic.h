/* An I/O APIC with 24 pins. Intel 82093AA datasheet; EOI register as in version 0x20. */
#ifndef DEV_CHIP_IOAPIC_H
#define DEV_CHIP_IOAPIC_H

#include "dev/chip/apic_msg.h"

#define IOAPIC_PINS 24

#define IOAPIC_REDIR_MASKED	(1ull << 16)
#define IOAPIC_REDIR_LEVEL	(1ull << 15)
#define IOAPIC_REDIR_REMOTE_IRR (1ull << 14)
#define IOAPIC_REDIR_LOGICAL	(1ull << 11)

struct ioapic {
	uint64_t redir[IOAPIC_PINS];
	uint32_t level; /* pins that are asserted */
	uint32_t edge;	/* rising edges not yet sent */
	uint32_t select, id;
};

void ioapic_reset(struct ioapic *io);

/* off: byte in the 4 KiB page; only aligned 32-bit accesses decode. After a write ask
 * ioapic_service for every pin.
 */
uint32_t ioapic_read(const struct ioapic *io, unsigned off);
void ioapic_write(struct ioapic *io, unsigned off, uint32_t val);

/* The level of a pin (0 to 23), true for asserted whatever the polarity bit says: boards wire
 * devices so that both agree. Then ask ioapic_service for that pin.
 */
void ioapic_set_pin(struct ioapic *io, unsigned pin, bool asserted);

/* What the pin's entry says it sends; false if it is masked. */
bool ioapic_message(const struct ioapic *io, unsigned pin, struct apic_msg *msg);
/* If the pin has an interrupt to send, fill *msg and mark it sent. The caller delivers it. */
bool ioapic_service(struct ioapic *io, unsigned pin, struct apic_msg *msg);

/* Nobody took the message of a level-triggered pin: it stays pending. */
void ioapic_refused(struct ioapic *io, unsigned pin);

/* A local APIC finished a level-triggered vector. Then ask ioapic_service for every pin. */
void ioapic_eoi(struct ioapic *io, uint8_t vector);

#endif
