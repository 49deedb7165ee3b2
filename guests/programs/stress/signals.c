/* Storms of signals at threads that compute: registers, flags and vectors must come back. */
#define _GNU_SOURCE
#include "stress.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

static _Atomic int tid[MAX_THREADS * 2];
static _Atomic uint64_t handled;
static _Atomic unsigned n_done;

static void on_signal(int sig)
{
	double x = 3;

	/* Use what the interrupted code may be using. */
	__asm__ volatile(
		"pxor %%xmm0, %%xmm0\n\tpcmpeqb %%xmm7, %%xmm7\n\tpxor %%xmm15, %%xmm15\n\t"
		"fldl %0\n\tfsqrt\n\tfstpl %0\n\txor %%eax, %%eax\n\tstc"
		: "+m"(x)
		:
		: "xmm0", "xmm7", "xmm15", "rax", "cc");
	atomic_fetch_add(&handled, 1);
}

/* The same value each time: carries, x87 and vectors all go into it. */
static uint64_t compute(void)
{
	uint64_t a = 1, b = 0x123456789abcdefull, n = 2000;
	uint64_t mix[2] = { 1, 2 };
	double d = 1;

	__asm__ volatile("movdqu %4, %%xmm7\n\t"
			 "movdqa %%xmm7, %%xmm15\n\t"
			 "fldl %3\n\t"
			 "clc\n"
			 "1:\tadc %1, %0\n\t"
			 "rcl $3, %1\n\t"
			 "paddq %%xmm15, %%xmm7\n\t"
			 "fld1\n\tfaddp\n\t"
			 "dec %2\n\t" /* keeps the carry */
			 "jnz 1b\n\t"
			 "fstpl %3\n\t"
			 "movdqu %%xmm7, %4"
			 : "+r"(a), "+r"(b), "+r"(n), "+m"(d), "+m"(mix)
			 :
			 : "cc", "xmm7", "xmm15");
	return a ^ b ^ (uint64_t)d ^ mix[0] << 32 ^ mix[1] << 48;
}

static void work(unsigned number)
{
	uint64_t want = 0;

	atomic_store(&tid[number], (int)syscall(SYS_gettid));
	for (uint64_t n = 0; time_left(); n++) {
		unsigned other = (unsigned)(n * 7 + number) % threads;
		uint64_t got = compute();

		if (!want)
			want = got;
		if (got != want)
			failed("a computation that was interrupted came out wrong");
		if (atomic_load(&tid[other]))
			syscall(SYS_tgkill, getpid(), atomic_load(&tid[other]), SIGUSR1);
	}
	/* Nobody sends to a thread that is gone. */
	atomic_fetch_add(&n_done, 1);
	while (atomic_load(&n_done) < threads)
		usleep(1000);
}

const char *test_signals(void)
{
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	struct itimerval tick = { { 0, 1000 }, { 0, 1000 } }, off = { { 0, 0 }, { 0, 0 } };
	const char *why;

	/* Once undisturbed: its value is what all must have. */
	compute();
	sigaction(SIGUSR1, &sa, NULL);
	sigaction(SIGALRM, &sa, NULL);
	atomic_store(&n_done, 0);
	memset((void *)tid, 0, sizeof(tid));
	setitimer(ITIMER_REAL, &tick, NULL);
	why = in_threads(threads, work);
	setitimer(ITIMER_REAL, &off, NULL);
	if (!why && !atomic_load(&handled))
		why = "no signal came";
	return why;
}

/* ---- vector registers over switches of threads ---- */

typedef uint8_t v16 __attribute__((vector_size(16)));
typedef uint8_t v32 __attribute__((vector_size(32)));

static bool hold_sse(uint8_t val)
{
	v16 x = (v16){ 0 } + val;
	uint32_t same;

	__asm__ volatile("movdqa %1, %%xmm1\n\tmovdqa %1, %%xmm9\n\tmov $3000, %%ecx\n"
			 "1:\tpause\n\tdec %%ecx\n\tjnz 1b\n\t"
			 "pcmpeqb %%xmm1, %%xmm9\n\tpcmpeqb %1, %%xmm1\n\tpand %%xmm1, %%xmm9\n\t"
			 "pmovmskb %%xmm9, %0"
			 : "=r"(same)
			 : "x"(x)
			 : "xmm1", "xmm9", "ecx", "cc");
	return same == 0xffff;
}

__attribute__((target("avx2"))) static bool hold_avx(uint8_t val)
{
	v32 x = (v32){ 0 } + val;
	uint32_t same;

	__asm__ volatile("vmovdqa %1, %%ymm2\n\tvmovdqa %1, %%ymm14\n\tmov $3000, %%ecx\n"
			 "1:\tpause\n\tdec %%ecx\n\tjnz 1b\n\t"
			 "vpcmpeqb %%ymm2, %%ymm14, %%ymm14\n\tvpcmpeqb %1, %%ymm2, %%ymm2\n\t"
			 "vpand %%ymm2, %%ymm14, %%ymm14\n\tvpmovmskb %%ymm14, %0\n\tvzeroupper"
			 : "=r"(same)
			 : "x"(x)
			 : "xmm2", "xmm14", "ecx", "cc");
	return same == 0xffffffff;
}

static void vector_work(unsigned number)
{
	bool avx = __builtin_cpu_supports("avx2") && number % 2;

	for (uint8_t n = 0; time_left(); n++)
		if (!(avx ? hold_avx : hold_sse)((uint8_t)(number * 37 + n)))
			failed("a vector register changed");
}

const char *test_vectors(void)
{
	return in_threads(threads * 2, vector_work);
}
