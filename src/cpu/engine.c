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
