/* Bytes to struct insn: prefixes, opcode, the row's tree, ModRM, immediates, operands.
 *
 * One pass without backtracking. The bytes are read from a place with PADDING readable bytes
 * behind the last one that may count, so that only the end looks whether the instruction lay
 * within what was given: every decision depends on bytes below the cursor, and a cursor beyond
 * the end makes the answer DECODE_MORE or DECODE_LONG whatever was decided.
 * SDM 2A chapter 2 "Instruction Format", 2D appendix A "Opcode Map".
 */
#include "cpu/x86/decode.h"

#include "cpu/x86/decode_internal.h"
#include "cpu/x86/decode_tables.h"

/* What follows the 15th byte at most: opcode, ModRM, SIB, displacement, immediates. */
#define PADDING 32

/* Kinds of bytes before the opcode. */
enum lead { LEAD_OPCODE, LEAD_66, LEAD_67, LEAD_LOCK, LEAD_REPNE, LEAD_REP, LEAD_SEG, LEAD_REX };

static const uint8_t leads[256] = {
	[0x26] = LEAD_SEG,  [0x2e] = LEAD_SEG,	 [0x36] = LEAD_SEG, [0x3e] = LEAD_SEG,
	[0x64] = LEAD_SEG,  [0x65] = LEAD_SEG,	 [0x66] = LEAD_66,  [0x67] = LEAD_67,
	[0xf0] = LEAD_LOCK, [0xf2] = LEAD_REPNE, [0xf3] = LEAD_REP, [0x40 ... 0x4f] = LEAD_REX,
};

/* What of the encoding decides a size. */
enum size_key { KEY_OSZ, KEY_VL, KEY_W, KEY_M64, KEY_ASZ };

static const struct {
	uint8_t key;
	uint16_t bytes[3];
} size_of[N_SIZES] = {
#define FIXED(n) [SZ_##n] = { KEY_OSZ, { n, n, n } }
	FIXED(0),
	FIXED(1),
	FIXED(2),
	FIXED(4),
	FIXED(6),
	FIXED(8),
	FIXED(10),
	FIXED(16),
	FIXED(32),
	FIXED(64),
	FIXED(512),
#undef FIXED
	[SZ_v] = { KEY_OSZ, { 2, 4, 8 } },
	[SZ_z] = { KEY_OSZ, { 2, 4, 4 } },
	[SZ_p] = { KEY_OSZ, { 4, 6, 10 } },
	[SZ_a] = { KEY_OSZ, { 4, 8, 8 } },
	[SZ_env] = { KEY_OSZ, { 14, 28, 28 } },
	[SZ_fst] = { KEY_OSZ, { 94, 108, 108 } },
	[SZ_y] = { KEY_W, { 4, 8 } },
	[SZ_m] = { KEY_M64, { 4, 8 } },
	[SZ_s] = { KEY_M64, { 6, 10 } },
	[SZ_ad] = { KEY_ASZ, { 2, 4, 8 } },
	[SZ_x] = { KEY_VL, { 16, 32, 64 } },
	[SZ_xh] = { KEY_VL, { 8, 16, 32 } },
	[SZ_xq] = { KEY_VL, { 4, 8, 16 } },
	[SZ_xe] = { KEY_VL, { 2, 4, 8 } },
	[SZ_rxh] = { KEY_VL, { 16, 16, 32 } },
	[SZ_rxq] = { KEY_VL, { 16, 16, 16 } },
	[SZ_dup] = { KEY_VL, { 8, 32, 64 } },
};

/* Operand size, 0 1 2 for 16 32 64 bits, by rule and [mode: 16 32 64][W][66]. */
static const uint8_t opsizes[N_OPSIZE_RULES][3][4] = {
	[OPSIZE_NORMAL] = { { 0, 1, 0, 1 }, { 1, 0, 1, 0 }, { 1, 0, 2, 2 } },
	[OPSIZE_D64] = { { 0, 1, 0, 1 }, { 1, 0, 1, 0 }, { 2, 0, 2, 2 } },
	[OPSIZE_F64] = { { 0, 1, 0, 1 }, { 1, 0, 1, 0 }, { 2, 2, 2, 2 } },
	[OPSIZE_MODE] = { { 1, 1, 1, 1 }, { 1, 1, 1, 1 }, { 2, 2, 2, 2 } },
	[OPSIZE_NO66] = { { 0, 0, 0, 0 }, { 1, 1, 1, 1 }, { 1, 1, 2, 2 } },
};

