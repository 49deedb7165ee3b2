/* Events through the IDT. SDM 2A INT n, 3A 6.12 "Exception and Interrupt Handling", 6.14 for
 * 64-bit mode, 20.2 for virtual-8086 mode.
 */
#include "cpu/x86/fault.h"
#include "cpu/x86/segment.h"
#include "cpu/x86/stack.h"
#include "cpu/x86/transfer_internal.h"
#include "cpu/x86/tss.h"

#define ERROR_IDT 2u

/* -- Real mode and its table ----------------------------------------------------------------- */

/* Push the 8086 frame and go where the table at ivt says. */
static enum x86_exc enter_8086(struct vcpu *c, gva_t ivt, uint8_t vector, uint64_t image,
			       gva_t return_rip)
{
	struct stack s = stack_now(c);
	uint32_t entry;
	enum x86_exc r = vmem_read32(c, ivt + vector * 4u, &entry, AS_SYSTEM);

	if (!r)
		r = stack_put(c, &s, 2, image);
	if (!r)
		r = stack_put(c, &s, 2, c->seg[SEG_CS].sel);
	if (!r)
		r = stack_put(c, &s, 2, return_rip);
	if (r)
		return r;
	stack_commit(c, &s);
	seg_set_real(c, SEG_CS, (uint16_t)(entry >> 16));
	c->rip = entry & 0xffff;
	return EXC_NONE;
}

static enum x86_exc deliver_real(struct vcpu *c, const struct event *e)
{
	enum x86_exc r;

	if (e->vector * 4u + 3 > c->idtr.limit)
		return exc_raise(c, EXC_GP, e->vector * 8u + ERROR_IDT);
	r = enter_8086(c, c->idtr.base, e->vector, vcpu_rflags(c), e->return_rip);
	if (r)
		return r;
	rflags_change(c, 0, RFLAGS_IF | RFLAGS_TF | RFLAGS_RF | RFLAGS_AC);
	vcpu_update_mode(c);
	return EXC_NONE;
}

enum x86_exc event_redirect_8086(struct vcpu *c, uint8_t vector, gva_t next_rip)
{
	uint64_t image = vcpu_rflags(c);
	bool is_virtual = iopl(c) < 3;
	enum x86_exc r;

	if (is_virtual) {
		image &= ~(uint64_t)RFLAGS_IF;
		image |= RFLAGS_IOPL | (image & RFLAGS_VIF ? RFLAGS_IF : 0);
	}
	r = enter_8086(c, 0, vector, image, next_rip);
	if (r)
		return r;
	rflags_change(c, 0, RFLAGS_TF | RFLAGS_RF | (is_virtual ? RFLAGS_VIF : RFLAGS_IF));
	vcpu_update_mode(c);
	return EXC_NONE;
}

/* -- Protected and IA-32e mode ---------------------------------------------------------------- */

static bool is_gate_type(const struct vcpu *c, unsigned type)
{
	if (type == SYS_INT32 || type == SYS_TRAP32)
		return true;
	return !c->long_mode && (type == SYS_INT16 || type == SYS_TRAP16 || type == SYS_TASK_GATE);
}

static enum x86_exc read_gate(struct vcpu *c, const struct event *e, struct desc *gate)
{
	unsigned size = c->long_mode ? 16 : 8;
	uint32_t off = e->vector * size, error = e->vector * 8u + ERROR_IDT;
	uint64_t raw[2] = { 0 };
	enum x86_exc r;

	if (off + size - 1 > c->idtr.limit)
		return exc_raise(c, EXC_GP, error);
	r = vmem_read(c, c->idtr.base + off, raw, size, AS_SYSTEM);
	if (r)
		return r;
	*gate = (struct desc){ .lo = raw[0], .hi = raw[1] & 0xffffffff };
	if (!desc_is_system(gate) || !is_gate_type(c, desc_type(gate)))
		return exc_raise(c, EXC_GP, error);
	if (e->soft && desc_dpl(gate) < c->cpl)
		return exc_raise(c, EXC_GP, error);
	if (!desc_present(gate))
		return exc_raise(c, EXC_NP, error);
	return EXC_NONE;
}

static enum x86_exc handler_code(struct vcpu *c, const struct desc *gate, struct desc *d)
{
	uint16_t sel = gate_selector(gate);
	enum x86_exc r;

	if (sel_is_null(sel))
		return exc_gp0(c);
	r = desc_read(c, sel, EXC_GP, d);
	if (r)
		return r;
	if (!desc_is_code(d) || desc_dpl(d) > c->cpl)
		return exc_selector(c, EXC_GP, sel);
	if (c->long_mode && (desc_attr(d) & (ATTR_L | ATTR_DB)) != ATTR_L)
		return exc_selector(c, EXC_GP, sel);
	if (!desc_present(d))
		return exc_selector(c, EXC_NP, sel);
	/* Virtual-8086 mode is left for ring 0 only. */
	if (is_v8086(c) && (desc_is_conforming(d) || desc_dpl(d) != 0))
		return exc_selector(c, EXC_GP, sel);
	return desc_set_accessed(c, d);
}

