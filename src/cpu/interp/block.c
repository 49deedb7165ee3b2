/* The decoded-block cache of one vCPU.
 *
 * Blocks are found by the host address of their first byte and the mode they were decoded for, so
 * all linear aliases of a page share them; the jump cache finds them by RIP within one mapping
 * (vcpu.code_key). Rules for coherence with stores are those of struct page_state. A block never
 * holds more than one page's instructions; one that crosses into the next page is a block alone.
 */
#include "cpu/interp/interp_internal.h"

#include "cpu/interp/operand.h"
#include "cpu/interp/stub.h"
#include "cpu/x86/decode.h"
#include "mem/physmap.h"

/* The most that building one block takes from the arena. */
#define BLOCK_MAX_BYTES                                                                            \
	(sizeof(struct block) + BLOCK_MAX_UOPS * sizeof(struct uop) +                              \
	 BLOCK_MAX_INSNS * (sizeof(struct insn) + INSN_MAX_LEN) + 256)

/* Code bytes as they were at one moment. */
struct code_view {
	const uint8_t *host;  /* first page */
	const uint8_t *host2; /* second page, or NULL */
	struct page_state *ps, *ps2;
	uint32_t gen, gen2;
	unsigned n;  /* bytes in buf */
	unsigned n1; /* of these from the first page */
	uint8_t buf[BLOCK_MAX_INSNS * INSN_MAX_LEN];
};

/* What is fetched where nothing answers. */
static const uint8_t floating_bus[INSN_MAX_LEN] = {
	0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
};

/* In block.mode: it holds one instruction only. */
#define BLOCK_SINGLE 0x80

static uint8_t block_mode(const struct vcpu *c)
{
	return (uint8_t)(c->code_size << 2 | (c->stack_size == 4) << 1 | c->flat_segs);
}

void block_flush(struct interp *in)
{
	memset(in->jump, 0, sizeof(in->jump));
	memset(in->hash, 0, sizeof(in->hash));
	in->arena_used = 0;
	in->running = NULL;
}

static void *arena_take(struct interp *in, size_t size)
{
	void *p = in->arena + in->arena_used;

	in->arena_used += ALIGN_UP(size, 16);
	return p;
}

static struct block **bucket_of(struct interp *in, const uint8_t *host, uint8_t mode)
{
	uint64_t h = ((uintptr_t)host ^ (uint64_t)mode << 40) * 0x9e3779b97f4a7c15ull;

	return &in->hash[h >> (64 - HASH_BITS)];
}

/* -- Coherence ------------------------------------------------------------------------------ */

static bool same_bytes(const struct block *b)
{
	unsigned n1 = b->n_bytes;

	if (b->host2) {
		n1 = (unsigned)(PAGE_SIZE - ((uintptr_t)b->host & (PAGE_SIZE - 1)));
		if (memcmp(b->host2, b->bytes + n1, b->n_bytes - n1))
			return false;
	}
	return !memcmp(b->host, b->bytes, n1);
}

/* Is the second page of a crossing block still where it was? */
static bool second_page_same(struct vcpu *c, const struct block *b)
{
	const struct seg *cs = &c->seg[SEG_CS];
	gva_t next = ((c->rip + (c->code64 ? 0 : cs->base)) | (PAGE_SIZE - 1)) + 1;
	enum x86_exc exc;

	return tlb_fetch(c, next, &exc) == b->host2;
}

bool block_recheck(struct vcpu *c, const struct block *b)
{
	if (atomic_load(&b->ps->code_gen) != b->gen || atomic_load(&b->ps2->code_gen) != b->gen2)
		return false;
	if (b->host2 && !second_page_same(c, b))
		return false;
	if (tlb_unseen_writers(c, b->ps) | tlb_unseen_writers(c, b->ps2))
		return same_bytes(b);
	return true;
}

void block_code_stored(struct vcpu *c, const uint8_t *p)
{
	struct interp *in = interp_of(c);
	struct block *b = in->running;
	struct page_state *ps = physmap_page(c->pm, p);

	if (!b || (b->ps != ps && b->ps2 != ps))
		return;
	/* The instruction at work still ends; whatever comes behind it is looked up anew. An
	 * instruction may be several uops: only the first of each changes. */
	for (unsigned n = 1; n < b->n_uops; n++)
		if (b->uops[n].off != b->uops[n - 1].off)
			b->uops[n].fn = x_stale;
}

/* -- Building ------------------------------------------------------------------------------- */

static struct page_state *state_of(struct vcpu *c, const uint8_t *p)
{
	struct page_state *ps = physmap_page(c->pm, p);

	return ps ? ps : &interp_of(c)->no_page;
}

