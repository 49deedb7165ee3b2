/* Moves, arithmetic and logic of two operands, in every form: the general handlers. */
#include "cpu/interp/interp_internal.h"
#include "cpu/interp/operand.h"

#include "cpu/x86/sem.h"

static NOINLINE int do_x_mov(struct vcpu *c, const struct uop *u)
{
	uint64_t v;
	int r = opd_read(c, u, 1, &v);

	return r ? r : opd_write(c, u, 0, v);
}
HANDLER(x_mov)

/* MOVZX, MOVSX, MOVSXD. */
static NOINLINE int do_x_movx(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint64_t v;
	int r = opd_read(c, u, 1, &v);

	if (r)
		return r;
	if (i->op == OP_MOVSX)
		v = (uint64_t)sign_extend(v, i->opd[1].size * 8u);
	return opd_write(c, u, 0, v);
}
HANDLER(x_movx)

static NOINLINE int do_x_lea(struct vcpu *c, const struct uop *u)
{
	return opd_write(c, u, 0, insn_offset(c, u, u->insn));
}
HANDLER(x_lea)

/* XCHG with memory locks without being asked (SDM 2D XCHG). */
static NOINLINE int do_x_xchg(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	unsigned mem = i->opd[1].kind == OPD_MEM;
	uint64_t a, b;
	struct rmw m;
	int r;

	if (i->opd[mem].kind != OPD_MEM) {
		opd_read(c, u, 0, &a);
		opd_read(c, u, 1, &b);
		opd_write(c, u, 0, b);
		return opd_write(c, u, 1, a);
	}
	opd_read(c, u, !mem, &b);
	r = rmw_begin(c, uop_ea(c, u), i->opd[mem].size, &m, &a);
	if (r)
		return r;
	while (!rmw_commit(c, &m, true, &a, b))
		;
	return opd_write(c, u, !mem, a);
}
HANDLER(x_xchg)

static NOINLINE int do_x_lahf(struct vcpu *c, const struct uop *u)
{
	if (u->insn->op == OP_LAHF)
		R8(c, 1) = (uint8_t)((c->cc >> 8 & 0xd5) | RFLAGS_FIXED1);
	else
		c->cc = (c->cc & CC_OF) | (R8(c, 1) & 0xd5u) << 8;
	return 0;
}
HANDLER(x_lahf)

static NOINLINE int do_x_xlat(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint64_t v;
	gva_t gva;
	int r;

	if (i->op == OP_SALC) {
		R8(c, 0) = c->cc & CC_CF ? 0xff : 0;
		return 0;
	}
	uint64_t off = (c->gpr[REG_RBX] + R8(c, 0)) & size_mask(i->adsize);

	r = seg_linear(c, i->seg, off, 1, false, &gva);
	if (!r)
		r = mem_load(c, gva, 1, &v);
	if (!r)
		R8(c, 0) = (uint8_t)v;
	return r;
}
HANDLER(x_xlat)

/* CBW CWDE CDQE, CWD CDQ CQO. */
static NOINLINE int do_x_cbw(struct vcpu *c, const struct uop *u)
{
	unsigned size = u->insn->opsize;
	uint64_t a = c->gpr[REG_RAX];

	if (u->insn->op == OP_CBW)
		reg_write(c, GPR_OFF(REG_RAX), size, (uint64_t)sign_extend(a, size * 4));
	else
		reg_write(c, GPR_OFF(REG_RDX), size, a >> (size * 8 - 1) & 1 ? ~0ull : 0);
	return 0;
}
HANDLER(x_cbw)

static NOINLINE int do_x_cmov(struct vcpu *c, const struct uop *u)
{
	uint64_t v, old;
	/* The source is read, and may fault, whatever the condition. */
	int r = opd_read(c, u, 1, &v);

	if (r)
		return r;
	opd_read(c, u, 0, &old);
	/* A 32-bit destination is cleared above even if the condition is false. */
	return opd_write(c, u, 0, sem_cond(insn_cond(u->insn), c->cc) ? v : old);
}
HANDLER(x_cmov)

static NOINLINE int do_x_set(struct vcpu *c, const struct uop *u)
{
	return opd_write(c, u, 0, sem_cond(insn_cond(u->insn), c->cc));
}
HANDLER(x_set)

static uint64_t swap_bytes(uint64_t v, unsigned size)
{
	return __builtin_bswap64(v) >> (64 - size * 8);
}

static NOINLINE int do_x_bswap(struct vcpu *c, const struct uop *u)
{
	unsigned size = u->insn->opd[0].size;
	uint64_t v;

	opd_read(c, u, 0, &v);
	/* 16-bit BSWAP is undefined; CPUs clear the word. */
	return opd_write(c, u, 0, size == 2 ? 0 : swap_bytes(v, size));
}
HANDLER(x_bswap)

