#include "host/terminal.h"

#include "base/err.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

/* Process-wide on purpose: exit and signal handlers get no argument, and a process has one
 * controlling terminal. raw_fd is -1 while there is nothing to restore.
 */
static _Atomic int raw_fd = -1;
static struct termios saved, raw;

/* A background process that sets the terminal is stopped by SIGTTOU unless it blocks that. */
static int set_mode(int fd, const struct termios *mode)
{
	sigset_t ttou, was;

	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &ttou, &was);
	int ret = tcsetattr(fd, TCSADRAIN, mode);
	pthread_sigmask(SIG_SETMASK, &was, NULL);
	return ret;
}

void terminal_restore(void)
{
	int fd = atomic_exchange(&raw_fd, -1);

	if (fd >= 0)
		set_mode(fd, &saved);
}

/* The handler was installed with SA_RESETHAND: returning runs into the same fault again, which
 * ends the process as it would have without us.
 */
static void on_fatal(int sig)
{
	terminal_restore();
	raise(sig);
}

static void watch_for_the_end(void)
{
	static const int fatal[] = { SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE };
	struct sigaction sa = { .sa_handler = on_fatal,
				.sa_flags = (int)SA_RESETHAND | SA_NODEFER };

	atexit(terminal_restore);
	for (unsigned i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++) {
		struct sigaction was;

		/* An engine's own handler stays. */
		if (sigaction(fatal[i], NULL, &was) == 0 && was.sa_handler == SIG_DFL)
			sigaction(fatal[i], &sa, NULL);
	}
}

int terminal_raw(int fd, struct err *err)
{
	if (atomic_load(&raw_fd) >= 0)
		return err_say(err, EBUSY, "the terminal is in use by another machine");
	if (tcgetattr(fd, &saved) < 0)
		return err_set(err, errno, "read the terminal's mode");
	raw = saved;
	cfmakeraw(&raw);
	/* Our own messages keep working: line feeds still return the carriage. */
	raw.c_oflag = saved.c_oflag;
	watch_for_the_end();
	atomic_store(&raw_fd, fd);
	if (set_mode(fd, &raw) < 0) {
		int ret = err_set(err, errno, "set the terminal's mode");

		atomic_store(&raw_fd, -1);
		return ret;
	}
	return 0;
}

void terminal_suspend(void)
{
	int fd = atomic_load(&raw_fd);

	terminal_restore();
	kill(getpid(), SIGSTOP);
	if (fd >= 0) {
		atomic_store(&raw_fd, fd);
		set_mode(fd, &raw);
	}
}
