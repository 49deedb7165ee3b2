/* The engine: finding code to run, running it, and what its ways out ask for. */
#include "cpu/dbt/dbt_internal.h"

#include "base/err.h"
#include "base/trace.h"
#include "cpu/engine.h"
#include "cpu/interp/interp.h"
#include "cpu/x86/decode.h"
#include "cpu/x86/tlb.h"
#include "cpu/x86/transfer.h"
#include "cpu/x86/vmem.h"
#include "host/codetrap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define EXIT_TRAP 0xffffffffu

/* Tries to wait for other vCPUs to give up storing to a page, and give way in between. */
#define DROP_TRIES 20000
/* Translations given up because another vCPU began to store there meanwhile. */
#define WRITER_TRIES 4

/* -- Finding ---------------------------------------------------------------------------------- */

#define FCW_MASKS 0x3f

static bool can_translate(const struct vcpu *c)
{
	bool flat32 = c->flat_segs && c->code_size == 4 && c->stack_size == 4 && c->cpl % 3 == 0;

	return (c->code64 || flat32) && c->tlb_mode != TLB_SLOW && !interp_must_step(c);
}

/* May 32-bit code use the segment without a check, whatever its base? */
static bool is_whole(const struct seg *s)
{
	return (s->attr & (ATTR_UNUSABLE | ATTR_CODE | ATTR_WRITE | ATTR_DOWN)) == ATTR_WRITE &&
	       s->limit == 0xffffffff;
}

static unsigned mode_32(const struct vcpu *c)
{
	/* The kernel runs with GS as programs have left it. */
	return TBM_32 | (is_whole(&c->seg[SEG_FS]) ? TBM_FS : 0) |
	       (c->cpl == 3 && is_whole(&c->seg[SEG_GS]) ? TBM_GS : 0);
}

/* RIP at an offset from the start of the page at work. */
static uint64_t rip_at(const struct dbt *d, unsigned off)
{
	uint64_t rip = d->ctx->base + off;

	return d->mode & TBM_32 ? (uint32_t)rip : rip;
}

static uint16_t mode_of(struct dbt *d)
{
	const struct vcpu *c = d->c;
	uint64_t xcr0 = c->fpu.xcr0;
	unsigned m = (c->cpl == 3 ? TBM_USER : 0) | (c->code64 ? 0 : mode_32(c));

	if (c->insn_limit)
		m |= c->lazy_flags ? TBM_COUNT : TBM_COUNT | TBM_EXACT;
	if (c->cr4 & CR4_SMAP && c->cpl == 0 && space_has_ac(d))
		m |= TBM_SMAP;
	if (c->cr4 & CR4_TSD && c->cpl)
		m |= TBM_TSD;
	if (c->cr0 & (CR0_TS | CR0_EM))
		return (uint16_t)m;
	/* An exception would leave the host's pointers and opcode; FLDCW is the interpreter's. */
	if ((load16(c->fpu.fx) & FCW_MASKS) == FCW_MASKS)
		m |= TBM_X87;
	if (c->cr4 & CR4_OSFXSR)
		m |= TBM_SSE;
	if (c->cr4 & CR4_OSXSAVE && (xcr0 & (XCR0_SSE | XCR0_AVX)) == (XCR0_SSE | XCR0_AVX)) {
		m |= TBM_AVX;
		if ((xcr0 & XCR0_AVX512) == XCR0_AVX512)
			m |= TBM_EVEX;
	}
	return (uint16_t)m;
}

/* Has the page other vCPUs that store to it unseen? Waits for them to stop. */
static bool writers_left(struct vcpu *c, struct page_state *ps, const uint8_t *host)
{
	if (!(atomic_load(&ps->writers) & ~BIT(c->index)))
		return false;
	/* From now on nobody becomes one. */
	atomic_fetch_or(&ps->code_lines, BIT(((uintptr_t)host & (PAGE_SIZE - 1)) / 64));
	for (unsigned i = 0; i < DROP_TRIES; i++) {
		if (!tlb_unseen_writers(c, ps))
			return false;
		tlb_serve_drops(c);
		__builtin_ia32_pause();
	}
	return true;
}

