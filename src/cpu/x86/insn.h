/* What a decoded x86 instruction is. The table in insn_*.def says which there are; decode.h turns
 * bytes into struct insn. Operand letters are those of the SDM's opcode maps (2D appendix A).
 */
#ifndef CPU_X86_INSN_H
#define CPU_X86_INSN_H

#include "base/bits.h"
#include "cpu/x86/features.h"
#include "cpu/x86/regs.h"

/* Kinds of a decoded operand. */
enum opd_kind {
	OPD_NONE,
	OPD_GPR,  /* reg 0-15, size 1 2 4 8; size 1 is the low byte */
	OPD_GPRH, /* AH CH DH BH as reg 0-3, size 1 */
	OPD_MEM, /* seg:base+index*scale+disp of the instruction; size is what is accessed, in bytes
		  * (0: not one access of fixed size, or none, as in LEA and INVLPG) */
	OPD_IMM, /* insn.imm, already sign-extended as the instruction wants it */
	OPD_REL, /* branch displacement insn.imm, relative to the next instruction */
	OPD_FAR, /* insn.imm2:insn.imm, size of the offset */
	OPD_ONE, /* the constant 1 of D0/D1 */
	OPD_SREG, /* reg SEG_ES ... SEG_GS */
	OPD_CR,
	OPD_DR,
	OPD_SRC, /* string source seg:rSI */
	OPD_DST, /* string destination ES:rDI */
	OPD_ST,	 /* x87 ST(reg) */
	OPD_MMX,
	OPD_XMM,
	OPD_YMM,
	OPD_ZMM,  /* reg 0-31 */
	OPD_KREG, /* AVX-512 mask as an operand */
	OPD_VSIB, /* as OPD_MEM with a vector index: insn.index 0-31, vsib_len bytes wide;
		   * size: one element */
};

struct operand {
	uint8_t kind; /* enum opd_kind */
	uint8_t reg;
	uint16_t size; /* bytes */
};

/* How the instruction was encoded. */
enum insn_enc { ENC_LEGACY, ENC_VEX, ENC_EVEX };

/* insn.prefix */
#define PFX_LOCK  0x01
#define PFX_REP	  0x02 /* F3 seen last of F2 F3, whether it means anything or not */
#define PFX_REPNE 0x04 /* F2 */
#define PFX_66	  0x08
#define PFX_67	  0x10
#define PFX_SEG	  0x20 /* a segment override that counts in this mode */

#define INSN_MAX_LEN  15
#define INSN_MAX_OPDS 5

struct insn {
	uint16_t id;	/* enum insn_id: row of insn_table */
	uint16_t op;	/* enum insn_op: what it does; the row's */
	uint8_t len;	/* bytes */
	uint8_t mode;	/* 2, 4, 8: code size it was decoded for */
	uint8_t opsize; /* effective operand size: 2, 4, 8 */
	uint8_t adsize; /* effective address size: 2, 4, 8 */
	uint8_t prefix; /* PFX_ */
	uint8_t rex;	/* 0, or the whole byte 40-4F */
	uint8_t enc;	/* enum insn_enc */
	uint8_t n_opds;
	struct operand opd[INSN_MAX_OPDS]; /* in Intel order, destination first; implicit vector
					    * operands (XMM0 of BLENDV) included */

	/* The memory operand's address, if has_mem. */
	uint8_t has_mem;
	uint8_t seg;   /* SEG_ES ... SEG_GS; in 64-bit mode the default DS or SS unless FS or GS */
	uint8_t base;  /* REG_RAX ... REG_R15, REG_BLOCK for RIP-relative, REG_ZERO for none */
	uint8_t index; /* REG_RAX ... REG_R15, REG_ZERO for none; vector register for OPD_VSIB */
	uint8_t scale; /* shift: 0-3 */
	uint8_t vsib_len; /* bytes of the vector index: 16 32 64 */
	int64_t disp;	  /* EVEX disp8*N already multiplied; moffs whole */

	int64_t imm;
	uint32_t imm2; /* ENTER's level, selector of a far pointer, EXTRQ's second */

	/* Encoding details for who re-emits the instruction. */
	uint8_t opcode;
	uint8_t map;   /* 0 one-byte, 1 0F, 2 0F38, 3 0F3A, 5, 6 (EVEX) */
	uint8_t modrm; /* valid if modrm_at */
	uint8_t opcode_at, modrm_at, disp_at, imm_at; /* offsets in the bytes; 0: absent (but
						       * opcode_at, which may be 0) */
	uint8_t disp_len, imm_len;
	uint8_t vl;	 /* vector length in bytes: 16 32 64 (VEX, EVEX), else 0 */
	uint8_t vex_w;	 /* W of VEX, EVEX */
	uint8_t mask;	 /* EVEX aaa */
	uint8_t zeroing; /* EVEX z */
	uint8_t bcast;	 /* EVEX b with a memory operand */
	uint8_t rc;	 /* EVEX b with registers: 0x80 | L'L (rounding or SAE) */
	uint8_t bytes[INSN_MAX_LEN + 1];
};

