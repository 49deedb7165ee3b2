#include "cpu/x86/stack.h"

#include "cpu/x86/fault.h"
#include "cpu/x86/segment.h"
#include "cpu/x86/segment_internal.h"

uint8_t stack_width(bool code64, const struct seg *ss)
{
	if (code64)
		return 8;
	return ss->attr & ATTR_DB ? 4 : 2;
}

struct stack stack_now(const struct vcpu *c)
{
	return (struct stack){
		.ss = c->seg[SEG_SS], .sp = c->gpr[REG_RSP], .width = c->stack_size, .as = AS_CPL
	};
}

static enum x86_exc place(struct vcpu *c, const struct stack *s, uint64_t sp, unsigned size,
			  gva_t *gva)
{
	if (s->width == 8) {
		*gva = sp;
		return range_is_canonical(sp, size) ? EXC_NONE : exc_raise(c, EXC_SS, s->error);
	}
	if (s->ss.attr & ATTR_UNUSABLE || !seg_in_limit(&s->ss, sp, size))
		return exc_raise(c, EXC_SS, s->error);
	*gva = (s->ss.base + sp) & 0xffffffff;
	return EXC_NONE;
}

enum x86_exc stack_put(struct vcpu *c, struct stack *s, unsigned size, uint64_t val)
{
	uint64_t sp = (s->sp - size) & size_mask(s->width);
	gva_t gva;
	enum x86_exc r = place(c, s, sp, size, &gva);

	if (!r)
		r = vmem_write(c, gva, &val, size, s->as);
	if (!r)
		s->sp = sp;
	return r;
}

enum x86_exc stack_get(struct vcpu *c, struct stack *s, unsigned size, uint64_t *val)
{
	uint64_t sp = s->sp & size_mask(s->width), v = 0;
	gva_t gva;
	enum x86_exc r = place(c, s, sp, size, &gva);

	if (!r)
		r = vmem_read(c, gva, &v, size, s->as);
	if (r)
		return r;
	*val = v;
	s->sp = (sp + size) & size_mask(s->width);
	return EXC_NONE;
}

void stack_skip(struct stack *s, uint64_t n)
{
	s->sp = (s->sp + n) & size_mask(s->width);
}

void stack_commit(struct vcpu *c, const struct stack *s)
{
	uint64_t mask = size_mask(s->width);

	if (s->width == 2)
		c->gpr[REG_RSP] = (c->gpr[REG_RSP] & ~mask) | (s->sp & mask);
	else
		c->gpr[REG_RSP] = s->sp & mask;
}

enum x86_exc stack_push(struct vcpu *c, unsigned size, uint64_t val)
{
	struct stack s = stack_now(c);
	enum x86_exc r = stack_put(c, &s, size, val);

	if (!r)
		stack_commit(c, &s);
	return r;
}

enum x86_exc stack_pop(struct vcpu *c, unsigned size, uint64_t *val)
{
	struct stack s = stack_now(c);
	enum x86_exc r = stack_get(c, &s, size, val);

	if (!r)
		stack_commit(c, &s);
	return r;
}
