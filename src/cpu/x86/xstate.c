/* FXSAVE, XSAVE and their kin: struct vcpu_fpu to and from memory images. SDM 1 10.5, chapter 13.
 *
 * Restores read all they need, check it, and only then change anything; saves probe the whole area
 * before they write. What is in use (XINUSE) is computed from the registers' contents.
 */
#include "cpu/x86/fault.h"
#include "cpu/x86/features.h"
#include "cpu/x86/system.h"
#include "cpu/x86/vmem.h"

#define FX_X87_HEAD 24 /* FCW to FDP */
#define FX_MXCSR    24
#define FX_MASK	    28
#define FX_ST	    32
#define FX_XMM	    160
#define FX_SIZE	    512
#define HEADER	    512
#define HEADER_SIZE 64
#define EXTENDED    576 /* components 2 and up */
#define AREA_MAX    2688

#define MXCSR_INIT   0x1f80u
#define MXCSR_MASK   0xffffu
#define XCOMP_FORMAT (1ull << 63)

/* Where each component stands in the standard form, and what it is in struct vcpu_fpu: n registers
 * of len bytes that start at from in each 64-byte vector register, or the masks.
 */
struct component {
	uint16_t offset, size;
	uint8_t first, n, from, len;
};

static const struct component components[] = {
	[2] = { 576, 256, 0, 16, 16, 16 },   /* YMM high halves */
	[5] = { 1088, 64, 0, 8, 0, 8 },	     /* opmask */
	[6] = { 1152, 512, 0, 16, 32, 32 },  /* ZMM0-15 high halves */
	[7] = { 1664, 1024, 16, 16, 0, 64 }, /* ZMM16-31 */
};
#define N_COMPONENTS ARRAY_SIZE(components)

uint32_t xstate_size(uint64_t xcr0)
{
	uint32_t size = EXTENDED;

	for (unsigned i = 2; i < N_COMPONENTS; i++)
		if (xcr0 >> i & 1 && components[i].size)
			size = components[i].offset + components[i].size;
	return size;
}

uint32_t xstate_component(unsigned i, uint32_t *offset)
{
	if (i < 2 || i >= N_COMPONENTS || !components[i].size)
		return 0;
	*offset = components[i].offset;
	return components[i].size;
}

uint32_t xstate_compact_size(uint64_t mask)
{
	uint32_t size = EXTENDED;

	for (unsigned i = 2; i < N_COMPONENTS; i++)
		if (mask >> i & 1)
			size += components[i].size;
	return size;
}

/* -- Components and registers ------------------------------------------------------------------ */

/* Registers 8 and up exist in 64-bit mode only. */
static unsigned registers(const struct vcpu *c, const struct component *k)
{
	if (c->code64 || k->len == 8)
		return k->n;
	return k->first ? 0 : 8;
}

static uint8_t *register_bytes(struct vcpu *c, const struct component *k, unsigned i)
{
	if (k->len == 8)
		return (uint8_t *)&c->fpu.k[i];
	return &c->fpu.zmm[k->first + i][k->from];
}

static bool is_zero(const uint8_t *p, unsigned len)
{
	while (len--)
		if (*p++)
			return false;
	return true;
}

static bool x87_in_use(const struct vcpu *c)
{
	const uint8_t *fx = c->fpu.fx;

	return load16(fx) != 0x37f || !is_zero(fx + 2, FX_X87_HEAD - 2) ||
	       !is_zero(fx + FX_ST, FX_XMM - FX_ST);
}

static bool sse_in_use(const struct vcpu *c)
{
	for (unsigned i = 0; i < 16; i++)
		if (!is_zero(c->fpu.zmm[i], 16))
			return true;
	return false;
}

static bool component_in_use(struct vcpu *c, const struct component *k)
{
	for (unsigned i = 0; i < k->n; i++)
		if (!is_zero(register_bytes(c, k, i), k->len))
			return true;
	return false;
}

