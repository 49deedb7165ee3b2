/* Guest instructions and registers as text, for traces. */
#ifndef CPU_INTERP_DISAS_H
#define CPU_INTERP_DISAS_H

#include <stddef.h>
#include <stdint.h>

struct vcpu;

#define DISAS_TEXT_BYTES 96

/* Write the instruction of 32-bit (mode 4) or 64-bit code (mode 8) at code, of which n bytes are
 * there and which runs at rip, to text. Returns its length in bytes; one that cannot be read is
 * "(bad)" and has length 1. */
unsigned disas(unsigned mode, uint64_t rip, const uint8_t *code, size_t n,
	       char text[DISAS_TEXT_BYTES]);

/* Print the instruction at c->rip to TRACE_DISAS, the registers to TRACE_REGS, where these are on.
 * Reads guest memory without side effects. */
void disas_trace(struct vcpu *c);

#endif
