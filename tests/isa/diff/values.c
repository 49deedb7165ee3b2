#include "values.h"

#include "cpu/x86/regs.h"

#define FCW_INIT   0x37f
#define MXCSR_INIT 0x1f80

/* ---- numbers ---- */

uint64_t value_int(struct gen *g)
{
	static const uint64_t edges[] = { 0,
					  1,
					  0x7f,
					  0x80,
					  0xff,
					  0x7fff,
					  0x8000,
					  0xffff,
					  0x7fffffff,
					  0x80000000,
					  0xffffffff,
					  0x7fffffffffff,
					  0x800000000000,
					  0x7fffffffffffffff,
					  0x8000000000000000,
					  ~0ull };

	switch (gen_below(g, 8)) {
	case 0:
	case 1: return gen_below(g, 40) - 8ull;
	case 2: return edges[gen_below(g, ARRAY_SIZE(edges))];
	case 3: return BIT(gen_below(g, 64)) - gen_below(g, 2);
	case 4: return gen_word(g) >> gen_below(g, 64);
	default: return gen_word(g);
	}
}

static unsigned mapped_page(struct gen *g)
{
	switch (gen_below(g, 16)) {
	case 0: return RO_PAGE;
	case 1: return CODE_PAGE + gen_below(g, N_CODE);
	default: return data_page[gen_below(g, N_DATA)];
	}
}

uint64_t value_pointer(struct gen *g, unsigned size)
{
	uint64_t page = WIN_BASE + mapped_page(g) * WIN_PAGE;

	switch (gen_below(g, 16)) {
	case 0: return WIN_BASE + gen_below(g, WIN_SIZE);
	case 1: return page - gen_below(g, size + 4) - 1;
	case 2:
	case 3: return page + WIN_PAGE - size + gen_below(g, 8) - 4;
	case 4: return page + WIN_PAGE - size;
	case 5:
	case 6: return page + gen_below(g, WIN_PAGE);
	default: return page + (gen_below(g, WIN_PAGE) & ~63u);
	}
}

/* A number of exp_bits and frac_bits: zeros, denormals, infinities, NaNs, or near 1. */
static uint64_t value_float(struct gen *g, unsigned exp_bits, unsigned frac_bits)
{
	uint64_t sign = (uint64_t)gen_below(g, 2) << (exp_bits + frac_bits);
	uint64_t top = BIT(exp_bits) - 1, exp = top / 2, frac;

	frac = gen_word(g) & (BIT(frac_bits) - 1);
	switch (gen_below(g, 12)) {
	case 0: exp = frac = 0; break;
	case 1: exp = 0; break;
	case 2: exp = top, frac = 0; break;
	case 3: exp = top; break;
	case 4: exp = top - 1 - gen_below(g, 2); break;
	case 5: exp = 1 + gen_below(g, 2); break;
	case 6: exp = gen_word(g) & top; break;
	case 7: exp += gen_below(g, frac_bits + 2), frac = 0; break;
	default: exp += gen_below(g, 12) - 6ull;
	}
	return sign | (exp & top) << frac_bits | frac;
}

/* 10 bytes; once in a while a kind that only the 8087 knew. */
static void value_extended(struct gen *g, uint8_t *p)
{
	uint64_t d = value_float(g, 15, 48);
	uint64_t exp = d >> 48, frac = d << 16 >> 1 | (gen_word(g) & 0x7fff);
	bool integer = (exp & 0x7fff) != 0;

	if (gen_one_in(g, 16))
		integer = !integer;
	if (!(d << 16))
		frac = 0;
	store64(p, (uint64_t)integer << 63 | frac);
	store16(p + 8, (uint16_t)exp);
}

/* ---- vectors ---- */

