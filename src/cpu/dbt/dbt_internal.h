/* What the files of the translator share.
 *
 * Guest code becomes host code, one translation (struct tb) for each entry point, found by the host
 * address of its first byte and by mode; one code cache serves all vCPUs of a machine. While
 * translated code runs, the GS base is a space: one block of address space for each address space
 * and privilege of a vCPU, which holds, at fixed distances, its struct dbt_ctx, a jump cache and
 * the two linear tables.
 *
 * Registers. Most guest registers live in the host's of the same name. Guest RCX lives in host
 * R13 and guest RSP in R15, since host RCX and R14 are the translator's scratch and RSP is the
 * host's stack; guest R13 to R15 in host R9 to R11, and guest R9 to R11 in ctx.gpr. Guest flags are
 * the host's flags; a check that needs flags saves them in ctx.cc while somebody wants them
 * (liveness, translate.c).
 *
 * Memory. The table entry for bits 12 to 43 of a linear address, if it is not 0, is what to add to
 * the address to get the host's. See docs/engines.md for why a guest reaches nothing else.
 */
#ifndef CPU_DBT_DBT_INTERNAL_H
#define CPU_DBT_DBT_INTERNAL_H

#include "cpu/dbt/emit.h"
#include "cpu/vcpu.h"
#include "cpu/x86/features.h"
#include "cpu/x86/insn.h"
#include "host/codemem.h"
#include "mem/physmap.h"

#include <pthread.h>
#include <stddef.h>
#include <stdio.h>

struct dbt;
struct tlb_watch;
struct tr;

/* -- What generated code sees through GS ------------------------------------------------------ */

#define MAX_GROUPS 8
#define MAX_SPAN   320 /* bytes of a group: wider ones cross pages more often */

struct dbt_ctx {
	uint64_t gpr[16];     /* guest registers; while code runs only R9-R11 are right */
	uint64_t base;	      /* linear address of the page that runs */
	uint64_t rip;	      /* where an indirect jump went that was not at hand */
	uint64_t code;	      /* entry: where to go */
	uint64_t gva;	      /* of the access at work in a fill */
	uint64_t tmp, val;    /* scratch of single sequences */
	uint64_t seg_base[2]; /* FS, GS */
	uint64_t fpu_load;    /* routine, by what of the state is in use */
	struct dbt *self;
	uint64_t host_mxcsr;
	uint64_t kernel_gs; /* IA32_KERNEL_GS_BASE */
	uint64_t tsc_offset;
	uint64_t gs[2];		 /* GS bases of the kernel's spaces, without and with AC */
	uint64_t mask31, mask63; /* the constants 31 and 63 */
	/* By half the bytes, rounded up: the greatest address in a page, turned right by
	 * PAGE_SHIFT, of what does not cross its end. */
	uint64_t limit[MAX_SPAN / 2 + 1];
	uint64_t rest; /* vcpu.rflags_rest without the next three, which code sets by itself */
	uint64_t iflag, dflag, acflag; /* 0, or the bit in its place */
	uint32_t irq_wait;	       /* an interrupt may wait for IF */
	uint32_t tsc_aux;
	uint32_t cc;	       /* as vcpu.cc */
	uint32_t exit;	       /* number of the exit that was taken */
	_Atomic uint32_t poll; /* look at vcpu.kick */
	uint32_t fpu_out;      /* 1: vector registers are not in the host's */
	uint32_t x87_out;      /* 1: x87 and MMX registers are not */
	uint32_t x87_saved;    /* 1: they have come back, with the host's pointers in them */
	uint64_t x87_base;     /* ctx.base of the last translation that used them */
	uint64_t keep[2];      /* registers that loading them needs */
	struct vcpu_fpu *fpu;
	uint64_t host_sp;	    /* the C stack's, while code runs */
	uint64_t sp;		    /* of the stack that code runs on, while it does not */
	uint64_t sp_top, sp_limit;  /* where that is empty, and full */
	uint8_t cross[64];	    /* what a load across pages found */
	uint64_t group[MAX_GROUPS]; /* addends of groups of accesses (group.c) */
};

#define CTX(field) ((int32_t)offsetof(struct dbt_ctx, field))
#define CTX_GPR(n) ((int32_t)(offsetof(struct dbt_ctx, gpr) + (n)*8))