/* Base and index of the 16-bit forms. SDM 2A table 2-1. */
static const uint8_t base16[8] = { REG_RBX, REG_RBX, REG_RBP, REG_RBP,
				   REG_RSI, REG_RDI, REG_RBP, REG_RBX };
static const uint8_t index16[8] = { REG_RSI,  REG_RDI,	REG_RSI,  REG_RDI,
				    REG_ZERO, REG_ZERO, REG_ZERO, REG_ZERO };

/* What decoding carries along besides the result. */
struct state {
	const uint8_t *p;
	unsigned at;	   /* the cursor: bytes consumed */
	unsigned mode_idx; /* 0 1 2 for 16 32 64 */
	unsigned pfx;
	unsigned space;
	uint8_t seg;  /* override, or N_SEGS */
	uint8_t *dim; /* what trees branch on; apart, so that the rest can live in registers */
	uint8_t reg_hi, x, rm_hi; /* REX.R (and EVEX.R' << 1), X, B as bits 3 and 4 of registers */
	uint8_t vvvv;		  /* V' at bit 4; not inverted */
	uint8_t ll;		  /* EVEX.L'L */
	bool evex_b;
};

/* The 0F, 0F38 and 0F3A escapes. */
static unsigned legacy_opcode(struct state *s, unsigned op)
{
	if (op != 0x0f)
		return op;
	s->space = SPACE_0F;
	op = s->p[s->at++];
	if ((op | 2) == 0x3a) {
		s->space = op == 0x38 ? SPACE_0F38 : SPACE_0F3A;
		op = s->p[s->at++];
	}
	return op;
}

/* Registers 8-31 exist in 64-bit mode only; elsewhere the bits that would select them are
 * ignored where the encoding does not need them to tell BOUND, LDS and LES apart.
 */
static void limit_registers(struct state *s)
{
	if (s->mode_idx != 2)
		s->reg_hi = s->x = s->rm_hi = 0;
}

static unsigned vvvv_register(const struct state *s)
{
	return s->vvvv & (s->mode_idx == 2 ? 31 : 7);
}

/* C4, C5: the bytes from the cursor on. Returns the opcode or -1 for #UD. */
static int vex_opcode(struct state *s, struct insn *out, unsigned lead)
{
	unsigned b1 = s->p[s->at++], b2 = b1, map = 1;

	if (lead == 0xc4) {
		map = b1 & 0x1f;
		b2 = s->p[s->at++];
		s->x = ~b1 >> 3 & 8;
		s->rm_hi = ~b1 >> 2 & 8;
		s->dim[DIM_MW] |= b2 >> 7;
		out->vex_w = b2 >> 7;
	}
	/* LOCK, 66, F2, F3 or REX before is #UD. SDM 2A 2.3.2-2.3.4. */
	if (s->pfx & (PFX_LOCK | PFX_66 | PFX_REP | PFX_REPNE) || out->rex)
		return -1;
	if (map < 1 || map > 3)
		return -1;
	s->space = SPACE_VEX_0F + map - 1;
	s->reg_hi = ~b1 >> 4 & 8;
	s->vvvv = ~b2 >> 3 & 15;
	s->dim[DIM_L] = b2 >> 2 & 1;
	s->dim[DIM_PP] = b2 & 3;
	out->enc = ENC_VEX;
	out->map = map;
	limit_registers(s);
	return s->p[s->at++];
}

/* 62: as above. SDM 2A 2.7. */
static int evex_opcode(struct state *s, struct insn *out)
{
	unsigned p0 = s->p[s->at], p1 = s->p[s->at + 1], p2 = s->p[s->at + 2];
	unsigned map = p0 & 7;

	s->at += 3;
	if (s->pfx & (PFX_LOCK | PFX_66 | PFX_REP | PFX_REPNE) || out->rex)
		return -1;
	if (p0 & 8 || !(p1 & 4) || map < 1 || map > 3)
		return -1;
	if (s->mode_idx != 2 && !(p2 & 8))
		return -1;
	s->space = SPACE_EVEX_0F + map - 1;
	s->reg_hi = (~p0 >> 4 & 8) | (~p0 & 16);
	s->x = ~p0 >> 3 & 8;
	s->rm_hi = ~p0 >> 2 & 8;
	s->vvvv = (~p1 >> 3 & 15) | (~p2 << 1 & 16);
	s->dim[DIM_PP] = p1 & 3;
	s->dim[DIM_MW] |= p1 >> 7;
	s->ll = s->dim[DIM_L] = p2 >> 5 & 3;
	s->evex_b = p2 >> 4 & 1;
	out->enc = ENC_EVEX;
	out->map = map;
	out->vex_w = p1 >> 7;
	out->mask = p2 & 7;
	out->zeroing = p2 >> 7;
	limit_registers(s);
	return s->p[s->at++];
}

