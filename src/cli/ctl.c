/* cleave ctl: tell a running machine something, over its control socket. */
#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MAX_VALUES 2

enum value_kind {
	NONE,
	WORD,
	MEMORY_SIZE, /* as --memory has it */
	DISK_SIZE,   /* of the disk that is the first value, or by how much it grows: +SIZE */
};

/* Commands that a person gives, and the members that take what stands behind each. */
static const struct command {
	const char *name;
	struct {
		const char *member;
		enum value_kind kind;
	} value[MAX_VALUES];
	const char *example;
} commands[] = {
	{ "status", {}, "" },
	{ "pause", {}, "" },
	{ "continue", {}, "" },
	{ "reset", {}, "" },
	{ "engine", { { "engine", WORD } }, " dbt" },
	{ "resize", { { "disk", WORD }, { "bytes", DISK_SIZE } }, " vda 20G" },
	{ "balloon", { { "bytes", MEMORY_SIZE } }, " 256M" },
};

struct order {
	const char *name, *command, *value[MAX_VALUES];
	bool json;
};

static int parse(struct order *o, int argc, char **argv, struct err *err)
{
	const char **next[] = { &o->name, &o->command, &o->value[0], &o->value[1] };
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

/* How large the machine's disk is now. */
static int disk_bytes(int fd, const char *disk, uint64_t *bytes, struct err *err)
{
	json_t *status, *d;
	size_t i;
	int ret = client_ask(fd, client_command("status"), &status, err);

	if (ret < 0)
		return ret;
	ret = -ENOENT;
	json_array_foreach(json_object_get(status, "disks"), i, d)
	{
		const char *name = json_string_value(json_object_get(d, "name"));

		if (!name || strcmp(name, disk))
			continue;
		*bytes = (uint64_t)json_integer_value(json_object_get(d, "bytes"));
		ret = 0;
	}
	json_decref(status);
	return ret < 0 ? err_say(err, ENOENT, "the machine has no disk '%s'", disk) : 0;
}

static int add_size(json_t *request, int fd, const struct order *o, const char *member,
		    enum value_kind kind, const char *text, struct err *err)
{
	uint64_t bytes, now = 0;
	bool more = kind == DISK_SIZE && text[0] == '+';

	if (kind == DISK_SIZE ? parse_bytes(text + more, &bytes) < 0 : parse_size(text, &bytes) < 0)
		return err_say(err, EINVAL, "ctl: '%s' is no size, as 20G is", text);
	if (more) {
		int ret = disk_bytes(fd, o->value[0], &now, err);

		if (ret < 0)
			return ret;
	}
	if (bytes > INT64_MAX || now > INT64_MAX - bytes)
		return err_say(err, EINVAL, "ctl: '%s' is too large", text);
	json_object_set_new(request, member, json_integer((json_int_t)(now + bytes)));
	return 0;
}

/* Add what stands behind the command to the request. */
static int add_values(json_t *request, int fd, const struct command *c, const struct order *o,
		      struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < MAX_VALUES && ret == 0; i++) {
		const char *text = o->value[i], *member = c->value[i].member;

		if (!member != !text)
			return err_say(err, EINVAL, "ctl: %s takes %s, as in cleave ctl %s %s%s",
				       c->name,
				       !c->value[0].member   ? "nothing"
				       : !c->value[1].member ? "one word"
							     : "two words",
				       o->name, c->name, c->example);
		if (member && c->value[i].kind == WORD)
			json_object_set_new(request, member, json_string(text));
		else if (member)
			ret = add_size(request, fd, o, member, c->value[i].kind, text, err);
	}
	return ret;
}

static const struct command *find(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static int obey(const struct order *o, json_t **result, struct err *err)
{
	const struct command *c = find(o->command);
	json_t *request;
	int ret;

	if (!c)
		return err_say(err, EINVAL,
			       "ctl: there is no command '%s'; see `cleave ctl --help`",
			       o->command);

	AUTO_FD int fd = client_connect(o->name, err);

	if (fd < 0)
		return fd;
	request = client_command(c->name);
	ret = add_values(request, fd, c, o, err);
	if (ret == 0)
		return client_ask(fd, request, result, err);
	json_decref(request);
	return ret;
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
	json_t *result;
	int ret = parse(&o, argc, argv, &err);

	if (ret == 0)
		ret = obey(&o, &result, &err);
	if (ret < 0) {
		fprintf(stderr, "cleave: %s\n", err.msg);
		return STATUS_ERROR;
	}
	print(&o, result);
	json_decref(result);
	return STATUS_OK;
}
