/* cleave run: boot a kernel in a new machine and wait for its end. */
#include "base/bits.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "base/trace.h"
#include "cli/cli.h"
#include "cli/disk_option.h"
#include "cli/image.h"
#include "cli/instance.h"
#include "cli/net_option.h"
#include "host/terminal.h"
#include "cpu/x86/features.h"
#include "machine/control.h"
#include "machine/machine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#define DEFAULT_MEMORY (512 * MiB)
#define IMAGE_MEMORY   (1 * GiB)

struct options {
	struct machine_config cfg;
	char **text; /* copies of values that were cut up: cfg points into them; owned */
	unsigned n_texts;
	struct disk_config disk[MACHINE_MAX_DISKS];
	struct disk_option disk_option[MACHINE_MAX_DISKS];
	unsigned n_disks;
	bool stop_on_error;
	struct nic_config nic[MACHINE_MAX_NICS];
	bool memory_said, net_said;
	struct instance_order order; /* image: the positional argument; NULL: none */
	struct instance *instance;   /* owned */
	bool help;
};

static int set_kernel(struct options *o, const char *val, struct err *err)
{
	o->cfg.kernel = val;
	return 0;
}

static int set_initrd(struct options *o, const char *val, struct err *err)
{
	o->cfg.initrd[o->cfg.n_initrd++] = val;
	return 0;
}

static int set_append(struct options *o, const char *val, struct err *err)
{
	o->cfg.append = val;
	return 0;
}

static int set_memory(struct options *o, const char *val, struct err *err)
{
	o->memory_said = true;
	if (parse_size(val, &o->cfg.memory_bytes) < 0)
		return err_say(err, EINVAL, "'%s' is not a size; write it as in --memory 512M",
			       val);
	return 0;
}

static int set_cpus(struct options *o, const char *val, struct err *err)
{
	if (parse_number(val, 1, 64, &o->cfg.n_cpus) < 0)
		return err_say(err, EINVAL, "'%s' is not a number from 1 to 64, as in --cpus 2",
			       val);
	return 0;
}

static int set_cpu(struct options *o, const char *val, struct err *err)
{
	struct cpu_model model;
	int ret = cpu_model_parse(&model, val, 1, 1000000, err);

	if (ret < 0)
		return ret;
	o->cfg.cpu = val;
	return 0;
}

static int set_engine(struct options *o, const char *val, struct err *err)
{
	o->cfg.engine = val;
	return 0;
}

/* A copy of val to cut up; it lasts as long as the machine. NULL: no memory. */
static char *copy_text(struct options *o, const char *val, struct err *err)
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

static int set_pv(struct options *o, const char *val, struct err *err)
{
	if (strcmp(val, "on") && strcmp(val, "off"))
		return err_say(err, EINVAL, "'%s' is not on or off, as in --pv off", val);
	o->cfg.no_pv = strcmp(val, "off") == 0;
	return 0;
}

/* MS[,ENGINE...] */
static int set_engine_dwell(struct options *o, const char *val, struct err *err)
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

static int set_console(struct options *o, const char *val, struct err *err)
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

static int set_virtio_console(struct options *o, const char *val, struct err *err)
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
			return err_say(err, EINVAL, "'%s' is not name=NAME", word);
	}
	o->cfg.n_ports++;
	return 0;
}

static int set_balloon(struct options *o, const char *val, struct err *err)
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

static int set_vsock(struct options *o, const char *val, struct err *err)
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
			return err_say(err, EINVAL,
				       "'%s' is neither cid=N (3 to 4294967294) nor path=SOCKET",
				       word);
	}
	if (!v->cid || !v->path)
		return err_say(err, EINVAL,
			       "both are needed, as in --vsock cid=3,path=/tmp/vm.sock");
	return 0;
}

static int set_disk(struct options *o, const char *val, struct err *err)
{
	if (o->n_disks == MACHINE_MAX_DISKS)
		return err_say(err, EINVAL, "at most %u disks", MACHINE_MAX_DISKS);
	return disk_option_parse(&o->disk_option[o->n_disks++], val, err);
}

static int set_on_io_error(struct options *o, const char *val, struct err *err)
{
	o->stop_on_error = strcmp(val, "stop") == 0;
	if (!o->stop_on_error && strcmp(val, "report") != 0)
		return err_say(err, EINVAL, "'%s' is not stop or report, as in --on-io-error stop",
			       val);
	return 0;
}

