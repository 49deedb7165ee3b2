/* Times a packaged program: runs it, reads what it prints, and compares a checksum of that with the
 * one recorded on the host.
 *
 * usage: timed NAME SUM COMMAND [ARGUMENT...]     SUM: hexadecimal, or - to print the sum only:
 *	SUM name sum
 */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* FNV-1a of all that can be read from fd. */
static uint64_t sum_of(int fd)
{
	static uint8_t buf[1 << 16];
	uint64_t sum = 0xcbf29ce484222325ull;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < n; i++)
			sum = (sum ^ buf[i]) * 0x100000001b3ull;
	return sum;
}

int main(int argc, char **argv)
{
	uint64_t start, cpu, ns, sum;
	int p[2], status = 0;
	pid_t child;

	if (argc < 4) {
		fprintf(stderr, "usage: timed NAME SUM COMMAND [ARGUMENT...]\n");
		return 2;
	}
	if (pipe(p))
		bench_die("pipe");
	printf("START %s\n", argv[1]);
	fflush(stdout);
	cpu = bench_cpu_ns();
	start = bench_clock_ns();
	child = fork();
	if (child < 0)
		bench_die("fork");
	if (!child) {
		dup2(p[1], 1);
		close(p[0]);
		close(p[1]);
		execv(argv[3], argv + 3);
		bench_die(argv[3]);
	}
	close(p[1]);
	sum = sum_of(p[0]);
	waitpid(child, &status, 0);
	ns = bench_clock_ns() - start;
	cpu = bench_cpu_ns() - cpu;
	if (status) {
		printf("FAIL %s status %#x\n", argv[1], status);
		return 1;
	}
	if (!strcmp(argv[2], "-")) {
		printf("SUM %s %016llx\n", argv[1], (unsigned long long)sum);
		return 0;
	}
	if (sum != strtoull(argv[2], NULL, 16)) {
		printf("FAIL %s got %016llx wanted %s\n", argv[1], (unsigned long long)sum,
		       argv[2]);
		return 1;
	}
	bench_print(argv[1], ns, cpu);
	return 0;
}
