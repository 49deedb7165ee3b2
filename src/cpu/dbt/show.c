/* Translations for people to look at: both sides as text, and names for perf. */
#include "cpu/dbt/dbt_internal.h"

#include "base/trace.h"
#include "cpu/interp/disas.h"

#include <stdio.h>
#include <unistd.h>

static void show_host(const struct code_cache *k, uint32_t from, uint32_t to)
{
	char text[DISAS_TEXT_BYTES];

	while (from < to) {
		unsigned n =
			disas(8, (uintptr_t)k->code.rx + from, k->code.rw + from, to - from, text);

		trace_print(TRACE_DBT, "        %07x  %s", from, text);
		from += n;
	}
}

/* The code that stands behind guest instruction n's mark. */
static uint32_t mark_end(const struct code_cache *k, const struct tb *t, uint32_t n)
{
	return n + 1 < k->n_marks ? k->mark[n + 1].code : t->end;
}

static void show_code(const struct code_cache *k, const struct tb *t, uint64_t rip)
{
	uint64_t page = rip - t->off;
	char text[DISAS_TEXT_BYTES];
	uint32_t first = k->n_marks;

	while (first > 0 && k->mark[first - 1].code >= t->start)
		first--;
	show_host(k, t->start, first < k->n_marks ? k->mark[first].code : t->end);
	for (uint32_t n = first; n < k->n_marks; n++) {
		unsigned off = k->mark[n].off;

		/* One that crosses pages is not all at hand. */
		disas(t->mode & TBM_32 ? 4 : 8, page + off, t->host - t->off + off, PAGE_SIZE - off,
		      text);
		trace_print(TRACE_DBT, "    %016llx  %s", (unsigned long long)(page + off), text);
		show_host(k, k->mark[n].code, mark_end(k, t, n));
	}
}

static void name_for_perf(struct code_cache *k, const struct tb *t, uint64_t rip)
{
	if (!k->perf_map)
		return;
	fprintf(k->perf_map, "%llx %x guest_%s_%llx\n",
		(unsigned long long)(uintptr_t)code_at(k, t->start), t->end - t->start,
		t->mode & TBM_USER ? "user" : "kernel", (unsigned long long)rip);
	fflush(k->perf_map);
}

void show_translation(struct dbt *d, const struct tb *t)
{
	struct code_cache *k = d->cache;
	uint64_t rip = d->c->rip;

	if (trace_on(TRACE_PERF))
		name_for_perf(k, t, rip);
	if (!trace_on(TRACE_DBT))
		return;
	trace_print(TRACE_DBT, "cpu%u %016llx: %u instructions, %u bytes to %u, for %s, mode %#x",
		    d->c->index, (unsigned long long)rip, t->n_insns, t->len, t->end - t->start,
		    t->mode & TBM_USER ? "user" : "kernel", t->mode);
	show_code(k, t, rip);
}

/* Now, since a machine that runs may open no file. */
void show_init(struct code_cache *k)
{
	char path[64];

	if (!trace_on(TRACE_PERF))
		return;
	snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
	k->perf_map = fopen(path, "we");
}

void show_fini(struct code_cache *k)
{
	if (k->perf_map)
		fclose(k->perf_map);
}
