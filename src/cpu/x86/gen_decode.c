/* Build-time generator: insn_*.def to the decoder's tables.
 *
 *	gen_decode h > decode_tables.h     enum insn_id
 *	gen_decode c > decode_tables.c     insn_table and what decode_internal.h declares
 *
 * A row is INSN(text, spec, operands, flags, feature, attributes, op).
 *
 * spec: the opcode nearly as the SDM writes it.
 *	legacy    [NP|66|F3|F2|NFx] [i64|only64] [o16|o32|o64] [a16|a32|a64] [W0|W1] [NB]
 *	          opcode bytes [/r|/0-/7] [a ModRM byte] [mem|reg]
 *	          NFx: no F2, F3. NB: no REX.B. An opcode "50+r" stands for eight;
 *	          so does a ModRM byte "C0+i".
 *	VEX, EVEX [E]VEX.length.prefix.map.W opcode [/r|/0-/7]
 *	          length: 128 256 512; x: all; y: all but 128; z: 128 and 256 (EVEX); LIG: ignored
 *	          W: W0 W1 WIG; W0m: 0 in 64-bit mode, ignored elsewhere; W1m: 64-bit mode only
 * Rows may overlap: the one with the narrower spec wins. Equally narrow ones are refused.
 *
 * operands: by the letters of the SDM's opcode maps (2D A.2), destination first. Beyond them: KG,
 * KH, KE, KR, KM are masks in ModRM.reg, vvvv, ModRM.rm (KR: only a register, KM: only memory);
 * VM is VSIB memory; T is a general register in vvvv (B in the SDM). Types are the SDM's where it
 * has them; bd, wd, wv: a byte or word of memory, or a 32-bit or operand-sized register; xh xq xe:
 * half, quarter, eighth of the vector length. Marks: "|b4" broadcast of 4-byte elements, "{k4}"
 * and "{kz4}" merging, merging or zeroing by 4-byte elements, "{er}" "{sae}" on the last operand.
 *
 * flags: "R=..." read, "W=..." written, "U=..." undefined afterwards; letters of oszapc.
 */
#include <assert.h>
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/x86/decode_internal.h"
#include "cpu/x86/insn.h"

/* Attributes as the rows spell them. */
#define RW    INSN_SRC_DST
#define RO    INSN_NO_DST
#define D1    INSN_OPD1_DST
#define LK    INSN_LOCKABLE
#define AL    INSN_ALIGNED
#define FP    INSN_MXCSR
#define END   INSN_ENDS
#define NW    INSN_NOWAIT
#define SUP   INSN_FAULT_SUP
#define MAYBE INSN_FL_MAYBE
/* For the generator alone. */
#define UA	  (1u << 24) /* legacy SSE whose 16-byte memory operand may be unaligned */
#define OP64	  (1u << 25) /* default operand size 64 in 64-bit mode */
#define NEAR	  (1u << 26) /* operand size 64 in 64-bit mode, 66 ignored */
#define NF	  (1u << 29) /* EVEX: masking does not suppress memory faults (SDM's types "NF") */
#define NOMEM	  (1u << 27) /* mod is taken as 3 */
#define DIST	  (1u << 28) /* gather: registers must differ */
#define DEL	  (1u << 30) /* disp8 counts elements */
#define NOVL	  (1u << 31) /* 128 bits of AVX-512 without AVX512VL (VMOVD, VPEXTRB ...) */
#define ROW_ATTRS 0x00ffffffu

struct row {
	const char *text, *spec, *opds, *flags, *feat, *op, *file;
	uint32_t attr;
	/* Parsed: */
	char id[96];
	uint16_t mask[N_DIMS]; /* values of each dimension that the row takes */
	unsigned space, opcode, n_opcodes;
	unsigned klass[INSN_MAX_OPDS]; /* enum opd_class */
	bool has_modrm;
	unsigned enc;
	unsigned fl[3]; /* read, written, undefined */
	unsigned elem, mask_unit;
	struct insn_form form;
};

static struct row rows[] = {
	{ .text = "(invalid)",
	  .spec = "",
	  .opds = "",
	  .flags = "",
	  .feat = "FEAT_NONE",
	  .op = "INVALID",
	  .file = "" },
#define INSN(text_, spec_, opds_, flags_, feat_, attr_, op_)                                       \
	{ .text = text_,                                                                           \
	  .spec = spec_,                                                                           \
	  .opds = opds_,                                                                           \
	  .flags = flags_,                                                                         \
	  .feat = "FEAT_" #feat_,                                                                  \
	  .op = #op_,                                                                              \
	  .file = FILE_,                                                                           \
	  .attr = attr_ },
#define FILE_ "base"
#include "insn_base.def"
#undef FILE_
#define FILE_ "x87"
#include "insn_x87.def"
#undef FILE_
#define FILE_ "sse"
#include "insn_sse.def"
#undef FILE_
#define FILE_ "avx"
#include "insn_avx.def"
#undef FILE_
#define FILE_ "evex"
#include "insn_evex.def"
};
#define N_ROWS ARRAY_SIZE(rows)

