/* What the files of the interpreter share.
 *
 * The idea: guest code is decoded once into blocks of micro-operations (struct uop), each with a
 * pointer to the C function that executes it. A handler ends by calling the next one, which the
 * compiler turns into a jump; it returns only to leave the block. Handlers with a memory operand
 * know one address form, base + (index << scale) + disp; what is more complex (segments with a
 * base, limits, narrow addresses) is done by an address uop put before, which leaves the linear
 * address in the REG_EA slot.
 *
 * Invariants. REG_BLOCK holds the RIP of the running block's first instruction; vcpu.rip is only
 * right when a handler returns, or calls into cpu/x86. An instruction that faults has changed
 * nothing architectural. A block is entered only if its code_gen is its page's.
 */
#ifndef CPU_INTERP_INTERP_INTERNAL_H
#define CPU_INTERP_INTERP_INTERNAL_H

#include "cpu/vcpu.h"
#include "cpu/x86/insn.h"
#include "cpu/x86/tlb.h"
#include "cpu/x86/vmem.h"

struct uop;

/* Returns how the block was left: EXEC_NEXT, EXEC_HALT, or an enum x86_exc. */
typedef int (*uop_fn)(struct vcpu *c, const struct uop *u);

struct uop {
	uop_fn fn;
	int64_t imm;
	int64_t disp;
	uint8_t base, index; /* byte offsets into vcpu.gpr */
	uint8_t scale;
	uint8_t dst, src; /* byte offsets into vcpu.gpr: AH is at 1 */
	uint8_t size;	  /* bytes of the operation */
	uint8_t len;	  /* of the instruction */
	uint8_t aux;
	uint16_t off;		 /* of the instruction from the block's start */
	uint16_t seg;		 /* address uops: segment, and bytes to check in aux */
	const struct insn *insn; /* NULL where the handler needs no more than the above */
};

/* What a do_ function returns besides 0 (go on) and an exception. */
enum {
	EXEC_NEXT, /* as the value of a handler: vcpu.rip says where to go on */
	EXEC_END,  /* vcpu.rip was set: leave the block */
	EXEC_SYNC, /* leave the block behind this instruction */
	EXEC_HALT, /* behind this instruction, then halt */
	EXEC_DONE, /* x_done: the instruction before it has ended */
};

#define BLOCK_MAX_INSNS 32
/* An instruction makes at most an address uop, a load and itself; a block ends with one more. */
#define BLOCK_MAX_UOPS (3 * BLOCK_MAX_INSNS + 1)

struct block {
	struct block *hash_next;
	const uint8_t *host;	/* the first instruction's bytes */
	struct page_state *ps;	/* of the page it is in; never NULL (see no_page) */
	struct page_state *ps2; /* of a second page, if an instruction crosses; or ps */
	const uint8_t *host2;	/* where that second page's bytes are, or NULL */
	uint32_t gen, gen2;	/* code_gen of both when it was decoded */
	uint8_t mode;		/* block_mode() */
	bool branches;		/* its last instruction may lead elsewhere */
	uint8_t n_insns, n_uops;
	uint16_t n_bytes;
	const uint8_t *bytes; /* as they were when decoded: n_bytes of them */
	struct uop uops[];
};

#define BLOCK_ARENA_BYTES (48 * MiB)
#define JUMP_CACHE_BITS	  14
#define HASH_BITS	  15

struct jump_slot {
	uint64_t rip, key;
	struct block *b;
};

struct interp {
	struct jump_slot jump[1 << JUMP_CACHE_BITS];
	struct block *hash[1 << HASH_BITS];
	uint8_t *arena; /* blocks and their struct insns, bump-allocated; owned */
	size_t arena_used;
	struct block *running;	   /* the block that was entered last */
	struct page_state no_page; /* stands for ROM: never changes */
	struct stub_cache *stubs;  /* stub.h; owned */
	bool stepping;		   /* one instruction, then back to the run loop */
	bool in_repeat;		   /* vcpu.rip is at a REP that has begun */
	bool irq_maybe;		   /* the controller may have an interrupt: ask when IF allows */
	unsigned users;		   /* engines of this vCPU that lean on it */
	uint16_t left_at; /* instructions of running from this offset on were not completed */
	uint8_t bounce[4096] __attribute__((aligned(64))); /* memory operands of native code */
};

static inline struct interp *interp_of(const struct vcpu *c)
{
	return c->interp;
}

/* block.c */
/* The block at c->rip, decoded if need be; with one instruction only if step. NULL with *exc when
 * the fetch faults. */
