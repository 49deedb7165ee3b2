/* LAR, LSL, VERR, VERW: questions about a selector that do not fault on a bad answer. */
#include "cpu/x86/descriptor.h"
#include "cpu/x86/segment.h"

/* May a program at this CPL with this RPL see the descriptor at all? */
static bool is_visible(const struct vcpu *c, const struct desc *d)
{
	if (desc_is_conforming(d))
		return true;
	return c->cpl <= desc_dpl(d) && (d->sel & 3u) <= desc_dpl(d);
}

static enum x86_exc look_up(struct vcpu *c, uint16_t sel, struct desc *d, bool *ok)
{
	enum x86_exc r;

	*ok = false;
	if (sel_is_null(sel))
		return EXC_NONE;
	r = desc_find(c, sel, d, ok);
	if (!r && *ok)
		*ok = is_visible(c, d);
	return r;
}

/* A set of system types as a bit mask: bit n for type n. */
static bool type_in(const struct desc *d, unsigned set)
{
	return !desc_is_system(d) || set >> desc_type(d) & 1;
}

enum x86_exc seg_lar(struct vcpu *c, uint16_t sel, uint32_t *out, bool *ok)
{
	/* SDM 2A LAR, table of valid types: TSSs, LDT, call and task gates. */
	const unsigned legacy = 1u << SYS_TSS16 | 1u << SYS_LDT | 1u << SYS_TSS16_BUSY |
				1u << SYS_CALL16 | 1u << SYS_TASK_GATE | 1u << SYS_TSS32 |
				1u << SYS_TSS32_BUSY | 1u << SYS_CALL32;
	const unsigned ia32e =
		1u << SYS_LDT | 1u << SYS_TSS32 | 1u << SYS_TSS32_BUSY | 1u << SYS_CALL32;
	struct desc d;
	enum x86_exc r = look_up(c, sel, &d, ok);

	if (r || !*ok)
		return r;
	*ok = type_in(&d, c->long_mode ? ia32e : legacy);
	if (*ok)
		*out = (uint32_t)(d.lo >> 32) & 0x00f0ff00;
	return EXC_NONE;
}

enum x86_exc seg_lsl(struct vcpu *c, uint16_t sel, uint32_t *out, bool *ok)
{
	/* SDM 2A LSL: what has a limit. */
	const unsigned legacy = 1u << SYS_TSS16 | 1u << SYS_LDT | 1u << SYS_TSS16_BUSY |
				1u << SYS_TSS32 | 1u << SYS_TSS32_BUSY;
	const unsigned ia32e = 1u << SYS_LDT | 1u << SYS_TSS32 | 1u << SYS_TSS32_BUSY;
	struct desc d;
	enum x86_exc r = look_up(c, sel, &d, ok);

	if (r || !*ok)
		return r;
	*ok = type_in(&d, c->long_mode ? ia32e : legacy);
	if (*ok)
		*out = desc_limit(&d);
	return EXC_NONE;
}

enum x86_exc seg_verify(struct vcpu *c, uint16_t sel, bool write, bool *ok)
{
	struct desc d;
	enum x86_exc r = look_up(c, sel, &d, ok);

	if (!r && *ok)
		*ok = write ? desc_is_writable_data(&d) : desc_is_readable(&d);
	return r;
}
