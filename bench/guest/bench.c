/* The benchmarks' common main. */
#include "bench.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t bench_clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
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
		uint64_t start, ns, got;

		if (!is_asked(t->name, argc, argv))
			continue;
		if (t->cpu && !has_feature(t->cpu)) {
			printf("SKIP %s %s\n", t->name, t->cpu);
			continue;
		}
		if (t->setup)
			t->setup();
		start = bench_clock_ns();
		got = t->work();
		ns = bench_clock_ns() - start;
		if (got == t->want) {
			printf("BENCH %s %.3f ms\n", t->name, (double)ns / 1e6);
		} else {
			printf("FAIL %s got %#llx wanted %#llx\n", t->name, (unsigned long long)got,
			       (unsigned long long)t->want);
			bad = true;
		}
	}
	return bad;
}