struct block *block_find(struct vcpu *c, bool step, enum x86_exc *exc);
/* The same for a block of one instruction that is kept, and goes nowhere but by a branch. */
struct block *block_find_single(struct vcpu *c, enum x86_exc *exc);
/* Does b still hold the code at c->rip, as far as stores go? */
bool block_recheck(struct vcpu *c, const struct block *b);
/* Forget all blocks. Not while one runs. */
void block_flush(struct interp *in);
/* on_code_store: end the running block after this instruction if it was hit. */
void block_code_stored(struct vcpu *c, const uint8_t *p);

/* No store has hit b's page since, and nobody can store there unseen. */
static inline bool block_fresh(const struct block *b)
{
	const struct page_state *ps = b->ps;

	return atomic_load_explicit(&ps->code_gen, memory_order_relaxed) == b->gen &&
	       !atomic_load_explicit(&ps->writers, memory_order_relaxed);
}

/* aux of x_bitscan: what a TZCNT or LZCNT is on this CPU model. */
enum { SCAN_BSF, SCAN_BSR, SCAN_TZCNT, SCAN_LZCNT, SCAN_POPCNT };

/* select.c: uops for the instruction i, off bytes into its block; returns how many (at most 3). A
 * uop that points to i keeps it alive: *keep is set then. */
unsigned select_uops(const struct vcpu *c, const struct insn *i, unsigned off, struct uop *u,
		     bool *keep);
/* The general handler of an op, for an instruction that its CPU model has. */
uop_fn select_general(enum insn_op op);
/* fast.c: a handler for the common forms of 64-bit code and flat addresses, with the uop's fields
 * filled in; NULL if there is none. The memory operand's address fields are already set. */
uop_fn fast_select(const struct vcpu *c, const struct insn *i, unsigned off, struct uop *u);

/* -- Registers and addresses ---------------------------------------------------------------- */

#define GPR_OFF(reg) ((uint8_t)((reg)*8))

#define R8(c, off)  (*((uint8_t *)(c)->gpr + (off)))
#define R16(c, off) (*(uint16_t *)((uint8_t *)(c)->gpr + (off)))
#define R32(c, off) (*(uint32_t *)((uint8_t *)(c)->gpr + (off)))
#define R64(c, off) (*(uint64_t *)((uint8_t *)(c)->gpr + (off)))

static inline uint64_t reg_read(const struct vcpu *c, unsigned off, unsigned size)
{
	switch (size) {
	case 1: return R8(c, off);
	case 2: return R16(c, off);
	case 4: return R32(c, off);
	default: return R64(c, off);
	}
}

/* Writes of 32 bits clear the upper half. */
static inline void reg_write(struct vcpu *c, unsigned off, unsigned size, uint64_t v)
{
	switch (size) {
	case 1: R8(c, off) = (uint8_t)v; break;
	case 2: R16(c, off) = (uint16_t)v; break;
	case 4: R64(c, off) = (uint32_t)v; break;
	default: R64(c, off) = v;
	}
}

static inline gva_t uop_ea(const struct vcpu *c, const struct uop *u)
{
	return R64(c, u->base) + (R64(c, u->index) << u->scale) + (uint64_t)u->disp;
}

static inline uint64_t uop_rip(const struct vcpu *c, const struct uop *u)
{
	return c->gpr[REG_BLOCK] + u->off;
}

/* Address of the next instruction, in the width of the code. */
static inline uint64_t uop_next_rip(const struct vcpu *c, const struct uop *u)
{
	uint64_t rip = uop_rip(c, u) + u->len;

	return c->code64 ? rip : rip & 0xffffffff;
}

/* -- Leaving a handler ---------------------------------------------------------------------- */

#define NEXT return u[1].fn(c, u + 1)

/* Leave the block with what a do_ function returned. */
int uop_leave(struct vcpu *c, const struct uop *u, int r);

/* For do_ functions: inlined, their locals would stand in the way of the handler's tail call. */
#define NOINLINE __attribute__((noinline))

/* A handler around do_<name>(c, u), which returns 0, EXEC_ or an exception. */
#define HANDLER(name)                                                                              \
	int name(struct vcpu *c, const struct uop *u)                                              \
	{                                                                                          \
		int r = do_##name(c, u);                                                           \
                                                                                                   \
		if (unlikely(r))                                                                   \
			return uop_leave(c, u, r);                                                 \
		NEXT;                                                                              \
	}

/* The block at c->rip is not at hand: back to the run loop. A target that is not canonical is #GP
 * at the branch u. */
int uop_jump_miss(struct vcpu *c, const struct uop *u);

/* Go on at rip, where u has led: into the next block if nothing speaks against it. Blocks are only
 * chained where the compiler makes the call a jump, else the stack would grow without end. */