/* n bytes (a multiple of 16) of one kind of number. */
static void fill_vector(struct gen *g, uint8_t *p, unsigned n)
{
	unsigned kind = gen_below(g, 8);
	uint64_t same = value_int(g);

	for (unsigned k = 0; k < n; k += 8) {
		uint64_t v = gen_word(g);

		switch (kind) {
		case 0:
		case 1: v = value_float(g, 8, 23) << 32 | value_float(g, 8, 23); break;
		case 2:
		case 3: v = value_float(g, 11, 52); break;
		case 4: v = value_int(g); break;
		case 5: v = same; break;
		case 6: v = gen_one_in(g, 2) ? 0 : value_int(g) << 32 | (uint32_t)value_int(g);
		}
		store64(p + k, v);
	}
}

static void fill_line(struct gen *g, uint8_t *p)
{
	switch (gen_below(g, 8)) {
	case 0:
		for (unsigned k = 0; k < 64; k += 8)
			store64(p + k, value_pointer(g, 8));
		break;
	case 1:
		for (unsigned k = 0; k < 4; k++)
			value_extended(g, p + k * 16);
		break;
	default: fill_vector(g, p, 64);
	}
}

void values_memory(struct gen *g, struct shared *s)
{
	for (unsigned n = 1; n < N_IMAGES; n++)
		for (unsigned page = 0; page < N_DATA; page++)
			for (unsigned off = 0; off < WIN_PAGE; off += 64)
				fill_line(g, s->image[n][page] + off);
	for (unsigned off = 0; off < WIN_PAGE; off += 64)
		fill_line(g, s->ro_page + off);
}

/* ---- registers ---- */

/* Exception masks at offset shift, mostly all on; the rest of the control word at random. */
static uint32_t random_masks(struct gen *g, unsigned shift)
{
	return (gen_one_in(g, 4) ? gen_below(g, 64) : 63u) << shift;
}

static void random_x87(struct gen *g, uint8_t *fx)
{
	uint16_t fcw = (uint16_t)(0x40 | random_masks(g, 0) | gen_below(g, 16) << 8);
	uint16_t fsw = (uint16_t)(gen_word(g) & 0x7f00);

	memset(fx, 0, 160);
	if (gen_one_in(g, 4)) {
		fcw = FCW_INIT;
		fsw = 0;
	}
	if (gen_one_in(g, 4))
		fsw |= gen_below(g, 128);
	if (fsw & ~fcw & 63)
		fsw |= 0x8080;
	store16(fx, fcw);
	store16(fx + 2, fsw);
	switch (gen_below(g, 4)) {
	case 0: fx[4] = 0; break;
	case 1: fx[4] = 0xff; break;
	default: fx[4] = (uint8_t)gen_word(g);
	}
	for (unsigned n = 0; n < 8; n++) {
		if (gen_one_in(g, 8))
			store64(fx + 32 + n * 16, gen_word(g)), store16(fx + 40 + n * 16, 0xffff);
		else
			value_extended(g, fx + 32 + n * 16);
	}
}

static void random_vectors(struct gen *g, struct state *s, unsigned mode)
{
	for (unsigned n = 0; n < (mode == 8 ? 32 : 8); n++)
		fill_vector(g, s->zmm[n], 64);
	for (unsigned n = 0; n < 8; n++) {
		switch (gen_below(g, 4)) {
		case 0: s->k[n] = ~0ull; break;
		case 1: s->k[n] = value_int(g); break;
		default: s->k[n] = gen_word(g);
		}
	}
	/* Flush-to-zero, rounding, masks, denormals-are-zero, flags. */
	s->mxcsr = MXCSR_INIT;
	if (gen_one_in(g, 2))
		s->mxcsr = gen_below(g, 8) << 13 | random_masks(g, 7) |
			   (gen_one_in(g, 4) ? gen_below(g, 128) : 0);
}

static uint64_t random_flags(struct gen *g)
{
	uint64_t fl = (gen_word(g) & RFLAGS_ARITH) | RFLAGS_FIXED1 | RFLAGS_IF;

	if (gen_one_in(g, 4))
		fl |= RFLAGS_DF;
	if (gen_one_in(g, 24))
		fl |= RFLAGS_AC;
	if (gen_one_in(g, 64))
		fl |= RFLAGS_TF;
	return fl;
}

