#include "dev/chip/i8254.h"

#define NS 1000000000ll

static int64_t to_ticks(int64_t ns)
{
	return (int64_t)((__int128)ns * I8254_HZ / NS);
}

/* The first ns that is in tick t. */
static int64_t to_ns(int64_t t)
{
	return (int64_t)(((__int128)t * NS + I8254_HZ - 1) / I8254_HZ);
}

static bool is_periodic(const struct i8254_counter *c)
{
	return c->mode == 2 || c->mode == 3;
}

/* Ticks counted since the count began. */
static int64_t elapsed(const struct i8254_counter *c, int64_t t)
{
	bool level_gated = c->mode == 0 || c->mode == 4;

	if (!c->gate && level_gated)
		return c->frozen;
	return t > c->start ? t - c->start : 0;
}

/* Take over a count that was written during a period of modes 2 and 3 once the period has ended. */
static void sync(struct i8254_counter *c, int64_t t)
{
	if (!is_periodic(c) || !c->next_n || !c->gate)
		return;

	/* start was moved to the period in progress when next_n was written. */
	if (t < c->start + c->n)
		return;
	c->start += c->n;
	c->n = c->next_n;
	c->next_n = 0;
	c->null_count = false;
}

static bool is_counting(const struct i8254_counter *c)
{
	switch (c->mode) {
	case 1:
	case 5: return c->loaded && c->triggered;
	case 2:
	case 3: return c->loaded && c->gate;
	default: return c->loaded;
	}
}

static bool out(const struct i8254_counter *c, int64_t t)
{
	if (!is_counting(c))
		return c->mode != 0;

	int64_t d = elapsed(c, t);

	switch (c->mode) {
	case 0:
	case 1: return d >= c->n;
	case 2: return d % c->n != c->n - 1;
	case 3: return d % c->n < (c->n + 1) / 2;
	default: return d != c->n;
	}
}

static uint16_t to_bcd(uint32_t v)
{
	return (uint16_t)(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12);
}

static uint32_t from_bcd(uint32_t v)
{
	return (v & 15) + (v >> 4 & 15) * 10 + (v >> 8 & 15) * 100 + (v >> 12) * 1000;
}

/* The counting element as a read or latch sees it. */
static uint16_t count(const struct i8254_counter *c, int64_t t)
{
	int64_t wrap = c->bcd ? 10000 : 65536;
	int64_t d = is_counting(c) ? elapsed(c, t) : 0;
	int64_t left;

	if (!c->loaded)
		return 0;
	if (c->mode == 2)
		left = c->n - d % c->n;
	else if (c->mode == 3) /* counts by two, twice a period */
		left = (c->n & ~1u) - 2 * d % (c->n & ~1u ? c->n & ~1u : 2);
	else
		left = ((c->n - d) % wrap + wrap) % wrap;
	return c->bcd ? to_bcd((uint32_t)(left % wrap)) : (uint16_t)left;
}

void i8254_reset(struct i8254 *p)
{
	*p = (struct i8254){ 0 };
	for (unsigned i = 0; i < 3; i++)
		p->c[i] = (struct i8254_counter){
			.mode = 3, .access = 3, .gate = i != 2, .n = 65536, .null_count = true
		};
}

static void load(struct i8254_counter *c, uint32_t written, int64_t t)
{
	uint32_t n = c->bcd ? from_bcd(written) : written;

	if (n == 0)
		n = c->bcd ? 10000 : 65536;
	if (is_periodic(c) && c->loaded && c->gate) {
		/* Takes effect when this period has ended. (Mode 3 of the chip looks at the end of
		 * each half; the edge that interrupts comes at the same time.) */
		c->start += elapsed(c, t) / c->n * c->n;
		c->next_n = n;
		return;
	}
	c->n = n;
	c->start = t;
	c->frozen = 0;
	c->loaded = true;
	c->null_count = false;
	/* A running one-shot goes on with the old count on hardware until it is triggered again;
	 * the count is seen only through a trigger, which comes after. */
	if (c->mode == 1 || c->mode == 5)
		c->triggered = false;
}

static void write_count(struct i8254_counter *c, uint8_t val, int64_t t)
{
	switch (c->access) {
	case 1: load(c, val, t); break;
	case 2: load(c, (uint32_t)val << 8, t); break;
	default:
		if (!c->write_high) {
			c->write_low = val;
			/* Mode 0 stops when the first byte is written, and OUT falls. */
			if (c->mode == 0)
				c->loaded = false;
		} else {
			load(c, (uint32_t)val << 8 | c->write_low, t);
		}
		c->write_high = !c->write_high;
		break;
	}
}

