/* Guest memory by linear address, through the vCPU's software TLB.
 *
 * Segmentation is done before: callers pass linear addresses and have checked limits. Every
 * function returns 0, or the exception of the access (EXC_PF, EXC_AC, EXC_GP for a non-canonical
 * address) with the vCPU's exc_ fields set; then nothing was read or written, unless the range
 * spans pages and MMIO is involved. Only the thread that holds c.
 */
#ifndef CPU_X86_VMEM_H
#define CPU_X86_VMEM_H

#include "cpu/vcpu.h"
#include "cpu/x86/paging.h"

/* Which privilege an access has. */
enum vmem_as {
	AS_CPL,	      /* as the guest's code: user at CPL 3, else supervisor with EFLAGS.AC */
	AS_UNALIGNED, /* as AS_CPL, but never #AC: elements that a mask chooses */
	AS_SYSTEM,    /* implicit: descriptor tables, TSS, exception stacks of inner levels */
	AS_USER,      /* user, whatever the CPL: stack of an outer ring */
};

/* len: 1 to 4096 bytes. Reads and writes of 1, 2, 4, 8 bytes inside one page of RAM are single
 * host accesses. */
enum x86_exc vmem_read(struct vcpu *c, gva_t gva, void *buf, unsigned len, enum vmem_as as);
enum x86_exc vmem_write(struct vcpu *c, gva_t gva, const void *buf, unsigned len, enum vmem_as as);

/* Check that [gva, gva+len) may be written (write: set A and D) or read, and do nothing else. */
enum x86_exc vmem_probe(struct vcpu *c, gva_t gva, unsigned len, bool write, enum vmem_as as);

/* What vmem_probe checks before it looks at pages: canonical, and if aligned the alignment that
 * CR0.AM and EFLAGS.AC want of an access of len bytes. */
enum x86_exc vmem_check(struct vcpu *c, gva_t gva, unsigned len, bool aligned);

static inline enum x86_exc vmem_read16(struct vcpu *c, gva_t gva, uint16_t *v, enum vmem_as as)
{
	return vmem_read(c, gva, v, 2, as);
}

static inline enum x86_exc vmem_read32(struct vcpu *c, gva_t gva, uint32_t *v, enum vmem_as as)
{
	return vmem_read(c, gva, v, 4, as);
}

static inline enum x86_exc vmem_read64(struct vcpu *c, gva_t gva, uint64_t *v, enum vmem_as as)
{
	return vmem_read(c, gva, v, 8, as);
}

/* Translate [gva, gva+len), which lies in one page, for a read or a write, as vmem_probe does, and
 * give its host address if it is RAM or, for reads, ROM; *host is NULL for MMIO. After storing
 * through it call vmem_stored().
 */
enum x86_exc vmem_host(struct vcpu *c, gva_t gva, unsigned len, bool write, enum vmem_as as,
		       uint8_t **host);
void vmem_stored(struct vcpu *c, uint8_t *host, unsigned len);

/* Forget translations. INVLPG forgets gva in every address space; flush forgets all that are not
 * global, or all; pcid flushes one PCID's non-global ones. SDM 3A "Invalidation of TLBs and
 * Paging-Structure Caches". */
void vmem_invlpg(struct vcpu *c, gva_t gva);
void vmem_flush(struct vcpu *c, bool global_too);
void vmem_flush_pcid(struct vcpu *c, uint16_t pcid);
/* CR3 was loaded: flush says whether the new PCID's translations go (bit 63 of the value clear).*/
void vmem_switch(struct vcpu *c, bool flush);

/* Read without side effects for debuggers and traces: no fault, no A bit, no MMIO. False if any
 * byte is not mapped to RAM or ROM. */
bool vmem_peek(struct vcpu *c, gva_t gva, void *buf, unsigned len);

/* True for an address that 64-bit mode accepts (48-bit canonical). */
static inline bool is_canonical(gva_t gva)
{
	return (int64_t)(gva << 16) >> 16 == (int64_t)gva;
}

#endif
