/* lockstep: two machines of one configuration in deterministic mode, a leader on the engine under
 * test and a follower on the interpreter. The leader runs to its next boundary (the translator: the
 * end of a translation), the follower to the same count of instructions, then all state of both
 * must be equal; RAM is compared now and then.
 *
 *	lockstep --kernel FILE [--initrd FILE] [--append TEXT] [--memory SIZE] [--cpu MODEL]
 *	         [--leader ENGINE] [--console FILE] [--limit N] [--ram-from N] [--ram-every N]
 *	         [--flip N] [--lazy]
 *
 * --limit ends after N instructions; --ram-from and --ram-every say from which count on and how
 * often RAM is compared, to find where a difference of RAM began; --flip changes a flag of the
 * leader at count N, to see that it is found; --lazy lets the translator drop flags that nobody
 * reads, as it does outside of counting mode.
 *
 * Flags that the manual leaves undefined may differ; the leader gets the follower's then.
 *
 * Exits with 0 when both machines end, or at the limit; with 1 at the first difference, told with
 * the code since the last point where both were equal; with 2 on mistakes.
 */
#include <Zydis/Zydis.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/err.h"
#include "cpu/engine.h"
#include "cpu/interp/interp.h"
#include "cpu/state.h"
#include "cpu/x86/decode.h"
#include "cpu/x86/decode_tables.h"
#include "cpu/x86/vmem.h"
#include "host/timer.h"
#include "machine/icount.h"
#include "machine/machine_internal.h"

#define TRAIL 8 /* equal points that are remembered */

struct point {
	uint64_t insns, rip;
};

struct lockstep {
	struct machine *a, *b; /* leader, follower */
	struct vcpu *ca, *cb;
	struct point trail[TRAIL]; /* ring; the newest is at (n_points - 1) % TRAIL */
	uint64_t n_points;
	struct vcpu before; /* registers at the last equal point (GPRs, RIP, flags only) */
	uint64_t limit, ram_from, ram_every, flip;
	uint64_t settled;    /* times that undefined flags differed */
	uint64_t frames;     /* times that dead flags were saved */
	uint64_t exceptions; /* of the leader at the last equal point */
	uint64_t ram_equal;  /* count at which RAM was equal last */
	const char *console;
	bool lazy;
};

/* -- Telling ---------------------------------------------------------------------------------- */

static const char *const gpr_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8",  "r9",	 "r10", "r11", "r12", "r13", "r14", "r15" };

static void print_code(struct vcpu *c, uint64_t rip, uint64_t n)
{
	ZydisMachineMode mode = c->code_size == 8   ? ZYDIS_MACHINE_MODE_LONG_64
				: c->code_size == 4 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32
						    : ZYDIS_MACHINE_MODE_LONG_COMPAT_16;
	gva_t base = c->code64 ? 0 : c->seg[SEG_CS].base;

	for (uint64_t k = 0; k < n && k < 80; k++) {
		ZydisDisassembledInstruction text;
		uint8_t buf[15] = { 0 };
		unsigned len = sizeof(buf);

		while (len && !vmem_peek(c, base + rip, buf, len))
			len--;
		if (!len || !ZYAN_SUCCESS(ZydisDisassembleIntel(mode, rip, buf, len, &text))) {
			printf("  %16" PRIx64 "  (cannot be read)\n", rip);
			return;
		}
		printf("  %16" PRIx64 "  ", rip);
		for (unsigned m = 0; m < 15; m++)
			printf(m < text.info.length ? "%02x" : "  ", buf[m]);
		printf("  %s\n", text.text);
		rip += text.info.length;
	}
}

static void print_pair(const char *name, uint64_t was, uint64_t a, uint64_t b)
{
	printf("%c %-8s before %16" PRIx64 "  leader %16" PRIx64 "  follower %16" PRIx64 "\n",
	       a == b ? ' ' : '*', name, was, a, b);
}

