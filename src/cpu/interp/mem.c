/* Memory operands: misses, address forms beyond base + index + disp, read-modify-write. */
#include "cpu/interp/interp_internal.h"

#include "cpu/x86/segment.h"

int mem_load_slow(struct vcpu *c, gva_t gva, unsigned size)
{
	uint64_t v = 0;
	enum x86_exc exc = vmem_read(c, gva, &v, size, AS_CPL);

	c->gpr[REG_TMP] = v;
	return exc;
}

int mem_store_slow(struct vcpu *c, gva_t gva, unsigned size, uint64_t v)
{
	return vmem_write(c, gva, &v, size, AS_CPL);
}

uint64_t insn_offset(const struct vcpu *c, const struct uop *u, const struct insn *i)
{
	uint64_t base = c->gpr[i->base];
	uint64_t off;

	if (i->base == REG_BLOCK)
		base = uop_rip(c, u) + u->len;
	off = base + (c->gpr[i->index] << i->scale) + (uint64_t)i->disp;
	return off & size_mask(i->adsize);
}

int insn_linear(struct vcpu *c, const struct uop *u, int64_t delta, unsigned len, bool write,
		gva_t *gva)
{
	const struct insn *i = u->insn;
	uint64_t off = (insn_offset(c, u, i) + (uint64_t)delta) & size_mask(i->adsize);

	/* In 64-bit code a far end that is not canonical comes after alignment: the access finds
	 * it. The stack's is another exception, so it is found here. */
	if (c->code64 && i->seg != SEG_SS)
		len = 1;
	return seg_linear(c, i->seg, off, len, write, gva);
}

int rmw_begin(struct vcpu *c, gva_t gva, unsigned size, struct rmw *m, uint64_t *old)
{
	uint8_t *p = tlb_write(c, gva, size);
	int r;

	*m = (struct rmw){ .host = p, .gva = gva, .size = (uint8_t)size, .quiet = p != NULL };
	if (likely(p != NULL)) {
		*old = load_host(p, size);
		return 0;
	}
	if ((gva & (PAGE_SIZE - 1)) <= PAGE_SIZE - size) {
		r = vmem_host(c, gva, size, true, AS_CPL, &m->host);
		if (r)
			return r;
		if (m->host) {
			*old = load_host(m->host, size);
			return 0;
		}
	}
	/* Two pages, MMIO or ROM: all faults come before the first effect. */
	*old = 0;
	r = vmem_probe(c, gva, size, true, AS_CPL);
	return r ? r : (int)vmem_read(c, gva, old, size, AS_CPL);
}

static bool exchange(uint8_t *p, unsigned size, uint64_t *old, uint64_t val)
{
#define EXCHANGE(T)                                                                                \
	do {                                                                                       \
		T was = (T)*old;                                                                   \
		bool ok;                                                                           \
		/* Not the builtin: it would let a sanitizer or compiler assume alignment. */      \
		__asm__ volatile("lock cmpxchg %3, %1"                                             \
				 : "+a"(was), "+m"(*(T *)p), "=@ccz"(ok)                           \
				 : "r"((T)val)                                                     \
				 : "memory");                                                      \
		*old = was;                                                                        \
		return ok;                                                                         \
	} while (0)

	switch (size) {
	case 1: EXCHANGE(uint8_t);
	case 2: EXCHANGE(uint16_t);
	case 4: EXCHANGE(uint32_t);
	default: EXCHANGE(uint64_t);
	}
#undef EXCHANGE
}

/* Two pages, seen as one by all that do so under the same lock. */
static bool exchange_split(struct vcpu *c, const struct rmw *m, uint64_t *old, uint64_t val)
{
	_Atomic bool *split = &c->set->split;
	uint64_t now = 0;
	bool same;

	while (atomic_exchange_explicit(split, true, memory_order_acquire))
		__builtin_ia32_pause();
	vmem_read(c, m->gva, &now, m->size, AS_CPL);
	same = now == (*old & size_mask(m->size));
	if (same)
		vmem_write(c, m->gva, &val, m->size, AS_CPL);
	atomic_store_explicit(split, false, memory_order_release);
	*old = now;
	return same;
}

bool rmw_commit(struct vcpu *c, const struct rmw *m, bool locked, uint64_t *old, uint64_t val)
{
	if (unlikely(!m->host)) {
		/* It was probed, so this cannot fault but by a race with another vCPU's page
		 * tables; then the write is lost, as with a stale TLB. */
		if (locked && (m->gva & (PAGE_SIZE - 1)) > PAGE_SIZE - m->size)
			return exchange_split(c, m, old, val);
		vmem_write(c, m->gva, &val, m->size, AS_CPL);
		return true;
	}
	if (!locked)
		store_host(m->host, m->size, val);
	else if (!exchange(m->host, m->size, old, val))
		return false;
	if (unlikely(!m->quiet))
		vmem_stored(c, m->host, m->size);
	return true;
}