static uint64_t xinuse(struct vcpu *c)
{
	uint64_t used = 0;

	if (x87_in_use(c))
		used |= XCR0_X87;
	if (sse_in_use(c))
		used |= XCR0_SSE;
	for (unsigned i = 2; i < N_COMPONENTS; i++)
		if (components[i].size && component_in_use(c, &components[i]))
			used |= BIT(i);
	return used;
}

static void gather(struct vcpu *c, const struct component *k, uint8_t *buf)
{
	for (unsigned i = 0; i < registers(c, k); i++)
		memcpy(buf + i * k->len, register_bytes(c, k, i), k->len);
}

static void scatter(struct vcpu *c, const struct component *k, const uint8_t *buf)
{
	for (unsigned i = 0; i < registers(c, k); i++)
		memcpy(register_bytes(c, k, i), buf + i * k->len, k->len);
}

static void clear(struct vcpu *c, const struct component *k)
{
	for (unsigned i = 0; i < registers(c, k); i++)
		memset(register_bytes(c, k, i), 0, k->len);
}

/* -- The legacy region ------------------------------------------------------------------------ */

/* x87 pointers are 64-bit offsets with REX.W, else 32-bit offsets with selectors, which this CPU
 * saves as 0 (CPUID's "deprecates FPU CS and DS").
 */
static void put_x87(const struct vcpu *c, uint8_t *image, bool rex_w)
{
	memcpy(image, c->fpu.fx, FX_X87_HEAD);
	if (!rex_w) {
		store32(image + 12, 0);
		store32(image + 20, 0);
	}
	memcpy(image + FX_ST, c->fpu.fx + FX_ST, FX_XMM - FX_ST);
}

static void take_x87(struct vcpu *c, const uint8_t *image, bool rex_w)
{
	uint16_t fcw = load16(image), fsw = load16(image + 2);

	memcpy(c->fpu.fx, image, FX_X87_HEAD);
	c->fpu.fx[5] = 0;
	/* The control word has one fixed bit, and four that do not exist; ES and B follow from the
	 * exceptions; an opcode has 11 bits. */
	store16(c->fpu.fx, (fcw & 0x1f3f) | 0x40);
	store16(c->fpu.fx + 2, (fsw & 0x7f7f) | (fsw & ~fcw & 0x3f ? 0x8080 : 0));
	store16(c->fpu.fx + 6, load16(image + 6) & 0x7ff);
	if (!rex_w) {
		store32(c->fpu.fx + 12, 0);
		store32(c->fpu.fx + 20, 0);
	}
	for (unsigned i = 0; i < 8; i++)
		memcpy(c->fpu.fx + FX_ST + 16 * i, image + FX_ST + 16 * i, 10);
}

static void init_x87(struct vcpu *c)
{
	memset(c->fpu.fx, 0, FX_X87_HEAD);
	memset(c->fpu.fx + FX_ST, 0, FX_XMM - FX_ST);
	store16(c->fpu.fx, 0x37f);
}

static unsigned n_xmm(const struct vcpu *c)
{
	return c->code64 ? 16 : 8;
}

static void put_xmm(const struct vcpu *c, uint8_t *image)
{
	for (unsigned i = 0; i < n_xmm(c); i++)
		memcpy(image + FX_XMM + 16 * i, c->fpu.zmm[i], 16);
}

static void take_xmm(struct vcpu *c, const uint8_t *image)
{
	for (unsigned i = 0; i < n_xmm(c); i++)
		memcpy(c->fpu.zmm[i], image + FX_XMM + 16 * i, 16);
}

static void put_mxcsr(const struct vcpu *c, uint8_t *image)
{
	store32(image + FX_MXCSR, c->fpu.mxcsr);
	store32(image + FX_MASK, MXCSR_MASK);
}

enum x86_exc sys_fxsave(struct vcpu *c, gva_t gva, bool rex_w)
{
	uint8_t image[FX_SIZE] = { 0 };
	bool sse = c->cr4 & CR4_OSFXSR;

