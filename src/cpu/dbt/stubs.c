/* The routines at the start of the code cache: into translated code, out of it, and those that it
 * calls on its way. They keep the host's stack aligned to 16 bytes at their calls of C.
 */
#include "cpu/dbt/dbt_internal.h"

#include "cpu/dbt/regmap.h"
#include "cpu/x86/features.h"

#define FPU(field)    ((int32_t)offsetof(struct vcpu_fpu, field))
#define WIDE_YMM      XCR0_AVX
#define WIDE_ZMM      XCR0_ZMM_HI256
#define WIDE_HIGH     (XCR0_HI16_ZMM | XCR0_OPMASK)
#define CC_INTO_FLAGS 0x7f /* added to AL it moves bit 0 to OF */

static const uint8_t callee_saved[] = { H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15 };

static void push(struct emit *e, unsigned reg)
{
	e_rex(e, 0, reg >> 3);
	e8(e, (uint8_t)(0x50 | (reg & 7)));
}

static void pop(struct emit *e, unsigned reg)
{
	e_rex(e, 0, reg >> 3);
	e8(e, (uint8_t)(0x58 | (reg & 7)));
}

static void add_rsp(struct emit *e, int8_t n)
{
	E_BYTES(e, 0x48, 0x83, 0xc4, (uint8_t)n);
}

/* Guest registers that live in host registers, to or from the context. */
static void move_gprs(struct emit *e, bool store, bool with_rax)
{
	for (unsigned g = with_rax ? 0 : 1; g < 16; g++) {
		if (host_reg[g] == H_NONE)
			continue;
		if (store)
			e_store(e, h_gs(CTX_GPR(g)), host_reg[g]);
		else
			e_load(e, host_reg[g], h_gs(CTX_GPR(g)));
	}
}

/* A short forward jump: returns where its rel8 is. */
static uint8_t *short_jump(struct emit *e, uint8_t op)
{
	e8(e, op);
	e8(e, 0);
	return e->p - 1;
}

static void land(struct emit *e, uint8_t *rel8)
{
	*rel8 = (uint8_t)(e->p - rel8 - 1);
}

#define JZ  0x74
#define JNZ 0x75

/* -- Vector registers: R14 points to struct vcpu_fpu ------------------------------------------- */

/* MXCSR: the digit of 0F AE is 2 to load, 3 to store. */
static void mxcsr_fpu(struct emit *e, unsigned digit)
{
	E_BYTES(e, 0x41, 0x0f, 0xae, (uint8_t)(0x80 | digit << 3 | 6));
	e32(e, (uint32_t)FPU(mxcsr));
}

static void vec_move(struct emit *e, unsigned width, unsigned n, bool store)
{
	uint8_t op = store ? 0x11 : 0x10;

	if (width == 64)
		E_BYTES(e, 0x62, (uint8_t)(0x41 | (n & 8 ? 0 : 0x80) | (n & 16 ? 0 : 0x10)), 0x7c,
			0x48, op);
	else if (width == 32)
		E_BYTES(e, 0xc4, (uint8_t)(0x41 | (n & 8 ? 0 : 0x80)), 0x7c, op);
	else
		E_BYTES(e, (uint8_t)(0x41 | (n & 8 ? 4 : 0)), 0x0f, op);
	e8(e, (uint8_t)(0x80 | (n & 7) << 3 | 6));
	e32(e, (uint32_t)(FPU(zmm) + (int32_t)n * 64));
}

static void mask_move(struct emit *e, unsigned n, bool store)
{
	E_BYTES(e, 0xc4, 0xc1, host_has(FEAT_AVX512BW) ? 0xf8 : 0x78, store ? 0x91 : 0x90,
		(uint8_t)(0x80 | n << 3 | 6));
	e32(e, (uint32_t)(FPU(k) + (int32_t)n * 8));
}

static void vzeroupper(struct emit *e)
{
	if (host_has(FEAT_AVX))
		E_BYTES(e, 0xc5, 0xf8, 0x77);
}

