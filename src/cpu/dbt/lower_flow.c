/* The stack and near control transfers. */
#include "cpu/dbt/translate_internal.h"

/* -- The stack -------------------------------------------------------------------------------- */

/* Check a store of a word below rSP. Returns where it goes. */
static struct hmem push_check(struct tr *t)
{
	struct hmem m;

	if (tr_member(t, REG_RSP, -t->word, &m))
		return m;
	tr_lea(t, S_ADDR, h_at(H_GUEST_RSP, -t->word));
	tr_access(t, S_ADDR, t->word, true, false);
	return h_sum(S_ADDR, S_ADD);
}

/* Check a load of a word at rSP. Returns from where. */
static struct hmem pop_check(struct tr *t)
{
	uint8_t at = H_GUEST_RSP;
	struct hmem m;

	if (tr_member(t, REG_RSP, 0, &m))
		return m;
	if (t->word == 4) {
		e_mov32(&t->e, S_ADDR, H_GUEST_RSP);
		at = S_ADDR;
	}
	tr_access(t, at, t->word, false, false);
	return h_sum(at, S_ADD);
}

static void push_done(struct tr *t)
{
	tr_lea(t, H_GUEST_RSP, h_at(H_GUEST_RSP, -t->word));
}

/* The same with the place in S_ADDR, so that S_ADD is free for what is pushed. */
static void push_check_into(struct tr *t)
{
	struct hmem to = push_check(t);

	e_lea(&t->e, S_ADDR, to);
}

bool lower_push(struct tr *t, const struct insn *i)
{
	const struct operand *o = &i->opd[0];
	struct emit *e = &t->e;
	struct hmem to;
	uint8_t from;

	if (i->opsize != t->word)
		return false;
	switch (o->kind) {
	case OPD_IMM:
		to = push_check(t);
		e_op_mem(e, t->word == 8, 0, 0xc7, 0, to);
		e32(e, (uint32_t)i->imm);
		break;
	case OPD_GPR:
		to = push_check(t);
		if (host_reg[o->reg] != H_NONE) {
			tr_store(t, to, host_reg[o->reg]);
			break;
		}
		from = S_ADDR;
		if (to.base == S_ADDR) {
			e_lea(e, S_ADDR, to);
			to = h_at(S_ADDR, 0);
			from = S_ADD;
		}
		e_load(e, from, h_gs(CTX_GPR(o->reg)));
		e_store(e, to, from);
		break;
	case OPD_MEM: {
		uint8_t reg = tr_address(t, i);

		if (reg == H_NONE)
			return false;
		tr_access(t, reg, t->word, false, false);
		tr_load(t, S_ADD, h_sum(reg, S_ADD));
		e_store(e, h_gs(CTX(val)), S_ADD);
		t->in_add = NULL;
		push_check_into(t);
		e_load(e, S_ADD, h_gs(CTX(val)));
		tr_store(t, h_at(S_ADDR, 0), S_ADD);
		break;
	}
	default: return false;
	}
	push_done(t);
	return true;
}

bool lower_pop(struct tr *t, const struct insn *i)
{
	const struct operand *o = &i->opd[0];
	struct emit *e = &t->e;
	struct hmem from;

	if (i->opsize != t->word || o->kind != OPD_GPR)
		return false;
	from = pop_check(t);
	if (o->reg == REG_RSP) {
		tr_load(t, H_GUEST_RSP, from);
		return true;
	}
	if (host_reg[o->reg] != H_NONE) {
		tr_load(t, host_reg[o->reg], from);
	} else {
		e_load(e, S_ADDR, from);
		e_store(e, h_gs(CTX_GPR(o->reg)), S_ADDR);
	}
	tr_lea(t, H_GUEST_RSP, h_at(H_GUEST_RSP, t->word));
	return true;
}

bool lower_leave(struct tr *t, const struct insn *i)
{
	struct emit *e = &t->e;
	uint8_t from = H_RBP;

	if (i->opsize != t->word)
		return false;
	if (t->word == 4) {
		e_mov32(e, S_ADDR, H_RBP);
		from = S_ADDR;
	}
	tr_access(t, from, t->word, false, false);
	tr_load(t, S_ADD, h_sum(from, S_ADD));
	tr_lea(t, H_GUEST_RSP, h_at(H_RBP, t->word));
	tr_mov(t, H_RBP, S_ADD);
	return true;
}

/* -- Going somewhere -------------------------------------------------------------------------- */

static bool may_link(const struct tr *t)
{
	return !(t->t->mode & TBM_COUNT);
}

static uint32_t lookup_exit(struct tr *t, int8_t undo)
{
	uint32_t exit = tr_exit(t, EXIT_LOOKUP, t->off[t->at]);

	t->k->exit[exit].undo = undo;
	return exit;
}

/* Digits of FF. */
enum { BY_CALL = 2, BY_JMP = 4 };

/* To the RIP in S_ADD, by the jump cache, with flags in ctx.cc. undo: what the branch has added to
 * rSP, for one that turns out to fault. Returns the place in t->cold of the way out. */
