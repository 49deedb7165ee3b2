#include "cpu/x86/segment.h"

#include "cpu/x86/descriptor.h"
#include "cpu/x86/fault.h"
#include "cpu/x86/segment_internal.h"
#include "cpu/x86/stack.h"
#include "cpu/x86/vmem.h"

/* -- Checks of an access -------------------------------------------------------------------- */

bool seg_in_limit(const struct seg *s, uint64_t off, unsigned len)
{
	uint64_t last = off + len - 1;

	/* SDM 3A 5.3 "Limit Checking". */
	if ((s->attr & (ATTR_S | ATTR_CODE | ATTR_DOWN)) == (ATTR_S | ATTR_DOWN))
		return off > s->limit && last <= (s->attr & ATTR_DB ? 0xffffffff : 0xffff);
	/* Nothing is beyond 4 GiB: an access there wraps, as SDM 3A 5.3.1 allows. */
	return last <= s->limit || s->limit == 0xffffffff;
}

bool range_is_canonical(gva_t gva, unsigned len)
{
	gva_t last = gva + len - 1;

	/* The range may cross into the hole only from its lower half; the upper half's end wraps
	 * to 0, which is canonical again. */
	return is_canonical(gva) && is_canonical(last);
}

static enum x86_exc violation(struct vcpu *c, unsigned seg)
{
	return exc_raise(c, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
}

static bool type_allows(const struct vcpu *c, const struct seg *s, bool write)
{
	/* Real mode does not look at the type: the one that protected mode left may be code. */
	if (!(c->cr0 & CR0_PE))
		return true;
	if (s->attr & ATTR_CODE)
		return !write && s->attr & ATTR_WRITE;
	return !write || s->attr & ATTR_WRITE;
}

static enum x86_exc linear64(struct vcpu *c, unsigned seg, uint64_t off, unsigned len, gva_t *gva)
{
	*gva = off;
	if (seg == SEG_FS || seg == SEG_GS)
		*gva += c->seg[seg].base;
	return range_is_canonical(*gva, len) ? EXC_NONE : violation(c, seg);
}

enum x86_exc seg_linear(struct vcpu *c, unsigned seg, uint64_t off, unsigned len, bool write,
			gva_t *gva)
{
	const struct seg *s = &c->seg[seg];

	if (c->code64)
		return linear64(c, seg, off, len, gva);
	if (s->attr & ATTR_UNUSABLE || !type_allows(c, s, write) || !seg_in_limit(s, off, len))
		return violation(c, seg);
	*gva = (s->base + off) & 0xffffffff;
	return EXC_NONE;
}

enum x86_exc seg_fetch(struct vcpu *c, uint64_t off, unsigned len, gva_t *gva)
{
	const struct seg *s = &c->seg[SEG_CS];

	if (c->code64) {
		*gva = off;
		return range_is_canonical(off, len) ? EXC_NONE : exc_gp0(c);
	}
	if (off + len - 1 > s->limit)
		return exc_gp0(c);
	*gva = (s->base + off) & 0xffffffff;
	return EXC_NONE;
}

/* -- Loading segment registers -------------------------------------------------------------- */

void seg_set_real(struct vcpu *c, unsigned seg, uint16_t sel)
{
	struct seg *s = &c->seg[seg];

	s->sel = sel;
	s->base = (uint64_t)sel << 4;
	if (is_v8086(c)) {
		s->limit = 0xffff;
		s->attr = ATTR_P | ATTR_S | ATTR_DPL | ATTR_WRITE | ATTR_ACCESSED;
		return;
	}
	/* Limit and size stay as protected mode left them ("unreal mode"); a register that was
	 * null has none to keep. */
	if (s->attr & ATTR_UNUSABLE) {
		s->limit = 0xffff;
		s->attr = 0;
	}
	s->attr &= ATTR_DB | ATTR_G | ATTR_AVL;
	s->attr |= ATTR_P | ATTR_S | ATTR_WRITE | ATTR_ACCESSED;
}

/* SDM 2B MOV, "Loading a segment register while in protected mode ...", SS. */
static enum x86_exc check_ss(struct vcpu *c, uint16_t sel, struct desc *d)
{
	enum x86_exc r = desc_read(c, sel, EXC_GP, d);