static enum x86_exc handler_stack(struct vcpu *c, const struct desc *gate, unsigned cpl,
				  struct stack *s)
{
	unsigned ist = c->long_mode ? (unsigned)bits_get(gate->lo, 32, 3) : 0;
	enum x86_exc r = EXC_NONE;

	*s = stack_now(c);
	if (!c->long_mode)
		return cpl < c->cpl ? tss_inner_stack(c, cpl, s) : EXC_NONE;
	s->width = 8;
	if (ist || cpl < c->cpl)
		r = tss_stack64(c, cpl, ist, s);
	s->sp &= ~15ull;
	return r;
}

static enum x86_exc push_segments(struct vcpu *c, struct stack *s, unsigned word)
{
	static const uint8_t order[] = { SEG_GS, SEG_FS, SEG_DS, SEG_ES };
	enum x86_exc r = EXC_NONE;

	for (unsigned i = 0; i < ARRAY_SIZE(order) && !r; i++)
		r = stack_put(c, s, word, c->seg[order[i]].sel);
	return r;
}

static enum x86_exc push_frame(struct vcpu *c, struct stack *s, unsigned word, bool with_stack,
			       const struct event *e)
{
	uint64_t image = vcpu_rflags(c) | (e->set_rf ? RFLAGS_RF : 0);
	enum x86_exc r = EXC_NONE;

	if (is_v8086(c))
		r = push_segments(c, s, word);
	if (!r && with_stack)
		r = stack_put(c, s, word, c->seg[SEG_SS].sel);
	if (!r && with_stack)
		r = stack_put(c, s, word, c->gpr[REG_RSP]);
	if (!r)
		r = stack_put(c, s, word, image);
	if (!r)
		r = stack_put(c, s, word, c->seg[SEG_CS].sel);
	if (!r)
		r = stack_put(c, s, word, e->return_rip);
	if (!r && e->has_error)
		r = stack_put(c, s, word, e->error);
	return r;
}

static void enter_handler(struct vcpu *c, const struct desc *gate, const struct desc *d,
			  unsigned cpl, const struct stack *s, uint64_t rip)
{
	bool is_interrupt = !(desc_type(gate) & 1);
	uint64_t clear = RFLAGS_TF | RFLAGS_NT | RFLAGS_VM | RFLAGS_RF;

	if (is_v8086(c)) {
		c->seg[SEG_ES] = seg_null(0, 0);
		c->seg[SEG_DS] = seg_null(0, 0);
		c->seg[SEG_FS] = seg_null(0, 0);
		c->seg[SEG_GS] = seg_null(0, 0);
	}
	c->seg[SEG_SS] = s->ss;
	stack_commit(c, s);
	code_enter(c, d, cpl, rip);
	rflags_change(c, 0, is_interrupt ? clear | RFLAGS_IF : clear);
	vcpu_update_mode(c);
}

static enum x86_exc through_gate(struct vcpu *c, const struct desc *gate, const struct event *e)
{
	unsigned word = c->long_mode ? 8 : desc_type(gate) >= SYS_INT32 ? 4 : 2, cpl;
	uint64_t rip = gate_offset(gate) & size_mask(word);
	struct stack s;
	struct desc d;
	enum x86_exc r = handler_code(c, gate, &d);

	if (r)
		return r;
	cpl = desc_is_conforming(&d) ? c->cpl : desc_dpl(&d);
	r = handler_stack(c, gate, cpl, &s);
	if (!r)
		r = push_frame(c, &s, word, c->long_mode || cpl < c->cpl, e);
	if (!r)
		r = code_check_rip(c, &d, rip);
	if (r)
		return r;
	enter_handler(c, gate, &d, cpl, &s, rip);
	return EXC_NONE;
}

static enum x86_exc through_task(struct vcpu *c, const struct desc *gate, const struct event *e)
{
	uint64_t image = vcpu_rflags(c) | (e->set_rf ? RFLAGS_RF : 0);
	enum x86_exc r = task_switch(c, gate_selector(gate), TASK_EVENT, e->return_rip, image);

	if (r || !e->has_error)
		return r;
	return stack_push(c, (c->seg[SEG_TR].attr & ATTR_TYPE) == SYS_TSS32_BUSY ? 4 : 2, e->error);
}

static enum x86_exc deliver(struct vcpu *c, const struct event *e)
{
	struct desc gate;
	enum x86_exc r;

	if (!(c->cr0 & CR0_PE))
		return deliver_real(c, e);
	r = read_gate(c, e, &gate);
	if (r)
		return r;
	return desc_type(&gate) == SYS_TASK_GATE ? through_task(c, &gate, e)
						 : through_gate(c, &gate, e);
}

enum x86_exc event_deliver(struct vcpu *c, const struct event *e)
{
	enum x86_exc r = deliver(c, e);

	/* SDM 3A 6.13 "Error Code", EXT. */
	if (e->ext && r >= EXC_TS && r <= EXC_GP)
		c->exc_error |= 1;
	return r;
}
