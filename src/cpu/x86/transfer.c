/* Far JMP, CALL and RET. SDM 2A JMP, CALL; 2B RET. */
#include "cpu/x86/transfer.h"

#include "cpu/x86/fault.h"
#include "cpu/x86/segment.h"
#include "cpu/x86/stack.h"
#include "cpu/x86/transfer_internal.h"

enum x86_exc code_check_rip(struct vcpu *c, const struct desc *d, uint64_t rip)
{
	if (c->long_mode && desc_attr(d) & ATTR_L)
		return is_canonical(rip) ? EXC_NONE : exc_gp0(c);
	return rip <= desc_limit(d) ? EXC_NONE : exc_gp0(c);
}

void code_enter(struct vcpu *c, const struct desc *d, unsigned cpl, uint64_t rip)
{
	c->seg[SEG_CS] = desc_to_seg(d, (uint16_t)((d->sel & ~3u) | cpl));
	c->rip = rip;
}

/* -- JMP and CALL --------------------------------------------------------------------------- */

static enum x86_exc push_return(struct vcpu *c, struct stack *s, const struct far_target *f)
{
	enum x86_exc r = stack_put(c, s, f->opsize, c->seg[SEG_CS].sel);

	return r ? r : stack_put(c, s, f->opsize, f->next_rip);
}

/* Real and virtual-8086 mode. */
static enum x86_exc far_real(struct vcpu *c, const struct far_target *f)
{
	struct stack s = stack_now(c);
	enum x86_exc r = EXC_NONE;

	if (f->off > c->seg[SEG_CS].limit)
		return exc_gp0(c);
	if (f->call)
		r = push_return(c, &s, f);
	if (r)
		return r;
	stack_commit(c, &s);
	seg_set_real(c, SEG_CS, f->sel);
	c->rip = f->off;
	vcpu_update_mode(c);
	return EXC_NONE;
}

static enum x86_exc far_code(struct vcpu *c, struct desc *d, const struct far_target *f)
{
	struct stack s = stack_now(c);
	enum x86_exc r;

	if (desc_is_conforming(d) ? desc_dpl(d) > c->cpl
				  : (f->sel & 3u) > c->cpl || desc_dpl(d) != c->cpl)
		return exc_selector(c, EXC_GP, f->sel);
	if (desc_is_bad_long_code(c, d))
		return exc_selector(c, EXC_GP, f->sel);
	if (!desc_present(d))
		return exc_selector(c, EXC_NP, f->sel);
	r = code_check_rip(c, d, f->off);
	if (!r)
		r = desc_set_accessed(c, d);
	if (!r && f->call)
		r = push_return(c, &s, f);
	if (r)
		return r;
	stack_commit(c, &s);
	code_enter(c, d, c->cpl, f->off);
	vcpu_update_mode(c);
	return EXC_NONE;
}

/* Gates and tasks. */
static enum x86_exc far_system(struct vcpu *c, struct desc *d, const struct far_target *f)
{
	enum task_why why = f->call ? TASK_CALL : TASK_JMP;
	unsigned type = desc_type(d);
	bool is_tss = type == SYS_TSS16 || type == SYS_TSS32;
	bool is_call = type == SYS_CALL16 || type == SYS_CALL32;

	if (c->long_mode ? type != SYS_CALL32 : !is_tss && !is_call && type != SYS_TASK_GATE)
		return exc_selector(c, EXC_GP, f->sel);
	if (desc_dpl(d) < c->cpl || (f->sel & 3u) > desc_dpl(d))
		return exc_selector(c, EXC_GP, f->sel);
	if (is_tss)
		return task_switch(c, f->sel, why, f->next_rip, vcpu_rflags(c));
	if (!desc_present(d))
		return exc_selector(c, EXC_NP, f->sel);
	if (is_call)
		return call_gate(c, d, f);
	return task_switch(c, gate_selector(d), why, f->next_rip, vcpu_rflags(c));
}

static enum x86_exc far_transfer(struct vcpu *c, const struct far_target *f)
{
	struct desc d;
	enum x86_exc r;

	if (!is_protected(c))
		return far_real(c, f);
	if (sel_is_null(f->sel))
		return exc_gp0(c);
	r = desc_read(c, f->sel, EXC_GP, &d);
	if (r)
		return r;
	if (desc_is_system(&d))
		return far_system(c, &d, f);
	if (!desc_is_code(&d))
		return exc_selector(c, EXC_GP, f->sel);
	return far_code(c, &d, f);
}

enum x86_exc far_jmp(struct vcpu *c, uint16_t sel, uint64_t off, unsigned opsize, gva_t next_rip)
{
	struct far_target f = { sel, off & size_mask(opsize), opsize, next_rip, false };

	return far_transfer(c, &f);
}

enum x86_exc far_call(struct vcpu *c, uint16_t sel, uint64_t off, unsigned opsize, gva_t next_rip)
{
	struct far_target f = { sel, off & size_mask(opsize), opsize, next_rip, true };

	return far_transfer(c, &f);
}

