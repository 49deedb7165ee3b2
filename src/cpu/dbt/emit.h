/* Writing x86-64 machine code: the few forms that the translator puts around guest instructions.
 *
 * Registers are host numbers 0-15. Nothing here looks at space: who translates reserves it first.
 */
#ifndef CPU_DBT_EMIT_H
#define CPU_DBT_EMIT_H

#include "base/bits.h"

#include <string.h>

struct emit {
	uint8_t *p;	/* where the next byte goes, in the writable view */
	uint8_t *start; /* of the view: code offsets count from here */
};

/* Host registers by name. */
enum {
	H_RAX,
	H_RCX,
	H_RDX,
	H_RBX,
	H_RSP,
	H_RBP,
	H_RSI,
	H_RDI,
	H_R8,
	H_R9,
	H_R10,
	H_R11,
	H_R12,
	H_R13,
	H_R14,
	H_R15,
	H_NONE = 0xff, /* as base or index: none */
};

/* A memory operand of the host. */
struct hmem {
	uint8_t base, index; /* H_NONE for none; index is never H_RSP */
	uint8_t scale;	     /* shift, 0-3 */
	bool gs;
	int32_t disp;
};

static inline struct hmem h_gs(int32_t disp)
{
	return (struct hmem){ .base = H_NONE, .index = H_NONE, .gs = true, .disp = disp };
}

static inline struct hmem h_at(uint8_t base, int32_t disp)
{
	return (struct hmem){ .base = base, .index = H_NONE, .disp = disp };
}

static inline struct hmem h_sum(uint8_t base, uint8_t index)
{
	return (struct hmem){ .base = base, .index = index };
}

static inline uint32_t emit_at(const struct emit *e)
{
	return (uint32_t)(e->p - e->start);
}

static inline void e8(struct emit *e, uint8_t v)
{
	*e->p++ = v;
}

static inline void e32(struct emit *e, uint32_t v)
{
	memcpy(e->p, &v, 4);
	e->p += 4;
}

static inline void e64(struct emit *e, uint64_t v)
{
	memcpy(e->p, &v, 8);
	e->p += 8;
}

#define E_BYTES(e, ...)                                                                            \
	do {                                                                                       \
		const uint8_t bytes_[] = { __VA_ARGS__ };                                          \
		memcpy((e)->p, bytes_, sizeof(bytes_));                                            \
		(e)->p += sizeof(bytes_);                                                          \
	} while (0)

/* ModRM, SIB and displacement of m with reg's low three bits. */
static inline void e_modrm_mem(struct emit *e, unsigned reg, struct hmem m)
{
	unsigned r = (reg & 7) << 3;
	bool sib = m.index != H_NONE || m.base == H_NONE || (m.base & 7) == H_RSP;
	unsigned index = m.index == H_NONE ? 4 : m.index & 7u;
	unsigned mod = m.disp == (int8_t)m.disp ? 1 : 2;

	if (m.base == H_NONE) {
		e8(e, (uint8_t)(r | 4));
		e8(e, (uint8_t)(m.scale << 6 | index << 3 | 5));
		e32(e, (uint32_t)m.disp);
		return;
	}
	if (!m.disp && (m.base & 7) != H_RBP)
		mod = 0;
	e8(e, (uint8_t)(mod << 6 | r | (sib ? 4 : m.base & 7u)));
	if (sib)
		e8(e, (uint8_t)(m.scale << 6 | index << 3 | (m.base & 7u)));
	if (mod == 1)
		e8(e, (uint8_t)m.disp);
	else if (mod == 2)
		e32(e, (uint32_t)m.disp);
}

/* REX bits R, X, B for reg and m. */
static inline unsigned rex_mem(unsigned reg, struct hmem m)
{
	return (reg >> 1 & 4) | (m.index == H_NONE ? 0 : m.index >> 2 & 2u) |
	       (m.base == H_NONE ? 0 : m.base >> 3 & 1u);
}

static inline void e_rex(struct emit *e, unsigned w, unsigned rxb)
{
	if (w || rxb)
		e8(e, (uint8_t)(0x40 | w << 3 | rxb));
}

/* op reg, m of the one-byte map (or 0F if map is 1). w: 64 bits. */
static inline void e_op_mem(struct emit *e, unsigned w, unsigned map, uint8_t op, unsigned reg,
			    struct hmem m)
{
	if (m.gs)
		e8(e, 0x65);
	e_rex(e, w, rex_mem(reg, m));
	if (map)
		e8(e, 0x0f);
	e8(e, op);
	e_modrm_mem(e, reg, m);
}

