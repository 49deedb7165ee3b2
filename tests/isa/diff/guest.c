/* A vCPU as Linux would have set it up for a user process: long mode, CPL 3, the
 * window mapped by 4 KiB pages, and an interrupt table whose gates lead to a HLT in ring 0 each. So
 * the delivery of an exception is part of what is compared.
 */
#include "guest.h"

#include "flatcpu.h"
#include "watch.h"

/* Guest-physical. */
#define PHYS_TABLES 0x400000ull
#define PHYS_WINDOW 0x500000ull
#define PHYS_KERNEL 0x600000ull

/* Linear: supervisor pages, where Linux has its own addresses. */
#define KERNEL	     0xffffc90000000000ull
#define KERNEL_GDT   (KERNEL + 0x000)
#define KERNEL_TSS   (KERNEL + 0x100)
#define KERNEL_IDT   (KERNEL + 0x200)
#define KERNEL_GATES (KERNEL + 0x800) /* code, 16 bytes for each vector */
#define KERNEL_STACK (KERNEL + 0x3000)
#define KERNEL_PAGES 3

#define N_VECTORS 32
#define TSS_BYTES 0x68

#define PTE_P  1ull
#define PTE_W  2ull
#define PTE_U  4ull
#define PTE_NX (1ull << 63)

struct guest {
	struct flatcpu f;
	unsigned runs;
	const struct shared *images;
	uint32_t in_code; /* bytes of code that the last test left */
	uint16_t code_off;
	volatile bool hung;
};

/* The test runs for too long. */
static void stop(void *guest)
{
	struct guest *g = guest;

	g->hung = true;
	vcpu_kick(&g->f.c, KICK_STOP);
}

/* ---- memory ---- */

static uint64_t *table(struct guest *g, unsigned n)
{
	return (uint64_t *)(g->f.pm.ram + PHYS_TABLES + n * PAGE_SIZE);
}

static uint64_t table_entry(unsigned n)
{
	return (PHYS_TABLES + n * PAGE_SIZE) | PTE_P | PTE_W | PTE_U;
}

/* Tables 0 to 3 lead to linear 0, 4 to 6 to the supervisor's pages. */
static void make_page_tables(struct guest *g)
{
	static const char kinds[] = WIN_MAP;

	memset(table(g, 0), 0, 7 * PAGE_SIZE);
	for (unsigned n = 0; n < 3; n++)
		table(g, n)[0] = table_entry(n + 1);
	table(g, 0)[KERNEL >> 39 & 511] = table_entry(4);
	table(g, 4)[KERNEL >> 30 & 511] = table_entry(5);
	table(g, 5)[KERNEL >> 21 & 511] = table_entry(6);
	for (unsigned n = 0; n < KERNEL_PAGES; n++)
		table(g, 6)[n] = (PHYS_KERNEL + n * PAGE_SIZE) | PTE_P | PTE_W;
	for (unsigned n = 0; n < WIN_PAGES; n++) {
		uint64_t pte = (PHYS_WINDOW + n * PAGE_SIZE) | PTE_P | PTE_U;

		if (kinds[n] == '-')
			continue;
		if (kinds[n] == 'w' || (kinds[n] == 'x' && g->images->smc))
			pte |= PTE_W;
		if (kinds[n] != 'x')
			pte |= PTE_NX;
		table(g, 3)[WIN_BASE / PAGE_SIZE + n] = pte;
	}
}

static uint8_t *window(struct guest *g, uint64_t off)
{
	return g->f.pm.ram + PHYS_WINDOW + off;
}

static uint8_t *kernel(struct guest *g, gva_t lin)
{
	return g->f.pm.ram + PHYS_KERNEL + (lin - KERNEL);
}

static void make_gate(uint8_t *gate, gva_t to, unsigned dpl)
{
	memset(gate, 0, 16);
	store16(gate, (uint16_t)to);
	store16(gate + 2, 0x10);
	gate[5] = (uint8_t)(0x8e | dpl << 5);
	store16(gate + 6, (uint16_t)(to >> 16));
	store32(gate + 8, (uint32_t)(to >> 32));
}

