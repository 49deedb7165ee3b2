/* The options of cleave run. */
#include "cli/run_options.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/log.h"
#include "base/trace.h"
#include "cli/cli.h"
#include "cli/image.h"
#include "cli/net_option.h"
#include "cpu/x86/features.h"
#include "machine/control.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#define DEFAULT_MEMORY (512 * MiB)
#define IMAGE_MEMORY   (1 * GiB)

static int set_kernel(struct run_options *o, const char *val, struct err *err)
{
	o->cfg.kernel = val;
	return 0;
}

static int set_initrd(struct run_options *o, const char *val, struct err *err)
{
	o->cfg.initrd[o->cfg.n_initrd++] = val;
	return 0;
}

static int set_append(struct run_options *o, const char *val, struct err *err)
{
	o->cfg.append = val;
	return 0;
}

static int set_memory(struct run_options *o, const char *val, struct err *err)
{
	o->memory_said = true;
	if (parse_size(val, &o->cfg.memory_bytes) < 0)
		return err_say(err, EINVAL, "'%s' is not a size; write it as in --memory 512M",
			       val);
	return 0;
}

static int set_cpus(struct run_options *o, const char *val, struct err *err)
{
	if (parse_number(val, 1, 64, &o->cfg.n_cpus) < 0)
		return err_say(err, EINVAL, "'%s' is not a number from 1 to 64, as in --cpus 2",
			       val);
	return 0;
}

static int set_cpu(struct run_options *o, const char *val, struct err *err)
{
	struct cpu_model model;
	int ret = cpu_model_parse(&model, val, 1, 1000000, err);

	if (ret < 0)
		return ret;
	o->cfg.cpu = val;
	return 0;
}

static int set_engine(struct run_options *o, const char *val, struct err *err)
{
	o->cfg.engine = val;
	return 0;
}

/* A copy of val to cut up; it lasts as long as the machine. NULL: no memory. */
static char *copy_text(struct run_options *o, const char *val, struct err *err)
{
	char *copy = strdup(val);

	if (copy)
		o->text[o->n_texts++] = copy;
	else
		err_set(err, ENOMEM, "start");
	return copy;
}

/* The next of the words that commas separate; NULL at the end. Cuts *text up. */
static char *next_word(char **text)
{
	return *text ? strsep(text, ",") : NULL;
}

static int set_pv(struct run_options *o, const char *val, struct err *err)
{
	if (strcmp(val, "on") && strcmp(val, "off"))
		return err_say(err, EINVAL, "'%s' is not on or off, as in --pv off", val);
	o->cfg.no_pv = strcmp(val, "off") == 0;
	return 0;
}

static int set_gdb(struct run_options *o, const char *val, struct err *err)
{
	o->cfg.gdb = val;
	return 0;
}

static int set_gdb_wait(struct run_options *o, const char *val, struct err *err)
{
	o->cfg.gdb_wait = true;
	return 0;
}

/* MS[,ENGINE...] */
static int set_engine_dwell(struct run_options *o, const char *val, struct err *err)
{
	char *copy = copy_text(o, val, err), *rest = copy;

	if (!copy)
		return -ENOMEM;
	if (parse_number(next_word(&rest), 1, 1000000, &o->cfg.dwell_ms) < 0)
		return err_say(err, EINVAL,
			       "'%s' is not a number of milliseconds, and engines, as in "
			       "--engine-dwell 5,interp,dbt",
			       val);
	o->cfg.dwell_among = rest;
	return 0;
}

/* stdio, none, pty or file=PATH; -EINVAL for anything else. */
static int parse_console(const char *val, enum console_kind *kind, const char **path)
{
	if (strcmp(val, "stdio") == 0) {
		*kind = CONSOLE_STDIO;
	} else if (strcmp(val, "none") == 0) {
		*kind = CONSOLE_NONE;
	} else if (strcmp(val, "pty") == 0) {
		*kind = CONSOLE_PTY;
	} else if (strncmp(val, "file=", 5) == 0 && val[5]) {
		*kind = CONSOLE_FILE;
		*path = val + 5;
	} else {
		return -EINVAL;
	}
	return 0;
}

static int set_console(struct run_options *o, const char *val, struct err *err)
{
	if (parse_console(val, &o->cfg.console, &o->cfg.console_path) < 0)
		return err_say(err, EINVAL,
			       "'%s' is not stdio, none, pty or file=PATH, as in "
			       "--console file=boot.log",
			       val);
	return 0;
}