static void print_field(const struct lockstep *l, const struct vcpu_field *f)
{
	const uint8_t *a = (const uint8_t *)l->ca + f->off, *b = (const uint8_t *)l->cb + f->off;

	if (!memcmp(a, b, f->size))
		return;
	printf("* %s:\n", f->name);
	for (unsigned at = 0; at < f->size; at += 16) {
		unsigned n = MIN(f->size - at, 16u);

		if (!memcmp(a + at, b + at, n))
			continue;
		printf("    +%#x leader  ", at);
		for (unsigned k = 0; k < n; k++)
			printf(" %02x", a[at + k]);
		printf("\n    +%#x follower", at);
		for (unsigned k = 0; k < n; k++)
			printf(" %02x", b[at + k]);
		printf("\n");
	}
}

static void print_state(const struct lockstep *l)
{
	for (unsigned n = 0; n < 16; n++)
		print_pair(gpr_names[n], l->before.gpr[n], l->ca->gpr[n], l->cb->gpr[n]);
	print_pair("rip", l->before.rip, l->ca->rip, l->cb->rip);
	print_pair("rflags", vcpu_rflags(&l->before), vcpu_rflags(l->ca), vcpu_rflags(l->cb));
	for (unsigned n = 0; n < n_vcpu_fields; n++)
		print_field(l, &vcpu_fields[n]);
}

static void tell_difference(struct lockstep *l, const char *what)
{
	const struct point *last = &l->trail[(l->n_points - 1) % TRAIL];

	printf("difference: %s\n", what);
	printf("equal at %" PRIu64 " instructions; now the leader (%s) has %" PRIu64
	       ", the follower %" PRIu64 "\n",
	       last->insns, l->ca->engine->name, l->ca->stats.insns, l->cb->stats.insns);
	printf("mode: CPL %u, %u-bit code, cr0 %" PRIx64 " cr3 %" PRIx64 " cr4 %" PRIx64
	       " efer %" PRIx64 "\n",
	       l->cb->cpl, l->cb->code_size * 8, l->cb->cr0, l->cb->cr3, l->cb->cr4,
	       l->cb->msr.efer);
	printf("the way there:");
	for (uint64_t n = l->n_points > TRAIL ? l->n_points - TRAIL : 0; n < l->n_points; n++)
		printf(" %" PRIx64, l->trail[n % TRAIL].rip);
	printf("\ncode from the last equal point on:\n");
	print_code(l->cb, last->rip, l->ca->stats.insns - last->insns + 1);
	print_state(l);
	fflush(stdout);
}

/* -- RAM -------------------------------------------------------------------------------------- */

/* False, and told, if a page differs. */
static bool same_ram(struct lockstep *l)
{
	const uint8_t *a = l->a->pm.ram, *b = l->b->pm.ram;
	uint64_t bytes = l->a->pm.ram_bytes;
	unsigned told = 0;

	for (uint64_t at = 0; at < bytes; at += PAGE_SIZE) {
		if (!memcmp(a + at, b + at, PAGE_SIZE))
			continue;
		for (uint64_t off = at; off < at + PAGE_SIZE && told < 16; off += 8) {
			if (!memcmp(a + off, b + off, 8))
				continue;
			printf("RAM offset %#" PRIx64 ": leader %016" PRIx64 " follower %016" PRIx64
			       "\n",
			       off, load64(a + off), load64(b + off));
			told++;
		}
	}
	if (told) {
		printf("RAM was equal at %" PRIu64 " instructions\n", l->ram_equal);
		tell_difference(l, "RAM");
	}
	l->ram_equal = l->ca->stats.insns;
	return !told;
}

/* -- Stepping --------------------------------------------------------------------------------- */

static bool ended(struct machine *m)
{
	return m->end_asked || m->reset_asked;
}

static enum run_exit go(struct vcpu *c, uint64_t limit)
{
	c->insn_limit = limit;
	return c->engine->run(c);
}

/* The follower to exactly count n. */
static enum run_exit follow(struct vcpu *c, uint64_t n)
{
	enum run_exit e = RUN_LIMIT;

