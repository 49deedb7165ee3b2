/* Processes: forked ones must not see or change each other's memory, executed ones must come up, and
 * each must end with its own status.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS 4096 /* of private memory, four pages */
#define CROWD 8	   /* children at once */

static volatile uint32_t *memory;

int stress_child(const char *word)
{
	return (atoi(word) * 7 + 3) & 0xff;
}

static void fill(uint32_t tag)
{
	for (unsigned k = 0; k < WORDS; k++)
		memory[k] = tag + k;
}

static void look(uint32_t tag, const char *who)
{
	for (unsigned k = 0; k < WORDS; k++)
		if (memory[k] != tag + k)
			fail("%s: word %u is %#x, not %#x", who, k, memory[k], tag + k);
}

static int status_of(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		fail("no child %d to wait for", (int)pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Children that write to all of their memory while the parent writes to it too. */
static void copies(uint32_t tag)
{
	pid_t pid[CROWD];

	fill(tag);
	for (unsigned n = 0; n < CROWD; n++) {
		pid[n] = fork();
		if (pid[n] == 0) {
			look(tag, "child");
			fill(tag ^ (n + 1) << 20);
			look(tag ^ (n + 1) << 20, "child after its stores");
			_exit((int)(tag + n) & 0x7f);
		}
		if (pid[n] < 0)
			fail("no fork");
	}
	look(tag, "parent");
	fill(tag + 1);
	for (unsigned n = 0; n < CROWD; n++) {
		int got = status_of(pid[n]);

		if (got != ((int)(tag + n) & 0x7f))
			fail("child %u ended with %d, not %d", n, got, (int)(tag + n) & 0x7f);
	}
	look(tag + 1, "parent at the end");
}

static void execs(unsigned tag)
{
	char word[16], *args[] = { "stress", "--child", word, NULL }, *env[] = { NULL };
	pid_t pid;
	int got;

	snprintf(word, sizeof(word), "%u", tag & 0xff);
	if (tag & 1) {
		if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, args, env) != 0)
			fail("no spawn");
	} else {
		pid = fork();
		if (pid == 0) {
			execve("/proc/self/exe", args, env);
			_exit(127);
		}
	}
	got = status_of(pid);
	if (got != stress_child(word))
		fail("executed child %s ended with %d, not %d", word, got, stress_child(word));
}

/* One whose end is a signal. */
static void killed(void)
{
	static volatile int *volatile nowhere;
	pid_t pid = fork();
	int got;

	if (pid == 0) {
		*nowhere = 1;
		_exit(0);
	}
	got = status_of(pid);
	if (got != -SIGSEGV)
		fail("the child that was to die of SIGSEGV ended with %d", got);
}

static int worker(unsigned i)
{
	uint32_t tag = i * 1000003 + 1;
	long rounds = 0;

	memory = mmap(NULL, WORDS * sizeof(*memory), PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		fail("no memory");
	do {
		copies(tag);
		execs(tag);
		if (rounds % 8 == 0)
			killed();
		tag += 0x10001;
		rounds++;
	} while (time_left());
	return rounds < 250 ? (int)rounds : 250;
}

long stress_fork(void)
{
	unsigned n = n_threads(2);
	pid_t pid[MAX_THREADS];
	long rounds = 0;

	for (unsigned i = 0; i < n; i++) {
		pid[i] = fork();
		if (pid[i] == 0)
			_exit(worker(i) + 1);
		if (pid[i] < 0)
			fail("no fork");
	}
	for (unsigned i = 0; i < n; i++) {
		int got = status_of(pid[i]);

		if (got < 0)
			fail("worker %u died of signal %d", i, -got);
		if (got <= 1)
			_exit(1); /* it has said why */
		rounds += got - 1;
	}
	return rounds;
}
