#include "minimise.h"

#include "cpu/x86/regs.h"

#define FCW_INIT   0x37f
#define MXCSR_INIT 0x1f80

struct attempt {
	struct test *t; /* the smallest that failed */
	struct test now;
	fails_fn *fails;
	void *ctx;
};

/* Keep a->now if it fails; else back to what was. */
static bool settle(struct attempt *a)
{
	bool fails = a->fails(&a->now, a->ctx);

	if (fails)
		*a->t = a->now;
	else
		a->now = *a->t;
	return fails;
}

static void drop_insns(struct attempt *a)
{
	for (unsigned k = a->now.n; k-- > 0;) {
		if (a->now.n == 1)
			return;
		memmove(&a->now.insn[k], &a->now.insn[k + 1],
			(a->now.n - k - 1) * sizeof(a->now.insn[0]));
		a->now.n--;
		if (k == a->now.writer || k == a->now.written)
			a->now.smc = false;
		a->now.writer -= k < a->now.writer;
		a->now.written -= k < a->now.written;
		settle(a);
	}
}

/* Values that say nothing; one attempt for each register and group of registers. */
static void calm_registers(struct attempt *a)
{
	struct state *s = &a->now.in;

	memset(s->zmm, 0, sizeof(s->zmm));
	settle(a);
	memset(s->fx, 0, sizeof(s->fx));
	store16(s->fx, FCW_INIT);
	settle(a);
	memset(s->k, 0, sizeof(s->k));
	settle(a);
	s->mxcsr = MXCSR_INIT;
	settle(a);
	for (unsigned n = 0; n < 32; n++) {
		memset(s->zmm[n], 0, sizeof(s->zmm[n]));
		settle(a);
	}
	for (unsigned n = 0; n < 8; n++) {
		s->k[n] = 0;
		settle(a);
		memset(s->fx + 32 + n * 16, 0, 16);
		settle(a);
	}
}

static void calm_integers(struct attempt *a)
{
	struct state *s = &a->now.in;

	a->now.image = 0;
	settle(a);
	for (unsigned bit = 0; bit < 19; bit++) {
		s->rflags &= ~BIT(bit) | RFLAGS_FIXED1 | RFLAGS_IF;
		settle(a);
	}
	for (unsigned n = 0; n < 16; n++) {
		s->gpr[n] = 0;
		settle(a);
	}
}

void minimise(struct test *t, fails_fn *fails, void *ctx)
{
	struct attempt a = { .t = t, .now = *t, .fails = fails, .ctx = ctx };

	drop_insns(&a);
	calm_registers(&a);
	calm_integers(&a);
}
