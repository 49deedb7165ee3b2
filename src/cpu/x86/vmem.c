/* The slow half of guest memory access: walks, TLB fills, page crossing, MMIO, alignment checks,
 * breakpoints. The fast half is inline in tlb.h.
 */
#include "cpu/x86/vmem.h"

#include "cpu/x86/features.h"
#include "cpu/x86/system.h"
#include "cpu/x86/tlb.h"
#include "mem/iospace.h"
#include "mem/physmap.h"

#include <errno.h>
#include <stdlib.h>

#define MAX_ASID 4095
#define N_PCIDS	 8

#define LARGE_PIECE (4 * MiB)
#define HUGE_PIECE  GiB
#define LARGE_WORDS 128u

/* Which address space an asid stands for. */
struct pcid_slot {
	uint16_t pcid;
	uint16_t asid; /* 0: free */
};

struct tlb {
	struct tlb_entry e[N_TLB_MODES][TLB_SIZE];
	struct pcid_slot pcid[N_PCIDS];
	unsigned next_slot;
	uint16_t last_asid;
	uint64_t epoch;	  /* part of code_key: counts what may change rip -> code */
	uint64_t cs_seen; /* CS base and limit that the epoch stands for */
	uint32_t cs_limit_seen;
	/* Hashed sets of where large pages were filled since the last full flush: pieces of 4 MiB
	 * that have pages of 2 or 4 MiB, pieces of 1 GiB that have such a page. */
	uint64_t large[LARGE_WORDS], huge[LARGE_WORDS];
	unsigned last_perm; /* PERM_ bits of the last fill */
};

int tlb_new(struct tlb **out)
{
	*out = aligned_alloc(64, ALIGN_UP(sizeof(**out), 64));
	if (!*out)
		return -ENOMEM;
	memset(*out, 0, sizeof(**out));
	return 0;
}

void tlb_free(struct tlb *t)
{
	free(t);
}

/* -- Large pages ---------------------------------------------------------------------------- */

static uint64_t *piece_word(uint64_t *set, uint64_t piece, uint64_t *bit)
{
	uint64_t h = piece * 0x9e3779b97f4a7c15ull;

	*bit = BIT(h >> 58);
	return &set[h >> 48 & (LARGE_WORDS - 1)];
}

static void add_piece(uint64_t *set, uint64_t piece)
{
	uint64_t bit, *word = piece_word(set, piece, &bit);

	*word |= bit;
}

static bool has_piece(uint64_t *set, uint64_t piece)
{
	uint64_t bit, *word = piece_word(set, piece, &bit);

	return *word & bit;
}

/* -- Address spaces ------------------------------------------------------------------------- */

static uint16_t new_asid(struct vcpu *c)
{
	struct tlb *t = c->tlb;

	if (t->last_asid == MAX_ASID) {
		memset(t->e, 0, sizeof(t->e));
		memset(t->pcid, 0, sizeof(t->pcid));
		t->last_asid = 0;
		t->epoch++;
		if (c->tlb_watch)
			c->tlb_watch->flush(c, true);
	}
	return ++t->last_asid;
}

static uint16_t current_pcid(const struct vcpu *c)
{
	return c->cr4 & CR4_PCIDE ? c->cr3 & CR3_PCID_MASK : 0;
}

static struct pcid_slot *find_pcid(struct tlb *t, uint16_t pcid)
{
	for (unsigned i = 0; i < N_PCIDS; i++)
		if (t->pcid[i].asid && t->pcid[i].pcid == pcid)
			return &t->pcid[i];
	return NULL;
}

void vmem_switch(struct vcpu *c, bool flush)
{
	struct tlb *t = c->tlb;
	uint16_t pcid = current_pcid(c);
	struct pcid_slot *s = find_pcid(t, pcid);

	if (!s) {
		s = &t->pcid[t->next_slot];
		t->next_slot = (t->next_slot + 1) % N_PCIDS;
		flush = true;
	}
	if (flush) {
		uint16_t asid = new_asid(c);

		*s = (struct pcid_slot){ .pcid = pcid, .asid = asid };
	}
	if (c->tlb_watch && c->tlb_asid != s->asid) {
		c->tlb_asid = s->asid;
		c->tlb_watch->switched(c);
	}
	c->tlb_asid = s->asid;
	tlb_select(c);
}

