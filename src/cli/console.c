/* cleave console: sit down at a running machine's serial console. Ctrl-] leaves it. */
#include "base/err.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "host/terminal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define LEAVE 0x1d /* Ctrl-] */

static bool write_all(int fd, const char *buf, size_t n)
{
	while (n) {
		ssize_t done = write(fd, buf, n);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		buf += done;
		n -= (size_t)done;
	}
	return true;
}

/* Copy between the terminal and the machine until one of them ends. */
static void talk(int fd)
{
	struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = 0, .events = POLLIN } };
	char buf[4096];

	while (poll(p, 2, -1) > 0 || errno == EINTR) {
		if (p[0].revents) {
			ssize_t n = read(fd, buf, sizeof(buf));

			if (n <= 0 || !write_all(1, buf, (size_t)n))
				return;
		}
		if (p[1].revents) {
			ssize_t n = read(0, buf, sizeof(buf));
			char *leave = n > 0 ? memchr(buf, LEAVE, (size_t)n) : NULL;
			size_t keep = leave ? (size_t)(leave - buf) : (size_t)(n > 0 ? n : 0);

			if (keep && !write_all(fd, buf, keep))
				return;
			if (leave)
				return;
			/* End of input: what the machine says still comes. */
			if (n <= 0)
				p[1].fd = -1;
		}
	}
}

static int sit_down(const char *name, struct err *err)
{
	AUTO_FD int fd = client_connect(name, err);
	json_t *result;
	int ret = fd < 0 ? fd : client_ask(fd, client_command("console"), &result, err);

	if (ret < 0)
		return ret;
	json_decref(result);
	if (isatty(0)) {
		fprintf(stderr, "Ctrl-] leaves the console.\n");
		ret = terminal_raw(0, err);
		if (ret < 0)
			return ret;
	}
	talk(fd);
	if (isatty(0)) {
		terminal_restore();
		fprintf(stderr, "\n");
	}
	return 0;
}

int cmd_console(int argc, char **argv)
{
	struct err err;
	int ret = argc == 2 ? sit_down(argv[1], &err)
			    : err_say(&err, EINVAL,
				      "console: of which machine? As in: cleave console web");

	if (ret < 0)
		fprintf(stderr, "cleave: %s\n", err.msg);
	return ret < 0 ? STATUS_ERROR : STATUS_OK;
}
