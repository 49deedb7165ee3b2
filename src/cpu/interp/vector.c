/* x87, MMX and vector instructions, run natively by their stubs (stub.h). Here memory operands are
 * brought to the host and back, and what the guest may execute is checked.
 */
#include "cpu/interp/vector.h"

#include "cpu/interp/operand.h"
#include "cpu/interp/stub.h"
#include "cpu/x86/features.h"

#define FSW_ES	BIT(7)
#define FSW_TOP 0x3800
/* IE, DE, ZE, OE, UE */
#define FSW_BEFORE_STORE 0x1f

/* Fields of the 64-bit FXSAVE image. SDM 1 "FXSAVE area". */
#define FX_FSW	     2
#define FX_FTW	     4
#define FX_FOP	     6
#define FX_FIP	     8
#define FX_FDP	     16
#define FX_MXCSR     24
#define FX_ST	     32
#define FX_X87_BYTES 160 /* up to XMM0 */

#define MAX_VL 64

int vector_check(struct vcpu *c, const struct insn *i)
{
	uint32_t attr = insn_table[i->id].attr;

	if (attr & INSN_USES_AVX) {
		c->fpu.wide = 0xff;
		uint64_t need = XCR0_SSE | XCR0_AVX;

		if (i->enc == ENC_EVEX ||
		    (i->enc == ENC_VEX && insn_table[i->id].feature >= FEAT_AVX512F &&
		     insn_table[i->id].attr & INSN_USES_AVX && i->opd[0].kind == OPD_KREG))
			need |= XCR0_AVX512;
		if (!(c->cr0 & CR0_PE) || c->rflags_rest & RFLAGS_VM || !(c->cr4 & CR4_OSXSAVE) ||
		    (c->fpu.xcr0 & need) != need)
			return raise_ud(c);
	} else if (attr & INSN_USES_SSE) {
		if (c->cr0 & CR0_EM || !(c->cr4 & CR4_OSFXSR))
			return raise_ud(c);
	} else if (i->op == OP_MMX && c->cr0 & CR0_EM) {
		return raise_ud(c);
	}
	if (c->cr0 & CR0_TS || (attr & INSN_USES_FPU && c->cr0 & CR0_EM))
		return raise_exc(c, EXC_NM, 0);
	return 0;
}

/* -- Masked memory operands ------------------------------------------------------------------- */

static uint64_t low_bits(unsigned n)
{
	return n >= 64 ? ~0ull : BIT(n) - 1;
}

struct elements evex_elements(const struct vcpu *c, const struct insn *i, unsigned mem_bytes)
{
	const struct insn_desc *d = &insn_table[i->id];
	uint64_t k = i->mask ? c->fpu.k[i->mask] : ~0ull;
	unsigned bits = d->mask_unit ? i->vl / d->mask_unit : 1, n;

	k &= low_bits(bits);
	if (i->bcast || mem_bytes <= d->elem || !d->elem)
		n = 1;
	else
		n = mem_bytes / d->elem;
	/* What is broadcast is read if any of the elements that it goes to is active. */
	for (unsigned from = n; d->attr & INSN_MEM_SRC && from < bits; from += n)
		k |= k >> from;
	return (struct elements){ .n = n, .size = mem_bytes / n, .active = k & low_bits(n) };
}

int vector_linear(struct vcpu *c, const struct uop *u, unsigned delta, unsigned len, bool write,
		  gva_t *gva)
{
	const struct insn *i = u->insn;

	/* Offsets wrap at 4 GiB, also where addresses have 16 bits. */
	if (i->mode != 8)
		return seg_linear(c, i->seg, (insn_offset(c, u, i) + delta) & 0xffffffff, len,
				  write, gva);
	*gva = uop_ea(c, u) + delta;
	return 0;
}

/* Linear address before any check. */
static gva_t raw_linear(const struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;

	if (i->mode == 8)
		return uop_ea(c, u);
	return (c->seg[i->seg].base + insn_offset(c, u, i)) & 0xffffffff;
}

/* Conversions from and to half precision are the only ones that raise no #AC (SDM 2A, exception
 * types 11 and E11). */