static void mark_lines(struct vcpu *c, struct page_state *ps, const uint8_t *p, unsigned n)
{
	unsigned off = (uintptr_t)p & (PAGE_SIZE - 1);
	unsigned first = off / 64, last = (off + n - 1) / 64;
	uint64_t lines = (~0ull << first) & (~0ull >> (63 - last));

	if ((atomic_load(&ps->code_lines) & lines) != lines)
		atomic_fetch_or(&ps->code_lines, lines);
	tlb_drop_writes(c, p);
	tlb_unseen_writers(c, ps);
}

/* Read up to max bytes of the page that host is in. */
static void view_page(struct vcpu *c, struct code_view *v, const uint8_t *host, unsigned max)
{
	unsigned rest = (unsigned)(PAGE_SIZE - ((uintptr_t)host & (PAGE_SIZE - 1)));

	v->host = host;
	v->host2 = NULL;
	v->ps = v->ps2 = state_of(c, host);
	v->gen = v->gen2 = atomic_load(&v->ps->code_gen);
	v->n = v->n1 = MIN(max, rest);
	memcpy(v->buf, host, v->n);
}

/* Add the beginning of the next page, for an instruction that crosses. */
static void view_second(struct vcpu *c, struct code_view *v, const uint8_t *host2)
{
	v->host2 = host2;
	v->ps2 = state_of(c, host2);
	v->gen2 = atomic_load(&v->ps2->code_gen);
	memcpy(v->buf + v->n1, host2, INSN_MAX_LEN);
	v->n = v->n1 + INSN_MAX_LEN;
}

/* After decoding n bytes: make stores to them seen from now on, and look whether one came before.
 */
static bool view_settle(struct vcpu *c, const struct code_view *v, unsigned n)
{
	unsigned n1 = MIN(n, v->n1);

	mark_lines(c, v->ps, v->host, n1);
	if (n > n1)
		mark_lines(c, v->ps2, v->host2, n - n1);
	atomic_thread_fence(memory_order_seq_cst);
	return !memcmp(v->host, v->buf, n1) && (n == n1 || !memcmp(v->host2, v->buf + n1, n - n1));
}

/* Bytes that may be fetched from offset rip before CS's limit (64-bit code has none). */
static uint64_t limit_rest(const struct vcpu *c)
{
	uint64_t limit = c->seg[SEG_CS].limit;

	if (c->code64)
		return ~0ull;
	return c->rip > limit ? 0 : limit - c->rip + 1;
}

static struct uop raise_uop(enum x86_exc exc, unsigned off)
{
	return (struct uop){ .fn = x_raise, .imm = exc, .off = (uint16_t)off };
}

/* Decode and select into b; returns false if not even one instruction is whole: it crosses into the
 * next page (v->host2 is to be added) */
static bool fill_block(struct vcpu *c, struct block *b, struct uop *uops, const struct code_view *v,
		       unsigned max)
{
	struct interp *in = interp_of(c);
	uint64_t limit = limit_rest(c);
	unsigned off = 0, n_uops = 0;
	bool last = false;

	b->n_insns = 0;
	while (!last && b->n_insns < max) {
		struct insn *i = (struct insn *)(in->arena + in->arena_used);
		enum decode_result d = decode(v->buf + off, v->n - off, c->code_size, i);
		bool keep = false;

		if (d == DECODE_MORE) {
			if (!b->n_insns)
				return false;
			break;
		}
		if (d == DECODE_OK && off + i->len > limit)
			d = DECODE_LONG;
		if (d != DECODE_OK) {
			unsigned n = d == DECODE_UD ? MAX(i->len, 1) : INSN_MAX_LEN;

			/* Whatever byte made it fault is the block's: a store there voids it. */
			uops[n_uops++] = raise_uop(d == DECODE_UD ? EXC_UD : EXC_GP, off);
			off += (unsigned)MIN(n, MAX(limit, off + 1ull) - off);
			b->n_insns++;
			last = true;
			break;
		}
		n_uops += select_uops(c, i, off, &uops[n_uops], &keep);
		if (keep)
			arena_take(in, sizeof(*i));
		off += i->len;
		b->n_insns++;
		last = insn_table[i->id].attr & INSN_ENDS;
	}
	/* Also behind a branch: code that is stored to while it runs stops here. */
	uops[n_uops] = (struct uop){ .fn = x_end, .off = (uint16_t)off };
	b->branches = last;
	b->n_uops = (uint8_t)(n_uops + 1);
	b->n_bytes = (uint16_t)MIN(off, v->n);
	return true;
}

static struct block *build(struct vcpu *c, gva_t lin, const uint8_t *host, unsigned max,
			   enum x86_exc *exc)
{
	struct interp *in = interp_of(c);
	struct uop uops[BLOCK_MAX_UOPS];
	struct block shape, *b;
	struct code_view v;

