/* The tables that gen_decode.c makes from insn_*.def and decode.c walks.
 *
 * An opcode's root is a small tree. A branch looks at one property of the encoding (enum
 * decode_dim), a leaf names a row whose every constraint the way down has checked; 0 is #UD. What
 * the row's operands are taken from is its struct insn_form.
 */
#ifndef CPU_X86_DECODE_INTERNAL_H
#define CPU_X86_DECODE_INTERNAL_H

#include <stdint.h>

/* Opcode maps by encoding. */
enum decode_space {
	SPACE_1,
	SPACE_0F,
	SPACE_0F38,
	SPACE_0F3A, /* equal to insn.map */
	SPACE_VEX_0F,
	SPACE_VEX_0F38,
	SPACE_VEX_0F3A,
	SPACE_EVEX_0F,
	SPACE_EVEX_0F38,
	SPACE_EVEX_0F3A,
	N_SPACES
};

/* Properties a tree may branch on, in the order in which the generator splits. */
enum decode_dim {
	DIM_PP,	 /* mandatory prefix: none, 66, F3, F2 as VEX numbers them */
	DIM_MW,	 /* 2 * (64-bit mode) + W */
	DIM_MOD, /* ModRM.mod == 3 */
	DIM_REG, /* ModRM.reg, 3 bits */
	DIM_RM,	 /* ModRM.rm, 3 bits */
	DIM_L,	 /* VEX.L, EVEX.L'L; 2 for EVEX.b with registers */
	DIM_OSZ, /* operand size by prefixes alone: 0 1 2 for 16 32 64 bits */
	DIM_ASZ, /* address size, likewise */
	DIM_B,	 /* REX.B */
	N_DIMS
};

/* Where the number of an operand's register comes from. */
enum opd_from {
	FROM_NONE, /* no number: what is fixed, or no register */
	FROM_REG,  /* ModRM.reg */
	FROM_RM,   /* ModRM.rm: a register or memory */
	FROM_VVVV,
	FROM_IS4, /* imm8[7:4] */
	FROM_OP,  /* opcode[2:0] */
	N_FROM
};

/* Sizes that the encoding decides; see size_of[] in decode.c. */
/* clang-format off */
#define DECODE_SIZES(X)                                                                            \
	X(0) X(1) X(2) X(4) X(6) X(8) X(10) X(16) X(32) X(64) X(512)                               \
	X(v)   /* operand size */                                                                  \
	X(z)   /* operand size, at most 4 */                                                       \
	X(y)   /* 8 with W in 64-bit mode, else 4 */                                               \
	X(m)   /* 8 in 64-bit mode, else 4 */                                                      \
	X(ad)  /* address size */                                                                  \
	X(p)   /* far pointer in memory */                                                         \
	X(s)   /* descriptor table register in memory */                                           \
	X(a)   /* BOUND's pair */                                                                  \
	X(env) X(fst) /* x87 environment, state */                                                 \
	X(x) X(xh) X(xq) X(xe) /* vector length, half, quarter, eighth */                          \
	X(dup) /* MOVDDUP's source */                                                              \
	X(rxh) X(rxq) /* registers of those, at least 16 */
/* clang-format on */

enum decode_size {
#define X(n) SZ_##n,
	DECODE_SIZES(X)
#undef X
		N_SIZES
};

enum imm_form {
	IMM_NONE,
	IMM_B,	/* imm8, unsigned */
	IMM_BS, /* imm8, sign-extended */
	IMM_W,	/* imm16, unsigned */
	IMM_Z,	/* imm16 or imm32, sign-extended */
	IMM_V,	/* imm16, imm32 or imm64 */
	/* From here on not a single number. */
	IMM_FAR,   /* offset, then selector */
	IMM_ENTER, /* imm16, then imm8 */
	IMM_MOFFS, /* address-sized offset */
	N_IMM
};

/* How prefixes make the operand size. */
enum opsize_rule {
	OPSIZE_NORMAL,
	OPSIZE_D64,  /* 64 bits by default in 64-bit mode, 66 makes 16 */
	OPSIZE_F64,  /* always 64 bits there; Intel ignores 66 */
	OPSIZE_MODE, /* the mode's largest (MOV to and from CR and DR) */
	OPSIZE_NO66, /* 66 is a mandatory prefix, no size */
	N_OPSIZE_RULES
};

#define FORM_LOCKABLE	0x0001
#define FORM_NO_MEM	0x0002 /* mod is taken as 3 (MOV to and from CR and DR) */
#define FORM_VSIB	0x0004
#define FORM_NEEDS_K	0x0008 /* aaa = 0 is #UD */
#define FORM_MASK	0x0010 /* aaa allowed */
#define FORM_ZERO	0x0020 /* z allowed with a register destination */
#define FORM_BCAST	0x0040 /* b allowed with memory */
#define FORM_RC		0x0080 /* b allowed with registers: rounding or SAE */
#define FORM_VVVV	0x0100 /* vvvv is an operand; otherwise it must be 1111 */
#define FORM_DISP_EL	0x0200 /* disp8 counts elements, whatever the operand's size */
#define FORM_LIG	0x0400 /* L ignored */
#define FORM_DISTINCT	0x0800 /* destination and index, and VEX mask, must differ */
#define FORM_REG_LIMITS 0x1000 /* encodable registers that do not exist */

/* All that an operand is, as a register or not ([0]) and as ModRM memory ([1]). */
struct form_opd {
	uint8_t from;	 /* enum opd_from */
	uint8_t kind[2]; /* enum opd_kind; OPD_XMM for any vector */
	uint8_t size[2]; /* enum decode_size */
	uint8_t mask;	 /* what counts of the number */
	uint8_t fixed;	 /* number of a fixed register */
	uint8_t wide;	 /* 3 for vectors: bits of size / 32 that add to the kind; else 0 */
	uint8_t high;	 /* 1 if numbers 4-7 are AH CH DH BH without REX */
};

struct insn_form {
	uint16_t op;	/* enum insn_op */
	uint16_t flags; /* FORM_ */
	uint8_t n_opds;
	uint8_t imm;	/* enum imm_form */
	uint8_t opsize; /* enum opsize_rule */
	uint8_t elem;	/* bytes of an element that EVEX broadcasts or FORM_DISP_EL counts */
	struct form_opd opd[5];
};

/* A root or a tree's child: 0 is #UD, NODE_LEAF | row, else the index of a node. A node is its
 * dimension followed by a child for each value. */
#define NODE_LEAF 0x8000u

extern const uint16_t decode_roots[N_SPACES][256];
extern const uint8_t decode_has_modrm[N_SPACES][256];
extern const uint16_t decode_nodes[];
extern const struct insn_form decode_forms[];

#endif
