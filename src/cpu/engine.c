#include "cpu/engine.h"

#include <string.h>

const struct engine *const engines[] = { &engine_dbt, &engine_interp, &engine_kvm, NULL };

const struct engine *engine_find(const char *name)
{
	for (unsigned n = 0; engines[n]; n++)
		if (strcmp(engines[n]->name, name) == 0)
			return engines[n];
	return NULL;
}