	if (in->arena_used + BLOCK_MAX_BYTES > BLOCK_ARENA_BYTES)
		block_flush(in);
	if (stub_cache_full(in->stubs)) {
		block_flush(in);
		stub_cache_flush(in->stubs);
	}
	do {
		view_page(c, &v, host, max * INSN_MAX_LEN);
		if (!fill_block(c, &shape, uops, &v, max)) {
			const uint8_t *host2 = tlb_fetch(c, (lin | (PAGE_SIZE - 1)) + 1, exc);

			if (*exc)
				return NULL;
			if (!host2)
				host2 = floating_bus;
			view_second(c, &v, host2);
			fill_block(c, &shape, uops, &v, 1);
		}
	} while (!view_settle(c, &v, shape.n_bytes));
	b = arena_take(in, sizeof(*b) + shape.n_uops * sizeof(struct uop));
	*b = shape;
	memcpy(b->uops, uops, shape.n_uops * sizeof(struct uop));
	if (b->n_bytes <= v.n1)
		v.host2 = NULL;
	b->host = v.host;
	b->host2 = v.host2;
	b->ps = v.ps;
	b->ps2 = v.host2 ? v.ps2 : v.ps;
	b->gen = v.gen;
	b->gen2 = v.host2 ? v.gen2 : v.gen;
	b->mode = block_mode(c);
	b->bytes = memcpy(arena_take(in, b->n_bytes), v.buf, b->n_bytes);
	return b;
}

/* Host address of the code at c->rip; *lin its linear address. NULL with *exc when it cannot be
 * fetched. */
static const uint8_t *fetch(struct vcpu *c, gva_t *lin, enum x86_exc *exc)
{
	const uint8_t *host;

	c->stats.block_misses++;
	*exc = EXC_NONE;
	*lin = c->rip;
	if (!c->code64) {
		if (c->rip > c->seg[SEG_CS].limit) {
			*exc = raise_gp(c);
			return NULL;
		}
		*lin = (c->rip + c->seg[SEG_CS].base) & 0xffffffff;
	}
	host = tlb_fetch(c, *lin, exc);
	/* Nothing answers there: a bus that floats high, so the bytes are FF FF: #UD. */
	if (!host && !*exc)
		*exc = raise_ud(c);
	return host;
}

/* The block of at most max instructions at host, from the hash or new. */
static struct block *find_kept(struct vcpu *c, gva_t lin, const uint8_t *host, uint8_t mode,
			       unsigned max, enum x86_exc *exc)
{
	struct interp *in = interp_of(c);
	struct block **bucket = bucket_of(in, host, mode), *b;

	for (b = *bucket; b; b = b->hash_next)
		if (b->host == host && b->mode == mode)
			break;
	if (b && (b->n_bytes > limit_rest(c) || !block_recheck(c, b))) {
		/* Unlink it: its memory comes back with the next flush of the arena. */
		while (*bucket != b)
			bucket = &(*bucket)->hash_next;
		*bucket = b->hash_next;
		b = NULL;
	}
	if (!b) {
		b = build(c, lin, host, max, exc);
		if (!b)
			return NULL;
		b->mode = mode;
		bucket = bucket_of(in, host, mode);
		b->hash_next = *bucket;
		*bucket = b;
	}
	return b;
}

struct block *block_find_single(struct vcpu *c, enum x86_exc *exc)
{
	gva_t lin;
	const uint8_t *host = fetch(c, &lin, exc);
	struct block *b;

	if (!host)
		return NULL;
	b = find_kept(c, lin, host, block_mode(c) | BLOCK_SINGLE, 1, exc);
	/* Where no branch leads on, the end goes nowhere. */
	if (b && !b->branches)
		b->uops[b->n_uops - 1].fn = x_stale;
	return b;
}

struct block *block_find(struct vcpu *c, bool step, enum x86_exc *exc)
{
	struct interp *in = interp_of(c);
	struct jump_slot *s = jump_slot(in, c->rip);
	const uint8_t *host;
	struct block *b;
	gva_t lin;

	*exc = EXC_NONE;
	if (!step && s->rip == c->rip && s->key == c->code_key && block_recheck(c, s->b))
		return s->b;
	host = fetch(c, &lin, exc);
	if (!host)
		return NULL;
	if (step) {
		size_t used = in->arena_used;

		/* It is used once: what it took is free for the next block. */
		b = build(c, lin, host, 1, exc);
		in->arena_used = MIN(used, in->arena_used);
		return b;
	}
	b = find_kept(c, lin, host, block_mode(c), BLOCK_MAX_INSNS, exc);
	/* One on two pages is looked up each time, since the second may be mapped elsewhere then.
	 */
	if (b && !b->host2)
		*s = (struct jump_slot){ .rip = c->rip, .key = c->code_key, .b = b };
	return b;
}
