#include "cli/client.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "host/rundir.h"
#include "machine/control.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#define ANSWER_MS    10000
#define ANSWER_BYTES 65536

int client_connect(const char *name, struct err *err)
{
	struct timeval patience = { .tv_sec = ANSWER_MS / 1000 }; /* connect waits in a queue */
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	char dir[PATH_MAX];
	int ret = rundir_path(dir, sizeof(dir), err), len;

	if (ret < 0)
		return ret;
	len = snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s.sock", dir, name);
	if (!control_is_name(name) || len < 0 || (size_t)len >= sizeof(a.sun_path))
		return err_say(err, EINVAL, "'%s' is no machine's name", name);

	AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0)
		return err_set(err, errno, "make a socket");
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return move_fd(&fd);
	if (errno == ECONNREFUSED)
		unlink(a.sun_path); /* left over from a crash */
	else if (errno != ENOENT)
		return err_set(err, errno, "connect to %s", a.sun_path);
	return err_say(err, ENOENT, "no machine named %s is running; `cleave ps` lists them", name);
}

/* One line, without its newline. */
static int read_line(int fd, char *buf, size_t size, struct err *err)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	size_t n = 0;

	/* Byte by byte: what follows the line may be a console's. */
	while (n < size - 1) {
		if (poll(&p, 1, ANSWER_MS) != 1)
			return err_say(err, ETIMEDOUT, "the machine does not answer");

		ssize_t got = read(fd, buf + n, 1);

		if (got <= 0)
			return err_say(err, EPIPE, "the machine has ended");
		if (buf[n] == '\n') {
			buf[n] = 0;
			return 0;
		}
		n++;
	}
	return err_say(err, EPROTO, "the machine's answer is too long");
}

static int check(json_t *answer, json_t **result, struct err *err)
{
	const char *message = NULL;

	*result = json_object_get(answer, "result");
	if (json_is_true(json_object_get(answer, "ok")) && json_is_object(*result)) {
		json_incref(*result);
		return 0;
	}
	json_unpack(answer, "{s:{s:s}}", "error", "message", &message);
	return err_say(err, EPROTO, "%s",
		       message ? message : "the machine's answer makes no sense");
}

int client_ask(int fd, json_t *request, json_t **result, struct err *err)
{
	AUTO_FREE char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	char line[ANSWER_BYTES];
	json_t *answer = NULL;
	int ret;

	json_decref(request);
	if (!text)
		return err_set(err, ENOMEM, "ask the machine");

	struct iovec iov[2] = { { text, strlen(text) }, { (void *)"\n", 1 } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	if (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0)
		return err_set(err, errno, "ask the machine");
	ret = read_line(fd, line, sizeof(line), err);
	if (ret < 0)
		return ret;
	answer = json_loads(line, 0, NULL);
	ret = check(answer, result, err);
	json_decref(answer);
	return ret;
}

json_t *client_command(const char *command)
{
	return json_pack("{s:s}", "command", command);
}

static void add_status(json_t *list, const char *name)
{
	AUTO_FD int fd = client_connect(name, NULL);
	json_t *status;

	/* A machine that has just ended is not running. */
	if (fd >= 0 && client_ask(fd, client_command("status"), &status, NULL) == 0)
		json_array_append_new(list, status);
}

static int is_socket(const struct dirent *e)
{
	size_t len = strlen(e->d_name);

	return len > 5 && strcmp(e->d_name + len - 5, ".sock") == 0;
}

int client_list(json_t **list, struct err *err)
{
	char dir[PATH_MAX];
	struct dirent **entry;
	int ret = rundir_path(dir, sizeof(dir), err), n;

	if (ret < 0)
		return ret;
	n = scandir(dir, &entry, is_socket, alphasort);
	if (n < 0)
		return err_set(err, errno, "read %s", dir);
	*list = json_array();
	for (int i = 0; i < n; i++) {
		entry[i]->d_name[strlen(entry[i]->d_name) - 5] = 0;
		add_status(*list, entry[i]->d_name);
		free(entry[i]);
	}
	free(entry);
	return 0;
}
