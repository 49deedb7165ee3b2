/* From a decoded instruction to the uops that execute it. */
#include "cpu/interp/interp_internal.h"
#include "cpu/interp/operand.h"
#include "cpu/interp/stub.h"

#include "cpu/x86/features.h"
#include "cpu/x86/segment.h"

/* -- Address uops: they leave a linear address in REG_EA -------------------------------------- */

/* 64-bit code with an FS or GS base. */
static int ea_fsgs(struct vcpu *c, const struct uop *u)
{
	c->gpr[REG_EA] = uop_ea(c, u) + c->seg[u->seg].base;
	NEXT;
}

/* 32-bit addresses in flat segments: nothing to check. */
static int ea_flat32(struct vcpu *c, const struct uop *u)
{
	c->gpr[REG_EA] = (uint32_t)uop_ea(c, u);
	NEXT;
}

/* Everything else: imm bytes, aux: written. */
static NOINLINE int do_ea_any(struct vcpu *c, const struct uop *u)
{
	gva_t gva;
	int r = insn_linear(c, u, 0, (unsigned)u->imm, u->aux, &gva);

	c->gpr[REG_EA] = gva;
	return r;
}
static HANDLER(ea_any)

	/* Instructions that look at their memory operand's address themselves. */
	static bool computes_own_address(const struct insn *i)
{
	switch (i->op) {
	case OP_LEA:
	case OP_INVLPG:
	case OP_INVPCID:
	case OP_POP:
	case OP_JMP_FAR:
	case OP_CALL_FAR:
	case OP_LDS:
	case OP_LES:
	case OP_LSS:
	case OP_LFS:
	case OP_LGS:
	case OP_SGDT:
	case OP_SIDT:
	case OP_LGDT:
	case OP_LIDT:
	case OP_NOP:
	case OP_PREFETCH:
	case OP_XSAVE:
	case OP_XSAVEOPT:
	case OP_XSAVEC:
	case OP_XSAVES:
	case OP_XRSTOR:
	case OP_XRSTORS:
	case OP_FXSAVE:
	case OP_FXRSTOR:
	case OP_GATHER:
	case OP_SCATTER:
	case OP_ARPL:
	case OP_UD:
	case OP_BOUND:
	case OP_LMSW:
	case OP_LLDT:
	case OP_LTR: return true;
	/* A bit offset in a register leads elsewhere. */
	case OP_BT:
	case OP_BTS:
	case OP_BTR:
	case OP_BTC: return i->opd[1].kind == OPD_GPR;
	/* Outside 64-bit mode an address may be beyond a limit, which is no fault if it is masked
	 * out or the x87 does not store, and comes after #MF. */
	case OP_VEC:
	case OP_X87:
	case OP_MMX:
	case OP_MASKMOV:
	case OP_COMPRESS:
	case OP_EXPAND: return i->mode != 8;
	default: return false;
	}
}

static const struct operand *memory_operand(const struct insn *i)
{
	for (unsigned n = 0; n < i->n_opds; n++)
		if (i->opd[n].kind == OPD_MEM)
			return &i->opd[n];
	return NULL;
}

/* Set u's address fields for i's memory operand; if it needs more than they can say, u becomes the
 * address uop and the fields of u[1] refer to REG_EA. Returns how many uops went before. */
static unsigned address(const struct vcpu *c, const struct insn *i, unsigned off, struct uop *u,
			bool *keep)
{
	const struct operand *o = memory_operand(i);
	bool seg_base = i->seg == SEG_FS || i->seg == SEG_GS;
	struct uop plain = {
		.base = GPR_OFF(i->base),
		.index = GPR_OFF(i->index),
		.scale = i->scale,
		.disp = i->disp,
		.off = (uint16_t)off,
		.len = i->len,
		.seg = i->seg,
	};

	if (i->base == REG_BLOCK)
		plain.disp += off + i->len;
	if (i->mode == 8 && i->adsize == 8 && !seg_base) {
		*u = plain;
		return 0;
	}
	u[1] = (struct uop){ .base = GPR_OFF(REG_EA), .index = GPR_OFF(REG_ZERO) };
	*u = plain;
	u->imm = o && o->size ? o->size : 1;
	u->aux = (insn_table[i->id].attr & INSN_MEM_DST) != 0;
	if (i->mode == 8 && i->adsize == 8) {
		u->fn = ea_fsgs;
	} else if (i->mode == 4 && i->adsize == 4 && c->flat_segs && !seg_base &&
		   (i->seg != SEG_CS || !u->aux)) {
		u->fn = ea_flat32;
	} else {
		u->fn = ea_any;
		u->insn = i;
		*keep = true;
	}
	return 1;
}

