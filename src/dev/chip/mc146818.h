/* An MC146818 real-time clock with 128 bytes of CMOS memory, and the century byte that PCs keep at
 * 0x32. Motorola MC146818A datasheet.
 *
 * Calendar time is base_ns, in ns since 1970 UTC, plus guest time. Flags are worked out when asked:
 * call mc146818_run before looking at the pin, and again at the time mc146818_next gives.
 */
#ifndef DEV_CHIP_MC146818_H
#define DEV_CHIP_MC146818_H

#include <stdbool.h>
#include <stdint.h>

#define RTC_CENTURY 0x32

struct mc146818 {
	uint8_t ram[128]; /* registers A, B, C (flags) and D at 0x0a-0x0d; time is not kept here
			   * but while it stands still (SET, or the divider in reset) */
	uint8_t index;
	int64_t base_ns;
	int64_t seen_ns; /* calendar time up to which events were turned into flags */
};

/* wall_ns: the host's time at guest time 0. Clears the CMOS memory. */
void mc146818_init(struct mc146818 *r, int64_t wall_ns);
/* RESET#: interrupts off; the time goes on. */
void mc146818_reset(struct mc146818 *r);

/* addr: 0 to 127. now: guest ns. */
uint8_t mc146818_read(struct mc146818 *r, unsigned addr, int64_t now);
void mc146818_write(struct mc146818 *r, unsigned addr, uint8_t val, int64_t now);

/* Turn what happened until now into flags. */
void mc146818_run(struct mc146818 *r, int64_t now);
/* The IRQ pin, active = true. */
bool mc146818_irq(const struct mc146818 *r);
/* Guest ns at which the pin may next become active on its own; INT64_MAX for never. */
int64_t mc146818_next(const struct mc146818 *r, int64_t now);

#endif