static void make_kernel(struct guest *g)
{
	uint8_t *tss = kernel(g, KERNEL_TSS);

	/* 64-bit code of ring 0 at selector 0x10. */
	store64(kernel(g, KERNEL_GDT) + 0x10, 0x00af9b000000ffffull);
	store64(tss + 4, KERNEL_STACK);
	store16(tss + 102, TSS_BYTES);
	for (unsigned v = 0; v < N_VECTORS; v++) {
		gva_t to = KERNEL_GATES + v * 16;

		/* As Linux has it: INT3 and INTO are open to users. */
		make_gate(kernel(g, KERNEL_IDT) + v * 16, to, v == 3 || v == 4 ? 3 : 0);
		*kernel(g, to) = 0xf4;
	}
}

/* ---- state ---- */

static void set_seg(struct vcpu *c, unsigned seg, enum seg_kind kind)
{
	const struct seg_row *r = &seg_rows[kind];
	struct seg *s = &c->seg[seg];

	*s = (struct seg){ .base = r->base, .limit = r->limit, .sel = r->sel };
	if (kind == KIND_NULL) {
		s->attr = ATTR_UNUSABLE;
		return;
	}
	s->attr = ATTR_P | ATTR_DPL | ATTR_S | ATTR_ACCESSED;
	if (r->code)
		s->attr |= ATTR_CODE | ATTR_WRITE;
	if (r->writable)
		s->attr |= ATTR_WRITE;
	if (r->down)
		s->attr |= ATTR_DOWN;
	if (kind == KIND_CODE64)
		s->attr |= ATTR_L;
	else if (r->db)
		s->attr |= ATTR_DB;
	if (r->limit == 0xffffffff)
		s->attr |= ATTR_G;
}

static void set_system(struct vcpu *c)
{
	c->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_MP | CR0_ET | CR0_WP | CR0_AM;
	c->cr2 = 0;
	c->cr3 = PHYS_TABLES;
	c->cr4 = CR4_PAE | CR4_DE | CR4_PSE | CR4_PGE | CR4_MCE | CR4_OSFXSR | CR4_OSXMMEXCPT |
		 CR4_OSXSAVE | CR4_FSGSBASE | CR4_UMIP | CR4_SMEP | CR4_SMAP;
	c->msr.efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	c->gdtr = (struct dtable){ .base = KERNEL_GDT, .limit = 0x17 };
	c->idtr = (struct dtable){ .base = KERNEL_IDT, .limit = N_VECTORS * 16 - 1 };
	c->seg[SEG_TR] = (struct seg){
		.base = KERNEL_TSS, .limit = TSS_BYTES - 1, .sel = 0x40, .attr = 0x8b
	};
	c->mp_state = MP_RUNNING;
	c->shadow = 0;
	c->pending_db = 0;
	c->dr[6] = DR6_FIXED1;
	c->dr[7] = DR7_FIXED1;
}

static void set_state(struct vcpu *c, const struct test *t)
{
	const struct state *s = &t->in;

	set_seg(c, SEG_CS, t->cs);
	set_seg(c, SEG_SS, t->ss);
	set_seg(c, SEG_DS, t->ds);
	set_seg(c, SEG_ES, t->es);
	set_seg(c, SEG_FS, KIND_NULL);
	set_seg(c, SEG_GS, KIND_NULL);
	c->seg[SEG_FS].base = s->fs_base;
	c->seg[SEG_GS].base = s->gs_base;
	memcpy(c->gpr, s->gpr, sizeof(s->gpr));
	c->rip = s->rip;
	vcpu_set_rflags(c, s->rflags | RFLAGS_IF);
	memcpy(c->fpu.fx, s->fx, sizeof(s->fx));
	c->fpu.mxcsr = s->mxcsr;
	memcpy(c->fpu.k, s->k, sizeof(s->k));
	memcpy(c->fpu.zmm, s->zmm, sizeof(s->zmm));
	c->fpu.wide = 0xff;
}

/* The exception's frame lies where RSP points: error code if there is one, RIP, CS, RFLAGS, RSP. */
static void get_state(struct guest *g, struct result *r)
{
	const struct vcpu *c = &g->f.c;
	struct state *s = &r->out;
	bool error = BIT(r->vector) & (BIT(8) | 0x7cull << 8 | BIT(17) | BIT(21));
	const uint8_t *frame = kernel(g, KERNEL_STACK) - 40;

	r->error = error ? load32(frame - 8) : 0;
	r->cr2 = c->cr2;
	memcpy(s->gpr, c->gpr, sizeof(s->gpr));
	s->rip = load64(frame);
	s->rflags = load64(frame + 16);
	s->gpr[REG_RSP] = load64(frame + 24);
	s->fs_base = c->seg[SEG_FS].base;
	s->gs_base = c->seg[SEG_GS].base;
	memset(s->fx, 0, sizeof(s->fx));
	memcpy(s->fx, c->fpu.fx, 24);
	memcpy(s->fx + 32, c->fpu.fx + 32, 128);
	s->mxcsr = c->fpu.mxcsr;
	memcpy(s->k, c->fpu.k, sizeof(s->k));
	memcpy(s->zmm, c->fpu.zmm, sizeof(s->zmm));
}