/* len (0 to 8) bytes, sign-extended. */
static int64_t read_signed(const uint8_t *p, unsigned len)
{
	unsigned shift = 64 - 8 * len;

	return len ? (int64_t)(load64(p) << shift) >> shift : 0;
}

static void address16(struct state *s, struct insn *out, unsigned mod, unsigned rm)
{
	out->base = base16[rm];
	out->index = index16[rm];
	out->disp_len = mod;
	if (mod == 0 && rm == 6) {
		out->base = REG_ZERO;
		out->disp_len = 2;
	}
	out->seg = out->base == REG_RBP ? SEG_SS : SEG_DS;
}

static void address32(struct state *s, struct insn *out, unsigned mod, unsigned rm, bool vsib)
{
	unsigned base = rm;

	out->index = REG_ZERO;
	out->disp_len = mod == 2 ? 4 : mod;
	if (rm == 4) {
		unsigned sib = s->p[s->at++];
		unsigned index = (sib >> 3 & 7) | s->x;

		base = sib & 7;
		out->scale = sib >> 6;
		if (vsib)
			out->index = index | (s->vvvv & 16);
		else if (index != REG_RSP)
			out->index = index;
	}
	if (base == 5 && mod == 0) {
		out->disp_len = 4;
		out->base = s->mode_idx == 2 && rm == 5 ? REG_BLOCK : REG_ZERO;
		out->seg = SEG_DS;
		return;
	}
	out->base = base | s->rm_hi;
	out->seg = out->base == REG_RSP || out->base == REG_RBP ? SEG_SS : SEG_DS;
}

/* A memory operand of the ModRM byte, up to its displacement. */
static void decode_address(struct state *s, struct insn *out, bool vsib)
{
	unsigned mod = out->modrm >> 6, rm = out->modrm & 7;

	out->has_mem = 1;
	if (out->adsize == 2)
		address16(s, out, mod, rm);
	else
		address32(s, out, mod, rm, vsib);
	out->disp_at = out->disp_len ? s->at : 0;
	out->disp = read_signed(s->p + s->at, out->disp_len);
	s->at += out->disp_len;
}

/* Bytes of an immediate by operand size; and whether its sign counts. */
static const struct {
	uint8_t len[3];
	bool zero;
} imms[N_IMM] = {
	[IMM_B] = { { 1, 1, 1 }, true },  [IMM_BS] = { { 1, 1, 1 }, false },
	[IMM_W] = { { 2, 2, 2 }, true },  [IMM_Z] = { { 2, 4, 4 }, false },
	[IMM_V] = { { 2, 4, 8 }, false },
};

static void decode_compound_imm(struct state *s, struct insn *out, unsigned form)
{
	const uint8_t *p = s->p + s->at;
	unsigned word = out->opsize == 2 ? 2 : 4;

	out->imm_at = s->at;
	switch (form) {
	case IMM_FAR:
		out->imm = word == 2 ? load16(p) : load32(p);
		out->imm2 = load16(p + word);
		out->imm_len = word + 2;
		break;
	case IMM_ENTER:
		out->imm = load16(p);
		out->imm2 = p[2];
		out->imm_len = 3;
		break;
	case IMM_MOFFS:
		/* An address, so not sign-extended. It stands where a displacement would. */
		out->disp = read_signed(p, out->adsize) & size_mask(out->adsize);
		out->disp_at = s->at;
		out->disp_len = out->adsize;
		out->imm_at = 0;
		s->at += out->adsize;
		out->has_mem = 1;
		return;
	}
	s->at += out->imm_len;
}

static void decode_imm(struct state *s, struct insn *out, unsigned form)
{
	unsigned len = imms[form].len[out->opsize >> 2];
	int64_t imm = read_signed(s->p + s->at, len);

	out->imm = imms[form].zero ? imm & (int64_t)size_mask(len) : imm;
	out->imm_len = len;
	out->imm_at = s->at;
	s->at += len;
}

