/* A pair of 8259A interrupt controllers, cascaded as in a PC/AT. Intel 8259A datasheet; edge/level
 * control registers (0x4d0, 0x4d1) as in the 82371.
 */
#ifndef DEV_CHIP_I8259_H
#define DEV_CHIP_I8259_H

#include <stdbool.h>
#include <stdint.h>

struct i8259 {
	uint8_t irr, imr, isr;
	uint8_t lines;	   /* level of the inputs */
	uint8_t elcr;	   /* inputs that are level-triggered */
	uint8_t base;	   /* vector of input 0 */
	uint8_t lowest;	   /* input of lowest priority; 7 unless rotated */
	uint8_t init_step; /* next initialisation word (2, 3, 4), 0 when done */
	bool needs_icw4, single;
	bool read_isr, poll, special_mask, auto_eoi, rotate_on_aeoi, special_nested;
	bool level_mode; /* ICW1 LTIM */
};

struct i8259_pair {
	struct i8259 chip[2]; /* master, slave on its input 2 */
};

/* Power-on. Lines keep their level, as the devices drive them. */
void i8259_reset(struct i8259_pair *p);

/* which: 0 master, 1 slave. a0: the address pin (port 0x20/0xa0 or 0x21/0xa1). */
uint8_t i8259_read(struct i8259_pair *p, unsigned which, unsigned a0);
void i8259_write(struct i8259_pair *p, unsigned which, unsigned a0, uint8_t val);
uint8_t i8259_read_elcr(const struct i8259_pair *p, unsigned which);
void i8259_write_elcr(struct i8259_pair *p, unsigned which, uint8_t val);

/* irq: 0 to 15 but 2. */
void i8259_set_irq(struct i8259_pair *p, unsigned irq, bool level);

/* The INTR pin. */
bool i8259_intr(const struct i8259_pair *p);
/* The processor's acknowledge: returns the vector (input 7's if the request has gone: spurious). */
uint8_t i8259_ack(struct i8259_pair *p);

#endif
