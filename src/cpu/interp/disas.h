/* Guest instructions and registers as text, for traces. */
#ifndef CPU_INTERP_DISAS_H
#define CPU_INTERP_DISAS_H

struct vcpu;

/* Print the instruction at c->rip to TRACE_DISAS, the registers to TRACE_REGS, where these are on.
 * Reads guest memory without side effects. */
void disas_trace(struct vcpu *c);

#endif