static int set_name(struct options *o, const char *val, struct err *err)
{
	if (!control_is_name(val))
		return err_say(
			err, EINVAL,
			"'%s' is no name: letters, digits, '.', '_' and '-', as in --name web",
			val);
	o->cfg.name = val;
	return 0;
}

static int set_keep(struct options *o, const char *val, struct err *err)
{
	o->order.keep = true;
	return 0;
}

static int set_ssh_key(struct options *o, const char *val, struct err *err)
{
	o->order.ssh_key = val;
	return 0;
}

static int set_hostname(struct options *o, const char *val, struct err *err)
{
	o->order.hostname = val;
	return 0;
}

static int set_user_data(struct options *o, const char *val, struct err *err)
{
	o->order.user_data = val;
	return 0;
}

static int set_net(struct options *o, const char *val, struct err *err)
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

static int set_debug_exit(struct options *o, const char *val, struct err *err)
{
	o->cfg.debug_exit = true;
	return 0;
}

static int set_no_reboot(struct options *o, const char *val, struct err *err)
{
	o->cfg.no_reboot = true;
	return 0;
}

static int set_stats(struct options *o, const char *val, struct err *err)
{
	o->cfg.stats = true;
	return 0;
}

static int set_icount(struct options *o, const char *val, struct err *err)
{
	o->cfg.icount = true;
	return 0;
}

static int set_icount_hash(struct options *o, const char *val, struct err *err)
{
	unsigned n;

	if (parse_number(val, 1, UINT_MAX, &n) < 0)
		return err_say(err, EINVAL,
			       "'%s' is not a number of instructions, as in --icount-hash 1000000",
			       val);
	o->cfg.icount_hash = n;
	return 0;
}

static int set_log(struct options *o, const char *val, struct err *err)
{
	enum log_level level;

	if (log_parse_level(val, &level) < 0)
		return err_say(err, EINVAL,
			       "'%s' is not error, warn, info or debug, as in --log info", val);
	log_set_level(level);
	return 0;
}

static int set_trace(struct options *o, const char *val, struct err *err)
{
	return trace_setup(val, err);
}

static int set_help(struct options *o, const char *val, struct err *err)
{
	o->help = true;
	return 0;
}

static const struct {
	const char *name;
	bool has_value;
	int (*set)(struct options *o, const char *val, struct err *err);
} option_table[] = {
	{ "--kernel", true, set_kernel },
	{ "--initrd", true, set_initrd },
	{ "--append", true, set_append },
	{ "--memory", true, set_memory },
	{ "--cpus", true, set_cpus },
	{ "--cpu", true, set_cpu },
	{ "--engine", true, set_engine },
	{ "--engine-dwell", true, set_engine_dwell },
	{ "--pv", true, set_pv },
	{ "--console", true, set_console },
	{ "--virtio-console", true, set_virtio_console },
	{ "--balloon", true, set_balloon },
	{ "--vsock", true, set_vsock },
	{ "--disk", true, set_disk },
	{ "--on-io-error", true, set_on_io_error },
	{ "--name", true, set_name },
	{ "--keep", false, set_keep },
	{ "--ssh-key", true, set_ssh_key },
	{ "--hostname", true, set_hostname },
	{ "--user-data", true, set_user_data },
	{ "--net", true, set_net },
	{ "--debug-exit", false, set_debug_exit },
	{ "--no-reboot", false, set_no_reboot },
	{ "--stats", false, set_stats },
	{ "--icount", false, set_icount },
	{ "--icount-hash", true, set_icount_hash },
	{ "--log", true, set_log },
	{ "--trace", true, set_trace },
	{ "--help", false, set_help },
	{ "-h", false, set_help },
};

/* Take the option at argv[*i], and its value: "--name value" or "--name=value". */
static int take_option(struct options *o, int argc, char **argv, int *i, struct err *err)
{
	const char *arg = argv[*i], *val = NULL;
	size_t len = strcspn(arg, "=");

	for (unsigned k = 0; k < ARRAY_SIZE(option_table); k++) {
		const char *name = option_table[k].name;

		if (strlen(name) != len || memcmp(name, arg, len) != 0)
			continue;
		if (option_table[k].has_value) {
			val = arg[len] ? arg + len + 1 : ++*i < argc ? argv[*i] : NULL;
			if (!val)
				return err_say(err, EINVAL,
					       "%s needs a value; see `cleave run --help`", name);
		} else if (arg[len]) {
			return err_say(err, EINVAL, "%s takes no value", name);
		}

		int ret = option_table[k].set(o, val, err);

		return ret < 0 ? err_wrap(err, "%s", name) : 0;
	}
	return err_say(err, EINVAL, "there is no option '%s'; see `cleave run --help`", arg);
}