/* Zero ZMM16-31 and the masks. */
static void zero_high(struct emit *e)
{
	for (unsigned n = 16; n < 32; n++) /* vpxord xmm n, n, n */
		E_BYTES(e, 0x62, (uint8_t)(n & 8 ? 0x01 : 0xa1), (uint8_t)(0x05 | (~n & 15) << 3),
			0x00, 0xef, (uint8_t)(0xc0 | (n & 7) << 3 | (n & 7)));
	for (unsigned n = 0; n < 8; n++) /* kxorw k n, n, n */
		E_BYTES(e, 0xc5, (uint8_t)(0x84 | (~n & 15) << 3), 0x47,
			(uint8_t)(0xc0 | n << 3 | n));
}

/* Registers 0-15. */
static void vec_low(struct emit *e, unsigned width, bool store)
{
	for (unsigned n = 0; n < 16; n++)
		vec_move(e, width, n, store);
}

/* ZMM16-31 and the masks. */
static void vec_high(struct emit *e, bool store)
{
	for (unsigned n = 16; n < 32; n++)
		vec_move(e, 64, n, store);
	for (unsigned n = 0; n < 8; n++)
		mask_move(e, n, store);
}

enum high { HIGH_NONE, HIGH_ZERO, HIGH_LOAD };

/* What fpu_load jumps to. Registers 0-15 are loaded no wider than they are in use: SSE code after
 * a load of zeros into upper halves is up to 30 times slower than after VZEROUPPER. */
static uint32_t make_loader(struct emit *e, unsigned width, enum high high)
{
	uint32_t at = emit_at(e);

	if (width == 16)
		vzeroupper(e);
	vec_low(e, width, false);
	if (high == HIGH_ZERO)
		zero_high(e);
	else if (high == HIGH_LOAD)
		vec_high(e, false);
	mxcsr_fpu(e, 2);
	e_load(e, H_R14, h_gs(CTX(code)));
	/* mov dword gs:[fpu_out], 0 */
	e_op_mem(e, 0, 0, 0xc7, 0, h_gs(CTX(fpu_out)));
	e32(e, 0);
	e8(e, 0xc3);
	return at;
}

/* test cl, bits; jz to what the answer is for: forward, to be patched. */
static uint8_t *jump_unless(struct emit *e, uint8_t bits)
{
	uint32_t at;

	E_BYTES(e, 0xf6, 0xc1, bits);
	e8(e, JNZ);
	e8(e, 5);
	at = e_jmp(e);
	return e->start + at;
}

static void land_here(struct emit *e, const uint8_t *from)
{
	e_patch(e, (uint32_t)(from - e->start), emit_at(e));
}

/* Store what is in use; RAX RCX RDX R14 and flags are lost. */
static uint32_t make_saver(struct emit *e, uint64_t xcr0)
{
	uint32_t at = emit_at(e), wide = (uint32_t)xcr0 & (WIDE_YMM | WIDE_ZMM | WIDE_HIGH);
	uint8_t *over, *end = NULL;

	e_load(e, H_R14, h_gs(CTX(fpu)));
	mxcsr_fpu(e, 3);
	if (host_has(FEAT_XGETBV1)) {
		e_mov_imm(e, H_RCX, 1);
		E_BYTES(e, 0x0f, 0x01, 0xd0); /* xgetbv */
	} else {
		e_mov_imm(e, H_RAX, wide);
	}
	E_BYTES(e, 0x25); /* and eax, wide */
	e32(e, wide);
	e8(e, 0x41); /* movzx ecx, byte [r14 + wide] */
	E_BYTES(e, 0x0f, 0xb6, 0x8e);
	e32(e, (uint32_t)FPU(wide));
	e8(e, 0x41); /* mov [r14 + wide], al */
	E_BYTES(e, 0x88, 0x86);
	e32(e, (uint32_t)FPU(wide));
	e_op_reg(e, 0, 0, 0x09, H_RAX, H_RCX); /* or ecx, eax */
	if (wide & WIDE_HIGH) {
		over = jump_unless(e, WIDE_HIGH);
		vec_high(e, true);
		land_here(e, over);
	}
	if (wide & WIDE_ZMM) {
		over = jump_unless(e, WIDE_ZMM);
		vec_low(e, 64, true);
		end = e->start + e_jmp(e);
		land_here(e, over);
	}
	if (wide & WIDE_YMM) {
		uint8_t *narrow = jump_unless(e, WIDE_YMM), *done;

		vec_low(e, 32, true);
		done = e->start + e_jmp(e);
		land_here(e, narrow);
		vec_low(e, 16, true);
		land_here(e, done);
	} else {
		vec_low(e, 16, true);
	}
	if (end)
		land_here(e, end);
	/* ldmxcsr gs:[host_mxcsr] */
	e_op_mem(e, 0, 1, 0xae, 2, h_gs(CTX(host_mxcsr)));
	vzeroupper(e);
	e_op_mem(e, 0, 0, 0xc7, 0, h_gs(CTX(fpu_out)));
	e32(e, 1);
	e8(e, 0xc3);
	return at;
}

