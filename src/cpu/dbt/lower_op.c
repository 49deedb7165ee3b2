/* Instructions that are copied: the guest's own, with registers and memory operand renamed. */
#include "cpu/dbt/translate_internal.h"

#include "cpu/x86/decode_internal.h"

/* What an encoding names, as host registers; fields that name no general register are the guest's
 * own. */
struct fields {
	unsigned reg, rm, vvvv;
	bool mem; /* rm is mem */
	struct hmem m;
	bool low_bytes; /* a byte register 4-7 that is not AH ... BH */
	uint8_t op_low; /* register in the opcode, if op_reg */
	bool op_reg;
};

static uint8_t byte_of(const struct insn *i, unsigned at)
{
	return i->bytes[at];
}

/* -- Writing it ------------------------------------------------------------------------------- */

static void put_modrm(struct emit *e, const struct insn *i, const struct fields *f)
{
	if (f->mem)
		e_modrm_mem(e, f->reg, f->m);
	else if (i->modrm_at)
		e8(e, (uint8_t)(0xc0 | (f->reg & 7) << 3 | (f->rm & 7)));
}

static unsigned ext_b(const struct fields *f)
{
	return f->mem ? f->m.base >> 3 & 1u : f->rm >> 3 & 1;
}

static unsigned ext_x(const struct fields *f)
{
	return f->mem && f->m.index != H_NONE ? f->m.index >> 3 & 1u : 0;
}

static void put_legacy(struct emit *e, const struct insn *i, const struct fields *f)
{
	unsigned rex = i->rex & 8;
	uint8_t opcode = i->opcode;

	/* These are prefixes and nothing at all in 64-bit code. */
	if (i->mode == 4 && !i->map && (opcode & 0xf0) == 0x40) {
		if (i->opsize == 2)
			e8(e, 0x66);
		e_op_reg(e, 0, 0, 0xff, opcode >> 3 & 1, f->op_low);
		return;
	}
	if (i->mode == 4 && !i->map && opcode == 0x82)
		opcode = 0x80;
	for (unsigned n = 0; n < i->opcode_at; n++) {
		uint8_t b = byte_of(i, n);

		if (b == 0x66 || b == 0xf0 || b == 0xf2 || b == 0xf3)
			e8(e, b);
	}
	if (f->op_reg) {
		rex |= f->op_low >> 3;
		opcode = (uint8_t)((opcode & 0xf8) | (f->op_low & 7));
	} else {
		rex |= ext_b(f);
	}
	rex |= (f->reg >> 1 & 4) | ext_x(f) << 1;
	if (rex || f->low_bytes)
		e8(e, (uint8_t)(0x40 | rex));
	if (i->map)
		e8(e, 0x0f);
	if (i->map >= 2)
		e8(e, i->map == 2 ? 0x38 : 0x3a);
	e8(e, opcode);
	put_modrm(e, i, f);
}

/* Does W say how wide a general register is, or what could have come from one? It is ignored in
 * 32-bit code then. */
static bool is_scalar(const struct insn *i)
{
	for (unsigned n = 0; n < i->n_opds; n++)
		if (i->opd[n].kind == OPD_GPR)
			return true;
	switch (i->opcode) {
	case 0x2a: /* VCVTSI2SS, VCVTSI2SD */
	case 0x6e: /* VMOVD */
	case 0x7e: return i->map == 1;
	case 0x16: /* VPEXTRD */
	case 0x22: /* VPINSRD */
	case 0x60: /* VPCMPESTRM, VPCMPESTRI: lengths in rAX and rDX */
	case 0x61: return i->map == 3;
	default: return false;
	}
}

static void put_vex(struct emit *e, const struct insn *i, const struct fields *f)
{
	unsigned at = i->opcode_at;
	uint8_t last = byte_of(i, at - 1); /* W vvvv L pp, or R vvvv L pp of the short form */
	unsigned w = byte_of(i, at - 2) == 0xc5 ? 0 : last & 0x80;

	if (i->mode == 4 && is_scalar(i))
		w = 0;
	e8(e, 0xc4);
	e8(e, (uint8_t)((f->reg & 8 ? 0 : 0x80) | (ext_x(f) ? 0 : 0x40) | (ext_b(f) ? 0 : 0x20) |
			i->map));
	e8(e, (uint8_t)(w | (~f->vvvv & 15) << 3 | (last & 7)));
	e8(e, i->opcode);
	put_modrm(e, i, f);
}

