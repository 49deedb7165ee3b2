#include "dev/chip/ioapic.h"

#define REG_SELECT 0x00
#define REG_WINDOW 0x10
#define REG_EOI	   0x40
#define VERSION	   (0x20u | (IOAPIC_PINS - 1) << 16)

/* Delivery status (12) and remote IRR (14) are the chip's. */
#define REDIR_WRITABLE 0xff0000000001afffull

void ioapic_reset(struct ioapic *io)
{
	*io = (struct ioapic){ .level = io->level };
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		io->redir[i] = IOAPIC_REDIR_MASKED;
}

static uint32_t read_window(const struct ioapic *io)
{
	unsigned reg = io->select;

	if (reg == 0 || reg == 2)
		return io->id;
	if (reg == 1)
		return VERSION;
	if (reg >= 0x10 && reg < 0x10 + 2 * IOAPIC_PINS)
		return (uint32_t)(io->redir[(reg - 0x10) / 2] >> (reg % 2 * 32));
	return 0;
}

static void write_window(struct ioapic *io, uint32_t val)
{
	unsigned reg = io->select;

	if (reg == 0) {
		io->id = val & 0x0f000000;
		return;
	}
	if (reg < 0x10 || reg >= 0x10 + 2 * IOAPIC_PINS)
		return;

	unsigned pin = (reg - 0x10) / 2;
	uint64_t *e = &io->redir[pin];
	uint64_t writable = REDIR_WRITABLE & (0xffffffffull << (reg % 2 * 32));

	*e = (*e & ~writable) | ((uint64_t)val << (reg % 2 * 32) & writable);
	/* Going through edge mode is how software without the EOI register clears remote IRR. */
	if (!(*e & IOAPIC_REDIR_LEVEL))
		*e &= ~IOAPIC_REDIR_REMOTE_IRR;
}

uint32_t ioapic_read(const struct ioapic *io, unsigned off)
{
	switch (off) {
	case REG_SELECT: return io->select;
	case REG_WINDOW: return read_window(io);
	default: return 0;
	}
}

void ioapic_write(struct ioapic *io, unsigned off, uint32_t val)
{
	switch (off) {
	case REG_SELECT: io->select = val & 0xff; break;
	case REG_WINDOW: write_window(io, val); break;
	case REG_EOI: ioapic_eoi(io, (uint8_t)val); break;
	default: break;
	}
}

void ioapic_set_pin(struct ioapic *io, unsigned pin, bool asserted)
{
	uint32_t bit = 1u << pin;

	if (asserted && !(io->level & bit))
		io->edge |= bit;
	io->level = asserted ? io->level | bit : io->level & ~bit;
}

bool ioapic_message(const struct ioapic *io, unsigned pin, struct apic_msg *msg)
{
	uint64_t e = io->redir[pin];

	*msg = (struct apic_msg){
		.dest = (uint32_t)(e >> 56),
		.vector = (uint8_t)e,
		.mode = e >> 8 & 7,
		.logical = e & IOAPIC_REDIR_LOGICAL,
		.level = e & IOAPIC_REDIR_LEVEL,
	};
	return !(e & IOAPIC_REDIR_MASKED);
}

bool ioapic_service(struct ioapic *io, unsigned pin, struct apic_msg *msg)
{
	uint64_t *e = &io->redir[pin];
	uint32_t bit = 1u << pin;
	bool level = *e & IOAPIC_REDIR_LEVEL;
	bool wants = level ? (io->level & bit) && !(*e & IOAPIC_REDIR_REMOTE_IRR) : io->edge & bit;

	/* An edge on a masked pin is not held pending (82093AA "Interrupt Mask"). */
	io->edge &= ~bit;
	if (!wants || (*e & IOAPIC_REDIR_MASKED))
		return false;
	if (level)
		*e |= IOAPIC_REDIR_REMOTE_IRR;
	ioapic_message(io, pin, msg);
	return true;
}

void ioapic_refused(struct ioapic *io, unsigned pin)
{
	io->redir[pin] &= ~IOAPIC_REDIR_REMOTE_IRR;
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		if ((io->redir[i] & IOAPIC_REDIR_LEVEL) && (uint8_t)io->redir[i] == vector)
			io->redir[i] &= ~IOAPIC_REDIR_REMOTE_IRR;
}