/* What follows name= in word; NULL if it is another word or nothing follows. */
static const char *value_of(const char *word, const char *name)
{
	size_t len = strlen(name);

	return strncmp(word, name, len) == 0 && word[len] == '=' && word[len + 1] ? word + len + 1
										  : NULL;
}

static int set_virtio_console(struct run_options *o, const char *val, struct err *err)
{
	struct port_config *p = &o->cfg.port[o->cfg.n_ports];
	char *rest = copy_text(o, val, err), *word;

	if (!rest)
		return -ENOMEM;
	if (o->cfg.n_ports == MACHINE_MAX_PORTS)
		return err_say(err, EINVAL, "at most %u times", MACHINE_MAX_PORTS);
	word = next_word(&rest);
	if (parse_console(word, &p->kind, &p->path) < 0)
		return err_say(err, EINVAL,
			       "'%s' is not stdio, none, pty or file=PATH, as in "
			       "--virtio-console pty,name=org.example.agent",
			       word);
	while ((word = next_word(&rest))) {
		p->name = value_of(word, "name");
		if (!p->name)
			return err_say(err, EINVAL,
				       "'%s' is not name=NAME, as in "
				       "--virtio-console pty,name=org.example.agent",
				       word);
	}
	o->cfg.n_ports++;
	return 0;
}

static int set_balloon(struct run_options *o, const char *val, struct err *err)
{
	struct balloon_config *b = &o->cfg.balloon;
	char *rest = copy_text(o, val, err), *word;

	if (!rest)
		return -ENOMEM;
	b->on = true;
	word = next_word(&rest);
	if (parse_size(word, &b->bytes) < 0)
		return err_say(err, EINVAL, "'%s' is not a size; write it as in --balloon 128M",
			       word);
	while ((word = next_word(&rest))) {
		const char *stats = value_of(word, "stats");

		if (!stats || parse_number(stats, 1, 86400, &b->stats_s) < 0)
			return err_say(err, EINVAL,
				       "'%s' is not stats=SECONDS, as in --balloon 0,stats=5",
				       word);
	}
	return 0;
}

static int set_vsock(struct run_options *o, const char *val, struct err *err)
{
	struct vsock_config *v = &o->cfg.vsock;
	char *rest = copy_text(o, val, err), *word;

	if (!rest)
		return -ENOMEM;
	while ((word = next_word(&rest))) {
		const char *cid = value_of(word, "cid"), *path = value_of(word, "path");

		if (path)
			v->path = path;
		else if (!cid || parse_number(cid, 3, UINT_MAX - 1, &v->cid) < 0)
			return err_say(
				err, EINVAL,
				"'%s' is neither cid=N (3 to 4294967294) nor path=SOCKET, as in "
				"--vsock cid=3,path=/tmp/vm.sock",
				word);
	}
	if (!v->cid || !v->path)
		return err_say(err, EINVAL,
			       "both are needed, as in --vsock cid=3,path=/tmp/vm.sock");
	return 0;
}

static int set_disk(struct run_options *o, const char *val, struct err *err)
{
	if (o->n_disks == MACHINE_MAX_DISKS)
		return err_say(err, EINVAL, "at most %u disks", MACHINE_MAX_DISKS);
	return disk_option_parse(&o->disk_option[o->n_disks++], val, err);
}

static int set_on_io_error(struct run_options *o, const char *val, struct err *err)
{
	o->stop_on_error = strcmp(val, "stop") == 0;
	if (!o->stop_on_error && strcmp(val, "report") != 0)
		return err_say(err, EINVAL, "'%s' is not stop or report, as in --on-io-error stop",
			       val);
	return 0;
}

static int set_name(struct run_options *o, const char *val, struct err *err)
{
	if (!control_is_name(val))
		return err_say(
			err, EINVAL,
			"'%s' is no name: letters, digits, '.', '_' and '-', as in --name web",
			val);
	o->cfg.name = val;
	return 0;
}

static int set_keep(struct run_options *o, const char *val, struct err *err)
{
	o->order.keep = true;
	return 0;
}

static int set_ssh_key(struct run_options *o, const char *val, struct err *err)
{
	o->order.ssh_key = val;
	return 0;
}

static int set_hostname(struct run_options *o, const char *val, struct err *err)
{
	o->order.hostname = val;
	return 0;
}

