/* Multiply, divide, decimal, shifts, bits: the general handlers. */
#include "cpu/interp/interp_internal.h"
#include "cpu/interp/operand.h"

#include "cpu/x86/sem.h"

/* MUL and IMUL of one operand: rDX:rAX = rAX * operand. */
static NOINLINE int do_x_mul(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	unsigned size = i->opd[0].size;
	uint64_t a = reg_read(c, GPR_OFF(REG_RAX), size), b, lo, hi;
	int r = opd_read(c, u, 0, &b);

	if (r)
		return r;
	if (i->op == OP_MUL)
		sem_mul(size, a, b, &lo, &hi, &c->cc);
	else
		sem_imul(size, a, b, &lo, &hi, &c->cc);
	if (size == 1) {
		R16(c, 0) = (uint16_t)lo;
	} else {
		reg_write(c, GPR_OFF(REG_RAX), size, lo);
		reg_write(c, GPR_OFF(REG_RDX), size, hi);
	}
	return 0;
}
HANDLER(x_mul)

/* IMUL of two or three operands. */
static NOINLINE int do_x_imul(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint64_t a, b;
	int r;

	if (i->op == OP_IMUL2) {
		opd_read(c, u, 0, &a);
		r = opd_read(c, u, 1, &b);
	} else {
		r = opd_read(c, u, 1, &a);
		opd_read(c, u, 2, &b);
	}
	return r ? r : opd_write(c, u, 0, sem_imul2(i->opd[0].size, a, b, &c->cc));
}
HANDLER(x_imul)

/* Quotient and remainder of hi:lo by d; false if the quotient does not fit (#DE). */
static bool divide(bool is_signed, unsigned size, uint64_t hi, uint64_t lo, uint64_t d,
		   uint64_t *quot, uint64_t *rem)
{
	unsigned bits = size * 8;
	unsigned __int128 n = (unsigned __int128)hi << bits | lo;

	if (!d)
		return false;
	if (!is_signed) {
		if (hi >= d)
			return false;
		*quot = (uint64_t)(n / d);
		*rem = (uint64_t)(n % d);
		return true;
	}
	__int128 sn = size == 8 ? (__int128)n : (__int128)sign_extend((uint64_t)n, bits * 2);
	__int128 sd = sign_extend(d, bits);
	/* The most negative number by -1 would trap on the host too. */
	if (sd == -1 && sn == (__int128)((unsigned __int128)1 << 127))
		return false;
	__int128 q = sn / sd;

	if (q != sign_extend((uint64_t)q, bits))
		return false;
	*quot = (uint64_t)q;
	*rem = (uint64_t)(sn % sd);
	return true;
}

static NOINLINE int do_x_div(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	unsigned size = i->opd[0].size;
	uint64_t d, hi, lo, quot, rem;
	int r = opd_read(c, u, 0, &d);

	if (r)
		return r;
	lo = reg_read(c, GPR_OFF(REG_RAX), size);
	hi = size == 1 ? R8(c, 1) : reg_read(c, GPR_OFF(REG_RDX), size);
	if (!divide(i->op == OP_IDIV, size, hi, lo, d, &quot, &rem))
		return raise_exc(c, EXC_DE, 0);
	reg_write(c, GPR_OFF(REG_RAX), size, quot);
	if (size == 1)
		R8(c, 1) = (uint8_t)rem;
	else
		reg_write(c, GPR_OFF(REG_RDX), size, rem);
	return 0;
}
HANDLER(x_div)

/* SF, ZF and PF of a byte, the other flags clear. */
static uint32_t cc_of_byte(uint8_t v)
{
	uint32_t cc;

	sem_or(1, v, v, &cc);
	return cc & (CC_SF | CC_ZF | CC_PF);
}

/* AAA and AAS. SDM 2A. */
static void ascii_adjust(struct vcpu *c, bool add)
{
	uint8_t al = R8(c, 0);
	bool adjust = (al & 15) > 9 || c->cc & CC_AF;

	if (adjust)
		R16(c, 0) = (uint16_t)(add ? R16(c, 0) + 0x106 : R16(c, 0) - 6);
	if (adjust && !add)
		R8(c, 1)--;
	R8(c, 0) &= 15;
	/* SF, ZF, PF, OF are undefined. */
	c->cc = adjust ? CC_AF | CC_CF : 0;
	c->cc |= cc_of_byte(R8(c, 0));
}

/* DAA and DAS. SDM 2A. */
static void decimal_adjust(struct vcpu *c, bool add)
{
	uint8_t old = R8(c, 0), al = old;
	bool carry = c->cc & CC_CF, low = (old & 15) > 9 || c->cc & CC_AF;
	bool high = old > 0x99 || carry, out = high;

	if (low) {
		al = (uint8_t)(add ? al + 6 : al - 6);
		if (!add && old < 6)
			out = true;
	}
	if (high)
		al = (uint8_t)(add ? al + 0x60 : al - 0x60);
	R8(c, 0) = al;
	c->cc = cc_of_byte(al) | (low ? CC_AF : 0) | (out ? CC_CF : 0);
}

