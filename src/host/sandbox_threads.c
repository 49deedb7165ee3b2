/* Landlock's rules and capabilities belong to a thread and no other can take them away: each thread
 * has to do it itself, wherever it waits. So the main thread sends them a signal, one after the
 * other, and the handler does what the thread's kind calls for.
 *
 * What must never happen is that one is forgotten: the list is the kernel's (/proc/self/task), and
 * it is gone through until it holds nobody new.
 */
#include "host/sandbox_threads.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "host/sandbox_internal.h"

#include <dirent.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define ENTER_SIGNAL  SIGRTMIN
#define PATIENCE_S    10
#define PF_IO_WORKER  0x10 /* linux/sched.h: the kernel's own thread, for io_uring */
#define MAX_MESSAGES  32
#define BY_SECCOMP    1 /* SYS_SECCOMP of asm-generic/siginfo.h */
#define NOT_SAID_YET  (-EAGAIN)
#define N_RULESETS    2
#define MAIN_RULESET  0
#define OTHER_RULESET 1

static const char *const kind_name[N_SANDBOX_KINDS] = {
	"main", "signal",      "CPU",	       "timer",	  "console output", "event loop", "control",
	"disk", "disk worker", "network disk", "network", "vsock",	    "gdb",
};

/* The thread's kind, for the handler, which is given nothing else. */
static _Thread_local const enum sandbox_kind *my_kind;

void sandbox_thread_is(const enum sandbox_kind *kind)
{
	my_kind = kind;
}

/* What the C library would open files for later: malloc, to find how many arenas it may have and
 * before it shrinks one (with a single arena it opens nothing), and gmtime, for the time zone. */
void sandbox_prepare(void)
{
	mallopt(M_ARENA_MAX, 1);
	tzset();
}

struct entry {
	struct sock_fprog filter[N_SANDBOX_KINDS];
	int ruleset[N_RULESETS]; /* -1: no Landlock */
	sem_t answered;
	int result; /* of the thread that answered */
	pid_t *done;
	size_t n_done;
};

/* Process-wide on purpose: the signal handlers get no argument, and a sandbox is a process's. */
static struct entry *entering;
static _Atomic unsigned n_refused;

unsigned sandbox_n_refused(void)
{
	return atomic_load(&n_refused);
}

/* The thread that is interrupted gives up its rights. */
static int give_up(const struct entry *e, enum sandbox_kind kind)
{
	int ret = sandbox_drop_privileges();

	if (ret == 0)
		ret = sandbox_restrict(
			e->ruleset[kind == SANDBOX_MAIN ? MAIN_RULESET : OTHER_RULESET]);
	if (ret == 0 && syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &e->filter[kind]) < 0)
		ret = -errno;
	return ret;
}

static void on_enter(int sig, siginfo_t *info, void *context)
{
	int was = errno;

	entering->result = my_kind ? give_up(entering, *my_kind) : NOT_SAID_YET;
	sem_post(&entering->answered);
	errno = was;
}

/* A call that the filter does not let through. It could be an attack or our own mistake: it is said
 * aloud, and fails. */
static void on_refused(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	int was = errno;

	if (info->si_code != BY_SECCOMP)
		return;
	if (atomic_fetch_add(&n_refused, 1) < MAX_MESSAGES) {
		const char *name = sandbox_call_name(info->si_syscall);

		log_say(LOG_ERROR, "sandbox: refused system call %d%s%s to a %s thread",
			info->si_syscall, name ? ", " : "", name ? name : "",
			my_kind ? kind_name[*my_kind] : "new");
	}
	uc->uc_mcontext.gregs[REG_RAX] = -EPERM;
	errno = was;
}

static void handle(int sig, void (*fn)(int, siginfo_t *, void *))
{
	struct sigaction sa = { .sa_sigaction = fn, .sa_flags = SA_SIGINFO | SA_RESTART };

	sigemptyset(&sa.sa_mask);
	sigaction(sig, &sa, NULL);
}

/* The kernel's helper threads of io_uring are listed among ours; they cannot be interrupted, and
 * do no more than io_uring lets them.
 */
static bool is_kernels(pid_t tid)
{
	char path[64], stat[512], *end;
	unsigned flags = 0;
	size_t n;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);

	FILE *in = fopen(path, "re");

	if (!in)
		return false;
	n = fread(stat, 1, sizeof(stat) - 1, in);
	fclose(in);
	stat[n] = 0;
	/* proc(5): what follows the name is state, ppid, pgrp, session, tty_nr, tpgid, flags. */
	end = strrchr(stat, ')');
	return end && sscanf(end, ") %*c %*d %*d %*d %*d %*d %u", &flags) == 1 &&
	       flags & PF_IO_WORKER;
}

