/* Groups: accesses of one translation to places at fixed distances from one base register, under
 * one check that they all lie in one page.
 *
 * The check asks the table for writes if any access of the group writes. It makes a page dirty only
 * if the first access writes, since later ones may not come: where the entry is not there for it,
 * or the group crosses pages, the translation is left for another one without groups (TBM_PLAIN).
 * Between check and last access the entry may only end by what this vCPU does outside of translated
 * code, or by STAC and CLAC, which end groups.
 */
#include "cpu/dbt/translate_internal.h"

/* While planning, tr.member says so + number of the open group that an access is in. */
#define GROUP_OPEN 128

/* Open groups: one for each base register, and some for addresses relative to RIP, one a page. */
#define OPEN_BLOCK REG_BLOCK
#define N_OPEN	   (OPEN_BLOCK + 3)

struct access {
	uint8_t base;
	bool write;
	uint16_t size;
	int32_t off; /* from the base's value before the instruction */
};

/* -- What instructions do to registers --------------------------------------------------------- */

static unsigned implicit_writes(const struct insn *i)
{
	switch (i->op) {
	case OP_MUL:
	case OP_IMUL:
	case OP_DIV:
	case OP_IDIV:
	case OP_CWD:
	case OP_CMPXCHG8B:
	case OP_CMPXCHG16B: return 1u << REG_RAX | 1u << REG_RDX;
	case OP_CBW:
	case OP_CMPXCHG:
	case OP_LAHF:
	case OP_X87: return 1u << REG_RAX;
	case OP_RDTSC:
	case OP_RDTSCP: return 1u << REG_RAX | 1u << REG_RDX | 1u << REG_RCX;
	case OP_MOVS:
	case OP_STOS: return 1u << REG_RSI | 1u << REG_RDI | 1u << REG_RCX;
	case OP_LOOP: return 1u << REG_RCX;
	case OP_LODS: return 1u << REG_RAX | 1u << REG_RSI;
	case OP_SCAS:
	case OP_CMPS: return 1u << REG_RSI | 1u << REG_RDI;
	case OP_VEC: return 1u << REG_RCX; /* PCMPxSTRI */
	case OP_LEAVE: return 1u << REG_RSP | 1u << REG_RBP;
	case OP_STAC:
	case OP_CLAC: return (1u << N_OPEN) - 1;
	default: return 0;
	}
}

static unsigned written(const struct insn *i)
{
	unsigned regs = implicit_writes(i);

	for (unsigned n = 0; n < i->n_opds; n++)
		if ((i->opd[n].kind == OPD_GPR || i->opd[n].kind == OPD_GPRH) &&
		    tr_is_written(i, n))
			regs |= 1u << i->opd[n].reg;
	return regs;
}

/* If all that i does to a register is to add a constant: which one, and what; else -1. */
static int moves(const struct insn *i, int32_t *by)
{
	const struct operand *to = &i->opd[0];
	int32_t imm = (int32_t)i->imm;
	int reg = to->kind == OPD_GPR && to->size == i->mode ? to->reg : -1;

	switch (i->op) {
	case OP_PUSH:
	case OP_PUSHF:
	case OP_CALL:
	case OP_CALL_IND: *by = -i->mode; return i->opsize == i->mode ? REG_RSP : -1;
	case OP_POP:
		*by = i->mode;
		return i->opsize == i->mode && to->kind == OPD_GPR && to->reg != REG_RSP ? REG_RSP
											 : -1;
	case OP_ADD:
	case OP_SUB:
		*by = i->op == OP_ADD ? imm : -imm;
		return i->opd[1].kind == OPD_IMM && imm == (int16_t)imm ? reg : -1;
	case OP_INC: *by = 1; return reg;
	case OP_DEC: *by = -1; return reg;
	case OP_LEA:
		*by = (int32_t)i->disp;
		return i->adsize == i->mode && i->base == reg && i->index == REG_ZERO &&
				       i->disp == (int16_t)i->disp
			       ? reg
			       : -1;
	default: return -1;
	}
}

/* -- Which accesses there are ------------------------------------------------------------------ */

static bool stack_access(const struct insn *i, struct access *a)
{
	bool push = i->op == OP_PUSH || i->op == OP_CALL || i->op == OP_CALL_IND;

	if (!push && i->op != OP_POP && i->op != OP_RET)
		return false;
	*a = (struct access){
		.base = REG_RSP, .write = push, .size = i->mode, .off = push ? -i->mode : 0
	};
	return i->opsize == i->mode;
}

