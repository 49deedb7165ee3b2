/* Storms of fork and exec: exit values and copy-on-write memory must be right. */
#define _GNU_SOURCE
#include "stress.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static uint32_t cow[4096]; /* children change their copies */

static int child(unsigned seed)
{
	char text[16];

	for (unsigned n = 0; n < 4096; n++)
		if (cow[n] != n)
			return 255;
	for (unsigned n = 0; n < 4096; n += 512)
		cow[n] = seed;
	if (seed % 4)
		return (int)(seed % 200);
	snprintf(text, sizeof(text), "%u", seed % 200);
	execl("/proc/self/exe", "stress", "--exit", text, (char *)NULL);
	return 254;
}

static void worker(unsigned number)
{
	for (unsigned n = 0; time_left(); n++) {
		unsigned seed = number * 1000 + n;
		pid_t pid = fork();
		int status;

		if (pid == 0)
			_exit(child(seed));
		if (pid < 0 || waitpid(pid, &status, 0) != pid)
			failed("fork or waitpid failed");
		else if (!WIFEXITED(status) || WEXITSTATUS(status) != (int)(seed % 200))
			failed("a child ended with another value");
		for (unsigned k = 0; k < 4096; k += 512)
			if (cow[k] != k)
				failed("a child's store came through to its parent");
	}
}

const char *test_fork(void)
{
	for (unsigned n = 0; n < 4096; n++)
		cow[n] = n;
	return in_threads(threads, worker);
}
