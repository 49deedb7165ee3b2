/* Encodings are not made from descriptions. All of them, up to registers and displacements, are
 * decoded once, and a few examples of each row of the table are kept. A test's instruction is an
 * example with its registers, masks, immediates and address changed at random, as long as it still
 * decodes to the same row. Addresses are then aimed at the window.
 */
#include "generate.h"

#include <stdlib.h>

#include "cpu/x86/decode.h"
#include "cpu/x86/decode_tables.h"
#include "cpu/x86/features.h"
#include "cpu/x86/insn.h"
#include "values.h"

#define N_EXAMPLES 16
#define N_TRIES	   24

struct example {
	uint8_t b[INSN_MAX_LEN + 1];
	uint8_t lead; /* legacy prefixes */
};

struct generator {
	unsigned mode;
	const char *only;
	bool smc;
	struct gen random; /* while the examples are gathered */
	bool host[N_CPU_FEATURES];
	unsigned n_rows;
	uint16_t rows[N_INSN];
	uint32_t seen[N_INSN];
	struct example example[N_INSN][N_EXAMPLES];
};

/* ---- what is left out: docs/quirks.md says why ---- */

static const uint16_t left_out[] = { OP_SYSCALL, OP_SYSENTER, OP_SYSRET,   OP_SYSEXIT,	OP_RDTSC,
				     OP_RDTSCP,	 OP_RDPMC,    OP_RDRAND,   OP_RDSEED,	OP_RDPID,
				     OP_CPUID,	 OP_XGETBV,   OP_JMP_FAR,  OP_CALL_FAR, OP_RET_FAR,
				     OP_IRET,	 OP_LDS,      OP_LES,	   OP_LSS,	OP_LFS,
				     OP_LGS,	 OP_MOV_SREG, OP_POP_SREG, OP_LAR,	OP_LSL,
				     OP_VERR,	 OP_VERW,     OP_SGDT,	   OP_SIDT,	OP_SLDT,
				     OP_STR,	 OP_SMSW,     OP_XBEGIN,   OP_XEND,	OP_XABORT,
				     OP_XTEST,	 OP_VMCALL,   OP_VMMCALL,  OP_MONITOR,	OP_MWAIT,
				     OP_XSAVE,	 OP_XSAVEOPT, OP_XSAVEC,   OP_XRSTOR };

/* Nothing but #GP or #UD comes of these in user mode. */
static const uint16_t only_faults[] = {
	OP_CLI,	      OP_STI,	      OP_CLAC,	    OP_STAC,   OP_HLT,	  OP_IN,
	OP_OUT,	      OP_INS,	      OP_OUTS,	    OP_RDMSR,  OP_WRMSR,  OP_MOV_FROM_CR,
	OP_MOV_TO_CR, OP_MOV_FROM_DR, OP_MOV_TO_DR, OP_CLTS,   OP_LMSW,	  OP_LGDT,
	OP_LIDT,      OP_LLDT,	      OP_LTR,	    OP_INVD,   OP_WBINVD, OP_INVLPG,
	OP_INVPCID,   OP_SWAPGS,      OP_RSM,	    OP_XSETBV, OP_XSAVES, OP_XRSTORS,
	OP_UD,	      OP_INT,	      OP_INT1,	    OP_INT3
};

static bool is_among(unsigned op, const uint16_t *ops, size_t n)
{
	for (size_t k = 0; k < n; k++)
		if (ops[k] == op)
			return true;
	return false;
}

static bool is_left_out(const struct insn *i)
{
	if (i->op == OP_POP && i->opd[0].kind == OPD_SREG)
		return true;
	return is_among(i->op, left_out, ARRAY_SIZE(left_out));
}

static bool is_only_faults(const struct insn *i)
{
	return is_among(i->op, only_faults, ARRAY_SIZE(only_faults));
}

static bool wanted(const struct generator *g, const struct insn *i)
{
	const struct insn_desc *row = &insn_table[i->id];

	if (is_left_out(i) || (g->only && strcmp(g->only, row->text)))
		return false;
	return g->host[row->feature];
}

/* ---- gathering examples ---- */

