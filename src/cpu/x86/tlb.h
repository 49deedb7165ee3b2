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
#define PERM_G 8u /* global: survives a change of CR3 */

struct tlb;

/* An engine that derives mappings of its own from what the TLB allows hears here when they end.
 * Called on the vCPU's thread, by the functions of vmem.h and of this file.
 */
struct tlb_watch {
	/* Every translation is void, or every one that is not global. */
	void (*flush)(struct vcpu *c, bool global_too);
	/* Those of [gva, gva + n_pages * 4 KiB) are void in every address space. */
	void (*flush_pages)(struct vcpu *c, gva_t gva, unsigned n_pages);
	/* c->tlb_asid has changed: what is not global is not visible any more. An asid that was
	 * left may come back; it is given to another address space only after a flush. */
	void (*switched)(struct vcpu *c);
	/* Stores to the RAM page must be told again (rules of struct page_state). */
	void (*drop_writes)(struct vcpu *c, const uint8_t *page);
};

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
/* Other vCPUs that may store to the page unseen, by bits. They are asked to stop it. */
uint64_t tlb_unseen_writers(struct vcpu *c, struct page_state *ps);

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

/* What plain accesses to the page of gva at the vCPU's privilege need not go through vmem.h for:
 * PERM_R and PERM_W, and PERM_G; *page gets its host address. Fills the TLB for a read, or a write
 * if write. 0 if the access must go through vmem.h, because it faults, hits MMIO or code. */
unsigned tlb_plain(struct vcpu *c, gva_t gva, bool write, uint8_t **page);

/* Is the page of gva mapped, and global? */
bool tlb_is_global(struct vcpu *c, gva_t gva);

#endif