static void put_evex(struct emit *e, const struct insn *i, const struct fields *f)
{
	unsigned at = i->opcode_at;
	uint8_t p0 = byte_of(i, at - 3), p1 = byte_of(i, at - 2), p2 = byte_of(i, at - 1);

	p0 = (uint8_t)((p0 & 0x0f) | (f->reg & 8 ? 0 : 0x80) | (f->reg & 16 ? 0 : 0x10) |
		       (ext_b(f) ? 0 : 0x20));
	/* With a register operand X is bit 4 of its number. */
	p0 |= (f->mem ? ext_x(f) : f->rm >> 4 & 1) ? 0 : 0x40;
	p1 = (uint8_t)((p1 & 0x87) | (~f->vvvv & 15) << 3);
	p2 = (uint8_t)((p2 & ~8u) | (f->vvvv & 16 ? 0 : 8));
	E_BYTES(e, 0x62, p0, p1, p2, i->opcode);
	put_modrm(e, i, f);
}

static void put(struct tr *t, const struct insn *i, const struct fields *f)
{
	struct emit *e = &t->e;

	if (i->enc == ENC_LEGACY)
		put_legacy(e, i, f);
	else if (i->enc == ENC_VEX)
		put_vex(e, i, f);
	else
		put_evex(e, i, f);
	for (unsigned n = 0; n < i->imm_len; n++)
		e8(e, byte_of(i, i->imm_at + n));
}

/* -- What it names ---------------------------------------------------------------------------- */

static void original_fields(const struct insn *i, struct fields *f)
{
	unsigned at = i->opcode_at;

	*f = (struct fields){ .reg = i->modrm >> 3 & 7, .rm = i->modrm & 7 };
	if (i->enc == ENC_LEGACY) {
		f->reg |= i->rex << 1 & 8;
		f->rm |= i->rex << 3 & 8;
	} else if (i->enc == ENC_VEX) {
		uint8_t last = byte_of(i, at - 1);
		bool two = byte_of(i, at - 2) == 0xc5;
		uint8_t first = two ? (uint8_t)(last | 0x60) : byte_of(i, at - 2);

		f->vvvv = ~last >> 3 & 15;
		f->reg |= first & 0x80 ? 0 : 8;
		f->rm |= first & 0x20 ? 0 : 8;
	} else {
		uint8_t p0 = byte_of(i, at - 3);

		f->vvvv = (~byte_of(i, at - 2) >> 3 & 15) | (byte_of(i, at - 1) & 8 ? 0 : 16);
		f->reg |= (p0 & 0x80 ? 0 : 8) | (p0 & 0x10 ? 0 : 16);
		f->rm |= (p0 & 0x20 ? 0 : 8) | (p0 & 0x40 ? 0 : 16);
	}
	if (i->mode == 4) {
		f->reg &= 7;
		f->rm &= 7;
		f->vvvv &= 7;
	}
}

/* Registers that are not where an encoding can name them: displaced ones, and the second lowest
 * byte of what stands beside a register that wants a REX prefix, or of RCX. The latter are turned
 * right by a byte while they are in a scratch register. */
#define TURNED 16 /* plus the guest register */

/* How an instruction uses what has to be made free for it. */
struct uses {
	int mem;		   /* operand in memory, or -1 */
	bool count;		   /* CL */
	bool high;		   /* AH, DH or BH, in place */
	bool turned;		   /* AH ... BH, turned */
	uint8_t guest[3], host[3]; /* such registers and where they are meanwhile */
	bool written[3];
	unsigned n;
};

static bool note_displaced(struct uses *u, uint8_t g, bool written)
{
	for (unsigned n = 0; n < u->n; n++) {
		if (u->guest[n] == g) {
			u->written[n] |= written;
			return true;
		}
	}
	if (u->n == 2)
		return false;
	u->guest[u->n] = g;
	u->written[u->n++] = written;
	return true;
}

