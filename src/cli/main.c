#include "cli/cli.h"

#include "dev/backend/net.h"

#include <stdio.h>
#include <string.h>

static int cmd_version(int argc, char **argv)
{
	printf("cleave %s\n", CLEAVE_VERSION);
	return STATUS_OK;
}

static const struct {
	const char *name;
	int (*fn)(int argc, char **argv);
} commands[] = {
	{ "ps", cmd_ps },
	{ "ctl", cmd_ctl },
	{ "stop", cmd_stop },
	{ "console", cmd_console },
	{ "ssh", cmd_ssh },
	{ "run", cmd_run },
	{ "image", cmd_image },
	{ "disk", cmd_disk },
	{ "doctor", cmd_doctor },
	{ "compare", cmd_compare },
	{ "help", cmd_help },
	{ "--help", cmd_help },
	{ "-h", cmd_help },
	{ "version", cmd_version },
	{ "--version", cmd_version },
	{ NET_HELPER_COMMAND, cmd_net_helper },
};

int main(int argc, char **argv)
{
	if (argc < 2) {
		help_general();
		return STATUS_ERROR;
	}
	if (argc > 2 && is_help_option(argv[2]) && help_command(argv[1]))
		return STATUS_OK;
	for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].fn(argc - 1, argv + 1);
	fprintf(stderr, "cleave: there is no command '%s'; `cleave help` lists them\n", argv[1]);
	return STATUS_ERROR;
}
