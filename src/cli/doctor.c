/* cleave doctor: what this host offers, and what each lack means. */
#include "cli/cli.h"

#include "cpu/dbt/dbt.h"
#include "cpu/engine.h"
#include "cpu/kvm/probe.h"
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

/* Text may hold what a JSON string may not. */
static void print_quoted(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			putchar('\\');
		putchar(*text);
	}
	putchar('"');
}

static void print_json_kvm(const struct kvm_probe *p)
{
	char why[256];
	bool fit = kvm_probe_accepts(p, why, sizeof(why));

	printf("\"engine_auto\": \"%s\", \"kvm_probe\": {\"fit\": %s, \"ns_per_turn\": %.2f, ",
	       engine_auto(p)->name, fit ? "true" : "false", p->ns_per_turn);
	printf("\"function_test\": ");
	if (*p->refused)
		printf("null");
	else
		print_quoted(p->failed_at ? p->failed_at : "passed");
	printf(", \"stops_at_breakpoints\": %s", p->stops == KVM_STOPS_ALL ? "true" : "false");
	printf(", \"took_ms\": %.1f, \"reason\": ", p->took_ms);
	print_quoted(why);
	printf("}");
}

static void print_json(const struct fact *facts, size_t n, const struct kvm_probe *p)
{
	printf("{\"cpu_level\": \"%s\", \"cpu_features\": [", cpu_level());
	print_features(", ", "\"");
	printf("], \"facts\": [");
	for (size_t i = 0; i < n; i++)
		printf("%s{\"id\": \"%s\", \"ok\": %s, \"found\": \"%s\", \"meaning\": \"%s\"}",
		       i ? ", " : "", facts[i].id, facts[i].ok ? "true" : "false", facts[i].found,
		       facts[i].meaning);
	printf("], ");
	print_json_kvm(p);
	printf("}\n");
}

static void print_engines(const struct kvm_probe *p)
{
	char why[256];
	bool fit = kvm_probe_accepts(p, why, sizeof(why));

	printf("\nEngine auto takes %s here.\n", engine_auto(p)->name);
	printf("%-3s %-16s %s\n%21s", fit ? "ok" : "--", "engine kvm", why, "");
	if (fit)
		printf("KVM is hardware: guests run at its speed");
	else if (*p->refused)
		printf("guests run in software");
	else
		printf("KVM is not hardware here: auto leaves it, --engine kvm takes it");
	printf(" (tried for %.0f ms)\n", p->took_ms);
	printf("%-3s %-16s %s\n", dbt_is_possible() ? "ok" : "--", "engine dbt",
	       "translates guest code; needs BMI2 and FSGSBASE of the host");
	printf("%-3s %-16s %s\n", "ok", "engine interp", "interprets it, on any host");
}

static void print_text(const struct fact *facts, size_t n, const struct kvm_probe *p)
{
	printf("CPU              guests can have --cpu %s\n", cpu_level());
	printf("                 features: ");
	print_features(" ", "");
	printf("\n\n");
	for (size_t i = 0; i < n; i++)
		printf("%-3s %-16s %s\n%21s%s\n", facts[i].ok ? "ok" : "--", facts[i].id,
		       facts[i].found, "", facts[i].meaning);
	print_engines(p);
}

int cmd_doctor(int argc, char **argv)
{
	struct fact facts[MAX_FACTS];
	bool json = false, can_run = true;
	struct kvm_probe probe;
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
	kvm_probe(&probe);
	for (size_t i = 0; i < n; i++)
		if (!strcmp(facts[i].id, "exec-memory") && !facts[i].ok)
			can_run = false;
	if (json)
		print_json(facts, n, &probe);
	else
		print_text(facts, n, &probe);
	return can_run ? 0 : 1;
}
