/* Raising exceptions as values. */
#ifndef CPU_X86_FAULT_H
#define CPU_X86_FAULT_H

#include "cpu/vcpu.h"

/* exc with an error code, for the caller to return. */
static inline enum x86_exc exc_raise(struct vcpu *c, enum x86_exc exc, uint32_t error)
{
	c->exc_error = error;
	return exc;
}

/* exc with the error code that names selector sel: its index and TI, without RPL. */
static inline enum x86_exc exc_selector(struct vcpu *c, enum x86_exc exc, uint16_t sel)
{
	return exc_raise(c, exc, sel & 0xfffcu);
}

static inline enum x86_exc exc_gp0(struct vcpu *c)
{
	return exc_raise(c, EXC_GP, 0);
}

static inline enum x86_exc exc_ud(struct vcpu *c)
{
	return exc_raise(c, EXC_UD, 0);
}

/* Protected mode proper: neither real nor virtual-8086 mode. */
static inline bool is_protected(const struct vcpu *c)
{
	return c->cr0 & CR0_PE && !(c->rflags_rest & RFLAGS_VM);
}

static inline bool is_v8086(const struct vcpu *c)
{
	return c->rflags_rest & RFLAGS_VM;
}

static inline unsigned iopl(const struct vcpu *c)
{
	return (unsigned)(c->rflags_rest & RFLAGS_IOPL) >> 12;
}

#endif