/* Without branches: which registers, memory or sizes it is changes from one instruction to the
 * next, and a processor cannot learn it. */
static inline void decode_operand(struct operand *o, const struct form_opd *fo, bool mem,
				  const uint8_t *numbers, const uint8_t *key, bool no_rex)
{
	bool is_mem = mem & (fo->from == FROM_RM);
	unsigned code = fo->size[is_mem];
	unsigned size = size_of[code].bytes[key[size_of[code].key]];
	unsigned reg = (numbers[fo->from] & fo->mask) | fo->fixed;
	unsigned high;

	reg = is_mem ? 0 : reg;
	high = fo->high & no_rex & (reg >> 2) & !is_mem;
	o->kind = fo->kind[is_mem] + (is_mem ? 0 : fo->wide & size >> 5) + high;
	o->reg = reg & ~(high << 2);
	o->size = size;
}

static void decode_operands(const struct state *s, struct insn *out, const struct insn_form *f)
{
	const uint8_t key[] = { [KEY_OSZ] = out->opsize >> 2,
				[KEY_VL] = out->vl >> 5,
				[KEY_W] = s->dim[DIM_MW] == 3,
				[KEY_M64] = s->mode_idx == 2,
				[KEY_ASZ] = s->dim[DIM_ASZ] };
	const uint8_t numbers[N_FROM] = {
		[FROM_REG] = s->dim[DIM_REG] | s->reg_hi,
		[FROM_RM] = s->dim[DIM_RM] | s->rm_hi | (out->enc == ENC_EVEX ? s->x << 1 : 0),
		[FROM_VVVV] = vvvv_register(s),
		[FROM_IS4] = out->imm >> 4 & (s->mode_idx == 2 ? 15 : 7),
		[FROM_OP] = (out->opcode & 7) | s->rm_hi,
	};
	bool no_rex = !out->rex;

	out->n_opds = f->n_opds;
	/* Operands that the row does not have come out as OPD_NONE. */
	decode_operand(&out->opd[0], &f->opd[0], out->has_mem, numbers, key, no_rex);
	decode_operand(&out->opd[1], &f->opd[1], out->has_mem, numbers, key, no_rex);
	for (unsigned i = 2; i < f->n_opds; i++)
		decode_operand(&out->opd[i], &f->opd[i], out->has_mem, numbers, key, no_rex);
}

/* Registers that an encoding can name but that do not exist. */
static bool registers_exist(const struct state *s, const struct insn *out,
			    const struct insn_form *f)
{
	for (unsigned i = 0; i < f->n_opds; i++) {
		unsigned from = f->opd[i].from;
		unsigned n = from == FROM_REG	 ? s->dim[DIM_REG] | s->reg_hi
			     : from == FROM_VVVV ? vvvv_register(s)
						 : 0;

		switch (f->opd[i].kind[0]) {
		case OPD_CR:
			/* CR0, CR2, CR3, CR4, CR8. */
			if (!(0x11d >> n & 1))
				return false;
			break;
		case OPD_DR:
		case OPD_KREG:
			if (n > 7)
				return false;
			break;
		case OPD_GPR:
			if (n > 15)
				return false;
			break;
		}
	}
	return true;
}

static unsigned vsib_length(const struct insn *out, const struct insn_form *f)
{
	const struct form_opd *fo = &f->opd[f->opd[0].kind[1] == OPD_VSIB ? 0 : 1];

	return size_of[fo->size[0]].bytes[out->vl >> 5];
}

/* Gathers: destination, index and VEX mask must differ. SDM 2C "VGATHERDPS". */
static bool gather_distinct(const struct insn *out)
{
	if (out->opd[0].reg == out->index)
		return false;
	return out->enc == ENC_EVEX ||
	       (out->opd[2].reg != out->index && out->opd[2].reg != out->opd[0].reg);
}