/* mov eax, 1; xor edx, edx: XSAVE's components, x87 alone. Flags are lost. */
static void choose_x87(struct emit *e)
{
	e_mov_imm(e, H_RAX, 1);
	e_mov_imm(e, H_RDX, 0);
}

static uint32_t make_x87_load(struct emit *e)
{
	uint32_t at = emit_at(e);

	e_store(e, h_gs(CTX(code)), H_R14);
	e_store(e, h_gs(CTX(keep)), H_RAX);
	e_store(e, h_gs(CTX(keep) + 8), H_RDX);
	e_load(e, H_R14, h_gs(CTX(fpu)));
	choose_x87(e);
	/* XSTATE_BV = 1, XCOMP_BV = 0 */
	e_store(e, h_at(H_R14, FPU(xsave_header)), H_RAX);
	e_store(e, h_at(H_R14, FPU(xsave_header) + 8), H_RDX);
	E_BYTES(e, 0x49, 0x0f, 0xae, 0x2e); /* xrstor64 [r14] */
	e_load(e, H_RAX, h_gs(CTX(keep)));
	e_load(e, H_RDX, h_gs(CTX(keep) + 8));
	e_load(e, H_R14, h_gs(CTX(code)));
	e_op_mem(e, 0, 0, 0xc7, 0, h_gs(CTX(x87_out)));
	e32(e, 0);
	e8(e, 0xc3);
	return at;
}

/* RAX, RDX, R14 and flags are lost. */
static void save_x87_if_in(struct emit *e)
{
	uint8_t *out;

	e_op_mem(e, 0, 0, 0x83, 7, h_gs(CTX(x87_out)));
	e8(e, 0);
	out = short_jump(e, JNZ);
	e_load(e, H_R14, h_gs(CTX(fpu)));
	choose_x87(e);
	E_BYTES(e, 0x49, 0x0f, 0xae, 0x26); /* xsave64 [r14] */
	E_BYTES(e, 0xdb, 0xe3);		    /* fninit */
	e_op_mem(e, 0, 0, 0xc7, 0, h_gs(CTX(x87_out)));
	e32(e, 1);
	e_op_mem(e, 0, 0, 0xc7, 0, h_gs(CTX(x87_saved)));
	e32(e, 1);
	land(e, out);
}

static void save_fpu_if_in(struct emit *e, const struct stubs *s)
{
	uint8_t *out;

	save_x87_if_in(e);

	/* cmp dword gs:[fpu_out], 0 */
	e_op_mem(e, 0, 0, 0x83, 7, h_gs(CTX(fpu_out)));
	e8(e, 0);
	out = short_jump(e, JNZ);
	e_call_to(e, s->save_any);
	land(e, out);
}

/* -- In and out ------------------------------------------------------------------------------- */

static void make_enter(struct emit *e, struct stubs *s)
{
	s->enter = emit_at(e);
	for (unsigned i = 0; i < ARRAY_SIZE(callee_saved); i++)
		push(e, callee_saved[i]);
	e_store(e, h_gs(CTX(host_sp)), H_RSP);
	e_load(e, H_RSP, h_gs(CTX(sp)));
	e_store(e, h_gs(CTX(code)), H_RDI);
	e_load32(e, H_RAX, h_gs(CTX(cc)));
	E_BYTES(e, 0x04, CC_INTO_FLAGS, 0x9e); /* add al, ..; sahf */
	move_gprs(e, false, true);
	e_load(e, H_R14, h_gs(CTX(rip)));
	e_op_mem(e, 0, 0, 0xff, 4, h_gs(CTX(code))); /* jmp */
}