static NOINLINE int do_x_movbe(struct vcpu *c, const struct uop *u)
{
	uint64_t v;
	int r = opd_read(c, u, 1, &v);

	return r ? r : opd_write(c, u, 0, swap_bytes(v, u->insn->opd[1].size));
}
HANDLER(x_movbe)

/* 64 bytes from memory to ES:reg, which must be aligned. */
static NOINLINE int do_x_movdir64b(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint64_t off = c->gpr[i->opd[0].reg] & size_mask(i->adsize);
	uint8_t buf[64];
	gva_t dst;
	int r = vmem_read(c, uop_ea(c, u), buf, sizeof(buf), AS_CPL);

	if (!r)
		r = seg_linear(c, SEG_ES, off, sizeof(buf), true, &dst);
	if (!r && dst % sizeof(buf))
		r = raise_gp(c);
	return r ? r : (int)vmem_write(c, dst, buf, sizeof(buf), AS_CPL);
}
HANDLER(x_movdir64b)

static uint64_t alu(unsigned op, unsigned size, uint64_t a, uint64_t b, uint32_t *cc)
{
	switch (op) {
	case OP_ADD: return sem_add(size, a, b, cc);
	case OP_OR: return sem_or(size, a, b, cc);
	case OP_ADC: return sem_adc(size, a, b, cc);
	case OP_SBB: return sem_sbb(size, a, b, cc);
	case OP_AND:
	case OP_TEST: return sem_and(size, a, b, cc);
	case OP_XOR: return sem_xor(size, a, b, cc);
	default: return sem_sub(size, a, b, cc);
	}
}

static NOINLINE int do_x_alu(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	unsigned size = i->opd[0].size;
	uint64_t a, b, res;
	uint32_t cc = c->cc;
	struct rmw m;
	int r = opd_read(c, u, 1, &b);

	if (r)
		return r;
	if (i->opd[0].kind != OPD_MEM || i->op == OP_CMP || i->op == OP_TEST) {
		r = opd_read(c, u, 0, &a);
		if (r)
			return r;
		res = alu(i->op, size, a, b, &c->cc);
		if (i->op != OP_CMP && i->op != OP_TEST)
			opd_write(c, u, 0, res);
		return 0;
	}
	r = rmw_begin(c, uop_ea(c, u), size, &m, &a);
	if (r)
		return r;
	do {
		c->cc = cc;
		res = alu(i->op, size, a, b, &c->cc);
	} while (!rmw_commit(c, &m, i->prefix & PFX_LOCK, &a, res));
	return 0;
}
HANDLER(x_alu)

static uint64_t unary(unsigned op, unsigned size, uint64_t a, uint32_t *cc)
{
	switch (op) {
	case OP_INC: return sem_inc(size, a, cc);
	case OP_DEC: return sem_dec(size, a, cc);
	case OP_NEG: return sem_neg(size, a, cc);
	default: return ~a;
	}
}

static NOINLINE int do_x_unary(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	unsigned size = i->opd[0].size;
	uint32_t cc = c->cc;
	uint64_t a, res;
	struct rmw m;
	int r;

	if (i->opd[0].kind != OPD_MEM) {
		opd_read(c, u, 0, &a);
		return opd_write(c, u, 0, unary(i->op, size, a, &c->cc));
	}
	r = rmw_begin(c, uop_ea(c, u), size, &m, &a);
	if (r)
		return r;
	do {
		c->cc = cc;
		res = unary(i->op, size, a, &c->cc);
	} while (!rmw_commit(c, &m, i->prefix & PFX_LOCK, &a, res));
	return 0;
}
HANDLER(x_unary)

static NOINLINE int do_x_flag(struct vcpu *c, const struct uop *u)
{
	switch (u->insn->op) {
	case OP_CLC: c->cc &= ~CC_CF; break;
	case OP_STC: c->cc |= CC_CF; break;
	case OP_CMC: c->cc ^= CC_CF; break;
	case OP_CLD: c->rflags_rest &= ~(uint64_t)RFLAGS_DF; break;
	default: c->rflags_rest |= RFLAGS_DF; break;
	}
	return 0;
}
HANDLER(x_flag)

int x_nop(struct vcpu *c, const struct uop *u)
{
	NEXT;
}

static NOINLINE int do_x_cmpxchg(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	unsigned size = i->opd[0].size;
	uint64_t acc = reg_read(c, GPR_OFF(REG_RAX), size), old, val;
	struct rmw m;
	int r;

	opd_read(c, u, 1, &val);
	if (i->opd[0].kind != OPD_MEM) {
		opd_read(c, u, 0, &old);
		sem_sub(size, acc, old, &c->cc);
		if (old == acc)
			return opd_write(c, u, 0, val);
		reg_write(c, GPR_OFF(REG_RAX), size, old);
		return 0;
	}
	r = rmw_begin(c, uop_ea(c, u), size, &m, &old);
	if (r)
		return r;
	/* It always writes: the old value where they differ. */
	while (!rmw_commit(c, &m, i->prefix & PFX_LOCK, &old, old == acc ? val : old))
		;
	sem_sub(size, acc, old, &c->cc);
	if (old != acc)
		reg_write(c, GPR_OFF(REG_RAX), size, old);
	return 0;
}
HANDLER(x_cmpxchg)