/* Distances from the GS base. The table for writes runs downwards: entry n is at -8 * (n + 1). */
#define CTX_BYTES   4096
#define JUMP_SLOTS  (1u << 16) /* by bits JUMP_SHIFT to JUMP_SHIFT + 15 of RIP */
#define JUMP_SHIFT  3
#define JUMP_KEYS   0x100000 /* -rip; see jump_init() */
#define JUMP_CODE   (JUMP_KEYS + JUMP_SLOTS * 8)
#define TABLE_READ  0x200000
#define TABLE_BITS  32
#define TABLE_BYTES (8ull << TABLE_BITS)
#define SPACE_BYTES (2 * TABLE_BYTES + TABLE_READ)

/* -- Spaces ----------------------------------------------------------------------------------- */

#define N_USER_SPACES 8
enum { SPACE_KERNEL, SPACE_KERNEL_AC, SPACE_USER };
#define N_CPU_SPACES (SPACE_USER + N_USER_SPACES)

#define MAX_FILLS (1u << 18) /* the tables are wiped whole when they held more */
#define MAX_LOCAL 8192u
/* Pages that a space's tables take, counted once for both: each is there for 2 MiB of the guest's
 * addresses, for as long as the tables are not wiped with all that they have. That is done when
 * there are more than the first, and when a space changes hands with more than the second. */
#define MAX_TABLE_PAGES(ram_bytes) (2048u + (unsigned)((ram_bytes) / (2 * MiB)))
#define KEEP_TABLE_PAGES	   256u
#define MAX_JUMPS		   16384u

struct fill {
	uint32_t index; /* into the tables */
	uint32_t page;	/* RAM page that it leads to */
};

#define CODE_PAGE_WORDS 512u

struct space {
	uint8_t *gs;	   /* NULL: not mapped yet */
	uint64_t asid;	   /* user spaces: whose it is; 0: nobody's */
	uint64_t used;	   /* when it was last taken */
	struct fill *fill; /* owned; what the tables hold, and more */
	unsigned n_fills;
	bool lost;	   /* the tables hold what fill does not say */
	uint64_t *touched; /* owned; a bit for each page of the tables that may be there */
	unsigned n_touched;
	uint32_t *local; /* owned; the kernel's spaces: entries that are not global */
	unsigned n_local;
	uint16_t *jump;			      /* owned; slots that are taken, and more */
	unsigned n_jumps;		      /* above MAX_JUMPS: jump does not hold all */
	uint64_t code_pages[CODE_PAGE_WORDS]; /* hashed set of pages the jump cache leads to */
	bool local_code;		      /* a jump leads to a page that is not global */
	uint16_t code_mode;		      /* TBM_SPACE bits of what the jumps lead to */
};

/* -- Stacks ----------------------------------------------------------------------------------- */

/* Translated code runs on a stack of its own, one for the kernel and one for each user space. A
 * guest's CALL pushes the guest's return address and calls; its RET returns, and what it returns to
 * compares. So it may hold more or less than the guest's own stack: see stubs.mismatch. Above the
 * top are some entries that lead to stubs.empty. C that code calls runs on it too, and signals.
 */
#define N_STACKS      (1 + N_USER_SPACES)
#define STACK_BYTES   (192 * 1024u)
#define STACK_CALLS   2048u /* then it is emptied */
#define STACK_PADDING 8u    /* entries above the top */

struct stack_entry {
	uint64_t code, rip;
};

struct code_stack {
	struct stack_entry *top;
	uint64_t sp;
	bool lost; /* what it leads to is not valid any more */
};

/* -- Translations ----------------------------------------------------------------------------- */

/* A translation depends on this of the vCPU's state. */
#define TBM_USER  1u /* CPL 3 */
#define TBM_SSE	  2u /* legacy SSE allowed */
#define TBM_AVX	  4u
#define TBM_EVEX  8u
#define TBM_COUNT 16u	/* count instructions, go nowhere but back */
#define TBM_SMAP  32u	/* STAC and CLAC switch spaces */
#define TBM_TSD	  64u	/* RDTSC is not allowed */
#define TBM_X87	  128u	/* x87 and MMX allowed */
#define TBM_EXACT 256u	/* all flags are exact at every instruction */
#define TBM_PLAIN 512u	/* every access is checked by itself: see group.c */
#define TBM_32	  1024u /* 32-bit code with flat segments, not 64-bit code */
#define TBM_FS                                                                                     \
	2048u /* 32-bit code: FS is writable data up to 4 GiB; else its bytes are not for us */