	enum x86_exc r;

	r = vmem_check(c, gva, 8, true);
	if (r)
		return r;
	if (gva & 15)
		return exc_gp0(c);
	/* The end is looked at first. */
	r = vmem_probe(c, gva + FX_SIZE - 1, 1, true, AS_CPL);
	if (r)
		return r;
	put_x87(c, image, rex_w);
	put_mxcsr(c, image);
	put_xmm(c, image);
	/* The rest of the 512 bytes is reserved or the program's own. */
	return vmem_write(c, gva, image, sse ? FX_XMM + 16 * n_xmm(c) : FX_XMM, AS_CPL);
}

enum x86_exc sys_fxrstor(struct vcpu *c, gva_t gva, bool rex_w)
{
	uint8_t image[FX_SIZE];
	bool sse = c->cr4 & CR4_OSFXSR;
	enum x86_exc r;

	r = vmem_check(c, gva, 8, true);
	if (r)
		return r;
	if (gva & 15)
		return exc_gp0(c);
	r = vmem_read(c, gva, image, FX_SIZE, AS_CPL);
	if (r)
		return r;
	if (sse && load32(image + FX_MXCSR) & ~MXCSR_MASK)
		return exc_gp0(c);
	take_x87(c, image, rex_w);
	if (sse) {
		c->fpu.mxcsr = load32(image + FX_MXCSR);
		take_xmm(c, image);
	}
	return EXC_NONE;
}

/* -- XSAVE ---------------------------------------------------------------------------------- */

/* One XSAVE in progress. */
struct save {
	gva_t gva;
	uint64_t rfbm;	/* components asked for and enabled */
	uint64_t write; /* components written */
	uint64_t bv;	/* XSTATE_BV */
	uint64_t comp;	/* XCOMP_BV, 0 in standard form */
	bool rex_w;
};

static enum x86_exc save_legacy(struct vcpu *c, const struct save *s)
{
	uint8_t image[FX_SIZE] = { 0 };
	uint64_t with_mxcsr = s->comp ? s->write & XCR0_SSE : s->rfbm & (XCR0_SSE | XCR0_AVX);
	enum x86_exc r = EXC_NONE;

	put_x87(c, image, s->rex_w);
	put_mxcsr(c, image);
	put_xmm(c, image);
	if (s->write & XCR0_X87)
		r = vmem_write(c, s->gva, image, FX_X87_HEAD, AS_CPL);
	if (!r && s->write & XCR0_X87)
		r = vmem_write(c, s->gva + FX_ST, image + FX_ST, FX_XMM - FX_ST, AS_CPL);
	if (!r && with_mxcsr)
		r = vmem_write(c, s->gva + FX_MXCSR, image + FX_MXCSR, 8, AS_CPL);
	if (!r && s->write & XCR0_SSE)
		r = vmem_write(c, s->gva + FX_XMM, image + FX_XMM, 16 * n_xmm(c), AS_CPL);
	return r;
}

static enum x86_exc save_extended(struct vcpu *c, const struct save *s)
{
	uint32_t offset = EXTENDED;
	enum x86_exc r = EXC_NONE;

	for (unsigned i = 2; i < N_COMPONENTS && !r; i++) {
		const struct component *k = &components[i];
		unsigned len = registers(c, k) * k->len;
		uint8_t buf[1024];

		if (!s->comp)
			offset = k->offset;
		if (s->write >> i & 1 && len) {
			gather(c, k, buf);
			r = vmem_write(c, s->gva + offset, buf, len, AS_CPL);
		}
		if (s->comp >> i & 1)
			offset += k->size;
	}
	return r;
}

static enum x86_exc save_header(struct vcpu *c, const struct save *s)
{
	uint64_t header[2] = { s->bv, s->comp };

	return vmem_write(c, s->gva + HEADER, header, s->comp ? 16 : 8, AS_CPL);
}

