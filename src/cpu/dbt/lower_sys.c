/* What kernels do all the time: interrupt flag, AC, GS base, time stamp, string operations, bits in
 * memory. None of it touches the arithmetic flags, but for the bit tests.
 */
#include "cpu/dbt/translate_internal.h"

/* mov qword gs:[disp], imm32 */
static void set_word(struct emit *e, int32_t disp, uint32_t imm)
{
	e_op_mem(e, 1, 0, 0xc7, 0, h_gs(disp));
	e32(e, imm);
}

static bool is_user(const struct tr *t)
{
	return t->t->mode & TBM_USER;
}

bool lower_cli(struct tr *t, const struct insn *i)
{
	if (is_user(t))
		return false;
	set_word(&t->e, CTX(iflag), 0);
	return true;
}

/* The instruction behind STI runs before an interrupt comes: it must be in this translation, or be
 * handed over by it. */
bool lower_sti(struct tr *t, const struct insn *i)
{
	struct emit *e = &t->e;

	if (is_user(t) || tr_next_off(t) >= PAGE_SIZE || t->at + 1 == TB_MAX_INSNS)
		return false;
	e_load32(e, S_ADDR, h_gs(CTX(irq_wait)));
	E_BYTES(e, 0xe3, 0x05); /* jrcxz */
	tr_cold(t, (struct cold){ .kind = COLD_EXIT,
				  .from = e_jmp(e),
				  .exit = tr_exit(t, EXIT_INTERP, t->off[t->at]),
				  .noflags = t->saved });
	set_word(e, CTX(iflag), RFLAGS_IF);
	return true;
}

bool lower_cld(struct tr *t, const struct insn *i)
{
	set_word(&t->e, CTX(dflag), i->op == OP_STD ? RFLAGS_DF : 0);
	return true;
}

bool lower_stac(struct tr *t, const struct insn *i)
{
	bool set = i->op == OP_STAC;
	struct emit *e = &t->e;

	if (!(t->t->mode & TBM_SMAP) || is_user(t))
		return false;
	set_word(e, CTX(acflag), set ? RFLAGS_AC : 0);
	e_load(e, S_ADDR, h_gs(CTX(gs) + set * 8));
	E_BYTES(e, 0xf3, 0x48, 0x0f, 0xae, 0xd8 | S_ADDR); /* wrgsbase rcx */
	return true;
}

bool lower_swapgs(struct tr *t, const struct insn *i)
{
	struct emit *e = &t->e;

	if (is_user(t))
		return false;
	e_load(e, S_ADDR, h_gs(CTX(seg_base) + 8));
	e_load(e, S_ADD, h_gs(CTX(kernel_gs)));
	e_store(e, h_gs(CTX(kernel_gs)), S_ADDR);
	e_store(e, h_gs(CTX(seg_base) + 8), S_ADD);
	return true;
}

bool lower_rdtsc(struct tr *t, const struct insn *i)
{
	struct emit *e = &t->e;

	if (t->t->mode & (TBM_COUNT | TBM_TSD))
		return false;
	/* Unlike RDTSC, RDTSCP waits for the loads before it. */
	if (i->op == OP_RDTSCP)
		E_BYTES(e, 0x0f, 0xae, 0xe8); /* lfence */
	E_BYTES(e, 0x0f, 0x31);
	e_rorx(e, S_ADDR, H_RDX, 32);
	e_lea(e, S_ADDR, h_sum(S_ADDR, H_RAX));
	e_load(e, S_ADD, h_gs(CTX(tsc_offset)));
	e_lea(e, S_ADDR, h_sum(S_ADDR, S_ADD));
	e_mov32(e, H_RAX, S_ADDR);
	e_rorx(e, H_RDX, S_ADDR, 32);
	e_mov32(e, H_RDX, H_RDX);
	if (i->op == OP_RDTSCP)
		e_load32(e, H_GUEST_RCX, h_gs(CTX(tsc_aux)));
	return true;
}

