/* cleave compare: the same work by every method that this host has, in turn, and what each took. */
#include "cli/compare/compare.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cpu/dbt/dbt.h"
#include "cpu/engine.h"
#include "cpu/kvm/probe.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define QUICK		10 /* --quick does so much less */
#define DEFAULT_APPEND	"console=ttyS0 panic=-1"
#define DEFAULT_UNTIL	"as init process"
#define UNASKED(m, set) ((m)->engine && !((set) >> engine_find((m)->engine)->slot & 1))

/* Made from the image of the guest at build time. */
extern const unsigned char compare_guest[];
extern const size_t compare_guest_len;

const struct method compare_methods[N_METHODS] = {
	[METHOD_NATIVE] = { "native", NULL, false,
			    "none: a process on the host's processor and kernel", "there is none",
			    NULL, NULL },
	[METHOD_INTERP] = { "interp", "interp", false,
			    "hardware emulation: an interpreter does what each instruction says",
			    "nothing", "instructions", "instructions" },
	[METHOD_DBT] = { "dbt", "dbt", false,
			 "binary translation: translated code runs on the processor, in user mode",
			 "nothing; what runs is a translated copy of its code", "interpreted",
			 "interpreted" },
	[METHOD_DBT_PV] = { "dbt+pv", "dbt", true,
			    "OS-assisted (paravirtual), the rest by binary translation",
			    "its kernel knows of us: clock and EOI in memory, IPIs by hypercall",
			    "interpreted", "interpreted" },
	[METHOD_KVM] = { "kvm", "kvm", false,
			 "hardware-assisted: the processor runs the guest (VMX, SVM)", "nothing",
			 "exits", "exits" },
	[METHOD_KVM_PV] = { "kvm+pv", "kvm", true,
			    "hardware-assisted, and OS-assisted where that saves exits",
			    "its kernel knows of us: clock and EOI in memory", "exits", "exits" },
};

/* clang-format off */
const struct load compare_loads[N_ROWS] = {
	[LOAD_INTEGER] = { "integer", "user code", "integer loop",
		"a turn of a loop: shifts, additions, a multiplication, a branch", "the same code",
		10000000, 1, true, false },
	[LOAD_SORT] = { "sort", "user code", "heap sort",
		"an element sorted, in arrays of 512 KiB", "the same code", 262144, 1, true, false },
	[LOAD_HASH] = { "hash", "user code", "hash table",
		"a key counted in a table of 1 MiB", "the same code", 4000000, 1, true, false },
	[LOAD_SYSCALL] = { "syscall", "system calls", "system call",
		"SYSCALL, all registers saved, SYSRET", "getppid", 300000, 1, false, false },
	[LOAD_FAULT] = { "fault", "memory", "page fault",
		"a page touched, zeroed and mapped; all taken back after 512", "mmap, touch, munmap",
		32768, 1, false, false },
	[LOAD_SWITCH] = { "switch", "memory", "address space",
		"CR3 loaded, then 8 pages touched", NULL, 30000, 1, false, false },
	[LOAD_INTERRUPT] = { "interrupt", "interrupts", "own interrupt",
		"an IPI to itself, taken and ended", "a signal to itself", 30000, 1, false, false },
	[LOAD_TIMER] = { "timer", "interrupts", "timer",
		"the APIC's timer set to 1, until its interrupt", "timer_settime to 1 ns, until its signal",
		2000, 1, false, true },
	[LOAD_IPI] = { "ipi", "interrupts", "IPI to another CPU",
		"an IPI to a CPU that spins, until it has answered", "a signal to a thread that spins",
		3000, 2, false, true },
	[LOAD_CLOCK] = { "clock", "clock and I/O", "clock",
		"time read: with PV the clock in memory, else the ACPI timer", "clock_gettime",
		100000, 1, false, false },
	[LOAD_PORT] = { "port", "clock and I/O", "port I/O",
		"OUT to a port that nobody has", NULL, 50000, 1, false, false },
	[LOAD_MMIO] = { "mmio", "clock and I/O", "memory-mapped I/O",
		"a register of the I/O APIC read", NULL, 50000, 1, false, false },
	[LOAD_BOOT] = { "boot", "whole system", "boot of the kernel",
		"a boot, from the start of cleave to a text on the console", NULL, 1, 1, false, true },
};
/* clang-format on */