/* The number that stands before the call that has led here. */
static void take_number(struct emit *e)
{
	pop(e, H_RCX);
	e_load32(e, H_RCX, h_at(H_RCX, -9)); /* the call is 5 bytes, the number 4 */
	e_store32(e, h_gs(CTX(exit)), H_RCX);
}

static void make_exit(struct emit *e, struct stubs *s)
{
	uint32_t tail;

	s->exit = emit_at(e);
	e_store32(e, h_gs(CTX(exit)), H_RCX);
	s->exit_trap = emit_at(e);
	e_store(e, h_gs(CTX_GPR(REG_RAX)), H_RAX);
	E_BYTES(e, 0x9f, 0x0f, 0x90, 0xc0);    /* lahf; seto al */
	e_op_reg(e, 0, 1, 0xb7, H_RAX, H_RAX); /* movzx eax, ax */
	e_store32(e, h_gs(CTX(cc)), H_RAX);
	tail = emit_at(e);
	move_gprs(e, true, false);
	save_fpu_if_in(e, s);
	e_store(e, h_gs(CTX(sp)), H_RSP);
	e_load(e, H_RSP, h_gs(CTX(host_sp)));
	for (unsigned i = ARRAY_SIZE(callee_saved); i-- > 0;)
		pop(e, callee_saved[i]);
	pop(e, H_RCX); /* not RET: see run.c, enter() */
	E_BYTES(e, 0xff, 0xe1);
	s->exit_noflags = emit_at(e);
	e_store32(e, h_gs(CTX(exit)), H_RCX);
	s->leave = emit_at(e);
	e_store(e, h_gs(CTX_GPR(REG_RAX)), H_RAX);
	e_jmp_to(e, tail);
}

/* A routine that calls fn(dbt, RCX, arg) and returns its result in R14; if that is 0 it does not
 * return, but takes the exit whose number stands before the call of the routine. */
static uint32_t make_call(struct emit *e, struct stubs *s,
			  uint64_t (*fn)(struct dbt *, uint64_t, uint64_t))
{
	uint32_t at = emit_at(e);
	uint8_t *fail;

	e_store(e, h_gs(CTX(gva)), H_RCX);
	move_gprs(e, true, true);
	save_fpu_if_in(e, s);
	e_load(e, H_RDI, h_gs(CTX(self)));
	e_load(e, H_RSI, h_gs(CTX(gva)));
	e_load(e, H_RDX, h_at(H_RSP, 0)); /* the number, as in take_number() */
	e_load32(e, H_RDX, h_at(H_RDX, -9));
	e_mov_imm(e, H_RAX, (uint64_t)(uintptr_t)fn);
	add_rsp(e, -8);
	E_BYTES(e, 0xff, 0xd0); /* call rax */
	add_rsp(e, 8);
	e_store(e, h_gs(CTX(code)), H_RAX);
	move_gprs(e, false, true);
	e_load(e, H_RCX, h_gs(CTX(gva)));
	e_load(e, H_R14, h_gs(CTX(code)));
	E_BYTES(e, 0x4d, 0x85, 0xf6); /* test r14, r14 */
	fail = short_jump(e, JZ);
	e8(e, 0xc3);
	land(e, fail);
	take_number(e);
	e_jmp_to(e, s->leave);
	return at;
}

