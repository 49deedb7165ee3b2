#include "cpu/interp/stub.h"

#include "base/err.h"
#include "cpu/x86/features.h"
#include "cpu/x86/insn.h"
#include "host/codemem.h"
#include "host/codetrap.h"

#include <errno.h>
#include <stdlib.h>

#define CACHE_BYTES (4 * MiB)
#define MAX_STUBS   16384
#define HASH_SIZE   32768
/* The longest stub: five registers in and out, x87 state, MXCSR, the instruction. */
#define STUB_BYTES 320
/* What one block may need. */
#define RESERVE 64

/* A stub is named by its instruction as re-encoded, and by what else shapes its code. */
struct stub {
	uint8_t bytes[INSN_MAX_LEN + 1];
	uint8_t len;
	uint16_t id;
	uint32_t at;	  /* entry, offset in the code */
	uint32_t insn_at; /* the instruction, offset in the code */
};

struct stub_cache {
	struct codemem code; /* owned */
	uint32_t used;
	uint32_t fault_exit; /* offset: where a floating-point trap goes on */
	unsigned n;
	unsigned width; /* bytes of the host's vector registers: 16 32 64 */
	bool has_k64;
	struct stub stub[MAX_STUBS];
	uint16_t hash[HASH_SIZE]; /* index + 1 */
};

/* Host registers in stubs. RDI RSI RDX are the arguments; RAX RCX RDX can be the guest's, so the
 * pointers move to R8 (state), R9 (io). RSI stays the memory operand's address. */

/* -- Emitting --------------------------------------------------------------------------------- */

struct emit {
	uint8_t *p;
};

static void put(struct emit *e, const void *bytes, unsigned n)
{
	memcpy(e->p, bytes, n);
	e->p += n;
}

#define PUT(e, ...)                                                                                \
	do {                                                                                       \
		const uint8_t b_[] = { __VA_ARGS__ };                                              \
		put(e, b_, sizeof(b_));                                                            \
	} while (0)

static void put32(struct emit *e, uint32_t v)
{
	put(e, &v, 4);
}

/* ModRM and displacement for [r8 + disp32] or [r9 + disp32]; the prefix carries the B bit. */
static void put_mem(struct emit *e, unsigned reg, unsigned base_low, uint32_t disp)
{
	PUT(e, (uint8_t)(0x80 | (reg & 7) << 3 | base_low));
	put32(e, disp);
}

#define FPU_OFF(field) ((uint32_t)offsetof(struct vcpu_fpu, field))
#define IO_OFF(field)  ((uint32_t)offsetof(struct stub_io, field))

/* mov r64, [r9+disp] or back, for RAX RCX RDX. */
static void put_gpr(struct emit *e, unsigned reg, uint32_t disp, bool store)
{
	PUT(e, 0x49, store ? 0x89 : 0x8b);
	put_mem(e, reg, 1, disp);
}

/* Whole vector register n from or to its slot, in the host's width. */
static void put_vec(struct emit *e, unsigned width, unsigned n, bool store)
{
	uint32_t disp = FPU_OFF(zmm) + n * 64;
	uint8_t op = store ? 0x11 : 0x10;

	if (width == 64) { /* EVEX.512.0F.W0 10/11: vmovups; the base needs B */
		PUT(e, 0x62, (uint8_t)(0x41 | (n & 8 ? 0 : 0x80) | (n & 16 ? 0 : 0x10)), 0x7c, 0x48,
		    op);
	} else if (width == 32) { /* VEX.256.0F 10/11 */
		PUT(e, 0xc4, (uint8_t)(0x41 | (n & 8 ? 0 : 0x80)), 0x7c, op);
	} else {
		PUT(e, (uint8_t)(0x41 | (n & 8 ? 4 : 0)), 0x0f, op);
	}
	put_mem(e, n, 0, disp);
}

/* kmovq or kmovw. */
static void put_k(struct emit *e, bool k64, unsigned n, bool store)
{
	PUT(e, 0xc4, 0xc1, k64 ? 0xf8 : 0x78, store ? 0x91 : 0x90);
	put_mem(e, n, 0, FPU_OFF(k) + n * 8);
}

static void put_mxcsr(struct emit *e, bool host, bool store)
{
	PUT(e, 0x41, 0x0f, 0xae);
	put_mem(e, store ? 3 : 2, host, host ? IO_OFF(host_mxcsr) : FPU_OFF(mxcsr));
}