static int set_user_data(struct run_options *o, const char *val, struct err *err)
{
	o->order.user_data = val;
	return 0;
}

static int set_net(struct run_options *o, const char *val, struct err *err)
{
	o->net_said = true;
	if (strcmp(val, "none") == 0) {
		o->cfg.n_nics = 0;
		return 0;
	}
	if (o->cfg.n_nics == MACHINE_MAX_NICS)
		return err_say(err, E2BIG, "at most %u network cards", MACHINE_MAX_NICS);

	struct nic_config *nic = &o->nic[o->cfg.n_nics];
	int ret;

	free((void *)nic->tap);
	*nic = (struct nic_config){ 0 };
	ret = parse_net(nic, val, err);
	if (ret == 0)
		o->cfg.n_nics++;
	return ret;
}

static int set_sandbox(struct run_options *o, const char *val, struct err *err)
{
	o->cfg.sandbox = strcmp(val, "on") == 0;
	if (!o->cfg.sandbox && strcmp(val, "off") != 0)
		return err_say(err, EINVAL, "'%s' is not on or off, as in --sandbox off", val);
#ifdef INSTRUMENTED
	/* What watches the program needs files, threads and other calls of its own. */
	o->cfg.sandbox = false;
#endif
	return 0;
}

static int set_debug_exit(struct run_options *o, const char *val, struct err *err)
{
	o->cfg.debug_exit = true;
	return 0;
}

static int set_no_reboot(struct run_options *o, const char *val, struct err *err)
{
	o->cfg.no_reboot = true;
	return 0;
}

static int set_stats(struct run_options *o, const char *val, struct err *err)
{
	o->cfg.stats = true;
	return 0;
}

static int set_icount(struct run_options *o, const char *val, struct err *err)
{
	o->cfg.icount = true;
	return 0;
}

static int set_icount_hash(struct run_options *o, const char *val, struct err *err)
{
	unsigned n;

	if (parse_number(val, 1, UINT_MAX, &n) < 0)
		return err_say(err, EINVAL,
			       "'%s' is not a number of instructions, as in --icount-hash 1000000",
			       val);
	o->cfg.icount_hash = n;
	return 0;
}

static int set_log(struct run_options *o, const char *val, struct err *err)
{
	enum log_level level;

	if (log_parse_level(val, &level) < 0)
		return err_say(err, EINVAL,
			       "'%s' is not error, warn, info or debug, as in --log info", val);
	log_set_level(level);
	return 0;
}

static int set_trace(struct run_options *o, const char *val, struct err *err)
{
	return trace_setup(val, err);
}

static int set_help(struct run_options *o, const char *val, struct err *err)
{
	o->help = true;
	return 0;
}

static const struct {
	const char *name;
	const char *example; /* of its value; NULL: it has none */
	int (*set)(struct run_options *o, const char *val, struct err *err);
} option_table[] = {
	{ "--kernel", "vmlinuz", set_kernel },
	{ "--initrd", "initrd.img", set_initrd },
	{ "--append", "'console=ttyS0'", set_append },
	{ "--memory", "512M", set_memory },
	{ "--cpus", "2", set_cpus },
	{ "--cpu", "x86-64-v3,-avx2", set_cpu },
	{ "--engine", "dbt", set_engine },
	{ "--engine-dwell", "5,interp,dbt", set_engine_dwell },
	{ "--pv", "off", set_pv },
	{ "--gdb", "tcp:127.0.0.1:1234", set_gdb },
	{ "--gdb-wait", NULL, set_gdb_wait },
	{ "--console", "file=boot.log", set_console },
	{ "--virtio-console", "pty,name=org.example.agent", set_virtio_console },
	{ "--balloon", "128M", set_balloon },
	{ "--vsock", "cid=3,path=/tmp/vm.sock", set_vsock },
	{ "--disk", "disk.qcow2,format=qcow2", set_disk },
	{ "--on-io-error", "stop", set_on_io_error },
	{ "--name", "web", set_name },
	{ "--keep", NULL, set_keep },
	{ "--ssh-key", "id_ed25519.pub", set_ssh_key },
	{ "--hostname", "web1", set_hostname },
	{ "--user-data", "user-data", set_user_data },
	{ "--net", "user,forward=127.0.0.1:2222:22", set_net },
	{ "--sandbox", "off", set_sandbox },
	{ "--debug-exit", NULL, set_debug_exit },
	{ "--no-reboot", NULL, set_no_reboot },
	{ "--stats", NULL, set_stats },
	{ "--icount", NULL, set_icount },
	{ "--icount-hash", "1000000", set_icount_hash },
	{ "--log", "info", set_log },
	{ "--trace", "exc,int", set_trace },
	{ "--help", NULL, set_help },
	{ "-h", NULL, set_help },
};

