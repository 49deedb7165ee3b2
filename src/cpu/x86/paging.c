/* Page walks. SDM 3A chapter "Paging": 32-bit, PAE and 4-level, one loop for all.
 *
 * A and D bits are set by compare-and-swap on the entry that was read, so a walk never revives an
 * entry that another CPU has just changed: it starts over instead.
 */
#include "cpu/x86/paging.h"

#include "cpu/x86/features.h"
#include "cpu/x86/tlb.h"
#include "mem/physmap.h"

#define PTE_P  BIT(0)
#define PTE_W  BIT(1)
#define PTE_U  BIT(2)
#define PTE_A  BIT(5)
#define PTE_D  BIT(6)
#define PTE_PS BIT(7)
#define PTE_G  BIT(8)
#define PTE_NX BIT(63)

/* One step of a walk: the entry's place and what it said. */
struct pte {
	uint8_t *host;
	uint64_t val;
};

static bool pte_read(struct vcpu *c, gpa_t gpa, unsigned size, struct pte *e)
{
	bool rom;

	e->host = physmap_host(c->pm, gpa, size, &rom);
	if (!e->host)
		return false;
	if (size == 8)
		e->val = __atomic_load_n((uint64_t *)e->host, __ATOMIC_RELAXED);
	else
		e->val = __atomic_load_n((uint32_t *)e->host, __ATOMIC_RELAXED);
	if (rom)
		e->host = NULL;
	return true;
}