static void make_lookup(struct emit *e, struct stubs *s)
{
	struct hmem slot = { .base = H_NONE, .index = H_RCX, .scale = 3, .gs = true };
	uint8_t *miss;

	s->empty = emit_at(e);
	e_load(e, H_RSP, h_gs(CTX(sp_top)));
	s->lookup = emit_at(e);
	e_jump_slot(e, H_RCX, H_R14, JUMP_SHIFT);
	slot.disp = JUMP_KEYS;
	e_load(e, H_RCX, slot);
	e_op_reg(e, 1, 0, 0x03, H_RCX, H_R14); /* add rcx, r14 */
	miss = short_jump(e, JNZ);
	e_jump_slot(e, H_RCX, H_R14, JUMP_SHIFT);
	slot.disp = JUMP_CODE;
	e_op_mem(e, 0, 0, 0xff, 4, slot);
	land(e, miss);
	e_store(e, h_gs(CTX(rip)), H_R14);
	e_jmp_to(e, s->leave);
}

/* The entry whose code we are in is not the one. If the right one is not far behind, what is before
 * it was left without a RET; else this RET has had no CALL that we know of, and the entry stays.
 */
static void make_mismatch(struct emit *e, struct stubs *s)
{
	s->mismatch = emit_at(e);
	for (unsigned n = 1; n <= 3; n++) {
		uint8_t *no;

		e_op_mem(e, 1, 0, 0x3b, H_R14, h_at(H_RSP, (int32_t)n * 16)); /* cmp r14, */
		no = short_jump(e, JNZ);
		add_rsp(e, (int8_t)(n * 16 - 8));
		e8(e, 0xc3);
		land(e, no);
	}
	add_rsp(e, -8);
	e_jmp_to(e, s->lookup);
}

void stubs_make(struct code_cache *k, uint64_t xcr0)
{
	struct emit e = { .p = k->code.rw, .start = k->code.rw };
	struct stubs *s = &k->stubs;
	bool has512 = xcr0 & XCR0_ZMM_HI256;

	for (unsigned high = 0; high < 2; high++) {
		enum high how = !has512 ? HIGH_NONE : high ? HIGH_LOAD : HIGH_ZERO;

		s->load[high][0] = make_loader(&e, 16, how);
		s->load[high][1] = s->load[high][2] = s->load[high][0];
		if (xcr0 & XCR0_AVX)
			s->load[high][1] = s->load[high][2] = make_loader(&e, 32, how);
		if (has512)
			s->load[high][2] = make_loader(&e, 64, how);
	}
	s->save_any = make_saver(&e, xcr0);
	s->x87_load = make_x87_load(&e);
	s->fpu_load = emit_at(&e);
	e_store(&e, h_gs(CTX(code)), H_R14);
	e_load(&e, H_R14, h_gs(CTX(fpu)));
	e_op_mem(&e, 0, 0, 0xff, 4, h_gs(CTX(fpu_load)));
	make_enter(&e, s);
	make_exit(&e, s);
	s->fill = make_call(&e, s, dbt_fill);
	make_lookup(&e, s);
	make_mismatch(&e, s);
	s->string = make_call(&e, s, dbt_string);
	s->end = (uint32_t)ALIGN_UP(emit_at(&e), 64u);
	k->used = s->end;
	k->cold_used = k->cold;
}

/* Registers 0-15 that were stored wide may be wide in nothing but name: the host takes an upper
 * half of zeros that was loaded for one in use. */
static void narrow(struct vcpu_fpu *f)
{
	uint64_t ymm = 0, zmm = 0;

	for (unsigned n = 0; n < 16; n++) {
		const uint64_t *q = (const uint64_t *)f->zmm[n];

		ymm |= q[2] | q[3];
		zmm |= q[4] | q[5] | q[6] | q[7];
	}
	if (!ymm)
		f->wide &= (uint8_t)~WIDE_YMM;
	if (!zmm)
		f->wide &= (uint8_t)~WIDE_ZMM;
}

void fpu_choose(struct dbt *d)
{
	const struct stubs *s = &d->cache->stubs;
	struct vcpu_fpu *f = &d->c->fpu;
	uint32_t at;

	if (f->wide & (WIDE_YMM | WIDE_ZMM))
		narrow(f);
	at = s->load[!!(f->wide & WIDE_HIGH)][f->wide & WIDE_ZMM ? 2 : f->wide & WIDE_YMM ? 1 : 0];
	d->ctx->fpu_load = (uint64_t)(uintptr_t)code_at(d->cache, at);
}