static void offer(struct generator *g, const uint8_t *b, unsigned lead)
{
	struct insn i;
	uint32_t n;

	if (decode(b, INSN_MAX_LEN, g->mode, &i) != DECODE_OK || !wanted(g, &i))
		return;
	n = g->seen[i.id]++;
	if (n == 0)
		g->rows[g->n_rows++] = i.id;
	/* Each that was offered is kept with the same probability. */
	if (n >= N_EXAMPLES)
		n = gen_below(&g->random, g->seen[i.id]);
	if (n < N_EXAMPLES) {
		memcpy(g->example[i.id][n].b, b, INSN_MAX_LEN);
		g->example[i.id][n].lead = (uint8_t)lead;
	}
}

/* All ModRM bytes with a register, and those with an address [base] of every number. */
static void offer_modrms(struct generator *g, uint8_t *b, unsigned at, unsigned lead)
{
	for (unsigned m = 0; m < 128; m++) {
		b[at] = (uint8_t)(m < 64 ? m : 0xc0 | (m & 63));
		offer(g, b, lead);
	}
}

static void gather_legacy(struct generator *g)
{
	static const uint8_t prefixes[][2] = { { 0 },	 { 0x66 }, { 0xf3 },
					       { 0xf2 }, { 0x67 }, { 0x66, 0xf2 } };
	static const uint8_t escapes[4][2] = { { 0 }, { 0x0f }, { 0x0f, 0x38 }, { 0x0f, 0x3a } };

	for (unsigned v = 0; v < ARRAY_SIZE(prefixes) * 4 * 2; v++) {
		const uint8_t *p = prefixes[v % ARRAY_SIZE(prefixes)];
		const uint8_t *e = escapes[v / ARRAY_SIZE(prefixes) % 4];
		bool rex = v / ARRAY_SIZE(prefixes) / 4;
		uint8_t b[INSN_MAX_LEN + 1] = { 0 };
		unsigned n = 0, lead;

		if (rex && g->mode != 8)
			continue;
		while (n < 2 && p[n])
			b[n] = p[n], n++;
		lead = n;
		if (rex)
			b[n++] = 0x48;
		for (unsigned k = 0; k < 2 && e[k]; k++)
			b[n++] = e[k];
		for (unsigned op = 0; op < 256; op++) {
			b[n] = (uint8_t)op;
			offer_modrms(g, b, n + 1, lead);
		}
	}
}

static void gather_vex(struct generator *g)
{
	/* Map, W, L, pp. */
	for (unsigned v = 0; v < 3 * 2 * 8; v++) {
		uint8_t b[INSN_MAX_LEN + 1] = { 0xc4, (uint8_t)(0xe1 + v / 16),
						(uint8_t)((v & 8) << 4 | 0x78 | (v & 7)) };

		for (unsigned op = 0; op < 256; op++) {
			b[3] = (uint8_t)op;
			b[5] = 0x20;
			offer_modrms(g, b, 4, 0);
		}
	}
}

static void gather_evex(struct generator *g)
{
	/* Map, W, pp, L'L, b; half of them with a mask, which gathers need. */
	for (unsigned v = 0; v < 3 * 2 * 4 * 4 * 2 * 2; v++) {
		unsigned map = v % 3, w = v / 3 & 1, pp = v / 6 & 3, l = v / 24 & 3;
		unsigned b_bit = v / 96 & 1, mask = v / 192;
		uint8_t b[INSN_MAX_LEN + 1] = { 0x62, (uint8_t)(0xf1 + map),
						(uint8_t)(w << 7 | 0x7c | pp),
						(uint8_t)(l << 5 | b_bit << 4 | 8 | mask) };

		for (unsigned op = 0; op < 256; op++) {
			b[4] = (uint8_t)op;
			b[6] = 0x20;
			offer_modrms(g, b, 5, 0);
		}
	}
}

struct generator *generator_new(unsigned mode, const char *only, bool smc)
{
	struct generator *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	g->mode = mode;
	g->only = only;
	g->smc = smc;
	g->host[FEAT_NONE] = true;
	/* Asked once: CPUID is slow in a virtual machine. */
	for (unsigned f = FEAT_NONE + 1; f < N_CPU_FEATURES; f++)
		g->host[f] = host_has((enum cpu_feature)f);
	gather_legacy(g);
	gather_vex(g);
	gather_evex(g);
	if (g->n_rows)
		return g;
	generator_free(g);
	return NULL;
}

