/* What was measured, as tables for people and as JSON. */
#include "cli/compare/compare.h"

#include <jansson.h>
#include <string.h>

#define LABEL 20 /* columns */
#define CELL  17

const char *report_time(char buf[32], double ns)
{
	static const char *const unit[] = { "ns", "us", "ms", "s" };
	unsigned n = 0;

	for (; n < 3 && ns >= 999.5; n++)
		ns /= 1000;
	snprintf(buf, 32, ns < 9.995 ? "%.2f %s" : ns < 99.95 ? "%.1f %s" : "%.0f %s", ns, unit[n]);
	return buf;
}

/* -- Text ------------------------------------------------------------------------------------- */

static void print_methods(const struct comparison *c)
{
	printf("The methods\n\n");
	for (unsigned m = 0; m < N_METHODS; m++) {
		const struct method *method = &compare_methods[m];

		if (!c->method[m].on && !*c->method[m].why_not)
			continue;
		printf("  %-8s %s\n", method->id, method->technique);
		if (m != METHOD_NATIVE)
			printf("  %-8s changed in the guest: %s\n", "", method->changed);
		if (*c->method[m].why_not)
			printf("  %-8s %s\n", "", c->method[m].why_not);
		if (*c->method[m].uses)
			printf("  %-8s the guest uses: %s\n", "", c->method[m].uses);
	}
	printf("\n");
}

static void print_head(const struct comparison *c, const char *title, bool counts)
{
	printf("%s\n\n%-*s", title, LABEL, "");
	for (unsigned m = counts; m < N_METHODS; m++)
		if (c->method[m].on)
			printf(" %*s", CELL, compare_methods[m].id);
	printf("\n");
}

static void print_cell(const struct comparison *c, unsigned row, unsigned m)
{
	double ns = compare_ns(c, row, m), ratio = compare_ratio(c, row, m);
	char time[32], text[64];

	if (*c->cell[row][m].failure)
		snprintf(text, sizeof(text), "failed");
	else if (ns <= 0)
		snprintf(text, sizeof(text), "-");
	else if (m == METHOD_NATIVE || ratio <= 0)
		snprintf(text, sizeof(text), "%s       ", report_time(time, ns));
	else
		snprintf(text, sizeof(text), ratio < 99.5 ? "%s x%-5.2f" : "%s x%-5.0f",
			 report_time(time, ns), ratio);
	printf(" %*s", CELL, text);
}

static void print_times(const struct comparison *c)
{
	const char *group = "";

	print_head(c, "Time of one operation, and how many times native", false);
	for (unsigned row = 0; row < N_ROWS; row++) {
		if (!compare_has_row(c, row))
			continue;
		if (strcmp(group, compare_loads[row].group) != 0)
			printf("%s\n", compare_loads[row].group);
		group = compare_loads[row].group;
		printf("  %-*s", LABEL - 2, compare_loads[row].name);
		for (unsigned m = 0; m < N_METHODS; m++)
			if (c->method[m].on)
				print_cell(c, row, m);
		printf("\n");
	}
	printf("\n");
}

/* "-" for what there is not. */
static void print_number(const char *format, double val, bool is)
{
	char text[32] = "-";

	if (is)
		snprintf(text, sizeof(text), format, val);
	printf(" %*s", CELL, text);
}

static void print_group_ratios(const struct comparison *c)
{
	const char *group = "";

	print_head(c, "Times native, the geometric mean of each kind", true);
	for (unsigned row = 0; row < N_LOADS; row++) {
		if (strcmp(group, compare_loads[row].group) == 0)
			continue;
		group = compare_loads[row].group;
		printf("%-*s", LABEL, group);
		for (unsigned m = 1; m < N_METHODS; m++)
			if (c->method[m].on)
				print_number("%.2f", compare_group_ratio(c, group, m),
					     compare_group_ratio(c, group, m) > 0);
		printf("\n");
	}
	printf("\n");
}

static void print_counts(const struct comparison *c)
{
	print_head(c, "What each took, per operation", true);
	printf("%-*s", LABEL, "");
	for (unsigned m = 1; m < N_METHODS; m++)
		if (c->method[m].on)
			printf(" %*s", CELL, compare_methods[m].count);
	printf("\n");
	for (unsigned row = 0; row < N_ROWS; row++) {
		if (!compare_has_row(c, row))
			continue;
		printf("%-*s", LABEL, compare_loads[row].name);
		for (unsigned m = 1; m < N_METHODS; m++) {
			double n = compare_count(c, row, m);

			if (c->method[m].on)
				print_number(n >= 0.05 && n < 1e5 ? "%.1f" : "%.2g", n,
					     c->cell[row][m].n > 0);
		}
		printf("\n");
	}
	printf("instructions: done by the interpreter; interpreted: those that dbt leaves to it;\n"
	       "exits: entries of KVM_RUN, each behind an exit to user space\n\n");
}

