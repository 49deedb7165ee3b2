#include "dev/chip/ps2.h"

#define ACK    0xfa
#define RESEND 0xfe
#define BAT_OK 0xaa

static void put(struct ps2 *p, uint8_t val)
{
	if (p->n < PS2_QUEUE)
		p->queue[(p->head + p->n++) % PS2_QUEUE] = val;
}

static void set_defaults(struct ps2 *p)
{
	p->set = 2;
	p->typematic = 0x2b;
	p->rate = 100;
	p->resolution = 2;
	p->status = 0;
}

void ps2_reset(struct ps2 *p, bool is_mouse)
{
	*p = (struct ps2){ .is_mouse = is_mouse, .scanning = !is_mouse };
	set_defaults(p);
}

bool ps2_take(struct ps2 *p, uint8_t *val)
{
	if (!p->n)
		return false;
	*val = p->last = p->queue[p->head];
	p->head = (uint8_t)((p->head + 1) % PS2_QUEUE);
	p->n--;
	return true;
}

void ps2_send(struct ps2 *p, const uint8_t *bytes, unsigned n)
{
	if (!p->scanning || p->n + n > PS2_QUEUE / 2) /* the rest is for answers */
		return;
	for (unsigned i = 0; i < n; i++)
		put(p, bytes[i]);
}

static void keyboard_argument(struct ps2 *p, uint8_t command, uint8_t val)
{
	put(p, ACK);
	switch (command) {
	case 0xed: p->leds = val & 7; break;
	case 0xf0:
		if (val == 0)
			put(p, p->set);
		else if (val <= 3)
			p->set = val;
		break;
	case 0xf3: p->typematic = val & 0x7f; break;
	default: break;
	}
}

static void keyboard_command(struct ps2 *p, uint8_t val)
{
	switch (val) {
	case 0xed: /* LEDs */
	case 0xf0: /* scan code set */
	case 0xf3: /* typematic rate */
		p->expects = val;
		put(p, ACK);
		break;
	case 0xee: put(p, 0xee); break; /* echo */
	case 0xf2:
		put(p, ACK);
		put(p, 0xab);
		put(p, 0x83);
		break;
	case 0xf4:
		p->scanning = true;
		put(p, ACK);
		break;
	case 0xf5:
		p->scanning = false;
		set_defaults(p);
		put(p, ACK);
		break;
	case 0xf6:
		p->scanning = true;
		set_defaults(p);
		put(p, ACK);
		break;
	case 0xf7 ... 0xfd: put(p, ACK); break; /* set 3 key types */
	case 0xfe: put(p, p->last); break;
	case 0xff:
		ps2_reset(p, false);
		put(p, ACK);
		put(p, BAT_OK);
		break;
	default: put(p, RESEND); break;
	}
}

static void mouse_argument(struct ps2 *p, uint8_t command, uint8_t val)
{
	put(p, ACK);
	if (command == 0xf3)
		p->rate = val;
	else
		p->resolution = val & 3;
}

static void mouse_command(struct ps2 *p, uint8_t val)
{
	switch (val) {
	case 0xe6: /* scaling 1:1 */
	case 0xe7: /* scaling 2:1 */
		p->status = (uint8_t)((p->status & ~0x10) | (val & 1) << 4);
		put(p, ACK);
		break;
	case 0xe8: /* resolution */
	case 0xf3: /* rate */
		p->expects = val;
		put(p, ACK);
		break;
	case 0xe9:
		put(p, ACK);
		put(p, (uint8_t)(p->status | p->scanning << 5));
		put(p, p->resolution);
		put(p, p->rate);
		break;
	case 0xea: /* stream mode */
	case 0xec: /* wrap mode off */
	case 0xf0: /* remote mode */ put(p, ACK); break;
	case 0xeb: /* read data: nothing moved */
		put(p, ACK);
		put(p, 0x08);
		put(p, 0);
		put(p, 0);
		break;
	case 0xf2:
		put(p, ACK);
		put(p, 0x00);
		break;
	case 0xf4:
		p->scanning = true;
		put(p, ACK);
		break;
	case 0xf5:
		p->scanning = false;
		put(p, ACK);
		break;
	case 0xf6:
		p->scanning = false;
		set_defaults(p);
		put(p, ACK);
		break;
	case 0xfe: put(p, p->last); break;
	case 0xff:
		ps2_reset(p, true);
		put(p, ACK);
		put(p, BAT_OK);
		put(p, 0x00);
		break;
	default: put(p, RESEND); break;
	}
}

void ps2_write(struct ps2 *p, uint8_t val)
{
	uint8_t command = p->expects;

	/* A new command drops an answer that was not fetched. */
	if (val != 0xfe)
		p->n = 0;
	p->expects = 0;
	/* The keyboard takes a command byte in place of an argument as a new command. */
	if (command && !p->is_mouse && val < 0xed)
		keyboard_argument(p, command, val);
	else if (command && p->is_mouse)
		mouse_argument(p, command, val);
	else if (p->is_mouse)
		mouse_command(p, val);
	else
		keyboard_command(p, val);
}
