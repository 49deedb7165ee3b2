/* isa-diff: random user-mode code on the host's CPU and on an engine, which must agree.
 *
 *	isa-diff [--engine interp|dbt] [--hot] [--exact] [--smc] [--mode 64|32|16] [--seconds N]
 *	         [--seed S] [--start K] [--count N] [--only MNEMONIC] [--keep-going]
 *
 * --hot runs each test several times, so that translations are chained and kept; --exact runs it in
 * counting mode. The translator's arithmetic flags after a fault are compared with --exact only,
 * since those that nobody reads are not exact else.
 *
 * --smc makes tests in which one instruction changes a later one. Which instruction that is, and
 * where in it the store falls, is random; it becomes another one of the same row.
 *
 * Without --mode all three take their turn. Exits with 1 at the first difference, or with
 * --keep-going at the end, after one report for each instruction; with 77 where the host lacks what
 * the test needs.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "compare.h"
#include "cpu/engine.h"
#include "cpu/x86/decode_tables.h"
#include "generate.h"
#include "guest.h"
#include "minimise.h"
#include "native.h"
#include "values.h"

#define DEFAULT_SECONDS 20
#define SKIPPED		77
#define HOT_RUNS	5

struct options {
	unsigned modes; /* bit set of 2, 4, 8 */
	double seconds;
	uint64_t seed, start, count;
	const char *only;
	bool keep_going, smc;
	struct guest_options guest;
};

