#include "cpu/x86/descriptor.h"

#include "cpu/x86/fault.h"
#include "cpu/x86/vmem.h"

/* Where sel's entry is, if len bytes of it are inside the table. */
static bool locate(const struct vcpu *c, uint16_t sel, unsigned len, gva_t *at)
{
	const struct seg *ldt = &c->seg[SEG_LDTR];
	bool local = sel & 4;
	uint64_t base = local ? ldt->base : c->gdtr.base;
	uint32_t limit = local ? ldt->limit : c->gdtr.limit;
	uint32_t off = sel & ~7u;

	if (local && ldt->attr & ATTR_UNUSABLE)
		return false;
	*at = base + off;
	if (!c->long_mode)
		*at &= 0xffffffff;
	return off + len - 1 <= limit;
}

enum x86_exc desc_find(struct vcpu *c, uint16_t sel, struct desc *d, bool *found)
{
	d->hi = 0;
	d->sel = sel;
	*found = locate(c, sel, 8, &d->at);
	return *found ? vmem_read64(c, d->at, &d->lo, AS_SYSTEM) : EXC_NONE;
}

enum x86_exc desc_read(struct vcpu *c, uint16_t sel, enum x86_exc exc, struct desc *d)
{
	bool found;
	enum x86_exc r = desc_find(c, sel, d, &found);

	if (r)
		return r;
	return found ? EXC_NONE : exc_selector(c, exc, sel);
}

enum x86_exc desc_read_upper(struct vcpu *c, enum x86_exc exc, struct desc *d)
{
	gva_t at;
	enum x86_exc r;

	if (!c->long_mode)
		return EXC_NONE;
	if (!locate(c, d->sel, 16, &at))
		return exc_selector(c, exc, d->sel);
	r = vmem_read64(c, at + 8, &d->hi, AS_SYSTEM);
	if (r)
		return r;
	/* Bits 8-12 of the upper half's second word stand where a type would. */
	if (bits_get(d->hi, 40, 5))
		return exc_selector(c, exc, d->sel);
	d->hi &= 0xffffffff;
	return EXC_NONE;
}

/* Change bits of the descriptor's type byte with one locked operation, as hardware does: another
 * CPU may be editing the entry.
 */
static enum x86_exc change_type(struct vcpu *c, const struct desc *d, uint8_t set, uint8_t clear)
{
	gva_t at = d->at + 5;
	uint8_t *host, val;
	enum x86_exc r = vmem_host(c, at, 1, true, AS_SYSTEM, &host);

	if (r)
		return r;
	if (host) {
		if (clear)
			__atomic_fetch_and(host, (uint8_t)~clear, __ATOMIC_SEQ_CST);
		if (set)
			__atomic_fetch_or(host, set, __ATOMIC_SEQ_CST);
		vmem_stored(c, host, 1);
		return EXC_NONE;
	}
	/* A table in ROM or on a device: there is nothing to lock. */
	val = (uint8_t)((d->lo >> 40 & ~(uint64_t)clear) | set);
	return vmem_write(c, at, &val, 1, AS_SYSTEM);
}

enum x86_exc desc_set_accessed(struct vcpu *c, struct desc *d)
{
	enum x86_exc r;

	if (d->lo & BIT(40))
		return EXC_NONE;
	r = change_type(c, d, ATTR_ACCESSED, 0);
	if (!r)
		d->lo |= BIT(40);
	return r;
}

enum x86_exc desc_set_busy(struct vcpu *c, const struct desc *d, bool busy)
{
	return busy ? change_type(c, d, SYS_BUSY, 0) : change_type(c, d, 0, SYS_BUSY);
}

struct seg desc_to_seg(const struct desc *d, uint16_t sel)
{
	return (struct seg){
		.base = desc_base(d), .limit = desc_limit(d), .sel = sel, .attr = desc_attr(d)
	};
}

struct seg seg_null(uint16_t sel, unsigned dpl)
{
	return (struct seg){ .sel = sel, .attr = (uint16_t)(ATTR_UNUSABLE | dpl << 5) };
}
