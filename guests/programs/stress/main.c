/* Runs the stress tests one after the other; `seconds` in the environment says for how long each,
 * `only` which ones alone, separated by commas. Names on the command line choose among them too.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <sched.h>
#include <time.h>
#include <unistd.h>

unsigned threads;
double seconds = 2;

static double until;
static const char *_Atomic failure;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

bool time_left(void)
{
	return now() < until && !has_failed();
}

void failed(const char *text)
{
	const char *none = NULL;

	atomic_compare_exchange_strong(&failure, &none, text);
}

bool has_failed(void)
{
	return atomic_load(&failure) != NULL;
}

struct start {
	void (*fn)(unsigned number);
	unsigned number;
};

static void *begin(void *arg)
{
	struct start *s = arg;

	s->fn(s->number);
	return NULL;
}

const char *in_threads(unsigned n, void (*fn)(unsigned number))
{
	pthread_t t[MAX_THREADS * 2];
	struct start s[MAX_THREADS * 2];

	for (unsigned k = 0; k < n; k++) {
		s[k] = (struct start){ fn, k };
		if (pthread_create(&t[k], NULL, begin, &s[k])) {
			failed("a thread cannot be made");
			n = k;
		}
	}
	for (unsigned k = 0; k < n; k++)
		pthread_join(t[k], NULL);
	return atomic_load(&failure);
}

static const struct {
	const char *name;
	const char *(*run)(void);
} tests[] = {
	{ "atomics", test_atomics },   { "split", test_split },	    { "futex", test_futex },
	{ "fork", test_fork },	       { "mapping", test_mapping }, { "jit", test_jit },
	{ "crossmod", test_crossmod }, { "remap", test_remap },	    { "signals", test_signals },
	{ "vectors", test_vectors },   { "order", test_order },	    { "slots", test_slots },
	{ "code", test_code },	       { "traps", test_traps },	    { "clocks", test_clocks },
};

static bool is_in_list(const char *list, const char *name)
{
	size_t len = strlen(name);

	for (; list; list = strchr(list, ','), list += list != NULL)
		if (strncmp(list, name, len) == 0 && (!list[len] || list[len] == ','))
			return true;
	return false;
}

static bool wanted(const char *name, int argc, char **argv)
{
	const char *only = getenv("only");

	if (only)
		return is_in_list(only, name);
	for (int n = 1; n < argc; n++)
		if (strcmp(argv[n], name) == 0)
			return true;
	return argc < 2;
}

int main(int argc, char **argv)
{
	const char *text = getenv("seconds");
	int bad = 0, done = 0;

	/* What test_fork executes: exit with the given status. */
	if (argc == 3 && strcmp(argv[1], "--exit") == 0)
		return atoi(argv[2]);
	if (text)
		seconds = atof(text);
	threads = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	if (threads < 2)
		threads = 2;
	if (threads > MAX_THREADS)
		threads = MAX_THREADS;
	for (unsigned n = 0; n < sizeof(tests) / sizeof(tests[0]); n++) {
		const char *why;

		if (!wanted(tests[n].name, argc, argv))
			continue;
		atomic_store(&failure, NULL);
		until = now() + seconds;
		why = tests[n].run();
		printf("report stress_%s: %s%s\n", tests[n].name, why ? "FAIL " : "PASS",
		       why ? why : "");
		fflush(stdout);
		bad += why != NULL;
		done++;
	}
	if (!done)
		printf("report stress_none: FAIL no test of that name\n");
	printf("report stress: %s\n", bad || !done ? "FAIL" : "PASS");
	return bad || !done;
}