static enum vmem_as operand_as(const struct insn *i)
{
	bool half = (i->map == 2 && i->opcode == 0x13) || (i->map == 3 && i->opcode == 0x1d);

	if (i->enc == ENC_LEGACY || !(insn_table[i->id].attr & INSN_MXCSR))
		return AS_CPL;
	return half ? AS_UNALIGNED : AS_CPL;
}

/* What is wrong with the addresses of active elements comes before any page fault. Alignment is
 * checked where all elements together are no more than a quadword. */
static int check_elements(struct vcpu *c, const struct uop *u, const struct elements *e, bool write)
{
	unsigned size = e->n * e->size;
	gva_t gva;
	int r = 0;

	for (unsigned n = 0; !r && n < e->n; n++) {
		if (!(e->active >> n & 1))
			continue;
		r = vector_linear(c, u, n * e->size, e->size, write, &gva);
		if (!r)
			r = vmem_check(c, gva, e->size, false);
	}
	if (r || !e->active || size > 8 || operand_as(u->insn) == AS_UNALIGNED)
		return r;
	gva = raw_linear(c, u);
	/* Inactive elements may be where no address is canonical. */
	if (c->long_mode && !(is_canonical(gva) && is_canonical(gva + size - 1)))
		return 0;
	return vmem_check(c, gva, size, true);
}

int elements_read(struct vcpu *c, const struct uop *u, const struct elements *e, uint8_t *buf)
{
	int r = check_elements(c, u, e, false);
	gva_t gva;

	memset(buf, 0, (size_t)e->n * e->size);
	for (unsigned n = 0; !r && n < e->n; n++) {
		if (!(e->active >> n & 1))
			continue;
		vector_linear(c, u, n * e->size, e->size, false, &gva);
		r = vmem_read(c, gva, buf + n * e->size, e->size, AS_UNALIGNED);
	}
	return r;
}

int elements_write(struct vcpu *c, const struct uop *u, const struct elements *e,
		   const uint8_t *buf)
{
	int r = check_elements(c, u, e, true);
	gva_t gva;

	for (unsigned n = 0; !r && n < e->n; n++) {
		if (!(e->active >> n & 1))
			continue;
		vector_linear(c, u, n * e->size, e->size, true, &gva);
		r = vmem_probe(c, gva, e->size, true, AS_UNALIGNED);
	}
	for (unsigned n = 0; !r && n < e->n; n++) {
		if (!(e->active >> n & 1))
			continue;
		vector_linear(c, u, n * e->size, e->size, true, &gva);
		vmem_write(c, gva, buf + n * e->size, e->size, AS_UNALIGNED);
	}
	return r;
}

/* -- Running ---------------------------------------------------------------------------------- */

static const struct operand *gpr_operand(const struct insn *i)
{
	for (unsigned n = 0; n < i->n_opds; n++)
		if (i->opd[n].kind == OPD_GPR)
			return &i->opd[n];
	return NULL;
}

int vector_native(struct vcpu *c, const struct uop *u, void *mem)
{
	const struct insn *i = u->insn;
	const struct insn_desc *d = &insn_table[i->id];
	const struct operand *g = gpr_operand(i);
	struct stub_io io;
	int r;

	io.gpr = g ? c->gpr[g->reg] : 0;
	io.rax = c->gpr[REG_RAX];
	io.rcx = c->gpr[REG_RCX];
	io.rdx = c->gpr[REG_RDX];
	io.cc = c->cc;
	r = stub_run(interp_of(c)->stubs, (stub_fn)(uintptr_t)u->imm, &c->fpu, mem, &io);
	if (unlikely(r)) {
		c->exc_error = 0;
		return c->cr4 & CR4_OSXMMEXCPT ? r : EXC_UD;
	}
	if (g && g == &i->opd[0] && !(d->attr & INSN_NO_DST))
		reg_write(c, opd_off(g), i->op == OP_X87 ? g->size : MAX(g->size, 4), io.gpr);
	if (d->attr & INSN_WRITES_FL)
		c->cc = io.cc & 0xffff;
	c->gpr[REG_RCX] = g && g->reg == REG_RCX ? c->gpr[REG_RCX] : io.rcx;
	return 0;
}

