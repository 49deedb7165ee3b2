/* Vector instructions whose memory accesses are many: masked moves, gathers, scatters, compress and
 * expand. Elements are accessed one by one, in order, as the SDM's pseudo-code has it; a fault
 * keeps what gathers and scatters have completed.
 */
#include "cpu/interp/vector.h"

#include "cpu/interp/operand.h"

#define MAX_VL 64

/* Sign bit of element n of size bytes. */
static bool sign_of(const uint8_t *v, unsigned n, unsigned size)
{
	return v[n * size + size - 1] >> 7;
}

static uint64_t signs(const uint8_t *v, unsigned n, unsigned size)
{
	uint64_t bits = 0;

	for (unsigned i = 0; i < n; i++)
		bits |= (uint64_t)sign_of(v, i, size) << i;
	return bits;
}

/* Where len bytes at byte delta of DS:rDI are. */
static int byte_linear(struct vcpu *c, const struct insn *i, unsigned delta, unsigned len,
		       gva_t *gva)
{
	uint64_t off = (c->gpr[REG_RDI] + delta) & size_mask(i->adsize);

	/* In 64-bit code a far end that is not canonical comes after alignment: the access finds
	 * it. */
	return seg_linear(c, i->seg, off, c->code64 ? 1 : len, true, gva);
}

/* MASKMOVDQU and MASKMOVQ: bytes of the first register to DS:rDI where the second's are negative.
 */
static int maskmov_bytes(struct vcpu *c, const struct insn *i)
{
	bool mmx = i->op == OP_MASKMOVQ;
	unsigned n = mmx ? 8 : 16, src = 0, mask = 1;
	const uint8_t *data, *by;
	uint64_t active;
	gva_t gva;
	int r = 0;

	/* The implicit memory operand may or may not stand first. */
	while (src < i->n_opds && i->opd[src].kind != OPD_XMM && i->opd[src].kind != OPD_MMX)
		src++;
	mask = src + 1;
	data = mmx ? c->fpu.fx + 32 + i->opd[src].reg * 16 : c->fpu.zmm[i->opd[src].reg];
	by = mmx ? c->fpu.fx + 32 + i->opd[mask].reg * 16 : c->fpu.zmm[i->opd[mask].reg];
	active = signs(by, n, 1);
	/* All of it must be writable, whatever the mask, the upper half first: that is up to the
	 * processor (SDM 2B MASKMOVDQU), and this is what those at hand do. */
	for (unsigned half = n; !r && half; half -= 8) {
		r = byte_linear(c, i, half - 8, 8, &gva);
		if (!r)
			r = vmem_probe(c, gva, 8, true, AS_CPL);
	}
	for (unsigned k = 0; !r && k < n; k++) {
		if (!(active >> k & 1))
			continue;
		byte_linear(c, i, k, 1, &gva);
		r = vmem_write(c, gva, data + k, 1, AS_UNALIGNED);
	}
	return r;
}

/* Element size: VMASKMOVPS is 2C, 2E, VMASKMOVPD 2D, 2F; VPMASKMOVD and Q differ in W. */
static unsigned maskmov_size(const struct insn *i)
{
	return i->opcode & 0x80 ? (i->vex_w ? 8 : 4) : (i->opcode & 1 ? 8 : 4);
}

/* VMASKMOVPS/PD, VPMASKMOVD/Q: the mask is the second operand. */
static NOINLINE int do_x_maskmov(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	unsigned size = maskmov_size(i);
	struct elements e;
	uint8_t buf[MAX_VL] = { 0 };
	int r = vector_check(c, i);

	if (r)
		return r;
	if (i->op == OP_MASKMOVQ) {
		r = x87_check_pending(c);
		if (r)
			return r;
		mmx_begin(c);
	}
	if (i->op == OP_MASKMOVQ || i->map == 1)
		return maskmov_bytes(c, i);
	e = (struct elements){ .n = i->vl / size, .size = size };
	e.active = signs(c->fpu.zmm[i->opd[1].reg], e.n, size);
	if (i->opd[0].kind == OPD_MEM)
		return elements_write(c, u, &e, c->fpu.zmm[i->opd[2].reg]);
	r = elements_read(c, u, &e, buf);
	if (!r)
		memcpy(c->fpu.zmm[i->opd[0].reg], buf, MAX_VL);
	return r;
}
HANDLER(x_maskmov)

/* -- Gather and scatter ----------------------------------------------------------------------- */

struct vsib {
	unsigned n;	/* elements */
	unsigned size;	/* of one, in bytes */
	unsigned index; /* size of an index */
};

static struct vsib vsib_of(const struct insn *i, const struct operand *mem, unsigned vl)
{
	/* Opcode bit 0: quadword indices; W: quadword elements. */
	struct vsib v = { .size = mem->size, .index = i->opcode & 1 ? 8 : 4 };

	v.n = vl / MAX(v.size, v.index);
	return v;
}

static int element_linear(struct vcpu *c, const struct uop *u, const struct vsib *v, unsigned n,
			  bool write, gva_t *gva)
{
	const struct insn *i = u->insn;
	const uint8_t *x = c->fpu.zmm[i->index] + n * v->index;
	int64_t index = v->index == 8 ? (int64_t)load64(x) : (int32_t)load32(x);
	uint64_t base = i->base == REG_BLOCK ? uop_rip(c, u) + u->len : c->gpr[i->base];
	uint64_t off = base + ((uint64_t)index << i->scale) + (uint64_t)i->disp;

	return seg_linear(c, i->seg, off & size_mask(i->adsize), v->size, write, gva);
}

