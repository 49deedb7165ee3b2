/* Signals: queued ones must all arrive, and no matter when one comes, who is interrupted must not
 * notice. Exceptions that become signals must come from the right instruction with the right
 * registers.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

static unsigned n;
static pthread_t thread[MAX_THREADS];
static atomic_uint n_here, n_through;
static atomic_long sent, received, sent_sum, received_sum, alarms;
static uint64_t right_sum;

/* Numbers that live in general, x87 and vector registers while they are made. */
static uint64_t make_sum(void)
{
	typedef uint32_t vec __attribute__((vector_size(16)));
	vec v = { 1, 2, 3, 4 }, w = { 5, 6, 7, 8 };
	uint64_t a = 1, b = 2, c = 3, d = 4, bits;
	long double x = 1.0L;
	double y = 0.5;

	for (unsigned k = 0; k < 2000; k++) {
		a = a * 6364136223846793005ull + 1442695040888963407ull;
		b ^= a >> 7 | a << 57;
		c += b * 3;
		d = (d ^ c) + (d << 3);
		v = v * 1664525 + w;
		w = (w ^ v >> 3) + (uint32_t)d;
		x = x * 1.0000001L + (long double)(a & 0xff);
		y = y * 0.999999 + (double)(b & 0xff);
	}
	memcpy(&bits, &y, 8);
	return a ^ b ^ c ^ d ^ v[0] ^ v[1] ^ w[2] ^ w[3] ^ bits ^ (uint64_t)(x * 256);
}

/* Spoils all registers that a handler may spoil. */
static void spoil(void)
{
	__asm__ volatile("fld1\n\tfldpi\n\tfaddp\n\tfstp %%st(0)\n\t"
			 "pcmpeqd %%xmm0, %%xmm0\n\tpcmpeqd %%xmm1, %%xmm1\n\t"
			 "pcmpeqd %%xmm2, %%xmm2\n\tpcmpeqd %%xmm3, %%xmm3\n\t"
			 "pcmpeqd %%xmm8, %%xmm8\n\tpcmpeqd %%xmm15, %%xmm15\n\t"
			 "movq $-1, %%r8\n\tmovq $-1, %%r9\n\tmovq $-1, %%r10\n\tmovq $-1, %%r11\n\t"
			 "std\n\tcld\n\tcmpq %%r8, %%r9"
			 :
			 :
			 : "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2", "xmm3", "xmm8", "xmm15",
			   "cc", "memory");
}

static void on_queued(int sig, siginfo_t *info, void *context)
{
	spoil();
	atomic_fetch_add(&received, 1);
	atomic_fetch_add(&received_sum, info->si_value.sival_int);
}

static void on_alarm(int sig)
{
	spoil();
	atomic_fetch_add(&alarms, 1);
}

/* --- exceptions --- */

#define MAGIC 0x1122334455667788ll

static __thread struct {
	volatile int sig;
	volatile long steps;
	long long rip, rax, addr;
} caught;

static void on_exception(int sig, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;

	spoil();
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
		fail("signal %d came, not %d", caught.sig, sig);
	if (caught.rip != rip)
		fail("signal %d came at %#llx, not %#llx", sig, caught.rip, rip);
	if (caught.rax != MAGIC)
		fail("signal %d found %#llx in RAX", sig, caught.rax);
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
		fail("%ld single steps, not 8", caught.steps);
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
		fail("a fault's address is %#llx, not 24", caught.addr);
	single_steps();
}

/* --- the storm --- */

static void send(unsigned to, int val)
{
	union sigval v = { .sival_int = val };
	int ret;

	while ((ret = pthread_sigqueue(thread[to], SIGRTMIN, v)) == EAGAIN)
		sched_yield();
	if (ret)
		fail("sigqueue: error %d", ret);
	atomic_fetch_add(&sent, 1);
	atomic_fetch_add(&sent_sum, val);
}

static long storm(unsigned i)
{
	uint32_t seed = i + 1;
	uint8_t stack[32768];
	long rounds = 0;

	thread[i] = pthread_self();
	if (i % 2)
		sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = sizeof(stack) }, NULL);
	atomic_fetch_add(&n_here, 1);
	while (atomic_load(&n_here) < n)
		sched_yield();
	do {
		uint64_t sum;

		for (unsigned k = 0; k < 8; k++)
			send(rnd(&seed) % n, (int)(rnd(&seed) % 1000));
		sum = make_sum();
		if (sum != right_sum)
			fail("a sum is %#llx, not %#llx", (unsigned long long)sum,
			     (unsigned long long)right_sum);
		provoke();
		rounds++;
	} while (time_left());
	/* All are sent; those for this thread arrive before it leaves. */
	atomic_fetch_add(&n_through, 1);
	while (atomic_load(&n_through) < n || atomic_load(&received) < atomic_load(&sent)) {
		static const struct timespec tick = { .tv_nsec = 1000000 };

		nanosleep(&tick, NULL);
	}
	sigaltstack(&(stack_t){ .ss_flags = SS_DISABLE }, NULL);
	return rounds;
}

static void handle(int sig, void (*fn)(int, siginfo_t *, void *), int flags)
{
	struct sigaction act = { .sa_sigaction = fn, .sa_flags = SA_SIGINFO | SA_RESTART | flags };

	sigaction(sig, &act, NULL);
}

long stress_signals(void)
{
	static const int exceptions[] = { SIGILL, SIGTRAP, SIGFPE, SIGSEGV };
	struct itimerval often = { .it_interval.tv_usec = 1500, .it_value.tv_usec = 1500 };
	struct sigaction alarm_act = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	long rounds;

	n = n_threads(2);
	right_sum = make_sum();
	handle(SIGRTMIN, on_queued, SA_ONSTACK);
	for (unsigned k = 0; k < sizeof(exceptions) / sizeof(exceptions[0]); k++)
		handle(exceptions[k], on_exception, 0);
	sigaction(SIGALRM, &alarm_act, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	rounds = on_threads(n, storm);
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	if (atomic_load(&received) != atomic_load(&sent) ||
	    atomic_load(&received_sum) != atomic_load(&sent_sum))
		fail("%ld signals arrived of %ld, sum %ld of %ld", atomic_load(&received),
		     atomic_load(&sent), atomic_load(&received_sum), atomic_load(&sent_sum));
	if (!atomic_load(&alarms))
		fail("no alarm came");
	return rounds;
}