#if defined(__OPTIMIZE__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&              \
	!defined(__SANITIZE_THREAD__)
#define CHAIN_BLOCKS 1
#else
#define CHAIN_BLOCKS 0
#endif

static inline struct jump_slot *jump_slot(struct interp *in, uint64_t rip)
{
	return &in->jump[(rip ^ rip >> JUMP_CACHE_BITS) & ((1u << JUMP_CACHE_BITS) - 1)];
}

static inline __attribute__((always_inline)) int uop_jump(struct vcpu *c, const struct uop *u,
							  uint64_t rip)
{
	struct interp *in = interp_of(c);
	const struct jump_slot *s = jump_slot(in, rip);
	struct block *b = s->b;

	c->rip = rip;
	if (!CHAIN_BLOCKS || unlikely(s->rip != rip || s->key != c->code_key))
		return uop_jump_miss(c, u);
	if (unlikely(atomic_load_explicit(&c->kick, memory_order_relaxed) || !block_fresh(b)))
		return uop_jump_miss(c, u);
	in->running = b;
	c->gpr[REG_BLOCK] = rip;
	c->stats.insns += b->n_insns;
	return b->uops[0].fn(c, b->uops);
}

/* -- Memory --------------------------------------------------------------------------------- */

/* size: 1, 2, 4, 8. */
static inline uint64_t load_host(const uint8_t *p, unsigned size)
{
	switch (size) {
	case 1: return *(const volatile uint8_t *)p;
	case 2: return *(const volatile any16 *)p;
	case 4: return *(const volatile any32 *)p;
	default: return *(const volatile any64 *)p;
	}
}

static inline void store_host(uint8_t *p, unsigned size, uint64_t v)
{
	switch (size) {
	case 1: *(volatile uint8_t *)p = (uint8_t)v; break;
	case 2: *(volatile any16 *)p = (uint16_t)v; break;
	case 4: *(volatile any32 *)p = (uint32_t)v; break;
	default: *(volatile any64 *)p = v;
	}
}

/* Misses: they leave the value in c->gpr[REG_TMP], so that no handler needs a local whose address
 * is taken (that would forbid the tail call). */
int mem_load_slow(struct vcpu *c, gva_t gva, unsigned size);
int mem_store_slow(struct vcpu *c, gva_t gva, unsigned size, uint64_t v);

/* As the guest's own access at its privilege. */
static inline int mem_load(struct vcpu *c, gva_t gva, unsigned size, uint64_t *v)
{
	const uint8_t *p = tlb_read(c, gva, size);
	int r = 0;

	if (likely(p != NULL)) {
		*v = load_host(p, size);
	} else {
		r = mem_load_slow(c, gva, size);
		*v = c->gpr[REG_TMP];
	}
	return r;
}

static inline int mem_store(struct vcpu *c, gva_t gva, unsigned size, uint64_t v)
{
	uint8_t *p = tlb_write(c, gva, size);

	if (likely(p != NULL)) {
		store_host(p, size, v);
		return 0;
	}
	return mem_store_slow(c, gva, size, v);
}

/* Offset in its segment of i's memory operand, cut to the address size; c->gpr[REG_BLOCK] and off
 * must be set as for u. */
uint64_t insn_offset(const struct vcpu *c, const struct uop *u, const struct insn *i);
/* Check and translate [offset + delta, +len) of the memory operand to a linear address. */
int insn_linear(struct vcpu *c, const struct uop *u, int64_t delta, unsigned len, bool write,
		gva_t *gva);

/* A memory operand that is read, changed and written as one. */
struct rmw {
	uint8_t *host; /* RAM inside one page, else NULL */
	gva_t gva;
	uint8_t size;
	bool quiet; /* the TLB vouched: no notice is due */
};

/* Translate for writing and read the old value. */
int rmw_begin(struct vcpu *c, gva_t gva, unsigned size, struct rmw *m, uint64_t *old);
/* Write val; if locked, only if the operand still has *old, else false with *old read anew. */
bool rmw_commit(struct vcpu *c, const struct rmw *m, bool locked, uint64_t *old, uint64_t val);

/* -- Stack (flow.c): rSP changes only on success ---------------------------------------------- */
int push(struct vcpu *c, unsigned size, uint64_t v);
int pop(struct vcpu *c, unsigned size, uint64_t *v);

/* -- Handlers that select.c hands out --------------------------------------------------------- */
#define DECLARE_HANDLER(name) int name(struct vcpu *c, const struct uop *u);
#include "cpu/interp/handlers.h"

#endif