static inline void e_op_reg(struct emit *e, unsigned w, unsigned map, uint8_t op, unsigned reg,
			    unsigned rm)
{
	e_rex(e, w, (reg >> 1 & 4) | (rm >> 3 & 1));
	if (map)
		e8(e, 0x0f);
	e8(e, op);
	e8(e, (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

/* One no-operation of n bytes, 0 to 7. */
static inline void e_nop(struct emit *e, unsigned n)
{
	static const uint8_t nops[8][8] = {
		{ 0 },
		{ 0x90 },
		{ 0x66, 0x90 },
		{ 0x0f, 0x1f, 0x00 },
		{ 0x0f, 0x1f, 0x40, 0x00 },
		{ 0x0f, 0x1f, 0x44, 0x00, 0x00 },
		{ 0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00 },
		{ 0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00 },
	};

	memcpy(e->p, nops[n], n);
	e->p += n;
}

static inline void e_mov(struct emit *e, unsigned dst, unsigned src)
{
	if (dst != src)
		e_op_reg(e, 1, 0, 0x8b, dst, src);
}

static inline void e_mov32(struct emit *e, unsigned dst, unsigned src)
{
	e_op_reg(e, 0, 0, 0x8b, dst, src);
}

static inline void e_load(struct emit *e, unsigned dst, struct hmem m)
{
	e_op_mem(e, 1, 0, 0x8b, dst, m);
}

static inline void e_load32(struct emit *e, unsigned dst, struct hmem m)
{
	e_op_mem(e, 0, 0, 0x8b, dst, m);
}

static inline void e_store(struct emit *e, struct hmem m, unsigned src)
{
	e_op_mem(e, 1, 0, 0x89, src, m);
}

static inline void e_store32(struct emit *e, struct hmem m, unsigned src)
{
	e_op_mem(e, 0, 0, 0x89, src, m);
}

static inline void e_store16(struct emit *e, struct hmem m, unsigned src)
{
	e8(e, 0x66);
	e_op_mem(e, 0, 0, 0x89, src, m);
}

static inline void e_lea(struct emit *e, unsigned dst, struct hmem m)
{
	e_op_mem(e, 1, 0, 0x8d, dst, m);
}

/* mov dst, imm in the shortest form; flags stay. */
static inline void e_mov_imm(struct emit *e, unsigned dst, uint64_t imm)
{
	if (imm == (uint32_t)imm) {
		e_rex(e, 0, dst >> 3);
		e8(e, (uint8_t)(0xb8 | (dst & 7)));
		e32(e, (uint32_t)imm);
	} else if ((int64_t)imm == (int32_t)imm) {
		e_rex(e, 1, dst >> 3);
		e8(e, 0xc7);
		e8(e, (uint8_t)(0xc0 | (dst & 7)));
		e32(e, (uint32_t)imm);
	} else {
		e_rex(e, 1, dst >> 3);
		e8(e, (uint8_t)(0xb8 | (dst & 7)));
		e64(e, imm);
	}
}

/* rorx dst, src, n: VEX.LZ.F2.0F3A.W1 F0. Flags stay. */
static inline void e_rorx(struct emit *e, unsigned dst, unsigned src, uint8_t n)
{
	E_BYTES(e, 0xc4, (uint8_t)((dst & 8 ? 0 : 0x80) | 0x40 | (src & 8 ? 0 : 0x20) | 3), 0xfb,
		0xf0, (uint8_t)(0xc0 | (dst & 7) << 3 | (src & 7)), n);
}

/* rorx dst, src, shift; movzx dst, dst16: 16 bits of an address, as the number of a slot. */
static inline void e_jump_slot(struct emit *e, unsigned dst, unsigned src, uint8_t shift)
{
	e_rorx(e, dst, src, shift);
	e_op_reg(e, 0, 1, 0xb7, dst, dst);
}

/* A jump or call whose target comes later: returns the offset of its rel32. */
static inline uint32_t e_jmp(struct emit *e)
{
	e8(e, 0xe9);
	e32(e, 0);
	return emit_at(e) - 4;
}

static inline uint32_t e_call(struct emit *e)
{
	e8(e, 0xe8);
	e32(e, 0);
	return emit_at(e) - 4;
}

static inline uint32_t e_jcc(struct emit *e, unsigned cond)
{
	e8(e, 0x0f);
	e8(e, (uint8_t)(0x80 | cond));
	e32(e, 0);
	return emit_at(e) - 4;
}

/* Point the rel32 at offset at to offset to. */
static inline void e_patch(const struct emit *e, uint32_t at, uint32_t to)
{
	uint32_t rel = to - (at + 4);

	memcpy(e->start + at, &rel, 4);
}

static inline void e_jmp_to(struct emit *e, uint32_t to)
{
	e_patch(e, e_jmp(e), to);
}

static inline void e_call_to(struct emit *e, uint32_t to)
{
	e8(e, 0xe8);
	e32(e, to - (emit_at(e) + 4));
}

/* Conditions as in Jcc's low nibble. */
enum { CC_JC = 2, CC_JZ = 4, CC_JNZ = 5, CC_JA = 7 };

#endif
