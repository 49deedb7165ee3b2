/* XGETBV, XSETBV, the XSAVE and FXSAVE families, LDMXCSR, STMXCSR. */
#include "cpu/interp/interp_internal.h"
#include "cpu/interp/operand.h"

#include "cpu/interp/vector.h"
#include "cpu/x86/system.h"

static uint64_t edx_eax(const struct vcpu *c)
{
	return (uint64_t)R32(c, GPR_OFF(REG_RDX)) << 32 | R32(c, GPR_OFF(REG_RAX));
}

static NOINLINE int do_x_xcr(struct vcpu *c, const struct uop *u)
{
	uint32_t index = R32(c, GPR_OFF(REG_RCX));
	uint64_t v;
	int r;

	if (!(c->cr4 & CR4_OSXSAVE))
		return raise_ud(c);
	if (u->insn->op == OP_XSETBV) {
		r = sys_xsetbv(c, index, edx_eax(c));
		return r ? r : EXEC_SYNC;
	}
	r = sys_xgetbv(c, index, &v);
	if (r)
		return r;
	c->gpr[REG_RAX] = (uint32_t)v;
	c->gpr[REG_RDX] = v >> 32;
	return 0;
}
HANDLER(x_xcr)

/* The area's whole extent is checked by the accesses; segmentation here by its first bytes. */
static NOINLINE int do_x_xsave(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	bool fx = i->op == OP_FXSAVE || i->op == OP_FXRSTOR, w = i->rex & 8;
	uint64_t rfbm = edx_eax(c);
	gva_t gva;
	int r;

	if (!fx && !(c->cr4 & CR4_OSXSAVE))
		return raise_ud(c);
	if (fx && c->cr0 & CR0_EM)
		return raise_exc(c, EXC_NM, 0);
	if (c->cr0 & CR0_TS)
		return raise_exc(c, EXC_NM, 0);
	if ((i->op == OP_XSAVES || i->op == OP_XRSTORS) && c->cpl)
		return raise_gp(c);
	r = insn_linear(c, u, 0, 512,
			i->op != OP_FXRSTOR && i->op != OP_XRSTOR && i->op != OP_XRSTORS, &gva);
	if (r)
		return r;
	switch (i->op) {
	case OP_FXSAVE: return sys_fxsave(c, gva, w);
	case OP_FXRSTOR: return sys_fxrstor(c, gva, w);
	case OP_XSAVE: return sys_xsave(c, gva, rfbm, XSAVE_PLAIN, w);
	case OP_XSAVEOPT: return sys_xsave(c, gva, rfbm, XSAVE_OPT, w);
	case OP_XSAVEC: return sys_xsave(c, gva, rfbm, XSAVE_COMPACT, w);
	case OP_XSAVES: return sys_xsave(c, gva, rfbm, XSAVE_SUPERVISOR, w);
	default: return sys_xrstor(c, gva, rfbm, i->op == OP_XRSTORS, w);
	}
}
HANDLER(x_xsave)

static NOINLINE int do_x_mxcsr(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint64_t v;
	int r = vector_check(c, i);

	if (r)
		return r;
	if (i->op == OP_STMXCSR)
		return opd_write(c, u, 0, c->fpu.mxcsr);
	r = opd_read(c, u, 0, &v);
	if (!r && v & ~0xffffull)
		r = raise_gp(c);
	if (!r)
		c->fpu.mxcsr = (uint32_t)v;
	return r;
}
HANDLER(x_mxcsr)
