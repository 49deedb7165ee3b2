/* Spaces: the linear tables and jump caches that translated code uses without asking. */
#include "cpu/dbt/dbt_internal.h"

#include "base/err.h"
#include "cpu/x86/tlb.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* -- Their memory ----------------------------------------------------------------------------- */

static uint64_t *entry_read(const struct space *s, uint32_t index)
{
	return (uint64_t *)(s->gs + TABLE_READ) + index;
}

static uint64_t *entry_write(const struct space *s, uint32_t index)
{
	return (uint64_t *)s->gs - 1 - index;
}

#define TOUCHED_BYTES (TABLE_BYTES / PAGE_SIZE / 8)

static uint16_t slot_of(uint64_t rip)
{
	return (uint16_t)(rip >> JUMP_SHIFT);
}

static uint64_t *jump_key(const struct space *s, uint16_t slot)
{
	return (uint64_t *)(s->gs + JUMP_KEYS) + slot;
}

static uint64_t *jump_code(const struct space *s, uint16_t slot)
{
	return (uint64_t *)(s->gs + JUMP_CODE) + slot;
}

/* A key is -rip, and an empty one 0; that would be RIP 0, whose slot therefore is kept at what no
 * RIP of that slot has. */
static void jump_init(const struct space *s)
{
	*jump_key(s, 0) = 1;
}