/* Can the encoding name AH ... BH as they are? */
static bool fits_high(const struct insn *i)
{
	for (unsigned n = 0; n < i->n_opds; n++)
		if ((i->opd[n].kind == OPD_GPRH && i->opd[n].reg == REG_RCX) ||
		    (i->opd[n].kind == OPD_GPR && host_reg[i->opd[n].reg] >= H_R8))
			return false;
	return true;
}

static bool look(const struct insn *i, struct uses *u)
{
	const struct insn_form *form = &decode_forms[i->id];
	bool fits = fits_high(i);

	*u = (struct uses){ .mem = -1 };
	for (unsigned n = 0; n < i->n_opds; n++) {
		const struct operand *o = &i->opd[n];

		switch (o->kind) {
		case OPD_MEM: u->mem = (int)n; break;
		case OPD_GPRH:
			u->high |= fits;
			u->turned |= !fits;
			if (!fits && !note_displaced(u, TURNED + o->reg, tr_is_written(i, n)))
				return false;
			break;
		case OPD_GPR:
			if (form->opd[n].from == FROM_NONE)
				u->count |= o->reg == REG_RCX;
			else if (host_reg[o->reg] == H_NONE &&
				 !note_displaced(u, o->reg, tr_is_written(i, n)))
				return false;
			break;
		default: break;
		}
	}
	/* Those that write two registers could lose one by taking back the other. */
	if (u->turned && (i->op == OP_XCHG || i->op == OP_XADD || i->op == OP_CMPXCHG))
		return false;
	return !(u->high || u->turned) || !u->count;
}

/* A register of u into its scratch register. */
static void bring(struct emit *e, const struct uses *u, unsigned n)
{
	if (u->guest[n] >= TURNED)
		e_rorx(e, u->host[n], host_reg[u->guest[n] - TURNED], 8);
	else
		e_load(e, u->host[n], h_gs(CTX_GPR(u->guest[n])));
}

static void take_back(struct emit *e, const struct uses *u, unsigned n)
{
	if (u->guest[n] >= TURNED)
		e_rorx(e, host_reg[u->guest[n] - TURNED], u->host[n], 56);
	else
		e_store(e, h_gs(CTX_GPR(u->guest[n])), u->host[n]);
}

/* Give every field that names a general register its host register. */
static void rename_fields(const struct insn *i, const struct uses *u, struct fields *f)
{
	const struct insn_form *form = &decode_forms[i->id];

	for (unsigned n = 0; n < i->n_opds; n++) {
		const struct operand *o = &i->opd[n];
		unsigned h, guest = o->reg;

		if (form->opd[n].from == FROM_NONE ||
		    (o->kind != OPD_GPR && !(o->kind == OPD_GPRH && u->turned)))
			continue;
		h = host_reg[o->reg];
		if (o->kind == OPD_GPRH)
			guest += TURNED;
		for (unsigned s = 0; s < u->n; s++)
			if (u->guest[s] == guest)
				h = u->host[s];
		if (o->size == 1 && h >= 4)
			f->low_bytes = true;
		switch (form->opd[n].from) {
		case FROM_REG: f->reg = h; break;
		case FROM_RM: f->rm = h; break;
		case FROM_VVVV: f->vvvv = h; break;
		case FROM_OP:
			f->op_low = (uint8_t)h;
			f->op_reg = true;
			break;
		default: break;
		}
	}
}

static bool is_power_of_two(unsigned n)
{
	return n && !(n & (n - 1)) && n <= 64;
}

/* Must the address stand in one register? Without REX, or in other units of displacement, or where
 * S_ADD is wanted for something else. */
static bool wants_whole(const struct insn *i, const struct uses *u, bool has_disp)
{
	return u->high || u->count || is_x87(i) || (has_disp && i->enc == ENC_EVEX);
}

/* Does i read what register n of u was before it? */
static bool reads(const struct insn *i, const struct uses *u, unsigned n)
{
	const struct operand *o = &i->opd[0];

	if (insn_table[i->id].attr & (INSN_SRC_DST | INSN_NO_DST) || !u->written[n] ||
	    o->kind != OPD_GPR || o->reg != u->guest[n] || o->size < 4)
		return true;
	for (unsigned k = 1; k < i->n_opds; k++)
		if (i->opd[k].kind == OPD_GPR && i->opd[k].reg == u->guest[n])
			return true;
	return false;
}