#define TBM_GS 4096u
/* What the jumps of a space depend on besides. */
#define TBM_SPACE (TBM_32 | TBM_FS | TBM_GS)

/* Registers that are the host's own. */
#define LOADED_VEC 1u
#define LOADED_X87 2u /* and MMX */

struct tb {
	/* What cache_find() looks at, together. */
	struct tb *hash_next;
	const uint8_t *host; /* guest code */
	uint16_t mode;
	uint16_t off, len; /* bytes of guest code, in its page */
	uint16_t n_insns;
	struct tb *page_next; /* of the same guest page */
	/* If its one instruction crosses into another page, where that is. Such a translation is
	 * entered by the jump cache alone, which knows of both pages. */
	const uint8_t *host2;
	struct tb *whole; /* set: this only stands for that one, in the list of its second page */
	/* Offsets in the code. Flags are in ctx.cc, or in the host's where said. */
	uint32_t start;	      /* its first byte */
	uint32_t entry_jump;  /* RIP in R14 */
	uint32_t entry_saved; /* the page is the one that runs already */
	uint32_t entry_host;  /* likewise, flags in the host's */
	uint32_t top;	      /* all ways in lead here, with the FPU's registers in place */
	uint32_t void_exit;   /* where top leads once it is void */
	uint32_t end;
	uint8_t loaded; /* LOADED_...: what it has in place from top on */
	bool top_host;	/* flags are in the host's at top */
	bool top_any;	/* it does not matter */
	bool valid;	/* not void */
};

/* Ways out of the code. */
enum exit_kind {
	EXIT_NEXT,    /* go on at off, in the same page or the one behind it */
	EXIT_LINK,    /* likewise, and patch the jump at patch_at */
	EXIT_INTERP,  /* execute the instruction at off in the interpreter */
	EXIT_LOOKUP,  /* go on at ctx.rip; a bad target is the fault of the branch at off */
	EXIT_POLL,    /* look at vcpu.kick, then go on at off */
	EXIT_SYSCALL, /* these instructions at off, without the interpreter's detour */
	EXIT_SYSRET,
	EXIT_IRET,
	EXIT_PLAIN, /* a group's check failed at off: go on without groups */
	EXIT_VOID,  /* the translation is void: go on at off in the new one */
};

/* Where a jump from the same page enters t, with flags in the host's or in ctx.cc, and some of the
 * FPU's registers in place. 0: t is still being made, and has no such entry yet. */
static inline uint32_t tb_entry(const struct tb *t, bool host, unsigned loaded)
{
	if (!(t->loaded & ~loaded) && (t->top_any || t->top_host == host))
		return t->top;
	return host ? t->entry_host : t->entry_saved;
}

struct tb_exit {
	uint32_t tb;	   /* number */
	uint32_t patch_at; /* offset of a rel32 */
	uint16_t off;	   /* from the start of the guest page */
	uint8_t kind;
	int8_t undo;	 /* EXIT_LOOKUP: what the branch has added to rSP */
	uint8_t len;	 /* EXIT_SYSCALL to EXIT_IRET: of the instruction; of an access: bytes */
	uint8_t opsize;	 /* EXIT_SYSCALL to EXIT_IRET: of the instruction */
	uint8_t fill;	 /* of an access: enum fill_kind */
	bool host;	 /* EXIT_LINK: flags are in the host's there */
	uint8_t loaded;	 /* EXIT_LINK: what is sure to be in place there */
	uint8_t n_taken; /* EXIT_PLAIN: how often, up to PLAIN_PATIENCE */
	uint16_t n_done; /* instructions of the block before off */
};

/* An EXIT_PLAIN that was taken so often leads straight to the plain translation from then on. */
#define PLAIN_PATIENCE 8

/* Host code of one guest instruction begins at code. */
struct insn_mark {
	uint32_t code;
	uint16_t off;
	uint8_t n_done;
	bool saved; /* flags are in ctx.cc when it accesses memory */
};

/* The code cache: an eighth of the guest's memory, within these. Of the smallest, which is a small
 * guest's, FIRST_CODE may be used at first, and twice as much each time that was full: much of what
 * a guest executes while it boots never runs again. */
#define MIN_CODE     (32 * MiB)
#define MAX_CODE     (128 * MiB)
#define FIRST_CODE   (10 * MiB)
#define TB_HASH_BITS 18
#define TB_MAX_INSNS 48
/* The most that one translation takes of either part of the code. */
#define TB_MAX_CODE (TB_MAX_INSNS * 400 + 4096)