void generator_free(struct generator *g)
{
	free(g);
}

unsigned generator_rows(const struct generator *g)
{
	return g->n_rows;
}

/* ---- changing an example ---- */

struct writer {
	struct gen *g;
	unsigned mode;
	const struct insn *i; /* the example, decoded */
	uint8_t *b;
	unsigned n;
	bool a67;
};

static void put(struct writer *w, unsigned byte)
{
	w->b[w->n++] = (uint8_t)byte;
}

static bool is_string(const struct insn *i)
{
	return i->op >= OP_MOVS && i->op <= OP_OUTS;
}

static void put_prefixes(struct writer *w, const struct example *e)
{
	static const uint8_t segs[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65 };
	struct gen *g = w->g;

	for (unsigned k = 0; k < e->lead; k++) {
		put(w, e->b[k]);
		w->a67 |= e->b[k] == 0x67;
	}
	if (gen_one_in(g, 12)) {
		put(w, 0x67);
		w->a67 = true;
	}
	if (gen_one_in(g, 16))
		put(w, segs[gen_below(g, sizeof(segs))]);
	if (w->i->enc != ENC_LEGACY)
		return;
	if (gen_one_in(g, 8))
		put(w, 0x66);
	if (w->i->has_mem && insn_table[w->i->id].attr & INSN_LOCKABLE && gen_one_in(g, 3))
		put(w, 0xf0);
	if (is_string(w->i) && gen_one_in(g, 2))
		put(w, gen_one_in(g, 2) ? 0xf3 : 0xf2);
}

/* From the REX, VEX or EVEX prefix to the opcode. */
static void put_opcode(struct writer *w, const uint8_t *e)
{
	struct gen *g = w->g;
	const struct insn *i = w->i;
	bool wide = w->mode == 8;

	if (i->enc == ENC_LEGACY) {
		unsigned escapes = i->map == 0 ? 0 : i->map == 1 ? 1 : 2;
		unsigned rex = (i->rex & 8) | (gen_one_in(g, 2) ? 0 : gen_below(g, 8));

		if (wide && (rex || gen_one_in(g, 8)))
			put(w, 0x40 | rex);
		for (unsigned k = i->opcode_at - escapes; k < i->opcode_at; k++)
			put(w, i->bytes[k]);
	} else if (i->enc == ENC_VEX) {
		unsigned b1 = e[1] ^ (wide ? gen_word(g) & 0xe0 : 0);
		unsigned b2 = gen_one_in(g, 4) ? e[2] : e[2] ^ (gen_word(g) & 0x78);

		if ((b1 & 0x7f) == 0x61 && !(b2 & 0x80) && gen_one_in(g, 2)) {
			put(w, 0xc5);
			put(w, (b1 & 0x80) | b2);
		} else {
			put(w, 0xc4);
			put(w, b1);
			put(w, b2);
		}
	} else {
		put(w, 0x62);
		put(w, e[1] ^ (wide ? gen_word(g) & 0xf0 : 0));
		put(w, gen_one_in(g, 4) ? e[2] : e[2] ^ (gen_word(g) & 0x78));
		put(w, (e[3] & 0x70) | (gen_one_in(g, 4) ? 0x80 : 0) |
			       (wide && gen_one_in(g, 2) ? 0 : 8) |
			       (gen_one_in(g, 4) ? e[3] & 7 : gen_below(g, 8)));
	}
	put(w, i->opcode);
}

static void put_modrm(struct writer *w)
{
	struct gen *g = w->g;
	const struct insn *i = w->i;
	unsigned mod, reg = i->modrm >> 3 & 7, rm = i->modrm & 7;
	bool vsib = i->op == OP_GATHER || i->op == OP_SCATTER;

	if (!i->modrm_at)
		return;
	if (!gen_one_in(g, 4))
		reg = gen_below(g, 8);
	if (!gen_one_in(g, 4) && !vsib)
		rm = gen_below(g, 8);
	if (i->modrm >= 0xc0)
		mod = 3;
	else
		mod = gen_below(g, 6) < 4 ? 2 : gen_below(g, 2);
	put(w, mod << 6 | reg << 3 | rm);
}