/* insn_desc.attr: what is said of an instruction as a whole. */
#define INSN_LOCKABLE  (1u << 0)  /* LOCK allowed with a memory destination */
#define INSN_ALIGNED   (1u << 1)  /* memory operand must be aligned to its size, else #GP */
#define INSN_MXCSR     (1u << 2)  /* reads or writes MXCSR (rounding, exceptions) */
#define INSN_READS_FL  (1u << 3)  /* reads arithmetic flags */
#define INSN_WRITES_FL (1u << 4)  /* writes some arithmetic flags */
#define INSN_MEM_DST   (1u << 5)  /* the memory operand is written */
#define INSN_MEM_SRC   (1u << 6)  /* the memory operand is read */
#define INSN_NOWAIT    (1u << 7)  /* x87: does not check for pending exceptions */
#define INSN_ENDS      (1u << 8)  /* may go elsewhere than the next instruction, or change mode */
#define INSN_USES_FPU  (1u << 9)  /* x87 or MMX: #NM by CR0.EM/TS */
#define INSN_USES_SSE  (1u << 10) /* legacy-encoded SSE: needs CR4.OSFXSR, not CR0.EM, TS */
#define INSN_USES_AVX  (1u << 11) /* VEX or EVEX vector: needs CR4.OSXSAVE and XCR0 bits, TS */
#define INSN_OPD1_DST  (1u << 12) /* the second operand is written too (XCHG, XADD, MULX) */
#define INSN_SRC_DST   (1u << 13) /* the first operand is read as well as written */
#define INSN_NO_DST    (1u << 14) /* the first operand is only read (CMP, TEST, PTEST, COMISS) */
#define INSN_K_MASK    (1u << 15) /* EVEX: merging or zeroing by the mask is allowed */
#define INSN_FAULT_SUP (1u << 16) /* masked-out memory elements do not fault */
#define INSN_NEEDS_VL  (1u << 17) /* EVEX: vector lengths 16 and 32 need AVX512VL */
#define INSN_FL_MAYBE                                                                              \
	(1u << 18) /* may leave the flags it writes as they were: a shift by CL or                 \
		    * imm8 when the count is 0, REP CMPS and SCAS when rCX is */
#define INSN_W_IS_64                                                                               \
	(1u << 19) /* VEX and EVEX: W chooses a 64-bit general register or integer,                \
		    * and is ignored outside 64-bit mode */

/* Flags of RFLAGS (RFLAGS_ARITH bits) that a row reads, writes, leaves undefined. */
struct insn_desc {
	const char *text; /* mnemonic, lower case */
	uint16_t op;	  /* enum insn_op */
	uint16_t feature; /* enum cpu_feature, FEAT_NONE for the base */
	uint32_t attr;
	uint16_t fl_read, fl_write, fl_undef;
	/* EVEX: bytes of an element that is broadcast or, in memory, masked; else 0. */
	uint8_t elem;
	uint8_t mask_unit; /* EVEX: bytes of vector length for each mask bit; 0: one bit in all */
};

/* Rows are named by the build-time generator: enum insn_id { INSN_INVALID, INSN_ADD_Eb_Gb, ...,
 * N_INSN } comes from decode_tables.h, made from insn_*.def. */
extern const struct insn_desc insn_table[];

