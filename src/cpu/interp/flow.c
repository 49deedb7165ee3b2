/* The stack, branches, calls, software interrupts: the general handlers. */
#include "cpu/interp/interp_internal.h"
#include "cpu/interp/operand.h"

#include "cpu/x86/sem.h"
#include "cpu/x86/system.h"
#include "cpu/x86/transfer.h"

int push(struct vcpu *c, unsigned size, uint64_t v)
{
	if (likely(c->code64)) {
		int r = mem_store(c, c->gpr[REG_RSP] - size, size, v);

		if (!r)
			c->gpr[REG_RSP] -= size;
		return r == EXC_GP ? EXC_SS : r;
	}
	return stack_push(c, size, v);
}

int pop(struct vcpu *c, unsigned size, uint64_t *v)
{
	if (likely(c->code64)) {
		int r = mem_load(c, c->gpr[REG_RSP], size, v);

		if (!r)
			c->gpr[REG_RSP] += size;
		return r == EXC_GP ? EXC_SS : r;
	}
	return stack_pop(c, size, v);
}

/* RET-like handlers must undo a pop whose value turns out to be no good. */
static void set_rsp(struct vcpu *c, uint64_t rsp)
{
	c->gpr[REG_RSP] = rsp;
}

static NOINLINE int do_x_push(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint64_t v;
	int r = opd_read(c, u, 0, &v);

	return r ? r : push(c, i->opsize, v);
}
HANDLER(x_push)

/* An address that uses rSP uses its value after the pop (SDM 2B POP); aux is set then, and the
 * address is computed here. */
static NOINLINE int do_x_pop(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint64_t rsp = c->gpr[REG_RSP], v;
	int r = pop(c, i->opsize, &v);

	if (r)
		return r;
	if (i->opd[0].kind == OPD_SREG) {
		r = seg_load(c, i->opd[0].reg, (uint16_t)v);
		if (!r && i->opd[0].reg == SEG_SS)
			c->shadow = SHADOW_MOV_SS;
		if (!r)
			return EXEC_SYNC;
	} else if (i->opd[0].kind == OPD_MEM) {
		gva_t gva;

		r = insn_linear(c, u, 0, i->opsize, true, &gva);
		if (!r)
			r = mem_store(c, gva, i->opsize, v);
	} else {
		opd_write(c, u, 0, v);
	}
	if (r)
		set_rsp(c, rsp);
	return r;
}
HANDLER(x_pop)

static NOINLINE int do_x_pusha(struct vcpu *c, const struct uop *u)
{
	unsigned size = u->insn->opsize;
	uint64_t rsp = c->gpr[REG_RSP];

	for (unsigned n = 0; n < 8; n++) {
		int r = push(c, size, n == REG_RSP ? rsp : c->gpr[n]);

		if (r) {
			set_rsp(c, rsp);
			return r;
		}
	}
	return 0;
}
HANDLER(x_pusha)

static NOINLINE int do_x_popa(struct vcpu *c, const struct uop *u)
{
	unsigned size = u->insn->opsize;
	uint64_t rsp = c->gpr[REG_RSP], v;

	/* A fault leaves what has been popped in the registers: it starts over anyway. */
	for (int n = 7; n >= 0; n--) {
		int r = pop(c, size, &v);

		if (r) {
			set_rsp(c, rsp);
			return r;
		}
		if (n != REG_RSP)
			reg_write(c, GPR_OFF((unsigned)n), size, v);
	}
	return 0;
}
HANDLER(x_popa)

static NOINLINE int do_x_pushf(struct vcpu *c, const struct uop *u)
{
	uint64_t v;
	int r = sys_pushf(c, u->insn->opsize, &v);

	return r ? r : push(c, u->insn->opsize, v);
}
HANDLER(x_pushf)

static NOINLINE int do_x_popf(struct vcpu *c, const struct uop *u)
{
	uint64_t rsp = c->gpr[REG_RSP], v;
	int r = pop(c, u->insn->opsize, &v);

	if (!r)
		r = sys_popf(c, u->insn->opsize, v);
	if (r) {
		set_rsp(c, rsp);
		return r;
	}
	return EXEC_SYNC;
}
HANDLER(x_popf)

/* A register pair's stack part by the stack's width. */
static uint64_t stack_part(const struct vcpu *c, uint64_t v)
{
	return v & size_mask(c->stack_size);
}

/* In 64-bit code a far end that is not canonical comes after alignment: the access finds it, and it
 * is the stack's fault. */
static int frame_linear(struct vcpu *c, uint64_t off, unsigned size, bool write, gva_t *gva)
{
	return seg_linear(c, SEG_SS, off, c->code64 ? 1 : size, write, gva);
}