/* What an entry is wanted for; the last for writes that may not come: only if the page is dirty. */
enum fill_kind { FILL_READ, FILL_WRITE, FILL_DIRTY };

struct stubs {
	uint32_t enter;
	uint32_t exit;	       /* called; the number of the exit stands behind the call */
	uint32_t exit_noflags; /* the same; flags are in ctx.cc */
	uint32_t exit_trap;    /* for signal handlers: ctx.exit is set */
	uint32_t leave;	       /* exit_noflags with ctx.exit set */
	uint32_t fill;	       /* RCX = gva -> R14 = addend */
	uint32_t string;       /* RCX = what dbt_string() takes */
	uint32_t lookup;       /* go to RIP R14 by the jump cache; else take the exit in ctx.exit */
	uint32_t empty;	       /* returned to by an empty stack */
	uint32_t mismatch;     /* [RSP] is not R14 */
	uint32_t fpu_load, x87_load;
	uint32_t load[2]
		     [3]; /* by whether ZMM16-31 and masks, and how much of ZMM0-15, are in use */
	uint32_t save_any;
	uint32_t end;
};

/* One for each machine, shared by its vCPUs. */
struct code_cache {
	pthread_mutex_t lock; /* guards all but what is constant */
	struct codemem code;
	uint32_t cold; /* from here on: what is rarely run; constant */
	uint32_t used, cold_used;
	uint32_t budget;			/* bytes of both parts that may be used */
	uint32_t max_tbs, max_exits, max_marks; /* constant */
	struct stubs stubs;			/* constant */
	struct tb *tb;				/* max_tbs; owned */
	struct tb_exit *exit;			/* max_exits; owned */
	struct insn_mark *mark;			/* max_marks, by code; owned */
	uint32_t n_tbs, n_exits, n_marks;
	struct tb *hash[1 << TB_HASH_BITS];
	struct tb **page_tbs; /* for each RAM page; owned */
	struct tr *work;      /* owned; for translate() */
	struct physmap *pm;
	struct vcpu_set *set;
	unsigned n_users;
	bool has[N_CPU_FEATURES]; /* constant: what the model has, and the host */
	_Atomic bool flushing;
	_Atomic uint64_t epoch; /* counts flushes */
	uint64_t flushes;
	_Atomic uint64_t voided;
	FILE *perf_map; /* owned; show.c's */
};

/* One for each vCPU: its engine_state. */
struct dbt {
	struct dbt_ctx *ctx; /* its first mapping */
	int ctx_fd;	     /* memfd behind it */
	struct vcpu *c;
	struct code_cache *cache;
	struct space space[N_CPU_SPACES];
	uint8_t *stacks; /* N_STACKS times STACK_BYTES; owned */
	struct code_stack stack[N_STACKS];
	struct code_stack *stack_now; /* whose sp is in the context */
	uint64_t void_seen;	      /* cache.voided when stacks were looked at */
	struct space *now;	      /* whose GS base is set; NULL before the first */
	uint64_t clock;		      /* counts switches of spaces */
	uint64_t epoch;		      /* of the cache that the jump caches are of */
	_Atomic bool inside;	      /* may be in translated code */
	uint16_t mode;		      /* of the last look up */
	uint64_t fdp;		      /* the x87 data pointer that was loaded */
	const struct insn_mark *trap; /* where a signal came */
	struct {
		uint64_t enters, lookups, fills, fill_fails, interps, links, signals, translations,
			insns, strings;
		uint64_t in_run, in_translate, in_interp; /* ticks of the host's TSC */
	} stats;
};

static inline struct dbt *dbt_of(const struct vcpu *c)
{
	return c->engine_state[ENGINE_DBT];
}

/* -- stubs.c ---------------------------------------------------------------------------------- */

/* Write the routines at the start of the cache. */
void stubs_make(struct code_cache *k, uint64_t xcr0);
/* The C half of a fill: the addend for the access at gva, or 0 for the exit of that number. */
uint64_t dbt_fill(struct dbt *d, uint64_t gva, uint64_t exit);
/* MOVS or STOS as described by what (STRING_), on the registers in the context. Not 0 when it is
 * done to its end; else the interpreter goes on. */