/* fxsave64, fxrstor64 [r8 + fx]. */
static void put_fx(struct emit *e, bool store)
{
	PUT(e, 0x49, 0x0f, 0xae);
	put_mem(e, !store, 0, FPU_OFF(fx));
}

/* -- Re-encoding the instruction -------------------------------------------------------------- */

static bool has_gpr(const struct insn *i)
{
	for (unsigned n = 0; n < i->n_opds; n++)
		if (i->opd[n].kind == OPD_GPR)
			return true;
	return false;
}

/* The general register stands in ModRM.reg: MOVMSKPS, PMOVMSKB, PEXTRW, CVTSS2SI, KMOV r32. All
 * others have it in ModRM.rm. */
static bool gpr_in_reg(const struct insn *i)
{
	return i->opd[0].kind == OPD_GPR && i->map == 1 && i->opcode != 0x7e;
}

struct encoded {
	uint8_t b[INSN_MAX_LEN + 1];
	unsigned n;
};

static void add(struct encoded *e, uint8_t b)
{
	e->b[e->n++] = b;
}

/* PCMPESTRx and PCMPISTRx take lengths from, and give an index to, general registers. */
static bool is_pcmpstr(const struct insn *i)
{
	return i->map == 3 && i->opcode >= 0x60 && i->opcode <= 0x63 && i->enc != ENC_EVEX;
}

/* VBLENDVPS, VBLENDVPD, VPBLENDVB: the immediate's upper half is a register. */
static bool is_blendv(const struct insn *i)
{
	return i->enc == ENC_VEX && i->map == 3 && i->opcode >= 0x4a && i->opcode <= 0x4c;
}

/* Stubs are 64-bit code. Where the guest's is not, the bits that would make register numbers above
 * 7 are ignored there (SDM 2A 2.3, 2.7), as is a W for 64-bit integers, and must be off here. The
 * VEX (of three bytes) or EVEX prefix stands first. */
static void fit_64bit_mode(struct encoded *e, const struct insn *i)
{
	uint8_t *b = e->b;

	if (i->mode == 8 || i->enc == ENC_LEGACY)
		return;
	b[1] |= i->enc == ENC_VEX ? 0xe0 : 0xf0;
	b[2] |= 0x40;
	if (insn_table[i->id].attr & INSN_W_IS_64 || is_pcmpstr(i))
		b[2] &= 0x7f;
	if (i->enc == ENC_EVEX)
		b[3] |= 8;
	if (is_blendv(i))
		e->b[e->n - 1] &= 0x7f;
}

/* Copy i with [rsi] for its memory operand and RAX for its general register. */
static struct encoded reencode(const struct insn *i)
{
	struct encoded e = { .n = 0 };
	bool mem = i->has_mem && i->modrm_at, gpr = has_gpr(i);
	bool rm_free = mem || (gpr && !gpr_in_reg(i)), reg_free = gpr && gpr_in_reg(i);
	uint8_t modrm = i->modrm;
	unsigned at = i->opcode_at;

	if (mem)
		modrm = (modrm & 0x38) | STUB_RM;
	else if (rm_free)
		modrm &= 0xf8;
	if (reg_free)
		modrm &= 0xc7;
	if (i->enc == ENC_LEGACY) {
		uint8_t rex = i->rex;

		for (unsigned n = 0; n < at; n++) {
			uint8_t b = i->bytes[n];

			if ((b == 0x66 && i->op != OP_X87) || b == 0xf2 || b == 0xf3)
				add(&e, b);
		}
		/* The default of x87 environments is the 32-bit form here. */
		if (i->op == OP_X87 && i->opsize == 2)
			add(&e, 0x66);
		if (rm_free)
			rex &= (uint8_t)~3u;
		if (reg_free)
			rex &= (uint8_t)~4u;
		if (rex)
			add(&e, rex);
		if (i->map)
			add(&e, 0x0f);
		if (i->map >= 2)
			add(&e, i->map == 2 ? 0x38 : 0x3a);
	} else if (i->enc == ENC_VEX) {
		/* Always the three-byte form: X and B exist only there. */
		unsigned vex = at - (i->bytes[at - 2] == 0xc5 ? 2 : 3);
		bool two = i->bytes[vex] == 0xc5;
		uint8_t b1 = two ? (uint8_t)((i->bytes[vex + 1] & 0x80) | 0x61) : i->bytes[vex + 1];
		uint8_t b2 = two ? i->bytes[vex + 1] & 0x7f : i->bytes[vex + 2];

		if (rm_free)
			b1 |= 0x60;
		if (reg_free)
			b1 |= 0x80;
		add(&e, 0xc4);
		add(&e, b1);
		add(&e, b2);
	} else {
		uint8_t p0 = i->bytes[at - 3];

		if (rm_free)
			p0 |= 0x60;
		if (reg_free)
			p0 |= 0x90;
		add(&e, 0x62);
		add(&e, p0);
		add(&e, i->bytes[at - 2]);
		add(&e, i->bytes[at - 1]);
	}
	add(&e, i->opcode);
	if (i->modrm_at)
		add(&e, modrm);
	if (i->imm_len)
		for (unsigned n = 0; n < i->imm_len; n++)
			add(&e, i->bytes[i->imm_at + n]);
	fit_64bit_mode(&e, i);
	return e;
}