static bool is_done(const struct entry *e, pid_t tid)
{
	for (size_t i = 0; i < e->n_done; i++)
		if (e->done[i] == tid)
			return true;
	return false;
}

static int note_done(struct entry *e, pid_t tid)
{
	pid_t *more = realloc(e->done, (e->n_done + 1) * sizeof(*more));

	if (!more)
		return -ENOMEM;
	e->done = more;
	e->done[e->n_done++] = tid;
	return 0;
}

/* Have one thread shut itself in. 0 also if it has ended meanwhile. */
static int enter_one(struct entry *e, pid_t tid)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE_S;
	do {
		if (syscall(SYS_tgkill, getpid(), tid, ENTER_SIGNAL) < 0)
			return errno == ESRCH ? 0 : -errno;
		while (sem_timedwait(&e->answered, &until) < 0)
			if (errno != EINTR)
				return -errno;
		/* It has only just begun. */
		if (e->result == NOT_SAID_YET)
			nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	} while (e->result == NOT_SAID_YET && time(NULL) < until.tv_sec);
	return e->result < 0 ? e->result : note_done(e, tid);
}

/* Go once through all threads; the number of those that are new, or -errno. */
static int enter_new(struct entry *e, struct err *err)
{
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *d;
	int n = 0, ret = 0;

	if (!tasks)
		return err_set(err, errno, "list our threads");
	while (ret == 0 && (d = readdir(tasks))) {
		pid_t tid = atoi(d->d_name);

		if (tid <= 0 || tid == gettid() || is_done(e, tid) || is_kernels(tid))
			continue;
		n++;
		ret = enter_one(e, tid);
		if (ret < 0)
			err_set(err, -ret, "shut in thread %d", (int)tid);
	}
	closedir(tasks);
	return ret < 0 ? ret : n;
}

/* The whole process's part. */
static int restrict_process(struct err *err)
{
	struct rlimit files;
	int ret = sandbox_limit(RLIMIT_CORE, 0, err);

	if (ret < 0)
		return ret;
	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return err_set(err, errno, "read a resource limit");
	ret = sandbox_limit(RLIMIT_NOFILE, files.rlim_cur, err);
	if (ret == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		ret = err_set(err, errno, "forbid core files");
	return ret;
}

static int prepare(struct entry *e, const struct sandbox_threads_cfg *cfg, int abi, struct err *err)
{
	int ret = 0;

	for (unsigned k = 0; k < N_SANDBOX_KINDS && ret == 0; k++)
		ret = sandbox_filter(k, cfg, &e->filter[k], err);
	if (ret < 0 || !abi)
		return ret;
	for (unsigned i = 0; i < N_RULESETS && ret >= 0; i++) {
		ret = sandbox_ruleset(abi, false, cfg->remove_in,
				      i == MAIN_RULESET ? cfg->n_remove_in : 0, err);
		e->ruleset[i] = ret;
	}
	return ret < 0 ? ret : 0;
}

static void forget(struct entry *e)
{
	for (unsigned k = 0; k < N_SANDBOX_KINDS; k++)
		free(e->filter[k].filter);
	for (unsigned i = 0; i < N_RULESETS; i++)
		own_close(&e->ruleset[i]);
	free(e->done);
	sem_destroy(&e->answered);
}

static int enter_all(struct entry *e, struct err *err)
{
	int n;

	handle(SIGSYS, on_refused);
	handle(ENTER_SIGNAL, on_enter);
	do {
		n = enter_new(e, err);
	} while (n > 0);
	signal(ENTER_SIGNAL, SIG_IGN);
	if (n == 0)
		n = restrict_process(err);
	return n;
}

int sandbox_enter_threads(const struct sandbox_threads_cfg *cfg, struct sandbox_report *report,
			  struct err *err)
{
	static const enum sandbox_kind main_kind = SANDBOX_MAIN;
	struct entry e = { .ruleset = { -1, -1 } };
	int abi = sandbox_landlock_abi(), ret;

	sem_init(&e.answered, 0, 0);
	sandbox_thread_is(&main_kind);
	entering = &e;
	ret = prepare(&e, cfg, abi, err);
	if (ret == 0)
		ret = enter_all(&e, err);
	if (ret == 0) {
		ret = give_up(&e, SANDBOX_MAIN);
		if (ret < 0)
			err_set(err, -ret, "shut in the main thread");
	}
	entering = NULL;
	*report = (struct sandbox_report){ ret == 0, (unsigned)e.n_done + 1, abi };
	forget(&e);
	return ret;
}