#define STRING_SIZE 15u
#define STRING_REP  16u
#define STRING_MOVS 32u
#define STRING_32   64u /* by ECX, ESI and EDI */
uint64_t dbt_string(struct dbt *d, uint64_t what, uint64_t exit);
/* What fpu_load has to do, by c->fpu_wide. */
void fpu_choose(struct dbt *d);

/* -- string.c --------------------------------------------------------------------------------- */

/* The work of dbt_string(). */
uint64_t string_run(struct dbt *d, uint64_t what);

/* -- space.c ---------------------------------------------------------------------------------- */

extern const struct tlb_watch dbt_watch;

int spaces_init(struct dbt *d, struct err *err);
void spaces_fini(struct dbt *d);
/* Make the space of c's mode and address space the one that GS leads to. */
int space_select(struct dbt *d);
/* True if the space for EFLAGS.AC = 1 is there to be switched to. */
bool space_has_ac(struct dbt *d);
/* Code has switched between the kernel's spaces: follow c->tlb_mode. */
void space_follow(struct dbt *d);
void space_fill(struct dbt *d, gva_t gva, uint8_t *page, unsigned perm);
/* The code for rip in the space that is selected, or NULL. */
const void *space_jump(const struct dbt *d, uint64_t rip);
/* last: of the bytes of its first instruction that code has been made of. */
void space_add_jump(struct dbt *d, uint64_t rip, uint64_t last, const void *code, bool global);
/* The space that is selected is to have jumps to code of this mode alone. */
void space_set_mode(struct dbt *d, uint16_t mode);
/* Forget all jumps, in every space. */
void spaces_drop_jumps(struct dbt *d);

/* -- stack.c ---------------------------------------------------------------------------------- */

int stacks_init(struct dbt *d, struct err *err);
/* With the routines made: what stands above the tops. */
void stacks_fill(struct dbt *d);
void stacks_fini(struct dbt *d);
/* Forget what the stack of the space leads to; of all. */
void stack_drop(struct dbt *d, const struct space *s);
void stacks_drop(struct dbt *d);
/* Put the stack of the space that is selected in place, and take it out. */
void stack_load(struct dbt *d);
void stack_store(struct dbt *d);
/* Before code is entered again: do away with what is not valid any more. */
void stack_check(struct dbt *d);

/* -- cache.c ---------------------------------------------------------------------------------- */

/* Take part in the machine's code cache. */
int cache_join(struct dbt *d, struct err *err);
void cache_leave(struct dbt *d);
struct tb *cache_find(struct code_cache *k, const uint8_t *host, uint16_t mode);
void cache_insert(struct code_cache *k, struct tb *t);
/* Stores hit these lines (page_state.code_lines) of the page: translations of them are void. Any
 * thread. */
void cache_void_lines(void *cache, struct page_state *ps, uint64_t lines);
/* Forget all; waits until nobody is inside, so the caller is not, and has no lock. Nothing if
 * another vCPU is at it. */
void cache_flush(struct dbt *d);
bool cache_full(const struct code_cache *k);
/* The guest instruction whose host code holds the offset; NULL if none. */
const struct insn_mark *cache_mark(const struct code_cache *k, uint32_t code);
/* Make the entry at offset at lead to offset to. With the lock. */
void cache_redirect(struct code_cache *k, uint32_t at, uint32_t to);
uint32_t cache_new_exit(struct code_cache *k, struct tb_exit x);

static inline const void *code_at(const struct code_cache *k, uint32_t off)
{
	return k->code.rx + off;
}

static inline uint32_t tb_number(const struct code_cache *k, const struct tb *t)
{
	return (uint32_t)(t - k->tb);
}

/* -- translate.c ------------------------------------------------------------------------------ */

/* What translate() works in; NULL without memory. The caller frees it. */
struct tr *translate_new(void);
/* Translate the code at host, in RAM, for mode; host2: the page behind it, if the first instruction
 * crosses into that. With the lock, and room in the cache. The caller inserts it. NULL if other
 * vCPUs may store there unseen: they are to be asked first. */
struct tb *translate(struct dbt *d, const uint8_t *host, const uint8_t *host2, uint16_t mode);

/* -- show.c ----------------------------------------------------------------------------------- */

/* Tell traces of the translation just made for rip; only under one of their trace points. With the
 * lock. */
void show_translation(struct dbt *d, const struct tb *t);
void show_init(struct code_cache *k);
void show_fini(struct code_cache *k);

#endif
