/* Handlers for the instructions that programs are made of, one for each form and size, so that
 * nothing is decided at run time. What is not here goes to the general handlers, which do the
 * same. All of them serve 64-bit code; those without a branch, a stack or a RIP serve every mode.
 *
 * They touch memory only through the TLB. On a miss, before anything has changed, the instruction
 * is decoded once more and done by its general handler: so no handler here calls a function, and
 * none has a stack frame.
 */
#include "cpu/interp/interp_internal.h"
#include "cpu/interp/operand.h"

#include "cpu/x86/decode.h"
#include "cpu/x86/sem.h"

static NOINLINE int run_general(struct vcpu *c, const struct uop *u)
{
	const struct block *b = interp_of(c)->running;
	struct uop uops[2] = { *u, { .fn = x_done } };
	struct insn i;

	/* It was decoded from these bytes before. */
	decode(b->bytes + u->off, b->n_bytes - u->off, c->code_size, &i);
	uops[0].fn = select_general(i.op);
	uops[0].insn = &i;
	uops[0].size = (uint8_t)i.opd[0].size;
	return uops[0].fn(c, uops);
}

/* The TLB does not have what u accesses. */
static NOINLINE int miss(struct vcpu *c, const struct uop *u)
{
	int r = run_general(c, u);

	if (r != EXEC_DONE)
		return r;
	NEXT;
}

/* Shapes of two operands: register or memory first, register, immediate or memory second. B: the
 * address is base + disp. */
enum form {
	FORM_RR,
	FORM_RI,
	FORM_RM,
	FORM_MR,
	FORM_MI,
	FORM_RMB,
	FORM_MRB,
	FORM_MIB,
	N_FORMS,
	FORM_NONE = N_FORMS
};

#define EA_m(c, u)  uop_ea(c, u)
#define EA_mb(c, u) (R64(c, (u)->base) + (uint64_t)(u)->disp)

static unsigned size_index(unsigned size)
{
	return size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
}

static bool is_reg(const struct operand *o)
{
	return o->kind == OPD_GPR || o->kind == OPD_GPRH;
}

static bool is_imm(const struct operand *o)
{
	return o->kind == OPD_IMM || o->kind == OPD_ONE;
}

static enum form form_of(const struct insn *i, const struct uop *u)
{
	const struct operand *a = &i->opd[0], *b = &i->opd[1];
	bool plain = u->index == GPR_OFF(REG_ZERO);

	if (i->n_opds != 2)
		return FORM_NONE;
	if (is_reg(a) && b->kind == OPD_MEM)
		return plain ? FORM_RMB : FORM_RM;
	if (is_reg(a))
		return is_reg(b) ? FORM_RR : is_imm(b) ? FORM_RI : FORM_NONE;
	if (a->kind == OPD_MEM && is_reg(b))
		return plain ? FORM_MRB : FORM_MR;
	if (a->kind == OPD_MEM && is_imm(b))
		return plain ? FORM_MIB : FORM_MI;
	return FORM_NONE;
}

#define FOR_SIZES(X, ...) X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(4, __VA_ARGS__) X(8, __VA_ARGS__)

#define FORM_ROW(name, f)                                                                          \
	{                                                                                          \
		name##_##f##_1, name##_##f##_2, name##_##f##_4, name##_##f##_8                     \
	}
#define FORM_TABLE(name)                                                                           \
	{                                                                                          \
		[FORM_RR] = FORM_ROW(name, rr), [FORM_RI] = FORM_ROW(name, ri),                    \
		[FORM_RM] = FORM_ROW(name, rm), [FORM_MR] = FORM_ROW(name, mr),                    \
		[FORM_MI] = FORM_ROW(name, mi), [FORM_RMB] = FORM_ROW(name, rmb),                  \
		[FORM_MRB] = FORM_ROW(name, mrb), [FORM_MIB] = FORM_ROW(name, mib)                 \
	}

/* The source of a load, the target of a store. */
#define READ_FROM(p, S, ea)                                                                        \
	const uint8_t *p;                                                                          \
	if (unlikely(!tlb_hit_read(c, ea, S, &p)))                                                 \
	return miss(c, u)
