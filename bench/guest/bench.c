/* The benchmarks' common main. */
#include "bench.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

uint64_t bench_clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t bench_cpu_ns(void)
{
	struct rusage u[2];
	uint64_t us = 0;

	getrusage(RUSAGE_SELF, &u[0]);
	getrusage(RUSAGE_CHILDREN, &u[1]);
	for (unsigned i = 0; i < 2; i++)
		us += (uint64_t)(u[i].ru_utime.tv_sec + u[i].ru_stime.tv_sec) * 1000000 +
		      (uint64_t)(u[i].ru_utime.tv_usec + u[i].ru_stime.tv_usec);
	return us * 1000;
}

void bench_print(const char *name, uint64_t ns, uint64_t cpu_ns)
{
	printf("BENCH %s %.3f ms cpu %.3f\n", name, (double)ns / 1e6, (double)cpu_ns / 1e6);
}

void bench_die(const char *why)
{
	fprintf(stderr, "%s: %s\n", why, strerror(errno));
	exit(1);
}

void bench_pin(void)
{
	cpu_set_t set;
	int cpu = sched_getcpu();

	CPU_ZERO(&set);
	CPU_SET(cpu < 0 ? 0 : cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static bool has_feature(const char *name)
{
	static char line[16384];
	bool found = false;
	FILE *f = fopen("/proc/cpuinfo", "r");

	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "flags", 5))
			continue;
		for (char *w = strtok(line, " \n"); w && !found; w = strtok(NULL, " \n"))
			found = !strcmp(w, name);
		break;
	}
	fclose(f);
	return found;
}

static bool is_asked(const char *name, int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], name))
			return true;
	return argc < 2;
}

int bench_main(const struct bench *t, int argc, char **argv)
{
	bool bad = false;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (; t->name; t++) {
		uint64_t start, cpu, ns, got;

		if (!is_asked(t->name, argc, argv))
			continue;
		if (t->cpu && !has_feature(t->cpu)) {
			printf("SKIP %s %s\n", t->name, t->cpu);
			continue;
		}
		if (t->setup)
			t->setup();
		printf("START %s\n", t->name);
		cpu = bench_cpu_ns();
		start = bench_clock_ns();
		got = t->work();
		ns = bench_clock_ns() - start;
		cpu = bench_cpu_ns() - cpu;
		if (got == t->want) {
			bench_print(t->name, ns, cpu);
		} else {
			printf("FAIL %s got %#llx wanted %#llx\n", t->name, (unsigned long long)got,
			       (unsigned long long)t->want);
			bad = true;
		}
	}
	return bad;
}
