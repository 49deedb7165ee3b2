#include "machine/control.h"

#include "base/err.h"
#include "base/own.h"
#include "host/evloop.h"
#include "host/rundir.h"
#include "machine/control_internal.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>

bool control_is_name(const char *text)
{
	size_t len = strlen(text);

	if (!isalnum((unsigned char)text[0]) || len > CONTROL_NAME_MAX)
		return false;
	for (size_t i = 1; i < len; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i]))
			return false;
	return true;
}

static void drop(struct client *k)
{
	if (k->fd < 0)
		return;
	evloop_del(k->c->loop, &k->watch);
	close(k->fd);
	k->fd = -1;
}

/* Send an answer, which is freed. A client that does not read its answers is dropped. */
static void answer(struct client *k, json_t *reply)
{
	AUTO_FREE char *text = json_dumps(reply, JSON_COMPACT);
	size_t len = text ? strlen(text) : 0;

	json_decref(reply);
	if (!text || k->fd < 0)
		return;
	text[len++] = '\n'; /* in place of the end of the string */
	if (send(k->fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)len)
		drop(k);
}

/* Serve one line, without its newline. */
static void serve(struct client *k, const char *line, size_t len)
{
	json_error_t why;
	json_t *request = json_loadb(line, len, JSON_REJECT_DUPLICATES, &why);
	json_t *reply;

	if (!json_is_object(request)) {
		reply = control_error(NULL, "bad-json",
				      request ? "a request is a JSON object" : why.text);
		answer(k, reply);
	} else if (control_is_console(request)) {
		reply = control_console(k, request);
		if (reply)
			answer(k, reply);
	} else {
		answer(k, control_execute(k->c, request));
	}
	json_decref(request);
}

static void on_client(void *arg, short revents)
{
	struct client *k = arg;
	ssize_t n = recv(k->fd, k->line + k->n, sizeof(k->line) - k->n, MSG_DONTWAIT);
	char *end;

	if (n <= 0) {
		if (n == 0 || (errno != EAGAIN && errno != EINTR))
			drop(k);
		return;
	}
	k->n += (size_t)n;
	while (k->fd >= 0 && (end = memchr(k->line, '\n', k->n))) {
		size_t used = (size_t)(end - k->line) + 1;

		serve(k, k->line, used - 1);
		k->n -= used;
		memmove(k->line, k->line + used, k->n);
	}
	if (k->fd >= 0 && k->n == sizeof(k->line)) {
		answer(k, control_error(NULL, "too-long", "a line has at most 4095 bytes"));
		drop(k);
	}
}

/* The socket's folder lets nobody else in; this is for a folder that somebody opened up later. */
static bool is_ours(int fd)
{
	struct ucred who;
	socklen_t len = sizeof(who);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 &&
	       (who.uid == geteuid() || who.uid == 0);
}

static void on_connect(void *arg, short revents)
{
	struct control *c = arg;
	AUTO_FD int fd = accept4(c->socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0 || !is_ours(fd))
		return;
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++) {
		struct client *k = &c->client[i];

		if (k->fd >= 0)
			continue;
		k->c = c;
		k->n = 0;
		k->fd = move_fd(&fd);
		k->watch = (struct ev_watch){ .fd = k->fd, .fn = on_client, .arg = k };
		if (evloop_add(c->loop, &k->watch, POLLIN, NULL) < 0)
			drop(k);
		return;
	}
}

/* The guest did not switch itself off in time. */
static void on_timer(void *arg, short revents)
{
	struct control *c = arg;
	uint64_t count;

	if (read(c->timer, &count, sizeof(count)) == sizeof(count))
		machine_end(c->m, END_QUIT, 0);
}

void control_stop_within(struct control *c, unsigned timeout_s)
{
	struct itimerspec t = { .it_value = { .tv_sec = timeout_s, .tv_nsec = timeout_s ? 0 : 1 } };

	timerfd_settime(c->timer, 0, &t, NULL);
}

/* Whether the lock that is held is still the file at its path: its last holder removed it when it
 * ended. */
static bool is_at_path(int fd, const char *path)
{
	struct stat held, there;

	return fstat(fd, &held) == 0 && stat(path, &there) == 0 && held.st_dev == there.st_dev &&
	       held.st_ino == there.st_ino;
}