void vmem_flush(struct vcpu *c, bool global_too)
{
	/* Global translations live in each address space that used them, so here both kinds go. */
	memset(c->tlb->pcid, 0, sizeof(c->tlb->pcid));
	if (global_too) {
		memset(c->tlb->large, 0, sizeof(c->tlb->large));
		memset(c->tlb->huge, 0, sizeof(c->tlb->huge));
	}
	if (c->tlb_watch)
		c->tlb_watch->flush(c, global_too);
	vmem_switch(c, true);
}

void vmem_flush_pcid(struct vcpu *c, uint16_t pcid)
{
	struct pcid_slot *s = find_pcid(c->tlb, pcid);

	if (pcid == current_pcid(c))
		vmem_switch(c, true);
	else if (s)
		s->asid = 0;
}

static void clear_slots(struct vcpu *c, gva_t gva, unsigned n)
{
	struct tlb *t = c->tlb;

	for (unsigned m = 0; m < N_TLB_MODES; m++)
		for (unsigned i = 0; i < n; i++)
			t->e[m][((gva >> PAGE_SHIFT) + i) & (TLB_SIZE - 1)] =
				(struct tlb_entry){ 0 };
	if (c->tlb_watch)
		c->tlb_watch->flush_pages(c, gva & ~(PAGE_SIZE - 1), n);
}

void vmem_invlpg(struct vcpu *c, gva_t gva)
{
	struct tlb *t = c->tlb;

	if (has_piece(t->huge, gva / HUGE_PIECE)) {
		vmem_flush(c, true);
		return;
	}
	if (has_piece(t->large, gva / LARGE_PIECE))
		clear_slots(c, gva & ~(LARGE_PIECE - 1), LARGE_PIECE / PAGE_SIZE);
	else
		clear_slots(c, gva, 1);
	t->epoch++;
	tlb_select(c);
}

/* -- Following the mode --------------------------------------------------------------------- */

uint8_t tlb_mode_of(const struct vcpu *c)
{
	bool ac = c->rflags_rest & RFLAGS_AC;

	if (debug_has_data_bp(c) || (ac && c->cpl == 3 && c->cr0 & CR0_AM))
		return TLB_SLOW;
	if (c->cpl == 3)
		return TLB_USER;
	return ac || !(c->cr4 & CR4_SMAP) ? TLB_KERNEL_AC : TLB_KERNEL;
}

void tlb_select(struct vcpu *c)
{
	const struct seg *cs = &c->seg[SEG_CS];
	struct tlb *t = c->tlb;

	c->tlb_mode = tlb_mode_of(c);
	c->tlb_now = t->e[c->tlb_mode];
	/* 64-bit code ignores CS's base and limit; other code is found by offset in CS. */
	if (!c->code64 && (cs->base != t->cs_seen || cs->limit != t->cs_limit_seen)) {
		t->cs_seen = cs->base;
		t->cs_limit_seen = cs->limit;
		t->epoch++;
	}
	c->code_key = t->epoch << 20 | c->tlb_asid << 8 | (c->stack_size == 4) << 7 |
		      (uint64_t)c->code_size << 3 | (c->flat_segs ? 4 : 0) | (c->cpl == 3 ? 2 : 0) |
		      (c->mmu_mode != MMU_OFF);
}

/* -- Write shortcuts and code (the rules of struct page_state) -------------------------------- */

static void drop_writes(struct vcpu *c, const uint8_t *page)
{
	for (unsigned m = 0; m < TLB_SLOW; m++) {
		for (unsigned i = 0; i < TLB_SIZE; i++) {
			struct tlb_entry *e = &c->tlb->e[m][i];

			if (e->tag_w &&
			    (e->tag_w & ~(PAGE_SIZE - 1)) + e->addend == (uintptr_t)page)
				e->tag_w = 0;
		}
	}
}

