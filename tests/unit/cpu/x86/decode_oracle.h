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
	case ZYDIS_ISA_SET_XOP:
		return true;
	case ZYDIS_ISA_SET_SVM:
		return z->mnemonic != ZYDIS_MNEMONIC_VMMCALL;
	case ZYDIS_ISA_SET_VMFUNC:
		return true;
	case ZYDIS_ISA_SET_VTX:
		return z->mnemonic != ZYDIS_MNEMONIC_VMCALL;
	default:
		return false;
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
	unsigned kind, reg;
	unsigned base = REG_ZERO, index = REG_ZERO;

	if (ZydisRegisterGetId(z->mem.segment) != i->seg)
		return DIFFER(d, "segment", "%u not %d", i->seg,
			      ZydisRegisterGetId(z->mem.segment));
	if (o->kind == OPD_SRC || o->kind == OPD_DST)
		return false;
	if (z->mem.base == ZYDIS_REGISTER_RIP || z->mem.base == ZYDIS_REGISTER_EIP)
		base = REG_BLOCK;
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
			return DIFFER(d, "register", "%u %u not %u %u", o->kind, o->reg, kind,
				      reg);
		if (kind == OPD_CR || kind == OPD_DR || kind == OPD_SREG || kind == OPD_KREG)
			return false;
		if (o->size != ZydisRegisterGetWidth(zi->machine_mode, z->reg.value) / 8)
			return DIFFER(d, "register size", "%u not %u", o->size,
				      ZydisRegisterGetWidth(zi->machine_mode, z->reg.value) / 8);
		return false;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		if (o->kind != OPD_MEM && o->kind != OPD_VSIB && o->kind != OPD_SRC &&
		    o->kind != OPD_DST)
			return DIFFER(d, "kind", "%u not memory", o->kind);
		no_size = o->size == 0;
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
	default:
		return false;
	}
}

/* Names that differ for the same thing: ours, Zydis's. */
static inline bool same_name(const char *ours, const char *zydis)
{
	static const char *const pairs[][2] = {
		{ "", "" },
	};

	for (size_t k = 0; k < ARRAY_SIZE(pairs); k++)
		if (!strcmp(ours, pairs[k][0]) && !strcmp(zydis, pairs[k][1]))
			return true;
	return !strcmp(ours, zydis);
}

static inline bool compare_operands(const struct insn *i, const ZydisDecodedInstruction *z,
				    const ZydisDecodedOperand *ops, struct difference *d)
{
	unsigned k = 0;

	for (unsigned j = 0; j < z->operand_count; j++) {
		if (ops[j].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN ||
		    ops[j].encoding == ZYDIS_OPERAND_ENCODING_MASK)
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
	return k != i->n_opds && DIFFER(d, "operand count", "%u not %u", i->n_opds, k);
}

static inline bool compare_evex(const struct insn *i, const ZydisDecodedInstruction *z,
				struct difference *d)
{
	unsigned mask = z->avx.mask.reg ? ZydisRegisterGetId(z->avx.mask.reg) : 0;

	if (i->enc != ENC_EVEX)
		return false;
	if (i->mask != mask)
		return DIFFER(d, "mask", "%u not %u", i->mask, mask);
	if (i->zeroing != (z->avx.mask.mode == ZYDIS_MASK_MODE_ZEROING ||
			   z->avx.mask.mode == ZYDIS_MASK_MODE_CONTROL_ZEROING))
		return DIFFER(d, "zeroing", "%u", i->zeroing);
	if (i->bcast != (z->avx.broadcast.mode != ZYDIS_BROADCAST_MODE_INVALID &&
			 !z->avx.broadcast.is_static))
		return DIFFER(d, "broadcast", "%u", i->bcast);
	if (!!i->rc != (z->avx.rounding.mode || z->avx.has_sae))
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

	if (row->fl_read != read || (row->fl_write | row->fl_undef) != (write | undef))
		return DIFFER(d, "flags", "%x %x %x not %x %x %x", row->fl_read, row->fl_write,
			      row->fl_undef, read, write, undef);
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
	if (compare_operands(i, z, ops, d) || compare_evex(i, z, d) || compare_flags(i, z, d))
		return true;
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
					       ZydisMnemonicGetString(z.mnemonic)) :
					compare_decoded(&i, &z, ops, d);
	if (r == DECODE_OK)
		return DIFFER(d, "accepted", "%s, status %x", insn_table[i.id].text,
			      (unsigned)ZYAN_STATUS_CODE(st));
	return false;
}

#endif
