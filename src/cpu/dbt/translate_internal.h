/* One translation at work: what translate.c and the lower_*.c files share.
 *
 * Lowering one guest instruction changes no guest register before its last access to memory, so
 * that a fault there finds the state as it was before the instruction.
 */
#ifndef CPU_DBT_TRANSLATE_INTERNAL_H
#define CPU_DBT_TRANSLATE_INTERNAL_H

#include "cpu/dbt/dbt_internal.h"
#include "cpu/dbt/regmap.h"

/* Code that stands behind the block, since it is rarely run. */
enum cold_kind {
	COLD_FILL,	/* get the addend, then back */
	COLD_EXIT,	/* leave by exit */
	COLD_FPU,	/* load the vector registers, then back */
	COLD_X87,	/* load the x87 registers, then back */
	COLD_HOST,	/* entry with flags in the host's: save them, then to the top */
	COLD_MISS,	/* an indirect jump's target is not at hand */
	COLD_MISS_CALL, /* the same for a call, which comes back to back */
	COLD_STACK,	/* the code's stack is full: empty it, then back */
	COLD_FAR,	/* a conditional branch to another page */
};

struct cold {
	uint8_t kind;
	bool noflags;
	uint8_t reg;	   /* COLD_FILL: register with the address */
	uint32_t from;	   /* offset of the rel32 that leads here */
	uint32_t from_too; /* COLD_FILL: of another one, or 0 */
	uint32_t back;
	uint32_t exit;
	int32_t target; /* COLD_FAR: offset from the page's start */
};

#define MAX_COLD (TB_MAX_INSNS * 6 + 8)

/* Accesses under one check; see group.c. lo, hi: bytes from the base's value at the check. */
struct group {
	uint8_t base;
	bool write, write_first; /* some access, the first one */
	bool keep;		 /* the addend is wanted again when S_ADD is lost */
	uint8_t first, last;	 /* instructions */
	int32_t lo, hi;
};

typedef bool (*lower_fn)(struct tr *t, const struct insn *i);

struct tr {
	struct dbt *d;
	struct code_cache *k;
	struct emit e;
	struct tb *t;
	const uint8_t *page;  /* host address of the guest page */
	const uint8_t *page2; /* of the one behind it, if the first instruction crosses; or NULL */
	bool cut;	      /* what follows crosses into the next page */
	uint8_t word;	      /* of the stack and of addresses: 8, or 4 in 32-bit code */
	unsigned n_insns;
	struct insn stop; /* what is not ours and ended it; op OP_INVALID for nothing */
	struct insn insn[TB_MAX_INSNS];
	lower_fn fn[TB_MAX_INSNS];
	uint16_t off[TB_MAX_INSNS + 1];	 /* of each instruction in the page, and of what follows */
	uint16_t need[TB_MAX_INSNS + 1]; /* flags wanted before each, and at the end */
	unsigned at;			 /* the instruction at work */
	bool x87_noted;			 /* ctx.x87_base is set */
	bool saved;			 /* flags are in ctx.cc, not in the host's */
	bool returned; /* what was called has come back, with the FPU's registers anywhere */
	struct group group[MAX_GROUPS];
	unsigned n_groups;
	uint8_t member[TB_MAX_INSNS]; /* number of the group of its access + 1, or 0 */
	const struct group *in_add;   /* whose addend is in S_ADD, or NULL */
	struct cold cold[MAX_COLD];
	unsigned n_cold;
};

/* -- lower_mem.c: addresses and checks -------------------------------------------------------- */

/* Leave the linear address of i's memory operand in a register, and return it: S_ADDR, or the guest
 * register that is the address. S_ADD may be lost. H_NONE if the form is not for us. */
uint8_t tr_address(struct tr *t, const struct insn *i);
/* Check the access of size bytes (a power of two) at linear address reg; the host's address is reg
 * + S_ADD then. The host's flags are lost: t->saved says whether somebody wants them. One that
 * crosses pages is the interpreter's; exact: one that is not aligned, too. */
void tr_access(struct tr *t, uint8_t reg, unsigned size, bool write, bool exact);

/* The host's flags are about to be lost: save them if somebody wants them. */
void tr_lose_flags(struct tr *t);
/* The check itself, for size bytes up to MAX_SPAN; the host's flags are lost. missing says where to
 * go when the table has no entry, or, if crosses is NULL, they do not lie in one page (size 1: they
 * do); else that says it. */
void tr_check(struct tr *t, uint8_t reg, unsigned size, bool write, struct cold *crosses,
	      struct cold missing);

/* Does i read or write arithmetic flags, in the host's flags? */
static inline bool touches_flags(const struct insn *i)
{
	const struct insn_desc *d = &insn_table[i->id];

	return (d->fl_read | d->fl_write | d->fl_undef) & RFLAGS_ARITH && i->op != OP_PUSHF;
}

/* Get the flags into the host's if i, which comes next, has to do with them. */
void tr_flags_for(struct tr *t, const struct insn *i);
/* To ctx.cc; scratch is lost. */
void tr_save_flags(struct tr *t, uint8_t scratch);
void tr_restore_flags(struct tr *t);

/* -- lower_op.c ------------------------------------------------------------------------------- */

/* The guest's instruction itself, with its registers and memory operand renamed. False: not for
 * us. */
bool lower_copy(struct tr *t, const struct insn *i);
/* Does lower_copy() of i keep what is in S_ADD? member: its access is a group's, whose addend is
 * there. */
bool copy_is_quiet(const struct insn *i, bool member);
bool lower_lea(struct tr *t, const struct insn *i);
bool lower_cmpxchg16b(struct tr *t, const struct insn *i);

