#include "compare.h"

#include <Zydis/Zydis.h>
#include <inttypes.h>

#include "cpu/x86/decode.h"
#include "cpu/x86/decode_tables.h"
#include "cpu/x86/insn.h"

#define HOST_KERNEL 0x7ffffffff000 /* Linux's TASK_SIZE_MAX */

static const char *const gpr_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8",  "r9",	 "r10", "r11", "r12", "r13", "r14", "r15" };

struct check {
	FILE *out;
	bool differs;
};

static void check_word(struct check *c, const char *name, uint64_t host, uint64_t guest,
		       uint64_t mask)
{
	if (!((host ^ guest) & mask))
		return;
	c->differs = true;
	if (c->out)
		fprintf(c->out, "  %-10s host %#18" PRIx64 "  guest %#18" PRIx64 "\n", name, host,
			guest);
}

static void print_bytes(FILE *out, const char *who, const uint8_t *p, unsigned n)
{
	fprintf(out, "    %-6s", who);
	for (unsigned k = 0; k < n; k++)
		fprintf(out, "%s%02x", k % 8 ? "" : " ", p[k]);
	fputc('\n', out);
}

static void check_bytes(struct check *c, const char *name, const uint8_t *host,
			const uint8_t *guest, unsigned n)
{
	if (!memcmp(host, guest, n))
		return;
	c->differs = true;
	if (!c->out)
		return;
	fprintf(c->out, "  %s\n", name);
	print_bytes(c->out, "host", host, n);
	print_bytes(c->out, "guest", guest, n);
}

/* ---- the parts ---- */

