/* IRET. SDM 2A IRET/IRETD/IRETQ. */
#include "cpu/x86/fault.h"
#include "cpu/x86/segment.h"
#include "cpu/x86/stack.h"
#include "cpu/x86/transfer.h"
#include "cpu/x86/transfer_internal.h"

struct frame {
	uint64_t rip, cs, rflags;
};

static enum x86_exc pop_frame(struct vcpu *c, struct stack *s, unsigned opsize, struct frame *f)
{
	enum x86_exc r = stack_get(c, s, opsize, &f->rip);

	if (!r)
		r = stack_get(c, s, opsize, &f->cs);
	if (!r)
		r = stack_get(c, s, opsize, &f->rflags);
	return r;
}

/* Bits that any IRET of the operand size may change. */
static uint64_t common_flags(unsigned opsize)
{
	uint64_t mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;

	return opsize == 2 ? mask : mask | RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
}

/* -- Real and virtual-8086 mode -------------------------------------------------------------- */

static void real_return(struct vcpu *c, const struct stack *s, const struct frame *f, uint64_t mask)
{
	stack_commit(c, s);
	seg_set_real(c, SEG_CS, (uint16_t)f->cs);
	c->rip = f->rip;
	rflags_change(c, f->rflags, mask);
	vcpu_update_mode(c);
}

static enum x86_exc iret_real(struct vcpu *c, unsigned opsize)
{
	struct stack s = stack_now(c);
	struct frame f;
	enum x86_exc r = pop_frame(c, &s, opsize, &f);

	if (r)
		return r;
	if (f.rip > c->seg[SEG_CS].limit)
		return exc_gp0(c);
	real_return(c, &s, &f, common_flags(opsize) | RFLAGS_IF | RFLAGS_IOPL);
	return EXC_NONE;
}

/* With virtual-8086 mode extensions: IF of the frame is VIF. SDM 3A 20.3.3.4. */
static enum x86_exc iret_vme(struct vcpu *c)
{
	struct stack s = stack_now(c);
	struct frame f;
	enum x86_exc r = pop_frame(c, &s, 2, &f);

	if (r)
		return r;
	if (f.rflags & RFLAGS_TF || (f.rflags & RFLAGS_IF && c->rflags_rest & RFLAGS_VIP))
		return exc_gp0(c);
	if (f.rflags & RFLAGS_IF)
		f.rflags |= RFLAGS_VIF;
	real_return(c, &s, &f, common_flags(2) | RFLAGS_VIF);
	return EXC_NONE;
}

static enum x86_exc iret_v8086(struct vcpu *c, unsigned opsize)
{
	struct stack s = stack_now(c);
	struct frame f;
	enum x86_exc r;

	if (iopl(c) < 3)
		return c->cr4 & CR4_VME && opsize == 2 ? iret_vme(c) : exc_gp0(c);
	r = pop_frame(c, &s, opsize, &f);
	if (r)
		return r;
	if (f.rip > c->seg[SEG_CS].limit)
		return exc_gp0(c);
	real_return(c, &s, &f, common_flags(opsize) | RFLAGS_IF);
	return EXC_NONE;
}

/* -- Protected mode ------------------------------------------------------------------------- */

static enum x86_exc to_v8086(struct vcpu *c, struct stack *s, const struct frame *f)
{
	static const uint8_t order[] = { SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	uint64_t esp, sel[ARRAY_SIZE(order)];
	enum x86_exc r = stack_get(c, s, 4, &esp);

	for (unsigned i = 0; i < ARRAY_SIZE(order) && !r; i++)
		r = stack_get(c, s, 4, &sel[i]);
	if (r)
		return r;
	if (f->rip > 0xffff)
		return exc_gp0(c);
	vcpu_set_rflags(c, f->rflags);
	seg_set_real(c, SEG_CS, (uint16_t)f->cs);
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		seg_set_real(c, order[i], (uint16_t)sel[i]);
	c->gpr[REG_RSP] = esp;
	c->rip = f->rip;
	vcpu_update_mode(c);
	return EXC_NONE;
}

static uint64_t flags_allowed(const struct vcpu *c, unsigned opsize)
{
	uint64_t mask = common_flags(opsize);

	if (c->cpl <= iopl(c))
		mask |= RFLAGS_IF;
	if (c->cpl == 0)
		mask |= opsize == 2 ? RFLAGS_IOPL : RFLAGS_IOPL | RFLAGS_VIF | RFLAGS_VIP;
	return mask;
}

static enum x86_exc to_same_stack(struct vcpu *c, const struct stack *s, const struct desc *d,
				  const struct frame *f, uint64_t mask)
{
	enum x86_exc r = code_check_rip(c, d, f->rip);

	if (r)
		return r;
	stack_commit(c, s);
	code_enter(c, d, c->cpl, f->rip);
	rflags_change(c, f->rflags, mask);
	vcpu_update_mode(c);
	return EXC_NONE;
}

static enum x86_exc to_other_stack(struct vcpu *c, struct stack *s, unsigned opsize,
				   const struct desc *d, const struct frame *f, uint64_t mask)
{
	uint64_t rsp, sel;
	struct seg ss;
	enum x86_exc r = stack_get(c, s, opsize, &rsp);

	if (!r)
		r = stack_get(c, s, opsize, &sel);
	if (!r)
		r = return_check_ss(c, (uint16_t)sel, d->sel & 3,
				    c->long_mode && desc_attr(d) & ATTR_L, &ss);
	if (!r)
		r = code_check_rip(c, d, f->rip);
	if (r)
		return r;
	rflags_change(c, f->rflags, mask);
	return_outer(c, d, f->rip, &ss, rsp);
	return EXC_NONE;
}

enum x86_exc iret(struct vcpu *c, unsigned opsize, gva_t next_rip)
{
	struct stack s = stack_now(c);
	struct frame f;
	struct desc d;
	uint64_t mask;
	enum x86_exc r;

	/* NMIs come again even if this IRET faults. SDM 3A 6.7.1, 3C "NMI blocking". */
	c->nmi_blocked = 0;
	if (!(c->cr0 & CR0_PE))
		return iret_real(c, opsize);
	if (is_v8086(c))
		return iret_v8086(c, opsize);
	if (c->rflags_rest & RFLAGS_NT)
		return c->long_mode ? exc_gp0(c) : task_return(c, next_rip);
	r = pop_frame(c, &s, opsize, &f);
	if (r)
		return r;
	if (f.rflags & RFLAGS_VM && c->cpl == 0 && opsize == 4 && !c->long_mode)
		return to_v8086(c, &s, &f);
	r = return_check_cs(c, (uint16_t)f.cs, &d);
	if (r)
		return r;
	mask = flags_allowed(c, opsize);
	/* 64-bit mode always has SS and RSP in the frame. */
	if (c->code64 || (d.sel & 3) > c->cpl)
		return to_other_stack(c, &s, opsize, &d, &f, mask);
	return to_same_stack(c, &s, &d, &f, mask);
}