/* Where the page behind c->rip's is, if the instruction at host crosses into it; NULL if it does
 * not. *ok gets false if it does, and that page is not for us. */
static const uint8_t *second_page(struct dbt *d, const uint8_t *host, bool *ok)
{
	unsigned rest = (unsigned)(PAGE_SIZE - ((uintptr_t)host & (PAGE_SIZE - 1)));
	struct vcpu *c = d->c;
	const uint8_t *host2;
	enum x86_exc exc;
	struct insn i;

	*ok = true;
	if (rest >= INSN_MAX_LEN || decode(host, rest, c->code64 ? 8 : 4, &i) != DECODE_MORE)
		return NULL;
	host2 = tlb_fetch(c, (c->rip | (PAGE_SIZE - 1)) + 1, &exc);
	*ok = host2 && physmap_page(c->pm, host2) &&
	      !writers_left(c, physmap_page(c->pm, host2), host2);
	return host2;
}

/* Fields of the 64-bit FXSAVE image. */
#define FX_FIP 8
#define FX_FDP 16

/* Registers that were saved hold the host's pointers: the instruction's is translated back, one to
 * data that has changed is lost. */
static void fix_x87_pointers(struct dbt *d)
{
	const struct code_cache *k = d->cache;
	uint8_t *fx = d->c->fpu.fx;
	uint64_t off = load64(fx + FX_FIP) - (uint64_t)(uintptr_t)k->code.rx;

	d->ctx->x87_saved = 0;
	if (off < k->code.len) {
		const struct insn_mark *m = cache_mark(k, (uint32_t)off);

		store64(fx + FX_FIP, m ? d->ctx->x87_base + m->off : 0);
	}
	if (load64(fx + FX_FDP) != d->fdp)
		store64(fx + FX_FDP, 0);
}

/* A new translation of the code at host, or the one that another vCPU has made meanwhile. */
static struct tb *make_tb(struct dbt *d, const uint8_t *host, struct page_state *ps, uint16_t mode)
{
	struct code_cache *k = d->cache;
	const uint8_t *host2;
	struct tb *t = NULL;
	bool ok;

	for (unsigned i = 0; i < WRITER_TRIES && !t; i++) {
		if (writers_left(d->c, ps, host))
			return NULL;
		host2 = second_page(d, host, &ok);
		if (!ok)
			return NULL;
		if (cache_full(k)) {
			/* What the code of an x87 instruction was is known only now. */
			if (d->ctx->x87_saved)
				fix_x87_pointers(d);
			cache_flush(d);
		}
		pthread_mutex_lock(&k->lock);
		t = cache_find(k, host, mode);
		if (!t && !cache_full(k)) {
			uint64_t begin = __builtin_ia32_rdtsc();

			t = translate(d, host, host2, mode);
			d->stats.in_translate += __builtin_ia32_rdtsc() - begin;
			if (t) {
				cache_insert(k, t);
				if (trace_on(TRACE_DBT) || trace_on(TRACE_PERF))
					show_translation(d, t);
			}
		}
		pthread_mutex_unlock(&k->lock);
	}
	return d->epoch == atomic_load(&k->epoch) ? t : NULL;
}

/* The translation for c->rip; NULL: the interpreter's turn. The caller is inside. */
static struct tb *find_tb(struct dbt *d, uint16_t mode)
{
	struct vcpu *c = d->c;
	struct page_state *ps;
	enum x86_exc exc;
	const uint8_t *host;
	struct tb *t;

	d->stats.lookups++;
	if (!is_canonical(c->rip))
		return NULL;
	host = tlb_fetch(c, c->rip, &exc);
	if (!host)
		return NULL;
	ps = physmap_page(c->pm, host);
	if (!ps)
		return NULL;
	t = cache_find(d->cache, host, mode);
	if (!t)
		return make_tb(d, host, ps, mode);
	/* Its second page may be another one now. */
	if (t->host2 && tlb_fetch(c, (c->rip | (PAGE_SIZE - 1)) + 1, &exc) != t->host2)
		return NULL;
	return t;
}

