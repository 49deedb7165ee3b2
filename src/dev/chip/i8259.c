#include "dev/chip/i8259.h"

#define CASCADE 2

/* Inputs whose trigger mode software cannot set: 0, 1, 2 and 8, 13. */
static const uint8_t elcr_writable[2] = { 0xf8, 0xde };

/* How far an input is from the top priority, 0 to 7; 8 for none set. */
static unsigned best(const struct i8259 *c, uint8_t set)
{
	for (unsigned i = 0; i < 8; i++)
		if (set >> ((c->lowest + 1 + i) & 7) & 1)
			return i;
	return 8;
}

static unsigned input_at(const struct i8259 *c, unsigned priority)
{
	return (c->lowest + 1 + priority) & 7;
}

/* The input that requests service now, or -1. master: fully nested mode is special for it. */
static int requesting(const struct i8259 *c, bool master)
{
	unsigned asks = best(c, c->irr & (uint8_t)~c->imr);
	uint8_t in_service = c->isr;

	if (asks == 8)
		return -1;
	/* In special mask mode a masked input's service does not block others. */
	if (c->special_mask)
		in_service &= (uint8_t)~c->imr;
	/* The slave may ask again while the master still serves it. */
	if (master && c->special_nested)
		in_service &= (uint8_t) ~(1u << CASCADE);
	if (asks >= best(c, in_service))
		return -1;
	return (int)input_at(c, asks);
}

static bool is_level(const struct i8259 *c, unsigned in)
{
	return c->level_mode || (c->elcr >> in & 1);
}

static void set_input(struct i8259 *c, unsigned in, bool level)
{
	uint8_t bit = (uint8_t)(1u << in);
	bool was = c->lines & bit;

	c->lines = (uint8_t)(level ? c->lines | bit : c->lines & ~bit);
	if (!level)
		c->irr &= (uint8_t)~bit;
	else if (!was || is_level(c, in))
		c->irr |= bit;
}

/* The slave's INT pin is the master's input 2. */
static void cascade(struct i8259_pair *p)
{
	set_input(&p->chip[0], CASCADE, requesting(&p->chip[1], false) >= 0);
}

void i8259_reset(struct i8259_pair *p)
{
	for (unsigned i = 0; i < 2; i++) {
		uint8_t lines = p->chip[i].lines;

		p->chip[i] = (struct i8259){ .lines = lines, .lowest = 7 };
	}
	cascade(p);
}

void i8259_set_irq(struct i8259_pair *p, unsigned irq, bool level)
{
	set_input(&p->chip[irq / 8], irq % 8, level);
	cascade(p);
}

bool i8259_intr(const struct i8259_pair *p)
{
	return requesting(&p->chip[0], true) >= 0;
}

/* Move input in from requested to in service. */
static void acknowledge(struct i8259 *c, unsigned in)
{
	uint8_t bit = (uint8_t)(1u << in);

	if (!is_level(c, in))
		c->irr &= (uint8_t)~bit;
	if (!c->auto_eoi)
		c->isr |= bit;
	else if (c->rotate_on_aeoi)
		c->lowest = (uint8_t)in;
}

/* Acknowledge on one chip; returns the input, 7 with nothing in service when spurious. */
static unsigned chip_ack(struct i8259 *c, bool master)
{
	int in = requesting(c, master);

	if (in < 0)
		return 7;
	acknowledge(c, (unsigned)in);
	return (unsigned)in;
}

uint8_t i8259_ack(struct i8259_pair *p)
{
	int in = requesting(&p->chip[0], true);
	uint8_t vector;

	if (in == CASCADE) {
		acknowledge(&p->chip[0], CASCADE);
		vector = (uint8_t)(p->chip[1].base + chip_ack(&p->chip[1], false));
		/* The cascade line fell with the acknowledge and may rise again for the next. */
		set_input(&p->chip[0], CASCADE, false);
	} else {
		vector = (uint8_t)(p->chip[0].base + chip_ack(&p->chip[0], true));
	}
	cascade(p);
	return vector;
}

static void write_icw1(struct i8259 *c, uint8_t val)
{
	c->imr = c->isr = 0;
	c->lowest = 7;
	c->special_mask = c->read_isr = c->poll = false;
	c->auto_eoi = c->rotate_on_aeoi = c->special_nested = false;
	c->needs_icw4 = val & 1;
	c->single = val & 2;
	c->level_mode = val & 8;
	c->init_step = 2;
	/* The edge sense is cleared: an input must fall before it can ask again. */
	c->irr = 0;
	for (unsigned i = 0; i < 8; i++)
		if (is_level(c, i) && (c->lines >> i & 1))
			c->irr |= (uint8_t)(1u << i);
}

static void end_of_interrupt(struct i8259 *c, int in, bool rotate)
{
	if (in < 0) {
		uint8_t isr = c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr;
		unsigned priority = best(c, isr);

		if (priority == 8)
			return;
		in = (int)input_at(c, priority);
	}
	c->isr &= (uint8_t) ~(1u << in);
	if (rotate)
		c->lowest = (uint8_t)in;
}

static void write_ocw2(struct i8259 *c, uint8_t val)
{
	unsigned in = val & 7;

	switch (val >> 5) {
	case 0: c->rotate_on_aeoi = false; break;
	case 1: end_of_interrupt(c, -1, false); break;
	case 3: end_of_interrupt(c, (int)in, false); break;
	case 4: c->rotate_on_aeoi = true; break;
	case 5: end_of_interrupt(c, -1, true); break;
	case 6: c->lowest = (uint8_t)in; break;
	case 7: end_of_interrupt(c, (int)in, true); break;
	default: break; /* 2: no operation */
	}
}

static void write_ocw3(struct i8259 *c, uint8_t val)
{
	if (val & 0x40)
		c->special_mask = val & 0x20;
	if (val & 0x04)
		c->poll = true;
	else if (val & 0x02)
		c->read_isr = val & 0x01;
}

static void write_a1(struct i8259 *c, uint8_t val)
{
	switch (c->init_step) {
	case 2:
		c->base = val & 0xf8;
		c->init_step = c->single ? (c->needs_icw4 ? 4 : 0) : 3;
		break;
	case 3: c->init_step = c->needs_icw4 ? 4 : 0; break;
	case 4:
		c->special_nested = val & 0x10;
		c->auto_eoi = val & 0x02;
		c->init_step = 0;
		break;
	default: c->imr = val; break;
	}
}

void i8259_write(struct i8259_pair *p, unsigned which, unsigned a0, uint8_t val)
{
	struct i8259 *c = &p->chip[which];

	if (a0)
		write_a1(c, val);
	else if (val & 0x10)
		write_icw1(c, val);
	else if (val & 0x08)
		write_ocw3(c, val);
	else
		write_ocw2(c, val);
	cascade(p);
}

uint8_t i8259_read(struct i8259_pair *p, unsigned which, unsigned a0)
{
	struct i8259 *c = &p->chip[which];

	if (c->poll) {
		int in = requesting(c, which == 0);

		c->poll = false;
		if (in < 0)
			return 0;
		acknowledge(c, (unsigned)in);
		cascade(p);
		return (uint8_t)(0x80 | in);
	}
	if (a0)
		return c->imr;
	return c->read_isr ? c->isr : c->irr;
}

uint8_t i8259_read_elcr(const struct i8259_pair *p, unsigned which)
{
	return p->chip[which].elcr;
}

void i8259_write_elcr(struct i8259_pair *p, unsigned which, uint8_t val)
{
	p->chip[which].elcr = val & elcr_writable[which];
}
