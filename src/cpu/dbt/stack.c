/* The stacks that translated code runs on: see dbt_internal.h. */
#include "cpu/dbt/dbt_internal.h"

#include "base/err.h"

#include <errno.h>
#include <sys/mman.h>

int stacks_init(struct dbt *d, struct err *err)
{
	void *p = mmap(NULL, N_STACKS * STACK_BYTES, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return err_set(err, errno, "the translator's stacks");
	madvise(p, N_STACKS * STACK_BYTES, MADV_NOHUGEPAGE);
	d->stacks = p;
	return 0;
}

void stacks_fini(struct dbt *d)
{
	if (d->stacks)
		munmap(d->stacks, N_STACKS * STACK_BYTES);
}

void stacks_fill(struct dbt *d)
{
	const struct code_cache *k = d->cache;

	for (unsigned n = 0; n < N_STACKS; n++) {
		struct code_stack *s = &d->stack[n];

		s->top = (struct stack_entry *)(d->stacks + (n + 1) * STACK_BYTES) - STACK_PADDING;
		s->sp = (uint64_t)(uintptr_t)s->top;
		for (unsigned i = 0; i < STACK_PADDING; i++)
			s->top[i].code = (uint64_t)(uintptr_t)code_at(k, k->stubs.empty);
	}
}

/* The kernel's two spaces share one. */
static struct code_stack *stack_of(struct dbt *d, const struct space *s)
{
	long n = s - d->space;

	return &d->stack[n < SPACE_USER ? 0 : n - SPACE_USER + 1];
}

void stack_drop(struct dbt *d, const struct space *s)
{
	stack_of(d, s)->lost = true;
}

void stacks_drop(struct dbt *d)
{
	for (unsigned n = 0; n < N_STACKS; n++)
		d->stack[n].lost = true;
}

void stack_check(struct dbt *d)
{
	uint64_t voided = atomic_load_explicit(&d->cache->voided, memory_order_relaxed);

	if (unlikely(voided != d->void_seen)) {
		stacks_drop(d);
		d->void_seen = voided;
	}
	if (unlikely(d->stack_now->lost)) {
		d->stack_now->lost = false;
		d->ctx->sp = d->ctx->sp_top;
	}
}

void stack_load(struct dbt *d)
{
	struct code_stack *s = stack_of(d, d->now);

	d->stack_now = s;
	d->ctx->sp = s->sp;
	d->ctx->sp_top = (uint64_t)(uintptr_t)s->top;
	d->ctx->sp_limit = (uint64_t)(uintptr_t)(s->top - STACK_CALLS);
}

void stack_store(struct dbt *d)
{
	d->stack_now->sp = d->ctx->sp;
}