static bool has_error_code(unsigned vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

/* The instruction at offset rip of CS; false if there is none. */
static bool insn_at(const struct test *t, uint64_t rip, struct insn *i)
{
	uint64_t at = code_start(t);

	for (unsigned k = 0; k < t->n; at += t->insn[k++].len)
		if (at == rip)
			return decode(t->insn[k].bytes, t->insn[k].len, t->mode, i) == DECODE_OK;
	return false;
}

/* Stopped in the middle of an instruction: a random branch target was there, and what it executed
 * is none of what the generator chooses from. */
static bool is_astray(const struct test *t, const struct result *r)
{
	uint64_t at = code_start(t);

	if (r->vector == END_SYSCALL)
		return true;
	for (unsigned k = 0; k < t->n; at += t->insn[k++].len)
		if (r->out.rip > at && r->out.rip < at + t->insn[k].len)
			return true;
	return false;
}

/* A store went to code that it was not aimed at: what was executed then is unknown. */
static bool is_scribbled(const struct test *t, const struct result *r)
{
	uint8_t code[TEST_CODE];
	unsigned n = MIN(test_code(t, code), (CODE_PAGE + N_CODE) * WIN_PAGE - t->code_off), at = 0;

	if (!memcmp(code, r->code, n))
		return false;
	if (!t->smc)
		return true;
	for (unsigned k = 0; k < t->written; k++)
		at += t->insn[k].len;
	memcpy(code + at, t->altered, t->insn[t->written].len);
	return memcmp(code, r->code, n) != 0;
}

/* FXSAVE and what else moves more than 64 bytes does so in pieces, in an order of its own. */
static bool is_large(const struct insn *i)
{
	return i->op == OP_FXSAVE || i->op == OP_FXRSTOR ||
	       (i->op == OP_X87 && i->n_opds && i->opd[0].kind == OPD_MEM && i->opd[0].size > 10);
}

/* Which bits of CR2 are the instruction's, and not the processor's own way of accessing memory in
 * pieces: a masked access that crosses into another page may name any element in it. */
static uint64_t cr2_mask(const struct test *t, uint64_t rip)
{
	struct insn i;

	if (!insn_at(t, rip, &i))
		return ~0ull;
	if (is_large(&i))
		return 0;
	return i.mask || i.op == OP_MASKMOV ? ~(WIN_PAGE - 1) : ~0ull;
}

/* Does a masked operand of several elements raise #AC? Processors decide by more than the mask. */
static bool unclear_alignment(const struct test *t, const struct result *a, const struct result *b)
{
	struct insn i;

	if (a->vector != 17 && b->vector != 17)
		return false;
	return insn_at(t, a->vector == 17 ? a->out.rip : b->out.rip, &i) && i.mask;
}

static bool is_address_fault(unsigned vector)
{
	return vector == 12 || vector == 13 || vector == 14 || vector == 17;
}

/* Both faulted on a large operand; which of its faults came first is up to the processor. */
static bool same_large_fault(const struct test *t, const struct result *a, const struct result *b)
{
	struct insn i;

	return a->out.rip == b->out.rip && is_address_fault(a->vector) &&
	       is_address_fault(b->vector) && insn_at(t, a->out.rip, &i) && is_large(&i);
}

static void check_event(struct check *c, const struct test *t, const struct result *a,
			const struct result *b)
{
	uint32_t mask = ~0u;

	check_word(c, "vector", a->vector, b->vector, ~0ull);
	if (a->vector == 14) {
		check_word(c, "cr2", a->cr2, b->cr2, cr2_mask(t, a->out.rip));
		/* Linux reports every fault in its own half as one on a present page. */
		if (a->cr2 >= HOST_KERNEL)
			mask = ~1u;
	}
	if (has_error_code(a->vector) && a->vector == b->vector)
		check_word(c, "error", a->error, b->error, mask);
}

static void check_x87(struct check *c, const uint8_t *a, const uint8_t *b)
{
	/* Above the 48 bits of an address the pointers are as the processor extends them, with 48
	 * or 57 bits. */
	static const struct {
		const char *name;
		uint8_t at, size;
	} fields[] = { { "fcw", 0, 2 }, { "fsw", 2, 2 }, { "ftw", 4, 1 },
		       { "fop", 6, 2 }, { "fip", 8, 6 }, { "fdp", 16, 6 } };
	char name[8];

	for (size_t n = 0; n < ARRAY_SIZE(fields); n++) {
		uint64_t x = 0, y = 0;

		memcpy(&x, a + fields[n].at, fields[n].size);
		memcpy(&y, b + fields[n].at, fields[n].size);
		check_word(c, fields[n].name, x, y, ~0ull);
	}
	for (unsigned n = 0; n < 8; n++) {
		snprintf(name, sizeof(name), "st%u", n);
		check_bytes(c, name, a + 32 + n * 16, b + 32 + n * 16, 10);
	}
}

static void check_memory(struct check *c, const struct result *a, const struct result *b)
{
	char name[32];

	if (!memcmp(a->mem, b->mem, sizeof(a->mem)))
		return;
	for (unsigned page = 0; page < N_DATA; page++) {
		for (unsigned off = 0; off < WIN_PAGE; off += 16) {
			snprintf(name, sizeof(name), "memory at %#x",
				 (unsigned)(WIN_BASE + data_page[page] * WIN_PAGE + off));
			check_bytes(c, name, a->mem[page] + off, b->mem[page] + off, 16);
		}
	}
}

bool same_result(const struct test *t, const struct result *a, const struct result *b,
		 bool exact_flags, FILE *out)
{
	struct check c = { .out = out };
	bool no_flags = !exact_flags && a->vector != 3;
	uint64_t width = t->mode == 8 ? ~0ull : 0xffffffff;
	const struct state *x = &a->out, *y = &b->out;
	char name[8];

	if (is_astray(t, a) || is_astray(t, b) || is_scribbled(t, a))
		return true;
	if (a->vector == END_HUNG && b->vector == END_HUNG)
		return true;
	if (same_large_fault(t, a, b) || (a->vector != b->vector && unclear_alignment(t, a, b)))
		return true;
	check_event(&c, t, a, b);
	check_word(&c, "rip", x->rip, y->rip, ~0ull);
	check_word(&c, "rflags", x->rflags, y->rflags,
		   ~(uint64_t)(no_flags ? RFLAGS_ARITH : test_undefined_flags(t, x->rip)));
	for (unsigned n = 0; n < 16; n++)
		check_word(&c, gpr_names[n], x->gpr[n], y->gpr[n], width);
	/* They did not come the same way: the rest would only hide that. */
	if (a->vector != b->vector)
		return false;
	check_word(&c, "fs_base", x->fs_base, y->fs_base, ~0ull);
	check_word(&c, "gs_base", x->gs_base, y->gs_base, ~0ull);
	check_x87(&c, x->fx, y->fx);
	check_word(&c, "mxcsr", x->mxcsr, y->mxcsr, ~0ull);
	for (unsigned n = 0; n < 8; n++) {
		snprintf(name, sizeof(name), "k%u", n);
		check_word(&c, name, x->k[n], y->k[n], ~0ull);
	}
	for (unsigned n = 0; n < 32; n++) {
		snprintf(name, sizeof(name), "zmm%u", n);
		check_bytes(&c, name, x->zmm[n], y->zmm[n], 64);
	}
	check_memory(&c, a, b);
	check_bytes(&c, "code", a->code, b->code, TEST_CODE);
	return !c.differs;
}

/* ---- the test in words ---- */

static void print_insn(const struct test *t, const struct test_insn *i, uint64_t at, FILE *out)
{
	ZydisMachineMode mode = t->mode == 8   ? ZYDIS_MACHINE_MODE_LONG_64
				: t->mode == 4 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32
					       : ZYDIS_MACHINE_MODE_LONG_COMPAT_16;
	ZydisDisassembledInstruction text;
	char hex[2 * INSN_BYTES + 1];

	for (unsigned k = 0; k < i->len; k++)
		snprintf(hex + 2 * k, 3, "%02x", i->bytes[k]);
	if (ZYAN_SUCCESS(ZydisDisassembleIntel(mode, at, i->bytes, i->len, &text)))
		fprintf(out, "  %6" PRIx64 "  %-30s  %s\n", at, hex, text.text);
	else
		fprintf(out, "  %6" PRIx64 "  %-30s  (%s)\n", at, hex, insn_table[i->id].text);
}

static void print_vectors(const struct state *s, FILE *out)
{
	static const uint8_t zero[64];
	char name[8];

	for (unsigned n = 0; n < 32; n++) {
		if (!memcmp(s->zmm[n], zero, 64))
			continue;
		snprintf(name, sizeof(name), "zmm%u", n);
		print_bytes(out, name, s->zmm[n], 64);
	}
	for (unsigned n = 0; n < 8; n++)
		if (s->k[n])
			fprintf(out, "  k%u=%" PRIx64, n, s->k[n]);
	fputc('\n', out);
}

static void print_x87(const struct state *s, FILE *out)
{
	char name[8];

	fprintf(out, "  mxcsr=%x fcw=%x fsw=%x ftw=%02x\n", s->mxcsr, load16(s->fx),
		load16(s->fx + 2), s->fx[4]);
	for (unsigned n = 0; n < 8; n++) {
		if (!load64(s->fx + 32 + n * 16) && !load16(s->fx + 40 + n * 16))
			continue;
		snprintf(name, sizeof(name), "st%u", n);
		print_bytes(out, name, s->fx + 32 + n * 16, 10);
	}
}

void print_test(const struct test *t, FILE *out)
{
	uint64_t at = code_start(t);

	fprintf(out,
		"%u-bit code, again by: isa-diff --mode %u --seed %" PRIu64 " --start %" PRIu64
		" --count 1%s\n",
		t->mode * 8, t->mode * 8, t->seed, t->index, t->smc ? " --smc" : "");
	for (unsigned k = 0; k < t->n; k++) {
		struct test_insn altered = t->insn[k];

		print_insn(t, &t->insn[k], at, out);
		if (t->smc && k == t->written) {
			memcpy(altered.bytes, t->altered, altered.len);
			fprintf(out, "  which becomes\n");
			print_insn(t, &altered, at, out);
		}
		at += t->insn[k].len;
	}
	fprintf(out,
		" before: image %u, rflags=%" PRIx64 " cs=%x ss=%x ds=%x es=%x fs_base=%" PRIx64
		" gs_base=%" PRIx64 "\n",
		t->image, t->in.rflags, seg_rows[t->cs].sel, seg_rows[t->ss].sel,
		seg_rows[t->ds].sel, seg_rows[t->es].sel, t->in.fs_base, t->in.gs_base);
	for (unsigned n = 0; n < 16; n++)
		fprintf(out, "  %s=%" PRIx64 "%s", gpr_names[n], t->in.gpr[n],
			n % 4 == 3 ? "\n" : "");
	print_x87(&t->in, out);
	print_vectors(&t->in, out);
}