/* The host's CMPXCHG16B, or 8B, on RAM. *lo and *hi are the comparand, then what was there. */
static bool wide_exchange(uint8_t *p, unsigned half, uint64_t *lo, uint64_t *hi, uint64_t new_lo,
			  uint64_t new_hi)
{
	bool ok;

	if (half == 8) {
		__asm__ volatile("lock cmpxchg16b %0"
				 : "+m"(*(unsigned __int128 *)p), "+a"(*lo), "+d"(*hi), "=@ccz"(ok)
				 : "b"(new_lo), "c"(new_hi)
				 : "memory");
	} else {
		uint32_t a = (uint32_t)*lo, d = (uint32_t)*hi;

		__asm__ volatile("lock cmpxchg8b %0"
				 : "+m"(*(uint64_t *)p), "+a"(a), "+d"(d), "=@ccz"(ok)
				 : "b"((uint32_t)new_lo), "c"((uint32_t)new_hi)
				 : "memory");
		*lo = a;
		*hi = d;
	}
	return ok;
}

/* The same where memory is not RAM inside one page. */
static int wide_exchange_slow(struct vcpu *c, gva_t gva, unsigned half, uint64_t *lo, uint64_t *hi,
			      uint64_t new_lo, uint64_t new_hi, bool *ok)
{
	uint64_t was_lo = 0, was_hi = 0;
	int r = vmem_probe(c, gva, half * 2, true, AS_CPL);

	if (!r)
		r = vmem_read(c, gva, &was_lo, half, AS_CPL);
	if (!r)
		r = vmem_read(c, gva + half, &was_hi, half, AS_CPL);
	if (r)
		return r;
	*ok = was_lo == *lo && was_hi == *hi;
	if (*ok) {
		vmem_write(c, gva, &new_lo, half, AS_CPL);
		vmem_write(c, gva + half, &new_hi, half, AS_CPL);
	}
	*lo = was_lo;
	*hi = was_hi;
	return 0;
}

static NOINLINE int do_x_cmpxchg8b(struct vcpu *c, const struct uop *u)
{
	unsigned half = u->insn->op == OP_CMPXCHG16B ? 8 : 4;
	uint64_t lo = reg_read(c, GPR_OFF(REG_RAX), half), hi = reg_read(c, GPR_OFF(REG_RDX), half);
	uint64_t new_lo = reg_read(c, GPR_OFF(REG_RBX), half);
	uint64_t new_hi = reg_read(c, GPR_OFF(REG_RCX), half);
	gva_t gva = uop_ea(c, u);
	uint8_t *p = NULL;
	bool ok = false;
	int r = 0;

	if (half == 8 && gva & 15)
		return raise_gp(c);
	if ((gva & (PAGE_SIZE - 1)) <= PAGE_SIZE - half * 2)
		r = vmem_host(c, gva, half * 2, true, AS_CPL, &p);
	if (r)
		return r;
	if (p) {
		ok = wide_exchange(p, half, &lo, &hi, new_lo, new_hi);
		vmem_stored(c, p, half * 2);
	} else {
		r = wide_exchange_slow(c, gva, half, &lo, &hi, new_lo, new_hi, &ok);
		if (r)
			return r;
	}
	c->cc = ok ? c->cc | CC_ZF : c->cc & ~CC_ZF;
	if (!ok) {
		reg_write(c, GPR_OFF(REG_RAX), half, lo);
		reg_write(c, GPR_OFF(REG_RDX), half, hi);
	}
	return 0;
}
HANDLER(x_cmpxchg8b)

static NOINLINE int do_x_xadd(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	unsigned size = i->opd[0].size;
	uint64_t a, b, sum;
	struct rmw m;
	int r;

	opd_read(c, u, 1, &b);
	if (i->opd[0].kind != OPD_MEM) {
		opd_read(c, u, 0, &a);
		sum = sem_add(size, a, b, &c->cc);
		opd_write(c, u, 1, a);
		return opd_write(c, u, 0, sum);
	}
	r = rmw_begin(c, uop_ea(c, u), size, &m, &a);
	if (r)
		return r;
	do
		sum = sem_add(size, a, b, &c->cc);
	while (!rmw_commit(c, &m, i->prefix & PFX_LOCK, &a, sum));
	return opd_write(c, u, 1, a);
}
HANDLER(x_xadd)
