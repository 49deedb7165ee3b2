/* MOVS CMPS STOS LODS SCAS INS OUTS with their repeat prefixes.
 *
 * Every iteration is an instruction boundary: registers are right after each, so a fault or an
 * interrupt in the middle leaves a state from which the instruction goes on. Long MOVS and STOS go
 * page piece by page piece.
 */
#include "cpu/interp/interp_internal.h"
#include "cpu/interp/operand.h"

#include "cpu/x86/sem.h"
#include "cpu/x86/system.h"
#include "mem/iospace.h"

/* Iterations between two looks at vcpu.kick. */
#define SLICE 256

struct string_op {
	const struct insn *i;
	unsigned size;
	int64_t step; /* bytes per iteration: size, or -size with DF */
};

static uint64_t addr_reg(const struct vcpu *c, const struct insn *i, unsigned reg)
{
	return c->gpr[reg] & size_mask(i->adsize);
}

static void advance(struct vcpu *c, const struct string_op *s, unsigned reg, uint64_t n)
{
	reg_write(c, GPR_OFF(reg), s->i->adsize, c->gpr[reg] + (uint64_t)s->step * n);
}

/* In 64-bit code a far end that is not canonical comes after alignment: the access finds it. */
static unsigned checked_bytes(const struct vcpu *c, unsigned len)
{
	return c->code64 ? 1 : len;
}

static int src_linear(struct vcpu *c, const struct string_op *s, unsigned len, gva_t *gva)
{
	return seg_linear(c, s->i->seg, addr_reg(c, s->i, REG_RSI), checked_bytes(c, len), false,
			  gva);
}

static int dst_linear(struct vcpu *c, const struct string_op *s, unsigned len, bool write,
		      gva_t *gva)
{
	return seg_linear(c, SEG_ES, addr_reg(c, s->i, REG_RDI), checked_bytes(c, len), write, gva);
}

static int movs(struct vcpu *c, const struct string_op *s)
{
	gva_t src, dst;
	uint64_t v;
	int r = src_linear(c, s, s->size, &src);

	if (!r)
		r = mem_load(c, src, s->size, &v);
	if (!r)
		r = dst_linear(c, s, s->size, true, &dst);
	if (!r)
		r = mem_store(c, dst, s->size, v);
	if (r)
		return r;
	advance(c, s, REG_RSI, 1);
	advance(c, s, REG_RDI, 1);
	return 0;
}

static int stos(struct vcpu *c, const struct string_op *s)
{
	gva_t dst;
	int r = dst_linear(c, s, s->size, true, &dst);

	if (!r)
		r = mem_store(c, dst, s->size, c->gpr[REG_RAX]);
	if (!r)
		advance(c, s, REG_RDI, 1);
	return r;
}

static int lods(struct vcpu *c, const struct string_op *s)
{
	gva_t src;
	uint64_t v;
	int r = src_linear(c, s, s->size, &src);

	if (!r)
		r = mem_load(c, src, s->size, &v);
	if (r)
		return r;
	reg_write(c, GPR_OFF(REG_RAX), s->size, v);
	advance(c, s, REG_RSI, 1);
	return 0;
}

static int cmps(struct vcpu *c, const struct string_op *s)
{
	gva_t src, dst;
	uint64_t a, b;
	/* This one is accessed first. */
	int r = dst_linear(c, s, s->size, false, &dst);

	if (!r)
		r = mem_load(c, dst, s->size, &b);
	if (!r)
		r = src_linear(c, s, s->size, &src);
	if (!r)
		r = mem_load(c, src, s->size, &a);
	if (r)
		return r;
	sem_sub(s->size, a, b, &c->cc);
	advance(c, s, REG_RSI, 1);
	advance(c, s, REG_RDI, 1);
	return 0;
}

static int scas(struct vcpu *c, const struct string_op *s)
{
	gva_t dst;
	uint64_t b;
	int r = dst_linear(c, s, s->size, false, &dst);

	if (!r)
		r = mem_load(c, dst, s->size, &b);
	if (r)
		return r;
	sem_sub(s->size, c->gpr[REG_RAX], b, &c->cc);
	advance(c, s, REG_RDI, 1);
	return 0;
}

static int ins(struct vcpu *c, const struct string_op *s)
{
	uint16_t port = (uint16_t)c->gpr[REG_RDX];
	gva_t dst;
	uint64_t v;
	int r = dst_linear(c, s, s->size, true, &dst);

	/* The port may only be read once it is sure that the value has a place. */
	if (!r)
		r = vmem_probe(c, dst, s->size, true, AS_CPL);
	if (r)
		return r;
	c->stats.port_ios++;
	v = iospace_read(c->pio, port, s->size);
	r = mem_store(c, dst, s->size, v);
	if (!r)
		advance(c, s, REG_RDI, 1);
	return r;
}

static int outs(struct vcpu *c, const struct string_op *s)
{
	gva_t src;
	uint64_t v;
	int r = src_linear(c, s, s->size, &src);

	if (!r)
		r = mem_load(c, src, s->size, &v);
	if (r)
		return r;
	c->stats.port_ios++;
	iospace_write(c->pio, (uint16_t)c->gpr[REG_RDX], s->size, v);
	advance(c, s, REG_RSI, 1);
	return 0;
}

