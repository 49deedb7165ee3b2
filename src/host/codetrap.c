#include "host/codetrap.h"

#include <signal.h>
#include <stdint.h>
#include <ucontext.h>

/* What this thread is in. State of the thread, because a signal handler is given nothing else; no
 * machine is meant by it. */
static _Thread_local struct {
	uintptr_t code, len;
	codetrap_fn fn;
	void *arg;
} entered;

static void on_fault(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *rip = &uc->uc_mcontext.gregs[REG_RIP];
	const void *to = NULL;

	if ((uintptr_t)*rip - entered.code < entered.len)
		to = entered.fn(entered.arg, (const void *)(uintptr_t)*rip);
	if (to)
		*rip = (greg_t)(uintptr_t)to;
	else
		signal(sig, SIG_DFL); /* it happens again, and ends us */
}

void codetrap_install(void)
{
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };

	sigemptyset(&sa.sa_mask);
	sigaction(SIGFPE, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
}

void codetrap_enter(const void *code, size_t len, codetrap_fn fn, void *arg)
{
	entered.code = (uintptr_t)code;
	entered.fn = fn;
	entered.arg = arg;
	entered.len = len;
}

void codetrap_leave(void)
{
	entered.len = 0;
}