/* -- The general handler of each op ----------------------------------------------------------- */

static const uop_fn general[N_INSN_OPS] = {
	[OP_MOV] = x_mov,
	[OP_MOVNTI] = x_mov,
	[OP_MOVDIRI] = x_mov,
	[OP_MOVDIR64B] = x_movdir64b,
	[OP_MOVZX] = x_movx,
	[OP_MOVSX] = x_movx,
	[OP_LEA] = x_lea,
	[OP_XCHG] = x_xchg,
	[OP_PUSH] = x_push,
	[OP_POP] = x_pop,
	[OP_PUSHA] = x_pusha,
	[OP_POPA] = x_popa,
	[OP_PUSHF] = x_pushf,
	[OP_POPF] = x_popf,
	[OP_LAHF] = x_lahf,
	[OP_SAHF] = x_lahf,
	[OP_SALC] = x_xlat,
	[OP_XLAT] = x_xlat,
	[OP_CBW] = x_cbw,
	[OP_CWD] = x_cbw,
	[OP_CMOV] = x_cmov,
	[OP_SET] = x_set,
	[OP_BSWAP] = x_bswap,
	[OP_MOVBE] = x_movbe,
	[OP_ENTER] = x_enter,
	[OP_LEAVE] = x_leave,
	[OP_LDS] = x_far_load,
	[OP_LES] = x_far_load,
	[OP_LSS] = x_far_load,
	[OP_LFS] = x_far_load,
	[OP_LGS] = x_far_load,
	[OP_MOV_SREG] = x_mov_sreg,
	[OP_MOV_FROM_SREG] = x_mov_sreg,
	[OP_PUSH_SREG] = x_mov_sreg,
	[OP_POP_SREG] = x_mov_sreg,

	[OP_ADD] = x_alu,
	[OP_OR] = x_alu,
	[OP_ADC] = x_alu,
	[OP_SBB] = x_alu,
	[OP_AND] = x_alu,
	[OP_SUB] = x_alu,
	[OP_XOR] = x_alu,
	[OP_CMP] = x_alu,
	[OP_TEST] = x_alu,
	[OP_INC] = x_unary,
	[OP_DEC] = x_unary,
	[OP_NOT] = x_unary,
	[OP_NEG] = x_unary,
	[OP_MUL] = x_mul,
	[OP_IMUL] = x_mul,
	[OP_IMUL2] = x_imul,
	[OP_IMUL3] = x_imul,
	[OP_DIV] = x_div,
	[OP_IDIV] = x_div,
	[OP_AAA] = x_bcd,
	[OP_AAS] = x_bcd,
	[OP_AAM] = x_bcd,
	[OP_AAD] = x_bcd,
	[OP_DAA] = x_bcd,
	[OP_DAS] = x_bcd,
	[OP_ROL] = x_shift,
	[OP_ROR] = x_shift,
	[OP_RCL] = x_shift,
	[OP_RCR] = x_shift,
	[OP_SHL] = x_shift,
	[OP_SHR] = x_shift,
	[OP_SAR] = x_shift,
	[OP_SHLD] = x_shld,
	[OP_SHRD] = x_shld,
	[OP_BT] = x_bt,
	[OP_BTS] = x_bt,
	[OP_BTR] = x_bt,
	[OP_BTC] = x_bt,
	[OP_BSF] = x_bitscan,
	[OP_BSR] = x_bitscan,
	[OP_TZCNT] = x_bitscan,
	[OP_LZCNT] = x_bitscan,
	[OP_POPCNT] = x_bitscan,
	[OP_CRC32] = x_crc32,
	[OP_ANDN] = x_bmi,
	[OP_BEXTR] = x_bmi,
	[OP_BLSI] = x_bmi,
	[OP_BLSMSK] = x_bmi,
	[OP_BLSR] = x_bmi,
	[OP_BZHI] = x_bmi,
	[OP_PDEP] = x_bmi,
	[OP_PEXT] = x_bmi,
	[OP_RORX] = x_bmi,
	[OP_SARX] = x_bmi,
	[OP_SHLX] = x_bmi,
	[OP_SHRX] = x_bmi,
	[OP_MULX] = x_mulx,
	[OP_ADCX] = x_adx,
	[OP_ADOX] = x_adx,
	[OP_CMPXCHG] = x_cmpxchg,
	[OP_CMPXCHG8B] = x_cmpxchg8b,
	[OP_CMPXCHG16B] = x_cmpxchg8b,
	[OP_XADD] = x_xadd,

	[OP_MOVS] = x_string,
	[OP_CMPS] = x_string,
	[OP_STOS] = x_string,
	[OP_LODS] = x_string,
	[OP_SCAS] = x_string,
	[OP_INS] = x_string,
	[OP_OUTS] = x_string,

	[OP_JMP] = x_jmp,
	[OP_JMP_IND] = x_jmp,
	[OP_JCC] = x_jcc,
	[OP_JCXZ] = x_loop,
	[OP_LOOP] = x_loop,
	[OP_LOOPE] = x_loop,
	[OP_LOOPNE] = x_loop,
	[OP_CALL] = x_call,
	[OP_CALL_IND] = x_call,
	[OP_RET] = x_ret,
	[OP_JMP_FAR] = x_far,
	[OP_CALL_FAR] = x_far,
	[OP_RET_FAR] = x_far,
	[OP_IRET] = x_far,
	[OP_INT] = x_int,
	[OP_INT3] = x_int,
	[OP_INTO] = x_int,
	[OP_INT1] = x_int,
	[OP_BOUND] = x_bound,
	[OP_UD] = x_ud,
	[OP_SYSCALL] = x_syscall,
	[OP_SYSRET] = x_syscall,
	[OP_SYSENTER] = x_syscall,
	[OP_SYSEXIT] = x_syscall,
	[OP_XBEGIN] = x_tsx,
	[OP_XEND] = x_tsx,
	[OP_XABORT] = x_nop,
	[OP_XTEST] = x_tsx,

	[OP_CLC] = x_flag,
	[OP_STC] = x_flag,
	[OP_CMC] = x_flag,
	[OP_CLD] = x_flag,
	[OP_STD] = x_flag,
	[OP_CLI] = x_sti,
	[OP_STI] = x_sti,
	[OP_CLAC] = x_ac,
	[OP_STAC] = x_ac,

	[OP_NOP] = x_nop,
	[OP_PREFETCH] = x_nop,
	[OP_PAUSE] = x_fence,
	[OP_HLT] = x_hlt,
	[OP_IN] = x_io,
	[OP_OUT] = x_io,
	[OP_CPUID] = x_cpuid,
	[OP_RDTSC] = x_tsc,
	[OP_RDTSCP] = x_tsc,
	[OP_RDPMC] = x_tsc,
	[OP_RDMSR] = x_msr,
	[OP_WRMSR] = x_msr,
	[OP_MOV_FROM_CR] = x_cr,
	[OP_MOV_TO_CR] = x_cr,
	[OP_MOV_FROM_DR] = x_cr,
	[OP_MOV_TO_DR] = x_cr,
	[OP_CLTS] = x_cache,
	[OP_LMSW] = x_selector,
	[OP_SMSW] = x_selector,
	[OP_LGDT] = x_dtable,
	[OP_LIDT] = x_dtable,
	[OP_SGDT] = x_dtable,
	[OP_SIDT] = x_dtable,
	[OP_LLDT] = x_selector,
	[OP_LTR] = x_selector,
	[OP_SLDT] = x_selector,
	[OP_STR] = x_selector,
	[OP_LAR] = x_lar,
	[OP_LSL] = x_lar,
	[OP_VERR] = x_lar,
	[OP_VERW] = x_lar,
	[OP_ARPL] = x_arpl,
	[OP_INVD] = x_cache,
	[OP_WBINVD] = x_cache,
	[OP_INVLPG] = x_invlpg,
	[OP_INVPCID] = x_invlpg,
	[OP_SWAPGS] = x_cache,
	[OP_RSM] = x_cache,
	[OP_MONITOR] = x_cache,
	[OP_MWAIT] = x_cache,
	[OP_RDFSBASE] = x_fsgs,
	[OP_RDGSBASE] = x_fsgs,
	[OP_WRFSBASE] = x_fsgs,
	[OP_WRGSBASE] = x_fsgs,
	[OP_RDPID] = x_rdpid,
	[OP_RDRAND] = x_rdrand,
	[OP_RDSEED] = x_rdrand,
	[OP_CLFLUSH] = x_fence,
	[OP_FENCE] = x_fence,
	[OP_SERIALIZE] = x_fence,
	[OP_VMCALL] = x_vmcall,
	[OP_VMMCALL] = x_vmcall,
	[OP_XGETBV] = x_xcr,
	[OP_XSETBV] = x_xcr,
	[OP_XSAVE] = x_xsave,
	[OP_XSAVEOPT] = x_xsave,
	[OP_XSAVEC] = x_xsave,
	[OP_XSAVES] = x_xsave,
	[OP_XRSTOR] = x_xsave,
	[OP_XRSTORS] = x_xsave,
	[OP_FXSAVE] = x_xsave,
	[OP_FXRSTOR] = x_xsave,
	[OP_LDMXCSR] = x_mxcsr,
	[OP_STMXCSR] = x_mxcsr,

	[OP_X87] = x_x87,
	[OP_FWAIT] = x_fwait,
	[OP_MMX] = x_mmx,
	[OP_VEC] = x_vec,
	[OP_VZERO] = x_vzero,
	[OP_MASKMOV] = x_maskmov,
	[OP_MASKMOVQ] = x_maskmov,
	[OP_GATHER] = x_gather,
	[OP_SCATTER] = x_gather,
	[OP_COMPRESS] = x_compress,
	[OP_EXPAND] = x_compress,
};

