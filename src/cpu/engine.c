#include "cpu/engine.h"

#include <string.h>

const struct engine *const engines[] = { &engine_dbt, &engine_interp, NULL };

const struct engine *engine_find(const char *name)
{
	for (unsigned n = 0; engines[n]; n++)
		if (strcmp(engines[n]->name, name) == 0)
			return engines[n];
	return NULL;
}

int engine_take(struct vcpu *c, const struct engine *e, struct err *err)
{
	const struct engine *from = c->engine;
	int ret = c->engine_state[e->slot] ? 0 : e->init(c, err);

	if (ret < 0 || from == e)
		return ret;
	if (from)
		from->pull(c);
	c->engine = e;
	c->tlb_watch = e->tlb_watch;
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