static unsigned go_cached(struct tr *t, int8_t undo, unsigned how)
{
	struct hmem key = { .base = H_NONE, .index = S_ADDR, .scale = 3, .gs = true };
	struct cold miss = { .kind = COLD_MISS, .exit = lookup_exit(t, undo) };
	struct emit *e = &t->e;

	if (!t->saved)
		tr_save_flags(t, S_ADDR);
	t->saved = true;
	if (!may_link(t)) {
		miss.from = e_jmp(e);
		tr_cold(t, miss);
		return t->n_cold - 1;
	}
	key.disp = JUMP_KEYS;
	e_jump_slot(e, S_ADDR, S_ADD, JUMP_SHIFT);
	e_load(e, S_ADDR, key);
	e_op_reg(e, 1, 0, 0x03, S_ADDR, S_ADD); /* add rcx, r14 */
	miss.from = e_jcc(e, CC_JNZ);
	tr_cold(t, miss);
	e_jump_slot(e, S_ADDR, S_ADD, JUMP_SHIFT);
	key.disp = JUMP_CODE;
	e_op_mem(e, 0, 0, 0xff, how, key);
	return t->n_cold - 1;
}

static void go_indirect(struct tr *t, int8_t undo)
{
	go_cached(t, undo, BY_JMP);
}

static void load_rip(struct tr *t, int32_t off)
{
	e_load(&t->e, S_ADD, h_gs(CTX(base)));
	tr_lea(t, S_ADD, h_at(S_ADD, off));
}

void tr_align_rel32(struct emit *e, unsigned n)
{
	unsigned over = (emit_at(e) + n) % 8;

	if (over > 4)
		e_nop(e, 8 - over);
}

static uint32_t entry_of(const struct tr *t, const struct tb *to)
{
	return tb_entry(to, !t->saved, t->returned ? 0 : t->t->loaded);
}

/* Where a jump to the offset can go right now; 0: to an exit. */
static uint32_t known_target(struct tr *t, int32_t target)
{
	const struct tb *to;

	if (!may_link(t))
		return 0;
	if (target == t->t->off && !t->page2 && !(t->t->mode & TBM_PLAIN) && entry_of(t, t->t))
		return entry_of(t, t->t);
	to = cache_find(t->k, t->page + target, t->t->mode & (uint16_t)~TBM_PLAIN);
	return to && !to->host2 ? entry_of(t, to) : 0;
}

static void aim(struct tr *t, uint32_t rel32, int32_t target)
{
	uint32_t to = known_target(t, target), exit;

	if (to) {
		e_patch(&t->e, rel32, to);
		return;
	}
	exit = tr_exit(t, may_link(t) ? EXIT_LINK : EXIT_NEXT, (uint16_t)target);
	t->k->exit[exit].patch_at = rel32;
	t->k->exit[exit].n_done++;
	t->k->exit[exit].host = !t->saved;
	t->k->exit[exit].loaded = t->returned ? 0 : t->t->loaded;
	tr_cold(t, (struct cold){
			   .kind = COLD_EXIT, .from = rel32, .exit = exit, .noflags = t->saved });
}

void tr_goto_far(struct tr *t, int32_t target)
{
	load_rip(t, target);
	go_indirect(t, 0);
}

void tr_goto(struct tr *t, int32_t target)
{
	if (in_page(target)) {
		tr_align_rel32(&t->e, 1);
		aim(t, e_jmp(&t->e), target);
	} else {
		tr_goto_far(t, target);
	}
}

bool lower_jmp(struct tr *t, const struct insn *i)
{
	if (i->opsize != t->word)
		return false;
	tr_goto(t, tr_target(t, i));
	return true;
}

bool lower_jcc(struct tr *t, const struct insn *i)
{
	int32_t target = tr_target(t, i);
	struct emit *e = &t->e;

	if (i->opsize != t->word)
		return false;
	tr_flags_for(t, i);
	if (in_page(target)) {
		tr_align_rel32(e, 2);
		aim(t, e_jcc(e, insn_cond(i)), target);
		return true;
	}
	/* The way out of the page stands behind the block. */
	tr_cold(t, (struct cold){ .kind = COLD_FAR,
				  .from = e_jcc(e, insn_cond(i)),
				  .target = target,
				  .exit = t->at });
	return true;
}

bool lower_loop(struct tr *t, const struct insn *i)
{
	int32_t target = tr_target(t, i);
	struct emit *e = &t->e;

	/* A branch that faults has counted nothing: one to another page may. */
	if (i->opsize != t->word || i->adsize == 2 || (i->op == OP_LOOP && !in_page(target)))
		return false;
	if (i->op == OP_LOOP)
		e_op_mem(e, i->adsize == 8, 0, 0x8d, H_GUEST_RCX, h_at(H_GUEST_RCX, -1));
	tr_align_rel32(e, i->op == OP_LOOP ? 6 : 8);
	e_op_reg(e, i->adsize == 8, 0, 0x8b, H_RCX, H_GUEST_RCX);
	if (i->op == OP_JCXZ)
		E_BYTES(e, 0xe3, 0x02, 0xeb, 0x05); /* jrcxz over the next; jmp over that */
	else
		E_BYTES(e, 0xe3, 0x05);
	if (in_page(target)) {
		aim(t, e_jmp(e), target);
		return true;
	}
	tr_cold(t, (struct cold){ .kind = COLD_FAR,
				  .from = e_jmp(e),
				  .target = target,
				  .exit = t->at,
				  .noflags = t->saved });
	return true;
}