/* Where registers that are displaced stand meanwhile, with an operand in memory at base + S_ADD. */
enum place {
	PLACE_NONE,   /* there are too many */
	PLACE_ADDR,   /* in S_ADDR: it is free */
	PLACE_LOADED, /* in S_ADD, from the load on */
	PLACE_WHOLE,  /* the address stands in S_ADDR, or in S_ADD if RCX is a count */
};

static enum place place_with_memory(const struct insn *i, const struct uses *u, bool addr_free,
				    bool has_disp)
{
	if (!u->n)
		return wants_whole(i, u, has_disp) ? PLACE_WHOLE : PLACE_ADDR;
	/* MULX writes its two registers when it is done with the address. */
	if (i->op == OP_MULX)
		return PLACE_WHOLE;
	if (u->n > 1 || u->count)
		return PLACE_NONE;
	if (wants_whole(i, u, has_disp))
		return PLACE_WHOLE;
	return addr_free ? PLACE_ADDR : !reads(i, u, 0) ? PLACE_LOADED : PLACE_WHOLE;
}

bool copy_is_quiet(const struct insn *i, bool member)
{
	bool addr_free =
		i->has_mem && i->base < REG_BLOCK && host_reg[i->base] != H_NONE && i->mode == 8;
	struct uses u;

	if (is_x87(i) || !look(i, &u))
		return false;
	if (u.mem < 0)
		return !i->has_mem && u.n + u.count <= 1;
	return member && !u.count &&
	       (!u.n || place_with_memory(i, &u, addr_free, i->disp) == PLACE_ADDR);
}

/* PCMPESTRI, PCMPISTRI: an index in rCX. */
static bool writes_index(const struct insn *i)
{
	return i->map == 3 && i->enc != ENC_EVEX && (i->opcode == 0x61 || i->opcode == 0x63);
}

/* LEA straight into its destination. */
static bool simple_lea(struct tr *t, const struct insn *i)
{
	struct hmem m = { .base = H_NONE, .index = H_NONE, .scale = i->scale };
	unsigned to = host_reg[i->opd[0].reg];

	if (to == H_NONE || i->opd[0].size < 4 || i->adsize != t->word || i->base >= REG_BLOCK ||
	    i->disp != (int32_t)i->disp || host_reg[i->base] == H_NONE)
		return false;
	m.base = host_reg[i->base];
	m.disp = (int32_t)i->disp;
	if (i->index != REG_ZERO) {
		if (host_reg[i->index] == H_NONE)
			return false;
		m.index = host_reg[i->index];
	}
	e_op_mem(&t->e, i->opd[0].size == 8, 0, 0x8d, to, m);
	return true;
}

/* MOV between rAX and an absolute address has no ModRM: use the form that has. */
static void absolute_move(struct tr *t, const struct insn *i, const struct fields *f)
{
	if (i->opsize == 2 && i->opcode & 1)
		e8(&t->e, 0x66);
	e_op_mem(&t->e, i->opsize == 8 && i->opcode & 1, 0,
		 (uint8_t)((i->opcode & 2 ? 0x88 : 0x8a) | (i->opcode & 1)), H_RAX, f->m);
}

static bool is_absolute_move(const struct insn *i)
{
	return i->op == OP_MOV && !i->map && i->opcode >= 0xa0 && i->opcode <= 0xa3;
}

/* Is it known now that the operand in memory stays in its page? Translations know their own offset
 * in theirs, so an address relative to RIP is known as far. */
static bool is_known_inside(const struct tr *t, const struct insn *i, unsigned size)
{
	uint64_t at = (uint64_t)i->disp + tr_next_off(t);

	return i->base == REG_BLOCK && i->index == REG_ZERO && i->adsize == 8 && i->seg != SEG_FS &&
	       i->seg != SEG_GS && (at & (PAGE_SIZE - 1)) + size <= PAGE_SIZE && !(at & (size - 1));
}