static const struct operand *memory_of(const struct insn *i)
{
	for (unsigned n = 0; n < i->n_opds; n++)
		if (i->opd[n].kind == OPD_MEM)
			return &i->opd[n];
	return NULL;
}

/* An operand that is not wholly there, or not RAM in one page: by way of a buffer. A masked store
 * changes active elements only, also where the others may fault. */
static int run_bounced(struct vcpu *c, const struct uop *u, unsigned size, const struct elements *e)
{
	uint32_t attr = insn_table[u->insn->id].attr;
	bool load = attr & INSN_MEM_SRC, store = attr & INSN_MEM_DST;
	bool suppress = attr & INSN_FAULT_SUP && u->insn->mask;
	uint8_t *buf = interp_of(c)->bounce;
	gva_t gva = 0;
	int r = 0;

	if (load && suppress)
		r = elements_read(c, u, e, buf);
	else if (load)
		r = vector_linear(c, u, 0, size, store, &gva);
	if (!r && load && !suppress)
		r = vmem_read(c, gva, buf, size, operand_as(u->insn));
	/* A store faults after the operation: VCVTPS2PH has changed MXCSR by then. */
	if (!r)
		r = vector_native(c, u, buf);
	if (r || !store)
		return r;
	if (!suppress)
		r = vector_linear(c, u, 0, size, true, &gva);
	if (!r && !suppress)
		r = vmem_probe(c, gva, size, true, operand_as(u->insn));
	return r ? r : elements_write(c, u, e, buf);
}

/* Host address of the memory operand if it is RAM in one page, else NULL: also where it faults, but
 * may yet turn out not to be accessed there. */
static int find_operand(struct vcpu *c, const struct uop *u, unsigned size, bool write, uint8_t **p)
{
	const struct insn *i = u->insn;
	bool may_skip = write || (i->mask && insn_table[i->id].attr & INSN_FAULT_SUP);
	gva_t gva;
	int r = vector_linear(c, u, 0, size, write, &gva);

	*p = NULL;
	if (!r && (gva & (PAGE_SIZE - 1)) <= PAGE_SIZE - size)
		r = vmem_host(c, gva, size, write, operand_as(i), p);
	return may_skip ? 0 : r;
}

/* With the memory operand where it is, if that is RAM in one page: the host then accesses it just
 * as the guest would. */
static int run_with_memory(struct vcpu *c, const struct uop *u, const struct operand *o)
{
	const struct insn *i = u->insn;
	uint32_t attr = insn_table[i->id].attr;
	bool write = attr & INSN_MEM_DST, masked = i->enc == ENC_EVEX && i->mask;
	unsigned size = o->size;
	gva_t gva = raw_linear(c, u);
	struct elements e = { .n = 1, .size = size, .active = 1 };
	uint8_t *p = NULL;
	bool quiet;
	int r;

	if (attr & INSN_ALIGNED && gva & (size - 1)) {
		if (masked)
			e = evex_elements(c, i, size);
		if (e.active)
			return raise_gp(c);
	}
	if (i->mode == 8)
		p = write ? tlb_write(c, gva, size) : (uint8_t *)tlb_read(c, gva, size);
	quiet = p != NULL;
	r = p ? 0 : find_operand(c, u, size, write, &p);
	if (r)
		return r;
	if (!p) {
		if (masked)
			e = evex_elements(c, i, size);
		return run_bounced(c, u, size, &e);
	}
	r = vector_native(c, u, p);
	if (!r && write && !quiet)
		vmem_stored(c, p, size);
	return r;
}

static NOINLINE int do_x_vec(struct vcpu *c, const struct uop *u)
{
	const struct operand *o = u->insn->has_mem ? memory_of(u->insn) : NULL;
	int r = vector_check(c, u->insn);

	if (r)
		return r;
	return o ? run_with_memory(c, u, o) : vector_native(c, u, NULL);
}
HANDLER(x_vec)