/* -- Calls ------------------------------------------------------------------------------------ */

/* Push the return address, also on the code's stack (dbt_internal.h), with flags in ctx.cc. */
static void push_return(struct tr *t)
{
	struct emit *e = &t->e;
	uint32_t from;

	push_check_into(t);
	load_rip(t, tr_next_off(t));
	tr_store(t, h_at(S_ADDR, 0), S_ADD);
	push_done(t);
	if (!may_link(t))
		return;
	if (!t->saved)
		tr_save_flags(t, S_ADDR);
	t->saved = true;
	e_op_mem(e, 1, 0, 0x3b, H_RSP, h_gs(CTX(sp_limit))); /* cmp rsp, */
	from = e_jcc(e, CC_JC);
	tr_cold(t, (struct cold){ .kind = COLD_STACK, .from = from, .back = emit_at(e) });
	E_BYTES(e, 0x41, 0x56); /* push r14 */
}

/* Where a call comes back to, with RIP in S_ADD and flags in ctx.cc. */
static void return_site(struct tr *t)
{
	struct emit *e = &t->e;

	e_op_mem(e, 1, 0, 0x3b, S_ADD, h_at(H_RSP, 0)); /* cmp r14, [rsp] */
	e_patch(e, e_jcc(e, CC_JNZ), t->k->stubs.mismatch);
	E_BYTES(e, 0x48, 0x83, 0xc4, 8); /* add rsp, 8 */
	e_lea(e, S_ADDR, h_at(S_ADD, -(int32_t)tr_next_off(t)));
	e_store(e, h_gs(CTX(base)), S_ADDR);
	t->returned = true;
	tr_goto(t, tr_next_off(t));
}

/* Call the RIP in S_ADD. */
static void call_cached(struct tr *t, int8_t undo)
{
	unsigned miss = go_cached(t, undo, BY_CALL);

	if (!may_link(t))
		return;
	t->cold[miss].kind = COLD_MISS_CALL;
	t->cold[miss].back = emit_at(&t->e);
	return_site(t);
}

bool lower_call(struct tr *t, const struct insn *i)
{
	int32_t target = tr_target(t, i);
	struct emit *e = &t->e;

	if (i->opsize != t->word)
		return false;
	push_return(t);
	if (!may_link(t)) {
		tr_goto(t, target);
	} else if (in_page(target)) {
		tr_align_rel32(e, 1);
		aim(t, e_call(e), target);
		return_site(t);
	} else {
		load_rip(t, target);
		call_cached(t, 0);
	}
	return true;
}

/* The target of an indirect branch, into S_ADD. */
static bool load_target(struct tr *t, const struct insn *i)
{
	const struct operand *o = &i->opd[0];

	if (i->opsize != t->word || o->size != t->word)
		return false;
	if (o->kind == OPD_GPR) {
		tr_mov(t, S_ADD, tr_reg(t, o->reg, S_ADD));
		return true;
	}
	uint8_t reg = tr_address(t, i);

	if (reg == H_NONE)
		return false;
	tr_access(t, reg, t->word, false, false);
	tr_load(t, S_ADD, h_sum(reg, S_ADD));
	return true;
}

bool lower_jmp_ind(struct tr *t, const struct insn *i)
{
	if (!load_target(t, i))
		return false;
	go_indirect(t, 0);
	return true;
}

bool lower_call_ind(struct tr *t, const struct insn *i)
{
	if (!load_target(t, i))
		return false;
	e_store(&t->e, h_gs(CTX(val)), S_ADD);
	t->in_add = NULL;
	push_return(t);
	e_load(&t->e, S_ADD, h_gs(CTX(val)));
	call_cached(t, (int8_t)-t->word);
	return true;
}

bool lower_ret(struct tr *t, const struct insn *i)
{
	unsigned extra = i->n_opds ? (unsigned)i->imm & 0xffff : 0;

	if (i->opsize != t->word || extra > 100)
		return false;
	struct emit *e = &t->e;
	struct hmem from = pop_check(t);

	int8_t up = (int8_t)(t->word + extra);

	tr_load(t, S_ADD, from);
	tr_lea(t, H_GUEST_RSP, h_at(H_GUEST_RSP, up));
	if (!may_link(t)) {
		go_indirect(t, up);
		return true;
	}
	if (!t->saved)
		tr_save_flags(t, S_ADDR);
	e_op_mem(e, 0, 0, 0xc7, 0, h_gs(CTX(exit))); /* mov dword gs:[exit], */
	e32(e, lookup_exit(t, up));
	e8(e, 0xc3);
	return true;
}

/* A conditional branch out of the page, behind the block. */
void tr_far(struct tr *t, const struct cold *c)
{
	t->at = c->exit;
	t->saved = c->noflags;
	load_rip(t, c->target);
	go_indirect(t, 0);
}