bool lower_copy(struct tr *t, const struct insn *i)
{
	uint32_t attr = insn_table[i->id].attr;
	struct emit *e = &t->e;
	struct fields f;
	bool old = true; /* what displaced registers hold is wanted */
	struct uses u;

	if (!look(i, &u))
		return false;
	original_fields(i, &f);
	u.host[0] = u.count ? S_ADD : S_ADDR;
	u.host[1] = S_ADD;
	if (u.mem < 0 && u.n + u.count > 2)
		return false;
	if (u.mem >= 0) {
		unsigned size = i->opd[u.mem].size;
		uint8_t reg;

		/* A long double: all 16 bytes lie in one page, or none of it is for us. */
		if (size == 10)
			size = 16;
		if (!is_power_of_two(size))
			return false;
		f.mem = true;
		int32_t disp = i->base == REG_BLOCK ? tr_block_off(t, i, t->at) : (int32_t)i->disp;

		if (!tr_member(t, i->base, disp, &f.m)) {
			reg = tr_address(t, i);
			if (reg == H_NONE)
				return false;
			if (is_known_inside(t, i, size))
				size = 1;
			tr_access(t, reg, size, attr & INSN_MEM_DST, attr & INSN_ALIGNED);
			f.m = h_sum(reg, S_ADD);
		}
		switch (place_with_memory(i, &u, f.m.base != S_ADDR, f.m.disp)) {
		case PLACE_NONE: return false;
		case PLACE_ADDR: break;
		case PLACE_LOADED:
			u.host[0] = S_ADD;
			old = false;
			break;
		case PLACE_WHOLE: {
			uint8_t whole = u.count ? S_ADD : S_ADDR;

			e_lea(e, whole, f.m);
			f.m = h_at(whole, 0);
			u.host[0] = S_ADD;
			u.host[1] = S_ADDR; /* MULX */
			old = i->op != OP_MULX;
			break;
		}
		}
	}
	if (u.count)
		e_mov(e, H_RCX, H_GUEST_RCX);
	for (unsigned n = 0; n < u.n && old; n++)
		if (reads(i, &u, n))
			bring(e, &u, n);
	rename_fields(i, &u, &f);
	tr_flags_for(t, i);
	if (is_absolute_move(i))
		absolute_move(t, i, &f);
	else
		put(t, i, &f);
	for (unsigned n = 0; n < u.n; n++)
		if (u.written[n])
			take_back(e, &u, n);
	if (writes_index(i))
		e_mov(e, H_GUEST_RCX, H_RCX);
	/* One that faults has left the pointers of the last. */
	if (i->op == OP_X87 && !(attr & INSN_NOWAIT) && !t->x87_noted) {
		e_load(e, S_ADD, h_gs(CTX(base)));
		e_store(e, h_gs(CTX(x87_base)), S_ADD);
		t->x87_noted = true;
	}
	return true;
}

bool lower_lea(struct tr *t, const struct insn *i)
{
	const struct operand *o = &i->opd[0];
	uint8_t from, to = host_reg[o->reg] == H_NONE ? S_ADDR : host_reg[o->reg];
	struct insn plain;

	if (simple_lea(t, i))
		return true;
	plain = *i;
	plain.seg = SEG_DS;
	from = tr_address(t, &plain);
	if (from == H_NONE)
		return false;
	if (o->size == 2) {
		if (to == S_ADDR)
			return false;
		e8(&t->e, 0x66);
		e_op_reg(&t->e, 0, 0, 0x8b, to, from);
		return true;
	}
	e_op_reg(&t->e, o->size == 8, 0, 0x8b, to, from);
	if (host_reg[o->reg] == H_NONE)
		e_store(&t->e, h_gs(CTX_GPR(o->reg)), to);
	return true;
}

/* CMPXCHG8B, CMPXCHG16B: RCX is an operand. */
bool lower_cmpxchg16b(struct tr *t, const struct insn *i)
{
	bool wide = i->op == OP_CMPXCHG16B;
	struct emit *e = &t->e;
	uint8_t reg = tr_address(t, i);

	if (reg == H_NONE)
		return false;
	tr_access(t, reg, wide ? 16 : 8, true, wide);
	e_lea(e, S_ADD, h_sum(reg, S_ADD));
	e_mov(e, H_RCX, H_GUEST_RCX);
	tr_flags_for(t, i);
	if (i->prefix & PFX_LOCK)
		e8(e, 0xf0);
	e_op_mem(e, wide, 1, 0xc7, 1, h_at(S_ADD, 0));
	return true;
}
