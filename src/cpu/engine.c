#include "cpu/engine.h"

#include "cpu/dbt/dbt.h"
#include "cpu/kvm/probe.h"

#include <string.h>

const struct engine *const engines[] = { &engine_dbt, &engine_interp, &engine_kvm, NULL };

const struct engine *engine_find(const char *name)
{
	for (unsigned n = 0; engines[n]; n++)
		if (strcmp(engines[n]->name, name) == 0)
			return engines[n];
	return NULL;
}

int engine_prepare(struct vcpu *c, const struct engine *e, struct err *err)
{
	return c->engine_state[e->slot] ? 0 : e->init(c, err);
}

int engine_take(struct vcpu *c, const struct engine *e, struct err *err)
{
	const struct engine *from = c->engine;
	int ret = engine_prepare(c, e, err);

	if (ret < 0 || from == e)
		return ret;
	if (from)
		from->pull(c);
	c->engine = e;
	c->tlb_watch = e->tlb_watch;
	/* What was derived from code that has changed. */
	if (from && from->stores_unseen)
		e->inval(c, 0, 0);
	e->push(c);
	return 0;
}

void engine_inval(struct vcpu *c, gpa_t gpa, uint64_t len)
{
	for (unsigned n = 0; engines[n]; n++)
		if (c->engine_state[engines[n]->slot])
			engines[n]->inval(c, gpa, len);
}

void engine_leave(struct vcpu *c)
{
	c->engine = NULL;
	c->tlb_watch = NULL;
	for (unsigned n = 0; engines[n]; n++)
		if (c->engine_state[engines[n]->slot])
			engines[n]->fini(c);
}

const struct engine *engine_auto(const struct kvm_probe *p)
{
	char why[8];

	if (p && kvm_probe_accepts(p, why, sizeof(why)))
		return &engine_kvm;
	return dbt_is_possible() ? &engine_dbt : &engine_interp;
}

const struct engine *engine_after(const struct engine *e)
{
	if (e == &engine_kvm)
		return &engine_dbt;
	return e == &engine_dbt ? &engine_interp : NULL;
}