/* Take the option at argv[*i], and its value: "--name value" or "--name=value". */
static int take_option(struct run_options *o, int argc, char **argv, int *i, struct err *err)
{
	const char *arg = argv[*i], *val = NULL;
	size_t len = strcspn(arg, "=");

	for (unsigned k = 0; k < ARRAY_SIZE(option_table); k++) {
		const char *name = option_table[k].name;

		if (strlen(name) != len || memcmp(name, arg, len) != 0)
			continue;
		if (option_table[k].example) {
			val = arg[len] ? arg + len + 1 : ++*i < argc ? argv[*i] : NULL;
			if (!val)
				return err_say(err, EINVAL, "%s needs a value, as in %s %s", name,
					       name, option_table[k].example);
		} else if (arg[len]) {
			return err_say(err, EINVAL, "%s takes no value", name);
		}

		int ret = option_table[k].set(o, val, err);

		return ret < 0 ? err_wrap(err, "%s", name) : 0;
	}
	return err_say(err, EINVAL, "there is no option '%s'; see `cleave run --help`", arg);
}

static int take_image(struct run_options *o, const char *arg, struct err *err)
{
	if (o->order.image)
		return err_say(err, EINVAL, "'%s' is too much: one image, as in cleave run %s", arg,
			       o->order.image);
	if (!image_is_name(arg))
		return err_say(err, EINVAL,
			       "'%s' is no image's name, as in cleave run " IMAGE_EXAMPLE, arg);
	o->order.image = arg;
	return 0;
}

/* What goes with an image only. */
static int check_order(const struct run_options *o, struct err *err)
{
	const struct instance_order *r = &o->order;
	const char *option = r->ssh_key	    ? "--ssh-key"
			     : r->hostname  ? "--hostname"
			     : r->user_data ? "--user-data"
			     : r->keep	    ? "--keep"
					    : NULL;

	if (r->image)
		return 0;
	if (option)
		return err_say(err, EINVAL,
			       "%s goes with an image, as in: cleave run " IMAGE_EXAMPLE, option);
	if (!o->cfg.kernel)
		return err_say(err, EINVAL,
			       "what to boot? An image, as in cleave run " IMAGE_EXAMPLE
			       ", or a kernel, as in --kernel vmlinuz");
	return 0;
}

static int parse(struct run_options *o, int argc, char **argv, struct err *err)
{
	for (int i = 1; i < argc; i++) {
		int ret = argv[i][0] == '-' ? take_option(o, argc, argv, &i, err)
					    : take_image(o, argv[i], err);

		if (ret < 0 || o->help)
			return ret;
	}
	if (!o->memory_said)
		o->cfg.memory_bytes = o->order.image ? IMAGE_MEMORY : DEFAULT_MEMORY;
	return check_order(o, err);
}

int run_options_parse(struct run_options *o, int argc, char **argv, struct err *err)
{
	*o = (struct run_options){
		/* As many as there can be, and an image's initrd. */
		.initrd = calloc((size_t)argc + 1, sizeof(*o->initrd)),
		.text = calloc((size_t)argc, sizeof(*o->text)),
		.cfg = {
			.append = "",
			.n_cpus = 1,
			.cpu = "max",
			.engine = "auto",
			.console = CONSOLE_STDIO,
		},
	};
	o->cfg.initrd = o->initrd;
	o->cfg.nic = o->nic;
	o->cfg.disk = o->disk;
#ifndef INSTRUMENTED
	o->cfg.sandbox = true;
#endif
	return o->initrd && o->text ? parse(o, argc, argv, err) : err_set(err, ENOMEM, "start");
}

void run_options_fini(struct run_options *o)
{
	while (o->n_texts)
		free(o->text[--o->n_texts]);
	free(o->text);
	free(o->initrd);
	for (unsigned i = 0; i < o->n_disks; i++)
		disk_option_fini(&o->disk_option[i]);
	for (unsigned i = 0; i < MACHINE_MAX_NICS; i++)
		free((void *)o->nic[i].tap);
}