bool lower_pushf(struct tr *t, const struct insn *i)
{
	struct emit *e = &t->e;

	if (i->opsize != t->word)
		return false;
	tr_lea(t, S_ADDR, h_at(H_GUEST_RSP, -t->word));
	tr_access(t, S_ADDR, t->word, true, false);
	e_lea(e, S_ADDR, h_sum(S_ADDR, S_ADD));
	if (t->saved)
		tr_restore_flags(t);
	else
		tr_save_flags(t, S_ADD);
	t->saved = true;
	E_BYTES(e, 0x9c, 0x41, 0x58 | (S_ADD & 7)); /* pushfq; pop r14 */
	E_BYTES(e, 0x41, 0x81, 0xe6);		    /* and r14d, arithmetic flags */
	e32(e, RFLAGS_ARITH);
	for (unsigned n = 0; n < 4; n++) {
		static const int32_t part[] = { CTX(rest), CTX(iflag), CTX(dflag), CTX(acflag) };

		e_op_mem(e, 1, 0, 0x0b, S_ADD, h_gs(part[n])); /* or r14, */
	}
	tr_store(t, h_at(S_ADDR, 0), S_ADD);
	tr_lea(t, H_GUEST_RSP, h_at(H_GUEST_RSP, -t->word));
	return true;
}

bool lower_string(struct tr *t, const struct insn *i)
{
	bool movs = i->op == OP_MOVS;
	bool rep = i->prefix & (PFX_REP | PFX_REPNE);
	struct emit *e = &t->e;

	if (i->adsize != t->word || (movs && (i->seg == SEG_FS || i->seg == SEG_GS)) ||
	    t->t->mode & TBM_COUNT)
		return false;
	if (t->need[t->at] && !t->saved) {
		tr_save_flags(t, S_ADD);
		t->saved = true;
	}
	e_mov_imm(e, S_ADDR,
		  i->opd[0].size | (rep ? STRING_REP : 0) | (movs ? STRING_MOVS : 0) |
			  (t->word == 4 ? STRING_32 : 0));
	E_BYTES(e, 0xeb, 4);
	e32(e, tr_exit(t, EXIT_INTERP, t->off[t->at]));
	e_call_to(e, t->k->stubs.string);
	tr_reload_fpu(t);
	return true;
}

/* rSI or rDI as an address; S_ADDR is lost. */
static uint8_t string_address(struct tr *t, uint8_t reg)
{
	if (t->word == 8)
		return reg;
	e_mov32(&t->e, S_ADDR, reg);
	return S_ADDR;
}

/* op with rAX or S_ADD and memory: opcode is that for bytes. */
static void string_op(struct tr *t, uint8_t opcode, unsigned reg, unsigned size, struct hmem m)
{
	if (size == 2)
		e8(&t->e, 0x66);
	e_op_mem(&t->e, size == 8, 0, (uint8_t)(opcode | (size > 1)), reg, m);
}

bool lower_string_step(struct tr *t, const struct insn *i)
{
	unsigned size = i->opd[0].size;
	struct emit *e = &t->e;
	uint8_t at;

	if (i->adsize != t->word || i->seg == SEG_FS || i->seg == SEG_GS ||
	    i->prefix & (PFX_REP | PFX_REPNE))
		return false;
	/* Downwards it is the interpreter's. */
	e_load32(e, S_ADDR, h_gs(CTX(dflag)));
	E_BYTES(e, 0xe3, 0x05); /* jrcxz */
	tr_cold(t, (struct cold){ .kind = COLD_EXIT,
				  .from = e_jmp(e),
				  .exit = tr_exit(t, EXIT_INTERP, t->off[t->at]),
				  .noflags = t->saved });
	if (i->op != OP_SCAS) {
		at = string_address(t, H_RSI);
		tr_access(t, at, size, false, false);
		string_op(t, 0x8a, i->op == OP_LODS ? H_RAX : S_ADD, size, h_sum(at, S_ADD));
	}
	if (i->op != OP_LODS) {
		if (i->op == OP_CMPS)
			e_store(e, h_gs(CTX(val)), S_ADD);
		at = string_address(t, H_RDI);
		tr_access(t, at, size, false, false);
		t->saved = false; /* all of them are new */
		if (i->op == OP_CMPS) {
			e_lea(e, S_ADDR, h_sum(at, S_ADD));
			e_load(e, S_ADD, h_gs(CTX(val)));
			string_op(t, 0x3a, S_ADD, size, h_at(S_ADDR, 0));
		} else {
			string_op(t, 0x3a, H_RAX, size, h_sum(at, S_ADD));
		}
		tr_lea(t, H_RDI, h_at(H_RDI, (int32_t)size));
	}
	if (i->op != OP_SCAS)
		tr_lea(t, H_RSI, h_at(H_RSI, (int32_t)size));
	return true;
}