/* What EVEX bits mean for this row. False: #UD. SDM 2A 2.7.11 "#UD Equations for EVEX". */
static bool evex_apply(const struct state *s, struct insn *out, const struct insn_form *f)
{
	unsigned n;

	if (s->evex_b && !(f->flags & (out->has_mem ? FORM_BCAST : FORM_RC)))
		return false;
	if (out->mask ? !(f->flags & FORM_MASK) : out->zeroing || f->flags & FORM_NEEDS_K)
		return false;
	if (out->zeroing && (!(f->flags & FORM_ZERO) || out->opd[0].kind == OPD_MEM))
		return false;
	if (!(f->flags & (FORM_VVVV | FORM_VSIB)) && s->vvvv & 16)
		return false;
	if (!out->has_mem) {
		out->rc = s->evex_b ? 0x80 | s->ll : 0;
		return true;
	}
	n = f->elem;
	out->bcast = s->evex_b;
	for (unsigned i = 0; i < f->n_opds; i++) {
		if (out->opd[i].kind != OPD_MEM)
			continue;
		if (out->bcast)
			out->opd[i].size = f->elem;
		else if (!(f->flags & FORM_DISP_EL))
			n = out->opd[i].size;
	}
	/* Compressed displacement. SDM 2A 2.7.5. */
	if (out->disp_len == 1)
		out->disp *= n;
	return true;
}

static unsigned find_row(const struct state *s, unsigned node)
{
	while (node && !(node & NODE_LEAF)) {
		const uint16_t *branch = &decode_nodes[node];

		node = branch[1 + s->dim[branch[0]]];
	}
	return node & ~NODE_LEAF;
}

static void note_prefix(struct state *s, unsigned byte, unsigned lead)
{
	switch (lead) {
	case LEAD_66: s->pfx |= PFX_66; break;
	case LEAD_67: s->pfx |= PFX_67; break;
	case LEAD_LOCK: s->pfx |= PFX_LOCK; break;
	case LEAD_REP: s->pfx = (s->pfx & ~PFX_REPNE) | PFX_REP; break;
	case LEAD_REPNE: s->pfx = (s->pfx & ~PFX_REP) | PFX_REPNE; break;
	case LEAD_SEG:
		if (byte >= 0x64)
			s->seg = byte - 0x64 + SEG_FS;
		else if (s->mode_idx != 2)
			s->seg = byte >> 3 & 3;
		break;
	}
}

/* Prefixes and REX. Returns the byte after them; the cursor is behind it. */
static unsigned decode_prefixes(struct state *s, struct insn *out)
{
	for (;;) {
		unsigned byte = s->p[s->at], lead;
		bool rex = (byte & 0xf0) == 0x40 && s->mode_idx == 2;

		/* REX or none is a coin toss: no branch on it. */
		out->rex = rex ? byte : 0;
		s->at += rex;
		byte = s->p[s->at++];
		lead = leads[byte];
		if (likely(lead == LEAD_OPCODE) || s->at > INSN_MAX_LEN)
			return byte;
		/* REX counts only right before the opcode (SDM 2A 2.2.1). One before another is
		 * dropped by coming here again. */
		if (lead != LEAD_REX)
			note_prefix(s, byte, lead);
		else if (s->mode_idx == 2)
			s->at--;
		else
			return byte;
	}
}

/* The opcode, after which space and dim (but for ModRM's) are known. -1: #UD. */
static int decode_opcode(struct state *s, struct insn *out, unsigned op)
{
	if ((op == 0x62 || op == 0xc4 || op == 0xc5) && (s->mode_idx == 2 || s->p[s->at] >= 0xc0))
		return op == 0x62 ? evex_opcode(s, out) : vex_opcode(s, out, op);
	op = legacy_opcode(s, op);
	out->map = s->space;
	s->dim[DIM_PP] = s->pfx & PFX_REP ? 2 : s->pfx & PFX_REPNE ? 3 : s->pfx & PFX_66 ? 1 : 0;
	s->dim[DIM_MW] |= out->rex >> 3 & 1;
	s->dim[DIM_B] = out->rex & 1;
	s->reg_hi = out->rex << 1 & 8;
	s->x = out->rex << 2 & 8;
	s->rm_hi = out->rex << 3 & 8;
	return op;
}

