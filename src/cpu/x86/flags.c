/* The flag instructions that depend on privilege: POPF, PUSHF, CLI, STI. SDM 2A, 2B, and 3A 20.3,
 * 20.4 for the virtual interrupt flag.
 */
#include "cpu/x86/fault.h"
#include "cpu/x86/system.h"
#include "cpu/x86/transfer_internal.h"

/* Image with VIF in IF's place and IOPL 3, as virtual-8086 programs see it with CR4.VME. */
static uint64_t virtual_image(const struct vcpu *c)
{
	uint64_t fl = vcpu_rflags(c) & ~(uint64_t)RFLAGS_IF;

	return fl | RFLAGS_IOPL | (fl & RFLAGS_VIF ? RFLAGS_IF : 0);
}

static enum x86_exc popf_virtual(struct vcpu *c, uint64_t val)
{
	uint64_t mask = RFLAGS_ARITH | RFLAGS_DF | RFLAGS_NT | RFLAGS_TF | RFLAGS_VIF;

	if (val & RFLAGS_TF || (val & RFLAGS_IF && c->rflags_rest & RFLAGS_VIP))
		return exc_gp0(c);
	rflags_change(c, val & RFLAGS_IF ? val | RFLAGS_VIF : val & ~(uint64_t)RFLAGS_VIF, mask);
	return EXC_NONE;
}

enum x86_exc sys_popf(struct vcpu *c, unsigned opsize, uint64_t val)
{
	uint64_t mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;

	if (is_v8086(c) && iopl(c) < 3)
		return c->cr4 & CR4_VME && opsize == 2 ? popf_virtual(c, val) : exc_gp0(c);
	if (opsize > 2)
		mask |= RFLAGS_AC | RFLAGS_ID;
	if (c->cpl <= iopl(c))
		mask |= RFLAGS_IF;
	if (c->cpl == 0)
		mask |= RFLAGS_IOPL;
	rflags_change(c, val, mask);
	if (opsize > 2)
		c->rflags_rest &= ~(uint64_t)RFLAGS_RF;
	vcpu_update_mode(c);
	return EXC_NONE;
}

enum x86_exc sys_pushf(struct vcpu *c, unsigned opsize, uint64_t *val)
{
	if (is_v8086(c) && iopl(c) < 3) {
		if (!(c->cr4 & CR4_VME) || opsize != 2)
			return exc_gp0(c);
		*val = virtual_image(c);
		return EXC_NONE;
	}
	*val = vcpu_rflags(c) & ~(uint64_t)(RFLAGS_VM | RFLAGS_RF);
	return EXC_NONE;
}

/* Does CLI or STI work on VIF here? VME, or PVI in ring 3; IOPL was too low for IF. */
static bool has_virtual_if(const struct vcpu *c)
{
	return is_v8086(c) ? c->cr4 & CR4_VME : c->cpl == 3 && c->cr4 & CR4_PVI;
}

enum x86_exc sys_cli(struct vcpu *c)
{
	if (c->cpl <= iopl(c))
		c->rflags_rest &= ~(uint64_t)RFLAGS_IF;
	else if (has_virtual_if(c))
		c->rflags_rest &= ~(uint64_t)RFLAGS_VIF;
	else
		return exc_gp0(c);
	return EXC_NONE;
}

enum x86_exc sys_sti(struct vcpu *c)
{
	if (c->cpl <= iopl(c)) {
		if (!(c->rflags_rest & RFLAGS_IF))
			c->shadow = SHADOW_STI;
		c->rflags_rest |= RFLAGS_IF;
		return EXC_NONE;
	}
	if (!has_virtual_if(c) || c->rflags_rest & RFLAGS_VIP)
		return exc_gp0(c);
	c->rflags_rest |= RFLAGS_VIF;
	return EXC_NONE;
}