/* What an instruction computes. Whole families that engines run natively share one op. */
/* clang-format off */
#define INSN_OPS(X)                                                                                \
	/* moves */                                                                                \
	X(MOV) X(MOVZX) X(MOVSX) X(LEA) X(XCHG) X(PUSH) X(POP) X(PUSHA) X(POPA) X(PUSHF) X(POPF)   \
	X(LAHF) X(SAHF) X(SALC) X(XLAT) X(CBW) X(CWD) X(CMOV) X(SET) X(BSWAP) X(MOVBE) X(MOVNTI)   \
	X(ENTER) X(LEAVE) X(LDS) X(LES) X(LSS) X(LFS) X(LGS) X(MOV_SREG) X(MOV_FROM_SREG)          \
	X(PUSH_SREG) X(POP_SREG) X(MOVDIRI) X(MOVDIR64B)                                           \
	/* arithmetic and logic */                                                                 \
	X(ADD) X(OR) X(ADC) X(SBB) X(AND) X(SUB) X(XOR) X(CMP) X(TEST) X(INC) X(DEC) X(NOT) X(NEG) \
	X(MUL) X(IMUL) X(IMUL2) X(IMUL3) X(DIV) X(IDIV) X(AAA) X(AAS) X(AAM) X(AAD) X(DAA) X(DAS)  \
	X(ROL) X(ROR) X(RCL) X(RCR) X(SHL) X(SHR) X(SAR) X(SHLD) X(SHRD)                           \
	X(BT) X(BTS) X(BTR) X(BTC) X(BSF) X(BSR) X(TZCNT) X(LZCNT) X(POPCNT) X(CRC32)              \
	X(ANDN) X(BEXTR) X(BLSI) X(BLSMSK) X(BLSR) X(BZHI) X(PDEP) X(PEXT) X(MULX) X(RORX)         \
	X(SARX) X(SHLX) X(SHRX) X(ADCX) X(ADOX)                                                    \
	X(CMPXCHG) X(CMPXCHG8B) X(CMPXCHG16B) X(XADD)                                              \
	/* strings: opd[0].size is the element */                                                  \
	X(MOVS) X(CMPS) X(STOS) X(LODS) X(SCAS) X(INS) X(OUTS)                                     \
	/* control flow */                                                                         \
	X(JMP) X(JMP_IND) X(JMP_FAR) X(JCC) X(JCXZ) X(LOOP) X(LOOPE) X(LOOPNE)                     \
	X(CALL) X(CALL_IND) X(CALL_FAR) X(RET) X(RET_FAR) X(IRET) X(INT) X(INT3) X(INTO) X(INT1)   \
	X(BOUND) X(UD) X(SYSCALL) X(SYSRET) X(SYSENTER) X(SYSEXIT) X(XBEGIN) X(XEND) X(XABORT)     \
	X(XTEST)                                                                                   \
	/* flags */                                                                                \
	X(CLC) X(STC) X(CMC) X(CLD) X(STD) X(CLI) X(STI) X(CLAC) X(STAC)                           \
	/* system */                                                                               \
	X(NOP) X(PAUSE) X(HLT) X(IN) X(OUT) X(CPUID) X(RDTSC) X(RDTSCP) X(RDPMC) X(RDMSR) X(WRMSR) \
	X(MOV_FROM_CR) X(MOV_TO_CR) X(MOV_FROM_DR) X(MOV_TO_DR) X(CLTS) X(LMSW) X(SMSW)            \
	X(LGDT) X(LIDT) X(SGDT) X(SIDT) X(LLDT) X(LTR) X(SLDT) X(STR) X(LAR) X(LSL) X(VERR)        \
	X(VERW) X(ARPL) X(INVD) X(WBINVD) X(INVLPG) X(INVPCID) X(SWAPGS) X(RSM) X(MONITOR)         \
	X(MWAIT) X(RDFSBASE) X(RDGSBASE) X(WRFSBASE) X(WRGSBASE) X(RDPID) X(RDRAND) X(RDSEED)      \
	X(CLFLUSH) X(FENCE) X(PREFETCH) X(SERIALIZE) X(VMCALL) X(VMMCALL) X(XGETBV) X(XSETBV)      \
	X(XSAVE) X(XSAVEOPT) X(XSAVEC) X(XSAVES) X(XRSTOR) X(XRSTORS) X(FXSAVE) X(FXRSTOR)         \
	X(LDMXCSR) X(STMXCSR)                                                                      \
	/* native families */                                                                      \
	X(X87)  /* every x87 instruction but FWAIT */                                              \
	X(FWAIT)                                                                                   \
	X(MMX)  /* MMX registers involved, EMMS, SSE with an MMX operand */                        \
	X(VEC)  /* SSE ... AVX-512, AES, SHA, PCLMUL, GFNI, mask instructions; operands explicit */ \
	X(VZERO)    /* VZEROUPPER, VZEROALL (vl 32) */                                             \
	X(MASKMOV)  /* MASKMOVDQU, VMASKMOVPS/PD, VPMASKMOVD/Q: memory elements by vector mask */   \
	X(MASKMOVQ) /* the MMX one */                                                              \
	X(GATHER) X(SCATTER)                                                                       \
	X(COMPRESS) X(EXPAND) /* to and from memory: VPCOMPRESS, VPEXPAND */
/* clang-format on */

enum insn_op {
	OP_INVALID,
#define X(n) OP_##n,
	INSN_OPS(X)
#undef X
		N_INSN_OPS
};

/* Condition number 0-15 of Jcc, SETcc, CMOVcc: the low half of the opcode. */
static inline unsigned insn_cond(const struct insn *i)
{
	return i->opcode & 15;
}

#endif