/* The page, counted from that of the code. */
static int32_t page_of(int32_t off)
{
	return off >> PAGE_SHIFT;
}

static bool operand_access(const struct tr *t, unsigned at, struct access *a)
{
	const struct insn *i = &t->insn[at];
	unsigned size = 0;

	if (!i->has_mem || i->adsize != i->mode || i->seg == SEG_FS || i->seg == SEG_GS ||
	    i->base > REG_BLOCK || i->index != REG_ZERO || t->fn[at] != lower_copy)
		return false;
	for (unsigned n = 0; n < i->n_opds; n++)
		if (i->opd[n].kind == OPD_MEM)
			size = i->opd[n].size;
	*a = (struct access){ .base = i->base,
			      .write = insn_table[i->id].attr & INSN_MEM_DST,
			      .size = (uint16_t)size,
			      .off = (int32_t)i->disp };
	if (!size || size & (size - 1) || size > 64)
		return false;
	if (i->base != REG_BLOCK)
		return i->disp == (int16_t)i->disp;
	/* It must be known that it stays in its page. */
	a->off = tr_block_off(t, i, at);
	return i->disp == (int32_t)i->disp && page_of(a->off) == page_of(a->off + (int)size - 1);
}

static bool access_of(const struct tr *t, unsigned at, struct access *a)
{
	return stack_access(&t->insn[at], a) || operand_access(t, at, a);
}

/* -- Planning ---------------------------------------------------------------------------------- */

/* Does instruction n leave the addend in S_ADD if it is there before? */
static bool is_quiet(const struct tr *t, unsigned n)
{
	const struct insn *i = &t->insn[n];

	switch (i->op) {
	case OP_PUSH: return t->member[n] && i->opd[0].kind != OPD_MEM;
	case OP_POP: return t->member[n];
	case OP_LEA: return i->index == REG_ZERO || host_reg[i->index] != H_NONE;
	case OP_NOP:
	case OP_JCC: return true;
	default: return t->fn[n] == lower_copy && copy_is_quiet(i, t->member[n]);
	}
}

/* Does i lose S_ADD before it makes its group's access? */
static bool loses_first(const struct insn *i)
{
	return i->op == OP_CALL_IND || (i->op == OP_PUSH && i->opd[0].kind == OPD_MEM);
}

/* The group at work for one base register. */
struct open_group {
	struct group g;
	uint8_t number;
	unsigned n_members;
	int32_t moved; /* of the base since the first member */
};

/* Take the group into the plan if it is worth it. */
static void close_group(struct tr *t, struct open_group *o)
{
	if (o->n_members >= 2 && t->n_groups < MAX_GROUPS) {
		t->group[t->n_groups++] = o->g;
		for (unsigned n = o->g.first; n <= o->g.last; n++)
			if (t->member[n] == GROUP_OPEN + o->number)
				t->member[n] = (uint8_t)t->n_groups;
	} else {
		for (unsigned n = o->g.first; n <= o->g.last && o->n_members; n++)
			if (t->member[n] == GROUP_OPEN + o->number)
				t->member[n] = 0;
	}
	o->n_members = 0;
}

static void add_member(struct tr *t, struct open_group *o, unsigned n, const struct access *a)
{
	int32_t lo = o->moved + a->off, hi = lo + a->size;

	if (o->n_members && a->base != REG_BLOCK && MAX(hi, o->g.hi) - MIN(lo, o->g.lo) > MAX_SPAN)
		close_group(t, o);
	if (!o->n_members) {
		o->moved = 0;
		lo = a->off;
		hi = lo + a->size;
		o->g = (struct group){ .base = a->base,
				       .write_first = a->write,
				       .first = (uint8_t)n,
				       .lo = lo,
				       .hi = hi };
	}
	o->g.lo = MIN(lo, o->g.lo);
	o->g.hi = MAX(hi, o->g.hi);
	o->g.write |= a->write;
	o->g.last = (uint8_t)n;
	o->n_members++;
	t->member[n] = (uint8_t)(GROUP_OPEN + o->number);
}

/* The instruction has run: which bases are not what they were? */
static void follow(struct tr *t, struct open_group *open, const struct insn *i)
{
	unsigned regs = written(i);
	int32_t by = 0;
	int reg = moves(i, &by);

	if (reg >= 0) {
		open[reg].moved += by;
		regs &= ~(1u << reg);
	}
	for (; regs; regs &= regs - 1)
		if (open[__builtin_ctz(regs)].n_members)
			close_group(t, &open[__builtin_ctz(regs)]);
}

