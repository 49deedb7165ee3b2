/* The commands of docs/control.md. */
#include "base/bits.h"
#include "base/err.h"
#include "dev/backend/chr_tee.h"
#include "dev/virtio/balloon.h"
#include "machine/control_internal.h"
#include "machine/machine_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define DEFAULT_TIMEOUT_S 90
#define MAX_TIMEOUT_S	  86400

/* With the request's id, if it has one. */
static json_t *reply(json_t *request, json_t *body)
{
	json_t *id = json_object_get(request, "id");

	if (body && id)
		json_object_set(body, "id", id);
	return body;
}

static json_t *success(json_t *request, json_t *result)
{
	return reply(request, json_pack("{s:b, s:o}", "ok", 1, "result", result));
}

json_t *control_error(json_t *request, const char *code, const char *message)
{
	return reply(request, json_pack("{s:b, s:{s:s, s:s}}", "ok", 0, "error", "code", code,
					"message", message));
}

static json_t *describe_forward(const struct net_forward *f)
{
	struct in_addr addr = { htonl(f->host_addr) };
	char text[INET_ADDRSTRLEN];

	return json_pack("{s:s, s:s, s:i, s:i}", "protocol", f->udp ? "udp" : "tcp", "address",
			 inet_ntop(AF_INET, &addr, text, sizeof(text)), "port", f->host_port,
			 "guest_port", f->guest_port);
}

static json_t *describe_nic(const struct nic_config *nic)
{
	json_t *forwards = json_array();

	if (nic->kind == NIC_TAP) {
		json_decref(forwards);
		return json_pack("{s:s, s:s}", "kind", "tap", "interface", nic->tap);
	}
	for (unsigned i = 0; i < nic->user.n_forwards; i++)
		json_array_append_new(forwards, describe_forward(&nic->user.forward[i]));
	return json_pack("{s:s, s:b, s:o}", "kind", "user", "restricted", nic->user.restricted,
			 "forwards", forwards);
}

/* What is in force; null with --sandbox off. */
static json_t *describe_sandbox(const struct machine *m)
{
	if (!m->sandbox.on)
		return json_null();
	return json_pack("{s:b, s:b, s:i, s:i, s:i}", "seccomp", 1, "no_new_privileges", 1,
			 "landlock_abi", m->sandbox.landlock_abi, "threads",
			 (int)m->sandbox.n_threads, "refused_calls", (int)sandbox_n_refused());
}

/* null for NULL, and for what is no text: a path is any bytes. */
static json_t *text_or_null(const char *text)
{
	json_t *j = text ? json_string(text) : NULL;

	return j ? j : json_null();
}

/* As Linux calls the disks, in their order. */
static void disk_name(unsigned i, char name[4])
{
	memcpy(name, "vda", 4);
	name[2] = (char)('a' + i);
}
_Static_assert(MACHINE_MAX_DISKS <= 26, "a letter for each disk");

static json_t *describe_disk(const struct machine *m, unsigned i)
{
	const struct blk_open *how = &m->cfg.disk[i].open;
	char name[4];

	disk_name(i, name);
	return json_pack("{s:s, s:o, s:s, s:I, s:b}", "name", name, "path", text_or_null(how->path),
			 "format", blk_format_name(how->format), "bytes",
			 (json_int_t)machine_disk_bytes(m, i), "readonly", how->readonly);
}

static json_t *describe_balloon(const struct machine *m)
{
	static const struct {
		const char *name;
		enum balloon_stat stat;
	} said[] = { { "guest_free_bytes", BALLOON_FREE },
		     { "guest_available_bytes", BALLOON_AVAILABLE },
		     { "guest_total_bytes", BALLOON_TOTAL } };
	struct balloon_info b;
	json_t *j;

	if (!m->balloon)
		return json_null();
	balloon_look(m->balloon, &b);
	j = json_pack("{s:I, s:I, s:I, s:I}", "target_bytes", (json_int_t)b.target, "bytes",
		      (json_int_t)b.actual, "inflated_bytes", (json_int_t)b.inflated,
		      "reported_bytes", (json_int_t)b.reported);
	/* What the guest says is any number. */
	for (unsigned i = 0; i < ARRAY_SIZE(said); i++)
		if (b.stat[said[i].stat] <= INT64_MAX)
			json_object_set_new(j, said[i].name,
					    json_integer((json_int_t)b.stat[said[i].stat]));
	return j;
}

static json_t *status(struct control *c, json_t *request)
{
	const struct machine_config *cfg = &c->m->cfg;
	const struct engine *engine = c->m->set.v[0]->engine;
	json_t *nics = json_array(), *disks = json_array();
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	for (unsigned i = 0; i < cfg->n_nics; i++)
		json_array_append_new(nics, describe_nic(&cfg->nic[i]));
	for (unsigned i = 0; i < c->m->n_disks; i++)
		json_array_append_new(disks, describe_disk(c->m, i));
	return success(
		request,
		json_pack("{s:s, s:i, s:s, s:s, s:i, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "name",
			  c->name, "pid", (int)getpid(), "state",
			  machine_is_paused(c->m) ? "paused" : "running", "engine", engine->name,
			  "cpus", (int)cfg->n_cpus, "memory_bytes", (json_int_t)cfg->memory_bytes,
			  "uptime_s", (json_int_t)(now.tv_sec - c->since.tv_sec), "kernel",
			  text_or_null(cfg->kernel), "disks", disks, "networks", nics, "balloon",
			  describe_balloon(c->m), "sandbox", describe_sandbox(c->m)));
}