	if (r)
		return r;
	if ((sel & 3) != c->cpl || !desc_is_writable_data(d) || desc_dpl(d) != c->cpl)
		return exc_selector(c, EXC_GP, sel);
	if (!desc_present(d))
		return exc_selector(c, EXC_SS, sel);
	return desc_set_accessed(c, d);
}

/* The same for DS, ES, FS, GS. */
static enum x86_exc check_data(struct vcpu *c, uint16_t sel, struct desc *d)
{
	enum x86_exc r = desc_read(c, sel, EXC_GP, d);

	if (r)
		return r;
	if (!desc_is_readable(d))
		return exc_selector(c, EXC_GP, sel);
	if (!desc_is_conforming(d) && ((sel & 3u) > desc_dpl(d) || c->cpl > desc_dpl(d)))
		return exc_selector(c, EXC_GP, sel);
	if (!desc_present(d))
		return exc_selector(c, EXC_NP, sel);
	return desc_set_accessed(c, d);
}

static enum x86_exc load_null(struct vcpu *c, unsigned seg, uint16_t sel)
{
	/* A null SS is for 64-bit mode inside rings 0 to 2 only. */
	if (seg == SEG_SS && (!c->code64 || c->cpl == 3 || (sel & 3) != c->cpl))
		return exc_gp0(c);
	c->seg[seg] = seg_null(sel, seg == SEG_SS ? c->cpl : 0);
	return EXC_NONE;
}

enum x86_exc seg_load(struct vcpu *c, unsigned seg, uint16_t sel)
{
	struct desc d;
	enum x86_exc r;

	if (!is_protected(c)) {
		seg_set_real(c, seg, sel);
		r = EXC_NONE;
	} else if (sel_is_null(sel)) {
		r = load_null(c, seg, sel);
	} else {
		r = seg == SEG_SS ? check_ss(c, sel, &d) : check_data(c, sel, &d);
		if (!r)
			c->seg[seg] = desc_to_seg(&d, sel);
	}
	if (!r)
		vcpu_update_mode(c);
	return r;
}

enum x86_exc seg_load_ldtr(struct vcpu *c, uint16_t sel)
{
	struct desc d;
	enum x86_exc r;

	if (sel_is_null(sel)) {
		c->seg[SEG_LDTR] = seg_null(sel, 0);
		return EXC_NONE;
	}
	if (sel & 4)
		return exc_selector(c, EXC_GP, sel);
	r = desc_read(c, sel, EXC_GP, &d);
	if (r)
		return r;
	if (!desc_is_system(&d) || desc_type(&d) != SYS_LDT)
		return exc_selector(c, EXC_GP, sel);
	if (!desc_present(&d))
		return exc_selector(c, EXC_NP, sel);
	r = desc_read_upper(c, EXC_GP, &d);
	if (r)
		return r;
	if (c->long_mode && !is_canonical(desc_base(&d)))
		return exc_selector(c, EXC_GP, sel);
	c->seg[SEG_LDTR] = desc_to_seg(&d, sel);
	return EXC_NONE;
}

static bool is_available_tss(const struct vcpu *c, const struct desc *d)
{
	if (!desc_is_system(d))
		return false;
	return desc_type(d) == SYS_TSS32 || (desc_type(d) == SYS_TSS16 && !c->long_mode);
}

enum x86_exc seg_load_tr(struct vcpu *c, uint16_t sel)
{
	struct desc d;
	enum x86_exc r;

	if (sel_is_null(sel))
		return exc_gp0(c);
	if (sel & 4)
		return exc_selector(c, EXC_GP, sel);
	r = desc_read(c, sel, EXC_GP, &d);
	if (r)
		return r;
	if (!is_available_tss(c, &d))
		return exc_selector(c, EXC_GP, sel);
	if (!desc_present(&d))
		return exc_selector(c, EXC_NP, sel);
	r = desc_read_upper(c, EXC_GP, &d);
	if (r)
		return r;
	if (c->long_mode && !is_canonical(desc_base(&d)))
		return exc_selector(c, EXC_GP, sel);
	r = desc_set_busy(c, &d, true);
	if (r)
		return r;
	c->seg[SEG_TR] = desc_to_seg(&d, sel);
	c->seg[SEG_TR].attr |= SYS_BUSY;
	return EXC_NONE;
}