/* An example with everything random that may be; false if it is no longer the same row. The bytes
 * behind ModRM are random, so that the decoder tells how many there are. */
static bool vary(struct gen *g, const struct insn *i, const struct example *e, uint8_t *b,
		 struct insn *out)
{
	struct writer w = { .g = g, .mode = i->mode, .i = i, .b = b };

	put_prefixes(&w, e);
	put_opcode(&w, e->b);
	put_modrm(&w);
	while (w.n < INSN_MAX_LEN)
		put(&w, gen_word(g));
	return decode(b, INSN_MAX_LEN, i->mode, out) == DECODE_OK && out->id == i->id;
}

/* ---- aiming ---- */

static uint64_t seg_base(const struct test *t, const struct insn *i)
{
	static const uint8_t none = KIND_NULL;
	const uint8_t *kind[] = { [SEG_ES] = &t->es, [SEG_CS] = &t->cs, [SEG_SS] = &t->ss,
				  [SEG_DS] = &t->ds, [SEG_FS] = &none,	[SEG_GS] = &none };

	if (t->mode == 8)
		return i->seg == SEG_FS ? t->in.fs_base : i->seg == SEG_GS ? t->in.gs_base : 0;
	return seg_rows[*kind[i->seg]].base;
}

static unsigned access_bytes(const struct insn *i)
{
	for (unsigned n = 0; n < i->n_opds; n++)
		if ((i->opd[n].kind == OPD_MEM || i->opd[n].kind == OPD_VSIB) && i->opd[n].size)
			return i->opd[n].size;
	return 8;
}

/* Offset in its segment of a memory operand, but for the displacement and a vector index. next: the
 * following instruction's RIP. */
static uint64_t base_and_index(const struct test *t, const struct insn *i, uint64_t next)
{
	uint64_t base = i->base == REG_BLOCK ? next : i->base < 16 ? t->in.gpr[i->base] : 0;

	if (i->vsib_len || i->index >= 16)
		return base;
	return base + (t->in.gpr[i->index] << i->scale);
}

static uint64_t target(struct gen *g, const struct test *t, const struct insn *i)
{
	unsigned size = access_bytes(i);
	uint64_t lin = value_pointer(g, size);

	if (insn_table[i->id].attr & INSN_ALIGNED && !gen_one_in(g, 8))
		lin &= ~(uint64_t)(size - 1);
	return lin - seg_base(t, i);
}

/* Give the vector index elements that lead to targets; the test's first such operand wins. */
static void aim_vsib(struct gen *g, struct test *t, const struct insn *i, uint64_t base)
{
	unsigned size = i->opcode & 1 ? 8 : 4;

	for (unsigned k = 0; k < i->vsib_len / size; k++) {
		uint64_t v = (uint64_t)((int64_t)(target(g, t, i) - base - (uint64_t)i->disp) >>
					i->scale);

		if (gen_one_in(g, 64))
			v = gen_word(g);
		memcpy(t->in.zmm[i->index] + k * size, &v, size);
	}
}

/* Change the displacement so that the operand lies in the window, if it has the room. False if no
 * displacement would do. */
static bool aim(struct gen *g, struct test *t, struct insn *i, uint8_t *b, uint64_t next)
{
	uint64_t base, disp;

	if (!i->has_mem)
		return true;
	base = base_and_index(t, i, next);
	if (i->vsib_len) {
		/* Indices of 32 bits must reach. */
		if (i->disp_len == 4) {
			i->disp = (int8_t)i->disp;
			store32(b + i->disp_at, (uint32_t)i->disp);
		}
		aim_vsib(g, t, i, base);
		return true;
	}
	disp = (target(g, t, i) - base) & size_mask(i->adsize);
	if (i->disp_len == 1 || !i->disp_len)
		return true;
	if (i->adsize == 8 && i->disp_len == 4 && (uint64_t)(int32_t)disp != disp)
		return false;
	memcpy(b + i->disp_at, &disp, i->disp_len);
	return true;
}