static int once(struct vcpu *c, const struct string_op *s)
{
	switch (s->i->op) {
	case OP_MOVS: return movs(c, s);
	case OP_STOS: return stos(c, s);
	case OP_LODS: return lods(c, s);
	case OP_CMPS: return cmps(c, s);
	case OP_SCAS: return scas(c, s);
	case OP_INS: return ins(c, s);
	default: return outs(c, s);
	}
}

/* Bytes from gva to the end of its page, at most max. */
static uint64_t page_rest(gva_t gva, uint64_t max)
{
	return MIN(max, PAGE_SIZE - (gva & (PAGE_SIZE - 1)));
}

/* Forward MOVS and STOS of as many of count iterations as lie in one page of RAM each; returns how
 * many were done. 0 where it is not so simple: then once() finds out why.
 */
static uint64_t bulk(struct vcpu *c, const struct string_op *s, uint64_t count)
{
	bool is_movs = s->i->op == OP_MOVS;
	uint64_t bytes = MIN(count, PAGE_SIZE) * s->size;
	uint8_t *from = NULL, *to;
	gva_t src = 0, dst;

	if (s->step < 0 || c->tlb_mode == TLB_SLOW || count < 4)
		return 0;
	bytes = MIN(bytes, PAGE_SIZE);
	if (dst_linear(c, s, 1, true, &dst) || (is_movs && src_linear(c, s, 1, &src)))
		return 0;
	bytes = page_rest(dst, bytes);
	if (is_movs)
		bytes = page_rest(src, bytes);
	bytes -= bytes % s->size;
	if (!bytes || dst_linear(c, s, (unsigned)bytes, true, &dst) ||
	    (is_movs && src_linear(c, s, (unsigned)bytes, &src)))
		return 0;
	if (is_movs && (vmem_host(c, src, (unsigned)bytes, false, AS_CPL, &from) || !from))
		return 0;
	if (vmem_host(c, dst, (unsigned)bytes, true, AS_CPL, &to) || !to)
		return 0;
	if (!is_movs) {
		for (uint64_t n = 0; n < bytes; n += s->size)
			store_host(to + n, s->size, c->gpr[REG_RAX]);
	} else if (to > from && to < from + bytes) {
		/* Overlap forward repeats the beginning: element by element. */
		for (uint64_t n = 0; n < bytes; n += s->size)
			store_host(to + n, s->size, load_host(from + n, s->size));
	} else {
		memmove(to, from, bytes);
	}
	vmem_stored(c, to, (unsigned)bytes);

	uint64_t n = bytes / s->size;

	advance(c, s, REG_RDI, n);
	if (is_movs)
		advance(c, s, REG_RSI, n);
	return n;
}

/* Does REPE or REPNE end after this comparison? */
static bool ends(const struct vcpu *c, const struct insn *i)
{
	if (i->op != OP_CMPS && i->op != OP_SCAS)
		return false;
	return !(c->cc & CC_ZF) == !(i->prefix & PFX_REPNE);
}

/* Addresses of 32 bits clear the upper half of rCX even if there is no iteration; MOVS and STOS
 * also those of their pointers. The SDM leaves it open; processors do so. */
static void cut_registers(struct vcpu *c, const struct string_op *s)
{
	if (s->i->adsize != 4)
		return;
	c->gpr[REG_RCX] = (uint32_t)c->gpr[REG_RCX];
	if (s->i->op == OP_MOVS)
		c->gpr[REG_RSI] = (uint32_t)c->gpr[REG_RSI];
	if (s->i->op == OP_MOVS || s->i->op == OP_STOS)
		c->gpr[REG_RDI] = (uint32_t)c->gpr[REG_RDI];
}

/* The flags of the last comparison appear when all is over: an event in the middle sees what they
 * were before the first (SDM 2B REP). */
static int repeat(struct vcpu *c, const struct uop *u, const struct string_op *s)
{
	bool can_bulk = s->i->op == OP_MOVS || s->i->op == OP_STOS;
	uint32_t cc = c->cc;
	unsigned slice = SLICE;

	cut_registers(c, s);
	for (;;) {
		uint64_t count = addr_reg(c, s->i, REG_RCX), n = 0;

		if (!count)
			return 0;
		if (can_bulk && !interp_of(c)->stepping)
			n = bulk(c, s, count);
		if (!n) {
			int r = once(c, s);

			if (r) {
				c->cc = cc;
				return r;
			}
			n = 1;
		}
		reg_write(c, GPR_OFF(REG_RCX), s->i->adsize, count - n);
		if (n == count || ends(c, s->i))
			return 0;
		slice = n >= slice ? 0 : slice - (unsigned)n;
		if (slice && !interp_of(c)->stepping)
			continue;
		slice = SLICE;
		if (interp_of(c)->stepping ||
		    atomic_load_explicit(&c->kick, memory_order_relaxed)) {
			c->cc = cc;
			c->rip = uop_rip(c, u);
			interp_of(c)->in_repeat = true;
			return EXEC_END;
		}
	}
}

static NOINLINE int do_x_string(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	struct string_op s = { .i = i, .size = u->size, .step = u->size };

	if (c->rflags_rest & RFLAGS_DF)
		s.step = -s.step;
	if (i->op == OP_INS || i->op == OP_OUTS) {
		int r = io_check(c, (uint16_t)c->gpr[REG_RDX], s.size);

		if (r)
			return r;
		if (unlikely(c->no_devices))
			return EXC_ALONE;
	}
	return i->prefix & (PFX_REP | PFX_REPNE) ? repeat(c, u, &s) : once(c, &s);
}
HANDLER(x_string)