#define WRITE_TO(p, S, ea)                                                                         \
	uint8_t *p;                                                                                \
	if (unlikely(!tlb_hit_write(c, ea, S, &p)))                                                \
	return miss(c, u)

/* -- MOV -------------------------------------------------------------------------------------- */

#define MOV_REG(S, _)                                                                              \
	static int mov_rr_##S(struct vcpu *c, const struct uop *u)                                 \
	{                                                                                          \
		reg_write(c, u->dst, S, reg_read(c, u->src, S));                                   \
		NEXT;                                                                              \
	}                                                                                          \
	static int mov_ri_##S(struct vcpu *c, const struct uop *u)                                 \
	{                                                                                          \
		reg_write(c, u->dst, S, (uint64_t)u->imm);                                         \
		NEXT;                                                                              \
	}
#define MOV_MEM(S, m)                                                                              \
	static int mov_r##m##_##S(struct vcpu *c, const struct uop *u)                             \
	{                                                                                          \
		READ_FROM(p, S, EA_##m(c, u));                                                     \
		reg_write(c, u->dst, S, load_host(p, S));                                          \
		NEXT;                                                                              \
	}
#define MOV_STORE(S, m, suffix)                                                                    \
	static int mov_mr##suffix##_##S(struct vcpu *c, const struct uop *u)                       \
	{                                                                                          \
		WRITE_TO(p, S, EA_##m(c, u));                                                      \
		store_host(p, S, reg_read(c, u->src, S));                                          \
		NEXT;                                                                              \
	}                                                                                          \
	static int mov_mi##suffix##_##S(struct vcpu *c, const struct uop *u)                       \
	{                                                                                          \
		WRITE_TO(p, S, EA_##m(c, u));                                                      \
		store_host(p, S, (uint64_t)u->imm);                                                \
		NEXT;                                                                              \
	}
FOR_SIZES(MOV_REG, _)
FOR_SIZES(MOV_MEM, m)
FOR_SIZES(MOV_MEM, mb)
FOR_SIZES(MOV_STORE, m, )
FOR_SIZES(MOV_STORE, mb, b)

/* -- ALU operations of two operands ----------------------------------------------------------- */

#define ALU_REG(S, op)                                                                             \
	static int op##_rr_##S(struct vcpu *c, const struct uop *u)                                \
	{                                                                                          \
		reg_write(c, u->dst, S,                                                            \
			  sem_##op(S, reg_read(c, u->dst, S), reg_read(c, u->src, S), &c->cc));    \
		NEXT;                                                                              \
	}                                                                                          \
	static int op##_ri_##S(struct vcpu *c, const struct uop *u)                                \
	{                                                                                          \
		reg_write(c, u->dst, S,                                                            \
			  sem_##op(S, reg_read(c, u->dst, S), (uint64_t)u->imm, &c->cc));          \
		NEXT;                                                                              \
	}
#define ALU_MEM(S, op, m)                                                                          \
	static int op##_r##m##_##S(struct vcpu *c, const struct uop *u)                            \
	{                                                                                          \
		READ_FROM(p, S, EA_##m(c, u));                                                     \
		reg_write(c, u->dst, S,                                                            \
			  sem_##op(S, reg_read(c, u->dst, S), load_host(p, S), &c->cc));           \
		NEXT;                                                                              \
	}
#define ALU_STORE(S, op, m, suffix)                                                                \
	static int op##_mr##suffix##_##S(struct vcpu *c, const struct uop *u)                      \
	{                                                                                          \
		WRITE_TO(p, S, EA_##m(c, u));                                                      \
		store_host(p, S, sem_##op(S, load_host(p, S), reg_read(c, u->src, S), &c->cc));    \
		NEXT;                                                                              \
	}                                                                                          \
	static int op##_mi##suffix##_##S(struct vcpu *c, const struct uop *u)                      \
	{                                                                                          \
		WRITE_TO(p, S, EA_##m(c, u));                                                      \
		store_host(p, S, sem_##op(S, load_host(p, S), (uint64_t)u->imm, &c->cc));          \
		NEXT;                                                                              \
	}
#define ALU_ALL(op)                                                                                \
	FOR_SIZES(ALU_REG, op)                                                                     \
	FOR_SIZES(ALU_MEM, op, m)                                                                  \
	FOR_SIZES(ALU_MEM, op, mb)                                                                 \
	FOR_SIZES(ALU_STORE, op, m, )                                                              \
	FOR_SIZES(ALU_STORE, op, mb, b)
ALU_ALL(add)
ALU_ALL(or)
ALU_ALL(adc)
ALU_ALL(sbb)
ALU_ALL(and)
ALU_ALL(sub)
ALU_ALL(xor)

/* CMP and TEST: no destination. */
#define CMP_REG(S, op, sem)                                                                        \
	static int op##_rr_##S(struct vcpu *c, const struct uop *u)                                \
	{                                                                                          \
		sem(S, reg_read(c, u->dst, S), reg_read(c, u->src, S), &c->cc);                    \
		NEXT;                                                                              \
	}                                                                                          \
	static int op##_ri_##S(struct vcpu *c, const struct uop *u)                                \
	{                                                                                          \
		sem(S, reg_read(c, u->dst, S), (uint64_t)u->imm, &c->cc);                          \
		NEXT;                                                                              \
	}
#define CMP_MEM(S, op, sem, m, suffix)                                                             \
	static int op##_r##m##_##S(struct vcpu *c, const struct uop *u)                            \
	{                                                                                          \
		READ_FROM(p, S, EA_##m(c, u));                                                     \
		sem(S, reg_read(c, u->dst, S), load_host(p, S), &c->cc);                           \
		NEXT;                                                                              \
	}                                                                                          \
	static int op##_mr##suffix##_##S(struct vcpu *c, const struct uop *u)                      \
	{                                                                                          \
		READ_FROM(p, S, EA_##m(c, u));                                                     \
		sem(S, load_host(p, S), reg_read(c, u->src, S), &c->cc);                           \
		NEXT;                                                                              \
	}                                                                                          \
	static int op##_mi##suffix##_##S(struct vcpu *c, const struct uop *u)                      \
	{                                                                                          \
		READ_FROM(p, S, EA_##m(c, u));                                                     \
		sem(S, load_host(p, S), (uint64_t)u->imm, &c->cc);                                 \
		NEXT;                                                                              \
	}
FOR_SIZES(CMP_REG, cmp, sem_sub)
FOR_SIZES(CMP_REG, test, sem_and)
FOR_SIZES(CMP_MEM, cmp, sem_sub, m, )
FOR_SIZES(CMP_MEM, cmp, sem_sub, mb, b)
FOR_SIZES(CMP_MEM, test, sem_and, m, )
FOR_SIZES(CMP_MEM, test, sem_and, mb, b)

/* XOR and SUB of a register with itself: zero with known flags. */
static int zero_idiom(struct vcpu *c, const struct uop *u)
{
	R64(c, u->dst) = 0;
	c->cc = CC_ZF | CC_PF;
	NEXT;
}

static const uop_fn alu_table[][N_FORMS][4] = {
	[OP_ADD - OP_ADD] = FORM_TABLE(add),   [OP_OR - OP_ADD] = FORM_TABLE(or),
	[OP_ADC - OP_ADD] = FORM_TABLE(adc),   [OP_SBB - OP_ADD] = FORM_TABLE(sbb),
	[OP_AND - OP_ADD] = FORM_TABLE(and),   [OP_SUB - OP_ADD] = FORM_TABLE(sub),
	[OP_XOR - OP_ADD] = FORM_TABLE(xor),   [OP_CMP - OP_ADD] = FORM_TABLE(cmp),
	[OP_TEST - OP_ADD] = FORM_TABLE(test),
};
_Static_assert(OP_TEST - OP_ADD == 8, "ADD OR ADC SBB AND SUB XOR CMP TEST stand in this order");

static const uop_fn mov_table[N_FORMS][4] = FORM_TABLE(mov);

/* Operands into the uop's fields. */
static void set_operands(const struct insn *i, struct uop *u)
{
	u->size = (uint8_t)i->opd[0].size;
	u->imm = i->opd[1].kind == OPD_ONE ? 1 : i->imm;
	if (is_reg(&i->opd[0]))
		u->dst = opd_off(&i->opd[0]);
	if (is_reg(&i->opd[1]))
		u->src = opd_off(&i->opd[1]);
}

static uop_fn select_alu(const struct insn *i, struct uop *u)
{
	enum form f = form_of(i, u);

	if (f == FORM_NONE || i->prefix & PFX_LOCK)
		return NULL;
	set_operands(i, u);
	if (f == FORM_RR && (i->op == OP_XOR || i->op == OP_SUB) && u->dst == u->src &&
	    u->size >= 4)
		return zero_idiom;
	return alu_table[i->op - OP_ADD][f][size_index(u->size)];
}

static uop_fn select_mov(const struct insn *i, struct uop *u)
{
	enum form f = form_of(i, u);

	if (f == FORM_NONE)
		return NULL;
	set_operands(i, u);
	return mov_table[f][size_index(u->size)];
}

/* -- MOVZX, MOVSX -------------------------------------------------------------------------------
 */

#define MOVX(D, S, name, conv)                                                                     \
	static int name##_rr_##D##_##S(struct vcpu *c, const struct uop *u)                        \
	{                                                                                          \
		reg_write(c, u->dst, D, (uint64_t)conv(reg_read(c, u->src, S), S * 8));            \
		NEXT;                                                                              \
	}                                                                                          \
	static int name##_rm_##D##_##S(struct vcpu *c, const struct uop *u)                        \
	{                                                                                          \
		READ_FROM(p, S, uop_ea(c, u));                                                     \
		reg_write(c, u->dst, D, (uint64_t)conv(load_host(p, S), S * 8));                   \
		NEXT;                                                                              \
	}
#define ZERO_EXTEND(v, bits) (v)
MOVX(4, 1, movzx, ZERO_EXTEND)
MOVX(4, 2, movzx, ZERO_EXTEND)
MOVX(8, 1, movzx, ZERO_EXTEND)
MOVX(8, 2, movzx, ZERO_EXTEND)
MOVX(4, 1, movsx, sign_extend)
MOVX(4, 2, movsx, sign_extend)
MOVX(8, 1, movsx, sign_extend)
MOVX(8, 2, movsx, sign_extend)
MOVX(8, 4, movsx, sign_extend)

static uop_fn select_movx(const struct insn *i, struct uop *u)
{
	/* [sign][destination 8][source index][memory] */
	static const uop_fn table[2][2][3][2] = {
		{ { { movzx_rr_4_1, movzx_rm_4_1 }, { movzx_rr_4_2, movzx_rm_4_2 } },
		  { { movzx_rr_8_1, movzx_rm_8_1 }, { movzx_rr_8_2, movzx_rm_8_2 } } },
		{ { { movsx_rr_4_1, movsx_rm_4_1 }, { movsx_rr_4_2, movsx_rm_4_2 } },
		  { { movsx_rr_8_1, movsx_rm_8_1 },
		    { movsx_rr_8_2, movsx_rm_8_2 },
		    { movsx_rr_8_4, movsx_rm_8_4 } } },
	};
	bool mem = i->opd[1].kind == OPD_MEM;

	if (i->opd[0].size < 4)
		return NULL;
	u->dst = opd_off(&i->opd[0]);
	if (!mem)
		u->src = opd_off(&i->opd[1]);
	return table[i->op == OP_MOVSX][i->opd[0].size == 8][size_index(i->opd[1].size)][mem];
}

/* -- LEA ----------------------------------------------------------------------------------------
 */

static int lea_8(struct vcpu *c, const struct uop *u)
{
	R64(c, u->dst) = uop_ea(c, u);
	NEXT;
}

static int lea_4(struct vcpu *c, const struct uop *u)
{
	R64(c, u->dst) = (uint32_t)uop_ea(c, u);
	NEXT;
}

static uop_fn select_lea(const struct insn *i, unsigned off, struct uop *u)
{
	/* A 32-bit address or result of a 64-bit or 32-bit sum: cutting it once is enough. */
	if (i->opd[0].size < 4 || i->adsize < 4 || (i->opd[0].size == 8 && i->adsize == 4))
		return NULL;
	u->base = GPR_OFF(i->base);
	u->index = GPR_OFF(i->index);
	u->scale = i->scale;
	u->disp = i->disp + (i->base == REG_BLOCK ? (int64_t)off + i->len : 0);
	u->dst = opd_off(&i->opd[0]);
	return i->opd[0].size == 8 ? lea_8 : lea_4;
}

/* -- One operand, shifts, multiplication --------------------------------------------------------
 */

#define UNARY(S, op)                                                                               \
	static int op##_r_##S(struct vcpu *c, const struct uop *u)                                 \
	{                                                                                          \
		reg_write(c, u->dst, S, sem_##op(S, reg_read(c, u->dst, S), &c->cc));              \
		NEXT;                                                                              \
	}
FOR_SIZES(UNARY, inc)
FOR_SIZES(UNARY, dec)
FOR_SIZES(UNARY, neg)

#define SHIFT(S, op)                                                                               \
	static int op##_ri_##S(struct vcpu *c, const struct uop *u)                                \
	{                                                                                          \
		reg_write(c, u->dst, S,                                                            \
			  sem_##op(S, reg_read(c, u->dst, S), (uint64_t)u->imm, &c->cc));          \
		NEXT;                                                                              \
	}                                                                                          \
	static int op##_rr_##S(struct vcpu *c, const struct uop *u)                                \
	{                                                                                          \
		reg_write(c, u->dst, S,                                                            \
			  sem_##op(S, reg_read(c, u->dst, S), R8(c, GPR_OFF(REG_RCX)), &c->cc));   \
		NEXT;                                                                              \
	}
SHIFT(4, rol)
SHIFT(8, rol)
SHIFT(4, ror)
SHIFT(8, ror)
SHIFT(4, shl)
SHIFT(8, shl)
SHIFT(4, shr)
SHIFT(8, shr)
SHIFT(4, sar)
SHIFT(8, sar)

static uop_fn select_unary(const struct insn *i, struct uop *u)
{
	static const uop_fn table[3][4] = {
		{ inc_r_1, inc_r_2, inc_r_4, inc_r_8 },
		{ dec_r_1, dec_r_2, dec_r_4, dec_r_8 },
		{ neg_r_1, neg_r_2, neg_r_4, neg_r_8 },
	};

	if (!is_reg(&i->opd[0]))
		return NULL;
	u->dst = opd_off(&i->opd[0]);
	return table[i->op == OP_INC ? 0 : i->op == OP_DEC ? 1 : 2][size_index(i->opd[0].size)];
}

static uop_fn select_shift(const struct insn *i, struct uop *u)
{
	/* [op][8 bytes][by CL] */
	static const uop_fn rot[2][2][2] = {
		{ { rol_ri_4, rol_rr_4 }, { rol_ri_8, rol_rr_8 } },
		{ { ror_ri_4, ror_rr_4 }, { ror_ri_8, ror_rr_8 } },
	};
	static const uop_fn sh[3][2][2] = {
		{ { shl_ri_4, shl_rr_4 }, { shl_ri_8, shl_rr_8 } },
		{ { shr_ri_4, shr_rr_4 }, { shr_ri_8, shr_rr_8 } },
		{ { sar_ri_4, sar_rr_4 }, { sar_ri_8, sar_rr_8 } },
	};
	bool by_cl = !is_imm(&i->opd[1]), wide = i->opd[0].size == 8;

	if (!is_reg(&i->opd[0]) || i->opd[0].size < 4)
		return NULL;
	u->dst = opd_off(&i->opd[0]);
	u->imm = i->opd[1].kind == OPD_ONE ? 1 : (uint8_t)i->imm;
	switch (i->op) {
	case OP_ROL: return rot[0][wide][by_cl];
	case OP_ROR: return rot[1][wide][by_cl];
	case OP_SHL: return sh[0][wide][by_cl];
	case OP_SHR: return sh[1][wide][by_cl];
	case OP_SAR: return sh[2][wide][by_cl];
	default: return NULL;
	}
}

#define IMUL(S)                                                                                    \
	static int imul_rr_##S(struct vcpu *c, const struct uop *u)                                \
	{                                                                                          \
		reg_write(c, u->dst, S,                                                            \
			  sem_imul2(S, reg_read(c, u->dst, S), reg_read(c, u->src, S), &c->cc));   \
		NEXT;                                                                              \
	}                                                                                          \
	static int imul_rri_##S(struct vcpu *c, const struct uop *u)                               \
	{                                                                                          \
		reg_write(c, u->dst, S,                                                            \
			  sem_imul2(S, reg_read(c, u->src, S), (uint64_t)u->imm, &c->cc));         \
		NEXT;                                                                              \
	}
IMUL(4)
IMUL(8)

static uop_fn select_imul(const struct insn *i, struct uop *u)
{
	bool wide = i->opd[0].size == 8;

	if (i->opd[0].size < 4 || !is_reg(&i->opd[1]))
		return NULL;
	u->dst = opd_off(&i->opd[0]);
	u->src = opd_off(&i->opd[1]);
	u->imm = i->imm;
	if (i->op == OP_IMUL2)
		return wide ? imul_rr_8 : imul_rr_4;
	return wide ? imul_rri_8 : imul_rri_4;
}

/* -- Conditions ---------------------------------------------------------------------------------
 */

#define FOR_CONDS(X)                                                                               \
	X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

/* A target that is not canonical: #GP(0) at the branch. */
static int bad_target(struct vcpu *c, const struct uop *u)
{
	c->rip = uop_rip(c, u);
	return raise_gp(c);
}

/* imm and disp: offsets from the block's start of the target and of the next instruction. */
#define COND_HANDLERS(N)                                                                           \
	static int jcc_##N(struct vcpu *c, const struct uop *u)                                    \
	{                                                                                          \
		/* A branch, not a select: the host predicts it and need not wait for cc. */       \
		if (sem_cond(N, c->cc)) {                                                          \
			__asm__ volatile("");                                                      \
			return uop_jump(c, u, c->gpr[REG_BLOCK] + (uint64_t)u->imm);               \
		}                                                                                  \
		return uop_jump(c, u, c->gpr[REG_BLOCK] + (uint64_t)u->disp);                      \
	}                                                                                          \
	static int jcc32_##N(struct vcpu *c, const struct uop *u)                                  \
	{                                                                                          \
		if (sem_cond(N, c->cc)) {                                                          \
			__asm__ volatile("");                                                      \
			return uop_jump(c, u, (uint32_t)(c->gpr[REG_BLOCK] + (uint64_t)u->imm));   \
		}                                                                                  \
		return uop_jump(c, u, (uint32_t)(c->gpr[REG_BLOCK] + (uint64_t)u->disp));          \
	}                                                                                          \
	static int setcc_##N(struct vcpu *c, const struct uop *u)                                  \
	{                                                                                          \
		R8(c, u->dst) = sem_cond(N, c->cc);                                                \
		NEXT;                                                                              \
	}                                                                                          \
	static int cmov4_##N(struct vcpu *c, const struct uop *u)                                  \
	{                                                                                          \
		R64(c, u->dst) = sem_cond(N, c->cc) ? R32(c, u->src) : R32(c, u->dst);             \
		NEXT;                                                                              \
	}                                                                                          \
	static int cmov8_##N(struct vcpu *c, const struct uop *u)                                  \
	{                                                                                          \
		R64(c, u->dst) = sem_cond(N, c->cc) ? R64(c, u->src) : R64(c, u->dst);             \
		NEXT;                                                                              \
	}
FOR_CONDS(COND_HANDLERS)

#define JCC_ENTRY(N)   jcc_##N,
#define JCC32_ENTRY(N) jcc32_##N,
#define SET_ENTRY(N)   setcc_##N,
#define CMOV4_ENTRY(N) cmov4_##N,
#define CMOV8_ENTRY(N) cmov8_##N,
static const uop_fn jcc_table[16] = { FOR_CONDS(JCC_ENTRY) };
static const uop_fn jcc32_table[16] = { FOR_CONDS(JCC32_ENTRY) };
static const uop_fn set_table[16] = { FOR_CONDS(SET_ENTRY) };
static const uop_fn cmov4_table[16] = { FOR_CONDS(CMOV4_ENTRY) };
static const uop_fn cmov8_table[16] = { FOR_CONDS(CMOV8_ENTRY) };

static uop_fn select_cmov(const struct insn *i, struct uop *u)
{
	if (!is_reg(&i->opd[1]) || i->opd[0].size < 4)
		return NULL;
	u->dst = opd_off(&i->opd[0]);
	u->src = opd_off(&i->opd[1]);
	return (i->opd[0].size == 8 ? cmov8_table : cmov4_table)[insn_cond(i)];
}

static uop_fn select_set(const struct insn *i, struct uop *u)
{
	if (!is_reg(&i->opd[0]))
		return NULL;
	u->dst = opd_off(&i->opd[0]);
	return set_table[insn_cond(i)];
}

/* -- Branches, calls and the stack in 64-bit code ------------------------------------------------
 */

static int jmp_rel(struct vcpu *c, const struct uop *u)
{
	return uop_jump(c, u, c->gpr[REG_BLOCK] + (uint64_t)u->imm);
}

static int jmp_reg(struct vcpu *c, const struct uop *u)
{
	return uop_jump(c, u, R64(c, u->src));
}

static int push_8(struct vcpu *c, const struct uop *u)
{
	WRITE_TO(p, 8, c->gpr[REG_RSP] - 8);
	store_host(p, 8, R64(c, u->src));
	c->gpr[REG_RSP] -= 8;
	NEXT;
}

static int pop_8(struct vcpu *c, const struct uop *u)
{
	READ_FROM(p, 8, c->gpr[REG_RSP]);
	c->gpr[REG_RSP] += 8;
	R64(c, u->dst) = load_host(p, 8);
	NEXT;
}

/* Store the return address and go to rip_. */
#define CALL_TO(rip_)                                                                              \
	do {                                                                                       \
		uint64_t to = (rip_);                                                              \
                                                                                                   \
		WRITE_TO(p, 8, c->gpr[REG_RSP] - 8);                                               \
		store_host(p, 8, c->gpr[REG_BLOCK] + (uint64_t)u->disp);                           \
		/* Too late for the stack, as on processors. */                                    \
		if (unlikely(!is_canonical(to)))                                                   \
			return bad_target(c, u);                                                   \
		c->gpr[REG_RSP] -= 8;                                                              \
		return uop_jump(c, u, to);                                                         \
	} while (0)

static int call_rel(struct vcpu *c, const struct uop *u)
{
	CALL_TO(c->gpr[REG_BLOCK] + (uint64_t)u->imm);
}

static int call_reg(struct vcpu *c, const struct uop *u)
{
	CALL_TO(R64(c, u->src));
}

static int ret_8(struct vcpu *c, const struct uop *u)
{
	READ_FROM(p, 8, c->gpr[REG_RSP]);
	uint64_t to = load_host(p, 8);

	if (unlikely(!is_canonical(to)))
		return bad_target(c, u);
	c->gpr[REG_RSP] += 8;
	return uop_jump(c, u, to);
}

/* -- The same in 32-bit code with flat segments and a 32-bit stack --------------------------------
 */

static int jmp32_rel(struct vcpu *c, const struct uop *u)
{
	return uop_jump(c, u, (uint32_t)(c->gpr[REG_BLOCK] + (uint64_t)u->imm));
}

static int jmp32_reg(struct vcpu *c, const struct uop *u)
{
	return uop_jump(c, u, R32(c, u->src));
}

static uint32_t esp(const struct vcpu *c, int change)
{
	return (uint32_t)c->gpr[REG_RSP] + (uint32_t)change;
}

static int push_4(struct vcpu *c, const struct uop *u)
{
	WRITE_TO(p, 4, esp(c, -4));
	store_host(p, 4, R32(c, u->src));
	c->gpr[REG_RSP] = esp(c, -4);
	NEXT;
}

static int pop_4(struct vcpu *c, const struct uop *u)
{
	READ_FROM(p, 4, esp(c, 0));
	c->gpr[REG_RSP] = esp(c, 4);
	R64(c, u->dst) = load_host(p, 4);
	NEXT;
}

#define CALL32_TO(rip_)                                                                            \
	do {                                                                                       \
		uint32_t to = (uint32_t)(rip_);                                                    \
                                                                                                   \
		WRITE_TO(p, 4, esp(c, -4));                                                        \
		store_host(p, 4, c->gpr[REG_BLOCK] + (uint64_t)u->disp);                           \
		c->gpr[REG_RSP] = esp(c, -4);                                                      \
		return uop_jump(c, u, to);                                                         \
	} while (0)

static int call32_rel(struct vcpu *c, const struct uop *u)
{
	CALL32_TO(c->gpr[REG_BLOCK] + (uint64_t)u->imm);
}

static int call32_reg(struct vcpu *c, const struct uop *u)
{
	CALL32_TO(R32(c, u->src));
}

static int ret_4(struct vcpu *c, const struct uop *u)
{
	READ_FROM(p, 4, esp(c, 0));
	c->gpr[REG_RSP] = esp(c, 4);
	return uop_jump(c, u, load_host(p, 4));
}

/* -- Choosing -----------------------------------------------------------------------------------
 */

static uop_fn select_branch(const struct insn *i, unsigned off, bool wide, struct uop *u)
{
	bool rel = i->opd[0].kind == OPD_REL, reg = is_reg(&i->opd[0]);

	if (i->op == OP_RET)
		return i->n_opds ? NULL : wide ? ret_8 : ret_4;
	if (!rel && !reg)
		return NULL;
	u->disp = (int64_t)off + i->len;
	u->imm = u->disp + i->imm;
	if (reg)
		u->src = opd_off(&i->opd[0]);
	switch (i->op) {
	case OP_JCC: return (wide ? jcc_table : jcc32_table)[insn_cond(i)];
	case OP_JMP:
	case OP_JMP_IND:
		if (wide)
			return rel ? jmp_rel : jmp_reg;
		return rel ? jmp32_rel : jmp32_reg;
	case OP_CALL:
	case OP_CALL_IND:
		if (wide)
			return rel ? call_rel : call_reg;
		return rel ? call32_rel : call32_reg;
	default: return NULL;
	}
}

static uop_fn select_stack(const struct insn *i, bool wide, struct uop *u)
{
	if (i->opd[0].kind != OPD_GPR)
		return NULL;
	u->src = u->dst = opd_off(&i->opd[0]);
	if (wide)
		return i->op == OP_PUSH ? push_8 : pop_8;
	return i->op == OP_PUSH ? push_4 : pop_4;
}

uop_fn fast_select(const struct vcpu *c, const struct insn *i, unsigned off, struct uop *u)
{
	bool wide = i->mode == 8 && i->opsize == 8;
	bool flat = i->mode == 4 && i->opsize == 4 && c->flat_segs && c->stack_size == 4;

	switch (i->op) {
	case OP_MOV: return select_mov(i, u);
	case OP_ADD:
	case OP_OR:
	case OP_ADC:
	case OP_SBB:
	case OP_AND:
	case OP_SUB:
	case OP_XOR:
	case OP_CMP:
	case OP_TEST: return select_alu(i, u);
	case OP_MOVZX:
	case OP_MOVSX: return select_movx(i, u);
	case OP_LEA: return select_lea(i, off, u);
	case OP_INC:
	case OP_DEC:
	case OP_NEG: return select_unary(i, u);
	case OP_ROL:
	case OP_ROR:
	case OP_SHL:
	case OP_SHR:
	case OP_SAR: return select_shift(i, u);
	case OP_IMUL2:
	case OP_IMUL3: return select_imul(i, u);
	case OP_CMOV: return select_cmov(i, u);
	case OP_SET: return select_set(i, u);
	case OP_NOP:
	case OP_PREFETCH: return x_nop;
	case OP_JMP:
	case OP_JMP_IND:
	case OP_JCC:
	case OP_CALL:
	case OP_CALL_IND:
	case OP_RET: return wide || flat ? select_branch(i, off, wide, u) : NULL;
	case OP_PUSH:
	case OP_POP: return wide || flat ? select_stack(i, wide, u) : NULL;
	default: return NULL;
	}
}