/* Get the space and the jump caches right for c's state. */
static bool prepare(struct dbt *d)
{
	uint16_t mode = mode_of(d);

	if (space_select(d) < 0)
		return false;
	if (((mode ^ d->mode) & ~(TBM_USER | TBM_SMAP | TBM_TSD | TBM_SPACE)) ||
	    d->epoch != d->cache->epoch) {
		spaces_drop_jumps(d);
		d->epoch = d->cache->epoch;
	}
	space_set_mode(d, mode);
	d->mode = mode;
	return true;
}

static const void *add_jump(struct dbt *d, const struct tb *t)
{
	const void *code = code_at(d->cache, t->entry_jump);
	struct vcpu *c = d->c;
	uint64_t last = c->rip + (t->host2 ? t->len : 1u) - 1;
	bool global = c->cpl == 3 || (tlb_is_global(c, c->rip) && tlb_is_global(c, last));

	space_add_jump(d, c->rip, last, code, global);
	return code;
}

/* Where to enter for c->rip; NULL: the interpreter's turn. The caller is inside. */
static const void *find_code(struct dbt *d)
{
	const void *code = space_jump(d, d->c->rip);
	const struct tb *t;

	if (code)
		return code;
	t = find_tb(d, d->mode);
	return t ? add_jump(d, t) : NULL;
}

/* -- In and out ------------------------------------------------------------------------------- */

static const void *on_trap(void *arg, const void *pc)
{
	struct dbt *d = arg;
	const struct code_cache *k = d->cache;
	uint32_t off = (uint32_t)((const uint8_t *)pc - k->code.rx);

	if (off < k->stubs.end || off >= k->used)
		return NULL;
	d->trap = cache_mark(k, off);
	if (!d->trap)
		return NULL;
	d->stats.signals++;
	d->ctx->exit = EXIT_TRAP;
	return code_at(k, d->trap->saved ? k->stubs.leave : k->stubs.exit_trap);
}

/* Word by word: what was stored as words is slow to load as vectors right after. */
static void copy_words(uint64_t *to, const uint64_t *from)
{
	for (unsigned n = 0; n < 16; n++) {
		to[n] = from[n];
		__asm__("" : : : "memory");
	}
}

#define OWN_FLAGS (RFLAGS_IF | RFLAGS_DF | RFLAGS_AC)

static void load_ctx(struct dbt *d)
{
	struct dbt_ctx *x = d->ctx;
	const struct vcpu *c = d->c;

	copy_words(x->gpr, c->gpr);
	x->cc = c->cc;
	x->seg_base[0] = c->seg[SEG_FS].base;
	x->seg_base[1] = c->seg[SEG_GS].base;
	x->kernel_gs = c->msr.kernel_gs_base;
	x->rest = c->rflags_rest & ~(uint64_t)OWN_FLAGS;
	x->iflag = c->rflags_rest & RFLAGS_IF;
	x->dflag = c->rflags_rest & RFLAGS_DF;
	x->acflag = c->rflags_rest & RFLAGS_AC;
	d->fdp = load64(c->fpu.fx + FX_FDP);
	x->irq_wait = interp_irq_waits(c);
	x->tsc_offset = (uint64_t)atomic_load_explicit(&c->tsc_offset, memory_order_relaxed);
	x->tsc_aux = (uint32_t)c->msr.tsc_aux;
	x->gs[0] = (uint64_t)(uintptr_t)d->space[SPACE_KERNEL].gs;
	x->gs[1] = (uint64_t)(uintptr_t)d->space[SPACE_KERNEL_AC].gs;
	stack_load(d);
}

/* STAC and CLAC are done by code: let the vCPU follow. */
static void sync_ac(struct dbt *d)
{
	struct vcpu *c = d->c;

	if (likely((c->rflags_rest & RFLAGS_AC) == d->ctx->acflag))
		return;
	c->rflags_rest ^= RFLAGS_AC;
	tlb_select(c);
	space_follow(d);
}