static int take_image(struct options *o, const char *arg, struct err *err)
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
static int check_order(const struct options *o, struct err *err)
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

static int parse(struct options *o, int argc, char **argv, struct err *err)
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

/* A port of the loopback that nobody has now; 0: none. */
static uint16_t free_port(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	AUTO_FD int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) < 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		return 0;
	return ntohs(a.sin_port);
}

/* The network of an instance where the user says nothing: NAT, with a way in for ssh. */
static void add_default_net(struct options *o)
{
	struct net_user_cfg *u = &o->nic[0].user;
	uint16_t port = free_port();

	o->cfg.n_nics = 1;
	if (!port)
		return;
	u->n_forwards = 1;
	u->forward[0] = (struct net_forward){ .host_addr = INADDR_LOOPBACK,
					      .host_port = port,
					      .guest_port = 22 };
}

static void say_how_to_log_in(const struct options *o)
{
	const struct instance *in = o->instance;
	char name[32];

	snprintf(name, sizeof(name), "vm-%d", (int)getpid());
	if (in->name[0])
		fprintf(stderr, "cleave: %s runs %s; its disk is kept: cleave run %s --name %s\n",
			in->name, o->order.image, o->order.image, in->name);
	else
		fprintf(stderr,
			"cleave: %s runs %s; its disk is gone when it ends (--name NAME or --keep "
			"keep it)\n",
			name, o->order.image);
	if (o->cfg.n_nics)
		fprintf(stderr, "cleave: log in with: cleave ssh %s\n",
			in->name[0] ? in->name : name);
	if (in->password[0])
		fprintf(stderr, "cleave: or on the console, as root with the password %s\n",
			in->password);
}

/* Make the instance of an image, and put what it has before what the user said. */
static int use_image(struct options *o, struct err *err)
{
	struct instance_order *r = &o->order;
	int ret;

	r->name = o->cfg.name;
	r->append = o->cfg.append;
	r->has_kernel = o->cfg.kernel != NULL;
	ret = instance_new(&o->instance, r, err);
	if (ret < 0)
		return ret;
	if (o->n_disks + o->instance->n_disks > MACHINE_MAX_DISKS)
		return err_say(err, E2BIG, "--disk: at most %u disks, the image's among them",
			       MACHINE_MAX_DISKS);
	for (unsigned i = 0; i < o->instance->n_disks; i++)
		o->disk[i].open = o->instance->disk[i];
	if (!r->has_kernel) {
		o->cfg.kernel = o->instance->boot.kernel;
		if (o->instance->boot.initrd_fd >= 0 && !o->cfg.n_initrd)
			o->cfg.initrd[o->cfg.n_initrd++] = o->instance->boot.initrd;
	}
	o->cfg.append = o->instance->append;
	o->cfg.oem_strings = (const char *const *)o->instance->oem;
	if (o->instance->name[0])
		o->cfg.name = o->instance->name;
	if (!o->net_said && !o->cfg.icount)
		add_default_net(o);
	say_how_to_log_in(o);
	return 0;
}

/* All that the machine is made of, from what was said. */
static int configure(struct options *o, struct err *err)
{
	int ret = o->order.image ? use_image(o, err) : 0;
	unsigned first = o->instance ? o->instance->n_disks : 0;

	if (ret < 0)
		return ret;
	for (unsigned i = 0; i < o->n_disks; i++)
		o->disk[first + i] = o->disk_option[i].cfg;
	o->cfg.disk = o->disk;
	o->cfg.n_disks = first + o->n_disks;
	for (unsigned i = 0; i < o->cfg.n_disks; i++)
		o->disk[i].stop_on_error = o->stop_on_error;
	return 0;
}

/* The signals that end or stop the process are taken by a thread, so that the machine ends in
 * order and the terminal gets its mode back.
 */