/* -- Making a stub ---------------------------------------------------------------------------- */

static bool is_vec(const struct operand *o)
{
	return o->kind == OPD_XMM || o->kind == OPD_YMM || o->kind == OPD_ZMM;
}

static void put_registers(const struct stub_cache *s, struct emit *e, const struct insn *i,
			  bool store)
{
	for (unsigned n = 0; n < i->n_opds; n++) {
		const struct operand *o = &i->opd[n];

		if (is_vec(o))
			put_vec(e, s->width, o->reg, store);
		else if (o->kind == OPD_KREG)
			put_k(e, s->has_k64, o->reg, store);
	}
	if (i->enc == ENC_EVEX && i->mask && !store)
		put_k(e, s->has_k64, i->mask, false);
	/* PCMPxSTRM writes XMM0. */
	if (is_pcmpstr(i))
		put_vec(e, s->width, 0, store);
}

static void make(struct stub_cache *s, struct stub *st, const struct insn *i)
{
	const struct insn_desc *d = &insn_table[i->id];
	bool fx = i->op == OP_X87 || i->op == OP_MMX, mxcsr = fx || d->attr & INSN_MXCSR;
	struct emit e = { .p = s->code.rw + s->used };

	st->at = s->used;
	PUT(&e, 0x49, 0x89, 0xf8); /* mov r8, rdi */
	PUT(&e, 0x49, 0x89, 0xd1); /* mov r9, rdx */
	if (fx)
		put_fx(&e, false);
	if (mxcsr)
		put_mxcsr(&e, false, false);
	put_registers(s, &e, i, false);
	if (is_pcmpstr(i)) {
		put_gpr(&e, REG_RCX, IO_OFF(rcx), false);
		put_gpr(&e, REG_RDX, IO_OFF(rdx), false);
		put_gpr(&e, REG_RAX, IO_OFF(rax), false);
	} else {
		if (d->attr & INSN_READS_FL) {
			/* mov eax, [r9+cc]; add al, 0x7f; sahf */
			PUT(&e, 0x41, 0x8b);
			put_mem(&e, REG_RAX, 1, IO_OFF(cc));
			PUT(&e, 0x04, 0x7f, 0x9e);
		}
		if (has_gpr(i))
			put_gpr(&e, REG_RAX, IO_OFF(gpr), false);
	}
	st->insn_at = (uint32_t)(e.p - s->code.rw);
	put(&e, st->bytes, st->len);
	if (has_gpr(i))
		put_gpr(&e, REG_RAX, IO_OFF(gpr), true);
	if (is_pcmpstr(i))
		put_gpr(&e, REG_RCX, IO_OFF(rcx), true);
	if (d->attr & INSN_WRITES_FL) {
		/* lahf; seto al; mov [r9+cc], ax */
		PUT(&e, 0x9f, 0x0f, 0x90, 0xc0, 0x66, 0x41, 0x89);
		put_mem(&e, REG_RAX, 1, IO_OFF(cc));
	}
	put_registers(s, &e, i, true);
	if (mxcsr)
		put_mxcsr(&e, false, true);
	if (fx) {
		put_fx(&e, true);
		PUT(&e, 0xdb, 0xe3); /* fninit: the host's compilers expect an empty stack */
	}
	if (mxcsr)
		put_mxcsr(&e, true, false);
	if (s->width > 16)
		PUT(&e, 0xc5, 0xf8, 0x77); /* vzeroupper */
	PUT(&e, 0x31, 0xc0, 0xc3);	   /* xor eax, eax; ret */
	s->used = (uint32_t)ALIGN_UP((uint64_t)(e.p - s->code.rw), 16);
}