static void store_ctx(struct dbt *d)
{
	const struct dbt_ctx *x = d->ctx;
	struct vcpu *c = d->c;

	copy_words(c->gpr, x->gpr);
	stack_store(d);
	c->cc = x->cc & CC_MASK;
	if (x->x87_saved)
		fix_x87_pointers(d);
	sync_ac(d);
	c->rflags_rest = x->rest | x->iflag | x->dflag | x->acflag;
	c->seg[SEG_GS].base = x->seg_base[1];
	c->msr.kernel_gs_base = x->kernel_gs;
}

/* Point a jump of the translation that was left to the one that follows. */
static void link_exit(struct dbt *d, const struct tb_exit *x, const struct tb *to)
{
	struct code_cache *k = d->cache;
	const struct tb *from = &k->tb[x->tb];

	pthread_mutex_lock(&k->lock);
	if (d->epoch == k->epoch && to->valid && !to->host2 &&
	    (((uintptr_t)to->host ^ (uintptr_t)from->host) & ~(PAGE_SIZE - 1)) == 0 &&
	    !((to->mode ^ from->mode) & ~TBM_PLAIN)) {
		uint32_t rel = tb_entry(to, x->host, x->loaded) - (x->patch_at + 4);

		__atomic_store_n((uint32_t *)(k->code.rw + x->patch_at), rel, __ATOMIC_RELEASE);
		d->stats.links++;
	}
	pthread_mutex_unlock(&k->lock);
}

/* The translation that was entered is void: lead to the new one. */
static void redirect(struct dbt *d, const struct tb_exit *x, const struct tb *to)
{
	struct code_cache *k = d->cache;
	const struct tb *old = &k->tb[x->tb];

	pthread_mutex_lock(&k->lock);
	if (d->epoch == k->epoch && to->valid && !old->valid && to->host == old->host &&
	    !to->host2 && !old->host2 && to->mode == old->mode) {
		cache_redirect(k, old->top, tb_entry(to, old->top_host, old->loaded));
	}
	pthread_mutex_unlock(&k->lock);
}

/* n instructions of the translation have completed. */
static void count(struct dbt *d, unsigned n)
{
	if (d->mode & TBM_COUNT)
		d->c->stats.insns += n;
}

/* How translated code was left for good: what is to do next. */
enum next { NEXT_LOOK, NEXT_INTERP };

/* SYSCALL, SYSRET, IRET. Where to go on; NULL with *next if there is more to be done first. */
static const void *change_ring(struct dbt *d, const struct tb_exit *x, enum next *next)
{
	struct vcpu *c = d->c;
	enum x86_exc exc;
	const void *code;

	store_ctx(d);
	if (x->kind == EXIT_SYSCALL)
		exc = sys_syscall(c, c->rip + x->len);
	else if (x->kind == EXIT_SYSRET)
		exc = sys_sysret(c, x->opsize);
	else
		exc = iret(c, x->opsize, c->rip + x->len);
	load_ctx(d);
	*next = NEXT_INTERP; /* which raises it */
	if (exc)
		return NULL;
	count(d, 1);
	*next = NEXT_LOOK;
	if (atomic_load_explicit(&d->ctx->poll, memory_order_relaxed) || interp_irq_waits(c) ||
	    c->nmi_pending || c->pending_db || !can_translate(c) || d->mode & TBM_COUNT)
		return NULL;
	code = atomic_load(&d->cache->flushing) || !prepare(d) ? NULL : find_code(d);
	if (code)
		load_ctx(d);
	return code;
}

/* A group's check has failed at c->rip: the same without groups. */
static const void *go_plain(struct dbt *d, enum next *next)
{
	struct tb_exit *x = &d->cache->exit[d->ctx->exit];
	const struct tb *t = find_tb(d, d->mode | TBM_PLAIN);

	*next = NEXT_INTERP;
	if (!t)
		return NULL;
	if (__atomic_load_n(&x->n_taken, __ATOMIC_RELAXED) < PLAIN_PATIENCE)
		__atomic_fetch_add(&x->n_taken, 1, __ATOMIC_RELAXED);
	else
		link_exit(d, x, t);
	return code_at(d->cache, t->entry_jump);
}

