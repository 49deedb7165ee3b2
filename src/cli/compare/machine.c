/* A load in a machine of its own: `cleave run` in a process, as a user would start it. Its serial
 * line comes by a pipe.
 *
 * A boot is timed by the host's monotonic clock as its words come. For a load that would not do:
 * words come by another thread than the one that runs the guest, and on a busy host much later than
 * they were said. So the guest halts where its load begins and ends, and the machine's processor
 * time is read there: what else the host does meanwhile is not in it. Where the load waits for the
 * host, or is on two CPUs, it is by how much the time stamp counter has advanced for the guest.
 * That is the host's on every engine, but for an offset; what it is in nanoseconds is measured
 * against the monotonic clock over the machine's life.
 */
#include "cli/compare/compare.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#define LOAD_SECONDS 30
#define BOOT_SECONDS 120
#define MAX_ARGS     32

struct stream {
	int fd;
	size_t len;
	char line[1000]; /* a longer one is cut */
};

struct child {
	pid_t pid;
	struct stream console, errors;
	int input; /* the guest's serial line */
	double start_ns, deadline_ns;
	double begin_cpu_ns, end_cpu_ns; /* processor time of the whole machine */
	uint64_t start_ticks, ticks; /* of the time stamp counter: now, and by the guest's count */
	const char *until;	     /* of a boot; NULL for a load */
	struct sample *out;
	bool over; /* all is known that was to be known */
	char failure[200];
};

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* -- What it says ----------------------------------------------------------------------------- */

/* NULL if line begins otherwise. */
static const char *after(const char *line, const char *word)
{
	size_t len = strlen(word);

	return strncmp(line, word, len) ? NULL : line + len;
}

/* It halts now, until it gets a byte. */
static double look(const struct child *p)
{
	struct timespec t = { 0 };
	clockid_t clock;

	if (clock_getcpuclockid(p->pid, &clock) == 0)
		clock_gettime(clock, &t);
	(void)!write(p->input, "g", 1);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void hear_end(struct child *p, const char *text)
{
	unsigned long long sum, events, ticks;

	p->end_cpu_ns = look(p);

	if (sscanf(text, "%llx %llx %llx", &sum, &events, &ticks) != 3)
		return;
	p->out->sum = sum;
	p->ticks = ticks;
}

static void hear_load(struct child *p, const char *line)
{
	const char *rest;

	if ((rest = after(line, "uses "))) {
		snprintf(p->out->uses, sizeof(p->out->uses), "%s", rest);
	} else if (strcmp(line, "begin") == 0) {
		p->begin_cpu_ns = look(p);
	} else if ((rest = after(line, "end "))) {
		hear_end(p, rest);
	} else if ((rest = after(line, "failed: "))) {
		snprintf(p->failure, sizeof(p->failure), "the guest says: %.150s", rest);
	}
}

static void hear_boot(struct child *p, const char *line, double at_ns)
{
	if (p->over || !strstr(line, p->until))
		return;
	p->out->ns = at_ns - p->start_ns;
	p->over = true;
	kill(p->pid, SIGTERM);
}

static void add_count(const char *line, const char *name, uint64_t *n)
{
	const char *at = strstr(line, name);

	if (at)
		*n += strtoull(at + strlen(name), NULL, 10);
}

/* The counters of --stats, or complaints. */
static void hear_error(struct child *p, const char *line)
{
	struct counts *n = &p->out->counts;
	const char *why = after(line, "cleave: ");

	if (after(line, "cpu ")) {
		add_count(line, ": insns ", &n->insns);
		add_count(line, ", interrupts ", &n->interrupts);
		add_count(line, ", port I/O ", &n->ports);
		add_count(line, ", mmio ", &n->mmios);
		add_count(line, ", translations ", &n->translations);
		add_count(line, ", by the interpreter ", &n->by_interp);
		add_count(line, ": entries ", &n->entries);
	} else if (why && !after(why, "--engine kvm: ") && !*p->failure) {
		snprintf(p->failure, sizeof(p->failure), "%.190s", why);
	}
}

static void hear(struct child *p, struct stream *s, double at_ns)
{
	s->line[s->len] = 0;
	if (s->len && s->line[s->len - 1] == '\r')
		s->line[s->len - 1] = 0;
	if (s == &p->errors)
		hear_error(p, s->line);
	else if (p->until)
		hear_boot(p, s->line, at_ns);
	else
		hear_load(p, s->line);
	s->len = 0;
}

/* Read what is there. False at the end. */
static bool take(struct child *p, struct stream *s)
{
	char buf[4096];
	ssize_t n = read(s->fd, buf, sizeof(buf));
	double at_ns = now_ns();

	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] == '\n')
			hear(p, s, at_ns);
		else if (s->len < sizeof(s->line) - 1)
			s->line[s->len++] = buf[i];
	}
	return n > 0 || (n < 0 && errno == EINTR);
}

/* Until both streams have ended, which they do with the process. False: it took too long. */
static bool listen_to(struct child *p)
{
	struct pollfd fd[] = { { .fd = p->console.fd, .events = POLLIN },
			       { .fd = p->errors.fd, .events = POLLIN } };
	double left_ns;

	while (fd[0].fd >= 0 || fd[1].fd >= 0) {
		left_ns = p->deadline_ns - now_ns();
		if (left_ns <= 0 || (poll(fd, 2, (int)(left_ns / 1e6) + 1) < 0 && errno != EINTR))
			return false;
		if (fd[0].revents && !take(p, &p->console))
			fd[0].fd = -1;
		if (fd[1].revents && !take(p, &p->errors))
			fd[1].fd = -1;
	}
	return true;
}