/* The open group that the access can be a member of. */
static struct open_group *open_for(struct tr *t, struct open_group *open, const struct access *a)
{
	struct open_group *free = NULL;

	if (a->base != REG_BLOCK)
		return &open[a->base];
	for (unsigned n = OPEN_BLOCK; n < N_OPEN; n++) {
		if (!open[n].n_members)
			free = &open[n];
		else if (page_of(open[n].g.lo) == page_of(a->off))
			return &open[n];
	}
	if (!free) {
		free = &open[OPEN_BLOCK];
		close_group(t, free);
	}
	return free;
}

void groups_plan(struct tr *t)
{
	struct open_group open[N_OPEN];

	t->n_groups = 0;
	t->in_add = NULL;
	memset(t->member, 0, t->n_insns);
	if (t->t->mode & TBM_PLAIN || t->page2)
		return;
	for (unsigned n = 0; n < N_OPEN; n++) {
		open[n].n_members = 0;
		open[n].number = (uint8_t)n;
	}
	for (unsigned n = 0; n < t->n_insns; n++) {
		struct access a;

		if (access_of(t, n, &a))
			add_member(t, open_for(t, open, &a), n, &a);
		follow(t, open, &t->insn[n]);
	}
	for (unsigned n = 0; n < N_OPEN; n++)
		if (open[n].n_members)
			close_group(t, &open[n]);
	for (unsigned k = 0; k < t->n_groups; k++) {
		struct group *g = &t->group[k];

		for (unsigned n = g->first; n < g->last && !g->keep; n++)
			g->keep |= !is_quiet(t, n) || (t->member[n] && t->member[n] != k + 1);
		g->keep |= loses_first(&t->insn[g->last]);
	}
}

/* -- Emitting ---------------------------------------------------------------------------------- */

static uint32_t plain_exit(struct tr *t, uint8_t n_taken)
{
	uint32_t exit = tr_exit(t, EXIT_PLAIN, t->off[t->at]);

	t->k->exit[exit].n_taken = n_taken;
	return exit;
}

/* What the first access does to its page comes true. */
static uint8_t fill_of(const struct group *g)
{
	return g->write_first ? FILL_WRITE : g->write ? FILL_DIRTY : FILL_READ;
}

static uint8_t base_register(struct tr *t, unsigned base)
{
	if (base != REG_BLOCK)
		return tr_reg(t, base, S_ADDR);
	e_load(&t->e, S_ADDR, h_gs(CTX(base)));
	return S_ADDR;
}

static void check(struct tr *t, const struct group *g)
{
	struct emit *e = &t->e;
	uint8_t base = base_register(t, g->base), reg = base;
	unsigned span = g->base == REG_BLOCK ? 1 : (unsigned)(g->hi - g->lo);
	struct cold crosses = { .kind = COLD_EXIT, .noflags = true },
		    missing = { .kind = COLD_FILL };

	tr_lose_flags(t);
	if (g->lo || t->word == 4) {
		tr_lea(t, S_ADDR, h_at(base, g->lo));
		reg = S_ADDR;
	}
	crosses.exit = plain_exit(t, PLAIN_PATIENCE);
	missing.exit = plain_exit(t, 0);
	t->k->exit[missing.exit].fill = fill_of(g);
	tr_check(t, reg, span, g->write, &crosses, missing);
	if (g->keep)
		e_store(e, h_gs(CTX(group) + (int32_t)(g - t->group) * 8), S_ADD);
}

bool tr_member(struct tr *t, unsigned base, int32_t disp, struct hmem *m)
{
	const struct group *g;
	uint8_t reg;

	if (!t->member[t->at])
		return false;
	g = &t->group[t->member[t->at] - 1];
	if (g->first == t->at)
		check(t, g);
	else if (t->in_add != g)
		e_load(&t->e, S_ADD, h_gs(CTX(group) + (int32_t)(g - t->group) * 8));
	t->in_add = g;
	reg = base_register(t, base);
	if (t->word == 4) {
		/* The sum may be cut at 4 GiB on the way, and is what was checked only then. */
		tr_lea(t, S_ADDR, h_at(reg, disp));
		reg = S_ADDR;
		disp = 0;
	}
	*m = h_sum(reg, S_ADD);
	m->disp = disp;
	return true;
}

void groups_before(struct tr *t)
{
	if (!t->member[t->at] && !is_quiet(t, t->at))
		t->in_add = NULL;
}

void groups_after(struct tr *t)
{
	if (!is_quiet(t, t->at))
		t->in_add = NULL;
}
