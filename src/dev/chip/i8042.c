#include "dev/chip/i8042.h"

#include "base/bits.h"

#define CONFIG_KBD_IRQ	 0x01
#define CONFIG_AUX_IRQ	 0x02
#define CONFIG_SYSTEM	 0x04
#define CONFIG_KBD_OFF	 0x10
#define CONFIG_AUX_OFF	 0x20
#define CONFIG_TRANSLATE 0x40

#define STATUS_OUT_FULL 0x01
#define STATUS_SYSTEM	0x04
#define STATUS_COMMAND	0x08
#define STATUS_UNLOCKED 0x10
#define STATUS_AUX	0x20

#define OUTPORT_NO_RESET 0x01
#define OUTPORT_A20	 0x02

/* Scan code set 2 to set 1. PS/2 reference, "Keyboard scan codes". 0: no key has it. */
static const uint8_t set1[0x84] = {
	[0x01] = 0x43, [0x03] = 0x3f, [0x04] = 0x3d, [0x05] = 0x3b, [0x06] = 0x3c, [0x07] = 0x58,
	[0x09] = 0x44, [0x0a] = 0x42, [0x0b] = 0x40, [0x0c] = 0x3e, [0x0d] = 0x0f, [0x0e] = 0x29,
	[0x11] = 0x38, [0x12] = 0x2a, [0x14] = 0x1d, [0x15] = 0x10, [0x16] = 0x02, [0x1a] = 0x2c,
	[0x1b] = 0x1f, [0x1c] = 0x1e, [0x1d] = 0x11, [0x1e] = 0x03, [0x21] = 0x2e, [0x22] = 0x2d,
	[0x23] = 0x20, [0x24] = 0x12, [0x25] = 0x05, [0x26] = 0x04, [0x29] = 0x39, [0x2a] = 0x2f,
	[0x2b] = 0x21, [0x2c] = 0x14, [0x2d] = 0x13, [0x2e] = 0x06, [0x31] = 0x31, [0x32] = 0x30,
	[0x33] = 0x23, [0x34] = 0x22, [0x35] = 0x15, [0x36] = 0x07, [0x3a] = 0x32, [0x3b] = 0x24,
	[0x3c] = 0x16, [0x3d] = 0x08, [0x3e] = 0x09, [0x41] = 0x33, [0x42] = 0x25, [0x43] = 0x17,
	[0x44] = 0x18, [0x45] = 0x0b, [0x46] = 0x0a, [0x49] = 0x34, [0x4a] = 0x35, [0x4b] = 0x26,
	[0x4c] = 0x27, [0x4d] = 0x19, [0x4e] = 0x0c, [0x52] = 0x28, [0x54] = 0x1a, [0x55] = 0x0d,
	[0x58] = 0x3a, [0x59] = 0x36, [0x5a] = 0x1c, [0x5b] = 0x1b, [0x5d] = 0x2b, [0x61] = 0x56,
	[0x66] = 0x0e, [0x69] = 0x4f, [0x6b] = 0x4b, [0x6c] = 0x47, [0x70] = 0x52, [0x71] = 0x53,
	[0x72] = 0x50, [0x73] = 0x4c, [0x74] = 0x4d, [0x75] = 0x48, [0x76] = 0x01, [0x77] = 0x45,
	[0x78] = 0x57, [0x79] = 0x4e, [0x7a] = 0x51, [0x7b] = 0x4a, [0x7c] = 0x37, [0x7d] = 0x49,
	[0x7e] = 0x46, [0x83] = 0x41,
};

void i8042_reset(struct i8042 *k)
{
	*k = (struct i8042){
		.config = CONFIG_KBD_IRQ | CONFIG_SYSTEM | CONFIG_TRANSLATE | CONFIG_AUX_OFF,
		.outport = OUTPORT_NO_RESET | OUTPORT_A20,
	};
	ps2_reset(&k->kbd, false);
	ps2_reset(&k->aux, true);
}

static void put(struct i8042 *k, uint8_t val, bool aux)
{
	k->out = val;
	k->out_full = true;
	k->out_is_aux = aux;
}

/* A keyboard's byte on its way to set 1; false if it is only the prefix of a break code. Answers
 * to commands (0xfa, 0xaa, 0xab ...) pass as they are.
 */
static bool translate(struct i8042 *k, uint8_t *val)
{
	if (*val == 0xf0) {
		k->translating_break = true;
		return false;
	}
	if (*val < ARRAY_SIZE(set1) && set1[*val])
		*val = set1[*val];
	if (k->translating_break && *val < 0x80)
		*val |= 0x80;
	k->translating_break = false;
	return true;
}