static NOINLINE int do_x_bcd(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint8_t base = (uint8_t)i->imm, al = R8(c, 0);

	switch (i->op) {
	case OP_AAA: ascii_adjust(c, true); break;
	case OP_AAS: ascii_adjust(c, false); break;
	case OP_DAA: decimal_adjust(c, true); break;
	case OP_DAS: decimal_adjust(c, false); break;
	case OP_AAM:
		if (!base)
			return raise_exc(c, EXC_DE, 0);
		R8(c, 1) = al / base;
		R8(c, 0) = al % base;
		c->cc = cc_of_byte(R8(c, 0));
		break;
	default: /* AAD */
		R16(c, 0) = (uint8_t)(al + R8(c, 1) * base);
		c->cc = cc_of_byte(R8(c, 0));
	}
	return 0;
}
HANDLER(x_bcd)

static uint64_t shift(unsigned op, unsigned size, uint64_t a, uint64_t n, uint32_t *cc)
{
	switch (op) {
	case OP_ROL: return sem_rol(size, a, n, cc);
	case OP_ROR: return sem_ror(size, a, n, cc);
	case OP_RCL: return sem_rcl(size, a, n, cc);
	case OP_RCR: return sem_rcr(size, a, n, cc);
	case OP_SHL: return sem_shl(size, a, n, cc);
	case OP_SHR: return sem_shr(size, a, n, cc);
	default: return sem_sar(size, a, n, cc);
	}
}

static NOINLINE int do_x_shift(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	unsigned size = i->opd[0].size;
	uint64_t a, n;
	struct rmw m;
	int r;

	opd_read(c, u, 1, &n);
	if (i->opd[0].kind != OPD_MEM) {
		opd_read(c, u, 0, &a);
		return opd_write(c, u, 0, shift(i->op, size, a, n, &c->cc));
	}
	r = rmw_begin(c, uop_ea(c, u), size, &m, &a);
	if (!r)
		rmw_commit(c, &m, false, &a, shift(i->op, size, a, n, &c->cc));
	return r;
}
HANDLER(x_shift)

static NOINLINE int do_x_shld(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	unsigned size = i->opd[0].size;
	uint64_t a, b, n, v;
	struct rmw m;
	int r = 0;

	opd_read(c, u, 1, &b);
	opd_read(c, u, 2, &n);
	if (i->opd[0].kind == OPD_MEM)
		r = rmw_begin(c, uop_ea(c, u), size, &m, &a);
	else
		opd_read(c, u, 0, &a);
	if (r)
		return r;
	v = i->op == OP_SHLD ? sem_shld(size, a, b, (uint8_t)n, &c->cc)
			     : sem_shrd(size, a, b, (uint8_t)n, &c->cc);
	if (i->opd[0].kind == OPD_MEM)
		rmw_commit(c, &m, false, &a, v);
	else
		opd_write(c, u, 0, v);
	return 0;
}
HANDLER(x_shld)

static uint64_t bit_op(unsigned op, unsigned size, uint64_t a, uint64_t bit, uint32_t *cc)
{
	switch (op) {
	case OP_BT: return sem_bt(size, a, bit, cc);
	case OP_BTS: return sem_bts(size, a, bit, cc);
	case OP_BTR: return sem_btr(size, a, bit, cc);
	default: return sem_btc(size, a, bit, cc);
	}
}

/* A bit offset in a register reaches any bit of memory, relative to the operand's address. */
static NOINLINE int do_x_bt(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	unsigned size = i->opd[0].size;
	uint64_t a, bit;
	uint32_t cc = c->cc;
	struct rmw m;
	gva_t gva;
	int r;

	opd_read(c, u, 1, &bit);
	if (i->opd[0].kind != OPD_MEM) {
		opd_read(c, u, 0, &a);
		a = bit_op(i->op, size, a, bit & (size * 8 - 1), &c->cc);
		return i->op == OP_BT ? 0 : opd_write(c, u, 0, a);
	}
	gva = uop_ea(c, u);
	if (i->opd[1].kind == OPD_GPR) {
		int64_t words = sign_extend(bit, size * 8) >> (size == 2 ? 4 : size == 4 ? 5 : 6);

		r = insn_linear(c, u, words * (int)size, size, i->op != OP_BT, &gva);
		if (r)
			return r;
	}
	bit &= size * 8 - 1;
	if (i->op == OP_BT) {
		r = mem_load(c, gva, size, &a);
		if (!r)
			sem_bt(size, a, bit, &c->cc);
		return r;
	}
	r = rmw_begin(c, gva, size, &m, &a);
	if (r)
		return r;
	do {
		c->cc = cc;
		bit_op(i->op, size, a, bit, &c->cc);
	} while (!rmw_commit(c, &m, i->prefix & PFX_LOCK, &a, bit_op(i->op, size, a, bit, &cc)));
	return 0;
}
HANDLER(x_bt)