	/* KICK_STOP comes once for each timer that is armed, and at the end. */
	for (unsigned tries = 0; tries < 4 && c->stats.insns < n; tries++) {
		e = go(c, n);
		if (e != RUN_KICKED)
			break;
	}
	return e;
}

/* Arithmetic flags that are undefined at the boundary, by the code since the last equal point. */
static uint64_t undefined_flags(const struct lockstep *l)
{
	const struct point *last = &l->trail[(l->n_points - 1) % TRAIL];
	struct vcpu *c = l->cb;
	uint64_t rip = last->rip, undefined = 0;

	for (uint64_t n = last->insns; n < c->stats.insns; n++) {
		uint8_t buf[INSN_MAX_LEN];
		unsigned len = sizeof(buf);
		struct insn i;

		while (len && !vmem_peek(c, (c->code64 ? 0 : c->seg[SEG_CS].base) + rip, buf, len))
			len--;
		if (decode(buf, len, c->code_size, &i) != DECODE_OK)
			break;
		if (!(insn_table[i.id].attr & INSN_FL_MAYBE))
			undefined &= ~(uint64_t)insn_table[i.id].fl_write;
		undefined |= insn_table[i.id].fl_undef;
		rip += i.len;
	}
	return undefined;
}

/* Instruction i surely gives these flags a new value: a shift if its count is known, and not 0. */
static uint64_t killed(const struct insn *i)
{
	const struct insn_desc *d = &insn_table[i->id];

	if (d->attr & INSN_FL_MAYBE) {
		unsigned count = (unsigned)i->imm & (i->opd[0].size == 8 ? 63 : 31);
		bool by_one = i->n_opds > 1 && i->opd[1].kind == OPD_ONE;
		bool by_imm = i->n_opds > 1 && i->opd[i->n_opds - 1].kind == OPD_IMM && count;

		if (!by_one && !by_imm)
			return 0;
	}
	return d->fl_write | d->fl_undef;
}

/* With --lazy: is none of these flags read any more, by the code from here on? */
static bool are_dead(const struct lockstep *l, uint64_t flags)
{
	struct vcpu *c = l->cb;
	uint64_t rip = c->rip;

	for (unsigned n = 0; l->lazy && n < 64; n++) {
		uint8_t buf[INSN_MAX_LEN];
		unsigned len = sizeof(buf);
		struct insn i;

		if (!flags)
			return true;
		while (len && !vmem_peek(c, (c->code64 ? 0 : c->seg[SEG_CS].base) + rip, buf, len))
			len--;
		if (decode(buf, len, c->code_size, &i) != DECODE_OK ||
		    flags & insn_table[i.id].fl_read || insn_table[i.id].attr & INSN_ENDS)
			return false;
		flags &= ~killed(&i);
		rip += i.len;
	}
	return false;
}

/* Where they differ in undefined flags only, the leader gets the follower's, so that what comes of
 * them is the same on both. */
static void settle_flags(struct lockstep *l)
{
	uint64_t a = vcpu_rflags(l->ca), b = vcpu_rflags(l->cb);

	if (a == b || (a ^ b) & ~(uint64_t)RFLAGS_ARITH)
		return;
	if ((a ^ b) & ~undefined_flags(l) && !are_dead(l, (a ^ b) & ~undefined_flags(l)))
		return;
	vcpu_set_rflags(l->ca, b);
	l->settled++;
}

#define FRAME_WORDS 48 /* how far from RSP an exception's frame may be by now */

/* With --lazy: an exception has saved flags that nobody reads, which are not exact. The leader gets
 * the follower's, in the frame too. */
static void settle_frame(struct lockstep *l)
{
	uint64_t a = vcpu_rflags(l->ca), b = vcpu_rflags(l->cb), x, y;

	if (!l->ca->lazy_flags || l->ca->stats.exceptions == l->exceptions)
		return;
	if (!((a ^ b) & ~(uint64_t)RFLAGS_ARITH))
		vcpu_set_rflags(l->ca, b);
	for (unsigned n = 0; n < FRAME_WORDS; n++) {
		gva_t gva = l->ca->gpr[REG_RSP] + n * 8;

		if (!vmem_peek(l->ca, gva, &x, 8) || !vmem_peek(l->cb, gva, &y, 8))
			break;
		if (x != y && !((x ^ y) & ~(uint64_t)RFLAGS_ARITH))
			vmem_write(l->ca, gva, &y, 8, AS_SYSTEM);
	}
	l->frames++;
}