/* ENTER. SDM 2A. */
static NOINLINE int do_x_enter(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	unsigned size = i->opsize, level = i->imm2 & 31;
	uint64_t rsp = c->gpr[REG_RSP], rbp = c->gpr[REG_RBP], frame, v;
	gva_t gva;
	int r = push(c, size, rbp);

	frame = c->gpr[REG_RSP];
	for (unsigned n = 1; !r && n < level; n++) {
		rbp = stack_part(c, rbp - size);
		r = frame_linear(c, rbp, size, false, &gva);
		if (!r)
			r = mem_load(c, gva, size, &v);
		if (!r)
			r = push(c, size, v);
	}
	if (!r && level)
		r = push(c, size, frame);
	if (!r) {
		uint64_t top = stack_part(c, c->gpr[REG_RSP] - (uint16_t)i->imm);

		/* The new top must be writable, though nothing is written there. */
		r = frame_linear(c, top, size, true, &gva);
		if (!r)
			r = vmem_probe(c, gva, size, true, AS_CPL);
		if (!r) {
			reg_write(c, GPR_OFF(REG_RSP), c->stack_size, top);
			reg_write(c, GPR_OFF(REG_RBP), size, frame);
			return 0;
		}
	}
	set_rsp(c, rsp);
	return r == EXC_GP ? EXC_SS : r;
}
HANDLER(x_enter)

static NOINLINE int do_x_leave(struct vcpu *c, const struct uop *u)
{
	uint64_t rsp = c->gpr[REG_RSP], v;
	int r;

	reg_write(c, GPR_OFF(REG_RSP), c->stack_size, c->gpr[REG_RBP]);
	r = pop(c, u->insn->opsize, &v);
	if (r)
		set_rsp(c, rsp);
	else
		reg_write(c, GPR_OFF(REG_RBP), u->insn->opsize, v);
	return r;
}
HANDLER(x_leave)

/* -- Near branches -------------------------------------------------------------------------- */

/* May control go to rip? Sets it if so. SDM 2A JMP: #GP(0) at the branch, not at the target. */
static int go(struct vcpu *c, uint64_t rip)
{
	if (c->code64 ? !is_canonical(rip) : rip > c->seg[SEG_CS].limit)
		return raise_gp(c);
	c->rip = rip;
	return 0;
}

static uint64_t rel_target(const struct vcpu *c, const struct uop *u)
{
	return (uop_next_rip(c, u) + (uint64_t)u->insn->imm) & size_mask(u->insn->opsize);
}

/* Where JMP and CALL go: relative, or by register or memory. */
static int target_of(struct vcpu *c, const struct uop *u, uint64_t *rip)
{
	if (u->insn->opd[0].kind != OPD_REL)
		return opd_read(c, u, 0, rip);
	*rip = rel_target(c, u);
	return 0;
}

int x_jmp(struct vcpu *c, const struct uop *u)
{
	uint64_t rip;
	int r = target_of(c, u, &rip);

	if (!r)
		r = go(c, rip);
	return r ? uop_leave(c, u, r) : EXEC_NEXT;
}

static int branch_if(struct vcpu *c, const struct uop *u, bool taken)
{
	int r = go(c, taken ? rel_target(c, u) : uop_next_rip(c, u));

	return r ? uop_leave(c, u, r) : EXEC_NEXT;
}

int x_jcc(struct vcpu *c, const struct uop *u)
{
	return branch_if(c, u, sem_cond(insn_cond(u->insn), c->cc));
}

/* JCXZ and LOOPs. */
int x_loop(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint64_t n = reg_read(c, GPR_OFF(REG_RCX), i->adsize), rcx = c->gpr[REG_RCX];
	bool taken = n == 0;
	int r;

	if (i->op != OP_JCXZ) {
		n = (n - 1) & size_mask(i->adsize);
		reg_write(c, GPR_OFF(REG_RCX), i->adsize, n);
		taken = n != 0;
		if (i->op == OP_LOOPE)
			taken = taken && c->cc & CC_ZF;
		if (i->op == OP_LOOPNE)
			taken = taken && !(c->cc & CC_ZF);
	}
	r = branch_if(c, u, taken);
	if (r != EXEC_NEXT)
		c->gpr[REG_RCX] = rcx;
	return r;
}

int x_call(struct vcpu *c, const struct uop *u)
{
	uint64_t rip;
	uint64_t rsp = c->gpr[REG_RSP];
	int r = target_of(c, u, &rip);

	/* The stack's faults come before the target's, which leaves what was stored there. */
	if (!r)
		r = push(c, u->insn->opsize, uop_next_rip(c, u));
	if (r)
		return uop_leave(c, u, r);
	r = go(c, rip);
	if (r) {
		set_rsp(c, rsp);
		return uop_leave(c, u, r);
	}
	return EXEC_NEXT;
}