/* Set c->rip after an exit, and find where to go on in translated code; NULL with *next if there is
 * nowhere. The guest's registers are still in the context. */
static const void *after_exit(struct dbt *d, enum next *next)
{
	struct dbt_ctx *ctx = d->ctx;
	struct vcpu *c = d->c;
	const struct tb *t;
	const void *code;
	struct tb_exit x;

	*next = NEXT_INTERP;
	if (ctx->exit == EXIT_TRAP) {
		c->rip = rip_at(d, d->trap->off);
		count(d, d->trap->n_done);
		return NULL;
	}
	x = d->cache->exit[ctx->exit];
	c->rip = rip_at(d, x.off);
	count(d, x.n_done);
	/* A kick must not make a boundary of counting mode where there is none without it. */
	if (x.kind == EXIT_INTERP || (x.kind == EXIT_PLAIN && d->mode & TBM_COUNT))
		return NULL;
	if (x.kind >= EXIT_SYSCALL && x.kind <= EXIT_IRET)
		return change_ring(d, &x, next);
	if (x.kind == EXIT_LOOKUP) {
		if (!is_canonical(ctx->rip)) {
			/* The branch itself faults. */
			ctx->gpr[REG_RSP] -= (uint64_t)(int64_t)x.undo;
			return NULL;
		}
		c->rip = ctx->rip;
		count(d, 1);
	}
	*next = NEXT_LOOK;
	if (x.kind == EXIT_POLL ||
	    (x.kind != EXIT_VOID && x.kind != EXIT_PLAIN && d->mode & TBM_COUNT) ||
	    atomic_load_explicit(&ctx->poll, memory_order_relaxed) ||
	    atomic_load_explicit(&d->cache->flushing, memory_order_relaxed))
		return NULL;
	sync_ac(d);
	if (x.kind == EXIT_PLAIN)
		return go_plain(d, next);
	t = find_tb(d, d->mode);
	if (!t) {
		*next = NEXT_INTERP;
		return NULL;
	}
	if (x.kind == EXIT_LINK)
		link_exit(d, &x, t);
	else if (x.kind == EXIT_VOID)
		redirect(d, &x, t);
	code = add_jump(d, t); /* also in the place of one to a void translation */
	return d->mode & TBM_COUNT ? NULL : code;
}

/* Run code until it takes an exit. Neither in nor out by CALL and RET, so that the host goes on to
 * predict where the code's own RETs lead.
 */
