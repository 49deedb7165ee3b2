/* What integer instructions compute: pure functions of operands and flags, no vCPU in sight.
 *
 * Guest and host are the same ISA, so each is the host's own instruction: results and all flags,
 * undefined ones included, are this CPU's. Flags travel as struct vcpu's cc holds them: what LAHF
 * gives in bits 8-15, OF in bit 0. size is the operand size in bytes (1, 2, 4, 8) and a constant
 * where these are inlined into handlers. Results are cut to size.
 */
#ifndef CPU_X86_SEM_H
#define CPU_X86_SEM_H

#include "base/bits.h"

/* Read flags back after the instruction; the output register must be A. */
#define SEM_SAVE "\n\tlahf\n\tseto %%al"
/* Put cc (in AX) into the host's flags. 0x7f + OF overflows exactly when OF is 1. */
#define SEM_LOAD "addb $0x7f, %%al\n\tsahf\n\t"

#define SEM_BY_SIZE(size, M)                                                                       \
	switch (size) {                                                                            \
	case 1: M(uint8_t, "b"); break;                                                            \
	case 2: M(uint16_t, "w"); break;                                                           \
	case 4: M(uint32_t, "l"); break;                                                           \
	default: M(uint64_t, "q"); break;                                                          \
	}

/* a OP b with flags out. */
#define SEM_BINARY(name, mnem)                                                                     \
	static inline __attribute__((always_inline))                                               \
	uint64_t sem_##name(unsigned size, uint64_t a, uint64_t b, uint32_t *cc)                   \
	{                                                                                          \
		uint16_t f;                                                                        \
		uint64_t r;                                                                        \
		SEM_BY_SIZE(size, SEM_BINARY_##name)                                               \
		*cc = f;                                                                           \
		return r;                                                                          \
	}
#define SEM_BINARY_ASM(T, text)                                                                    \
	do {                                                                                       \
		T x = (T)a;                                                                        \
		__asm__(text SEM_SAVE : "=&a"(f), "+r"(x) : "r"((T)b) : "cc");                     \
		r = x;                                                                             \
	} while (0)
#define SEM_BINARY_add(T, s) SEM_BINARY_ASM(T, "add" s " %2, %1")
#define SEM_BINARY_sub(T, s) SEM_BINARY_ASM(T, "sub" s " %2, %1")
#define SEM_BINARY_and(T, s) SEM_BINARY_ASM(T, "and" s " %2, %1")
#define SEM_BINARY_or(T, s)  SEM_BINARY_ASM(T, "or" s " %2, %1")
#define SEM_BINARY_xor(T, s) SEM_BINARY_ASM(T, "xor" s " %2, %1")
SEM_BINARY(add, "add")
SEM_BINARY(sub, "sub")
SEM_BINARY(and, "and")
SEM_BINARY(or, "or")
SEM_BINARY(xor, "xor")

/* a OP b that reads flags, or keeps some: flags in and out. */
#define SEM_BINARY_FL(name, text)                                                                  \
	static inline __attribute__((always_inline))                                               \
	uint64_t sem_##name(unsigned size, uint64_t a, uint64_t b, uint32_t *cc)                   \
	{                                                                                          \
		uint16_t f = (uint16_t)*cc;                                                        \
		uint64_t r;                                                                        \
		switch (size) {                                                                    \
		case 1: SEM_FL_ASM(uint8_t, text "b %2, %1"); break;                               \
		case 2: SEM_FL_ASM(uint16_t, text "w %2, %1"); break;                              \
		case 4: SEM_FL_ASM(uint32_t, text "l %2, %1"); break;                              \
		default: SEM_FL_ASM(uint64_t, text "q %2, %1"); break;                             \
		}                                                                                  \
		*cc = f;                                                                           \
		return r;                                                                          \
	}
#define SEM_FL_ASM(T, text)                                                                        \
	do {                                                                                       \
		T x = (T)a;                                                                        \
		__asm__(SEM_LOAD text SEM_SAVE : "+a"(f), "+r"(x) : "r"((T)b) : "cc");             \
		r = x;                                                                             \
	} while (0)
SEM_BINARY_FL(adc, "adc")
SEM_BINARY_FL(sbb, "sbb")

/* OP a: INC and DEC keep CF, NOT keeps all. */
#define SEM_UNARY(name)                                                                            \
	static inline __attribute__((always_inline))                                               \
	uint64_t sem_##name(unsigned size, uint64_t a, uint32_t *cc)                               \
	{                                                                                          \
		uint16_t f = (uint16_t)*cc;                                                        \
		uint64_t r;                                                                        \
		switch (size) {                                                                    \
		case 1: SEM_UNARY_ASM(uint8_t, #name "b %1"); break;                               \
		case 2: SEM_UNARY_ASM(uint16_t, #name "w %1"); break;                              \
		case 4: SEM_UNARY_ASM(uint32_t, #name "l %1"); break;                              \
		default: SEM_UNARY_ASM(uint64_t, #name "q %1"); break;                             \
		}                                                                                  \
		*cc = f;                                                                           \
		return r;                                                                          \
	}
#define SEM_UNARY_ASM(T, text)                                                                     \
	do {                                                                                       \
		T x = (T)a;                                                                        \
		__asm__(SEM_LOAD text SEM_SAVE : "+a"(f), "+r"(x) : : "cc");                       \
		r = x;                                                                             \
	} while (0)
SEM_UNARY(inc)
SEM_UNARY(dec)
SEM_UNARY(neg)

/* Shifts and rotates of a by count (an 8-bit number, not yet masked): a count of 0 after masking
 * keeps all flags, as the host does. */
#define SEM_SHIFT(name)                                                                            \
	static inline __attribute__((always_inline))                                               \
	uint64_t sem_##name(unsigned size, uint64_t a, uint64_t b, uint32_t *cc)                   \
	{                                                                                          \
		uint16_t f = (uint16_t)*cc;                                                        \
		uint64_t r;                                                                        \
		switch (size) {                                                                    \
		case 1: SEM_SHIFT_ASM(uint8_t, #name "b %%cl, %1"); break;                         \
		case 2: SEM_SHIFT_ASM(uint16_t, #name "w %%cl, %1"); break;                        \
		case 4: SEM_SHIFT_ASM(uint32_t, #name "l %%cl, %1"); break;                        \
		default: SEM_SHIFT_ASM(uint64_t, #name "q %%cl, %1"); break;                       \
		}                                                                                  \
		*cc = f;                                                                           \
		return r;                                                                          \
	}
#define SEM_SHIFT_ASM(T, text)                                                                     \
	do {                                                                                       \
		T x = (T)a;                                                                        \
		__asm__(SEM_LOAD text SEM_SAVE : "+a"(f), "+r"(x) : "c"((uint8_t)b) : "cc");       \
		r = x;                                                                             \
	} while (0)
SEM_SHIFT(rol)
SEM_SHIFT(ror)
SEM_SHIFT(rcl)
SEM_SHIFT(rcr)
SEM_SHIFT(shl)
SEM_SHIFT(shr)
SEM_SHIFT(sar)

/* SHLD and SHRD: a shifted, filled from b. size 2, 4, 8. */
#define SEM_SHIFT2(name)                                                                           \
	static inline uint64_t sem_##name(unsigned size, uint64_t a, uint64_t b, uint8_t count,    \
					  uint32_t *cc)                                            \
	{                                                                                          \
		uint16_t f = (uint16_t)*cc;                                                        \
		uint64_t r;                                                                        \
		switch (size) {                                                                    \
		case 2: SEM_SHIFT2_ASM(uint16_t, #name "w %%cl, %2, %1"); break;                   \
		case 4: SEM_SHIFT2_ASM(uint32_t, #name "l %%cl, %2, %1"); break;                   \
		default: SEM_SHIFT2_ASM(uint64_t, #name "q %%cl, %2, %1"); break;                  \
		}                                                                                  \
		*cc = f;                                                                           \
		return r;                                                                          \
	}
#define SEM_SHIFT2_ASM(T, text)                                                                    \
	do {                                                                                       \
		T x = (T)a;                                                                        \
		__asm__(SEM_LOAD text SEM_SAVE : "+a"(f), "+r"(x) : "r"((T)b), "c"(count) : "cc"); \
		r = x;                                                                             \
	} while (0)
SEM_SHIFT2(shld)
SEM_SHIFT2(shrd)

/* Two operands, the first written: r = OP(b) with a as the old destination. size 2, 4, 8. */
#define SEM_RM(name, mnem)                                                                         \
	static inline uint64_t sem_##name(unsigned size, uint64_t a, uint64_t b, uint32_t *cc)     \
	{                                                                                          \
		uint16_t f = (uint16_t)*cc;                                                        \
		uint64_t r;                                                                        \
		switch (size) {                                                                    \
		case 2: SEM_FL_ASM(uint16_t, mnem "w %2, %1"); break;                              \
		case 4: SEM_FL_ASM(uint32_t, mnem "l %2, %1"); break;                              \
		default: SEM_FL_ASM(uint64_t, mnem "q %2, %1"); break;                             \
		}                                                                                  \
		*cc = f;                                                                           \
		return r;                                                                          \
	}
SEM_RM(imul2, "imul")
SEM_RM(bsf, "bsf")
SEM_RM(bsr, "bsr")
SEM_RM(tzcnt, "tzcnt")
SEM_RM(lzcnt, "lzcnt")
SEM_RM(popcnt, "popcnt")
/* Bit b (already reduced to the operand's width) of a into CF. */
SEM_RM(bt, "bt")
SEM_RM(bts, "bts")
SEM_RM(btr, "btr")
SEM_RM(btc, "btc")

/* BMI and ADX: size 4 or 8. r = OP(a, b) in the manual's operand order. */
#define SEM_VEX(name, mnem)                                                                        \
	static inline uint64_t sem_##name(unsigned size, uint64_t a, uint64_t b, uint32_t *cc)     \
	{                                                                                          \
		uint16_t f = (uint16_t)*cc;                                                        \
		if (size == 4) {                                                                   \
			uint32_t x;                                                                \
			__asm__(SEM_LOAD mnem " %3, %2, %1" SEM_SAVE                               \
				: "+a"(f), "=&r"(x)                                                \
				: "r"((uint32_t)a), "r"((uint32_t)b)                               \
				: "cc");                                                           \
			*cc = f;                                                                   \
			return x;                                                                  \
		}                                                                                  \
		uint64_t x;                                                                        \
		__asm__(SEM_LOAD mnem " %3, %2, %1" SEM_SAVE                                       \
			: "+a"(f), "=&r"(x)                                                        \
			: "r"(a), "r"(b)                                                           \
			: "cc");                                                                   \
		*cc = f;                                                                           \
		return x;                                                                          \
	}
SEM_VEX(andn, "andn")	/* ~a & b */
SEM_VEX(bextr, "bextr") /* field b of a */
SEM_VEX(bzhi, "bzhi")
SEM_VEX(sarx, "sarx")
SEM_VEX(shlx, "shlx")
SEM_VEX(shrx, "shrx")
SEM_VEX(pdep, "pdep")
SEM_VEX(pext, "pext")

#define SEM_VEX1(name, mnem)                                                                       \
	static inline uint64_t sem_##name(unsigned size, uint64_t b, uint32_t *cc)                 \
	{                                                                                          \
		uint16_t f = (uint16_t)*cc;                                                        \
		if (size == 4) {                                                                   \
			uint32_t x;                                                                \
			__asm__(SEM_LOAD mnem " %2, %1" SEM_SAVE                                   \
				: "+a"(f), "=&r"(x)                                                \
				: "r"((uint32_t)b)                                                 \
				: "cc");                                                           \
			*cc = f;                                                                   \
			return x;                                                                  \
		}                                                                                  \
		uint64_t x;                                                                        \
		__asm__(SEM_LOAD mnem " %2, %1" SEM_SAVE : "+a"(f), "=&r"(x) : "r"(b) : "cc");     \
		*cc = f;                                                                           \
		return x;                                                                          \
	}
SEM_VEX1(blsi, "blsi")
SEM_VEX1(blsmsk, "blsmsk")
SEM_VEX1(blsr, "blsr")

/* ADCX and ADOX without the instructions: add with one flag, the others kept. */
static inline uint64_t sem_add_flag(unsigned size, uint64_t a, uint64_t b, uint32_t *cc,
				    uint32_t flag)
{
	unsigned __int128 sum = (unsigned __int128)(a & size_mask(size)) + (b & size_mask(size)) +
				(*cc & flag ? 1 : 0);

	*cc = (*cc & ~flag) | (sum >> (size * 8) ? flag : 0);
	return (uint64_t)sum & size_mask(size);
}

/* Unsigned and signed multiply of one operand: lo and hi halves; size 1 leaves AX in lo. */
#define SEM_MUL(name)                                                                              \
	static inline void sem_##name(unsigned size, uint64_t a, uint64_t b, uint64_t *lo,         \
				      uint64_t *hi, uint32_t *cc)                                  \
	{                                                                                          \
		uint64_t f;                                                                        \
		switch (size) {                                                                    \
		case 1: SEM_MUL_ASM(#name "b %b3"); break;                                         \
		case 2: SEM_MUL_ASM(#name "w %w3"); break;                                         \
		case 4: SEM_MUL_ASM(#name "l %k3"); break;                                         \
		default: SEM_MUL_ASM(#name "q %3"); break;                                         \
		}                                                                                  \
		*cc = f & 0xffff;                                                                  \
	}
#define SEM_MUL_ASM(text)                                                                          \
	__asm__(text "\n\tmov %%rax, %0" SEM_SAVE                                                  \
		: "=&r"(*lo), "=a"(f), "=&d"(*hi)                                                  \
		: "r"(b), "1"(a)                                                                   \
		: "cc")
SEM_MUL(mul)
SEM_MUL(imul)

/* Does condition cond (0-15: O B Z BE S P L LE and their opposites) hold? */
static inline __attribute__((always_inline)) bool sem_cond(unsigned cond, uint32_t cc)
{
	bool yes;

	switch (cond >> 1) {
	case 0: yes = cc & 1; break;
	case 1: yes = cc & 0x100; break;
	case 2: yes = cc & 0x4000; break;
	case 3: yes = cc & 0x4100; break;
	case 4: yes = cc & 0x8000; break;
	case 5: yes = cc & 0x400; break;
	case 6: yes = ((cc >> 15) ^ cc) & 1; break;
	default: yes = (cc & 0x4000) || (((cc >> 15) ^ cc) & 1); break;
	}
	return yes ^ (cond & 1);
}

#endif
