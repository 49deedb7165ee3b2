/* The software TLB: linear page to host address, checked for one kind of access at a time.
 *
 * Direct mapped, one array for each privilege an access can have. A tag is the linear page
 * address with the address-space number in its low 12 bits, so a change of address space costs
 * nothing and a flush is a new number. There is an entry only for pages that need nothing
 * special: RAM, accessed (and dirty, for tag_w) bits set, no decoded code (tag_w), no breakpoint
 * or alignment check armed. Everything else misses and is done by vmem.c.
 */
#ifndef CPU_X86_TLB_H
#define CPU_X86_TLB_H

#include "cpu/vcpu.h"
#include "mem/physmap.h"

enum tlb_mode {
	TLB_KERNEL,    /* supervisor, SMAP in force */
	TLB_KERNEL_AC, /* supervisor with EFLAGS.AC = 1, or no SMAP */
	TLB_USER,
	TLB_SLOW, /* never filled: alignment checks or data breakpoints want every access */
	N_TLB_MODES
};

#define TLB_BITS 11
#define TLB_SIZE (1u << TLB_BITS)

struct tlb_entry {
	uint64_t tag_r, tag_w, tag_x; /* 0 is invalid */
	uintptr_t addend;	      /* host address minus linear address */
};

/* What PF_ access a translation allows besides the one that was asked (paging_walk). */
#define PERM_R 1u
#define PERM_W 2u /* writable and already dirty */
#define PERM_X 4u

struct tlb;

/* -ENOMEM. */
int tlb_new(struct tlb **out);
void tlb_free(struct tlb *t);

/* Which array the vCPU's mode wants, from CPL, CR0, CR4, RFLAGS.AC and DR7. */
uint8_t tlb_mode_of(const struct vcpu *c);
/* Make c->tlb_now, tlb_asid and code_key follow the vCPU's mode. */
void tlb_select(struct vcpu *c);

/* Forget this vCPU's write entries for the RAM page of host byte p, since it holds code now. */
void tlb_drop_writes(struct vcpu *c, const uint8_t *p);
/* Serve KICK_DROP: what other vCPUs asked for. */
void tlb_serve_drops(struct vcpu *c);

static inline uint64_t tlb_tag(const struct vcpu *c, gva_t gva)
{
	return (gva & ~(PAGE_SIZE - 1)) | c->tlb_asid;
}

static inline struct tlb_entry *tlb_at(const struct vcpu *c, gva_t gva)
{
	return &c->tlb_now[(gva >> PAGE_SHIFT) & (TLB_SIZE - 1)];
}

/* Is [gva, gva+size) at hand for reading or writing? *p gets its host address then. size: 1 to 64.
 * The tag is that of the last byte, so an access that crosses into the next page misses too.
 */
static inline bool tlb_hit_read(const struct vcpu *c, gva_t gva, unsigned size, const uint8_t **p)
{
	const struct tlb_entry *e = tlb_at(c, gva);

	*p = (const uint8_t *)(gva + e->addend);
	return likely(e->tag_r == tlb_tag(c, gva + size - 1));
}

static inline bool tlb_hit_write(const struct vcpu *c, gva_t gva, unsigned size, uint8_t **p)
{
	const struct tlb_entry *e = tlb_at(c, gva);

	*p = (uint8_t *)(gva + e->addend);
	return likely(e->tag_w == tlb_tag(c, gva + size - 1));
}

/* The same, with NULL for a miss. */
static inline const uint8_t *tlb_read(const struct vcpu *c, gva_t gva, unsigned size)
{
	const uint8_t *p;

	return tlb_hit_read(c, gva, size, &p) ? p : NULL;
}

static inline uint8_t *tlb_write(const struct vcpu *c, gva_t gva, unsigned size)
{
	uint8_t *p;

	return tlb_hit_write(c, gva, size, &p) ? p : NULL;
}

/* Host address of the code byte at gva, filling the TLB; NULL with *exc when it faults. Code
 * outside RAM and ROM gives EXC_NONE and NULL: nothing can be executed there. */
const uint8_t *tlb_fetch(struct vcpu *c, gva_t gva, enum x86_exc *exc);

#endif