/* Clear what lies beyond the n elements of the destination. */
static void clear_rest(uint8_t *reg, unsigned used)
{
	memset(reg + used, 0, MAX_VL - used);
}

/* A fault after part of the work gives way to the single-step trap that is due: the instruction
 * goes on afterwards (SDM 2C VGATHERDPS). */
static int fault_midway(struct vcpu *c, const struct uop *u, int r, bool begun)
{
	if (!begun || !(c->rflags_rest & RFLAGS_TF))
		return r;
	c->rip = uop_rip(c, u);
	interp_of(c)->in_repeat = true;
	return EXEC_END;
}

/* One element into place; the first that arrives clears what lies beyond the vector length. */
static int gather_element(struct vcpu *c, const struct vsib *v, gva_t gva, uint8_t *dst, unsigned n,
			  unsigned vl)
{
	int r = vmem_read(c, gva, dst + n * v->size, v->size, AS_UNALIGNED);

	if (!r)
		clear_rest(dst, vl);
	return r;
}

/* AVX2 gather: destination, memory, mask register whose sign bits are cleared as it goes. */
static int gather_avx2(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	struct vsib v = vsib_of(i, &i->opd[1], i->vl);
	uint8_t *dst = c->fpu.zmm[i->opd[0].reg], *mask = c->fpu.zmm[i->opd[2].reg];
	bool begun = false;
	gva_t gva;

	/* Only the sign counts, but all of an element is set, also of those beyond the last. */
	for (unsigned n = 0; n < i->vl / v.size; n++)
		memset(mask + n * v.size, sign_of(mask, n, v.size) ? 0xff : 0, v.size);
	clear_rest(mask, i->vl);
	for (unsigned n = 0; n < v.n; n++) {
		int r = 0;

		if (sign_of(mask, n, v.size)) {
			r = element_linear(c, u, &v, n, false, &gva);
			if (!r)
				r = gather_element(c, &v, gva, dst, n, i->vl);
			begun |= !r;
		}
		if (r)
			return fault_midway(c, u, r, begun);
		memset(mask + n * v.size, 0, v.size);
	}
	clear_rest(dst, v.n * v.size);
	memset(mask, 0, i->vl);
	return 0;
}

static int gather_evex(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	struct vsib v = vsib_of(i, &i->opd[1], i->vl);
	uint8_t *dst = c->fpu.zmm[i->opd[0].reg];
	uint64_t *k = &c->fpu.k[i->mask];
	bool begun = false;
	gva_t gva;

	for (unsigned n = 0; n < v.n; n++) {
		int r = 0;

		if (*k >> n & 1) {
			r = element_linear(c, u, &v, n, false, &gva);
			if (!r)
				r = gather_element(c, &v, gva, dst, n, i->vl);
			begun |= !r;
		}
		if (r)
			return fault_midway(c, u, r, begun);
		*k &= ~BIT(n);
	}
	*k = 0;
	clear_rest(dst, v.n * v.size);
	return 0;
}

static int scatter(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	struct vsib v = vsib_of(i, &i->opd[0], i->vl);
	const uint8_t *src = c->fpu.zmm[i->opd[1].reg];
	uint64_t *k = &c->fpu.k[i->mask];
	bool begun = false;
	gva_t gva;

	for (unsigned n = 0; n < v.n; n++) {
		int r = 0;

		if (*k >> n & 1) {
			r = element_linear(c, u, &v, n, true, &gva);
			if (!r)
				r = vmem_write(c, gva, src + n * v.size, v.size, AS_UNALIGNED);
			begun |= !r;
		}
		if (r)
			return fault_midway(c, u, r, begun);
		*k &= ~BIT(n);
	}
	*k = 0;
	return 0;
}

static NOINLINE int do_x_gather(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	int r = vector_check(c, i);

	if (r)
		return r;
	if (i->op == OP_SCATTER)
		return scatter(c, u);
	return i->enc == ENC_EVEX ? gather_evex(c, u) : gather_avx2(c, u);
}
HANDLER(x_gather)

/* -- Compress and expand ---------------------------------------------------------------------- */

/* Memory holds only the active elements, side by side. */
static NOINLINE int do_x_compress(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint8_t *buf = interp_of(c)->bounce;
	struct elements e;
	unsigned size;
	gva_t gva = 0;
	int r = vector_check(c, i);

	if (r || !i->has_mem)
		return r ? r : vector_native(c, u, NULL);
	e = evex_elements(c, i, i->vl);
	size = (unsigned)__builtin_popcountll(e.active) * e.size;
	if (size)
		r = vector_linear(c, u, 0, size, i->op == OP_COMPRESS, &gva);
	if (r)
		return r;
	if (i->op == OP_EXPAND) {
		memset(buf, 0, MAX_VL);
		if (size)
			r = vmem_read(c, gva, buf, size, AS_UNALIGNED);
		return r ? r : vector_native(c, u, buf);
	}
	if (size)
		r = vmem_probe(c, gva, size, true, AS_UNALIGNED);
	if (!r)
		r = vector_native(c, u, buf);
	if (!r && size)
		r = vmem_write(c, gva, buf, size, AS_UNALIGNED);
	return r;
}
HANDLER(x_compress)