/* Undo what tests have stored to the code pages beside the code. */
static void clean_code(struct guest *g)
{
	static const uint8_t filler[64] = { [0 ... 63] = 0xcc };
	unsigned end = (CODE_PAGE + N_CODE) * PAGE_SIZE;

	for (unsigned off = CODE_PAGE * PAGE_SIZE; off < end; off++) {
		if (off % 64 == 0 && !memcmp(window(g, off), filler, 64))
			off += 63;
		else if (*window(g, off) != 0xcc && off - g->code_off >= g->in_code)
			physmap_write(&g->f.pm, PHYS_WINDOW + off, filler, 1);
	}
}

/* Bytes that follow what there is of the code pages are in no memory. */
static void set_code(struct guest *g, const struct test *t)
{
	static const uint8_t filler[TEST_CODE] = { [0 ... TEST_CODE - 1] = 0xcc };
	uint8_t code[TEST_CODE];
	unsigned n = test_code(t, code), end = (CODE_PAGE + N_CODE) * PAGE_SIZE;

	physmap_write(&g->f.pm, PHYS_WINDOW + g->code_off, filler, g->in_code);
	g->code_off = t->code_off;
	g->in_code = MIN(n, end - t->code_off);
	physmap_write(&g->f.pm, PHYS_WINDOW + t->code_off, code, g->in_code);
}

static void run_once(struct guest *g, const struct test *t, struct result *r)
{
	struct vcpu *c = &g->f.c;
	enum run_exit e;

	for (unsigned n = 0; n < N_DATA; n++)
		memcpy(window(g, data_page[n] * PAGE_SIZE), g->images->image[t->image][n],
		       PAGE_SIZE);
	if (g->images->smc)
		clean_code(g);
	set_system(c);
	set_state(c, t);
	vcpu_update_mode(c);
	g->hung = false;
	watch_begin();
	e = c->engine->run(c);
	watch_end();
	memset(r, 0, offsetof(struct result, mem));
	r->vector = e == RUN_HALTED ? (uint8_t)((c->rip - 1 - KERNEL_GATES) / 16)
		    : g->hung	    ? END_HUNG
				    : END_LOST;
	if (e == RUN_HALTED)
		get_state(g, r);
	memset(r->code, 0, sizeof(r->code));
	memcpy(r->code, window(g, g->code_off), g->in_code);
	for (unsigned n = 0; n < N_DATA; n++)
		memcpy(r->mem[n], window(g, data_page[n] * PAGE_SIZE), PAGE_SIZE);
}

void guest_run(struct guest *g, const struct test *t, struct result *r)
{
	static struct result before;

	set_code(g, t);
	run_once(g, t, r);
	for (unsigned n = 1; n < g->runs; n++) {
		before = *r;
		if (g->images->smc)
			set_code(g, t);
		run_once(g, t, r);
		if (memcmp(&before, r, sizeof(before)) != 0)
			break;
	}
}

/* ---- life ---- */

struct guest *guest_new(const struct shared *images, const struct guest_options *opt)
{
	struct guest *g = aligned_alloc(64, ALIGN_UP(sizeof(*g), 64)); /* as struct vcpu wants */

	if (!g)
		return NULL;
	memset(g, 0, sizeof(*g));
	g->images = images;
	g->runs = opt->runs;
	flat_init(&g->f, opt->engine, "host");
	g->f.c.insn_limit = opt->exact ? ~0ull : 0;
	make_page_tables(g);
	make_kernel(g);
	memset(window(g, CODE_PAGE * PAGE_SIZE), 0xcc, N_CODE * PAGE_SIZE);
	memcpy(window(g, RO_PAGE * PAGE_SIZE), images->ro_page, PAGE_SIZE);
	set_system(&g->f.c);
	vmem_flush(&g->f.c, true);
	watch_start(stop, g);
	return g;
}

void guest_free(struct guest *g)
{
	watch_stop();
	flat_fini(&g->f);
	free(g);
}