/* Fill an empty output buffer from the devices, the keyboard first. */
static void refill(struct i8042 *k)
{
	uint8_t val;

	while (!k->out_full && !(k->config & CONFIG_KBD_OFF) && ps2_take(&k->kbd, &val))
		if (!(k->config & CONFIG_TRANSLATE) || translate(k, &val))
			put(k, val, false);
	if (!k->out_full && !(k->config & CONFIG_AUX_OFF) && ps2_take(&k->aux, &val))
		put(k, val, true);
}

bool i8042_irq_kbd(const struct i8042 *k)
{
	return k->out_full && !k->out_is_aux && (k->config & CONFIG_KBD_IRQ);
}

bool i8042_irq_aux(const struct i8042 *k)
{
	return k->out_full && k->out_is_aux && (k->config & CONFIG_AUX_IRQ);
}

uint8_t i8042_read(struct i8042 *k, unsigned reg)
{
	if (reg == 0) {
		k->out_full = false;
		k->last_was_command = false;

		uint8_t val = k->out;

		refill(k);
		return val;
	}
	return (uint8_t)((k->out_full ? STATUS_OUT_FULL : 0) |
			 (k->config & CONFIG_SYSTEM ? STATUS_SYSTEM : 0) |
			 (k->last_was_command ? STATUS_COMMAND : 0) | STATUS_UNLOCKED |
			 (k->out_full && k->out_is_aux ? STATUS_AUX : 0));
}

static void write_outport(struct i8042 *k, uint8_t val)
{
	if (!(val & OUTPORT_NO_RESET))
		k->reset_asked = true;
	k->outport = val;
}

static uint8_t read_ram(const struct i8042 *k, unsigned at)
{
	return at == 0 ? k->config : k->ram[at];
}

static void write_ram(struct i8042 *k, unsigned at, uint8_t val)
{
	if (at == 0)
		k->config = val & 0x7f;
	else
		k->ram[at] = val;
}

static void command(struct i8042 *k, uint8_t val)
{
	k->last_was_command = true;
	k->pending = 0;
	switch (val) {
	case 0x20 ... 0x3f: put(k, read_ram(k, val & 31), false); break;
	case 0x60 ... 0x7f: k->pending = val; break;
	case 0xa7: k->config |= CONFIG_AUX_OFF; break;
	case 0xa8: k->config &= (uint8_t)~CONFIG_AUX_OFF; break;
	case 0xa9: put(k, 0x00, false); break; /* AUX lines are fine */
	case 0xaa:			       /* self-test */
		k->config |= CONFIG_SYSTEM;
		put(k, 0x55, false);
		break;
	case 0xab: put(k, 0x00, false); break; /* keyboard lines are fine */
	case 0xad: k->config |= CONFIG_KBD_OFF; break;
	case 0xae: k->config &= (uint8_t)~CONFIG_KBD_OFF; break;
	case 0xc0: put(k, 0xa4, false); break; /* input port: unlocked, colour display */
	case 0xd0: put(k, k->outport, false); break;
	case 0xd1 ... 0xd4: k->pending = val; break;
	case 0xdd: write_outport(k, k->outport & (uint8_t)~OUTPORT_A20); break;
	case 0xdf: write_outport(k, k->outport | OUTPORT_A20); break;
	case 0xf0 ... 0xff: /* pulse the output lines whose bits are 0 */
		if (!(val & 1))
			k->reset_asked = true;
		break;
	default: break;
	}
}

static void data(struct i8042 *k, uint8_t val)
{
	uint8_t pending = k->pending;

	k->last_was_command = false;
	k->pending = 0;
	switch (pending) {
	case 0x60 ... 0x7f: write_ram(k, pending & 31, val); break;
	case 0xd1: write_outport(k, val); break;
	case 0xd2: put(k, val, false); break;
	case 0xd3: put(k, val, true); break;
	case 0xd4:
		k->config &= (uint8_t)~CONFIG_AUX_OFF;
		ps2_write(&k->aux, val);
		break;
	default:
		k->config &= (uint8_t)~CONFIG_KBD_OFF;
		ps2_write(&k->kbd, val);
		break;
	}
}

void i8042_write(struct i8042 *k, unsigned reg, uint8_t val)
{
	if (reg == 0)
		data(k, val);
	else
		command(k, val);
	refill(k);
}
