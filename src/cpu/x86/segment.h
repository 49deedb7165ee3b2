/* Segment registers, descriptors, and what segmentation checks. SDM 3A chapters 3 and 5. */
#ifndef CPU_X86_SEGMENT_H
#define CPU_X86_SEGMENT_H

#include "cpu/vcpu.h"

/* Load selector sel into ES, SS, DS, FS or GS as MOV, POP and LxS do, in any mode. Returns 0 or
 * EXC_GP, EXC_SS, EXC_NP, EXC_PF; then the register is unchanged. Ends with vcpu_update_mode.
 */
enum x86_exc seg_load(struct vcpu *c, unsigned seg, uint16_t sel);

/* LLDT and LTR. CPL and mode were checked by the caller. */
enum x86_exc seg_load_ldtr(struct vcpu *c, uint16_t sel);
enum x86_exc seg_load_tr(struct vcpu *c, uint16_t sel);

/* LAR, LSL, VERR, VERW: *ok is what goes into ZF; *out is written only if *ok. */
enum x86_exc seg_lar(struct vcpu *c, uint16_t sel, uint32_t *out, bool *ok);
enum x86_exc seg_lsl(struct vcpu *c, uint16_t sel, uint32_t *out, bool *ok);
enum x86_exc seg_verify(struct vcpu *c, uint16_t sel, bool write, bool *ok);

/* May [off, off+len) of segment seg be read (or written)? Outside 64-bit mode: limit, type and
 * null checks; in it: canonical check of base+off for the whole range (for ES CS SS DS base counts
 * as 0). len 1 to 4096. Returns 0, or EXC_GP / EXC_SS with error code 0. *gva gets the linear
 * address, cut to 32 bits outside 64-bit mode.
 */
enum x86_exc seg_linear(struct vcpu *c, unsigned seg, uint64_t off, unsigned len, bool write,
			gva_t *gva);

/* The same for fetching code from CS, which need not be readable. EXC_GP. */
enum x86_exc seg_fetch(struct vcpu *c, uint64_t off, unsigned len, gva_t *gva);

/* Give seg the values that real mode's (or virtual-8086 mode's) load of sel gives it. */
void seg_set_real(struct vcpu *c, unsigned seg, uint16_t sel);

/* Push and pop size bytes (2, 4, 8) on the stack with SS's width and checks; rSP changes only on
 * success. */
enum x86_exc stack_push(struct vcpu *c, unsigned size, uint64_t val);
enum x86_exc stack_pop(struct vcpu *c, unsigned size, uint64_t *val);

/* IN, OUT, INS, OUTS of size bytes at port: IOPL and the TSS's I/O bitmap. 0, EXC_GP or EXC_PF. */
enum x86_exc io_check(struct vcpu *c, uint16_t port, unsigned size);

#endif
