/* cleave ctl: tell a running machine something, over its control socket. */
#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Commands that a person gives, and the member that takes what stands behind each. */
static const struct {
	const char *name, *member, *example;
} commands[] = {
	{ "status", NULL, NULL }, { "pause", NULL, NULL },	 { "continue", NULL, NULL },
	{ "reset", NULL, NULL },  { "engine", "engine", "dbt" },
};

struct order {
	const char *name, *command, *value;
	bool json;
};

static int parse(struct order *o, int argc, char **argv, struct err *err)
{
	const char **next[] = { &o->name, &o->command, &o->value };
	unsigned n = 0;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--json") == 0)
			o->json = true;
		else if (argv[i][0] == '-' || n == ARRAY_SIZE(next))
			return err_say(err, EINVAL,
				       "ctl: '%s' is one too many; see `cleave ctl --help`",
				       argv[i]);
		else
			*next[n++] = argv[i];
	}
	return n >= 2 ? 0
		      : err_say(err, EINVAL,
				"ctl: a machine and a command are missing, as in cleave ctl web "
				"status");
}

/* What to send; NULL with the reason. */
static json_t *make_request(const struct order *o, struct err *err)
{
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
		const char *member = commands[i].member;

		if (strcmp(commands[i].name, o->command))
			continue;
		if (!member && o->value) {
			err_say(err, EINVAL, "ctl: %s takes nothing, as in cleave ctl %s %s",
				o->command, o->name, o->command);
			return NULL;
		}
		if (member && !o->value) {
			err_say(err, EINVAL, "ctl: %s takes one word, as in cleave ctl %s %s %s",
				o->command, o->name, o->command, commands[i].example);
			return NULL;
		}
		return member ? json_pack("{s:s, s:s}", "command", o->command, member, o->value)
			      : client_command(o->command);
	}
	err_say(err, EINVAL, "ctl: there is no command '%s'; see `cleave ctl --help`", o->command);
	return NULL;
}

static void print(const struct order *o, const json_t *result)
{
	const char *from, *to;
	double pause_ms;

	if (!o->json && json_unpack((json_t *)result, "{s:s, s:s, s:F}", "from", &from, "to", &to,
				    "pause_ms", &pause_ms) == 0) {
		printf("%s: from %s to %s, stopped for %.3f ms\n", o->name, from, to, pause_ms);
	} else if (o->json || json_object_size(result)) {
		json_dumpf(result, stdout, JSON_INDENT(2));
		printf("\n");
	}
}

int cmd_ctl(int argc, char **argv)
{
	struct order o = { 0 };
	struct err err;
	json_t *request, *result;
	int ret = parse(&o, argc, argv, &err);

	request = ret < 0 ? NULL : make_request(&o, &err);
	if (request) {
		AUTO_FD int fd = client_connect(o.name, &err);

		ret = fd;
		if (fd < 0)
			json_decref(request);
		else
			ret = client_ask(fd, request, &result, &err);
	}
	if (!request || ret < 0) {
		fprintf(stderr, "cleave: %s\n", err.msg);
		return STATUS_ERROR;
	}
	print(&o, result);
	json_decref(result);
	return STATUS_OK;
}