static void enter(struct dbt *d, const void *code)
{
	const void *stub = code_at(d->cache, d->cache->stubs.enter);
	register const void *to __asm__("rdi") = code;

	__asm__ volatile("sub $128, %%rsp\n\t" /* the red zone */
			 "lea 1f(%%rip), %%rax\n\t"
			 "push %%rax\n\t"
			 "jmp *%1\n"
			 "1: add $128, %%rsp"
			 : "+r"(to), "+c"(stub)
			 :
			 : "rax", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
}

/* Run translated code from c->rip on; false if there is none. */
static bool run_code(struct dbt *d, enum next *next)
{
	struct code_cache *k = d->cache;
	const void *code;

	/* From here on the cache is not flushed under us. */
	atomic_store(&d->inside, true);
	code = atomic_load(&k->flushing) || !prepare(d) ? NULL : find_code(d);
	if (code) {
		load_ctx(d);
		codetrap_enter(k->code.rx, k->code.len, on_trap, d);
		do {
			d->ctx->rip = d->c->rip;
			fpu_choose(d); /* the last way out may have stored wider registers */
			stack_check(d);
			d->stats.enters++;
			enter(d, code);
			code = after_exit(d, next);
		} while (code);
		store_ctx(d);
		atomic_store_explicit(&d->inside, false, memory_order_release);
		return true;
	}
	atomic_store_explicit(&d->inside, false, memory_order_release);
	return false;
}

/* A load across the end of a page: what is there, in the context, as if that were the place. */
static uint64_t load_across(struct dbt *d, uint64_t gva, unsigned size)
{
	unsigned first = (unsigned)(PAGE_SIZE - (gva & (PAGE_SIZE - 1)));
	uint8_t *page, *next;

	if (!is_canonical(gva) || !is_canonical(gva + size - 1) ||
	    !tlb_plain(d->c, gva, false, &page))
		return 0;
	memcpy(d->ctx->cross, page + PAGE_SIZE - first, first);
	if (!tlb_plain(d->c, gva + first, false, &next))
		return 0;
	memcpy(d->ctx->cross + first, next, size - first);
	return (uint64_t)(uintptr_t)d->ctx->cross - gva;
}

static uint64_t fill(struct dbt *d, uint64_t gva, enum fill_kind kind)
{
	uint8_t *page;
	unsigned perm = is_canonical(gva) ? tlb_plain(d->c, gva, kind == FILL_WRITE, &page) : 0;

	if (!perm) {
		d->stats.fill_fails++;
		return 0;
	}
	d->stats.fills++;
	space_fill(d, gva, page, perm);
	if (kind == FILL_DIRTY && !(perm & PERM_W))
		return 0;
	return (uint64_t)(uintptr_t)page - (gva & ~(PAGE_SIZE - 1));
}

uint64_t dbt_fill(struct dbt *d, uint64_t gva, uint64_t exit)
{
	const struct tb_exit *x = &d->cache->exit[exit];
	uint64_t add;

	sync_ac(d);
	if ((gva & (PAGE_SIZE - 1)) + x->len <= PAGE_SIZE)
		add = fill(d, gva, x->fill);
	else if (d->mode & TBM_32 && gva + x->len > 4 * GiB)
		add = 0;
	else
		add = x->fill == FILL_READ ? load_across(d, gva, x->len) : 0;
	fpu_choose(d);
	return add;
}

uint64_t dbt_string(struct dbt *d, uint64_t what, uint64_t exit)
{
	uint64_t done;

	sync_ac(d);
	done = string_run(d, what);
	fpu_choose(d);
	d->stats.strings++;
	return done;
}

/* -- The engine table ------------------------------------------------------------------------- */

/* One instruction, or some if none of them is for us. False: shutdown. */
static bool interpret(struct dbt *d, bool some)
{
	uint64_t begin = __builtin_ia32_rdtsc();
	bool ok = some ? interp_some(d->c) : interp_one(d->c);

	d->stats.interps++;
	d->stats.in_interp += __builtin_ia32_rdtsc() - begin;
	return ok;
}

static enum run_exit run_until_exit(struct dbt *d)
{
	struct vcpu *c = d->c;

	for (;;) {
		enum next next;
		bool ok = true;

		if (unlikely(c->insn_limit && c->stats.insns >= c->insn_limit))
			return RUN_LIMIT;
		if (atomic_load_explicit(&d->ctx->poll, memory_order_relaxed))
			atomic_exchange(&d->ctx->poll, 0);
		switch (interp_events(c)) {
		case INTERP_GO: break;
		case INTERP_KICKED: return RUN_KICKED;
		case INTERP_HALTED: return RUN_HALTED;
		case INTERP_SHUTDOWN: c->mp_state = MP_SHUTDOWN; return RUN_SHUTDOWN;
		}
		if (!can_translate(c))
			ok = interpret(d, true);
		else if (!run_code(d, &next) || next == NEXT_INTERP)
			ok = interpret(d, false);
		if (!ok) {
			c->mp_state = MP_SHUTDOWN;
			return RUN_SHUTDOWN;
		}
	}
}

static enum run_exit dbt_run(struct vcpu *c)
{
	struct dbt *d = dbt_of(c);
	uint64_t begin = __builtin_ia32_rdtsc();
	enum run_exit why;

	d->now = NULL; /* the GS base is the thread's */
	why = run_until_exit(d);
	d->stats.in_run += __builtin_ia32_rdtsc() - begin;
	return why;
}

static void dbt_fini(struct vcpu *c)
{
	struct dbt *d = dbt_of(c);

	if (!d)
		return;
	cache_leave(d);
	spaces_fini(d);
	stacks_fini(d);
	free(d);
	c->engine_state[ENGINE_DBT] = NULL;
	interp_detach(c);
}

static int dbt_init(struct vcpu *c, struct err *err)
{
	struct dbt *d = calloc(1, sizeof(*d));
	int ret;

	if (!d)
		return err_set(err, ENOMEM, "the translator of CPU %u", c->index);
	d->c = c;
	d->ctx_fd = -1;
	ret = interp_attach(c, err);
	if (ret == 0)
		ret = spaces_init(d, err);
	if (ret == 0)
		ret = stacks_init(d, err);
	if (ret == 0)
		ret = cache_join(d, err);
	c->engine_state[ENGINE_DBT] = d;
	if (ret < 0) {
		dbt_fini(c);
		return ret;
	}
	stacks_fill(d);
	d->ctx->self = d;
	d->ctx->fpu = &c->fpu;
	d->ctx->fpu_out = d->ctx->x87_out = 1;
	for (uint64_t n = 0; n < ARRAY_SIZE(d->ctx->limit); n++)
		d->ctx->limit[n] = (PAGE_SIZE - 2 * n) << (64 - PAGE_SHIFT) | ~0ull >> PAGE_SHIFT;
	d->ctx->mask31 = 31;
	d->ctx->mask63 = 63;
	__asm__("stmxcsr %0" : "=m"(d->ctx->host_mxcsr));
	c->fpu.wide = 0xff;
	return 0;
}

/* Between two runs struct vcpu is whole. */
static void dbt_pull(struct vcpu *c)
{
}

static void dbt_push(struct vcpu *c)
{
	interp_forget(c);
	c->fpu.wide = 0xff;
	vcpu_update_mode(c);
	vmem_flush(c, true);
}

static void dbt_kick(struct vcpu *c)
{
	struct dbt *d = dbt_of(c);

	if (d)
		atomic_store(&d->ctx->poll, 1);
}

static void dbt_inval(struct vcpu *c, gpa_t gpa, uint64_t len)
{
	interp_forget(c);
	vmem_flush(c, true);
	cache_flush(dbt_of(c));
}

static void dbt_describe(const struct vcpu *c, char *buf, size_t len)
{
	const struct dbt *d = dbt_of(c);
	const struct code_cache *k = d->cache;
	uint64_t per_ms = c->model->tsc_khz;
	unsigned long long run = d->stats.in_run / per_ms,
			   translate = d->stats.in_translate / per_ms,
			   interp = d->stats.in_interp / per_ms;

	snprintf(buf, len,
		 "enters %llu, lookups %llu, translations %llu, links %llu, fills %llu, "
		 "failed fills %llu, by the interpreter %llu, signals %llu; ms translating %llu, "
		 "interpreting %llu, else %llu; cache: %u translations in %u of %zu KiB, "
		 "voided %llu, flushes %llu",
		 (unsigned long long)d->stats.enters, (unsigned long long)d->stats.lookups,
		 (unsigned long long)d->stats.translations, (unsigned long long)d->stats.links,
		 (unsigned long long)d->stats.fills, (unsigned long long)d->stats.fill_fails,
		 (unsigned long long)d->stats.interps, (unsigned long long)d->stats.signals,
		 translate, interp, run - translate - interp, k->n_tbs,
		 (k->used + k->cold_used - k->cold) / 1024, k->code.len / 1024,
		 (unsigned long long)k->voided, (unsigned long long)k->flushes);
}

const struct engine engine_dbt = {
	.name = "dbt",
	.slot = ENGINE_DBT,
	.tlb_watch = &dbt_watch,
	.init = dbt_init,
	.fini = dbt_fini,
	.run = dbt_run,
	.pull = dbt_pull,
	.push = dbt_push,
	.kick = dbt_kick,
	.inval = dbt_inval,
	.describe = dbt_describe,
};