static void latch_count(struct i8254_counter *c, int64_t t)
{
	if (c->count_latched)
		return;
	c->latch = count(c, t);
	c->count_latched = true;
}

static void latch_status(struct i8254_counter *c, int64_t t)
{
	if (c->status_latched)
		return;
	c->status = (uint8_t)(out(c, t) << 7 | c->null_count << 6 | c->access << 4 | c->mode << 1 |
			      c->bcd);
	c->status_latched = true;
}

static void write_control(struct i8254 *p, uint8_t val, int64_t t)
{
	unsigned which = val >> 6;

	if (which == 3) { /* read-back; its bits are active low */
		for (unsigned i = 0; i < 3; i++) {
			if (!(val >> (i + 1) & 1))
				continue;
			if (!(val & 0x20))
				latch_count(&p->c[i], t);
			if (!(val & 0x10))
				latch_status(&p->c[i], t);
		}
		return;
	}

	struct i8254_counter *c = &p->c[which];

	if ((val & 0x30) == 0) {
		latch_count(c, t);
		return;
	}
	c->access = val >> 4 & 3;
	c->mode = val >> 1 & 7;
	if (c->mode > 5) /* the third bit does not count there */
		c->mode &= 3;
	c->bcd = val & 1;
	c->loaded = c->triggered = c->write_high = c->read_high = false;
	c->count_latched = c->status_latched = false;
	c->null_count = true;
	c->next_n = 0;
}

void i8254_write(struct i8254 *p, unsigned reg, uint8_t val, int64_t now)
{
	int64_t t = to_ticks(now);

	if (reg == 3) {
		for (unsigned i = 0; i < 3; i++)
			sync(&p->c[i], t);
		write_control(p, val, t);
		return;
	}
	sync(&p->c[reg], t);
	write_count(&p->c[reg], val, t);
}

uint8_t i8254_read(struct i8254 *p, unsigned reg, int64_t now)
{
	int64_t t = to_ticks(now);

	if (reg == 3)
		return 0xff;

	struct i8254_counter *c = &p->c[reg];

	sync(c, t);
	if (c->status_latched) {
		c->status_latched = false;
		return c->status;
	}

	uint16_t v = c->count_latched ? c->latch : count(c, t);
	bool high = c->access == 2 || (c->access == 3 && c->read_high);

	if (c->access == 3)
		c->read_high = !c->read_high;
	if (c->access != 3 || high)
		c->count_latched = false;
	return (uint8_t)(high ? v >> 8 : v);
}

void i8254_set_gate(struct i8254 *p, unsigned i, bool gate, int64_t now)
{
	struct i8254_counter *c = &p->c[i];
	int64_t t = to_ticks(now);

	sync(c, t);
	if (gate == c->gate)
		return;
	if (!gate) {
		c->frozen = elapsed(c, t);
		c->gate = false;
		return;
	}
	c->gate = true;
	switch (c->mode) {
	case 0:
	case 4: c->start = t - c->frozen; break;
	case 1:
	case 5:
		c->start = t;
		c->triggered = c->loaded;
		break;
	default:
		c->start = t;
		if (c->next_n)
			c->n = c->next_n;
		c->next_n = 0;
		break;
	}
}

bool i8254_out(struct i8254 *p, unsigned i, int64_t now)
{
	int64_t t = to_ticks(now);

	sync(&p->c[i], t);
	return out(&p->c[i], t);
}

int64_t i8254_next_rise(struct i8254 *p, unsigned i, int64_t now)
{
	struct i8254_counter *c = &p->c[i];
	int64_t t = to_ticks(now);

	sync(c, t);
	if (!is_counting(c) || (!c->gate && (c->mode == 0 || c->mode == 4)))
		return INT64_MAX;

	int64_t d = elapsed(c, t);
	int64_t rise;

	switch (c->mode) {
	case 0:
	case 1: rise = c->n; break;
	case 2:
	case 3: rise = (d / c->n + 1) * (int64_t)c->n; break;
	default: rise = (int64_t)c->n + 1; break;
	}
	return rise > d ? to_ns(c->start + rise) : INT64_MAX;
}