static int space_map(struct dbt *d, struct space *s)
{
	uint8_t *base = mmap(NULL, SPACE_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	void *ctx;

	if (base == MAP_FAILED)
		return -errno;
	madvise(base, SPACE_BYTES, MADV_NOHUGEPAGE);
	madvise(base, SPACE_BYTES, MADV_DONTDUMP);
	s->gs = base + TABLE_BYTES;
	ctx = mmap(s->gs, CTX_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, d->ctx_fd, 0);
	s->fill = malloc(MAX_FILLS * sizeof(*s->fill));
	s->local = malloc(MAX_LOCAL * sizeof(*s->local));
	s->jump = malloc(MAX_JUMPS * sizeof(*s->jump));
	s->touched = mmap(NULL, TOUCHED_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ctx == MAP_FAILED || !s->fill || !s->local || !s->jump || s->touched == MAP_FAILED) {
		munmap(base, SPACE_BYTES);
		if (s->touched != MAP_FAILED)
			munmap(s->touched, TOUCHED_BYTES);
		free(s->fill);
		free(s->local);
		free(s->jump);
		*s = (struct space){ 0 };
		return -ENOMEM;
	}
	jump_init(s);
	return 0;
}

int spaces_init(struct dbt *d, struct err *err)
{
	_Static_assert(sizeof(struct dbt_ctx) <= CTX_BYTES, "one page");
	d->ctx_fd = memfd_create("vcpu", MFD_CLOEXEC);
	if (d->ctx_fd < 0 || ftruncate(d->ctx_fd, CTX_BYTES) < 0)
		return err_set(err, errno, "the translator's memory");
	d->ctx = mmap(NULL, CTX_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, d->ctx_fd, 0);
	if (d->ctx == MAP_FAILED) {
		d->ctx = NULL;
		return err_set(err, errno, "the translator's memory");
	}
	return 0;
}

void spaces_fini(struct dbt *d)
{
	for (unsigned i = 0; i < N_CPU_SPACES; i++) {
		struct space *s = &d->space[i];

		if (!s->gs)
			continue;
		munmap(s->gs - TABLE_BYTES, SPACE_BYTES);
		munmap(s->touched, TOUCHED_BYTES);
		free(s->fill);
		free(s->local);
		free(s->jump);
	}
	if (d->ctx)
		munmap(d->ctx, CTX_BYTES);
	if (d->ctx_fd >= 0)
		close(d->ctx_fd);
}

/* -- Jumps ------------------------------------------------------------------------------------ */

static uint64_t *code_page_word(struct space *s, gva_t gva, uint64_t *bit)
{
	uint64_t h = (gva >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull;

	*bit = BIT(h >> 58);
	return &s->code_pages[h >> 48 & (CODE_PAGE_WORDS - 1)];
}

static void drop_jumps(struct dbt *d, struct space *s)
{
	stack_drop(d, s);
	if (!s->gs || !s->n_jumps)
		return;
	if (s->n_jumps > MAX_JUMPS)
		memset(jump_key(s, 0), 0, JUMP_SLOTS * sizeof(uint64_t));
	for (unsigned i = 0; i < s->n_jumps && s->n_jumps <= MAX_JUMPS; i++)
		*jump_key(s, s->jump[i]) = 0;
	s->n_jumps = 0;
	s->local_code = false;
	memset(s->code_pages, 0, sizeof(s->code_pages));
	jump_init(s);
}

void spaces_drop_jumps(struct dbt *d)
{
	for (unsigned i = 0; i < N_CPU_SPACES; i++)
		drop_jumps(d, &d->space[i]);
}

void space_set_mode(struct dbt *d, uint16_t mode)
{
	/* Code switches between the kernel's two spaces by itself. */
	struct space *first = d->now < &d->space[SPACE_USER] ? d->space : d->now;
	struct space *last = d->now < &d->space[SPACE_USER] ? &d->space[SPACE_USER - 1] : d->now;

	for (struct space *s = first; s <= last; s++) {
		if (s->code_mode != (mode & TBM_SPACE))
			drop_jumps(d, s);
		s->code_mode = mode & TBM_SPACE;
	}
}

const void *space_jump(const struct dbt *d, uint64_t rip)
{
	const struct space *s = d->now;

	if (*jump_key(s, slot_of(rip)) + rip)
		return NULL;
	return (const void *)(uintptr_t)*jump_code(s, slot_of(rip));
}

void space_add_jump(struct dbt *d, uint64_t rip, uint64_t last, const void *code, bool global)
{
	struct space *s = d->now;
	uint64_t bit, *word;

	if (s->n_jumps < MAX_JUMPS)
		s->jump[s->n_jumps++] = slot_of(rip);
	else
		s->n_jumps = MAX_JUMPS + 1;
	word = code_page_word(s, rip, &bit);
	*word |= bit;
	word = code_page_word(s, last, &bit);
	*word |= bit;
	s->local_code |= !global;
	*jump_code(s, slot_of(rip)) = (uint64_t)(uintptr_t)code;
	*jump_key(s, slot_of(rip)) = -rip;
}

/* -- Tables ----------------------------------------------------------------------------------- */

static void clear_entry(const struct space *s, uint32_t index)
{
	*entry_read(s, index) = 0;
	if (*entry_write(s, index))
		*entry_write(s, index) = 0;
}

static void wipe(struct dbt *d, struct space *s)
{
	if (!s->gs)
		return;
	if (s->lost || s->n_touched > KEEP_TABLE_PAGES) {
		madvise(s->gs - TABLE_BYTES, TABLE_BYTES, MADV_DONTNEED);
		madvise(s->gs + TABLE_READ, TABLE_BYTES, MADV_DONTNEED);
		madvise(s->touched, TOUCHED_BYTES, MADV_DONTNEED);
		s->n_touched = 0;
	} else {
		for (unsigned i = 0; i < s->n_fills; i++)
			clear_entry(s, s->fill[i].index);
	}
	s->n_fills = s->n_local = 0;
	s->lost = false;
	drop_jumps(d, s);
}

/* Forget what is not global. */
static void wipe_local(struct dbt *d, struct space *s)
{
	if (!s->gs)
		return;
	for (unsigned i = 0; i < s->n_local; i++)
		clear_entry(s, s->local[i]);
	s->n_local = 0;
	if (s->local_code)
		drop_jumps(d, s);
}

static int by_index(const void *a, const void *b)
{
	const struct fill *x = a, *y = b;

	return x->index < y->index ? -1 : x->index > y->index;
}

/* Keep of the list what the tables still hold, each once. */
static void compact(struct space *s)
{
	unsigned kept = 0;

	qsort(s->fill, s->n_fills, sizeof(*s->fill), by_index);
	for (unsigned i = 0; i < s->n_fills; i++) {
		struct fill f = s->fill[i];

		if (*entry_read(s, f.index) && (!kept || s->fill[kept - 1].index != f.index))
			s->fill[kept++] = f;
	}
	s->n_fills = kept;
}

static void note_fill(struct space *s, uint32_t index, uint32_t page)
{
	if (s->n_fills == MAX_FILLS && !s->lost)
		compact(s);
	if (s->n_fills > MAX_FILLS / 4 * 3 && s->n_fills == MAX_FILLS)
		s->lost = true;
	if (s->n_fills < MAX_FILLS)
		s->fill[s->n_fills++] = (struct fill){ .index = index, .page = page };
}

static bool has_table_page(const struct space *s, uint32_t index)
{
	uint32_t n = index / (PAGE_SIZE / 8);

	return s->touched[n / 64] & BIT(n % 64);
}

/* The page of the tables that holds the entry is about to be there. */
static void note_table_page(struct dbt *d, struct space *s, uint32_t index)
{
	uint32_t n = index / (PAGE_SIZE / 8);

	if (has_table_page(s, index))
		return;
	if (s->n_touched >= MAX_TABLE_PAGES(d->c->pm->ram_bytes))
		wipe(d, s);
	s->touched[n / 64] |= BIT(n % 64);
	s->n_touched++;
}

void space_fill(struct dbt *d, gva_t gva, uint8_t *page, unsigned perm)
{
	struct space *s = d->now;
	uint32_t index = (uint32_t)(gva >> PAGE_SHIFT);
	uint64_t addend = (uint64_t)(uintptr_t)page - (gva & ~(PAGE_SIZE - 1));

	note_table_page(d, s, index);
	if (s < &d->space[SPACE_USER] && !(perm & PERM_G)) {
		if (s->n_local == MAX_LOCAL)
			wipe_local(d, s);
		s->local[s->n_local++] = index;
	}
	/* What differs stands for another page: the same place in other 16 TiB. */
	if (*entry_read(s, index) != addend)
		note_fill(s, index, (uint32_t)((uint64_t)(page - d->c->pm->ram) >> PAGE_SHIFT));
	*entry_read(s, index) = addend;
	if (perm & PERM_W)
		*entry_write(s, index) = addend;
	else if (*entry_write(s, index))
		*entry_write(s, index) = 0;
}

/* -- Which one -------------------------------------------------------------------------------- */

static struct space *user_space(struct dbt *d, uint64_t asid)
{
	struct space *oldest = &d->space[SPACE_USER];

	for (unsigned i = SPACE_USER; i < N_CPU_SPACES; i++) {
		struct space *s = &d->space[i];

		if (s->asid == asid)
			return s;
		if (s->used < oldest->used)
			oldest = s;
	}
	wipe(d, oldest);
	oldest->asid = asid;
	return oldest;
}

static void set_gs(const struct dbt *d, const struct space *s)
{
	__asm__ volatile("wrgsbase %0" : : "r"(s->gs));
}

bool space_has_ac(struct dbt *d)
{
	struct space *s = &d->space[SPACE_KERNEL_AC];

	return s->gs || space_map(d, s) == 0;
}

void space_follow(struct dbt *d)
{
	if (d->c->tlb_mode != TLB_USER)
		d->now = &d->space[d->c->tlb_mode == TLB_KERNEL ? SPACE_KERNEL : SPACE_KERNEL_AC];
}

int space_select(struct dbt *d)
{
	const struct vcpu *c = d->c;
	struct space *s;

	if (c->tlb_mode == TLB_USER)
		s = user_space(d, c->tlb_asid);
	else
		s = &d->space[c->tlb_mode == TLB_KERNEL ? SPACE_KERNEL : SPACE_KERNEL_AC];
	s->used = ++d->clock;
	if (!s->gs) {
		int ret = space_map(d, s);

		if (ret < 0)
			return ret;
	}
	if (d->now != s) {
		d->now = s;
		set_gs(d, s);
	}
	return 0;
}

/* -- What ends translations ------------------------------------------------------------------- */

static void on_flush(struct vcpu *c, bool global_too)
{
	struct dbt *d = dbt_of(c);

	for (unsigned i = 0; i < N_CPU_SPACES; i++) {
		if (global_too || i >= SPACE_USER)
			wipe(d, &d->space[i]);
		else
			wipe_local(d, &d->space[i]);
		d->space[i].asid = 0;
	}
}

/* Forget the jumps into some pages. */
static void drop_jumps_of(struct dbt *d, struct space *s, gva_t gva, unsigned n_pages)
{
	stack_drop(d, s);
	if (s->n_jumps > MAX_JUMPS) {
		drop_jumps(d, s);
		return;
	}
	for (unsigned i = 0; i < s->n_jumps; i++) {
		uint64_t *key = jump_key(s, s->jump[i]);

		/* Or into one before, whose first instruction may reach into them. */
		if (-*key - (gva - INSN_MAX_LEN) < n_pages * PAGE_SIZE + INSN_MAX_LEN)
			*key = s->jump[i] ? 0 : 1;
	}
}

static void forget_pages(struct dbt *d, struct space *s, gva_t gva, unsigned n_pages)
{
	uint32_t index = (uint32_t)(gva >> PAGE_SHIFT);
	bool code = false;

	for (unsigned i = 0; i < n_pages; i++) {
		uint64_t bit, *word = code_page_word(s, gva + i * PAGE_SIZE, &bit);

		code |= *word & bit;
		if (!has_table_page(s, index + i))
			continue;
		if (*entry_read(s, index + i))
			*entry_read(s, index + i) = 0;
		if (*entry_write(s, index + i))
			*entry_write(s, index + i) = 0;
	}
	if (code)
		drop_jumps_of(d, s, gva, n_pages);
}

static void on_flush_pages(struct vcpu *c, gva_t gva, unsigned n_pages)
{
	struct dbt *d = dbt_of(c);

	for (unsigned i = 0; i < N_CPU_SPACES; i++)
		if (d->space[i].gs && (d->space[i].n_fills || d->space[i].n_jumps))
			forget_pages(d, &d->space[i], gva, n_pages);
}

static void on_switched(struct vcpu *c)
{
	struct dbt *d = dbt_of(c);

	wipe_local(d, &d->space[SPACE_KERNEL]);
	wipe_local(d, &d->space[SPACE_KERNEL_AC]);
}

static void on_drop_writes(struct vcpu *c, const uint8_t *page)
{
	struct dbt *d = dbt_of(c);
	uint32_t n = (uint32_t)((uint64_t)(page - c->pm->ram) >> PAGE_SHIFT);

	for (unsigned i = 0; i < N_CPU_SPACES; i++) {
		struct space *s = &d->space[i];

		if (s->lost)
			madvise(s->gs - TABLE_BYTES, TABLE_BYTES, MADV_DONTNEED);
		for (unsigned f = 0; f < s->n_fills && !s->lost; f++)
			if (s->fill[f].page == n && *entry_write(s, s->fill[f].index))
				*entry_write(s, s->fill[f].index) = 0;
	}
}

const struct tlb_watch dbt_watch = {
	.flush = on_flush,
	.flush_pages = on_flush_pages,
	.switched = on_switched,
	.drop_writes = on_drop_writes,
};
