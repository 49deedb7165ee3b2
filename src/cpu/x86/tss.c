#include "cpu/x86/tss.h"

#include "cpu/x86/descriptor.h"
#include "cpu/x86/fault.h"
#include "cpu/x86/segment.h"

#define TSS_IO_MAP_BASE 102
#define TSS64_RSP0	4
#define TSS64_IST1	36

/* -- Stacks --------------------------------------------------------------------------------- */

static bool tr_is_32bit(const struct vcpu *c)
{
	return (c->seg[SEG_TR].attr & ATTR_TYPE & ~SYS_BUSY) == SYS_TSS32;
}

static enum x86_exc read_inner(struct vcpu *c, unsigned dpl, uint16_t *ss, uint32_t *sp)
{
	const struct seg *tr = &c->seg[SEG_TR];
	unsigned word = tr_is_32bit(c) ? 4 : 2;
	uint32_t at = dpl * 2 * word + word;
	enum x86_exc r;

	if (tr->attr & ATTR_UNUSABLE || at + word + 1 > tr->limit)
		return exc_selector(c, EXC_TS, tr->sel);
	*sp = 0;
	r = vmem_read(c, (tr->base + at) & 0xffffffff, sp, word, AS_SYSTEM);
	if (!r)
		r = vmem_read16(c, (tr->base + at + word) & 0xffffffff, ss, AS_SYSTEM);
	return r;
}

static enum x86_exc check_inner_ss(struct vcpu *c, uint16_t sel, unsigned dpl, struct seg *ss)
{
	struct desc d;
	enum x86_exc r;

	if (sel_is_null(sel))
		return exc_selector(c, EXC_TS, sel);
	r = desc_read(c, sel, EXC_TS, &d);
	if (r)
		return r;
	if ((sel & 3u) != dpl || desc_dpl(&d) != dpl || !desc_is_writable_data(&d))
		return exc_selector(c, EXC_TS, sel);
	if (!desc_present(&d))
		return exc_selector(c, EXC_SS, sel);
	r = desc_set_accessed(c, &d);
	if (!r)
		*ss = desc_to_seg(&d, sel);
	return r;
}

enum x86_exc tss_inner_stack(struct vcpu *c, unsigned dpl, struct stack *s)
{
	uint16_t ss;
	uint32_t sp;
	enum x86_exc r = read_inner(c, dpl, &ss, &sp);

	if (!r)
		r = check_inner_ss(c, ss, dpl, &s->ss);
	if (r)
		return r;
	s->sp = sp;
	s->width = stack_width(false, &s->ss);
	s->as = AS_SYSTEM;
	s->error = ss & 0xfffcu;
	return EXC_NONE;
}

enum x86_exc tss_stack64(struct vcpu *c, unsigned dpl, unsigned ist, struct stack *s)
{
	const struct seg *tr = &c->seg[SEG_TR];
	uint32_t at = ist ? TSS64_IST1 + (ist - 1) * 8 : TSS64_RSP0 + dpl * 8;

	if (tr->attr & ATTR_UNUSABLE || at + 7 > tr->limit)
		return exc_selector(c, EXC_TS, tr->sel);
	s->ss = dpl == c->cpl ? c->seg[SEG_SS] : seg_null((uint16_t)dpl, dpl);
	s->width = 8;
	s->as = dpl == c->cpl ? AS_CPL : AS_SYSTEM;
	s->error = 0;
	return vmem_read64(c, tr->base + at, &s->sp, AS_SYSTEM);
}

/* -- Bitmaps -------------------------------------------------------------------------------- */

/* Offset of the I/O permission bitmap in the TSS. *exists is false where there is none: no 32-bit
 * TSS, or one that is too short. */
static enum x86_exc io_map(struct vcpu *c, uint16_t *off, bool *exists)
{
	const struct seg *tr = &c->seg[SEG_TR];

	*exists = !(tr->attr & ATTR_UNUSABLE) && tr_is_32bit(c) && tr->limit >= TSS_IO_MAP_BASE + 1;
	if (!*exists)
		return EXC_NONE;
	return vmem_read16(c, tr->base + TSS_IO_MAP_BASE, off, AS_SYSTEM);
}

/* SDM 1 19.5.2 "I/O Permission Bit Map". */
enum x86_exc io_check(struct vcpu *c, uint16_t port, unsigned size)
{
	const struct seg *tr = &c->seg[SEG_TR];
	uint16_t map, bits;
	uint32_t at;
	bool exists;
	enum x86_exc r;

	if (!(c->cr0 & CR0_PE) || (!is_v8086(c) && c->cpl <= iopl(c)))
		return EXC_NONE;
	r = io_map(c, &map, &exists);
	if (r)
		return r;
	if (!exists)
		return exc_gp0(c);
	/* Two bytes are always read, so the map needs a byte of ones behind its last. */
	at = map + port / 8u;
	if (at + 1 > tr->limit)
		return exc_gp0(c);
	r = vmem_read16(c, tr->base + at, &bits, AS_SYSTEM);
	if (r)
		return r;
	return bits >> (port & 7) & ((1u << size) - 1) ? exc_gp0(c) : EXC_NONE;
}

enum x86_exc tss_redirects(struct vcpu *c, uint8_t vector, bool *to_8086)
{
	const struct seg *tr = &c->seg[SEG_TR];
	uint16_t map;
	uint8_t bits;
	bool exists;
	enum x86_exc r = io_map(c, &map, &exists);

	if (r)
		return r;
	/* 32 bytes, just below the I/O map. */
	if (!exists || map < 32 || map - 32u + vector / 8u > tr->limit)
		return exc_gp0(c);
	r = vmem_read(c, tr->base + map - 32 + vector / 8u, &bits, 1, AS_SYSTEM);
	if (!r)
		*to_8086 = !(bits >> (vector & 7) & 1);
	return r;
}