static void print_notes(const struct comparison *c)
{
	printf("One operation is\n\n");
	for (unsigned row = 0; row < N_ROWS; row++) {
		const struct load *l = &compare_loads[row];

		if (!compare_has_row(c, row))
			continue;
		printf("  %-18s %s\n", l->name, l->what);
		if (l->native)
			printf("  %-18s natively %s\n", "", l->native);
	}
	if (c->kernel)
		printf("  %-18s %s: \"%s\"\n", "", c->kernel, c->until);
	printf("\nMedians of %u rounds; in each, all methods do one load after the other. Timers, IPIs to\n"
	       "another CPU and boots by the time that passes, all others by processor time.\n",
	       COMPARE_ROUNDS);
	if (!compare_has_row(c, LOAD_IPI))
		printf("Left out: %s, which needs two processors.\n", compare_loads[LOAD_IPI].name);
	for (unsigned row = 0; row < N_ROWS; row++)
		for (unsigned m = 0; m < N_METHODS; m++)
			if (*c->cell[row][m].failure)
				printf("failed: %s on %s: %s\n", compare_loads[row].name,
				       compare_methods[m].id, c->cell[row][m].failure);
}

void report_text(const struct comparison *c)
{
	print_methods(c);
	print_times(c);
	print_group_ratios(c);
	print_counts(c);
	print_notes(c);
}

/* -- JSON ------------------------------------------------------------------------------------- */

static json_t *text_or_null(const char *text)
{
	return text && *text ? json_string(text) : json_null();
}

static json_t *number_or_null(double val)
{
	return val > 0 ? json_real(val) : json_null();
}

static json_t *method_object(const struct comparison *c, unsigned m)
{
	const struct method *method = &compare_methods[m];

	return json_pack("{s:s, s:o, s:b, s:s, s:s, s:b, s:o, s:o}", "id", method->id, "engine",
			 text_or_null(method->engine), "pv", method->pv, "technique",
			 method->technique, "changed_in_guest", method->changed, "measured",
			 c->method[m].on, "reason", text_or_null(c->method[m].why_not),
			 "guest_uses", text_or_null(c->method[m].uses));
}

static json_t *cell_object(const struct comparison *c, unsigned row, unsigned m)
{
	const struct cell *cell = &c->cell[row][m];
	const struct counts *n = &cell->counts;
	json_t *rounds = json_array(), *o;

	for (unsigned i = 0; i < cell->n; i++)
		json_array_append_new(rounds, json_real(cell->ns[i]));
	o = json_pack("{s:o, s:o, s:o, s:o}", "ns", number_or_null(compare_ns(c, row, m)),
		      "times_native", number_or_null(compare_ratio(c, row, m)), "rounds_ns", rounds,
		      "failure", text_or_null(cell->failure));
	if (m == METHOD_NATIVE)
		return o;
	json_object_set_new(o, compare_methods[m].count_key, json_real(compare_count(c, row, m)));
	json_object_set_new(o, "counters",
			    json_pack("{s:I, s:I, s:I, s:I}", "translations",
				      (json_int_t)n->translations, "port_accesses",
				      (json_int_t)n->ports, "mmio_accesses", (json_int_t)n->mmios,
				      "interrupts", (json_int_t)n->interrupts));
	return o;
}

static json_t *row_object(const struct comparison *c, unsigned row)
{
	const struct load *l = &compare_loads[row];
	json_t *results = json_object();

	for (unsigned m = 0; m < N_METHODS; m++)
		if (c->cell[row][m].n || *c->cell[row][m].failure)
			json_object_set_new(results, compare_methods[m].id, cell_object(c, row, m));
	return json_pack("{s:s, s:s, s:s, s:s, s:o, s:i, s:o}", "id", l->id, "kind", l->group,
			 "name", l->name, "operation", l->what, "native_operation",
			 text_or_null(l->native), "operations", (int)compare_ops(c, row), "results",
			 results);
}

void report_json(const struct comparison *c)
{
	json_t *methods = json_array(), *rows = json_array(), *all;

	for (unsigned m = 0; m < N_METHODS; m++)
		json_array_append_new(methods, method_object(c, m));
	for (unsigned row = 0; row < N_ROWS; row++)
		if (compare_has_row(c, row))
			json_array_append_new(rows, row_object(c, row));
	all = json_pack("{s:i, s:b, s:o, s:o, s:o}", "rounds", (int)COMPARE_ROUNDS, "quick",
			c->quick, "boot_until", c->kernel ? json_string(c->until) : json_null(),
			"methods", methods, "loads", rows);
	json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	printf("\n");
	json_decref(all);
}