static void choose_immediate(struct gen *g, const struct insn *i, uint8_t *b)
{
	uint64_t v = value_int(g);

	if (gen_one_in(g, 2) && i->imm_len <= 8)
		memcpy(b + i->imm_at, &v, i->imm_len);
}

/* ---- a test ---- */

/* What comes of a flag that is undefined now tells nothing. */
static bool reads_undefined(const struct test *t, uint16_t id)
{
	return insn_table[id].fl_read & test_undefined_flags(t, ~0ull);
}

static bool is_system_call(const struct insn *i)
{
	return i->op == OP_INT && (uint8_t)i->imm == 0x80;
}

static bool make_insn(struct gen *g, const struct generator *from, struct test *t, uint64_t at)
{
	uint16_t id = from->rows[gen_below(g, from->n_rows)];
	const struct example *e = &from->example[id][gen_below(g, MIN(from->seen[id], N_EXAMPLES))];
	struct test_insn *out = &t->insn[t->n];
	uint8_t b[INSN_MAX_LEN + 17];
	struct insn model, i;

	decode(e->b, INSN_MAX_LEN, t->mode, &model);
	if (is_only_faults(&model) && !from->only && !gen_one_in(g, 16))
		return false;
	if (reads_undefined(t, id) || !vary(g, &model, e, b, &i))
		return false;
	if (!aim(g, t, &i, b, at + i.len))
		return false;
	choose_immediate(g, &i, b);
	if (decode(b, INSN_MAX_LEN, t->mode, &i) != DECODE_OK || i.id != id || is_system_call(&i))
		return false;
	memcpy(out->bytes, b, INSN_MAX_LEN);
	out->len = i.len;
	out->id = id;
	t->n++;
	return true;
}

/* Relative branches go to a later instruction or the end. */
static void lead_branches(struct gen *g, struct test *t)
{
	for (unsigned k = 0; k < t->n; k++) {
		unsigned skip = gen_below(g, t->n - k), rel = 0;
		struct insn i;

		decode(t->insn[k].bytes, t->insn[k].len, t->mode, &i);
		if (!i.n_opds || i.opd[0].kind != OPD_REL)
			continue;
		while (skip)
			rel += t->insn[k + skip--].len;
		memcpy(t->insn[k].bytes + i.imm_at, &rel, i.imm_len);
	}
}

/* ---- code that changes itself ---- */

/* MOV or LOCK XOR of an immediate to memory. Fields are filled in when all code is there. */
static void put_store(struct gen *g, struct test *t)
{
	bool is_xor = gen_one_in(g, 3);
	unsigned size = 1u << gen_below(g, 3), n = 0;
	struct test_insn *out = &t->insn[t->n];
	uint8_t *b = out->bytes;
	struct insn i;

	memset(out, 0, sizeof(*out));
	if (size != 1 && (size == 2) != (t->mode == 2))
		b[n++] = 0x66;
	if (is_xor)
		b[n++] = 0xf0;
	b[n++] = (uint8_t)((is_xor ? 0x80 : 0xc6) | (size > 1));
	/* No base: RIP-relative in 64-bit code. */
	b[n++] = (uint8_t)((is_xor ? 0x30 : 0) | (t->mode == 2 ? 6 : 5));
	decode(b, INSN_BYTES, t->mode, &i);
	out->len = i.len;
	out->id = i.id;
	t->writer = t->n++;
}

/* Another instruction of the same row and length in place of number written, with one byte of
 * opcode, operands or immediate changed. Returns the byte's offset, or 0. */
static unsigned alter(struct gen *g, struct test *t)
{
	const struct test_insn *old = &t->insn[t->written];
	struct insn was, i;

	decode(old->bytes, old->len, t->mode, &was);
	if ((was.n_opds && was.opd[0].kind == OPD_REL) || is_only_faults(&was))
		return 0;
	for (unsigned try = 0; try < N_TRIES; try++) {
		unsigned at = was.opcode_at + gen_below(g, old->len - was.opcode_at);

		memcpy(t->altered, old->bytes, INSN_BYTES);
		t->altered[at] = (uint8_t)gen_word(g);
		if (at && t->altered[at] != old->bytes[at] &&
		    decode(t->altered, old->len, t->mode, &i) == DECODE_OK && i.len == old->len &&
		    i.id == old->id)
			return at;
	}
	return 0;
}