/* Where a trap goes: keep MXCSR's new exception bits, restore the host, return EXC_XM. */
static void make_fault_exit(struct stub_cache *s)
{
	struct emit e = { .p = s->code.rw + s->used };

	s->fault_exit = s->used;
	put_mxcsr(&e, false, true);
	PUT(&e, 0xdb, 0xe3);
	put_mxcsr(&e, true, false);
	if (s->width > 16)
		PUT(&e, 0xc5, 0xf8, 0x77);
	PUT(&e, 0xb8);
	put32(&e, EXC_XM);
	PUT(&e, 0xc3);
	s->used = (uint32_t)ALIGN_UP((uint64_t)(e.p - s->code.rw), 16);
}

/* -- The cache -------------------------------------------------------------------------------- */

bool stub_cache_full(const struct stub_cache *s)
{
	return s->n + RESERVE > MAX_STUBS || s->used + RESERVE * STUB_BYTES > CACHE_BYTES;
}

void stub_cache_flush(struct stub_cache *s)
{
	memset(s->hash, 0, sizeof(s->hash));
	s->n = 0;
	s->used = 0;
	make_fault_exit(s);
}

stub_fn stub_get(struct stub_cache *s, const struct insn *i)
{
	struct encoded e = reencode(i);
	uint32_t h = i->id * 0x9e3779b1u;
	struct stub *st;

	for (unsigned n = 0; n < e.n; n++)
		h = (h ^ e.b[n]) * 0x01000193u;
	for (h >>= 17; s->hash[h]; h = (h + 1) % HASH_SIZE) {
		st = &s->stub[s->hash[h] - 1];
		if (st->id == i->id && st->len == e.n && !memcmp(st->bytes, e.b, e.n))
			return (stub_fn)(uintptr_t)(s->code.rx + st->at);
	}
	st = &s->stub[s->n++];
	s->hash[h] = (uint16_t)s->n;
	*st = (struct stub){ .len = (uint8_t)e.n, .id = i->id };
	memcpy(st->bytes, e.b, e.n);
	make(s, st, i);
	return (stub_fn)(uintptr_t)(s->code.rx + st->at);
}

uint64_t stub_insn_addr(const struct stub_cache *s, stub_fn fn)
{
	uint32_t at = (uint32_t)((uintptr_t)fn - (uintptr_t)s->code.rx);

	/* Entries are in the order they were made. */
	unsigned lo = 0, hi = s->n;

	while (hi - lo > 1) {
		unsigned mid = (lo + hi) / 2;

		if (s->stub[mid].at <= at)
			lo = mid;
		else
			hi = mid;
	}
	return (uint64_t)(uintptr_t)(s->code.rx + s->stub[lo].insn_at);
}

/* -- Running ---------------------------------------------------------------------------------- */

static const void *leave_stub(void *arg, const void *pc)
{
	const struct stub_cache *s = arg;

	return s->code.rx + s->fault_exit;
}

int stub_run(struct stub_cache *s, stub_fn fn, struct vcpu_fpu *f, void *mem, struct stub_io *io)
{
	int r;

	__asm__("stmxcsr %0" : "=m"(io->host_mxcsr));
	codetrap_enter(s->code.rx, CACHE_BYTES, leave_stub, s);
	r = fn(f, mem, io);
	codetrap_leave();
	return r;
}

int stub_cache_new(struct stub_cache **out, struct err *err)
{
	struct stub_cache *s = calloc(1, sizeof(*s));
	int ret;

	if (!s)
		return err_set(err, ENOMEM, "stubs for vector instructions");
	ret = codemem_init(&s->code, CACHE_BYTES, err);
	if (ret < 0) {
		free(s);
		return ret;
	}
	s->width = host_has(FEAT_AVX512F) ? 64 : host_has(FEAT_AVX) ? 32 : 16;
	s->has_k64 = host_has(FEAT_AVX512BW);
	codetrap_install();
	stub_cache_flush(s);
	*out = s;
	return 0;
}

void stub_cache_free(struct stub_cache *s)
{
	if (!s)
		return;
	codemem_fini(&s->code);
	free(s);
}