int x_ret(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint64_t rsp = c->gpr[REG_RSP], rip;
	int r = pop(c, i->opsize, &rip);

	if (!r)
		r = go(c, rip);
	if (r) {
		set_rsp(c, rsp);
		return uop_leave(c, u, r);
	}
	if (i->n_opds)
		reg_write(c, GPR_OFF(REG_RSP), c->stack_size, c->gpr[REG_RSP] + (uint16_t)i->imm);
	return EXEC_NEXT;
}

/* -- Far transfers -------------------------------------------------------------------------- */

/* JMP and CALL far: immediate or from memory, offset first. */
static int far_target(struct vcpu *c, const struct uop *u, uint16_t *sel, uint64_t *off)
{
	const struct insn *i = u->insn;
	uint64_t v;
	gva_t gva;
	int r;

	if (i->opd[0].kind == OPD_FAR) {
		*sel = (uint16_t)i->imm2;
		*off = (uint64_t)i->imm & size_mask(i->opsize);
		return 0;
	}
	r = insn_linear(c, u, 0, i->opsize + 2u, false, &gva);
	if (!r)
		r = mem_load(c, gva, i->opsize, off);
	if (!r)
		r = mem_load(c, gva + i->opsize, 2, &v);
	if (!r)
		*sel = (uint16_t)v;
	return r;
}

static NOINLINE int do_x_far(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint64_t next = uop_next_rip(c, u), off;
	uint16_t sel;
	int r;

	c->rip = uop_rip(c, u);
	switch (i->op) {
	case OP_IRET: r = iret(c, i->opsize, next); break;
	case OP_RET_FAR: r = far_ret(c, i->opsize, (uint16_t)i->imm); break;
	default:
		r = far_target(c, u, &sel, &off);
		if (!r && i->op == OP_JMP_FAR)
			r = far_jmp(c, sel, off, i->opsize, next);
		else if (!r)
			r = far_call(c, sel, off, i->opsize, next);
	}
	return r ? r : EXEC_END;
}
HANDLER(x_far)

static NOINLINE int do_x_int(struct vcpu *c, const struct uop *u)
{
	uint64_t next = uop_next_rip(c, u);
	int r;

	c->rip = uop_rip(c, u);
	switch (u->insn->op) {
	case OP_INT3:
		if (unlikely(debug_owns_int3(c)))
			return EXEC_END;
		r = soft_int(c, 3, SOFT_INT3, next);
		break;
	case OP_INT1: r = soft_int(c, 1, SOFT_INT1, next); break;
	case OP_INTO:
		if (!(c->cc & CC_OF))
			return 0;
		r = soft_int(c, 4, SOFT_INTO, next);
		break;
	default: r = soft_int(c, (uint8_t)u->insn->imm, SOFT_INT_N, next);
	}
	return r ? r : EXEC_END;
}
HANDLER(x_int)

/* The upper bound is read only if the lower one holds. */
static NOINLINE int do_x_bound(struct vcpu *c, const struct uop *u)
{
	unsigned size = u->insn->opsize, bits = size * 8;
	uint64_t v, lo, hi;
	gva_t gva;
	int r = insn_linear(c, u, 0, size, false, &gva);

	if (!r)
		r = mem_load(c, gva, size, &lo);
	if (r)
		return r;
	opd_read(c, u, 0, &v);
	if (sign_extend(v, bits) < sign_extend(lo, bits))
		return raise_exc(c, EXC_BR, 0);
	r = insn_linear(c, u, size, size, false, &gva);
	if (!r)
		r = mem_load(c, gva, size, &hi);
	if (!r && sign_extend(v, bits) > sign_extend(hi, bits))
		r = raise_exc(c, EXC_BR, 0);
	return r;
}
HANDLER(x_bound)

int x_ud(struct vcpu *c, const struct uop *u)
{
	return uop_leave(c, u, raise_ud(c));
}

/* The exception in imm, with error code 0, where decoding failed. */
int x_raise(struct vcpu *c, const struct uop *u)
{
	return uop_leave(c, u, raise_exc(c, (enum x86_exc)u->imm, 0));
}

/* A block ends without a branch. */
int x_end(struct vcpu *c, const struct uop *u)
{
	return uop_jump(c, u, uop_next_rip(c, u));
}

/* What the rest of a block becomes when its code was stored to while it ran. */
int x_stale(struct vcpu *c, const struct uop *u)
{
	c->rip = uop_rip(c, u);
	interp_of(c)->left_at = u->off;
	return EXEC_NEXT;
}

/* Ends the execution of a single instruction outside of its block. */
int x_done(struct vcpu *c, const struct uop *u)
{
	return EXEC_DONE;
}