/* -- What came of it -------------------------------------------------------------------------- */

unsigned compare_ops(const struct comparison *c, unsigned row)
{
	unsigned ops = compare_loads[row].ops;

	return c->quick && row != LOAD_BOOT ? ops / QUICK / 512 * 512 + 512 : ops;
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *val, unsigned n)
{
	if (n == 0)
		return 0;
	qsort(val, n, sizeof(*val), compare_doubles);
	return n % 2 ? val[n / 2] : (val[n / 2 - 1] + val[n / 2]) / 2;
}

double compare_ns(const struct comparison *c, unsigned row, unsigned method)
{
	const struct cell *cell = &c->cell[row][method];
	double ns[COMPARE_ROUNDS];

	memcpy(ns, cell->ns, sizeof(ns));
	return median(ns, cell->n);
}

/* Of the rounds' ratios: the two of a round were measured one after the other, so that what else
 * the host does changes both. */
double compare_ratio(const struct comparison *c, unsigned row, unsigned method)
{
	const struct cell *cell = &c->cell[row][method], *native = &c->cell[row][METHOD_NATIVE];
	unsigned n = MIN(cell->n, native->n);
	double ratio[COMPARE_ROUNDS] = { 0 };

	for (unsigned i = 0; i < n; i++)
		ratio[i] = cell->ns[i] / native->ns[i];
	return median(ratio, n);
}

double compare_group_ratio(const struct comparison *c, const char *group, unsigned method)
{
	double logs = 0;
	unsigned n = 0;

	for (unsigned row = 0; row < N_ROWS; row++) {
		double ratio = compare_ratio(c, row, method);

		if (strcmp(compare_loads[row].group, group) != 0 || ratio <= 0)
			continue;
		logs += log(ratio);
		n++;
	}
	return n ? exp(logs / n) : 0;
}

double compare_count(const struct comparison *c, unsigned row, unsigned method)
{
	const struct counts *n = &c->cell[row][method].counts;
	uint64_t count = method == METHOD_INTERP   ? n->insns
			 : method <= METHOD_DBT_PV ? n->by_interp
						   : n->entries;

	return (double)count / compare_ops(c, row);
}

bool compare_has_row(const struct comparison *c, unsigned row)
{
	for (unsigned m = 0; m < N_METHODS; m++)
		if (c->cell[row][m].n || *c->cell[row][m].failure)
			return true;
	return false;
}

/* -- Measuring -------------------------------------------------------------------------------- */

static uint64_t less(uint64_t n, uint64_t idle)
{
	return n > idle ? n - idle : 0;
}

static void set_counts(struct counts *to, const struct counts *n, const struct counts *idle)
{
	*to = (struct counts){ .insns = less(n->insns, idle->insns),
			       .by_interp = less(n->by_interp, idle->by_interp),
			       .translations = less(n->translations, idle->translations),
			       .entries = less(n->entries, idle->entries),
			       .ports = less(n->ports, idle->ports),
			       .mmios = less(n->mmios, idle->mmios),
			       .interrupts = less(n->interrupts, idle->interrupts) };
}

static int measure(const struct comparison *c, unsigned row, unsigned method, struct sample *s,
		   struct err *err)
{
	const struct load *l = &compare_loads[row];
	unsigned ops = compare_ops(c, row);

	if (method == METHOD_NATIVE)
		return native_load(row, ops, s) ? 0 : -ENOTSUP;
	if (row == LOAD_BOOT)
		return machine_boot(c, &compare_methods[method], s, err);
	return machine_load(c, &compare_methods[method], l, ops, s, err);
}

static void fill_cell(struct comparison *c, unsigned row, unsigned method, uint64_t *native_sum)
{
	struct cell *cell = &c->cell[row][method];
	struct sample s;
	struct err err;
	int ret;

	if (*cell->failure || c->method[method].gone)
		return;
	ret = measure(c, row, method, &s, &err);
	c->method[method].gone = ret == -ETIMEDOUT;
	if (ret < 0) {
		if (method != METHOD_NATIVE)
			snprintf(cell->failure, sizeof(cell->failure), "%.190s", err.msg);
		return;
	}
	if (method == METHOD_NATIVE)
		*native_sum = s.sum;
	else if (compare_loads[row].same_sum && s.sum != *native_sum)
		snprintf(cell->failure, sizeof(cell->failure),
			 "the guest computed %#llx, the host %#llx", (unsigned long long)s.sum,
			 (unsigned long long)*native_sum);
	cell->ns[cell->n++] = s.ns / compare_ops(c, row);
	set_counts(&cell->counts, &s.counts, &c->method[method].idle);
}

