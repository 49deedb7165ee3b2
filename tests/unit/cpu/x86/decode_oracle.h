/* Our decoder and Zydis side by side. Shared by the decoder's test and by whoever wants to look at
 * all differences at once.
 */
#ifndef TESTS_DECODE_ORACLE_H
#define TESTS_DECODE_ORACLE_H

#include <stdio.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "cpu/x86/decode.h"
#include "cpu/x86/decode_tables.h"

struct oracle {
	ZydisDecoder decoder[3]; /* 16, 32, 64 bits */
};

/* What differed, in words. */
struct difference {
	const char *what;
	char detail[160];
};

static inline void oracle_init(struct oracle *o)
{
	static const struct {
		ZydisMachineMode mode;
		ZydisStackWidth stack;
	} modes[3] = {
		{ ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
		{ ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
		{ ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
	};

	for (unsigned m = 0; m < 3; m++) {
		ZydisDecoder *d = &o->decoder[m];

		ZydisDecoderInit(d, modes[m].mode, modes[m].stack);
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
	}
}

/* Instruction sets that Zydis knows and this CPU model never has. */
static inline bool oracle_foreign(const ZydisDecodedInstruction *z)
{
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX)
		return true;
	switch (z->meta.isa_set) {
	case ZYDIS_ISA_SET_AMD:
	case ZYDIS_ISA_SET_AMD3DNOW:
	case ZYDIS_ISA_SET_AMD_INVLPGB:
	case ZYDIS_ISA_SET_AMX_BF16:
	case ZYDIS_ISA_SET_AMX_INT8:
	case ZYDIS_ISA_SET_AMX_TILE:
	case ZYDIS_ISA_SET_AVX512ER_512:
	case ZYDIS_ISA_SET_AVX512ER_SCALAR:
	case ZYDIS_ISA_SET_AVX512PF_512:
	case ZYDIS_ISA_SET_AVX512_4FMAPS_512:
	case ZYDIS_ISA_SET_AVX512_4FMAPS_SCALAR:
	case ZYDIS_ISA_SET_AVX512_4VNNIW_512:
	case ZYDIS_ISA_SET_AVX512_FP16_128:
	case ZYDIS_ISA_SET_AVX512_FP16_128N:
	case ZYDIS_ISA_SET_AVX512_FP16_256:
	case ZYDIS_ISA_SET_AVX512_FP16_512:
	case ZYDIS_ISA_SET_AVX512_FP16_SCALAR:
	case ZYDIS_ISA_SET_AVX512_VP2INTERSECT_128:
	case ZYDIS_ISA_SET_AVX512_VP2INTERSECT_256:
	case ZYDIS_ISA_SET_AVX512_VP2INTERSECT_512:
	case ZYDIS_ISA_SET_CET:
	case ZYDIS_ISA_SET_CLZERO:
	case ZYDIS_ISA_SET_ENQCMD:
	case ZYDIS_ISA_SET_FMA4:
	case ZYDIS_ISA_SET_HRESET:
	case ZYDIS_ISA_SET_KEYLOCKER:
	case ZYDIS_ISA_SET_KEYLOCKER_WIDE:
	case ZYDIS_ISA_SET_KNCE:
	case ZYDIS_ISA_SET_KNCJKBR:
	case ZYDIS_ISA_SET_KNCSTREAM:
	case ZYDIS_ISA_SET_KNCV:
	case ZYDIS_ISA_SET_KNC_MISC:
	case ZYDIS_ISA_SET_KNC_PF_HINT:
	case ZYDIS_ISA_SET_LWP:
	case ZYDIS_ISA_SET_MCOMMIT:
	case ZYDIS_ISA_SET_MONITORX:
	case ZYDIS_ISA_SET_MPX:
	case ZYDIS_ISA_SET_PADLOCK_ACE:
	case ZYDIS_ISA_SET_PADLOCK_PHE:
	case ZYDIS_ISA_SET_PADLOCK_PMM:
	case ZYDIS_ISA_SET_PADLOCK_RNG:
	case ZYDIS_ISA_SET_PCONFIG:
	case ZYDIS_ISA_SET_PKU:
	case ZYDIS_ISA_SET_PT:
	case ZYDIS_ISA_SET_RDPRU:
	case ZYDIS_ISA_SET_SGX:
	case ZYDIS_ISA_SET_SGX_ENCLV:
	case ZYDIS_ISA_SET_SMX:
	case ZYDIS_ISA_SET_SNP:
	case ZYDIS_ISA_SET_SSE4A:
	case ZYDIS_ISA_SET_TBM:
	case ZYDIS_ISA_SET_TDX:
	case ZYDIS_ISA_SET_TSX_LDTRK:
	case ZYDIS_ISA_SET_UINTR:
	case ZYDIS_ISA_SET_WAITPKG:
	case ZYDIS_ISA_SET_XOP: return true;
	case ZYDIS_ISA_SET_SVM: return z->mnemonic != ZYDIS_MNEMONIC_VMMCALL;
	case ZYDIS_ISA_SET_VMFUNC: return true;
	case ZYDIS_ISA_SET_VTX: return z->mnemonic != ZYDIS_MNEMONIC_VMCALL;
	default: return false;
	}
}

static inline bool differ(struct difference *d, const char *what, const char *detail)
{
	d->what = what;
	snprintf(d->detail, sizeof(d->detail), "%s", detail);
	return true;
}

#define DIFFER(d, what_, ...)                                                                      \
	((d)->what = (what_), snprintf((d)->detail, sizeof((d)->detail), __VA_ARGS__), true)

/* Kind and number of a Zydis register, in our terms. */
static inline void oracle_register(ZydisRegister r, unsigned *kind, unsigned *reg)
{
	ZydisRegisterClass c = ZydisRegisterGetClass(r);

	*reg = ZydisRegisterGetId(r);
	switch (c) {
	case ZYDIS_REGCLASS_GPR8:
		*kind = OPD_GPR;
		if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH) {
			*kind = OPD_GPRH;
			*reg = r - ZYDIS_REGISTER_AH;
		} else if (r >= ZYDIS_REGISTER_SPL) {
			*reg = r - ZYDIS_REGISTER_SPL + 4;
		}
		break;
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64: *kind = OPD_GPR; break;
	case ZYDIS_REGCLASS_X87: *kind = OPD_ST; break;
	case ZYDIS_REGCLASS_MMX: *kind = OPD_MMX; break;
	case ZYDIS_REGCLASS_XMM: *kind = OPD_XMM; break;
	case ZYDIS_REGCLASS_YMM: *kind = OPD_YMM; break;
	case ZYDIS_REGCLASS_ZMM: *kind = OPD_ZMM; break;
	case ZYDIS_REGCLASS_SEGMENT: *kind = OPD_SREG; break;
	case ZYDIS_REGCLASS_CONTROL: *kind = OPD_CR; break;
	case ZYDIS_REGCLASS_DEBUG: *kind = OPD_DR; break;
	case ZYDIS_REGCLASS_MASK: *kind = OPD_KREG; break;
	default: *kind = OPD_NONE; break;
	}
}

static inline bool compare_address(const struct insn *i, const struct operand *o,
				   const ZydisDecodedOperand *z, struct difference *d)
{
	unsigned kind;
	unsigned base = REG_ZERO, index = REG_ZERO;

	/* LEA has no segment for Zydis. */
	if (i->op != OP_LEA && ZydisRegisterGetId(z->mem.segment) != i->seg)
		return DIFFER(d, "segment", "%u not %d", i->seg,
			      ZydisRegisterGetId(z->mem.segment));
	if (o->kind == OPD_SRC || o->kind == OPD_DST)
		return false;
	if (z->mem.base == ZYDIS_REGISTER_RIP || z->mem.base == ZYDIS_REGISTER_EIP)
		base = REG_BLOCK;
	/* With 67, mod 0, SIB base 101 and REX.B Zydis names R13D. There is no base (SDM 2A table
	 * 2-3; this processor agrees). */
	else if (z->mem.base == ZYDIS_REGISTER_R13D && !(i->modrm >> 6))
		return i->base != REG_ZERO || i->disp_len != 4;
	else if (z->mem.base)
		oracle_register(z->mem.base, &kind, &base);
	if (z->mem.index) {
		oracle_register(z->mem.index, &kind, &index);
		if ((kind == OPD_GPR) != (o->kind == OPD_MEM))
			return DIFFER(d, "VSIB", "%u", o->kind);
		if (kind != OPD_GPR && i->vsib_len != 16u << (kind - OPD_XMM))
			return DIFFER(d, "vsib_len", "%u", i->vsib_len);
	}
	if (i->base != base || i->index != index)
		return DIFFER(d, "base or index", "%u+%u not %u+%u", i->base, i->index, base,
			      index);
	if (z->mem.index && 1u << i->scale != z->mem.scale)
		return DIFFER(d, "scale", "%u", i->scale);
	if (((uint64_t)i->disp ^ (uint64_t)z->mem.disp.value) & size_mask(i->adsize))
		return DIFFER(d, "disp", "%llx not %llx", (long long)i->disp,
			      (long long)z->mem.disp.value);
	return false;
}

static inline bool compare_operand(const struct insn *i, const struct operand *o,
				   const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *z,
				   struct difference *d)
{
	unsigned kind, reg, no_size = 0;

	switch (z->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		oracle_register(z->reg.value, &kind, &reg);
		if (o->kind != kind || o->reg != reg)
			return DIFFER(d, "register", "%u %u not %u %u", o->kind, o->reg, kind, reg);
		if (kind == OPD_CR || kind == OPD_DR || kind == OPD_SREG || kind == OPD_KREG)
			return false;
		/* LSL reads 16 bits of what Zydis has as 32. */
		if (o->size != ZydisRegisterGetWidth(zi->machine_mode, z->reg.value) / 8 &&
		    i->op != OP_LSL)
			return DIFFER(d, "register size", "%u not %u", o->size,
				      ZydisRegisterGetWidth(zi->machine_mode, z->reg.value) / 8);
		return false;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		if (o->kind != OPD_MEM && o->kind != OPD_VSIB && o->kind != OPD_SRC &&
		    o->kind != OPD_DST)
			return DIFFER(d, "kind", "%u not memory", o->kind);
		no_size = o->size == 0;
		/* MOVSXD r16, r/m16 by the SDM; Zydis reads 32 bits. */
		if (zi->mnemonic == ZYDIS_MNEMONIC_MOVSXD && i->opsize == 2)
			no_size = true;
		if (!no_size && o->kind != OPD_VSIB && o->size != z->size / 8)
			return DIFFER(d, "memory size", "%u not %u", o->size, z->size / 8);
		if (o->kind == OPD_VSIB && o->size != z->element_size / 8)
			return DIFFER(d, "VSIB size", "%u not %u", o->size, z->element_size / 8);
		return o->kind != OPD_DST && compare_address(i, o, z, d);
	case ZYDIS_OPERAND_TYPE_POINTER:
		if (o->kind != OPD_FAR)
			return DIFFER(d, "kind", "%u not far", o->kind);
		if (i->imm2 != z->ptr.segment || i->imm != z->ptr.offset)
			return DIFFER(d, "far pointer", "%x", i->imm2);
		return false;
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		if (o->kind == OPD_ONE)
			return z->imm.value.u == 1 ? false : differ(d, "one", "");
		if (z->imm.is_relative != (o->kind == OPD_REL))
			return differ(d, "kind", "relative or not");
		if (o->kind != OPD_IMM && o->kind != OPD_REL)
			return DIFFER(d, "kind", "%u not immediate", o->kind);
		if (((uint64_t)i->imm ^ z->imm.value.u) & size_mask(o->size))
			return DIFFER(d, "immediate", "%llx not %llx", (long long)i->imm,
				      (long long)z->imm.value.u);
		return false;
	default: return false;
	}
}

/* Names that differ for the same thing: ours, Zydis's. */
static inline bool same_name(const char *ours, const char *zydis)
{
	static const char *const pairs[][2] = {
		/* F3 and 66 together; the same operation anyway. */
		{ "wbnoinvd", "wbinvd" },
		/* Hints, by the name that they have where there is CET. */
		{ "endbr32", "nop" },
		{ "endbr64", "nop" },
		{ "rdsspd", "nop" },
		{ "rdsspq", "nop" },
	};

	for (size_t k = 0; k < ARRAY_SIZE(pairs); k++)
		if (!strcmp(ours, pairs[k][0]) && !strcmp(zydis, pairs[k][1]))
			return true;
	return !strcmp(ours, zydis);
}

/* Operands that Zydis does not list as we do: string instructions' and implicit registers are
 * hidden, the x87 stack's are listed; hint NOPs and UD0/UD1 use theirs for nothing.
 */
static inline bool operands_comparable(const struct insn *i)
{
	switch (i->op) {
	case OP_MOVS:
	case OP_CMPS:
	case OP_STOS:
	case OP_LODS:
	case OP_SCAS:
	case OP_INS:
	case OP_OUTS:
	case OP_NOP:
	case OP_UD: return false;
	case OP_X87: return i->n_opds != 0;
	default: return true;
	}
}

static inline bool compare_operands(const struct insn *i, const ZydisDecodedInstruction *z,
				    const ZydisDecodedOperand *ops, struct difference *d)
{
	unsigned k = 0;

	for (unsigned j = 0; j < z->operand_count; j++) {
		if (ops[j].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN ||
		    ops[j].encoding == ZYDIS_OPERAND_ENCODING_MASK)
			continue;
		if (i->op == OP_X87 && ops[j].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(ops[j].reg.value) == ZYDIS_REGCLASS_X87)
			continue;
		/* ENTER's level is in imm2. */
		if (i->op == OP_ENTER && j == 1) {
			if (i->imm2 != ops[j].imm.value.u)
				return differ(d, "imm2", "");
			continue;
		}
		if (k == i->n_opds)
			return DIFFER(d, "operand count", "%u is too few", i->n_opds);
		if (compare_operand(i, &i->opd[k], z, &ops[j], d))
			return true;
		k++;
	}
	/* XMM0 of BLENDV and SHA256RNDS2 is hidden. */
	if (k + 1 == i->n_opds && i->enc == ENC_LEGACY && i->opd[k].kind == OPD_XMM)
		k++;
	return k != i->n_opds && DIFFER(d, "operand count", "%u not %u", i->n_opds, k);
}

static inline bool exact_conversion(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_VCVTDQ2PD || m == ZYDIS_MNEMONIC_VCVTUDQ2PD ||
	       m == ZYDIS_MNEMONIC_VCVTSI2SD || m == ZYDIS_MNEMONIC_VCVTUSI2SD;
}

static inline bool compare_evex(const struct insn *i, const ZydisDecodedInstruction *z,
				struct difference *d)
{
	unsigned mask = z->avx.mask.reg ? ZydisRegisterGetId(z->avx.mask.reg) : 0;

	if (i->enc != ENC_EVEX)
		return false;
	if (i->mask != mask)
		return DIFFER(d, "mask", "%u not %u", i->mask, mask);
	if (i->zeroing != z->raw.evex.z)
		return DIFFER(d, "zeroing", "%u", i->zeroing);
	if (i->bcast !=
	    (z->avx.broadcast.mode != ZYDIS_BROADCAST_MODE_INVALID && !z->avx.broadcast.is_static))
		return DIFFER(d, "broadcast", "%u", i->bcast);
	/* Conversions that are exact ignore rounding (SDM 2A 2.7.9; natively: no #UD). */
	if (!z->avx.rounding.mode && !z->avx.has_sae)
		return i->rc && !exact_conversion(z->mnemonic) &&
		       DIFFER(d, "rounding", "%u", i->rc);
	if (!i->rc)
		return DIFFER(d, "rounding", "%u", i->rc);
	if (z->avx.rounding.mode && (i->rc & 3u) != z->avx.rounding.mode - 1u)
		return DIFFER(d, "rounding mode", "%u", i->rc);
	return false;
}

static inline bool compare_flags(const struct insn *i, const ZydisDecodedInstruction *z,
				 struct difference *d)
{
	const struct insn_desc *row = &insn_table[i->id];
	static const ZydisAccessedFlags none;
	const ZydisAccessedFlags *f = z->cpu_flags ? z->cpu_flags : &none;
	unsigned read = f->tested & RFLAGS_ARITH, undef = f->undefined & RFLAGS_ARITH;
	unsigned write = (f->modified | f->set_0 | f->set_1) & RFLAGS_ARITH;

	switch (row->op) {
	case OP_INT:
	case OP_INT1:
	case OP_INT3:
	case OP_INTO:
	case OP_SYSCALL:
		/* They save RFLAGS, which Zydis does not call reading. */
		return row->fl_read != RFLAGS_ARITH && DIFFER(d, "flags", "%x", row->fl_read);
	case OP_CMPS:
	case OP_SCAS:
		/* REPE and REPNE test the ZF of the comparison, not the one before. */
		read &= ~RFLAGS_ZF;
		break;
	case OP_VMCALL:
		/* What the hypervisor makes of them. */
		return false;
	case OP_VEC:
		/* VPTEST and VTESTPS clear AF, OF, PF and SF (SDM 2C); Zydis has ZF and CF alone.
		 */
		if (row->fl_write == RFLAGS_ARITH && write == (RFLAGS_ZF | RFLAGS_CF))
			return false;
		break;
	}
	if (row->fl_read != read || (row->fl_write | row->fl_undef) != (write | undef))
		return DIFFER(d, "flags", "%x %x %x not %x %x %x", row->fl_read, row->fl_write,
			      row->fl_undef, read, write, undef);
	return false;
}

/* Zydis's instruction set to the row's feature. FEAT_NONE: none, or nothing to compare. */
static inline enum cpu_feature oracle_feature(const ZydisDecodedInstruction *z)
{
	switch (z->meta.isa_set) {
	case ZYDIS_ISA_SET_ADOX_ADCX: return FEAT_ADX;
	case ZYDIS_ISA_SET_AES:
	case ZYDIS_ISA_SET_AVXAES: return FEAT_AES;
	case ZYDIS_ISA_SET_AVX: return FEAT_AVX;
	case ZYDIS_ISA_SET_AVX2:
	case ZYDIS_ISA_SET_AVX2GATHER: return FEAT_AVX2;
	case ZYDIS_ISA_SET_AVX512BW_128:
	case ZYDIS_ISA_SET_AVX512BW_128N:
	case ZYDIS_ISA_SET_AVX512BW_256:
	case ZYDIS_ISA_SET_AVX512BW_512:
	case ZYDIS_ISA_SET_AVX512BW_KOP: return FEAT_AVX512BW;
	case ZYDIS_ISA_SET_AVX512CD_128:
	case ZYDIS_ISA_SET_AVX512CD_256:
	case ZYDIS_ISA_SET_AVX512CD_512: return FEAT_AVX512CD;
	case ZYDIS_ISA_SET_AVX512DQ_128:
	case ZYDIS_ISA_SET_AVX512DQ_128N:
	case ZYDIS_ISA_SET_AVX512DQ_256:
	case ZYDIS_ISA_SET_AVX512DQ_512:
	case ZYDIS_ISA_SET_AVX512DQ_KOP:
	case ZYDIS_ISA_SET_AVX512DQ_SCALAR: return FEAT_AVX512DQ;
	case ZYDIS_ISA_SET_AVX512F_128:
	case ZYDIS_ISA_SET_AVX512F_128N:
	case ZYDIS_ISA_SET_AVX512F_256:
	case ZYDIS_ISA_SET_AVX512F_512:
	case ZYDIS_ISA_SET_AVX512F_KOP:
	case ZYDIS_ISA_SET_AVX512F_SCALAR: return FEAT_AVX512F;
	case ZYDIS_ISA_SET_AVX512_BF16_128:
	case ZYDIS_ISA_SET_AVX512_BF16_256:
	case ZYDIS_ISA_SET_AVX512_BF16_512: return FEAT_AVX512_BF16;
	case ZYDIS_ISA_SET_AVX512_BITALG_128:
	case ZYDIS_ISA_SET_AVX512_BITALG_256:
	case ZYDIS_ISA_SET_AVX512_BITALG_512: return FEAT_AVX512_BITALG;
	case ZYDIS_ISA_SET_AVX512_GFNI_128:
	case ZYDIS_ISA_SET_AVX512_GFNI_256:
	case ZYDIS_ISA_SET_AVX512_GFNI_512:
	case ZYDIS_ISA_SET_AVX_GFNI:
	case ZYDIS_ISA_SET_GFNI: return FEAT_GFNI;
	case ZYDIS_ISA_SET_AVX512_IFMA_128:
	case ZYDIS_ISA_SET_AVX512_IFMA_256:
	case ZYDIS_ISA_SET_AVX512_IFMA_512: return FEAT_AVX512IFMA;
	case ZYDIS_ISA_SET_AVX512_VAES_128:
	case ZYDIS_ISA_SET_AVX512_VAES_256:
	case ZYDIS_ISA_SET_AVX512_VAES_512:
	case ZYDIS_ISA_SET_VAES: return FEAT_VAES;
	case ZYDIS_ISA_SET_AVX512_VBMI2_128:
	case ZYDIS_ISA_SET_AVX512_VBMI2_256:
	case ZYDIS_ISA_SET_AVX512_VBMI2_512: return FEAT_AVX512_VBMI2;
	case ZYDIS_ISA_SET_AVX512_VBMI_128:
	case ZYDIS_ISA_SET_AVX512_VBMI_256:
	case ZYDIS_ISA_SET_AVX512_VBMI_512: return FEAT_AVX512VBMI;
	case ZYDIS_ISA_SET_AVX512_VNNI_128:
	case ZYDIS_ISA_SET_AVX512_VNNI_256:
	case ZYDIS_ISA_SET_AVX512_VNNI_512: return FEAT_AVX512_VNNI;
	case ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_128:
	case ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_256:
	case ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_512:
	case ZYDIS_ISA_SET_VPCLMULQDQ: return FEAT_VPCLMULQDQ;
	case ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_128:
	case ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_256:
	case ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_512: return FEAT_AVX512_VPOPCNTDQ;
	case ZYDIS_ISA_SET_AVX_VNNI: return FEAT_AVX_VNNI;
	case ZYDIS_ISA_SET_BMI1: return FEAT_BMI1;
	case ZYDIS_ISA_SET_BMI2: return FEAT_BMI2;
	case ZYDIS_ISA_SET_CLFLUSHOPT: return FEAT_CLFLUSHOPT;
	case ZYDIS_ISA_SET_CLFSH: return FEAT_CLFLUSH;
	case ZYDIS_ISA_SET_CLWB: return FEAT_CLWB;
	case ZYDIS_ISA_SET_CMOV:
	case ZYDIS_ISA_SET_FCMOV: return FEAT_CMOV;
	case ZYDIS_ISA_SET_CMPXCHG16B: return FEAT_CX16;
	case ZYDIS_ISA_SET_F16C: return FEAT_F16C;
	case ZYDIS_ISA_SET_FMA: return FEAT_FMA;
	case ZYDIS_ISA_SET_FXSAVE:
	case ZYDIS_ISA_SET_FXSAVE64: return FEAT_FXSR;
	case ZYDIS_ISA_SET_INVPCID: return FEAT_INVPCID;
	case ZYDIS_ISA_SET_LZCNT: return FEAT_LZCNT;
	case ZYDIS_ISA_SET_MONITOR: return FEAT_MONITOR;
	case ZYDIS_ISA_SET_MOVBE: return FEAT_MOVBE;
	case ZYDIS_ISA_SET_MOVDIR:
		return z->mnemonic == ZYDIS_MNEMONIC_MOVDIRI ? FEAT_MOVDIRI : FEAT_MOVDIR64B;
	case ZYDIS_ISA_SET_PCLMULQDQ: return FEAT_PCLMULQDQ;
	case ZYDIS_ISA_SET_PENTIUMMMX: return FEAT_MMX;
	case ZYDIS_ISA_SET_POPCNT: return FEAT_POPCNT;
	case ZYDIS_ISA_SET_RDPID: return FEAT_RDPID;
	case ZYDIS_ISA_SET_RDRAND: return FEAT_RDRAND;
	case ZYDIS_ISA_SET_RDSEED: return FEAT_RDSEED;
	case ZYDIS_ISA_SET_RDTSCP: return FEAT_RDTSCP;
	case ZYDIS_ISA_SET_RDWRFSGS: return FEAT_FSGSBASE;
	case ZYDIS_ISA_SET_SERIALIZE: return FEAT_SERIALIZE;
	case ZYDIS_ISA_SET_SHA: return FEAT_SHA_NI;
	case ZYDIS_ISA_SET_SMAP: return FEAT_SMAP;
	case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSEMXCSR:
	case ZYDIS_ISA_SET_SSE_PREFETCH: return FEAT_SSE;
	case ZYDIS_ISA_SET_SSE2:
	case ZYDIS_ISA_SET_SSE2MMX: return FEAT_SSE2;
	case ZYDIS_ISA_SET_SSE3:
	case ZYDIS_ISA_SET_SSE3X87: return FEAT_SSE3;
	case ZYDIS_ISA_SET_SSE4: return FEAT_SSE4_1;
	case ZYDIS_ISA_SET_SSE42: return FEAT_SSE4_2;
	case ZYDIS_ISA_SET_SSSE3:
	case ZYDIS_ISA_SET_SSSE3MMX: return FEAT_SSSE3;
	case ZYDIS_ISA_SET_X87: return FEAT_FPU;
	case ZYDIS_ISA_SET_XSAVE: return FEAT_XSAVE;
	case ZYDIS_ISA_SET_XSAVEC: return FEAT_XSAVEC;
	case ZYDIS_ISA_SET_XSAVEOPT: return FEAT_XSAVEOPT;
	case ZYDIS_ISA_SET_XSAVES: return FEAT_XSAVES;
	default: return FEAT_NONE;
	}
}

static inline bool compare_feature(const struct insn *i, const ZydisDecodedInstruction *z,
				   struct difference *d)
{
	enum cpu_feature f = oracle_feature(z), ours = insn_table[i->id].feature;

	switch (ours) {
	case FEAT_TSC:
	case FEAT_MSR:
	case FEAT_CX8:
	case FEAT_SEP:
	case FEAT_LM:
	case FEAT_SYSCALL:
		/* Part of a processor generation for Zydis. */
		return f != FEAT_NONE && DIFFER(d, "feature", "%u", ours);
	case FEAT_SSE:
		/* SSE's MMX instructions are the Pentium MMX's for Zydis. */
		if (i->op == OP_MMX || i->op == OP_MASKMOVQ)
			return false;
		break;
	case FEAT_CMOV:
		/* FCOMI and its kin go by CMOV (SDM 1 8.3.6), by Zydis with any Pentium Pro. */
		if (i->op == OP_X87)
			return false;
		break;
	case FEAT_PCLMULQDQ:
		/* VEX: it needs AVX too; the row says what distinguishes it. */
		if (f == FEAT_AVX)
			return false;
		break;
	default: break;
	}
	return ours != f && DIFFER(d, "feature", "%u not %u", ours, f);
}

/* Rows that leave the destination, or its upper part, as it was. Zydis does not call it read. */
static inline bool keeps_destination(const struct insn *i)
{
	switch (i->op) {
	case OP_CMOV:
	case OP_BSF:
	case OP_BSR:
	case OP_LAR:
	case OP_LSL: return true;
	case OP_VEC:
	case OP_MMX: return i->enc == ENC_LEGACY;
	default: return false;
	}
}

/* Where the operand size is what the instruction works with. Zydis says 8 for byte instructions,
 * where opsize is still what 66 and REX.W would make it.
 */
static inline bool opsize_matters(const struct insn *i, const ZydisDecodedInstruction *z)
{
	switch (i->op) {
	case OP_VEC:
	case OP_MMX:
	case OP_NOP:
	case OP_SYSCALL:
	case OP_INVLPG:
	case OP_INVPCID:
	case OP_LGDT:
	case OP_LIDT:
	case OP_SGDT:
	case OP_SIDT:
	case OP_ADCX:
	case OP_ADOX:
	case OP_CMPXCHG8B:
	/* No more than 32 bits with REX.W, by the operand. */
	case OP_IN:
	case OP_OUT: return false;
	default: return i->enc == ENC_LEGACY && z->operand_width != 8;
	}
}

/* What the row says is read and written, by Zydis's operand actions. */
static inline bool compare_access(const struct insn *i, const ZydisDecodedOperand *ops,
				  const ZydisDecodedInstruction *z, struct difference *d)
{
	uint32_t attr = insn_table[i->id].attr;
	unsigned k = 0;

	for (unsigned j = 0; j < z->operand_count && k < 2; j++) {
		bool read, write, zread, zwrite;

		if (ops[j].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN ||
		    ops[j].encoding == ZYDIS_OPERAND_ENCODING_MASK)
			continue;
		if (i->op == OP_X87 && ops[j].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(ops[j].reg.value) == ZYDIS_REGCLASS_X87)
			continue;
		write = k == 0 ? !(attr & INSN_NO_DST) : attr & INSN_OPD1_DST;
		read = !write || attr & INSN_SRC_DST;
		zread = ops[j].actions & ZYDIS_OPERAND_ACTION_MASK_READ;
		/* Merging is said by mask and zeroing, not by the row. */
		if (k == 0 && i->mask && !i->zeroing && ops[j].type == ZYDIS_OPERAND_TYPE_REGISTER)
			zread = read;
		if (k == 0 && keeps_destination(i))
			zread |= read;
		zwrite = ops[j].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
		if (ops[j].type == ZYDIS_OPERAND_TYPE_MEMORY && i->opd[k].size &&
		    (!!(attr & INSN_MEM_SRC) != zread || !!(attr & INSN_MEM_DST) != zwrite))
			return DIFFER(d, "memory access", "operand %u: zydis %u %u", k, zread,
				      zwrite);
		if (ops[j].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    (read != zread || write != zwrite))
			return DIFFER(d, "access", "operand %u: %u %u not %u %u", k, read, write,
				      zread, zwrite);
		k++;
	}
	return false;
}

static inline bool compare_decoded(const struct insn *i, const ZydisDecodedInstruction *z,
				   const ZydisDecodedOperand *ops, struct difference *d)
{
	const struct insn_desc *row = &insn_table[i->id];

	if (!same_name(row->text, ZydisMnemonicGetString(z->mnemonic)))
		return DIFFER(d, "mnemonic", "%s", row->text);
	if (i->len != z->length)
		return DIFFER(d, "length", "%u not %u", i->len, z->length);
	if ((operands_comparable(i) && compare_operands(i, z, ops, d)) || compare_evex(i, z, d) ||
	    compare_flags(i, z, d))
		return true;
	if (compare_feature(i, z, d))
		return true;
	if (operands_comparable(i) && compare_access(i, ops, z, d))
		return true;
	if (i->opsize * 8 != z->operand_width && opsize_matters(i, z))
		return DIFFER(d, "operand size", "%u not %u", i->opsize, z->operand_width);
	if (i->adsize * 8 != z->address_width)
		return DIFFER(d, "address size", "%u not %u", i->adsize, z->address_width);
	return false;
}

/* True and d filled when the two disagree. mode: 2, 4, 8. */
static inline bool oracle_differs(const struct oracle *o, const uint8_t *code, size_t n,
				  unsigned mode, struct difference *d)
{
	ZydisDecodedInstruction z;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	struct insn i;
	enum decode_result r = decode(code, n, mode, &i);
	ZyanStatus st = ZydisDecoderDecodeFull(&o->decoder[mode >> 2], code, n, &z, ops);

	if (ZYAN_SUCCESS(st) && oracle_foreign(&z)) {
		if (r == DECODE_OK && insn_table[i.id].op != OP_NOP)
			return DIFFER(d, "foreign", "%s for %s", insn_table[i.id].text,
				      ZydisMnemonicGetString(z.mnemonic));
		return false;
	}
	if (ZYAN_SUCCESS(st))
		return r != DECODE_OK ? DIFFER(d, "refused", "%d %s", r,
					       ZydisMnemonicGetString(z.mnemonic))
				      : compare_decoded(&i, &z, ops, d);
	/* EVEX.b on VCVT(U)SI2SD with W1 outside 64-bit mode: W counts as 0, and there b is ignored
	 * as in 64-bit mode. Zydis refuses. */
	if (r == DECODE_OK && mode != 8 && i.vex_w && i.rc && insn_table[i.id].op == OP_VEC &&
	    strstr(insn_table[i.id].text, "si2sd"))
		return false;
	if (r == DECODE_OK)
		return DIFFER(d, "accepted", "%s, status %x", insn_table[i.id].text,
			      (unsigned)ZYAN_STATUS_CODE(st));
	return false;
}

#endif
