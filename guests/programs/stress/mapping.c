/* Pages whose rights and contents change under threads that use them: what mprotect and munmap took
 * away must be gone everywhere when they return.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#define PAGE 4096
enum { READABLE, GONE, READ_ONLY };

static uint8_t *area;
static _Atomic uint32_t state, seq; /* what is allowed now; counts changes */
static _Atomic uint32_t seen[MAX_THREADS];
static _Atomic bool stop;
static __thread sigjmp_buf back;
static __thread volatile sig_atomic_t expecting;

static void on_fault(int sig)
{
	if (!expecting)
		_Exit(99);
	siglongjmp(back, 1);
}

/* True if the access faulted. */
static bool try_read(const volatile uint64_t *p, uint64_t *val)
{
	bool faulted = true;

	expecting = 1;
	if (!sigsetjmp(back, 1)) {
		*val = *p;
		faulted = false;
	}
	expecting = 0;
	return faulted;
}

static bool try_write(volatile uint64_t *p, uint64_t val)
{
	bool faulted = true;

	expecting = 1;
	if (!sigsetjmp(back, 1)) {
		*p = val;
		faulted = false;
	}
	expecting = 0;
	return faulted;
}

static void user(unsigned number)
{
	volatile uint64_t *mine = (uint64_t *)(area + PAGE) + number * 8;
	const volatile uint64_t *all = (uint64_t *)area;

	while (!atomic_load(&stop)) {
		uint32_t n = atomic_load(&seq), s = atomic_load(&state);
		uint64_t val = 0;
		bool faulted = try_read(all, &val);
		bool wfaulted = try_write(mine, n);

		/* Only what was so before and after the access counts; odd is in change. */
		if (n % 2 || atomic_load(&seq) != n)
			continue;
		if (faulted != (s == GONE))
			failed(faulted ? "a readable page faulted"
				       : "a page was read that is gone");
		if (wfaulted != (s != READABLE))
			failed(wfaulted ? "a writable page faulted"
					: "a page was written that may not be");
		if (!faulted && val != n)
			failed("a page had an old value");
		atomic_store(&seen[number], n);
	}
}

static void wait_all(uint32_t n)
{
	for (unsigned k = 1; k < threads; k++)
		while (atomic_load(&seen[k]) != n && !has_failed() && time_left())
			__builtin_ia32_pause();
}

static void owner(void)
{
	for (uint32_t n = 2; time_left(); n += 2) {
		unsigned what = n / 2 % 4;

		/* Odd: in change. */
		atomic_store(&seq, n - 1);
		if (what == 0) {
			munmap(area, 2 * PAGE);
		} else {
			mmap(area, 2 * PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
			*(volatile uint64_t *)area = n;
			if (what == 1)
				mprotect(area, 2 * PAGE, PROT_NONE);
			if (what == 2)
				mprotect(area, 2 * PAGE, PROT_READ);
		}
		atomic_store(&state, what < 2 ? GONE : what == 2 ? READ_ONLY : READABLE);
		atomic_store(&seq, n);
		wait_all(n);
	}
	atomic_store(&stop, true);
}

static void role(unsigned number)
{
	if (number)
		user(number);
	else
		owner();
}

const char *test_mapping(void)
{
	struct sigaction sa = { .sa_handler = on_fault, .sa_flags = SA_NODEFER }, old_segv, old_bus;
	const char *why;

	area = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigaction(SIGSEGV, &sa, &old_segv);
	sigaction(SIGBUS, &sa, &old_bus);
	atomic_store(&stop, false);
	atomic_store(&seq, 1);
	why = in_threads(threads, role);
	sigaction(SIGSEGV, &old_segv, NULL);
	sigaction(SIGBUS, &old_bus, NULL);
	return why;
}
