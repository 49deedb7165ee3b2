/* Operands of any kind, fetched and stored by their description: for the general handlers. */
#ifndef CPU_INTERP_OPERAND_H
#define CPU_INTERP_OPERAND_H

#include "cpu/interp/interp_internal.h"
#include "cpu/x86/segment.h"

static inline int raise_exc(struct vcpu *c, enum x86_exc exc, uint32_t error)
{
	c->exc_error = error;
	return exc;
}

static inline int raise_gp(struct vcpu *c)
{
	return raise_exc(c, EXC_GP, 0);
}

static inline int raise_ud(struct vcpu *c)
{
	return raise_exc(c, EXC_UD, 0);
}

/* Byte offset in vcpu.gpr of a register operand. */
static inline uint8_t opd_off(const struct operand *o)
{
	return (uint8_t)(o->reg * 8 + (o->kind == OPD_GPRH));
}

/* The value of operand n: general register, memory at the uop's address, immediate, segment
 * register. Cut to its size, immediates to 64 bits as the instruction extends them. */
static inline int opd_read(struct vcpu *c, const struct uop *u, unsigned n, uint64_t *v)
{
	const struct operand *o = &u->insn->opd[n];

	switch (o->kind) {
	case OPD_GPR:
	case OPD_GPRH: *v = reg_read(c, opd_off(o), o->size); return 0;
	case OPD_MEM: return mem_load(c, uop_ea(c, u), o->size, v);
	case OPD_ONE: *v = 1; return 0;
	case OPD_SREG: *v = c->seg[o->reg].sel; return 0;
	default: *v = (uint64_t)u->insn->imm; return 0;
	}
}

static inline int opd_write(struct vcpu *c, const struct uop *u, unsigned n, uint64_t v)
{
	const struct operand *o = &u->insn->opd[n];

	if (o->kind == OPD_MEM)
		return mem_store(c, uop_ea(c, u), o->size, v);
	reg_write(c, opd_off(o), o->size, v);
	return 0;
}

#endif