/* The leader may have gone beyond the boundary without completing another instruction: one that
 * faulted, or a part of a REP. */
static bool catch_up(struct lockstep *l)
{
	uint64_t n = l->cb->stats.insns;

	l->cb->insn_limit = ~0ull;
	if (interp_events(l->cb) != INTERP_GO || !interp_one(l->cb) || l->cb->stats.insns != n)
		return false;
	settle_frame(l);
	return !vcpu_differs(l->ca, l->cb);
}

static bool compare(struct lockstep *l)
{
	static struct vcpu was;
	const char *what;

	if (l->ca->stats.insns != l->cb->stats.insns) {
		tell_difference(l, "count of instructions");
		return false;
	}
	settle_flags(l);
	if (vcpu_differs(l->ca, l->cb) && l->ca->stats.exceptions == l->cb->stats.exceptions)
		settle_frame(l);
	what = vcpu_differs(l->ca, l->cb);
	if (what) {
		was = *l->cb;
		if (!catch_up(l)) {
			/* The state that differed, not what came of it. */
			l->cb = &was;
			tell_difference(l, what);
			return false;
		}
	}
	return true;
}

static void remember(struct lockstep *l)
{
	const struct vcpu *c = l->ca;

	memcpy(l->before.gpr, c->gpr, sizeof(c->gpr));
	l->before.rip = c->rip;
	l->before.cc = c->cc;
	l->before.rflags_rest = c->rflags_rest;
	l->exceptions = c->stats.exceptions;
	l->trail[l->n_points++ % TRAIL] = (struct point){ c->stats.insns, c->rip };
}

/* One boundary of the leader. False at a difference, or when *done. */
static bool step(struct lockstep *l, bool *done)
{
	uint64_t n = l->ca->stats.insns;
	enum run_exit ea, eb;

	timer_queue_run(l->a->timers);
	timer_queue_run(l->b->timers);
	ea = go(l->ca, n + 1);
	if (l->ca->stats.insns > n)
		eb = follow(l->cb, l->ca->stats.insns);
	else
		eb = go(l->cb, n + 1);
	if (eb != ea && !(ea == RUN_LIMIT && eb == RUN_KICKED)) {
		/* A triple fault behind instructions that completed. */
		if (ea == RUN_SHUTDOWN && eb == RUN_LIMIT)
			eb = go(l->cb, l->cb->stats.insns + 1);
		if (eb != ea) {
			printf("exits: leader %d, follower %d\n", ea, eb);
			tell_difference(l, "exit of run()");
			return false;
		}
	}
	if (!compare(l))
		return false;
	remember(l);
	if (ea == RUN_HALTED && icount_skip(&l->a->icount) != icount_skip(&l->b->icount)) {
		tell_difference(l, "timers");
		return false;
	}
	*done = ea == RUN_SHUTDOWN || ended(l->a) ||
		(ea == RUN_HALTED && timer_queue_next(l->a->timers) == INT64_MAX);
	return !*done;
}

static bool run_both(struct lockstep *l)
{
	uint64_t ram_at = l->ram_from;
	bool done = false;

	remember(l);
	while (step(l, &done)) {
		uint64_t n = l->ca->stats.insns;

		if (n >= l->flip) {
			l->ca->cc ^= CC_CF;
			l->flip = ~0ull;
		}
		if (n >= ram_at) {
			if (!same_ram(l))
				return false;
			ram_at = n + l->ram_every;
		}
		if (n >= l->limit)
			return true;
	}
	return done && same_ram(l);
}

/* -- Life ------------------------------------------------------------------------------------- */

