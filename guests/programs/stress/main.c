/* Stress for machines with several CPUs: whatever threads do to each other must add up.
 *
 *	stress [SECONDS [NAME ...]]	default: 10 seconds each, all
 *
 * Prints "report stress_NAME: PASS (rounds)" or "... FAIL: why"; exits with 0 if all passed.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const struct {
	const char *name;
	long (*run)(void);
} tests[] = {
	{ "atomics", stress_atomics }, { "order", stress_order }, { "futex", stress_futex },
	{ "fork", stress_fork },       { "map", stress_map },	  { "code", stress_code },
	{ "signals", stress_signals },
};

#define N_TESTS (sizeof(tests) / sizeof(tests[0]))

static const char *running;
static struct timespec until;

bool time_left(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec < until.tv_sec ||
	       (now.tv_sec == until.tv_sec && now.tv_nsec < until.tv_nsec);
}

void fail(const char *format, ...)
{
	char why[300];
	va_list args;

	va_start(args, format);
	vsnprintf(why, sizeof(why), format, args);
	va_end(args);
	printf("report stress_%s: FAIL: %s\n", running, why);
	fflush(stdout);
	_exit(1);
}

unsigned n_threads(unsigned least)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	if (n < (long)least)
		return least;
	return n > MAX_THREADS ? MAX_THREADS : (unsigned)n;
}

struct worker {
	pthread_t thread;
	unsigned index;
	long (*fn)(unsigned i);
	long result;
};

static pthread_barrier_t all_here;

static void *work(void *arg)
{
	struct worker *w = arg;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(w->index % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
	sched_setaffinity(0, sizeof(set), &set);
	pthread_barrier_wait(&all_here);
	w->result = w->fn(w->index);
	return NULL;
}

long on_threads(unsigned n, long (*fn)(unsigned i))
{
	struct worker w[MAX_THREADS];
	long sum = 0;

	pthread_barrier_init(&all_here, NULL, n);
	for (unsigned i = 0; i < n; i++) {
		w[i] = (struct worker){ .index = i, .fn = fn };
		if (pthread_create(&w[i].thread, NULL, work, &w[i]) != 0)
			fail("thread %u does not start", i);
	}
	for (unsigned i = 0; i < n; i++) {
		pthread_join(w[i].thread, NULL);
		sum += w[i].result;
	}
	pthread_barrier_destroy(&all_here);
	return sum;
}

/* Each test has a process of its own, so that one that dies does not take the others with it. */
static bool run_test(unsigned t, double seconds)
{
	long ns;
	int status;
	pid_t pid;

	running = tests[t].name;
	clock_gettime(CLOCK_MONOTONIC, &until);
	ns = until.tv_nsec + (long)((seconds - (long)seconds) * 1e9);
	until.tv_sec += (long)seconds + ns / 1000000000;
	until.tv_nsec = ns % 1000000000;
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		long rounds = tests[t].run();

		if (rounds <= 0)
			fail("nothing was done");
		printf("report stress_%s: PASS (%ld)\n", running, rounds);
		fflush(stdout);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		printf("report stress_%s: FAIL: no process\n", running);
		return false;
	}
	if (WIFSIGNALED(status))
		printf("report stress_%s: FAIL: signal %d\n", running, WTERMSIG(status));
	return status == 0;
}

static bool wanted(const char *name, char **names)
{
	if (!names[0])
		return true;
	for (; *names; names++)
		if (strcmp(*names, name) == 0)
			return true;
	return false;
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 10;
	bool ok = true;

	if (argc == 3 && strcmp(argv[1], "--child") == 0)
		return stress_child(argv[2]);
	for (unsigned t = 0; t < N_TESTS; t++)
		if (wanted(tests[t].name, argc > 2 ? argv + 2 : argv + argc))
			ok &= run_test(t, seconds);
	return !ok;
}
