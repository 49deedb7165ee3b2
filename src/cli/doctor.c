/* cleave doctor: what this host offers, and what each lack means. */
#include "cli/cli.h"

#include "cpu/x86/features.h"
#include "host/facts.h"

#include <stdio.h>
#include <string.h>

/* The highest x86-64 level whose instructions this CPU has. */
static const char *cpu_level(void)
{
	static const char *const level[] = { "x86-64-v4", "x86-64-v3", "x86-64-v2", "x86-64-v1" };
	struct cpu_model m;

	for (unsigned i = 0; i < 4; i++)
		if (cpu_model_parse(&m, level[i], 1, 1000000, NULL) == 0)
			return level[i];
	return "none";
}

static void print_features(const char *separator, const char *quote)
{
	const char *sep = "";

	for (unsigned f = 1; f < N_CPU_FEATURES; f++) {
		if (!host_has((enum cpu_feature)f))
			continue;
		printf("%s%s%s%s", sep, quote, cpu_feature_name((enum cpu_feature)f), quote);
		sep = separator;
	}
}

static void print_json(const struct fact *facts, size_t n)
{
	printf("{\"cpu_level\": \"%s\", \"cpu_features\": [", cpu_level());
	print_features(", ", "\"");
	printf("], \"facts\": [");
	for (size_t i = 0; i < n; i++)
		printf("%s{\"id\": \"%s\", \"ok\": %s, \"found\": \"%s\", \"meaning\": \"%s\"}",
		       i ? ", " : "", facts[i].id, facts[i].ok ? "true" : "false", facts[i].found,
		       facts[i].meaning);
	printf("]}\n");
}

static void print_text(const struct fact *facts, size_t n)
{
	printf("CPU              guests can have --cpu %s\n", cpu_level());
	printf("                 features: ");
	print_features(" ", "");
	printf("\n\n");
	for (size_t i = 0; i < n; i++)
		printf("%-3s %-16s %s\n%21s%s\n", facts[i].ok ? "ok" : "--", facts[i].id,
		       facts[i].found, "", facts[i].meaning);
	printf("\nEngine: interp, on any host\n");
}

int cmd_doctor(int argc, char **argv)
{
	struct fact facts[MAX_FACTS];
	bool json = false, can_run = true;
	size_t n;

	for (int i = 1; i < argc; i++) {
		if (is_help_option(argv[i])) {
			help_command("doctor");
			return STATUS_OK;
		}
		if (strcmp(argv[i], "--json")) {
			fprintf(stderr,
				"cleave doctor: unknown option '%s'; try: cleave doctor --json\n",
				argv[i]);
			return 1;
		}
		json = true;
	}
	n = host_facts(facts);
	for (size_t i = 0; i < n; i++)
		if (!strcmp(facts[i].id, "exec-memory") && !facts[i].ok)
			can_run = false;
	if (json)
		print_json(facts, n);
	else
		print_text(facts, n);
	return can_run ? 0 : 1;
}