static unsigned offset_of(const struct test *t, unsigned n)
{
	unsigned off = 0;

	for (unsigned k = 0; k < n; k++)
		off += t->insn[k].len;
	return off;
}

/* Fill in what the writer writes, and where. */
static void aim_store(struct gen *g, struct test *t)
{
	struct test_insn *w = &t->insn[t->writer];
	unsigned next = offset_of(t, t->writer + 1u), to, from, n_code, at;
	uint8_t code[TEST_CODE] = { 0 }, *imm;
	struct insn i;
	uint64_t disp;

	t->written = (uint8_t)(t->writer + 1 +
			       (gen_one_in(g, 2) ? 0 : gen_below(g, t->n - t->writer - 1u)));
	at = alter(g, t);
	if (!at)
		return;
	n_code = test_code(t, code);
	decode(w->bytes, w->len, t->mode, &i);
	/* Bytes around the one that changes are stored as they are. */
	to = offset_of(t, t->written) + at;
	from = to - MIN(gen_below(g, i.imm_len), to - next);
	from = MIN(from, n_code - i.imm_len);
	if (from < next)
		return;
	imm = w->bytes + i.imm_at;
	memcpy(imm, code + from, i.imm_len);
	imm[to - from] = t->altered[at];
	for (unsigned k = 0; i.op == OP_XOR && k < i.imm_len; k++)
		imm[k] ^= code[from + k];
	disp = t->mode == 8 ? from - next : WIN_BASE + t->code_off + from - seg_rows[t->ds].base;
	memcpy(w->bytes + i.disp_at, &disp, i.disp_len);
	t->smc = true;
}

/* ---- all of it ---- */

/* Anywhere, over the border of the code pages, or near the end of the second. */
static uint16_t choose_code_off(struct gen *g)
{
	uint32_t start = CODE_PAGE * WIN_PAGE, end = start + N_CODE * WIN_PAGE;

	switch (gen_below(g, 8)) {
	case 0:
	case 1: return (uint16_t)(start + WIN_PAGE - 1 - gen_below(g, 30));
	case 2: return (uint16_t)(end - 1 - gen_below(g, 30));
	default: return (uint16_t)(start + gen_below(g, N_CODE * WIN_PAGE - 2 * TEST_CODE));
	}
}

/* Up to n instructions after each other; none may turn out to be possible from this state. */
static void fill(struct gen *g, const struct generator *from, struct test *t, unsigned n)
{
	uint64_t at = code_start(t);
	unsigned writer = from->smc && n > 1 ? gen_below(g, n - 1) : n;

	for (unsigned try = 0; t->n < n && try < n * N_TRIES; try++) {
		if (t->n == writer) {
			put_store(g, t);
			writer = n;
			at += t->insn[t->n - 1].len;
		} else if (make_insn(g, from, t, at)) {
			at += t->insn[t->n - 1].len;
		}
	}
	/* With the last one there is nothing behind it to be changed. */
	t->smc = writer == n && from->smc && n > 1 && t->writer + 1 < t->n;
}

void generate(const struct generator *from, uint64_t seed, uint64_t index, struct test *t)
{
	struct gen g = { .seed = seed * 0x9e3779b97f4a7c15ull + (index << 4) + from->mode };
	unsigned n = 1 + gen_below(&g, MAX_INSNS);

	/* Neighbouring indices must not give neighbouring sequences. */
	g.seed = gen_word(&g);
	memset(t, 0, sizeof(*t));
	t->seed = seed;
	t->index = index;
	t->mode = (uint8_t)from->mode;
	t->code_off = choose_code_off(&g);
	while (!t->n) {
		values_state(&g, t);
		fill(&g, from, t, n);
	}
	lead_branches(&g, t);
	if (t->smc) {
		t->smc = false;
		aim_store(&g, t);
	}
}
