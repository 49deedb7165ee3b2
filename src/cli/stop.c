/* cleave stop: press the power button of a machine, and wait for its end. */
#include "base/err.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define DEFAULT_S 90
#define MARGIN_S  15 /* for the machine to end once it is told to */

struct wish {
	const char *name;
	unsigned timeout_s;
	bool force;
};

/* The connection ends with the machine. */
static int wait_end(int fd, unsigned timeout_s, struct err *err)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char c;

	if (poll(&p, 1, (int)((timeout_s + MARGIN_S) * 1000)) == 1 && read(fd, &c, 1) <= 0)
		return 0;
	return err_say(err, ETIMEDOUT, "the machine has not ended; try --force");
}

static int stop(const struct wish *w, struct err *err)
{
	AUTO_FD int fd = client_connect(w->name, err);
	json_t *result;
	int ret;

	if (fd < 0)
		return fd;
	ret = client_ask(fd,
			 json_pack("{s:s, s:I, s:b}", "command", "stop", "timeout_s",
				   (json_int_t)w->timeout_s, "force", w->force),
			 &result, err);
	if (ret < 0)
		return ret;
	json_decref(result);
	return wait_end(fd, w->force ? 0 : w->timeout_s, err);
}

static int parse(struct wish *w, int argc, char **argv, struct err *err)
{
	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i], *val = NULL;

		if (strcmp(arg, "--force") == 0) {
			w->force = true;
			continue;
		}
		if (strncmp(arg, "--timeout=", 10) == 0)
			val = arg + 10;
		else if (strcmp(arg, "--timeout") == 0)
			val = ++i < argc ? argv[i] : "";
		if (val && parse_number(val, 0, 86400, &w->timeout_s) < 0)
			return err_say(err, EINVAL,
				       "--timeout: seconds from 0 to 86400, as in --timeout 30");
		if (!val && (arg[0] == '-' || w->name))
			return err_say(err, EINVAL,
				       "stop: '%s' is one too many; see `cleave stop --help`", arg);
		if (!val)
			w->name = arg;
	}
	return w->name ? 0 : err_say(err, EINVAL, "stop: which machine? `cleave ps` lists them");
}

int cmd_stop(int argc, char **argv)
{
	struct wish w = { .timeout_s = DEFAULT_S };
	struct err err;
	int ret = parse(&w, argc, argv, &err);

	if (ret == 0)
		ret = stop(&w, &err);
	if (ret < 0)
		fprintf(stderr, "cleave: %s\n", err.msg);
	return ret < 0 ? STATUS_ERROR : STATUS_OK;
}
