/* cleave ps: what machines are running. */
#include "base/bits.h"
#include "base/err.h"
#include "cli/cli.h"
#include "cli/client.h"

#include <stdio.h>
#include <string.h>

static void print_forwards(const json_t *nics)
{
	size_t i, k;
	json_t *nic, *f;

	json_array_foreach(nics, i, nic)
	{
		json_t *forwards = json_object_get(nic, "forwards");

		json_array_foreach(forwards, k, f)
			printf(" %s:%lld->%lld", json_string_value(json_object_get(f, "address")),
			       (long long)json_integer_value(json_object_get(f, "port")),
			       (long long)json_integer_value(json_object_get(f, "guest_port")));
	}
}

static void print_table(const json_t *list)
{
	size_t i;
	json_t *m;

	printf("%-20s %8s %-7s %4s %8s %8s  %s\n", "NAME", "PID", "ENGINE", "CPUS", "MEMORY",
	       "UPTIME", "FORWARDS");
	json_array_foreach(list, i, m)
	{
		const char *name = "", *engine = "";
		json_int_t pid = 0, cpus = 0, memory = 0, uptime = 0;

		json_unpack(m, "{s:s, s:I, s:s, s:I, s:I, s:I}", "name", &name, "pid", &pid,
			    "engine", &engine, "cpus", &cpus, "memory_bytes", &memory, "uptime_s",
			    &uptime);
		printf("%-20s %8lld %-7s %4lld %7lldM %7llds ", name, (long long)pid, engine,
		       (long long)cpus, (long long)(memory / (json_int_t)MiB), (long long)uptime);
		print_forwards(json_object_get(m, "networks"));
		printf("\n");
	}
}

int cmd_ps(int argc, char **argv)
{
	bool json = false;
	json_t *list;
	struct err err;

	for (int i = 1; i < argc; i++) {
		if (is_help_option(argv[i])) {
			help_command("ps");
			return STATUS_OK;
		}
		if (strcmp(argv[i], "--json")) {
			fprintf(stderr, "cleave ps: unknown option '%s'; try: cleave ps --json\n",
				argv[i]);
			return STATUS_ERROR;
		}
		json = true;
	}
	if (client_list(&list, &err) < 0) {
		fprintf(stderr, "cleave: %s\n", err.msg);
		return STATUS_ERROR;
	}
	if (json) {
		json_dumpf(list, stdout, JSON_INDENT(2));
		printf("\n");
	} else {
		print_table(list);
	}
	json_decref(list);
	return STATUS_OK;
}