static void say_progress(unsigned round, unsigned row, unsigned method)
{
	fprintf(stderr, isatty(2) ? "\r\033[Kround %u of %u: %s, %s" : "", round + 1,
		COMPARE_ROUNDS, compare_loads[row].name, compare_methods[method].id);
}

static unsigned n_processors(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
}

/* All methods one after the other on each load. Two CPUs that wait for each other need two. */
static void do_round(struct comparison *c, unsigned round)
{
	unsigned n_rows = c->kernel ? N_ROWS : N_LOADS;
	uint64_t native_sum = 0;

	if (!isatty(2))
		fprintf(stderr, "round %u of %u\n", round + 1, COMPARE_ROUNDS);
	for (unsigned row = 0; row < n_rows; row++) {
		if (compare_loads[row].n_cpus > n_processors())
			continue;
		for (unsigned method = 0; method < N_METHODS; method++) {
			if (!c->method[method].on)
				continue;
			say_progress(round, row, method);
			fill_cell(c, row, method, &native_sum);
		}
	}
}

/* -- Methods ---------------------------------------------------------------------------------- */

/* Does the method start here, and what does a machine cost it that does nothing? */
static void try_method(struct comparison *c, unsigned method)
{
	static const struct load nothing = { .id = "nothing", .n_cpus = 1, .elapsed = true };
	struct sample s;
	struct err err;

	if (machine_load(c, &compare_methods[method], &nothing, 1, &s, &err) < 0) {
		snprintf(c->method[method].why_not, sizeof(c->method[method].why_not),
			 "not usable here: %.270s", err.msg);
		return;
	}
	c->method[method].on = true;
	c->method[method].idle = s.counts;
	memcpy(c->method[method].uses, s.uses, sizeof(s.uses));
}

/* Why auto would not take the engine; false if it would. */
static bool has_excuse(const struct engine *e, char *why, size_t len)
{
	struct kvm_probe probe;

	if (e == &engine_dbt && !dbt_is_possible())
		return snprintf(why, len, "the host has not BMI2 and FSGSBASE") > 0;
	if (e != &engine_kvm)
		return false;
	kvm_probe(&probe);
	return !kvm_probe_accepts(&probe, why, len);
}

/* asked: bits of engines; 0: all that are any good here. */
static void choose_methods(struct comparison *c, unsigned asked)
{
	char why[N_ENGINES][256];
	bool left[N_ENGINES] = { false };

	for (unsigned n = 0; engines[n] && !asked; n++)
		left[engines[n]->slot] =
			has_excuse(engines[n], why[engines[n]->slot], sizeof(why[0]));
	c->method[METHOD_NATIVE].on = true;
	for (unsigned m = METHOD_NATIVE + 1; m < N_METHODS; m++) {
		unsigned slot = engine_find(compare_methods[m].engine)->slot;

		if (left[slot])
			snprintf(c->method[m].why_not, sizeof(c->method[m].why_not),
				 "not usable here: %s", why[slot]);
		else if (!asked || !UNASKED(&compare_methods[m], asked))
			try_method(c, m);
	}
}

static bool has_any(const struct comparison *c)
{
	for (unsigned m = METHOD_NATIVE + 1; m < N_METHODS; m++)
		if (c->method[m].on)
			return true;
	return false;
}

/* -- The command ------------------------------------------------------------------------------ */

struct options {
	bool json, help;
	unsigned engines;
	const char *svg;
};

static int take_engines(unsigned *set, const char *list, struct err *err)
{
	AUTO_FREE char *copy = strdup(list);
	char *rest = copy, *name;

	while (copy && (name = strsep(&rest, ","))) {
		const struct engine *e = engine_find(name);

		if (!e)
			return err_say(
				err, EINVAL,
				"--engine: there is no engine '%s'; as in --engine interp,dbt",
				name);
		*set |= 1u << e->slot;
	}
	return copy ? 0 : err_set(err, ENOMEM, "--engine");
}