/* -- Returns -------------------------------------------------------------------------------- */

enum x86_exc return_check_cs(struct vcpu *c, uint16_t sel, struct desc *d)
{
	enum x86_exc r;

	if (sel_is_null(sel))
		return exc_gp0(c);
	r = desc_read(c, sel, EXC_GP, d);
	if (r)
		return r;
	if (!desc_is_code(d) || (sel & 3) < c->cpl || desc_is_bad_long_code(c, d))
		return exc_selector(c, EXC_GP, sel);
	if (desc_is_conforming(d) ? desc_dpl(d) > (sel & 3u) : desc_dpl(d) != (sel & 3u))
		return exc_selector(c, EXC_GP, sel);
	if (!desc_present(d))
		return exc_selector(c, EXC_NP, sel);
	return desc_set_accessed(c, d);
}

enum x86_exc return_check_ss(struct vcpu *c, uint16_t sel, unsigned cpl, bool to64, struct seg *ss)
{
	struct desc d;
	enum x86_exc r;

	if (sel_is_null(sel)) {
		if (!to64 || cpl == 3 || (sel & 3u) != cpl)
			return exc_gp0(c);
		*ss = seg_null(sel, cpl);
		return EXC_NONE;
	}
	r = desc_read(c, sel, EXC_GP, &d);
	if (r)
		return r;
	if ((sel & 3u) != cpl || !desc_is_writable_data(&d) || desc_dpl(&d) != cpl)
		return exc_selector(c, EXC_GP, sel);
	if (!desc_present(&d))
		return exc_selector(c, EXC_SS, sel);
	r = desc_set_accessed(c, &d);
	if (!r)
		*ss = desc_to_seg(&d, sel);
	return r;
}

static void drop_inner_segments(struct vcpu *c, unsigned cpl)
{
	static const uint8_t data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		struct seg *s = &c->seg[data[i]];
		bool conforming = (s->attr & (ATTR_CODE | ATTR_DOWN)) == (ATTR_CODE | ATTR_DOWN);

		if (!(s->attr & ATTR_UNUSABLE) && !conforming && ATTR_DPL_OF(s->attr) < cpl)
			*s = seg_null(0, 0);
	}
}

void return_outer(struct vcpu *c, const struct desc *cs, uint64_t rip, const struct seg *ss,
		  uint64_t rsp)
{
	unsigned cpl = cs->sel & 3;
	bool to64 = c->long_mode && desc_attr(cs) & ATTR_L;
	struct stack s = { .ss = *ss, .sp = rsp, .width = stack_width(to64, ss) };

	if (cpl > c->cpl)
		drop_inner_segments(c, cpl);
	code_enter(c, cs, cpl, rip);
	c->seg[SEG_SS] = *ss;
	stack_commit(c, &s);
	vcpu_update_mode(c);
}

static enum x86_exc ret_real(struct vcpu *c, struct stack *s, uint16_t sel, uint64_t rip)
{
	if (rip > c->seg[SEG_CS].limit)
		return exc_gp0(c);
	stack_commit(c, s);
	seg_set_real(c, SEG_CS, sel);
	c->rip = rip;
	vcpu_update_mode(c);
	return EXC_NONE;
}

static enum x86_exc ret_outer(struct vcpu *c, struct stack *s, struct desc *d, uint64_t rip,
			      unsigned opsize, unsigned pop_bytes)
{
	bool to64 = c->long_mode && desc_attr(d) & ATTR_L;
	uint64_t rsp, sel;
	struct stack outer;
	struct seg ss;
	enum x86_exc r = stack_get(c, s, opsize, &rsp);

	if (!r)
		r = stack_get(c, s, opsize, &sel);
	if (!r)
		r = return_check_ss(c, (uint16_t)sel, d->sel & 3, to64, &ss);
	if (!r)
		r = code_check_rip(c, d, rip);
	if (r)
		return r;
	outer = (struct stack){ .sp = rsp, .width = stack_width(to64, &ss) };
	stack_skip(&outer, pop_bytes);
	return_outer(c, d, rip, &ss, outer.sp);
	return EXC_NONE;
}

enum x86_exc far_ret(struct vcpu *c, unsigned opsize, unsigned pop_bytes)
{
	struct stack s = stack_now(c);
	uint64_t rip, sel;
	struct desc d;
	enum x86_exc r = stack_get(c, &s, opsize, &rip);

	if (!r)
		r = stack_get(c, &s, opsize, &sel);
	if (r)
		return r;
	stack_skip(&s, pop_bytes);
	if (!is_protected(c))
		return ret_real(c, &s, (uint16_t)sel, rip);
	r = return_check_cs(c, (uint16_t)sel, &d);
	if (r)
		return r;
	if ((sel & 3) > c->cpl)
		return ret_outer(c, &s, &d, rip, opsize, pop_bytes);
	r = code_check_rip(c, &d, rip);
	if (r)
		return r;
	stack_commit(c, &s);
	code_enter(c, &d, c->cpl, rip);
	vcpu_update_mode(c);
	return EXC_NONE;
}