/* sarx dst, src, count: VEX.LZ.F3.0F38.W1 F7 */
static void e_sarx(struct emit *e, unsigned dst, unsigned src, unsigned count)
{
	E_BYTES(e, 0xc4, (uint8_t)((dst & 8 ? 0 : 0x80) | 0x40 | (src & 8 ? 0 : 0x20) | 2),
		(uint8_t)(0x82 | (~count & 15) << 3), 0xf7,
		(uint8_t)(0xc0 | (dst & 7) << 3 | (src & 7)));
}

/* BT, BTS, BTR, BTC of memory by a register: the bit may be in another word. */
bool lower_bit_memory(struct tr *t, const struct insn *i)
{
	unsigned size = i->opd[0].size;
	uint8_t bit = host_reg[i->opd[1].reg], reg;
	struct emit *e = &t->e;

	if (size < 4 || bit == H_NONE || i->adsize != t->word)
		return false;
	reg = tr_address(t, i);
	if (reg == H_NONE)
		return false;
	e_mov(e, S_ADD, reg);
	if (size == 8) {
		e_mov_imm(e, S_ADDR, 6);
		e_sarx(e, S_ADDR, bit, S_ADDR);
		e_lea(e, S_ADDR, (struct hmem){ .base = S_ADD, .index = S_ADDR, .scale = 3 });
	} else {
		/* movsxd rcx, bit; then words of 4 bytes, by way of bits 5 and up */
		e_store(e, h_gs(CTX(val)), S_ADD);
		e_op_reg(e, 1, 0, 0x63, S_ADD, bit);
		e_mov_imm(e, S_ADDR, 5);
		e_sarx(e, S_ADD, S_ADD, S_ADDR);
		e_load(e, S_ADDR, h_gs(CTX(val)));
		tr_lea(t, S_ADDR, (struct hmem){ .base = S_ADDR, .index = S_ADD, .scale = 2 });
	}
	tr_access(t, S_ADDR, size, i->op != OP_BT, false);
	if (i->op == OP_BT) {
		tr_flags_for(t, i);
		e_op_mem(e, size == 8, 0, 0x8b, S_ADD, h_sum(S_ADDR, S_ADD));
		e_op_reg(e, size == 8, 1, 0xa3, bit, S_ADD);
		return true;
	}
	e_lea(e, S_ADDR, h_sum(S_ADDR, S_ADD));
	/* pext r14, bit, gs:[mask63 or 31]: VEX.LZ.F3.0F38.W1 F5 */
	E_BYTES(e, 0x65, 0xc4, 0x62, (uint8_t)(0x82 | (~bit & 15) << 3), 0xf5);
	e_modrm_mem(e, S_ADD,
		    (struct hmem){ .base = H_NONE,
				   .index = H_NONE,
				   .disp = CTX(mask63) - (size == 4 ? 8 : 0) });
	tr_flags_for(t, i);
	if (i->prefix & PFX_LOCK)
		e8(e, 0xf0);
	e_op_mem(e, size == 8, 1, i->opcode, S_ADD, h_at(S_ADDR, 0));
	return true;
}
