/* x87, MMX and vector instructions: what their handlers share. */
#ifndef CPU_INTERP_VECTOR_H
#define CPU_INTERP_VECTOR_H

#include "cpu/interp/interp_internal.h"

/* May i execute now, as far as CR0, CR4 and XCR0 say? 0, EXC_UD or EXC_NM. SDM 3A chapter 13 and
 * 2A "Exceptions" tables of instruction encodings. */
int vector_check(struct vcpu *c, const struct insn *i);

/* Run u's stub (in u->imm) with mem as its memory operand. Moves general registers and flags. 0,
 * EXC_XM, or EXC_UD if the system does not take EXC_XM. */
int vector_native(struct vcpu *c, const struct uop *u, void *mem);

/* EXC_MF if an unmasked x87 exception waits: the next waiting instruction raises it. */
int x87_check_pending(struct vcpu *c);
/* What every MMX instruction but EMMS does to the x87 state: TOP 0, all registers valid. */
void mmx_begin(struct vcpu *c);

/* Elements of a masked memory operand: their number and size, and which are accessed. */
struct elements {
	unsigned n, size; /* size in bytes */
	uint64_t active;  /* bit per element */
};

/* How i's memory operand divides into elements, with its EVEX mask. */
struct elements evex_elements(const struct vcpu *c, const struct insn *i, unsigned mem_bytes);

/* Linear address of len bytes at byte delta of u's memory operand; outside 64-bit mode with the
 * checks of segmentation, which address uops leave to these instructions. */
int vector_linear(struct vcpu *c, const struct uop *u, unsigned delta, unsigned len, bool write,
		  gva_t *gva);

/* Read the active elements of u's memory operand into buf (others: zero); write them from buf. No
 * effect if one of them faults. */
int elements_read(struct vcpu *c, const struct uop *u, const struct elements *e, uint8_t *buf);
int elements_write(struct vcpu *c, const struct uop *u, const struct elements *e,
		   const uint8_t *buf);

#endif
