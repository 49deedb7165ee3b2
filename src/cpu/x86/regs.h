/* Numbers and bits of the x86-64 registers, named as the Intel SDM names them. */
#ifndef CPU_X86_REGS_H
#define CPU_X86_REGS_H

enum {
	REG_RAX,
	REG_RCX,
	REG_RDX,
	REG_RBX,
	REG_RSP,
	REG_RBP,
	REG_RSI,
	REG_RDI,
	REG_R8,
	REG_R9,
	REG_R10,
	REG_R11,
	REG_R12,
	REG_R13,
	REG_R14,
	REG_R15,
	REG_BLOCK, /* RIP-relative base; see struct vcpu */
	REG_ZERO,  /* no base or no index */
	REG_EA,	   /* engine scratch: a linear address computed ahead */
	REG_TMP,   /* engine scratch: an operand loaded ahead */
	N_GPR_SLOTS
};

enum {
	SEG_ES,
	SEG_CS,
	SEG_SS,
	SEG_DS,
	SEG_FS,
	SEG_GS,
	SEG_FLAT, /* base 0: what 64-bit mode makes of ES CS SS DS */
	SEG_LDTR,
	SEG_TR,
	N_SEGS
};

/* struct seg's attr. */
#define ATTR_TYPE	  0x000f
#define ATTR_ACCESSED	  0x0001
#define ATTR_WRITE	  0x0002 /* data: writable; code: readable */
#define ATTR_DOWN	  0x0004 /* data: expand-down; code: conforming */
#define ATTR_CODE	  0x0008
#define ATTR_S		  0x0010 /* code or data, not system */
#define ATTR_DPL	  0x0060
#define ATTR_P		  0x0080
#define ATTR_UNUSABLE	  0x0100 /* not hardware's: loaded with a null selector */
#define ATTR_AVL	  0x1000
#define ATTR_L		  0x2000
#define ATTR_DB		  0x4000
#define ATTR_G		  0x8000
#define ATTR_DPL_OF(attr) (((attr) >> 5) & 3)

#define RFLAGS_CF	 (1u << 0)
#define RFLAGS_PF	 (1u << 2)
#define RFLAGS_AF	 (1u << 4)
#define RFLAGS_ZF	 (1u << 6)
#define RFLAGS_SF	 (1u << 7)
#define RFLAGS_TF	 (1u << 8)
#define RFLAGS_IF	 (1u << 9)
#define RFLAGS_DF	 (1u << 10)
#define RFLAGS_OF	 (1u << 11)
#define RFLAGS_IOPL	 (3u << 12)
#define RFLAGS_NT	 (1u << 14)
#define RFLAGS_RF	 (1u << 16)
#define RFLAGS_VM	 (1u << 17)
#define RFLAGS_AC	 (1u << 18)
#define RFLAGS_VIF	 (1u << 19)
#define RFLAGS_VIP	 (1u << 20)
#define RFLAGS_ID	 (1u << 21)
#define RFLAGS_FIXED1	 (1u << 1)
#define RFLAGS_ARITH	 0x8d5u
#define RFLAGS_REST_MASK 0x3f7700u /* all that exist, without the arithmetic six */

#define CR0_PE (1u << 0)
#define CR0_MP (1u << 1)
#define CR0_EM (1u << 2)
#define CR0_TS (1u << 3)
#define CR0_ET (1u << 4)
#define CR0_NE (1u << 5)
#define CR0_WP (1u << 16)
#define CR0_AM (1u << 18)
#define CR0_NW (1u << 29)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)

#define CR3_PCID_MASK 0xfffull
#define CR3_NOFLUSH   (1ull << 63)

#define CR4_VME	       (1u << 0)
#define CR4_PVI	       (1u << 1)
#define CR4_TSD	       (1u << 2)
#define CR4_DE	       (1u << 3)
#define CR4_PSE	       (1u << 4)
#define CR4_PAE	       (1u << 5)
#define CR4_MCE	       (1u << 6)
#define CR4_PGE	       (1u << 7)
#define CR4_PCE	       (1u << 8)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP       (1u << 11)
#define CR4_FSGSBASE   (1u << 16)
#define CR4_PCIDE      (1u << 17)
#define CR4_OSXSAVE    (1u << 18)
#define CR4_SMEP       (1u << 20)
#define CR4_SMAP       (1u << 21)

#define EFER_SCE   (1u << 0)
#define EFER_LME   (1u << 8)
#define EFER_LMA   (1u << 10)
#define EFER_NXE   (1u << 11)
#define EFER_FFXSR (1u << 14)

#define DR6_B0	   (1u << 0)
#define DR6_BD	   (1u << 13)
#define DR6_BS	   (1u << 14)
#define DR6_BT	   (1u << 15)
#define DR6_FIXED1 0xffff0ff0u
#define DR7_GD	   (1u << 13)
#define DR7_FIXED1 0x400u

#define XCR0_X87       (1u << 0)
#define XCR0_SSE       (1u << 1)
#define XCR0_AVX       (1u << 2)
#define XCR0_OPMASK    (1u << 5)
#define XCR0_ZMM_HI256 (1u << 6)
#define XCR0_HI16_ZMM  (1u << 7)
#define XCR0_AVX512    (XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM)

/* struct vcpu's shadow. */
#define SHADOW_STI    1
#define SHADOW_MOV_SS 2

/* What a guest instruction did: 0, or the exception it raises. Values passed up, never jumps. The
 * error code is in vcpu.exc_error, the address of EXC_PF in vcpu.exc_cr2.
 */
enum x86_exc {
	EXC_NONE = 0,
	EXC_DE = 0x100,
	EXC_DB,
	EXC_NMI,
	EXC_BP,
	EXC_OF,
	EXC_BR,
	EXC_UD,
	EXC_NM,
	EXC_DF,
	EXC_CSO,
	EXC_TS,
	EXC_NP,
	EXC_SS,
	EXC_GP,
	EXC_PF,
	EXC_MF = 0x110,
	EXC_AC,
	EXC_MC,
	EXC_XM,
	EXC_VE,
	EXC_CP,
	EXC_ALONE = 0x1fe,    /* none: vcpu.no_devices stands in the way, start over without */
	EXC_SHUTDOWN = 0x1ff, /* triple fault */
};
#define EXC_VECTOR(exc) ((unsigned)(exc)&0xff)

#endif