/* BSF BSR TZCNT LZCNT POPCNT; aux says which, since a CPU without the newer ones runs TZCNT as BSF
 * and LZCNT as BSR. BSF and BSR of 0 leave the whole destination alone, as CPUs do. */
static NOINLINE int do_x_bitscan(struct vcpu *c, const struct uop *u)
{
	unsigned size = u->insn->opd[0].size;
	uint64_t old, v;
	int r = opd_read(c, u, 1, &v);

	if (r)
		return r;
	opd_read(c, u, 0, &old);
	switch (u->aux) {
	case SCAN_BSF: old = sem_bsf(size, old, v, &c->cc); break;
	case SCAN_BSR: old = sem_bsr(size, old, v, &c->cc); break;
	case SCAN_TZCNT: old = sem_tzcnt(size, old, v, &c->cc); break;
	case SCAN_LZCNT: old = sem_lzcnt(size, old, v, &c->cc); break;
	default: old = sem_popcnt(size, old, v, &c->cc);
	}
	if (u->aux <= SCAN_BSR && !v)
		return 0;
	return opd_write(c, u, 0, old);
}
HANDLER(x_bitscan)

static NOINLINE int do_x_crc32(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint64_t crc = c->gpr[i->opd[0].reg], v;
	int r = opd_read(c, u, 1, &v);

	if (r)
		return r;
	switch (i->opd[1].size) {
	case 1: __asm__("crc32b %b1, %k0" : "+r"(crc) : "r"(v)); break;
	case 2: __asm__("crc32w %w1, %k0" : "+r"(crc) : "r"(v)); break;
	case 4: __asm__("crc32l %k1, %k0" : "+r"(crc) : "r"(v)); break;
	default: __asm__("crc32q %1, %0" : "+r"(crc) : "r"(v));
	}
	return opd_write(c, u, 0, crc);
}
HANDLER(x_crc32)

static uint64_t bmi2(unsigned op, unsigned size, uint64_t a, uint64_t b, uint32_t *cc)
{
	switch (op) {
	case OP_ANDN: return sem_andn(size, a, b, cc);
	case OP_BEXTR: return sem_bextr(size, a, b, cc);
	case OP_BZHI: return sem_bzhi(size, a, b, cc);
	case OP_PDEP: return sem_pdep(size, a, b, cc);
	case OP_PEXT: return sem_pext(size, a, b, cc);
	case OP_SARX: return sem_sarx(size, a, b, cc);
	case OP_SHLX: return sem_shlx(size, a, b, cc);
	case OP_SHRX: return sem_shrx(size, a, b, cc);
	default: { /* RORX by immediate */ uint32_t kept = *cc; return sem_ror(size, a, b, &kept);
	}
	}
}

/* VEX-coded general-register instructions: destination, one or two sources. */
static NOINLINE int do_x_bmi(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	unsigned size = i->opd[0].size;
	uint64_t a, b = 0, v;
	int r = opd_read(c, u, 1, &a);

	if (!r && i->n_opds > 2)
		r = opd_read(c, u, 2, &b);
	if (r)
		return r;
	switch (i->op) {
	case OP_BLSI: v = sem_blsi(size, a, &c->cc); break;
	case OP_BLSMSK: v = sem_blsmsk(size, a, &c->cc); break;
	case OP_BLSR: v = sem_blsr(size, a, &c->cc); break;
	default: v = bmi2(i->op, size, a, b, &c->cc);
	}
	return opd_write(c, u, 0, v);
}
HANDLER(x_bmi)

/* MULX hi, lo, source: rDX times source; hi wins if both are the same register. */
static NOINLINE int do_x_mulx(struct vcpu *c, const struct uop *u)
{
	unsigned size = u->insn->opd[0].size;
	uint64_t a = reg_read(c, GPR_OFF(REG_RDX), size), b, lo, hi;
	uint32_t cc;
	int r = opd_read(c, u, 2, &b);

	if (r)
		return r;
	sem_mul(size, a, b, &lo, &hi, &cc);
	opd_write(c, u, 1, lo);
	return opd_write(c, u, 0, hi);
}
HANDLER(x_mulx)

static NOINLINE int do_x_adx(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint64_t a, b;
	int r = opd_read(c, u, 1, &b);

	if (r)
		return r;
	opd_read(c, u, 0, &a);
	return opd_write(
		c, u, 0,
		sem_add_flag(i->opd[0].size, a, b, &c->cc, i->op == OP_ADCX ? CC_CF : CC_OF));
}
HANDLER(x_adx)