void tlb_drop_writes(struct vcpu *c, const uint8_t *p)
{
	struct page_state *ps = physmap_page(c->pm, p);

	if (!ps || !(atomic_load(&ps->writers) & BIT(c->index)))
		return;
	p = (const uint8_t *)((uintptr_t)p & ~(PAGE_SIZE - 1));
	drop_writes(c, p);
	if (c->tlb_watch)
		c->tlb_watch->drop_writes(c, p);
	/* Who decoded the page meanwhile and has not looked since would not see what was stored
	 * unseen: that code is void, from before it stops comparing. */
	atomic_fetch_add(&ps->code_gen, 1);
	atomic_fetch_and(&ps->writers, ~BIT(c->index));
}

void tlb_serve_drops(struct vcpu *c)
{
	for (unsigned i = 0; i < VCPU_DROP_RING; i++) {
		uint64_t page = atomic_exchange(&c->drop_ring[i], 0);

		if (page)
			tlb_drop_writes(c, c->pm->ram + ((page - 1) << PAGE_SHIFT));
	}
}

/* May this vCPU store to the page without telling? Claims the right if so. */
static bool claim_writes(struct vcpu *c, struct page_state *ps)
{
	uint64_t me = BIT(c->index);

	if (atomic_load(&ps->code_lines))
		return false;
	if (atomic_load_explicit(&ps->writers, memory_order_relaxed) & me)
		return true;
	atomic_fetch_or(&ps->writers, me);
	if (!atomic_load(&ps->code_lines))
		return true;
	atomic_fetch_and(&ps->writers, ~me);
	return false;
}

static void ask_drops(struct vcpu *c, struct page_state *ps, uint64_t others)
{
	uint64_t page = (uint64_t)(ps - c->pm->pages) + 1;

	while (others) {
		unsigned n = (unsigned)__builtin_ctzll(others);
		struct vcpu *o = c->set->v[n];

		others &= others - 1;
		for (unsigned i = 0; i < VCPU_DROP_RING; i++) {
			uint64_t slot =
				atomic_load_explicit(&o->drop_ring[i], memory_order_relaxed);

			if (slot == page)
				break;
			if (!slot &&
			    atomic_compare_exchange_strong(&o->drop_ring[i], &slot, page)) {
				vcpu_kick(o, KICK_DROP);
				break;
			}
		}
	}
}

uint64_t tlb_unseen_writers(struct vcpu *c, struct page_state *ps)
{
	uint64_t others = atomic_load(&ps->writers) & ~BIT(c->index);

	if (unlikely(others) && c->set)
		ask_drops(c, ps, others);
	return others;
}

/* -- Translation ---------------------------------------------------------------------------- */

/* A piece of an access that lies in one page. */
struct place {
	uint8_t *host; /* NULL: MMIO */
	gpa_t gpa;
	bool rom;
};

static unsigned access_of(const struct vcpu *c, enum vmem_as as)
{
	if (as == AS_SYSTEM)
		return 0;
	if (as == AS_USER || c->cpl == 3)
		return PF_USER;
	return c->rflags_rest & RFLAGS_AC ? PF_AC : 0;
}

static unsigned array_of(const struct vcpu *c, enum vmem_as as)
{
	if (as == AS_CPL || as == AS_UNALIGNED)
		return c->tlb_mode;
	if (as == AS_USER)
		return TLB_USER;
	return c->cr4 & CR4_SMAP ? TLB_KERNEL : TLB_KERNEL_AC;
}