static int parse(struct options *o, struct comparison *c, int argc, char **argv, struct err *err)
{
	const char *engines_list = NULL;
	const struct {
		const char *name;
		const char **val;
	} with_value[] = { { "--engine", &engines_list }, { "--svg", &o->svg },
			   { "--kernel", &c->kernel },	  { "--initrd", &c->initrd },
			   { "--append", &c->append },	  { "--until", &c->until } };

	for (int i = 1; i < argc; i++) {
		const char **val = NULL;

		for (unsigned k = 0; k < ARRAY_SIZE(with_value); k++)
			if (strcmp(argv[i], with_value[k].name) == 0)
				val = with_value[k].val;
		if (val && i + 1 == argc)
			return err_say(err, EINVAL, "%s needs a value; see `cleave compare --help`",
				       argv[i]);
		if (val)
			*val = argv[++i];
		else if (strcmp(argv[i], "--json") == 0)
			o->json = true;
		else if (strcmp(argv[i], "--quick") == 0)
			c->quick = true;
		else if (is_help_option(argv[i]))
			o->help = true;
		else
			return err_say(err, EINVAL,
				       "there is no option '%s'; see `cleave compare --help`",
				       argv[i]);
	}
	if (!c->kernel && (c->initrd || c->append || c->until))
		return err_say(err, EINVAL,
			       "--initrd, --append and --until are of a kernel's boot: --kernel "
			       "names it, as in --kernel vmlinuz");
	if (c->kernel && access(c->kernel, R_OK) < 0)
		return err_set(err, errno, "--kernel: open %s", c->kernel);
	c->append = c->append ? c->append : DEFAULT_APPEND;
	c->until = c->until ? c->until : DEFAULT_UNTIL;
	return engines_list ? take_engines(&o->engines, engines_list, err) : 0;
}

static int put_guest(struct comparison *c, struct err *err)
{
	c->guest_fd = memfd_create("guest", 0);
	if (c->guest_fd < 0)
		return err_set(err, errno, "make a file in memory");
	if (write(c->guest_fd, compare_guest, compare_guest_len) != (ssize_t)compare_guest_len)
		return err_set(err, errno, "write to a file in memory");
	return 0;
}

static int compare(const struct options *o, struct comparison *c, struct err *err)
{
	int ret = put_guest(c, err);

	if (ret < 0)
		return ret;
	choose_methods(c, o->engines);
	if (!has_any(c))
		return err_say(err, ENOTSUP, "no engine runs here; `cleave doctor` says why");
	for (unsigned round = 0; round < COMPARE_ROUNDS; round++)
		do_round(c, round);
	if (isatty(2))
		fputs("\r\033[K", stderr);
	return 0;
}

/* 1 if a machine failed. */
static int status_of(const struct comparison *c)
{
	for (unsigned row = 0; row < N_ROWS; row++)
		for (unsigned m = 0; m < N_METHODS; m++)
			if (*c->cell[row][m].failure)
				return STATUS_ERROR;
	return STATUS_OK;
}

/* f is the picture's file; NULL: none is wanted. */
static int report(const struct options *o, const struct comparison *c, FILE *f, struct err *err)
{
	(o->json ? report_json : report_text)(c);
	if (fflush(stdout) != 0)
		return err_set(err, errno, "write the table");
	if (!f)
		return 0;
	chart_write(c, f);
	return fflush(f) != 0 || ferror(f) ? err_set(err, errno, "--svg: write %s", o->svg) : 0;
}

int cmd_compare(int argc, char **argv)
{
	AUTO_FREE struct comparison *c = calloc(1, sizeof(*c));
	struct options o = { 0 };
	FILE *f = NULL;
	struct err err;
	int ret = c ? 0 : err_set(&err, ENOMEM, "start");

	if (ret == 0)
		ret = parse(&o, c, argc, argv, &err);
	if (ret == 0 && o.help) {
		help_command("compare");
		return STATUS_OK;
	}
	/* Before a minute's work, not behind it. */
	if (ret == 0 && o.svg && !(f = fopen(o.svg, "we")))
		ret = err_set(&err, errno, "--svg: open %s", o.svg);
	if (ret == 0)
		ret = compare(&o, c, &err);
	if (ret == 0)
		ret = report(&o, c, f, &err);
	if (f)
		fclose(f);
	if (ret < 0) {
		fprintf(stderr, "cleave: %s\n", err.msg);
		return STATUS_ERROR;
	}
	return status_of(c);
}