/* Set bits in the entry; false if it changed since it was read. Bits in ROM stay as they are. */
static bool pte_mark(struct vcpu *c, struct pte *e, unsigned size, uint64_t bits)
{
	bool same;

	if (!e->host || (e->val & bits) == bits)
		return true;
	if (size == 8) {
		uint64_t old = e->val;

		same = __atomic_compare_exchange_n((uint64_t *)e->host, &old, e->val | bits, false,
						   __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	} else {
		uint32_t old = (uint32_t)e->val;

		same = __atomic_compare_exchange_n((uint32_t *)e->host, &old,
						   (uint32_t)(e->val | bits), false,
						   __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	}
	if (same) {
		e->val |= bits;
		physmap_stored(c->pm, e->host, size);
	}
	return same;
}

static enum x86_exc page_fault(struct vcpu *c, gva_t gva, unsigned access, unsigned why)
{
	unsigned code = why | (access & (PF_WRITE | PF_USER));
	bool smep = c->cr4 & CR4_SMEP;
	bool nxe = c->msr.efer & EFER_NXE && c->mmu_mode != MMU_32BIT;

	if (access & PF_FETCH && (smep || nxe))
		code |= PF_FETCH;
	if (access & PF_PEEK)
		return EXC_PF;
	c->exc_error = code;
	c->exc_cr2 = gva;
	return EXC_PF;
}

/* Bits that must be 0 in an entry of the given level (0: PTE) that maps a page if leaf. */
static uint64_t reserved_bits(const struct vcpu *c, unsigned level, bool leaf)
{
	uint64_t rsvd = 0;

	if (c->mmu_mode == MMU_32BIT) {
		/* PSE-36: bits 13-16 hold address bits 32-35, 17-20 more; 21 is reserved. */
		if (level == 1 && leaf)
			rsvd = BIT(21) | (bits_get(~0ull, 0, 21) & ~bits_get(~0ull, 0, 13) &
					  ~(bits_get(~0ull, 0,
						     c->model->phys_bits > 40
							     ? 21
							     : c->model->phys_bits - 32 + 13)));
		return rsvd;
	}
	rsvd = bits_get(~0ull, 0, 52) & ~(BIT(c->model->phys_bits) - 1);
	if (c->mmu_mode == MMU_PAE)
		rsvd |= bits_get(~0ull, 0, 63) & ~(BIT(52) - 1);
	if (!(c->msr.efer & EFER_NXE))
		rsvd |= PTE_NX;
	if (leaf && level == 1)
		rsvd |= 0x1fe000;
	if (leaf && level == 2)
		rsvd |= 0x3fffe000;
	if (level == 3 || (level == 2 && !cpu_has(c->model, FEAT_PDPE1GB)))
		rsvd |= PTE_PS;
	return rsvd;
}

/* Does the access break the rights that the walk has gathered? rights: PTE_W and PTE_U are set if
 * every level has them, PTE_NX if any has it. */
static bool denied(const struct vcpu *c, unsigned access, uint64_t rights)
{
	bool nx = rights & PTE_NX && c->msr.efer & EFER_NXE;

	if (access & PF_USER) {
		if (!(rights & PTE_U))
			return true;
		if (access & PF_WRITE)
			return !(rights & PTE_W);
		return access & PF_FETCH && nx;
	}
	if (access & PF_FETCH)
		return nx || (rights & PTE_U && c->cr4 & CR4_SMEP);
	if (rights & PTE_U && c->cr4 & CR4_SMAP && !(access & PF_AC))
		return true;
	return access & PF_WRITE && !(rights & PTE_W) && c->cr0 & CR0_WP;
}

static unsigned perms(const struct vcpu *c, unsigned access, uint64_t rights, bool dirty)
{
	unsigned as = access & (PF_USER | PF_AC);
	unsigned p = 0;

	if (!denied(c, as, rights))
		p |= PERM_R;
	if (dirty && !denied(c, as | PF_WRITE, rights))
		p |= PERM_W;
	if (!denied(c, as | PF_FETCH, rights))
		p |= PERM_X;
	return p;
}

static uint64_t leaf_gpa(const struct vcpu *c, uint64_t pte, unsigned level, uint64_t size)
{
	if (c->mmu_mode == MMU_32BIT) {
		if (level == 1)
			return (pte & 0xffc00000) | bits_get(pte, 13, 8) << 32;
		return pte & 0xfffff000;
	}
	return pte & bits_get(~0ull, 0, 52) & ~(size - 1);
}

enum walk { WALK_DONE, WALK_FAULT, WALK_AGAIN };

static enum walk walk_once(struct vcpu *c, gva_t gva, unsigned access, gpa_t *gpa, uint64_t *size,
			   unsigned *perm)
{
	bool wide = c->mmu_mode != MMU_32BIT;
	unsigned esize = wide ? 8 : 4, ibits = wide ? 9 : 10;
	int level = c->mmu_mode == MMU_4LEVEL ? 3 : 1;
	uint64_t rights = PTE_W | PTE_U, table;

	if (c->mmu_mode == MMU_PAE) {
		uint64_t pdpte = c->pdpte[(gva >> 30) & 3];

		if (!(pdpte & PTE_P)) {
			page_fault(c, gva, access, 0);
			return WALK_FAULT;
		}
		table = pdpte & bits_get(~0ull, 0, 52) & ~0xfffull;
	} else {
		table = wide ? c->cr3 & bits_get(~0ull, 0, 52) & ~0xfffull : c->cr3 & 0xfffff000;
	}
	for (;; level--) {
		unsigned shift = PAGE_SHIFT + ibits * (unsigned)level;
		unsigned index = (unsigned)bits_get(gva, shift, ibits);
		struct pte e;

		/* Tables outside memory read as ones on a bus: a reserved-bit fault at best. */
		if (!pte_read(c, table + (uint64_t)index * esize, esize, &e))
			e = (struct pte){ .val = wide ? ~0ull : 0xffffffff };
		if (!(e.val & PTE_P)) {
			page_fault(c, gva, access, 0);
			return WALK_FAULT;
		}

		bool large = level > 0 && e.val & PTE_PS && (wide || c->cr4 & CR4_PSE);
		bool leaf = level == 0 || large;

		if (e.val & reserved_bits(c, (unsigned)level, leaf)) {
			page_fault(c, gva, access, PF_P | PF_RSVD);
			return WALK_FAULT;
		}
		rights = (rights & e.val & (PTE_W | PTE_U)) | ((rights | e.val) & PTE_NX);
		if (!leaf) {
			if (!(access & PF_PEEK) && !pte_mark(c, &e, esize, PTE_A))
				return WALK_AGAIN;
			table = wide ? e.val & bits_get(~0ull, 0, 52) & ~0xfffull
				     : e.val & 0xfffff000;
			continue;
		}
		if (denied(c, access, rights)) {
			page_fault(c, gva, access, PF_P);
			return WALK_FAULT;
		}
		if (!(access & PF_PEEK) &&
		    !pte_mark(c, &e, esize, PTE_A | (access & PF_WRITE ? PTE_D : 0)))
			return WALK_AGAIN;
		*size = BIT(shift);
		*gpa = leaf_gpa(c, e.val, (unsigned)level, *size) + (gva & (*size - 1));
		*perm = perms(c, access, rights, e.val & PTE_D);
		if (e.val & PTE_G && c->cr4 & CR4_PGE)
			*perm |= PERM_G;
		return WALK_DONE;
	}
}

enum x86_exc paging_walk(struct vcpu *c, gva_t gva, unsigned access, gpa_t *gpa, uint64_t *size,
			 unsigned *perm)
{
	enum walk w;

	if (c->mmu_mode == MMU_OFF) {
		*gpa = gva & 0xffffffff;
		*size = PAGE_SIZE;
		*perm = PERM_R | PERM_W | PERM_X;
		return EXC_NONE;
	}
	do
		w = walk_once(c, gva, access, gpa, size, perm);
	while (w == WALK_AGAIN);
	return w == WALK_DONE ? EXC_NONE : EXC_PF;
}

enum x86_exc paging_load_pdptes(struct vcpu *c, uint64_t cr3)
{
	/* PDPTEs have no rights: bits 1, 2, 5-8 are reserved besides those above the address. */
	uint64_t rsvd = ~(BIT(c->model->phys_bits) - 1) | 0x1e6;
	uint64_t pdpte[4];

	if (!physmap_read(c->pm, cr3 & 0xffffffe0, pdpte, sizeof(pdpte)))
		memset(pdpte, 0, sizeof(pdpte));
	for (unsigned i = 0; i < 4; i++) {
		if (pdpte[i] & PTE_P && pdpte[i] & rsvd) {
			c->exc_error = 0;
			return EXC_GP;
		}
	}
	memcpy(c->pdpte, pdpte, sizeof(pdpte));
	return EXC_NONE;
}