static void fill(struct vcpu *c, unsigned array, gva_t gva, const struct place *p, uint64_t size,
		 unsigned perm)
{
	struct tlb *t = c->tlb;
	struct tlb_entry *e = &t->e[array][(gva >> PAGE_SHIFT) & (TLB_SIZE - 1)];
	struct page_state *ps = physmap_page(c->pm, p->host);
	uint64_t tag = tlb_tag(c, gva);

	t->last_perm = perm;
	if (array == TLB_SLOW)
		return;
	if (size > LARGE_PIECE)
		add_piece(t->huge, gva / HUGE_PIECE);
	else if (size > PAGE_SIZE)
		add_piece(t->large, gva / LARGE_PIECE);
	if (perm & PERM_W && (p->rom || !ps || !claim_writes(c, ps)))
		perm &= ~PERM_W;
	if (perm & PERM_W)
		atomic_store_explicit(&ps->dirty, 1, memory_order_relaxed);
	e->tag_r = perm & PERM_R ? tag : 0;
	e->tag_w = perm & PERM_W ? tag : 0;
	e->tag_x = perm & PERM_X ? tag : 0;
	e->addend = (uintptr_t)p->host - gva;
}

static enum x86_exc general_protection(struct vcpu *c)
{
	c->exc_error = 0;
	return EXC_GP;
}

/* Where is [gva, gva+len), which lies in one page? Fills the TLB when it is memory. */
static enum x86_exc locate(struct vcpu *c, gva_t gva, unsigned access, unsigned array,
			   struct place *p)
{
	uint64_t size;
	unsigned perm;
	enum x86_exc exc;

	if (c->long_mode && !is_canonical(gva))
		return general_protection(c);
	if (!c->long_mode)
		gva &= 0xffffffff;
	c->stats.tlb_misses++;
	exc = paging_walk(c, gva, access, &p->gpa, &size, &perm);
	if (exc)
		return exc;

	gpa_t page = p->gpa & ~(PAGE_SIZE - 1);
	uint8_t *host = physmap_host(c->pm, page, PAGE_SIZE, &p->rom);

	if (!host)
		p->rom = false;
	p->host = host ? host + (p->gpa - page) : NULL;
	if (c->apic_ops && c->apic_ops->owns_gpa(c->apic, p->gpa))
		p->host = NULL;
	if (p->host)
		fill(c, array, gva, p, size, perm);
	return EXC_NONE;
}

/* As locate, but looks into the TLB first. */
static enum x86_exc find(struct vcpu *c, gva_t gva, bool write, enum vmem_as as, struct place *p)
{
	unsigned array = array_of(c, as);
	gva_t tagged = c->long_mode ? gva : gva & 0xffffffff;
	const struct tlb_entry *e = &c->tlb->e[array][(tagged >> PAGE_SHIFT) & (TLB_SIZE - 1)];

	if ((write ? e->tag_w : e->tag_r) == tlb_tag(c, tagged)) {
		*p = (struct place){ .host = (uint8_t *)(tagged + e->addend) };
		return EXC_NONE;
	}
	return locate(c, gva, access_of(c, as) | (write ? PF_WRITE : 0), array, p);
}

/* -- Doing it ------------------------------------------------------------------------------- */

void vmem_stored(struct vcpu *c, uint8_t *host, unsigned len)
{
	if (physmap_stored(c->pm, host, len) && c->on_code_store)
		c->on_code_store(c, host);
}

static uint64_t mmio_read(struct vcpu *c, gpa_t gpa, unsigned size)
{
	c->stats.mmios++;
	if (c->apic_ops && c->apic_ops->owns_gpa(c->apic, gpa))
		return c->apic_ops->read(c->apic, gpa & (PAGE_SIZE - 1), size);
	return iospace_read(c->mmio, gpa, size);
}

static void mmio_write(struct vcpu *c, gpa_t gpa, unsigned size, uint64_t val)
{
	c->stats.mmios++;
	if (c->apic_ops && c->apic_ops->owns_gpa(c->apic, gpa))
		c->apic_ops->write(c->apic, gpa & (PAGE_SIZE - 1), size, val);
	else
		iospace_write(c->mmio, gpa, size, val);
}

/* MMIO of any length in pieces that a bus can carry. */
static void mmio_copy(struct vcpu *c, gpa_t gpa, uint8_t *buf, unsigned len, bool write)
{
	while (len) {
		unsigned n = len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;
		uint64_t v = 0;

		if (write) {
			memcpy(&v, buf, n);
			mmio_write(c, gpa, n, v);
		} else {
			v = mmio_read(c, gpa, n);
			memcpy(buf, &v, n);
		}
		gpa += n;
		buf += n;
		len -= n;
	}
}

