#include "host/fptrap.h"

#include <signal.h>
#include <stdint.h>
#include <ucontext.h>

/* What this thread is in. State of the thread, because a signal handler is given nothing else; no
 * machine is meant by it. */
static _Thread_local struct {
	uintptr_t code, len, resume;
} entered;

static void on_fpe(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *rip = &uc->uc_mcontext.gregs[REG_RIP];

	if ((uintptr_t)*rip - entered.code < entered.len) {
		*rip = (greg_t)entered.resume;
		return;
	}
	signal(sig, SIG_DFL);
	raise(sig);
}

void fptrap_install(void)
{
	struct sigaction sa = { .sa_sigaction = on_fpe, .sa_flags = SA_SIGINFO };

	sigemptyset(&sa.sa_mask);
	sigaction(SIGFPE, &sa, NULL);
}

void fptrap_enter(const void *code, size_t len, const void *resume)
{
	entered.code = (uintptr_t)code;
	entered.resume = (uintptr_t)resume;
	entered.len = len;
}

void fptrap_leave(void)
{
	entered.len = 0;
}