struct run {
	struct options opt;
	struct native native;
	struct guest *guest;
	struct generator *from;
	uint64_t tests, reports;
	bool reported[N_INSN];
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static _Noreturn void skip(const char *why)
{
	printf("isa-diff: skipped: %s\n", why);
	exit(SKIPPED);
}

/* ---- one test alone ---- */

static void must_start(struct run *r)
{
	const char *why = native_start(&r->native);

	if (why)
		skip(why);
}

/* The child is gone: say at which test, and start another. */
static void report_death(struct run *r, const char *how)
{
	printf("the native process %s at:\n", how);
	print_test(&r->native.shared->test[r->native.shared->current], stdout);
	r->reports++;
	must_start(r);
}

static bool run_one(struct run *r, const struct test *t, struct result *guest)
{
	struct shared *s = r->native.shared;
	const char *how;

	s->test[0] = *t;
	s->n = 1;
	native_go(&r->native);
	guest_run(r->guest, t, guest);
	how = native_wait(&r->native);
	if (how)
		report_death(r, how);
	return !how;
}

static bool same(const struct run *r, const struct test *t, const struct result *host,
		 const struct result *guest, FILE *out)
{
	bool exact = r->opt.guest.exact || r->opt.guest.engine == &engine_interp;

	return same_result(t, host, guest, exact, out);
}

static bool fails(const struct test *t, void *ctx)
{
	struct run *r = ctx;
	static struct result guest;

	return run_one(r, t, &guest) && !same(r, t, &r->native.shared->native[0], &guest, NULL);
}

/* ---- differences ---- */

static bool already_reported(const struct run *r, const struct test *t)
{
	for (unsigned k = 0; k < t->n; k++)
		if (r->reported[t->insn[k].id])
			return true;
	return false;
}

/* host and other: the results that differed. */
static void report(struct run *r, const struct test *original, const struct result *host,
		   const struct result *other)
{
	static struct result guest;
	struct test t = *original;

	if (already_reported(r, &t))
		return;
	if (!fails(&t, r)) {
		printf("differed once, and not again:\n");
		print_test(&t, stdout);
		printf(" after:\n");
		same(r, &t, host, other, stdout);
		r->reports++;
		return;
	}
	minimise(&t, fails, r);
	if (run_one(r, &t, &guest)) {
		print_test(&t, stdout);
		printf(" after:\n");
		same(r, &t, &r->native.shared->native[0], &guest, stdout);
		fflush(stdout);
	}
	r->reported[t.insn[t.n - 1].id] = true;
	r->reports++;
}

/* ---- batches ---- */

/* Both sides at once, then compare. Returns false if the run is to end. */
static bool run_batch(struct run *r, uint64_t first, unsigned n)
{
	static struct result guest[MAX_BATCH];
	static struct failure {
		struct test test;
		struct result native;
		unsigned index;
	} failed[MAX_BATCH];
	struct shared *s = r->native.shared;
	unsigned n_failed = 0;
	const char *how;

	for (unsigned k = 0; k < n; k++)
		generate(r->from, r->opt.seed, first + k, &s->test[k]);
	s->n = n;
	native_go(&r->native);
	for (unsigned k = 0; k < n; k++)
		guest_run(r->guest, &s->test[k], &guest[k]);
	how = native_wait(&r->native);
	if (how) {
		report_death(r, how);
		return r->opt.keep_going;
	}
	for (unsigned k = 0; k < n; k++)
		if (!same(r, &s->test[k], &s->native[k], &guest[k], NULL))
			failed[n_failed++] = (struct failure){ s->test[k], s->native[k], k };
	/* Reporting uses the shared memory for new tests. */
	for (unsigned k = 0; k < n_failed && (!r->reports || r->opt.keep_going); k++)
		report(r, &failed[k].test, &failed[k].native, &guest[failed[k].index]);
	r->tests += n;
	return !r->reports || r->opt.keep_going;
}

/* False if a difference ends the run. */
static bool run_mode(struct run *r, unsigned mode, double seconds)
{
	double end = now() + seconds;
	uint64_t index = r->opt.start, last = index + r->opt.count;
	bool go_on = true;

	r->from = generator_new(mode, r->opt.only, r->opt.smc);
	if (!r->from) {
		printf("%u-bit: no instruction is wanted\n", mode * 8);
		return true;
	}
	r->tests = 0;
	while (go_on && index < last && (r->opt.count != ~0ull - r->opt.start || now() < end)) {
		unsigned n = (unsigned)MIN(last - index, MAX_BATCH);

		go_on = run_batch(r, index, n);
		index += n;
	}
	printf("%u-bit: %" PRIu64 " tests of %u rows, %" PRIu64 " reports\n", mode * 8, r->tests,
	       generator_rows(r->from), r->reports);
	fflush(stdout);
	generator_free(r->from);
	return go_on;
}

/* ---- command line ---- */

static _Noreturn void usage(void)
{
	fprintf(stderr,
		"usage: isa-diff [--engine interp|dbt] [--hot] [--exact] [--smc] "
		"[--mode 64|32|16] [--seconds N] [--seed S] [--start K] [--count N] [--only MNEMONIC] "
		"[--keep-going]\n");
	exit(2);
}

static struct options parse(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "mode", required_argument, NULL, 'm' },
		{ "seconds", required_argument, NULL, 's' },
		{ "seed", required_argument, NULL, 'S' },
		{ "start", required_argument, NULL, 'k' },
		{ "count", required_argument, NULL, 'n' },
		{ "only", required_argument, NULL, 'o' },
		{ "keep-going", no_argument, NULL, 'g' },
		{ "engine", required_argument, NULL, 'e' },
		{ "hot", no_argument, NULL, 'h' },
		{ "exact", no_argument, NULL, 'x' },
		{ "smc", no_argument, NULL, 'c' },
		{ 0 },
	};
	struct options o = { .modes = 2 | 4 | 8,
			     .seconds = DEFAULT_SECONDS,
			     .seed = (uint64_t)time(NULL),
			     .count = ~0ull,
			     .guest = { .engine = &engine_interp, .runs = 1 } };
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		switch (c) {
		case 'm': o.modes = (unsigned)strtoul(optarg, NULL, 0) / 8; break;
		case 's': o.seconds = strtod(optarg, NULL); break;
		case 'S': o.seed = strtoull(optarg, NULL, 0); break;
		case 'k': o.start = strtoull(optarg, NULL, 0); break;
		case 'n': o.count = strtoull(optarg, NULL, 0); break;
		case 'o': o.only = optarg; break;
		case 'g': o.keep_going = true; break;
		case 'e': o.guest.engine = engine_find(optarg); break;
		case 'h': o.guest.runs = HOT_RUNS; break;
		case 'x': o.guest.exact = true; break;
		case 'c': o.smc = true; break;
		default: usage();
		}
	}
	if (optind < argc || !o.modes || o.modes & ~14u || !o.guest.engine)
		usage();
	o.count = MIN(o.count, ~0ull - o.start);
	return o;
}

int main(int argc, char **argv)
{
	static struct run r;
	struct gen memory;
	const char *why;
	unsigned n_modes;

	r.opt = parse(argc, argv);
	printf("seed %" PRIu64 "\n", r.opt.seed);
	why = native_init(&r.native);
	if (why)
		skip(why);
	r.native.shared->smc = r.opt.smc;
	memory = (struct gen){ .seed = r.opt.seed };
	values_memory(&memory, r.native.shared);
	must_start(&r);
	r.guest = guest_new(r.native.shared, &r.opt.guest);
	if (!r.guest)
		skip("no memory");
	n_modes = (unsigned)__builtin_popcount(r.opt.modes);
	for (unsigned mode = 8; mode >= 2; mode /= 2)
		if (r.opt.modes & mode && !run_mode(&r, mode, r.opt.seconds / n_modes))
			break;
	guest_free(r.guest);
	native_stop(&r.native);
	return r.reports ? 1 : 0;
}