/* One host access for the sizes that the CPU keeps whole. */
static void copy_whole(uint8_t *dst, const uint8_t *src, unsigned len)
{
	switch (len) {
	case 1: *dst = *src; break;
	case 2: *(volatile any16 *)dst = *(const volatile any16 *)src; break;
	case 4: *(volatile any32 *)dst = *(const volatile any32 *)src; break;
	case 8: *(volatile any64 *)dst = *(const volatile any64 *)src; break;
	default: memcpy(dst, src, len);
	}
}

static void piece_read(struct vcpu *c, const struct place *p, uint8_t *buf, unsigned len)
{
	if (p->host)
		copy_whole(buf, p->host, len);
	else
		mmio_copy(c, p->gpa, buf, len, false);
}

static void piece_write(struct vcpu *c, const struct place *p, const uint8_t *buf, unsigned len)
{
	if (!p->host) {
		mmio_copy(c, p->gpa, (uint8_t *)buf, len, true);
	} else if (!p->rom) {
		copy_whole(p->host, buf, len);
		vmem_stored(c, p->host, len);
	}
}

static unsigned first_piece(gva_t gva, unsigned len)
{
	return (unsigned)MIN(len, PAGE_SIZE - (gva & (PAGE_SIZE - 1)));
}

/* Alignment check exception: CPL 3 with CR0.AM and EFLAGS.AC. SDM 3A 6.15, vector 17. */
static enum x86_exc check_alignment(struct vcpu *c, gva_t gva, unsigned len, enum vmem_as as)
{
	if (as != AS_CPL || c->tlb_mode != TLB_SLOW)
		return EXC_NONE;
	if (c->cpl != 3 || !(c->cr0 & CR0_AM) || !(c->rflags_rest & RFLAGS_AC))
		return EXC_NONE;
	if ((len != 2 && len != 4 && len != 8) || !(gva & (len - 1)))
		return EXC_NONE;
	c->exc_error = 0;
	return EXC_AC;
}

static enum x86_exc check_canonical(struct vcpu *c, gva_t gva)
{
	return c->long_mode && !is_canonical(gva) ? general_protection(c) : EXC_NONE;
}

/* Linear addresses of 16- and 32-bit code wrap at 4 GiB. */
static gva_t second_page(const struct vcpu *c, gva_t gva, enum vmem_as as)
{
	return c->code64 || as == AS_SYSTEM ? gva : gva & 0xffffffff;
}

/* Places of all of [gva, gva+len): at most two. What is wrong with the address comes first, then
 * its alignment, then its other end, then page faults. */
static enum x86_exc find_all(struct vcpu *c, gva_t gva, unsigned len, bool write, enum vmem_as as,
			     struct place p[2])
{
	unsigned n = first_piece(gva, len);
	enum x86_exc exc = check_canonical(c, gva);

	if (!exc)
		exc = check_alignment(c, gva, len, as);
	if (!exc)
		exc = check_canonical(c, gva + len - 1);
	if (!exc)
		exc = find(c, gva, write, as, &p[0]);
	if (!exc && n < len)
		exc = find(c, second_page(c, gva + n, as), write, as, &p[1]);
	if (unlikely(c->no_devices) && !exc && (!p[0].host || (n < len && !p[1].host)))
		exc = EXC_ALONE;
	return exc;
}

static void note_breakpoint(struct vcpu *c, gva_t gva, unsigned len, bool write, enum vmem_as as)
{
	if (unlikely(c->tlb_mode == TLB_SLOW) && (as == AS_CPL || as == AS_UNALIGNED))
		debug_data_access(c, gva, len, write, false);
}

enum x86_exc vmem_read(struct vcpu *c, gva_t gva, void *buf, unsigned len, enum vmem_as as)
{
	unsigned n = first_piece(gva, len);
	struct place p[2];
	enum x86_exc exc = find_all(c, gva, len, false, as, p);