/* VZEROUPPER, VZEROALL: registers 0-15 (0-7 outside 64-bit mode). */
static NOINLINE int do_x_vzero(struct vcpu *c, const struct uop *u)
{
	unsigned keep = u->insn->vl == 32 ? 0 : 16;
	int r = vector_check(c, u->insn);

	if (r)
		return r;
	for (unsigned n = 0; n < (c->code64 ? 16 : 8); n++)
		memset(c->fpu.zmm[n] + keep, 0, MAX_VL - keep);
	return 0;
}
HANDLER(x_vzero)

/* -- x87 and MMX ------------------------------------------------------------------------------ */

int x87_check_pending(struct vcpu *c)
{
	if (!(load16(c->fpu.fx + FX_FSW) & FSW_ES))
		return 0;
	return raise_exc(c, EXC_MF, 0);
}

static uint16_t x87_opcode(unsigned opcode, unsigned modrm)
{
	return (uint16_t)((opcode & 7) << 8 | modrm);
}

/* FLDENV, FRSTOR: the pointers are the guest's. */
static bool loads_environment(const struct insn *i)
{
	const struct operand *o = memory_of(i);

	return o && o->size > 10 && insn_table[i->id].attr & INSN_MEM_SRC;
}

/* Where the host has noted the stub's addresses and encoding as the last instruction's, put the
 * guest's. It does not note all of them each time. */
static void fix_pointers(struct vcpu *c, const struct uop *u, const void *mem)
{
	const struct insn *i = u->insn;
	uint64_t stub = stub_insn_addr(interp_of(c)->stubs, (stub_fn)(uintptr_t)u->imm);

	if (load64(c->fpu.fx + FX_FIP) == stub)
		store64(c->fpu.fx + FX_FIP, uop_rip(c, u));
	if (!mem || loads_environment(i))
		return;
	if (load64(c->fpu.fx + FX_FDP) == (uintptr_t)mem)
		store64(c->fpu.fx + FX_FDP, insn_offset(c, u, i));
	if (load16(c->fpu.fx + FX_FOP) == x87_opcode(i->opcode, (i->modrm & 0x38) | STUB_RM))
		store16(c->fpu.fx + FX_FOP, x87_opcode(i->opcode, i->modrm));
}

/* Did the instruction that has run store to memory? It did not if it raised an unmasked exception,
 * but for precision, which is found after rounding. SDM 1 8.5. */
static bool x87_stores(const struct vcpu *c, const struct insn *i)
{
	uint16_t fcw = load16(c->fpu.fx), fsw = load16(c->fpu.fx + FX_FSW);

	if (i->op == OP_MMX || insn_table[i->id].attr & INSN_NOWAIT)
		return true;
	return !(fsw & ~fcw & FSW_BEFORE_STORE);
}

/* The first of the accesses that an operand of more than 8 bytes is made of: it is the one that
 * must be aligned (SDM 3A 6.15, vector 17). Environments are words, or doublewords in the 32-bit
 * form. */
static unsigned x87_first(unsigned size)
{
	switch (size) {
	case 10: return 8;
	case 14:
	case 94: return 2;
	case 28:
	case 108: return 4;
	default: return size;
	}
}

static int x87_piece(struct vcpu *c, const struct uop *u, unsigned delta, unsigned len, bool write,
		     uint8_t *buf)
{
	gva_t gva;
	int r = vector_linear(c, u, delta, len, write, &gva);

	if (r)
		return r;
	return write ? (int)vmem_write(c, gva, buf + delta, len, AS_CPL)
		     : (int)vmem_read(c, gva, buf + delta, len, AS_CPL);
}

/* The upper two bytes of an 80-bit number are an access of their own: if they fault in a store, the
 * lower eight have been written. */
static int x87_access(struct vcpu *c, const struct uop *u, unsigned size, bool write, uint8_t *buf)
{
	unsigned first = x87_first(size);
	gva_t gva;
	int r;

	if (size == 10) {
		r = x87_piece(c, u, 0, first, write, buf);
		return r ? r : x87_piece(c, u, first, size - first, write, buf);
	}
	r = vector_linear(c, u, 0, size, write, &gva);
	if (!r && first < size)
		r = vmem_check(c, gva, first, true);
	return r ? r : x87_piece(c, u, 0, size, write, buf);
}