static void start_devices(struct machine *m)
{
	for (unsigned n = 0; n < m->n_devs; n++)
		if (m->dev[n].ops->start)
			m->dev[n].ops->start(m->dev[n].dev);
}

static struct machine *make(struct machine_config cfg, const char *engine, const char *console)
{
	struct machine *m;
	struct err err;

	cfg.engine = engine;
	cfg.console = CONSOLE_FILE;
	cfg.console_path = console;
	if (machine_new(&m, &cfg, &err) < 0) {
		fprintf(stderr, "lockstep: %s\n", err.msg);
		exit(2);
	}
	start_devices(m);
	return m;
}

static _Noreturn void usage(void)
{
	fprintf(stderr, "usage: lockstep --kernel FILE [--initrd FILE] [--append TEXT] "
			"[--memory SIZE] [--cpu MODEL] [--leader ENGINE] [--console FILE] "
			"[--limit N] [--ram-from N] [--ram-every N] [--flip N] [--lazy]\n");
	exit(2);
}

static const char *parse(struct lockstep *l, struct machine_config *cfg, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "kernel", required_argument, NULL, 'k' },
		{ "initrd", required_argument, NULL, 'i' },
		{ "append", required_argument, NULL, 'a' },
		{ "memory", required_argument, NULL, 'm' },
		{ "cpu", required_argument, NULL, 'c' },
		{ "leader", required_argument, NULL, 'l' },
		{ "console", required_argument, NULL, 'o' },
		{ "limit", required_argument, NULL, 'n' },
		{ "ram-from", required_argument, NULL, 'r' },
		{ "ram-every", required_argument, NULL, 'e' },
		{ "flip", required_argument, NULL, 'f' },
		{ "lazy", no_argument, NULL, 'z' },
		{ 0 },
	};
	const char *leader = engine_dbt.name;
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		switch (c) {
		case 'k': cfg->kernel = optarg; break;
		case 'i': cfg->initrd[0] = optarg, cfg->n_initrd = 1; break;
		case 'a': cfg->append = optarg; break;
		case 'm': cfg->memory_bytes = strtoull(optarg, NULL, 0) * MiB; break;
		case 'c': cfg->cpu = optarg; break;
		case 'l': leader = optarg; break;
		case 'o': l->console = optarg; break;
		case 'n': l->limit = strtoull(optarg, NULL, 0); break;
		case 'r': l->ram_from = strtoull(optarg, NULL, 0); break;
		case 'e': l->ram_every = strtoull(optarg, NULL, 0); break;
		case 'z': l->lazy = true; break;
		case 'f': l->flip = strtoull(optarg, NULL, 0); break;
		default: usage();
		}
	}
	if (optind < argc || !cfg->kernel)
		usage();
	return leader;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	static struct lockstep l = {
		.limit = ~0ull, .ram_every = 20000000, .flip = ~0ull, .console = "/dev/null"
	};
	const char *initrd[1] = { NULL };
	struct machine_config cfg = { .initrd = initrd,
				      .append = "",
				      .memory_bytes = 256 * MiB,
				      .n_cpus = 1,
				      .cpu = "host",
				      .no_reboot = true,
				      .debug_exit = true,
				      .icount = true };
	const char *leader = parse(&l, &cfg, argc, argv);
	double began = now();
	bool same;

	l.a = make(cfg, leader, l.console);
	l.b = make(cfg, engine_interp.name, "/dev/null");
	l.ca = l.a->set.v[0];
	l.cb = l.b->set.v[0];
	l.ca->lazy_flags = l.lazy;
	same = run_both(&l);
	printf("lockstep: %s after %" PRIu64 " instructions, %" PRIu64 " comparisons (%" PRIu64
	       " with undefined flags, %" PRIu64 " frames with dead ones), %.1f s\n",
	       same ? "equal" : "DIFFERENT", l.ca->stats.insns, l.n_points, l.settled, l.frames,
	       now() - began);
	machine_free(l.a);
	machine_free(l.b);
	return same ? 0 : 1;
}