static const char *const op_names[] = { "INVALID",
#define X(n) #n,
					INSN_OPS(X)
#undef X
};

static const unsigned dim_size[N_DIMS] = {
	[DIM_PP] = 4, [DIM_MW] = 4,  [DIM_MOD] = 2, [DIM_REG] = 8, [DIM_RM] = 8,
	[DIM_L] = 4,  [DIM_OSZ] = 3, [DIM_ASZ] = 3, [DIM_B] = 2,
};

static void die(const struct row *r, const char *why, const char *what)
{
	fprintf(stderr, "insn_%s.def: %s \"%s\" \"%s\": %s %s\n", r->file, r->text, r->spec,
		r->opds, why, what);
	exit(1);
}

static unsigned lookup(const struct row *r, const char *const *names, unsigned n, const char *what)
{
	for (unsigned i = 0; i < n; i++)
		if (!strcmp(names[i], what))
			return i;
	die(r, "unknown", what);
	return 0;
}

/* ---- spec ---- */

static const char *const word_names[] = { "NP",	 "66",	"F3",  "F2",  "NFx", "i64", "only64",
					  "o16", "o32", "o64", "a16", "a32", "a64", "W0",
					  "W1",	 "NB",	"mem", "reg", "/r" };
static const struct {
	enum decode_dim dim;
	unsigned mask;
} words[] = {
	{ DIM_PP, 1 },	{ DIM_PP, 2 },	{ DIM_PP, 4 },	{ DIM_PP, 8 },	{ DIM_PP, 3 },
	{ DIM_MW, 3 },	{ DIM_MW, 12 }, { DIM_OSZ, 1 }, { DIM_OSZ, 2 }, { DIM_OSZ, 4 },
	{ DIM_ASZ, 1 }, { DIM_ASZ, 2 }, { DIM_ASZ, 4 }, { DIM_MW, 5 },	{ DIM_MW, 10 },
	{ DIM_B, 1 },	{ DIM_MOD, 1 }, { DIM_MOD, 2 }, { DIM_MOD, 3 },
};

static void set_modrm(struct row *r, unsigned byte, bool any_rm)
{
	r->has_modrm = true;
	r->mask[DIM_MOD] &= 2;
	r->mask[DIM_REG] = 1u << (byte >> 3 & 7);
	if (!any_rm)
		r->mask[DIM_RM] = 1u << (byte & 7);
}

static void parse_vex(struct row *r, char *spec)
{
	static const char *const lengths[] = { "128", "256", "512", "x", "y", "z", "LIG" };
	static const uint8_t vex_l[] = { 1, 2, 0, 3, 2, 3, 15 };
	/* L'L = 3 is reserved even where the length is ignored. */
	static const uint8_t evex_l[] = { 1, 2, 4, 7, 6, 3, 7 };
	static const char *const pps[] = { "NP", "66", "F3", "F2" };
	static const char *const maps[] = { "0F", "0F38", "0F3A" };
	static const char *const ws[] = { "W0", "W1", "WIG", "W0m", "W1m" };
	static const uint8_t w_mask[] = { 5, 10, 15, 7, 8 };
	char *save, *part = strtok_r(spec, ".", &save);
	unsigned l;

	r->enc = *part == 'E' ? ENC_EVEX : ENC_VEX;
	l = lookup(r, lengths, ARRAY_SIZE(lengths), strtok_r(NULL, ".", &save));
	r->mask[DIM_L] = r->enc == ENC_EVEX ? evex_l[l] : vex_l[l];
	if (l == 6)
		r->form.flags |= FORM_LIG;
	r->mask[DIM_PP] = 1u << lookup(r, pps, 4, strtok_r(NULL, ".", &save));
	r->space = (r->enc == ENC_EVEX ? SPACE_EVEX_0F : SPACE_VEX_0F) +
		   lookup(r, maps, 3, strtok_r(NULL, ".", &save));
	r->mask[DIM_MW] = w_mask[lookup(r, ws, ARRAY_SIZE(ws), strtok_r(NULL, ".", &save))];
}

/* A hex byte of the spec. Returns false when the word is none. */
static bool parse_byte(struct row *r, const char *word, bool *opcode_done)
{
	char *end;
	unsigned long byte = strtoul(word, &end, 16);
	bool run = !strcmp(end, "+r") || !strcmp(end, "+i");

	if (end != word + 2 || (*end && !run))
		return false;
	if (*opcode_done) {
		set_modrm(r, byte, run);
	} else if (r->enc == ENC_LEGACY && r->space == SPACE_1 && byte == 0x0f) {
		r->space = SPACE_0F;
	} else if (r->enc == ENC_LEGACY && r->space == SPACE_0F && (byte | 2) == 0x3a) {
		r->space = byte == 0x38 ? SPACE_0F38 : SPACE_0F3A;
	} else {
		r->opcode = byte;
		r->n_opcodes = run ? 8 : 1;
		*opcode_done = true;
	}
	return true;
}

