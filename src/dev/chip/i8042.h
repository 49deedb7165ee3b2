/* The PC/AT keyboard controller, an 8042 with its usual program, with a keyboard and a mouse. IBM
 * PS/2 Hardware Interface Technical Reference, "Keyboard/Auxiliary Device Controller".
 */
#ifndef DEV_CHIP_I8042_H
#define DEV_CHIP_I8042_H

#include "dev/chip/ps2.h"

struct i8042 {
	struct ps2 kbd, aux;
	uint8_t config; /* the command byte, RAM 0 */
	uint8_t ram[32];
	uint8_t outport; /* bit 0 RESET# (active low), bit 1 A20 */
	uint8_t pending; /* command whose data byte is due at port 0x60, or 0 */
	uint8_t out;	 /* output buffer */
	bool out_full, out_is_aux;
	bool last_was_command;
	bool translating_break; /* 0xf0 was seen on the way to set 1 */
	bool reset_asked;	/* set when the guest pulls RESET#; the caller clears it */
};

void i8042_reset(struct i8042 *k);

/* reg: 0 data (port 0x60), 1 command and status (port 0x64). */
uint8_t i8042_read(struct i8042 *k, unsigned reg);
void i8042_write(struct i8042 *k, unsigned reg, uint8_t val);

/* Interrupt pins: IRQ 1 and IRQ 12. */
bool i8042_irq_kbd(const struct i8042 *k);
bool i8042_irq_aux(const struct i8042 *k);
/* Is the A20 gate open? */
static inline bool i8042_a20(const struct i8042 *k)
{
	return k->outport & 2;
}

#endif
