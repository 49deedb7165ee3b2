/* cleave run: start a machine and wait for its end. */
#include "base/bits.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/run_options.h"
#include "host/sandbox_threads.h"
#include "host/terminal.h"
#include "machine/control.h"
#include "machine/machine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

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
static void add_default_net(struct run_options *o)
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

static bool has_way_in(const struct machine_config *cfg)
{
	for (unsigned i = 0; i < cfg->n_nics; i++)
		for (unsigned k = 0; k < cfg->nic[i].user.n_forwards; k++)
			if (cfg->nic[i].user.forward[k].guest_port == 22)
				return true;
	return false;
}

static void say_how_to_log_in(const struct run_options *o, const struct instance *in)
{
	const char *image = o->order.image, *name = in->name;
	char made_up[32];

	snprintf(made_up, sizeof(made_up), "vm-%d", (int)getpid());
	if (name[0])
		fprintf(stderr, "cleave: %s runs %s; its disk is kept: cleave run %s --name %s\n",
			name, image, image, name);
	else
		fprintf(stderr,
			"cleave: %s runs %s; its disk is gone when it ends (--name NAME or --keep "
			"keep it)\n",
			made_up, image);
	if (has_way_in(&o->cfg))
		fprintf(stderr, "cleave: log in with: cleave ssh %s\n", name[0] ? name : made_up);
	if (in->password[0])
		fprintf(stderr, "cleave: or on the console, as root with the password %s\n",
			in->password);
}

/* Put what the instance has before what the user said. */
static int join_instance(struct run_options *o, const struct instance *in, struct err *err)
{
	if (o->n_disks + in->n_disks > MACHINE_MAX_DISKS)
		return err_say(err, E2BIG, "--disk: at most %u disks, the image's among them",
			       MACHINE_MAX_DISKS);
	for (unsigned i = 0; i < in->n_disks; i++)
		o->disk[i].open = in->disk[i];
	o->cfg.n_disks = in->n_disks;
	if (!o->order.has_kernel) {
		o->cfg.kernel = in->boot.kernel;
		if (in->boot.initrd_fd >= 0 && !o->cfg.n_initrd)
			o->cfg.initrd[o->cfg.n_initrd++] = in->boot.initrd;
	}
	o->cfg.append = in->append;
	o->cfg.oem_strings = (const char *const *)in->oem;
	if (in->name[0])
		o->cfg.name = in->name;
	return 0;
}

static int use_image(struct run_options *o, struct instance **instance, struct err *err)
{
	int ret;

	o->order.name = o->cfg.name;
	o->order.append = o->cfg.append;
	o->order.has_kernel = o->cfg.kernel != NULL;
	ret = instance_new(instance, &o->order, err);
	if (ret == 0)
		ret = join_instance(o, *instance, err);
	if (ret < 0)
		return ret;
	if (!o->net_said && !o->cfg.icount)
		add_default_net(o);
	say_how_to_log_in(o, *instance);
	return 0;
}

/* All that the machine is made of, from what was said. *instance is the caller's, also after an
 * error; NULL without an image. */
static int configure(struct run_options *o, struct instance **instance, struct err *err)
{
	int ret = o->order.image ? use_image(o, instance, err) : 0;

	if (ret < 0)
		return ret;
	for (unsigned i = 0; i < o->n_disks; i++)
		o->disk[o->cfg.n_disks++] = o->disk_option[i].cfg;
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
	static const enum sandbox_kind kind = SANDBOX_SIGNALS;
	struct signals *s = arg;

	sandbox_thread_is(&kind);
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
	if (ret == 0)
		ret = machine_shut_in(m, control, err);
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
	struct instance *instance = NULL;
	struct run_options o;
	struct err err;
	int ret = run_options_parse(&o, argc, argv, &err);

	if (ret == 0 && o.help)
		help_command("run");
	else if (ret == 0)
		ret = configure(&o, &instance, &err);
	if (ret == 0 && !o.help)
		ret = run(&o.cfg, &err);
	instance_free(instance);
	run_options_fini(&o);
	if (ret < 0) {
		fprintf(stderr, "cleave: %s\n", err.msg);
		return STATUS_ERROR;
	}
	return ret;
}
