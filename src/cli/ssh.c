/* cleave ssh: log in to a running machine through its forward to port 22, by the ssh program. */
#include "base/err.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/store.h"
#include "host/rundir.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

struct target {
	char address[64];
	unsigned port;
};

static bool take_forward(struct target *t, const json_t *f)
{
	const char *protocol = json_string_value(json_object_get(f, "protocol"));
	const char *address = json_string_value(json_object_get(f, "address"));

	if (!protocol || !address || strcmp(protocol, "tcp") != 0 ||
	    json_integer_value(json_object_get(f, "guest_port")) != 22)
		return false;
	/* All of the host's addresses: ours is one of them. */
	snprintf(t->address, sizeof(t->address), "%s",
		 strcmp(address, "0.0.0.0") == 0 ? "127.0.0.1" : address);
	t->port = (unsigned)json_integer_value(json_object_get(f, "port"));
	return true;
}

static bool find_forward(struct target *t, const json_t *status)
{
	const json_t *nics = json_object_get(status, "networks");
	size_t i, k;
	json_t *nic, *f;

	json_array_foreach(nics, i, nic)
	{
		const json_t *forwards = json_object_get(nic, "forwards");

		json_array_foreach(forwards, k, f) if (take_forward(t, f)) return true;
	}
	return false;
}

static int find_target(struct target *t, const char *name, struct err *err)
{
	AUTO_FD int fd = client_connect(name, err);
	json_t *status;
	int ret = fd < 0 ? fd : client_ask(fd, client_command("status"), &status, err);

	if (ret < 0)
		return ret;

	bool found = find_forward(t, status);

	json_decref(status);
	return found ? 0
		     : err_say(err, ENOENT,
			       "%s has no forward to its port 22; start it with --net "
			       "user,forward=127.0.0.1:2222:22",
			       name);
}

/* Does not return when it works. The host key is learnt at the first login and kept while the
 * machine runs: machines come and go at the same port. */
static int run_ssh(const struct target *t, const char *name, const char *user, char **command,
		   struct err *err)
{
	char known[PATH_MAX], dir[PATH_MAX - 80], port[16], key[PATH_MAX];
	int ret = rundir_path(dir, sizeof(dir), err), n = 0;
	int argc = 0;

	while (command[argc])
		argc++;

	AUTO_FREE char **argv = calloc((size_t)argc + 20, sizeof(*argv));

	if (ret == 0)
		ret = store_path(key, sizeof(key), err, "ssh/id_ed25519");
	if (ret < 0)
		return ret;
	if (!argv)
		return err_set(err, ENOMEM, "ssh");
	snprintf(known, sizeof(known), "UserKnownHostsFile=%s/%s.known_hosts", dir, name);
	snprintf(port, sizeof(port), "%u", t->port);
	argv[n++] = "ssh";
	argv[n++] = "-p";
	argv[n++] = port;
	argv[n++] = "-l";
	argv[n++] = (char *)user;
	argv[n++] = "-o";
	argv[n++] = known;
	argv[n++] = "-o";
	argv[n++] = "StrictHostKeyChecking=accept-new";
	argv[n++] = "-o";
	argv[n++] = "LogLevel=ERROR";
	if (access(key, R_OK) == 0) {
		argv[n++] = "-i";
		argv[n++] = key;
	}
	argv[n++] = (char *)t->address;
	for (int i = 0; i < argc; i++)
		argv[n++] = command[i];
	execvp("ssh", argv);
	return err_set(err, errno, "start ssh (Debian package openssh-client)");
}

int cmd_ssh(int argc, char **argv)
{
	const char *user = "root";
	struct target t = { 0 };
	struct err err;
	int at = 1, ret;

	if (argc > 2 && strcmp(argv[1], "-l") == 0) {
		user = argv[2];
		at = 3;
	}
	if (at >= argc || argv[at][0] == '-')
		ret = err_say(&err, EINVAL, "ssh: to which machine? As in: cleave ssh web uptime");
	else
		ret = find_target(&t, argv[at], &err);
	if (ret == 0)
		ret = run_ssh(&t, argv[at], user, argv + at + 1, &err);
	fprintf(stderr, "cleave: %s\n", err.msg);
	return STATUS_ERROR;
}