/* As an offset of the segment. */
static uint64_t pointer_in(struct gen *g, enum seg_kind kind, unsigned size)
{
	return value_pointer(g, size) - seg_rows[kind].base;
}

/* Near an end of the canonical halves, or of the address space. */
static uint64_t value_border(struct gen *g)
{
	static const uint64_t borders[] = { BIT(47), ~0ull << 47, 0 };

	return borders[gen_below(g, ARRAY_SIZE(borders))] + gen_below(g, 96) - 64;
}

static void random_gprs(struct gen *g, struct test *t)
{
	uint64_t *gpr = t->in.gpr;

	for (unsigned n = 0; n < 16; n++) {
		switch (gen_below(g, 8)) {
		case 0:
		case 1:
		case 2: gpr[n] = pointer_in(g, t->ds, 8); break;
		case 3: gpr[n] = gen_below(g, 48); break;
		case 4: gpr[n] = code_start(t) + TEST_CODE + gen_below(g, 16); break;
		default: gpr[n] = value_int(g);
		}
		if (t->mode == 8 && gen_one_in(g, 12))
			gpr[n] = value_border(g);
	}
	if (!gen_one_in(g, 8))
		gpr[REG_RSP] = pointer_in(g, t->ss, 16) & ~(gen_one_in(g, 8) ? 0ull : 7);
	if (!gen_one_in(g, 4))
		gpr[REG_RCX] = gen_below(g, 20);
	if (!gen_one_in(g, 4))
		gpr[REG_RSI] = pointer_in(g, t->ds, 8);
	if (!gen_one_in(g, 4))
		gpr[REG_RDI] = pointer_in(g, t->es, 8);
	if (t->mode == 8)
		return;
	for (unsigned n = 0; n < 16; n++)
		gpr[n] = n < 8 ? (uint32_t)gpr[n] : 0;
}

static enum seg_kind one_of(struct gen *g, const uint8_t *kinds, unsigned n)
{
	return kinds[gen_below(g, n)];
}

static void random_segments(struct gen *g, struct test *t)
{
	static const uint8_t stacks[] = { KIND_FLAT, KIND_DATA16, KIND_DATA32, KIND_LIMITED,
					  KIND_DOWN };
	static const uint8_t datas[] = { KIND_FLAT, KIND_DATA32,   KIND_LIMITED,
					 KIND_DOWN, KIND_READONLY, KIND_NULL };

	if (t->mode == 8) {
		t->cs = KIND_CODE64;
		t->ss = KIND_FLAT;
		t->ds = t->es = KIND_NULL;
		return;
	}
	t->cs = t->mode == 2 ? KIND_BASED16 : KIND_CODE32;
	t->ss = t->ds = t->es = t->mode == 2 ? KIND_DATA16 : KIND_FLAT;
	if (gen_one_in(g, 2))
		return;
	if (t->mode == 4 && gen_one_in(g, 2))
		t->cs = KIND_BASED32;
	t->ss = one_of(g, stacks, ARRAY_SIZE(stacks));
	t->ds = one_of(g, datas, ARRAY_SIZE(datas));
	t->es = one_of(g, datas, ARRAY_SIZE(datas));
}

void values_state(struct gen *g, struct test *t)
{
	random_segments(g, t);
	t->image = (uint8_t)gen_below(g, N_IMAGES);
	t->in.rip = code_start(t);
	t->in.rflags = random_flags(g);
	random_gprs(g, t);
	random_x87(g, t->in.fx);
	random_vectors(g, &t->in, t->mode);
	t->in.fs_base = WIN_BASE + 0x4000 + (gen_below(g, 0x1000) & ~15u);
	t->in.gs_base = WIN_BASE + 0x3ff0 - gen_below(g, 0x1000);
}