/* -- The process ------------------------------------------------------------------------------ */

/* In the child: becomes the machine. It does not outlive us. */
static _Noreturn void become(char *const argv[], int input, int console, int errors)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (dup2(input, 0) == 0 && dup2(console, 1) == 1 && dup2(errors, 2) == 2)
		execv("/proc/self/exe", argv);
	_exit(127);
}

/* Three pipes: its input, console and errors. */
static int make_pipes(int fd[3][2], struct err *err)
{
	for (unsigned i = 0; i < 3; i++) {
		if (pipe2(fd[i], O_CLOEXEC) == 0)
			continue;
		for (err_set(err, errno, "make a pipe"); i > 0; i--) {
			close(fd[i - 1][0]);
			close(fd[i - 1][1]);
		}
		return -EMFILE;
	}
	return 0;
}

static int start(struct child *p, char *const argv[], struct err *err)
{
	int fd[3][2], ret = make_pipes(fd, err);

	if (ret < 0)
		return ret;
	p->start_ns = now_ns();
	p->start_ticks = __builtin_ia32_rdtsc();
	p->pid = fork();
	if (p->pid == 0)
		become(argv, fd[0][0], fd[1][1], fd[2][1]);
	close(fd[0][0]);
	close(fd[1][1]);
	close(fd[2][1]);
	p->input = fd[0][1];
	p->console.fd = fd[1][0];
	p->errors.fd = fd[2][0];
	return p->pid < 0 ? err_set(err, errno, "start a process") : 0;
}

static void stop(struct child *p, bool in_time)
{
	if (p->pid > 0) {
		if (!in_time)
			kill(p->pid, SIGKILL);
		while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	close(p->input);
	close(p->console.fd);
	close(p->errors.fd);
}

/* What the load took. False: the guest's time is more than the machine has lived. */
static bool convert(struct child *p, bool elapsed)
{
	double lived_ns = now_ns() - p->start_ns;
	uint64_t lived = __builtin_ia32_rdtsc() - p->start_ticks;

	p->out->ns = elapsed ? (double)p->ticks * lived_ns / (double)lived
			     : p->end_cpu_ns - p->begin_cpu_ns;
	return p->ticks <= lived && p->out->ns > 0;
}

/* Let the process run to its end. elapsed: by what a load is timed. */
static int run(struct child *p, char *const argv[], bool elapsed, struct err *err)
{
	int ret = start(p, argv, err);
	bool in_time;

	if (ret < 0)
		return ret;
	in_time = listen_to(p);
	stop(p, in_time);
	if (!in_time && !p->over)
		return err_say(err, ETIMEDOUT, "no end after %.0f s",
			       (p->deadline_ns - p->start_ns) / 1e9);
	if (*p->failure)
		return err_say(err, EIO, "%s", p->failure);
	if (p->until)
		return p->over ? 0 : err_say(err, EIO, "it ended without that text");
	if (!p->ticks)
		return err_say(err, EIO, "the guest has not said its end");
	return convert(p, elapsed) ? 0 : err_say(err, EIO, "the guest's time is not ours");
}

static void add(char *argv[], unsigned *n, const char *option, const char *value)
{
	if (*n + 2 >= MAX_ARGS)
		return;
	argv[(*n)++] = (char *)option;
	if (value)
		argv[(*n)++] = (char *)value;
	argv[*n] = NULL;
}

static unsigned common_args(char *argv[], const struct method *m)
{
	unsigned n = 0;

	add(argv, &n, "cleave", "run");
	add(argv, &n, "--engine", m->engine);
	add(argv, &n, "--pv", m->pv ? "on" : "off");
	add(argv, &n, "--no-reboot", NULL);
	add(argv, &n, "--stats", NULL);
	return n;
}

int machine_load(const struct comparison *c, const struct method *m, const struct load *load,
		 unsigned ops, struct sample *out, struct err *err)
{
	struct child p = { .out = out, .deadline_ns = now_ns() + LOAD_SECONDS * 1e9 };
	char *argv[MAX_ARGS], kernel[40], append[60], cpus[12];
	unsigned n = common_args(argv, m);

	memset(out, 0, sizeof(*out));
	snprintf(kernel, sizeof(kernel), "/proc/self/fd/%d", c->guest_fd);
	snprintf(append, sizeof(append), "%s %u", load->id, ops);
	snprintf(cpus, sizeof(cpus), "%u", load->n_cpus);
	add(argv, &n, "--kernel", kernel);
	add(argv, &n, "--append", append);
	add(argv, &n, "--cpus", cpus);
	add(argv, &n, "--memory", "32M");
	add(argv, &n, "--debug-exit", NULL);
	return run(&p, argv, load->elapsed, err);
}

int machine_boot(const struct comparison *c, const struct method *m, struct sample *out,
		 struct err *err)
{
	struct child p = { .out = out,
			   .until = c->until,
			   .deadline_ns = now_ns() + BOOT_SECONDS * 1e9 };
	char *argv[MAX_ARGS];
	unsigned n = common_args(argv, m);

	memset(out, 0, sizeof(*out));
	add(argv, &n, "--kernel", c->kernel);
	if (c->initrd)
		add(argv, &n, "--initrd", c->initrd);
	add(argv, &n, "--append", c->append);
	return run(&p, argv, true, err);
}
