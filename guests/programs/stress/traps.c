/* Exceptions that become signals: from the right instruction, with the right registers; and queued
 * signals, of which each must arrive, sent to threads that are at it.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define MAGIC 0x1122334455667788ll

static __thread struct {
	volatile int sig;
	volatile long steps;
	long long rip, rax, addr;
} caught;

static void on_exception(int sig, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;

	if (sig == SIGTRAP && info->si_code == TRAP_TRACE) {
		caught.steps++;
		return;
	}
	caught.sig = sig;
	caught.rip = r[REG_RIP];
	caught.rax = r[REG_RAX];
	caught.addr = (long long)info->si_addr;
	/* The instruction says in RBX how long it is; a trap is behind it already. */
	if (sig != SIGTRAP)
		r[REG_RIP] += r[REG_RBX];
}

/* insn with the magic in RAX and len in RBX; begins at *at. */
#define PROVOKE(insn, len)                                                                         \
	__asm__ volatile("leaq 1f(%%rip), %0\n1:\t" insn                                           \
			 : "=&r"(at)                                                               \
			 : "a"(MAGIC), "b"((long)(len)), "c"(0), "d"(0x8000000000000000ull)        \
			 : "cc", "memory")

static void must_come(int sig, long long rip)
{
	if (caught.sig != sig)
		failed("an exception became another signal, or none");
	else if (caught.rip != rip)
		failed("an exception came at another instruction");
	else if (caught.rax != MAGIC)
		failed("an exception found another RAX");
	caught.sig = 0;
}

/* NOPs between the POPF that sets TF and the one that clears it, with its AND and PUSHF. */
static void single_steps(void)
{
	caught.steps = 0;
	__asm__ volatile("subq $128, %%rsp\n\t" /* the red zone */
			 "pushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\t"
			 "nop\n\tnop\n\tnop\n\tnop\n\tnop\n\t"
			 "pushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq\n\t"
			 "addq $128, %%rsp"
			 :
			 :
			 : "cc", "memory");
	if (caught.steps != 8)
		failed("not 8 single steps");
}

static void provoke(void)
{
	long long at;

	PROVOKE("ud2", 2);
	must_come(SIGILL, at);
	PROVOKE("int3", 0);
	must_come(SIGTRAP, at + 1);
	PROVOKE("divq %%rcx", 3);
	must_come(SIGFPE, at);
	PROVOKE("movq %%rax, (%%rdx)", 3); /* not canonical */
	must_come(SIGSEGV, at);
	PROVOKE("hlt", 1);
	must_come(SIGSEGV, at);
	PROVOKE("movb %%al, 24(%%rcx)", 3);
	must_come(SIGSEGV, at);
	if (caught.addr != 24)
		failed("a fault's address is not 24");
	single_steps();
}

/* ---- queued signals ---- */

static pthread_t thread[MAX_THREADS];
static _Atomic unsigned n_here, n_through;
static _Atomic long sent, received, sent_sum, received_sum;

static void on_queued(int sig, siginfo_t *info, void *context)
{
	atomic_fetch_add(&received, 1);
	atomic_fetch_add(&received_sum, info->si_value.sival_int);
}

static void send(unsigned to, int val)
{
	union sigval v = { .sival_int = val };
	int ret;

	while ((ret = pthread_sigqueue(thread[to], SIGRTMIN, v)) == EAGAIN)
		sched_yield();
	if (ret)
		return failed("a signal cannot be sent");
	atomic_fetch_add(&sent, 1);
	atomic_fetch_add(&sent_sum, val);
}

static void work(unsigned number)
{
	static const struct timespec tick = { .tv_nsec = 1000000 };

	thread[number] = pthread_self();
	atomic_fetch_add(&n_here, 1);
	while (atomic_load(&n_here) < threads)
		sched_yield();
	for (unsigned n = number; time_left(); n++) {
		for (unsigned k = 0; k < 8; k++)
			send((n * 5 + k) % threads, (int)(n * 31 + k) % 1000);
		provoke();
	}
	/* Nobody leaves before what was sent to him has come. */
	atomic_fetch_add(&n_through, 1);
	while (atomic_load(&n_through) < threads ||
	       (atomic_load(&received) < atomic_load(&sent) && !has_failed()))
		nanosleep(&tick, NULL);
}

const char *test_traps(void)
{
	static const int exceptions[] = { SIGILL, SIGTRAP, SIGFPE, SIGSEGV };
	struct sigaction act = { .sa_sigaction = on_queued, .sa_flags = SA_SIGINFO | SA_RESTART };
	const char *why;

	atomic_store(&n_here, 0);
	atomic_store(&n_through, 0);
	sigaction(SIGRTMIN, &act, NULL);
	act.sa_sigaction = on_exception;
	for (unsigned k = 0; k < sizeof(exceptions) / sizeof(exceptions[0]); k++)
		sigaction(exceptions[k], &act, NULL);
	why = in_threads(threads, work);
	for (unsigned k = 0; k < sizeof(exceptions) / sizeof(exceptions[0]); k++)
		signal(exceptions[k], SIG_DFL);
	if (!why && atomic_load(&received_sum) != atomic_load(&sent_sum))
		why = "queued signals brought other values";
	return why;
}