/* The lock says who has the name; a socket that is left over from a crash does not. */
static int take_name(struct control *c, struct err *err)
{
	int len = snprintf(c->lock_path, sizeof(c->lock_path), "%s/%s.lock", c->dir, c->name);

	if (len < 0 || (size_t)len >= sizeof(c->lock_path))
		return err_set(err, ENAMETOOLONG, "%s", c->dir);
	do {
		own_close(&c->lock);
		c->lock = open(c->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (c->lock < 0)
			return err_set(err, errno, "open %s", c->lock_path);
		if (flock(c->lock, LOCK_EX | LOCK_NB) < 0) {
			own_close(&c->lock);
			c->lock = -1;
			return err_say(err, EEXIST,
				       "a machine named %s is running already; `cleave ps` lists "
				       "them",
				       c->name);
		}
	} while (!is_at_path(c->lock, c->lock_path));
	return 0;
}

static int listen_at(struct control *c, struct err *err)
{
	struct sockaddr_un *a = &c->addr;
	int len = snprintf(a->sun_path, sizeof(a->sun_path), "%s/%s.sock", c->dir, c->name);

	a->sun_family = AF_UNIX;
	if (len < 0 || (size_t)len >= sizeof(a->sun_path))
		return err_say(err, ENAMETOOLONG, "%s is too long a path for a socket", c->dir);
	unlink(a->sun_path);
	c->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->socket < 0 || bind(c->socket, (struct sockaddr *)a, sizeof(*a)) < 0)
		return err_set(err, errno, "listen at %s", a->sun_path);
	c->bound = true;
	if (listen(c->socket, CONTROL_CLIENTS) < 0)
		return err_set(err, errno, "listen at %s", a->sun_path);
	return 0;
}

static int start(struct control *c, struct err *err)
{
	int ret = rundir_path(c->dir, sizeof(c->dir), err);

	if (ret < 0)
		return ret;
	c->folder = open(c->dir, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (c->folder < 0)
		return err_set(err, errno, "open %s", c->dir);
	ret = take_name(c, err);
	if (ret == 0)
		ret = listen_at(c, err);
	if (ret < 0)
		return ret;
	c->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (c->timer < 0)
		return err_set(err, errno, "make a timer");
	ret = evloop_new(&c->loop, err);
	if (ret < 0)
		return ret;
	evloop_set_kind(c->loop, SANDBOX_CONTROL);
	c->on_socket = (struct ev_watch){ .fd = c->socket, .fn = on_connect, .arg = c };
	c->on_timer = (struct ev_watch){ .fd = c->timer, .fn = on_timer, .arg = c };
	ret = evloop_add(c->loop, &c->on_timer, POLLIN, err);
	return ret < 0 ? ret : evloop_add(c->loop, &c->on_socket, POLLIN, err);
}

int control_new(struct control **out, struct machine *m, const char *name, struct err *err)
{
	struct control *c = calloc(1, sizeof(*c));

	if (!c)
		return err_set(err, ENOMEM, "control socket");
	c->m = m;
	json_object_seed(0); /* from a file that the sandbox keeps it from later */
	c->socket = c->timer = c->lock = c->folder = -1;
	clock_gettime(CLOCK_MONOTONIC, &c->since);
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++)
		c->client[i].fd = -1;
	snprintf(c->name, sizeof(c->name), "%s", name);

	int ret = control_is_name(name)
			  ? start(c, err)
			  : err_say(err, EINVAL,
				    "'%s' is no name for a machine: letters, digits, '.', '_', '-'",
				    name);

	if (ret < 0)
		control_free(c);
	else
		*out = c;
	return ret;
}

int control_folder(const struct control *c)
{
	return c->folder;
}

/* By the folder's descriptor: the sandbox lets nobody remove a file by its path. */
static void remove_file(const struct control *c, const char *suffix)
{
	char name[CONTROL_NAME_MAX + sizeof(".known_hosts")];

	snprintf(name, sizeof(name), "%s%s", c->name, suffix);
	unlinkat(c->folder, name, 0);
}

void control_free(struct control *c)
{
	if (!c)
		return;
	/* Before the clients see the end: then the name is free. */
	if (c->bound) {
		remove_file(c, ".sock");
		/* What `cleave ssh` learnt: the next machine of the name has another key. */
		remove_file(c, ".known_hosts");
	}
	evloop_free(c->loop);
	if (c->lock >= 0)
		remove_file(c, ".lock");
	own_close(&c->lock);
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++)
		own_close(&c->client[i].fd);
	own_close(&c->socket);
	own_close(&c->timer);
	own_close(&c->folder);
	free(c);
}