/* Decide what is written: SDM 1 13.7 to 13.11. */
static enum x86_exc plan_save(struct vcpu *c, struct save *s, enum xsave_form form)
{
	uint64_t used = xinuse(c);
	enum x86_exc r;

	if (form == XSAVE_PLAIN || form == XSAVE_OPT) {
		uint64_t old;

		r = vmem_read64(c, s->gva + HEADER, &old, AS_CPL);
		s->bv = (old & ~s->rfbm) | (used & s->rfbm);
		s->write = form == XSAVE_PLAIN ? s->rfbm : s->rfbm & used;
		return r;
	}
	/* In the compacted form MXCSR belongs to the SSE component alone. */
	if (c->fpu.mxcsr != MXCSR_INIT)
		used |= XCR0_SSE;
	s->comp = s->rfbm | XCOMP_FORMAT;
	s->bv = s->write = s->rfbm & used;
	return EXC_NONE;
}

enum x86_exc sys_xsave(struct vcpu *c, gva_t gva, uint64_t rfbm, enum xsave_form form, bool rex_w)
{
	bool compact = form == XSAVE_COMPACT || form == XSAVE_SUPERVISOR;
	uint64_t enabled = c->fpu.xcr0 | (form == XSAVE_SUPERVISOR ? c->fpu.xss : 0);
	struct save s = { .gva = gva, .rfbm = rfbm & enabled, .rex_w = rex_w };
	uint32_t size = compact ? xstate_compact_size(s.rfbm) : xstate_size(s.rfbm);
	enum x86_exc r;

	if ((form == XSAVE_SUPERVISOR && c->cpl) || gva & 63)
		return exc_gp0(c);
	r = vmem_probe(c, gva, size, true, AS_CPL);
	if (!r)
		r = plan_save(c, &s, form);
	if (!r)
		r = save_legacy(c, &s);
	if (!r)
		r = save_extended(c, &s);
	return r ? r : save_header(c, &s);
}

/* -- XRSTOR ----------------------------------------------------------------------------------- */

struct restore {
	gva_t gva;
	uint64_t rfbm, bv, comp;
	bool rex_w;
	uint8_t area[AREA_MAX]; /* in standard form; only what is restored is filled in */
};

/* SDM 1 13.8 and 13.12: which headers are #GP. */
static bool header_is_valid(const struct vcpu *c, const struct restore *s, const uint8_t *header,
			    bool supervisor)
{
	uint64_t allowed = c->fpu.xcr0 | (supervisor ? c->fpu.xss : 0);

	if (s->comp & XCOMP_FORMAT)
		return cpu_has(c->model, FEAT_XSAVEC) && !(s->comp & ~XCOMP_FORMAT & ~allowed) &&
		       !(s->bv & ~s->comp) && !(s->bv & XCOMP_FORMAT) &&
		       is_zero(header + 16, HEADER_SIZE - 16);
	return !supervisor && !(s->bv & ~allowed) && is_zero(header + 8, 16);
}

static enum x86_exc read_header(struct vcpu *c, struct restore *s, bool supervisor)
{
	uint8_t header[HEADER_SIZE];
	enum x86_exc r = vmem_read(c, s->gva + HEADER, header, sizeof(header), AS_CPL);

	if (r)
		return r;
	s->bv = load64(header);
	s->comp = load64(header + 8);
	return header_is_valid(c, s, header, supervisor) ? EXC_NONE : exc_gp0(c);
}

static enum x86_exc read_area(struct vcpu *c, struct restore *s)
{
	bool compact = s->comp & XCOMP_FORMAT;
	uint32_t offset = EXTENDED;
	enum x86_exc r = vmem_read(c, s->gva, s->area, FX_SIZE, AS_CPL);

	for (unsigned i = 2; i < N_COMPONENTS && !r; i++) {
		const struct component *k = &components[i];

		if (!compact)
			offset = k->offset;
		if (s->rfbm & s->bv & BIT(i))
			r = vmem_read(c, s->gva + offset, s->area + k->offset, k->size, AS_CPL);
		if (compact && s->comp >> i & 1)
			offset += k->size;
	}
	return r;
}