static json_t *stop(struct control *c, json_t *request)
{
	json_int_t timeout_s = DEFAULT_TIMEOUT_S;
	int force = 0;

	if (json_unpack(request, "{s?I, s?b}", "timeout_s", &timeout_s, "force", &force) < 0 ||
	    timeout_s < 0 || timeout_s > MAX_TIMEOUT_S)
		return control_error(request, "bad-request",
				     "stop takes timeout_s, from 0 to 86400, and force, a boolean");
	if (!force)
		machine_power_button(c->m);
	control_stop_within(c, force ? 0 : (unsigned)timeout_s);
	return success(request, json_pack("{s:b, s:I}", "forced", force, "timeout_s",
					  force ? (json_int_t)0 : timeout_s));
}

static json_t *reset(struct control *c, json_t *request)
{
	machine_reset(c->m);
	return success(request, json_object());
}

static json_t *engine(struct control *c, json_t *request)
{
	struct machine_move move;
	const char *to;
	struct err err;

	if (json_unpack(request, "{s:s}", "engine", &to) < 0)
		return control_error(request, "bad-request", "engine takes engine, a name");
	if (machine_move_engine(c->m, to, &move, &err) < 0)
		return control_error(request, err.code == EINVAL ? "bad-request" : "failed",
				     err.msg);
	return success(request, json_pack("{s:s, s:s, s:f}", "from", move.from, "to", move.to,
					  "pause_ms", (double)move.pause_ns / 1e6));
}

static json_t *pause_machine(struct control *c, json_t *request)
{
	machine_pause(c->m);
	return success(request, json_object());
}

static json_t *continue_machine(struct control *c, json_t *request)
{
	machine_continue(c->m);
	return success(request, json_object());
}

static json_t *resize(struct control *c, json_t *request)
{
	json_int_t bytes;
	const char *disk;
	struct err err;
	char name[4];
	unsigned i = 0;

	if (json_unpack(request, "{s:s, s:I}", "disk", &disk, "bytes", &bytes) < 0 || bytes <= 0)
		return control_error(request, "bad-request",
				     "resize takes disk, as vda, and bytes");
	for (; i < c->m->n_disks; i++) {
		disk_name(i, name);
		if (strcmp(name, disk) == 0)
			break;
	}
	if (machine_resize_disk(c->m, i, (uint64_t)bytes, &err) < 0)
		return control_error(request,
				     err.code == EINVAL || err.code == ENOENT ? "bad-request"
									      : "failed",
				     err.msg);
	return success(request, json_object());
}

static json_t *balloon(struct control *c, json_t *request)
{
	json_int_t bytes;

	if (json_unpack(request, "{s:I}", "bytes", &bytes) < 0 || bytes < 0 ||
	    (uint64_t)bytes > c->m->cfg.memory_bytes)
		return control_error(request, "bad-request",
				     "balloon takes bytes, at most the machine's memory");
	if (!c->m->balloon)
		return control_error(request, "failed",
				     "the machine was started without --balloon");
	balloon_set(c->m->balloon, (uint64_t)bytes);
	return success(request, json_object());
}

static const struct {
	const char *name;
	json_t *(*fn)(struct control *c, json_t *request);
} commands[] = {
	{ "status", status }, { "stop", stop },		  { "reset", reset },
	{ "engine", engine }, { "pause", pause_machine }, { "continue", continue_machine },
	{ "resize", resize }, { "balloon", balloon },
};

static const char *command(json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "command"));

	return name ? name : "";
}

json_t *control_execute(struct control *c, json_t *request)
{
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(commands[i].name, command(request)) == 0)
			return commands[i].fn(c, request);
	return control_error(
		request, "unknown-command",
		"command is one of status, stop, reset, engine, pause, continue, resize, balloon, "
		"console");
}

bool control_is_console(json_t *request)
{
	return strcmp(command(request), "console") == 0;
}

/* The console gets a descriptor of its own, so that the client's can go as all others do. The
 * answer is on its way before the console writes.
 */
json_t *control_console(struct client *k, json_t *request)
{
	static const char yes[] = "{\"ok\":true,\"result\":{}}\n";
	int fd = fcntl(k->fd, F_DUPFD_CLOEXEC, 0);
	struct err err = { 0 };

	if (fd < 0)
		return control_error(request, "failed", "no descriptor is left");
	if (chr_tee_is_taken(k->c->m->console)) {
		close(fd);
		return control_error(request, "busy", "somebody else is at the console");
	}
	if (send(fd, yes, sizeof(yes) - 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ||
	    chr_tee_attach(k->c->m->console, fd, &err) < 0)
		return control_error(request, "failed", err.msg);
	evloop_del(k->c->loop, &k->watch);
	close(k->fd);
	k->fd = -1;
	return NULL;
}