static void parse_spec(struct row *r)
{
	char buf[96], *save, *word;
	bool opcode_done = false;

	for (unsigned d = 0; d < N_DIMS; d++)
		r->mask[d] = (1u << dim_size[d]) - 1;
	assert(strlen(r->spec) < sizeof(buf));
	strcpy(buf, r->spec);
	for (word = strtok_r(buf, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		unsigned w;
		bool prefix;

		if (strstr(word, "VEX")) {
			parse_vex(r, word);
			continue;
		}
		if (word[0] == '/') {
			r->has_modrm = true;
			if (isdigit((unsigned char)word[1])) {
				r->mask[DIM_REG] = 1u << (word[1] - '0');
				continue;
			}
		}
		/* 66, F3 and F2 are opcodes too, but not in the one-byte map. */
		prefix = r->enc == ENC_LEGACY && r->space == SPACE_1 && !opcode_done &&
			 (!strcmp(word, "66") || !strcmp(word, "F3") || !strcmp(word, "F2"));
		if (!prefix && parse_byte(r, word, &opcode_done))
			continue;
		w = lookup(r, word_names, ARRAY_SIZE(word_names), word);
		r->mask[words[w].dim] &= words[w].mask;
	}
	if (!opcode_done)
		die(r, "no opcode", "");
	/* In raw terms, a row with 64-bit operands by default takes the 32-bit value too. */
	if (r->mask[DIM_OSZ] == 4 && r->attr & OP64) {
		r->mask[DIM_OSZ] = 6;
		r->mask[DIM_MW] &= 12;
	} else if (r->mask[DIM_OSZ] == 2 && r->attr & OP64) {
		r->mask[DIM_MW] &= 3;
	}
}

/* ---- operands ---- */

/* Types of the SDM's maps: bytes of memory, and of a general register. */
static const struct {
	const char *type;
	uint8_t msize, rsize;
} types[] = {
	{ "b", SZ_1, SZ_1 },	{ "w", SZ_2, SZ_2 },	{ "d", SZ_4, SZ_4 },
	{ "q", SZ_8, SZ_8 },	{ "t", SZ_10, SZ_10 },	{ "dq", SZ_16, SZ_16 },
	{ "qq", SZ_32, SZ_32 }, { "oq", SZ_64, SZ_64 }, { "v", SZ_v, SZ_v },
	{ "z", SZ_z, SZ_z },	{ "y", SZ_y, SZ_y },	{ "A", SZ_ad, SZ_ad },
	{ "m", SZ_m, SZ_m },	{ "bd", SZ_1, SZ_4 },	{ "wd", SZ_2, SZ_4 },
	{ "wv", SZ_2, SZ_v },	{ "bm", SZ_1, SZ_m },	{ "wm", SZ_2, SZ_m },
	{ "dm", SZ_4, SZ_m },	{ "wy", SZ_2, SZ_y },	{ "by", SZ_1, SZ_y },
	{ "", SZ_0, SZ_v },	{ "p", SZ_p, SZ_p },	{ "s", SZ_s, SZ_s },
	{ "a", SZ_a, SZ_a },	{ "env", SZ_env, 0 },	{ "fst", SZ_fst, 0 },
	{ "fx", SZ_512, 0 },	{ "xs", SZ_0, 0 },	{ "dup", SZ_dup, SZ_x },
	{ "x", SZ_x, SZ_x },	{ "xh", SZ_xh, SZ_xh }, { "xq", SZ_xq, SZ_xq },
	{ "xe", SZ_xe, SZ_xe }, { "ss", SZ_4, SZ_16 },	{ "sd", SZ_8, SZ_16 },
	{ "sw", SZ_2, SZ_16 },	{ "sb", SZ_1, SZ_16 },	{ "x4", SZ_4, SZ_x },
	{ "x8", SZ_8, SZ_x },	{ "xh8", SZ_8, SZ_xh },
};

/* Register files and what is no register. */
enum opd_class {
	CLASS_GPR,
	CLASS_SREG,
	CLASS_CR,
	CLASS_DR,
	CLASS_ST,
	CLASS_MMX,
	CLASS_VEC,
	CLASS_K,
	CLASS_VSIB, /* always memory, with a vector index */
	CLASS_IMM,
	CLASS_REL,
	CLASS_FAR,
	CLASS_ONE,
	CLASS_MOFFS,
	CLASS_SRC,
	CLASS_DST,
};

/* Kind, and what of a register's number counts: REX bits do not for MMX, x87 and masks, EVEX.X
 * does not for general registers. */
static const struct {
	uint8_t kind, mask;
} classes[] = {
	[CLASS_GPR] = { OPD_GPR, 15 },	[CLASS_SREG] = { OPD_SREG, 7 },
	[CLASS_CR] = { OPD_CR, 15 },	[CLASS_DR] = { OPD_DR, 15 },
	[CLASS_ST] = { OPD_ST, 7 },	[CLASS_MMX] = { OPD_MMX, 7 },
	[CLASS_VEC] = { OPD_XMM, 31 },	[CLASS_K] = { OPD_KREG, 7 },
	[CLASS_VSIB] = { OPD_VSIB, 0 }, [CLASS_IMM] = { OPD_IMM, 0 },
	[CLASS_REL] = { OPD_REL, 0 },	[CLASS_FAR] = { OPD_FAR, 0 },
	[CLASS_ONE] = { OPD_ONE, 0 },	[CLASS_MOFFS] = { OPD_MEM, 0 },
	[CLASS_SRC] = { OPD_SRC, 0 },	[CLASS_DST] = { OPD_DST, 0 },
};

/* fixed: the number of a register, the enum imm_form of an immediate. */
static const struct {
	const char *name;
	uint8_t from, klass, size, fixed;
} fixed_opds[] = {
	{ "AL", FROM_NONE, CLASS_GPR, SZ_1, REG_RAX },
	{ "CL", FROM_NONE, CLASS_GPR, SZ_1, REG_RCX },
	{ "AX", FROM_NONE, CLASS_GPR, SZ_2, REG_RAX },
	{ "DX", FROM_NONE, CLASS_GPR, SZ_2, REG_RDX },
	{ "eAX", FROM_NONE, CLASS_GPR, SZ_z, REG_RAX },
	{ "rAX", FROM_NONE, CLASS_GPR, SZ_v, REG_RAX },
	{ "ES", FROM_NONE, CLASS_SREG, SZ_2, SEG_ES },
	{ "CS", FROM_NONE, CLASS_SREG, SZ_2, SEG_CS },
	{ "SS", FROM_NONE, CLASS_SREG, SZ_2, SEG_SS },
	{ "DS", FROM_NONE, CLASS_SREG, SZ_2, SEG_DS },
	{ "FS", FROM_NONE, CLASS_SREG, SZ_2, SEG_FS },
	{ "GS", FROM_NONE, CLASS_SREG, SZ_2, SEG_GS },
	{ "XMM0", FROM_NONE, CLASS_VEC, SZ_16, 0 },
	{ "ST0", FROM_NONE, CLASS_ST, SZ_10, 0 },
	{ "STi", FROM_RM, CLASS_ST, SZ_10, 0 },
	{ "1", FROM_NONE, CLASS_ONE, SZ_1, 0 },
	{ "Jb", FROM_NONE, CLASS_REL, SZ_v, IMM_BS },
	{ "Jz", FROM_NONE, CLASS_REL, SZ_v, IMM_Z },
	{ "Ap", FROM_NONE, CLASS_FAR, SZ_z, IMM_FAR },
	{ "Ib", FROM_NONE, CLASS_IMM, SZ_1, IMM_B },
	{ "Ibb", FROM_NONE, CLASS_IMM, SZ_1, IMM_BS },
	{ "Ibs", FROM_NONE, CLASS_IMM, SZ_v, IMM_BS },
	{ "Iw", FROM_NONE, CLASS_IMM, SZ_2, IMM_W },
	{ "Iz", FROM_NONE, CLASS_IMM, SZ_v, IMM_Z },
	{ "Iv", FROM_NONE, CLASS_IMM, SZ_v, IMM_V },
	{ "IwIb", FROM_NONE, CLASS_IMM, SZ_2, IMM_ENTER },
	{ "Ob", FROM_NONE, CLASS_MOFFS, SZ_1, IMM_MOFFS },
	{ "Ov", FROM_NONE, CLASS_MOFFS, SZ_v, IMM_MOFFS },
};

static const struct {
	const char *letter;
	uint8_t from, klass, mod; /* mod: the ModRM.mod values it takes, as DIM_MOD */
} letters[] = {
	{ "KG", FROM_REG, CLASS_K, 3 },	  { "KH", FROM_VVVV, CLASS_K, 3 },
	{ "KE", FROM_RM, CLASS_K, 3 },	  { "KR", FROM_RM, CLASS_K, 2 },
	{ "KM", FROM_RM, CLASS_K, 1 },	  { "VM", FROM_RM, CLASS_VSIB, 1 },
	{ "E", FROM_RM, CLASS_GPR, 3 },	  { "M", FROM_RM, CLASS_GPR, 1 },
	{ "R", FROM_RM, CLASS_GPR, 2 },	  { "G", FROM_REG, CLASS_GPR, 3 },
	{ "T", FROM_VVVV, CLASS_GPR, 3 }, { "Z", FROM_OP, CLASS_GPR, 3 },
	{ "S", FROM_REG, CLASS_SREG, 3 }, { "C", FROM_REG, CLASS_CR, 3 },
	{ "D", FROM_REG, CLASS_DR, 3 },	  { "P", FROM_REG, CLASS_MMX, 3 },
	{ "Q", FROM_RM, CLASS_MMX, 3 },	  { "N", FROM_RM, CLASS_MMX, 2 },
	{ "V", FROM_REG, CLASS_VEC, 3 },  { "H", FROM_VVVV, CLASS_VEC, 3 },
	{ "W", FROM_RM, CLASS_VEC, 3 },	  { "U", FROM_RM, CLASS_VEC, 2 },
	{ "L", FROM_IS4, CLASS_VEC, 3 },  { "X", FROM_NONE, CLASS_SRC, 3 },
	{ "Y", FROM_NONE, CLASS_DST, 3 },
};

/* Cut the marks off an operand and note them. */
static void parse_marks(struct row *r, char *word)
{
	char *bar = strchr(word, '|'), *brace = strchr(word, '{');

	if (bar) {
		r->form.flags |= FORM_BCAST;
		r->elem = atoi(bar + 2);
	}
	if (brace && (!strcmp(brace, "{er}") || !strcmp(brace, "{sae}"))) {
		r->form.flags |= FORM_RC;
	} else if (brace && brace[1] == 'k') {
		bool zero = brace[2] == 'z';

		r->form.flags |= FORM_MASK | (zero ? FORM_ZERO : 0);
		r->attr |= INSN_K_MASK;
		if (!r->elem)
			r->elem = atoi(brace + 2 + zero);
	} else if (brace) {
		die(r, "bad mark", brace);
	}
	if (brace)
		*brace = 0;
	if (bar)
		*bar = 0;
}

static void set_imm(struct row *r, unsigned imm)
{
	if (r->form.imm)
		die(r, "two immediates", "");
	r->form.imm = imm;
}

/* What the operand at position pos does to memory. */
static void note_access(struct row *r, unsigned pos)
{
	bool write = pos == 0 ? !(r->attr & RO) : pos == 1 && r->attr & D1;
	bool read = pos == 0 ? r->attr & (RO | RW) : !(pos == 1 && r->attr & D1) || r->attr & RW;

	r->attr |= (write ? INSN_MEM_DST : 0) | (read ? INSN_MEM_SRC : 0);
}

static void set_operand(struct row *r, unsigned pos, unsigned from, unsigned klass, unsigned msize,
			unsigned rsize)
{
	struct form_opd *o = &r->form.opd[pos];

	r->klass[pos] = klass;
	o->from = from;
	o->kind[0] = classes[klass].kind;
	o->kind[1] = klass == CLASS_VSIB ? OPD_VSIB : OPD_MEM;
	o->mask = classes[klass].mask;
	o->size[0] = rsize;
	o->size[1] = msize;
	o->high = klass == CLASS_GPR && rsize == SZ_1 && r->enc == ENC_LEGACY;
	switch (klass) {
	case CLASS_VEC:
		/* A register is whole however little of it counts. */
		o->wide = 3;
		if (rsize < SZ_16)
			o->size[0] = SZ_16;
		else if (rsize == SZ_xh)
			o->size[0] = SZ_rxh;
		else if (rsize == SZ_xq || rsize == SZ_xe)
			o->size[0] = SZ_rxq;
		break;
	case CLASS_K:
		r->form.flags |= FORM_REG_LIMITS;
		o->size[0] = SZ_8;
		break;
	case CLASS_MMX: o->size[0] = SZ_8; break;
	case CLASS_CR:
	case CLASS_DR: r->form.flags |= FORM_REG_LIMITS; break;
	case CLASS_GPR:
		if (r->enc == ENC_EVEX && from == FROM_REG)
			r->form.flags |= FORM_REG_LIMITS;
		break;
	case CLASS_VSIB:
		/* Never a register: there the size is the index's. */
		if (rsize == SZ_xh)
			o->size[0] = SZ_rxh;
		r->form.flags |= FORM_VSIB | (r->enc == ENC_EVEX ? FORM_NEEDS_K : 0);
		break;
	}
}

static bool parse_fixed(struct row *r, const char *word, unsigned pos)
{
	unsigned i, klass;

	for (i = 0; i < ARRAY_SIZE(fixed_opds); i++)
		if (!strcmp(fixed_opds[i].name, word))
			break;
	if (i == ARRAY_SIZE(fixed_opds))
		return false;
	klass = fixed_opds[i].klass;
	set_operand(r, pos, fixed_opds[i].from, klass, fixed_opds[i].size, fixed_opds[i].size);
	if (klass < CLASS_IMM)
		r->form.opd[pos].fixed = fixed_opds[i].fixed;
	else if (klass != CLASS_ONE)
		set_imm(r, fixed_opds[i].fixed);
	/* No number of its own, so not one that REX decides about. */
	r->form.opd[pos].high = 0;
	if (klass == CLASS_MOFFS)
		note_access(r, pos);
	if (fixed_opds[i].from == FROM_RM) {
		r->has_modrm = true;
		r->mask[DIM_MOD] &= 2;
	}
	return true;
}

static void parse_operand(struct row *r, char *word, unsigned pos)
{
	unsigned i, t, from, klass;
	const char *type;

	parse_marks(r, word);
	if (parse_fixed(r, word, pos))
		return;
	for (i = 0; i < ARRAY_SIZE(letters); i++)
		if (!strncmp(letters[i].letter, word, strlen(letters[i].letter)))
			break;
	if (i == ARRAY_SIZE(letters))
		die(r, "unknown operand", word);
	type = word + strlen(letters[i].letter);
	for (t = 0; t < ARRAY_SIZE(types); t++)
		if (!strcmp(types[t].type, type))
			break;
	if (t == ARRAY_SIZE(types))
		die(r, "unknown type", word);
	from = letters[i].from;
	klass = letters[i].klass;
	if (from == FROM_REG || from == FROM_RM)
		r->has_modrm = true;
	if (!(r->attr & NOMEM))
		r->mask[DIM_MOD] &= letters[i].mod;
	if (from == FROM_VVVV)
		r->form.flags |= FORM_VVVV;
	if (from == FROM_IS4)
		set_imm(r, IMM_B);
	set_operand(r, pos, from, klass, types[t].msize, types[t].rsize);
	if (from == FROM_RM && r->mask[DIM_MOD] & 1 && !(klass == CLASS_GPR && !*type))
		note_access(r, pos);
}

/* INSN_USES_: which unit's enable bits count. */
static void note_unit(struct row *r)
{
	bool mmx = !strcmp(r->op, "MMX") || !strcmp(r->op, "MASKMOVQ");
	bool vec = false, k = false;

	for (unsigned i = 0; i < r->form.n_opds; i++) {
		const struct form_opd *o = &r->form.opd[i];

		vec |= r->klass[i] == CLASS_VEC;
		k |= r->klass[i] == CLASS_K;
		if (r->enc == ENC_LEGACY && (vec || !strcmp(r->op, "VEC")) && o->size[1] == SZ_16 &&
		    o->from == FROM_RM && r->mask[DIM_MOD] & 1 && !(r->attr & UA))
			r->attr |= INSN_ALIGNED;
	}
	if (!strcmp(r->op, "X87") || mmx)
		r->attr |= INSN_USES_FPU;
	if (r->enc == ENC_LEGACY && (vec || strstr(r->op, "MXCSR")))
		r->attr |= INSN_USES_SSE;
	if (r->enc == ENC_EVEX && r->attr & INSN_K_MASK && r->mask[DIM_MOD] & 1 && !(r->attr & NF))
		r->attr |= INSN_FAULT_SUP;
	if (r->enc == ENC_EVEX && !(r->form.flags & FORM_LIG) && r->mask[DIM_L] & 3 &&
	    !(r->attr & NOVL))
		r->attr |= INSN_NEEDS_VL;
	if (r->enc != ENC_LEGACY && (vec || k || strstr(r->op, "MXCSR") || !strcmp(r->op, "VZERO")))
		r->attr |= INSN_USES_AVX;
}

/* Elements are counted in memory, which may be a half, quarter or eighth of the vector. */
static unsigned mask_unit(const struct row *r)
{
	if (r->form.flags & FORM_LIG)
		return 0;
	for (unsigned k = 0; k < r->form.n_opds; k++) {
		const struct form_opd *o = &r->form.opd[k];

		if (o->from != FROM_RM)
			continue;
		switch (o->size[1]) {
		case SZ_xh: return r->elem * 2;
		case SZ_xq: return r->elem * 4;
		case SZ_xe: return r->elem * 8;
		default: return r->elem;
		}
	}
	return r->elem;
}

/* SDM 2A, instructions with "W ignored in non-64-bit mode". */
static bool w_is_64(const struct row *r)
{
	bool yes = r->enc != ENC_LEGACY && strstr(r->spec, ".W0m");

	for (unsigned k = 0; k < r->form.n_opds && r->enc != ENC_LEGACY; k++)
		yes |= r->form.opd[k].size[0] == SZ_y || r->form.opd[k].size[1] == SZ_y;
	return yes;
}

static void parse_operands(struct row *r)
{
	char buf[96], *save, *word;

	assert(strlen(r->opds) < sizeof(buf));
	strcpy(buf, r->opds);
	for (word = strtok_r(buf, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		if (r->form.n_opds == INSN_MAX_OPDS)
			die(r, "too many operands", "");
		parse_operand(r, word, r->form.n_opds++);
	}
	r->form.elem = r->elem;
	r->mask_unit = mask_unit(r);
	if (w_is_64(r))
		r->attr |= INSN_W_IS_64;
	if (r->attr & LK)
		r->form.flags |= FORM_LOCKABLE;
	if (r->attr & NOMEM)
		r->form.flags |= FORM_NO_MEM;
	if (r->attr & DIST)
		r->form.flags |= FORM_DISTINCT;
	if (r->attr & DEL)
		r->form.flags |= FORM_DISP_EL;
	if (r->attr & OP64)
		r->form.opsize = OPSIZE_D64;
	else if (r->attr & NEAR)
		r->form.opsize = OPSIZE_F64;
	else if (r->attr & NOMEM)
		r->form.opsize = OPSIZE_MODE;
	else if (r->mask[DIM_PP] == 2)
		r->form.opsize = OPSIZE_NO66;
	note_unit(r);
}

static void parse_flags(struct row *r)
{
	static const char letters_[] = "oszapc";
	static const unsigned bits[] = { RFLAGS_OF, RFLAGS_SF, RFLAGS_ZF,
					 RFLAGS_AF, RFLAGS_PF, RFLAGS_CF };
	unsigned which = 0;

	for (const char *p = r->flags; *p; p++) {
		const char *at;

		if (*p == 'R' || *p == 'W' || *p == 'U')
			which = *p == 'R' ? 0 : *p == 'W' ? 1 : 2;
		else if ((at = strchr(letters_, *p)))
			r->fl[which] |= bits[at - letters_];
		else if (*p != '=' && *p != ' ')
			die(r, "bad flags", r->flags);
	}
	if (r->fl[0])
		r->attr |= INSN_READS_FL;
	if (r->fl[1])
		r->attr |= INSN_WRITES_FL;
}

/* ---- names ---- */

static void append_clean(char *id, size_t size, const char *s)
{
	size_t n = strlen(id);

	for (; *s && n + 1 < size; s++) {
		if (*s == '{' || *s == '|')
			while (s[1] && s[1] != ',')
				s++;
		else if (isalnum((unsigned char)*s))
			id[n++] = *s;
		else if (n && id[n - 1] != '_')
			id[n++] = '_';
	}
	while (n && id[n - 1] == '_')
		n--;
	id[n] = 0;
}

static void name_rows(void)
{
	static bool twin[N_ROWS];

	for (unsigned i = 0; i < N_ROWS; i++) {
		struct row *r = &rows[i];

		append_clean(r->id, sizeof(r->id), r->enc == ENC_EVEX ? "E_" : "");
		if (r->enc == ENC_EVEX)
			strcat(r->id, "_");
		append_clean(r->id, sizeof(r->id), r->text);
		for (char *p = r->id; *p; p++)
			*p = toupper((unsigned char)*p);
		strcat(r->id, "_");
		append_clean(r->id, sizeof(r->id), r->opds);
	}
	for (unsigned i = 0; i < N_ROWS; i++)
		for (unsigned j = 0; j < i; j++)
			if (!strcmp(rows[i].id, rows[j].id))
				twin[i] = twin[j] = true;
	for (unsigned i = 0; i < N_ROWS; i++) {
		if (!twin[i])
			continue;
		strcat(rows[i].id, "_");
		append_clean(rows[i].id, sizeof(rows[i].id), rows[i].spec);
	}
}

/* ---- trees ---- */

static uint16_t nodes[1 << 15];
static unsigned n_nodes = 1; /* 0 is #UD */
static uint16_t roots[N_SPACES][256];

static unsigned breadth(const struct row *r)
{
	unsigned n = 1;

	for (unsigned d = 0; d < N_DIMS; d++)
		n *= __builtin_popcount(r->mask[d]);
	return n;
}

/* The narrowest of rows that nothing tells apart any more. */
static unsigned narrowest(const uint16_t *set, unsigned n)
{
	unsigned best = 0;

	for (unsigned i = 1; i < n; i++) {
		unsigned a = breadth(&rows[set[i]]), b = breadth(&rows[set[best]]);

		if (a == b) {
			fprintf(stderr, "same as \"%s\" \"%s\":\n", rows[set[best]].text,
				rows[set[best]].spec);
			die(&rows[set[i]], "ambiguous", "");
		}
		if (a < b)
			best = i;
	}
	return NODE_LEAF | set[best];
}

static unsigned build(const uint16_t *set, unsigned n, unsigned dim)
{
	uint16_t *sub, node[1 + 8] = { 0 };
	unsigned at, size;
	bool same = true;

	for (; dim < N_DIMS; dim++) {
		unsigned full = (1u << dim_size[dim]) - 1;
		bool split = false;

		for (unsigned i = 0; i < n; i++)
			split |= (rows[set[i]].mask[dim] & full) != full;
		if (split)
			break;
	}
	if (n == 0)
		return 0;
	if (dim == N_DIMS)
		return narrowest(set, n);
	size = dim_size[dim];
	sub = malloc(n * sizeof(*sub));
	node[0] = dim;
	for (unsigned v = 0; v < size; v++) {
		unsigned m = 0;

		for (unsigned i = 0; i < n; i++)
			if (rows[set[i]].mask[dim] & 1u << v)
				sub[m++] = set[i];
		node[1 + v] = build(sub, m, dim + 1);
		same &= node[1 + v] == node[1];
	}
	free(sub);
	if (same)
		return node[1];
	/* Equal subtrees are stored once. */
	for (at = 1; at + size < n_nodes; at += 1 + dim_size[nodes[at]])
		if (!memcmp(&nodes[at], node, (1 + size) * sizeof(*node)))
			return at;
	at = n_nodes;
	n_nodes += 1 + size;
	assert(n_nodes < ARRAY_SIZE(nodes));
	memcpy(&nodes[at], node, (1 + size) * sizeof(*node));
	return at;
}

static uint8_t has_modrm[N_SPACES][256];

static void build_trees(void)
{
	static uint16_t set[N_ROWS];

	for (unsigned s = 0; s < N_SPACES; s++) {
		for (unsigned o = 0; o < 256; o++) {
			unsigned n = 0;

			for (unsigned i = 1; i < N_ROWS; i++) {
				const struct row *r = &rows[i];

				if (r->space != s || o - r->opcode >= r->n_opcodes)
					continue;
				if (n && has_modrm[s][o] != r->has_modrm)
					die(r, "ModRM or not?", "");
				has_modrm[s][o] = r->has_modrm;
				set[n++] = i;
			}
			roots[s][o] = build(set, n, 0);
		}
	}
}

/* ---- output ---- */

static void emit_header(void)
{
	printf("/* Made by gen_decode.c from insn_*.def. */\n"
	       "#ifndef CPU_X86_DECODE_TABLES_H\n#define CPU_X86_DECODE_TABLES_H\n\n"
	       "enum insn_id {\n");
	for (unsigned i = 0; i < N_ROWS; i++)
		printf("\tINSN_%s,\n", i ? rows[i].id : "INVALID");
	printf("\tN_INSN\n};\n\n#endif\n");
}

static void emit_forms(void)
{
	printf("const struct insn_form decode_forms[] = {\n");
	for (unsigned i = 0; i < N_ROWS; i++) {
		const struct insn_form *f = &rows[i].form;

		printf("\t{ OP_%s, %#x, %u, %u, %u, %u, {", rows[i].op, f->flags, f->n_opds, f->imm,
		       f->opsize, f->elem);
		for (unsigned k = 0; k < f->n_opds; k++) {
			const struct form_opd *o = &f->opd[k];

			printf(" { %u, { %u, %u }, { %u, %u }, %u, %u, %u, %u },", o->from,
			       o->kind[0], o->kind[1], o->size[0], o->size[1], o->mask, o->fixed,
			       o->wide, o->high);
		}
		printf(" } }, /* %s */\n", rows[i].id);
	}
	printf("};\n");
}

static void emit_tables(void)
{
	printf("/* Made by gen_decode.c from insn_*.def. */\n"
	       "#include \"cpu/x86/decode_internal.h\"\n#include \"cpu/x86/insn.h\"\n\n"
	       "const struct insn_desc insn_table[] = {\n");
	for (unsigned i = 0; i < N_ROWS; i++) {
		const struct row *r = &rows[i];

		printf("\t{ \"%s\", OP_%s, %s, %#x, %#x, %#x, %#x, %u, %u },\n", r->text, r->op,
		       r->feat, r->attr & ROW_ATTRS, r->fl[0], r->fl[1], r->fl[2], r->elem,
		       r->mask_unit);
	}
	printf("};\n\n");
	emit_forms();
	printf("\nconst uint16_t decode_nodes[] = {");
	for (unsigned i = 0; i < n_nodes; i++)
		printf("%s%u,", i % 12 ? " " : "\n\t", nodes[i]);
	printf("\n};\n\nconst uint16_t decode_roots[N_SPACES][256] = {\n");
	for (unsigned s = 0; s < N_SPACES; s++) {
		printf("\t{");
		for (unsigned o = 0; o < 256; o++)
			printf("%s%u,", o % 12 ? " " : "\n\t\t", roots[s][o]);
		printf("\n\t},\n");
	}
	printf("};\n\nconst uint8_t decode_has_modrm[N_SPACES][256] = {\n");
	for (unsigned s = 0; s < N_SPACES; s++) {
		printf("\t{");
		for (unsigned o = 0; o < 256; o++)
			printf("%s%u,", o % 32 ? " " : "\n\t\t", has_modrm[s][o]);
		printf("\n\t},\n");
	}
	printf("};\n");
}

int main(int argc, char **argv)
{
	for (unsigned i = 1; i < N_ROWS; i++) {
		parse_spec(&rows[i]);
		parse_operands(&rows[i]);
		parse_flags(&rows[i]);
		lookup(&rows[i], op_names, ARRAY_SIZE(op_names), rows[i].op);
	}
	name_rows();
	build_trees();
	if (argc == 2 && !strcmp(argv[1], "h"))
		emit_header();
	else
		emit_tables();
	return 0;
}
