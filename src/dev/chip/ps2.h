/* What hangs on an i8042: a PS/2 keyboard and a PS/2 mouse, as far as commands go. IBM PS/2
 * Hardware Interface Technical Reference, "Keyboard" and "Mouse".
 */
#ifndef DEV_CHIP_PS2_H
#define DEV_CHIP_PS2_H

#include <stdbool.h>
#include <stdint.h>

#define PS2_QUEUE 32

struct ps2 {
	bool is_mouse;
	bool scanning;	 /* keyboard: scanning; mouse: data reporting */
	uint8_t expects; /* command whose argument is due, or 0 */
	uint8_t set;	 /* keyboard: scan code set, 1 to 3 */
	uint8_t leds, typematic, rate, resolution, status;
	uint8_t last; /* for "resend" */
	uint8_t queue[PS2_QUEUE];
	uint8_t head, n;
};

/* Power-on, without the self-test's answer. */
void ps2_reset(struct ps2 *p, bool is_mouse);
/* A byte from the controller. */
void ps2_write(struct ps2 *p, uint8_t val);
/* Take the next byte for the controller; false if there is none. */
bool ps2_take(struct ps2 *p, uint8_t *val);
/* A key's scan codes (set 2) or a mouse packet: dropped whole unless scanning and there is room. */
void ps2_send(struct ps2 *p, const uint8_t *bytes, unsigned n);

#endif