struct signals {
	struct machine *m;
	pthread_t thread;
	sigset_t set;
	_Atomic int got; /* the signal that ended the machine, or 0 */
};

static void *signal_thread(void *arg)
{
	struct signals *s = arg;

	for (;;) {
		int sig;

		if (sigwait(&s->set, &sig) != 0)
			continue;
		if (sig == SIGTSTP) {
			terminal_suspend();
		} else if (sig == SIGCONT) {
			machine_continue(s->m);
		} else if (sig == SIGUSR1) {
			return NULL; /* signals_end */
		} else {
			s->got = sig;
			machine_end(s->m, END_QUIT, 0);
		}
	}
}

/* Block them before any thread starts: threads inherit the mask. */
static void signals_block(struct signals *s)
{
	static const int taken[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGUSR1 };

	sigemptyset(&s->set);
	for (unsigned i = 0; i < ARRAY_SIZE(taken); i++)
		sigaddset(&s->set, taken[i]);
	pthread_sigmask(SIG_BLOCK, &s->set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a limit on files is an error of writing */
}

static int signals_begin(struct signals *s, struct machine *m, struct err *err)
{
	s->m = m;

	int ret = pthread_create(&s->thread, NULL, signal_thread, s);

	return ret ? err_set(err, ret, "start a thread") : 0;
}

static void signals_end(struct signals *s)
{
	pthread_kill(s->thread, SIGUSR1);
	pthread_join(s->thread, NULL);
}

static int exit_status(enum machine_end why, uint32_t code, int sig)
{
	switch (why) {
	case END_QUIT: return sig ? 128 + sig : STATUS_OK;
	case END_TRIPLE_FAULT: return STATUS_TRIPLE_FAULT;
	case END_DEBUG_EXIT: return (int)((code << 1 | 1) & 0xff);
	case END_BROKEN: return STATUS_BROKEN;
	default: return STATUS_OK;
	}
}

/* A machine that was given no name goes on without a socket where there is no place for one. */
static int open_control(struct control **out, struct machine *m, const char *name, struct err *err)
{
	struct err why;
	char made_up[32];

	if (name)
		return control_new(out, m, name, err);
	snprintf(made_up, sizeof(made_up), "vm-%d", (int)getpid());
	if (control_new(out, m, made_up, &why) < 0)
		log_say(LOG_INFO, "no control socket: %s", why.msg);
	return 0;
}

static int run(const struct machine_config *cfg, struct err *err)
{
	struct signals signals = { 0 };
	struct control *control = NULL;
	struct machine *m;
	uint32_t code;

	signals_block(&signals);

	int ret = machine_new(&m, cfg, err);

	if (ret < 0)
		return ret;
	ret = open_control(&control, m, cfg->name, err);
	if (ret == 0)
		ret = signals_begin(&signals, m, err);
	if (ret == 0) {
		enum machine_end why = machine_run(m, &code);

		signals_end(&signals);
		ret = exit_status(why, code, signals.got);
	}
	control_free(control);
	machine_free(m);
	return ret;
}

int cmd_run(int argc, char **argv)
{
	/* As many as there can be. */
	AUTO_FREE const char **initrd = calloc((size_t)argc + 1, sizeof(*initrd));
	AUTO_FREE char **text = calloc((size_t)argc, sizeof(*text));
	struct options o = {
		.text = text,
		.cfg = {
			.initrd = initrd,
			.append = "",
			.n_cpus = 1,
			.cpu = "max",
			.engine = "auto",
			.console = CONSOLE_STDIO,
		},
	};
	o.cfg.nic = o.nic;

	struct err err;
	int ret = initrd && text ? parse(&o, argc, argv, &err) : err_set(&err, ENOMEM, "start");

	if (ret == 0 && o.help)
		help_command("run");
	else if (ret == 0)
		ret = configure(&o, &err);
	if (ret == 0 && !o.help)
		ret = run(&o.cfg, &err);
	instance_free(o.instance);
	while (o.n_texts)
		free(text[--o.n_texts]);
	for (unsigned i = 0; i < o.n_disks; i++)
		disk_option_fini(&o.disk_option[i]);
	for (unsigned i = 0; i < MACHINE_MAX_NICS; i++)
		free((void *)o.nic[i].tap);
	if (ret < 0) {
		fprintf(stderr, "cleave: %s\n", err.msg);
		return STATUS_ERROR;
	}
	return ret;
}