uop_fn select_general(enum insn_op op)
{
	return general[op] ? general[op] : x_ud;
}

/* Does the CPU model have the instruction? Some encodings mean an older one where it does not. */
static bool present(const struct vcpu *c, const struct insn *i)
{
	unsigned f = insn_table[i->id].feature;

	if (insn_table[i->id].attr & INSN_NEEDS_VL && i->vl < 64 &&
	    !cpu_has(c->model, FEAT_AVX512VL))
		return false;
	if (f == FEAT_NONE || cpu_has(c->model, (enum cpu_feature)f))
		return true;
	return i->op == OP_TZCNT || i->op == OP_LZCNT || i->op == OP_PREFETCH || i->op == OP_NOP;
}

static uint8_t scan_kind(const struct vcpu *c, const struct insn *i)
{
	switch (i->op) {
	case OP_BSF: return SCAN_BSF;
	case OP_BSR: return SCAN_BSR;
	case OP_TZCNT: return cpu_has(c->model, FEAT_BMI1) ? SCAN_TZCNT : SCAN_BSF;
	case OP_LZCNT: return cpu_has(c->model, FEAT_LZCNT) ? SCAN_LZCNT : SCAN_BSR;
	default: return SCAN_POPCNT;
	}
}

static bool runs_native(const struct insn *i)
{
	return i->op == OP_VEC || i->op == OP_X87 || i->op == OP_MMX || i->op == OP_COMPRESS ||
	       i->op == OP_EXPAND;
}

unsigned select_uops(const struct vcpu *c, const struct insn *i, unsigned off, struct uop *u,
		     bool *keep)
{
	unsigned n = 0;

	if (!present(c, i)) {
		*u = (struct uop){ .fn = x_ud, .off = (uint16_t)off, .len = i->len };
		return 1;
	}
	if (i->has_mem && !computes_own_address(i))
		n = address(c, i, off, u, keep);
	else
		*u = (struct uop){ .base = GPR_OFF(REG_ZERO), .index = GPR_OFF(REG_ZERO) };
	u += n;
	u->off = (uint16_t)off;
	u->len = i->len;
	u->fn = fast_select(c, i, off, u);
	if (!u->fn) {
		u->fn = select_general(i->op);
		u->insn = i;
		u->size = (uint8_t)i->opd[0].size;
		if (u->fn == x_bitscan)
			u->aux = scan_kind(c, i);
		if (runs_native(i))
			u->imm = (int64_t)(uintptr_t)stub_get(interp_of(c)->stubs, i);
		*keep = true;
	}
	return n + 1;
}