	if (exc)
		return exc;
	piece_read(c, &p[0], buf, n);
	if (n < len)
		piece_read(c, &p[1], (uint8_t *)buf + n, len - n);
	note_breakpoint(c, gva, len, false, as);
	return EXC_NONE;
}

enum x86_exc vmem_write(struct vcpu *c, gva_t gva, const void *buf, unsigned len, enum vmem_as as)
{
	unsigned n = first_piece(gva, len);
	struct place p[2];
	enum x86_exc exc = find_all(c, gva, len, true, as, p);

	if (exc)
		return exc;
	piece_write(c, &p[0], buf, n);
	if (n < len)
		piece_write(c, &p[1], (const uint8_t *)buf + n, len - n);
	note_breakpoint(c, gva, len, true, as);
	return EXC_NONE;
}

enum x86_exc vmem_probe(struct vcpu *c, gva_t gva, unsigned len, bool write, enum vmem_as as)
{
	struct place p[2];

	return find_all(c, gva, len, write, as, p);
}

enum x86_exc vmem_check(struct vcpu *c, gva_t gva, unsigned len, bool aligned)
{
	enum x86_exc exc = check_canonical(c, gva);

	if (!exc && aligned)
		exc = check_alignment(c, gva, len, AS_CPL);
	return exc ? exc : check_canonical(c, gva + len - 1);
}

enum x86_exc vmem_host(struct vcpu *c, gva_t gva, unsigned len, bool write, enum vmem_as as,
		       uint8_t **host)
{
	struct place p[2];
	enum x86_exc exc = find_all(c, gva, len, write, as, p);

	*host = exc || (write && p[0].rom) ? NULL : p[0].host;
	if (!exc)
		note_breakpoint(c, gva, len, write, as);
	return exc;
}

const uint8_t *tlb_fetch(struct vcpu *c, gva_t gva, enum x86_exc *exc)
{
	const struct tlb_entry *e = tlb_at(c, gva);
	struct place p;

	*exc = EXC_NONE;
	if (e->tag_x == tlb_tag(c, gva))
		return (const uint8_t *)(gva + e->addend);
	*exc = locate(c, gva, PF_FETCH | (c->cpl == 3 ? PF_USER : 0), c->tlb_mode, &p);
	return *exc ? NULL : p.host;
}

unsigned tlb_plain(struct vcpu *c, gva_t gva, bool write, uint8_t **page)
{
	const struct tlb_entry *e = tlb_at(c, gva);
	unsigned perm = 0;
	struct place p;

	if (c->tlb_mode == TLB_SLOW ||
	    locate(c, gva, access_of(c, AS_CPL) | (write ? PF_WRITE : 0), c->tlb_mode, &p) ||
	    !p.host || !physmap_page(c->pm, p.host))
		return 0;
	if (e->tag_r == tlb_tag(c, gva))
		perm |= PERM_R;
	if (e->tag_w == tlb_tag(c, gva))
		perm |= PERM_W;
	*page = (uint8_t *)((uintptr_t)p.host & ~(PAGE_SIZE - 1));
	return perm & (write ? PERM_W : PERM_R) ? perm | (c->tlb->last_perm & PERM_G) : 0;
}

bool tlb_is_global(struct vcpu *c, gva_t gva)
{
	unsigned perm = 0;
	uint64_t size;
	gpa_t gpa;

	return !paging_walk(c, gva, PF_PEEK | PF_AC, &gpa, &size, &perm) && perm & PERM_G;
}

bool vmem_peek(struct vcpu *c, gva_t gva, void *buf, unsigned len)
{
	while (len) {
		unsigned n = first_piece(gva, len), perm;
		uint64_t size;
		gpa_t gpa;

		if (c->long_mode && !is_canonical(gva))
			return false;
		/* As supervisor with AC: a debugger may look at everything that is mapped. */
		if (paging_walk(c, gva, PF_PEEK | PF_AC, &gpa, &size, &perm) ||
		    !physmap_read(c->pm, gpa, buf, n))
			return false;
		gva += n;
		buf = (uint8_t *)buf + n;
		len -= n;
	}
	return true;
}