/* -- lower_flow.c: the stack and control transfers --------------------------------------------- */

bool lower_push(struct tr *t, const struct insn *i);
bool lower_pop(struct tr *t, const struct insn *i);
bool lower_leave(struct tr *t, const struct insn *i);
bool lower_jmp(struct tr *t, const struct insn *i);
bool lower_jcc(struct tr *t, const struct insn *i);
bool lower_loop(struct tr *t, const struct insn *i); /* LOOP, JCXZ */
bool lower_call(struct tr *t, const struct insn *i);
bool lower_call_ind(struct tr *t, const struct insn *i);
bool lower_jmp_ind(struct tr *t, const struct insn *i);
bool lower_ret(struct tr *t, const struct insn *i);
/* Go to target, an offset from the page's start that may lie outside it. */
void tr_goto(struct tr *t, int32_t target);
/* The same by the jump cache, wherever it is. */
void tr_goto_far(struct tr *t, int32_t target);
/* The cold half of a conditional branch that leaves the page. */
void tr_far(struct tr *t, const struct cold *c);

/* Pad so that the rel32 that stands n bytes ahead can be changed in one store. */
void tr_align_rel32(struct emit *e, unsigned n);

/* -- group.c ----------------------------------------------------------------------------------- */

/* Find groups among the instructions that were looked ahead. */
void groups_plan(struct tr *t);
/* Is the access of the instruction at work, at disp from the register base, a group's? Then *m gets
 * the host's address. */
bool tr_member(struct tr *t, unsigned base, int32_t disp, struct hmem *m);
/* Around each instruction: follow what is in S_ADD. */
void groups_before(struct tr *t);
void groups_after(struct tr *t);

/* -- lower_sys.c ------------------------------------------------------------------------------ */

bool lower_cli(struct tr *t, const struct insn *i);
bool lower_sti(struct tr *t, const struct insn *i);
bool lower_cld(struct tr *t, const struct insn *i);  /* and STD */
bool lower_stac(struct tr *t, const struct insn *i); /* and CLAC */
bool lower_swapgs(struct tr *t, const struct insn *i);
bool lower_rdtsc(struct tr *t, const struct insn *i); /* and RDTSCP */
bool lower_pushf(struct tr *t, const struct insn *i);
bool lower_string(struct tr *t, const struct insn *i);	    /* MOVS, STOS */
bool lower_string_step(struct tr *t, const struct insn *i); /* LODS, SCAS, CMPS */
bool lower_bit_memory(struct tr *t, const struct insn *i);

/* -- translate.c ------------------------------------------------------------------------------ */

/* Is operand n written? */
static inline bool tr_is_written(const struct insn *i, unsigned n)
{
	uint32_t attr = insn_table[i->id].attr;

	return (n == 0 && !(attr & INSN_NO_DST)) || (n == 1 && attr & INSN_OPD1_DST);
}

/* An instruction on x87 or MMX registers? */
bool is_x87(const struct insn *i);
/* Behind a call of C: put vector and x87 registers in place again. */
void tr_reload_fpu(struct tr *t);
/* A new exit at the instruction at work. */
uint32_t tr_exit(struct tr *t, enum exit_kind kind, uint16_t off);
/* Emit the call that takes it. */
void tr_take_exit(struct tr *t, uint32_t exit, bool noflags);
void tr_cold(struct tr *t, struct cold c);

static inline uint16_t tr_next_off(const struct tr *t)
{
	return t->off[t->at + 1];
}

/* Where a near branch leads, from the page's start. */
static inline int32_t tr_target(const struct tr *t, const struct insn *i)
{
	return (int32_t)((uint32_t)tr_next_off(t) + (uint32_t)i->imm);
}

/* Instructions on guest words: addresses are cut to 4 bytes in 32-bit code. */
static inline void tr_lea(struct tr *t, uint8_t dst, struct hmem m)
{
	e_op_mem(&t->e, t->word == 8, 0, 0x8d, dst, m);
}

static inline void tr_load(struct tr *t, uint8_t dst, struct hmem m)
{
	e_op_mem(&t->e, t->word == 8, 0, 0x8b, dst, m);
}

static inline void tr_store(struct tr *t, struct hmem m, uint8_t src)
{
	e_op_mem(&t->e, t->word == 8, 0, 0x89, src, m);
}

static inline void tr_mov(struct tr *t, uint8_t dst, uint8_t src)
{
	e_op_reg(&t->e, t->word == 8, 0, 0x8b, dst, src);
}

/* Where i, instruction n, has its operand that is relative to RIP, from the page's start. */
static inline int32_t tr_block_off(const struct tr *t, const struct insn *i, unsigned n)
{
	return (int32_t)((uint32_t)i->disp + t->off[n + 1]);
}

static inline bool in_page(int32_t target)
{
	return target >= 0 && target < (int32_t)PAGE_SIZE;
}

/* Host register of guest register g; a displaced one is loaded into scratch first. */
static inline uint8_t tr_reg(struct tr *t, unsigned g, uint8_t scratch)
{
	if (host_reg[g] != H_NONE)
		return host_reg[g];
	e_load(&t->e, scratch, h_gs(CTX_GPR(g)));
	return scratch;
}

static inline void tr_set_reg(struct tr *t, unsigned g, uint8_t from)
{
	if (host_reg[g] != H_NONE)
		e_mov(&t->e, host_reg[g], from);
	else
		e_store(&t->e, h_gs(CTX_GPR(g)), from);
}

#endif