/* x87 with the memory operand in the buffer: so the host's pointer to it can be told apart. */
static int run_x87(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	const struct operand *o = i->has_mem ? memory_of(i) : NULL;
	uint32_t attr = insn_table[i->id].attr;
	uint8_t *buf = interp_of(c)->bounce, before[FX_X87_BYTES];
	bool store = o && attr & INSN_MEM_DST;
	int r = 0;

	store32(c->fpu.fx + FX_MXCSR, c->fpu.mxcsr);
	if (o && attr & INSN_ALIGNED && raw_linear(c, u) & (o->size - 1u))
		return raise_gp(c);
	if (o && attr & INSN_MEM_SRC)
		r = x87_access(c, u, o->size, false, buf);
	if (store)
		memcpy(before, c->fpu.fx, sizeof(before));
	if (!r)
		r = vector_native(c, u, buf);
	if (r)
		return r;
	if (store && x87_stores(c, i)) {
		r = x87_access(c, u, o->size, true, buf);
		if (r) {
			memcpy(c->fpu.fx, before, sizeof(before));
			return r;
		}
	}
	fix_pointers(c, u, o ? buf : NULL);
	return 0;
}

static NOINLINE int do_x_x87(struct vcpu *c, const struct uop *u)
{
	int r = vector_check(c, u->insn);

	if (!r && !(insn_table[u->insn->id].attr & INSN_NOWAIT))
		r = x87_check_pending(c);
	return r ? r : run_x87(c, u);
}
HANDLER(x_x87)

/* Make TOP 0 with all registers where they are: the image has them relative to it. */
static void clear_top(struct vcpu *c)
{
	uint8_t *fx = c->fpu.fx, st[8][16];
	unsigned top = load16(fx + FX_FSW) >> 11 & 7;

	for (unsigned n = 0; n < 8; n++)
		memcpy(st[(n + top) & 7], fx + FX_ST + n * 16, 16);
	memcpy(fx + FX_ST, st, sizeof(st));
	store16(fx + FX_FSW, load16(fx + FX_FSW) & ~FSW_TOP);
}

void mmx_begin(struct vcpu *c)
{
	clear_top(c);
	c->fpu.fx[FX_FTW] = 0xff;
}

/* CVTPI2PD and CVTPI2PS from memory touch no MMX register and wait for no exception. SDM 2A
 * CVTPI2PD says so; of CVTPI2PS it is true too. */
static bool is_cvtpi2_mem(const struct insn *i)
{
	return i->map == 1 && i->opcode == 0x2a && i->has_mem;
}

/* An MMX instruction that faults may have begun the transition to MMX registers: a store has
 * cleared TOP, a conversion that raises #XM has marked all registers valid too. Seen on processors;
 * the SDM does not say. */
static void fault_in_mmx(struct vcpu *c, const struct insn *i, int r)
{
	if (is_cvtpi2_mem(i) || (r != EXC_XM && !(insn_table[i->id].attr & INSN_MEM_DST)))
		return;
	if (r == EXC_XM)
		mmx_begin(c);
	else
		clear_top(c);
}

static NOINLINE int do_x_mmx(struct vcpu *c, const struct uop *u)
{
	int r = vector_check(c, u->insn);

	if (!r && !is_cvtpi2_mem(u->insn))
		r = x87_check_pending(c);
	if (r)
		return r;
	r = run_x87(c, u);
	if (r)
		fault_in_mmx(c, u->insn, r);
	return r;
}
HANDLER(x_mmx)

/* FWAIT: #NM only if both MP and TS are set. */
static NOINLINE int do_x_fwait(struct vcpu *c, const struct uop *u)
{
	if ((c->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		return raise_exc(c, EXC_NM, 0);
	return x87_check_pending(c);
}
HANDLER(x_fwait)
