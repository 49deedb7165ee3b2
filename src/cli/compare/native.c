/* The loads without a machine: what a process can do of them. */
#include "cli/compare/compare.h"
#include "cli/compare/loads.h"

#include "base/own.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

static double read_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* A load that is on one CPU and waits for nobody is timed by its processor time, as it is in a
 * machine. */
static double used_ns(void)
{
	return read_ns(CLOCK_THREAD_CPUTIME_ID);
}

static double now_ns(void)
{
	return read_ns(CLOCK_MONOTONIC);
}

static void relax(void)
{
	__builtin_ia32_pause();
}

static bool user(uint64_t (*fn)(void *buf, uint64_t n), unsigned ops, struct sample *out)
{
	AUTO_FREE void *buf = calloc(1, LOADS_BUFFER);
	double begin;

	if (!buf)
		return false;
	/* The guest's pages are there, too. */
	memset(buf, 1, LOADS_BUFFER);
	memset(buf, 0, LOADS_BUFFER);
	begin = used_ns();
	out->sum = fn(buf, ops);
	out->ns = used_ns() - begin;
	return true;
}

static bool syscalls(unsigned ops, struct sample *out)
{
	double begin = used_ns();

	for (unsigned i = 0; i < ops; i++)
		out->sum += (uint64_t)syscall(SYS_getppid);
	out->ns = used_ns() - begin;
	return true;
}

static bool faults(unsigned ops, struct sample *out)
{
	size_t len = LOADS_PAGES << 12;
	double begin = used_ns();

	for (unsigned i = 0; i < ops; i += LOADS_PAGES) {
		volatile uint8_t *p =
			mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			return false;
		madvise((void *)p, len, MADV_NOHUGEPAGE);
		for (unsigned page = 0; page < LOADS_PAGES; page++)
			p[page << 12] = (uint8_t)page;
		munmap((void *)p, len);
	}
	out->ns = used_ns() - begin;
	return true;
}

/* -- Signals are a process's interrupts ------------------------------------------------------- */

static void count_signal(int sig, siginfo_t *info, void *context)
{
	__atomic_fetch_add((unsigned *)info->si_value.sival_ptr, 1, __ATOMIC_SEQ_CST);
}

static void take_signals(struct sigaction *old)
{
	struct sigaction act = { .sa_sigaction = count_signal, .sa_flags = SA_SIGINFO };

	sigaction(SIGUSR2, &act, old);
}

static unsigned seen(const unsigned *n)
{
	return __atomic_load_n(n, __ATOMIC_SEQ_CST);
}

static bool self_signals(unsigned ops, unsigned *n)
{
	union sigval val = { .sival_ptr = n };

	for (unsigned i = 0; i < ops; i++) {
		if (pthread_sigqueue(pthread_self(), SIGUSR2, val) != 0)
			return false;
		while (seen(n) == i)
			relax();
	}
	return true;
}

static bool timer_signals(unsigned ops, unsigned *n)
{
	struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL,
			       .sigev_signo = SIGUSR2,
			       .sigev_value.sival_ptr = n };
	struct itimerspec at_once = { .it_value.tv_nsec = 1 };
	timer_t timer;
	bool ok = true;

	if (timer_create(CLOCK_MONOTONIC, &ev, &timer) < 0)
		return false;
	for (unsigned i = 0; i < ops && ok; i++) {
		ok = timer_settime(timer, 0, &at_once, NULL) == 0;
		while (ok && seen(n) == i)
			relax();
	}
	timer_delete(timer);
	return ok;
}

static void *spin(void *arg)
{
	while (!__atomic_load_n((bool *)arg, __ATOMIC_SEQ_CST))
		relax();
	return NULL;
}

static bool other_signals(unsigned ops, unsigned *n)
{
	union sigval val = { .sival_ptr = n };
	bool stop = false, ok = true;
	pthread_t thread;

	if (pthread_create(&thread, NULL, spin, &stop) != 0)
		return false;
	for (unsigned i = 0; i < ops && ok; i++) {
		ok = pthread_sigqueue(thread, SIGUSR2, val) == 0;
		while (ok && seen(n) == i)
			relax();
	}
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	pthread_join(thread, NULL);
	return ok;
}

static bool signals(bool (*fn)(unsigned ops, unsigned *n), unsigned ops, bool elapsed,
		    struct sample *out)
{
	struct sigaction old;
	double begin;
	unsigned n = 0;
	bool ok;

	take_signals(&old);
	begin = elapsed ? now_ns() : used_ns();
	ok = fn(ops, &n);
	out->ns = (elapsed ? now_ns() : used_ns()) - begin;
	sigaction(SIGUSR2, &old, NULL);
	return ok;
}

/* -- All -------------------------------------------------------------------------------------- */

static bool clocks(unsigned ops, struct sample *out)
{
	double begin = used_ns(), sum = 0;

	for (unsigned i = 0; i < ops; i++)
		sum += now_ns();
	out->ns = used_ns() - begin;
	out->sum = (uint64_t)sum;
	return true;
}

bool native_load(unsigned load, unsigned ops, struct sample *out)
{
	memset(out, 0, sizeof(*out));
	switch (load) {
	case LOAD_INTEGER: return user(load_integer, ops, out);
	case LOAD_SORT: return user(load_sort, ops, out);
	case LOAD_HASH: return user(load_hash, ops, out);
	case LOAD_SYSCALL: return syscalls(ops, out);
	case LOAD_FAULT: return faults(ops, out);
	case LOAD_INTERRUPT: return signals(self_signals, ops, false, out);
	case LOAD_TIMER: return signals(timer_signals, ops, true, out);
	case LOAD_IPI: return signals(other_signals, ops, true, out);
	case LOAD_CLOCK: return clocks(ops, out);
	default: return false;
	}
}
