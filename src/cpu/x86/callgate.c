/* Call gates. SDM 3A 5.8.4 "Accessing a Code Segment Through a Call Gate", 2A CALL and JMP. */
#include "cpu/x86/fault.h"
#include "cpu/x86/stack.h"
#include "cpu/x86/transfer_internal.h"
#include "cpu/x86/tss.h"

#define MAX_PARAMS 31

static unsigned gate_word(const struct vcpu *c, const struct desc *gate)
{
	if (c->long_mode)
		return 8;
	return desc_type(gate) == SYS_CALL32 ? 4 : 2;
}

static enum x86_exc gate_code(struct vcpu *c, uint16_t sel, bool call, struct desc *d)
{
	enum x86_exc r;
	bool inward;

	if (sel_is_null(sel))
		return exc_gp0(c);
	r = desc_read(c, sel, EXC_GP, d);
	if (r)
		return r;
	/* JMP does not change the privilege level. */
	inward = call || desc_is_conforming(d);
	if (!desc_is_code(d) || desc_dpl(d) > c->cpl || (!inward && desc_dpl(d) != c->cpl))
		return exc_selector(c, EXC_GP, sel);
	/* A 64-bit gate leads to 64-bit code only. */
	if (c->long_mode && (desc_attr(d) & (ATTR_L | ATTR_DB)) != ATTR_L)
		return exc_selector(c, EXC_GP, sel);
	if (!desc_present(d))
		return exc_selector(c, EXC_NP, sel);
	return desc_set_accessed(c, d);
}

/* Parameters from the outer stack, the first one lowest. */
static enum x86_exc read_params(struct vcpu *c, unsigned word, unsigned n, uint64_t *param)
{
	struct stack outer = stack_now(c);
	enum x86_exc r = EXC_NONE;

	for (unsigned i = 0; i < n && !r; i++)
		r = stack_get(c, &outer, word, &param[i]);
	return r;
}

static enum x86_exc push_outer(struct vcpu *c, struct stack *s, unsigned word, unsigned n)
{
	uint64_t param[MAX_PARAMS];
	enum x86_exc r = read_params(c, word, n, param);

	if (!r)
		r = stack_put(c, s, word, c->seg[SEG_SS].sel);
	if (!r)
		r = stack_put(c, s, word, c->gpr[REG_RSP]);
	while (n && !r)
		r = stack_put(c, s, word, param[--n]);
	return r;
}

enum x86_exc call_gate(struct vcpu *c, struct desc *gate, const struct far_target *f)
{
	unsigned word = gate_word(c, gate), cpl = c->cpl;
	struct stack s = stack_now(c);
	uint64_t rip;
	struct desc d;
	enum x86_exc r = desc_read_upper(c, EXC_GP, gate);

	if (!r)
		r = gate_code(c, gate_selector(gate), f->call, &d);
	if (r)
		return r;
	rip = gate_offset(gate) & size_mask(word);
	if (c->long_mode)
		s.width = 8;
	if (f->call && !desc_is_conforming(&d) && desc_dpl(&d) < c->cpl) {
		cpl = desc_dpl(&d);
		r = c->long_mode ? tss_stack64(c, cpl, 0, &s) : tss_inner_stack(c, cpl, &s);
		if (!r)
			r = push_outer(c, &s, word,
				       c->long_mode ? 0 : (unsigned)bits_get(gate->lo, 32, 5));
	}
	if (!r && f->call)
		r = stack_put(c, &s, word, c->seg[SEG_CS].sel);
	if (!r && f->call)
		r = stack_put(c, &s, word, f->next_rip);
	if (!r)
		r = code_check_rip(c, &d, rip);
	if (r)
		return r;
	if (f->call) {
		c->seg[SEG_SS] = s.ss;
		stack_commit(c, &s);
	}
	code_enter(c, &d, cpl, rip);
	vcpu_update_mode(c);
	return EXC_NONE;
}