/* Is MXCSR loaded from memory? In standard form with SSE or AVX, whatever XSTATE_BV says. */
static bool loads_mxcsr(const struct restore *s)
{
	if (s->comp & XCOMP_FORMAT)
		return s->rfbm & s->bv & XCR0_SSE;
	return s->rfbm & (XCR0_SSE | XCR0_AVX);
}

static void commit_legacy(struct vcpu *c, const struct restore *s)
{
	static const uint8_t zero[FX_SIZE];

	if (s->rfbm & XCR0_X87) {
		if (s->bv & XCR0_X87)
			take_x87(c, s->area, s->rex_w);
		else
			init_x87(c);
	}
	if (s->rfbm & XCR0_SSE)
		take_xmm(c, s->bv & XCR0_SSE ? s->area : zero);
	if (loads_mxcsr(s))
		c->fpu.mxcsr = load32(s->area + FX_MXCSR);
	else if (s->rfbm & XCR0_SSE)
		c->fpu.mxcsr = MXCSR_INIT;
}

static void commit_extended(struct vcpu *c, const struct restore *s)
{
	for (unsigned i = 2; i < N_COMPONENTS; i++) {
		const struct component *k = &components[i];

		if (!(s->rfbm >> i & 1) || !k->size)
			continue;
		if (s->bv >> i & 1)
			scatter(c, k, s->area + k->offset);
		else
			clear(c, k);
	}
}

enum x86_exc sys_xrstor(struct vcpu *c, gva_t gva, uint64_t rfbm, bool supervisor, bool rex_w)
{
	uint64_t enabled = c->fpu.xcr0 | (supervisor ? c->fpu.xss : 0);
	struct restore s;
	enum x86_exc r;

	if ((supervisor && c->cpl) || gva & 63)
		return exc_gp0(c);
	s.gva = gva;
	s.rfbm = rfbm & enabled;
	s.rex_w = rex_w;
	r = read_header(c, &s, supervisor);
	if (!r)
		r = read_area(c, &s);
	if (r)
		return r;
	if (loads_mxcsr(&s) && load32(s.area + FX_MXCSR) & ~MXCSR_MASK)
		return exc_gp0(c);
	commit_legacy(c, &s);
	commit_extended(c, &s);
	c->fpu.wide = (uint8_t)((c->fpu.wide & ~s.rfbm) | (s.rfbm & s.bv));
	return EXC_NONE;
}

/* -- XCR0 ----------------------------------------------------------------------------------- */

enum x86_exc sys_xgetbv(struct vcpu *c, uint32_t index, uint64_t *val)
{
	if (!(c->cr4 & CR4_OSXSAVE))
		return exc_ud(c);
	if (index == 0)
		*val = c->fpu.xcr0;
	else if (index == 1 && cpu_has(c->model, FEAT_XGETBV1))
		*val = c->fpu.xcr0 & (xinuse(c) | (c->fpu.mxcsr != MXCSR_INIT ? XCR0_SSE : 0));
	else
		return exc_gp0(c);
	return EXC_NONE;
}

static bool xcr0_is_allowed(const struct vcpu *c, uint64_t val)
{
	uint64_t avx512 = val & XCR0_AVX512;

	if (!(val & XCR0_X87) || val & ~c->model->xcr0_mask)
		return false;
	if (val & XCR0_AVX && !(val & XCR0_SSE))
		return false;
	return !avx512 || (avx512 == XCR0_AVX512 && val & XCR0_AVX);
}

enum x86_exc sys_xsetbv(struct vcpu *c, uint32_t index, uint64_t val)
{
	if (!(c->cr4 & CR4_OSXSAVE))
		return exc_ud(c);
	if (c->cpl || index || !xcr0_is_allowed(c, val))
		return exc_gp0(c);
	c->fpu.xcr0 = val;
	return EXC_NONE;
}
