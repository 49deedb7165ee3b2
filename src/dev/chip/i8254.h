/* An 8254 interval timer: three counters at 1.193182 MHz. Intel 8254 datasheet.
 *
 * Nothing ticks: a counter remembers when it was loaded, and what it shows is worked out from the
 * guest time (ns) that each call is given, which must not go back.
 */
#ifndef DEV_CHIP_I8254_H
#define DEV_CHIP_I8254_H

#include <stdbool.h>
#include <stdint.h>

#define I8254_HZ 1193182

struct i8254_counter {
	uint8_t mode;	/* 0 to 5 */
	uint8_t access; /* 1 low byte, 2 high byte, 3 low then high */
	bool bcd;
	bool gate;
	bool loaded;	   /* a count was written since the mode */
	bool triggered;	   /* modes 1, 5: the gate rose since the count was written */
	bool null_count;   /* no whole count since the control word */
	uint32_t n;	   /* count in effect, 1 to 65536 (or 10000) */
	uint32_t next_n;   /* modes 2, 3: count that the next period takes, 0 for none */
	int64_t start;	   /* tick at which n began */
	int64_t frozen;	   /* ticks done when the gate fell; valid while the gate is low */
	uint8_t write_low; /* first half of a two-byte count */
	bool write_high;   /* the second half is due */
	bool read_high;
	bool count_latched, status_latched;
	uint16_t latch;
	uint8_t status;
};

struct i8254 {
	struct i8254_counter c[3];
};

/* Power-on: all counters idle; gates of 0 and 1 are tied high, that of 2 is low. */
void i8254_reset(struct i8254 *p);

/* reg: 0 to 2 the counters, 3 the control word (reads as ones). */
uint8_t i8254_read(struct i8254 *p, unsigned reg, int64_t now);
void i8254_write(struct i8254 *p, unsigned reg, uint8_t val, int64_t now);

/* The GATE pin of counter i. */
void i8254_set_gate(struct i8254 *p, unsigned i, bool gate, int64_t now);
/* The OUT pin of counter i. */
bool i8254_out(struct i8254 *p, unsigned i, int64_t now);

/* Guest ns at which OUT of counter i next rises after now; INT64_MAX for never. */
int64_t i8254_next_rise(struct i8254 *p, unsigned i, int64_t now);

#endif
