#include "host/kick.h"

#include "base/err.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KICK_SIGNAL SIGUSR2
#define REPEAT_NS   2000000l

/* It only has to come. */
static void on_kick(int sig)
{
}

int kick_install(struct err *err)
{
	struct sigaction sa = { .sa_handler = on_kick }; /* without SA_RESTART */

	sigemptyset(&sa.sa_mask);
	return sigaction(KICK_SIGNAL, &sa, NULL) < 0 ? err_set(err, errno, "sigaction") : 0;
}

void kick_thread(pthread_t thread)
{
	pthread_kill(thread, KICK_SIGNAL);
}

void kick_hold(uint64_t *mask)
{
	uint64_t ours = 1ull << (KICK_SIGNAL - 1);

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, &ours, mask, sizeof(*mask));
	*mask &= ~ours;
	kick_thread(pthread_self());
}

void kick_let_come(uint64_t mask)
{
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof(mask));
}

int kick_timer_start(timer_t *timer, unsigned ms, struct err *err)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL };
	struct itimerspec when = { .it_value = { ms / 1000, ms % 1000 * 1000000l },
				   .it_interval.tv_nsec = REPEAT_NS };
	int ret;

	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (timer_create(CLOCK_MONOTONIC, &event, timer) < 0)
		return err_set(err, errno, "make a timer");
	if (timer_settime(*timer, 0, &when, NULL) == 0)
		return 0;
	ret = err_set(err, errno, "start a timer");
	timer_delete(*timer);
	return ret;
}

void kick_timer_stop(timer_t timer)
{
	timer_delete(timer);
}