/* Everything after the opcode. False: #UD. */
static bool decode_body(struct state *s, struct insn *out)
{
	bool has_modrm = decode_has_modrm[s->space][out->opcode];
	unsigned modrm = has_modrm ? s->p[s->at] : 0;
	bool mem = has_modrm & (modrm < 0xc0);
	const struct insn_form *f;

	out->modrm_at = has_modrm ? s->at : 0;
	out->modrm = modrm;
	s->at += has_modrm;
	s->dim[DIM_MOD] = !mem;
	s->dim[DIM_REG] = modrm >> 3 & 7;
	s->dim[DIM_RM] = modrm & 7;
	/* With registers L'L is the rounding mode. */
	if (s->evex_b && !mem)
		s->dim[DIM_L] = 2;
	out->id = find_row(s, decode_roots[s->space][out->opcode]);
	if (!out->id)
		return false;
	f = &decode_forms[out->id];
	out->op = f->op;
	out->opsize =
		2
		<< opsizes[f->opsize][s->mode_idx][(s->dim[DIM_MW] & 1) * 2 + !!(s->pfx & PFX_66)];
	if (out->enc != ENC_LEGACY)
		out->vl = f->flags & FORM_LIG ? 16 : 16 << s->dim[DIM_L];
	out->seg = SEG_DS;
	if (mem && !(f->flags & FORM_NO_MEM)) {
		if (f->flags & FORM_VSIB) {
			if (out->adsize == 2 || s->dim[DIM_RM] != 4)
				return false;
		}
		decode_address(s, out, f->flags & FORM_VSIB);
	}
	if (s->seg != N_SEGS) {
		out->seg = s->seg;
		s->pfx |= PFX_SEG;
	}
	out->prefix = s->pfx;
	if (f->imm >= IMM_FAR)
		decode_compound_imm(s, out, f->imm);
	else if (f->imm)
		decode_imm(s, out, f->imm);
	decode_operands(s, out, f);
	if (s->pfx & PFX_LOCK && !(f->flags & FORM_LOCKABLE && out->has_mem))
		return false;
	if (f->flags & FORM_REG_LIMITS && !registers_exist(s, out, f))
		return false;
	if (out->enc == ENC_LEGACY)
		return true;
	if (!(f->flags & FORM_VVVV) && s->vvvv & 15)
		return false;
	if (f->flags & FORM_VSIB)
		out->vsib_len = vsib_length(out, f);
	if (f->flags & FORM_DISTINCT && !gather_distinct(out))
		return false;
	return out->enc == ENC_VEX || evex_apply(s, out, f);
}

/* The instruction's bytes, zeros behind them. */
static void copy_bytes(struct insn *out, const uint8_t *p, unsigned len)
{
	static const uint8_t keep[32] = { [0 ... 15] = 0xff };

	store64(out->bytes, load64(p) & load64(keep + 16 - len));
	store64(out->bytes + 8, load64(p + 8) & load64(keep + 24 - len));
}

/* Clear the result, by words: of "*out = 0" GCC makes a REP STOS, which costs as much as a third of
 * all decoding. */
static void clear(struct insn *out)
{
	uint64_t *w = (uint64_t *)out;

	_Static_assert(sizeof(*out) % 8 == 0 && _Alignof(struct insn) == 8, "whole words");
	for (unsigned i = 0; i < sizeof(*out) / 8; i++) {
		w[i] = 0;
		__asm__("" : "+m"(w[i]));
	}
}

enum decode_result decode(const uint8_t *code, size_t n, unsigned mode, struct insn *out)
{
	uint8_t padded[INSN_MAX_LEN + PADDING];
	uint8_t dim[N_DIMS] = { 0 };
	struct state s = { .p = code, .seg = N_SEGS, .mode_idx = mode >> 2, .dim = dim };
	unsigned byte;
	bool ok = false;
	int op;

	if (n < sizeof(padded)) {
		memset(padded, 0, sizeof(padded));
		memcpy(padded, code, MIN(n, (size_t)INSN_MAX_LEN));
		s.p = padded;
	}
	clear(out);
	out->mode = mode;
	out->base = out->index = REG_ZERO;
	byte = decode_prefixes(&s, out);
	out->adsize = mode == 2 ? 2 : mode == 4 ? 4 : 8;
	s.dim[DIM_MW] = mode == 8 ? 2 : 0;
	if (s.pfx & PFX_67)
		out->adsize = mode == 4 ? 2 : 4;
	s.dim[DIM_ASZ] = out->adsize >> 2;
	s.dim[DIM_OSZ] =
		opsizes[OPSIZE_NORMAL][s.mode_idx][(out->rex >> 3 & 1) * 2 + !!(s.pfx & PFX_66)];
	op = decode_opcode(&s, out, byte);
	if (op >= 0) {
		out->opcode = op;
		out->opcode_at = s.at - 1;
		ok = decode_body(&s, out);
	}
	if (s.at > MIN(n, (size_t)INSN_MAX_LEN))
		return n < INSN_MAX_LEN ? DECODE_MORE : DECODE_LONG;
	out->len = s.at;
	if (!ok)
		return DECODE_UD;
	copy_bytes(out, s.p, s.at);
	return DECODE_OK;
}
