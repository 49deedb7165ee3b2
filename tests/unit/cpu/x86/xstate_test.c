#include "cpu/x86/system.h"
#include "rig.h"

#include <immintrin.h>

enum { AREA = 0x60000 };

static const uint64_t ALL = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512;

static struct rig *rig_xsave(void)
{
	struct rig *r = rig_long();

	r->m.has[FEAT_XSAVE] = r->m.has[FEAT_XSAVEC] = r->m.has[FEAT_XSAVES] = true;
	r->m.has[FEAT_XGETBV1] = true;
	r->m.xcr0_mask = ALL;
	r->c.cr4 |= CR4_OSFXSR | CR4_OSXSAVE;
	CHECK_EQ(sys_xsetbv(&r->c, 0, ALL), 0);
	return r;
}

/* Something different in every register. */
static void fill(struct vcpu *c)
{
	for (unsigned i = 0; i < 32; i++)
		for (unsigned j = 0; j < 64; j++)
			c->fpu.zmm[i][j] = (uint8_t)(1 + i * 7 + j);
	for (unsigned i = 0; i < 8; i++) {
		c->fpu.k[i] = 0x1111111111111111ull * (i + 1);
		memset(c->fpu.fx + 32 + 16 * i, (int)(i + 1), 10);
	}
	store16(c->fpu.fx, 0x27f);
	store64(c->fpu.fx + 8, 0x123456789abc);
	c->fpu.mxcsr = 0x1fa0;
}

static void init(struct vcpu *c)
{
	memset(&c->fpu.fx, 0, sizeof(c->fpu.fx));
	memset(&c->fpu.zmm, 0, sizeof(c->fpu.zmm));
	memset(&c->fpu.k, 0, sizeof(c->fpu.k));
	store16(c->fpu.fx, 0x37f);
	c->fpu.mxcsr = 0x1f80;
}

TEST(fxsave_has_the_layout_of_the_processor)
{
	struct rig *r = rig_xsave();
	__attribute__((aligned(16))) uint8_t own[512] = { 0 };

	fill(&r->c);
	CHECK_EQ(sys_fxsave(&r->c, AREA, true), 0);
	/* The processor takes the image and gives back the same. */
	memcpy(own, at(r, AREA), 512);
	__attribute__((aligned(16))) uint8_t before[512];
	_fxsave64(before);
	_fxrstor64(own);
	_fxsave64(own);
	_fxrstor64(before);
	CHECK_MEM(own, at(r, AREA), 4);
	CHECK_MEM(own + 24, at(r, AREA + 24), 4);
	for (unsigned i = 0; i < 8; i++)
		CHECK_MEM(own + 32 + 16 * i, at(r, AREA + 32 + 16 * i), 10);
	CHECK_MEM(own + 160, at(r, AREA + 160), 256);
	rig_free(r);
}

TEST(fxrstor_restores_what_fxsave_saved)
{
	struct rig *r = rig_xsave();
	struct vcpu_fpu saved;

	fill(&r->c);
	saved = r->c.fpu;
	CHECK_EQ(sys_fxsave(&r->c, AREA, true), 0);
	for (unsigned i = 0; i < 16; i++)
		memset(r->c.fpu.zmm[i], 0, 16);
	memset(r->c.fpu.fx, 0, 160);
	CHECK_EQ(sys_fxrstor(&r->c, AREA, true), 0);
	saved.wide = r->c.fpu.wide; /* a hint, not state */
	CHECK_MEM(&r->c.fpu, &saved, sizeof(saved));
	CHECK_EQ(sys_fxsave(&r->c, AREA + 8, true), EXC_GP);
	store32(at(r, AREA + 24), 0x10000);
	CHECK_EQ(sys_fxrstor(&r->c, AREA, true), EXC_GP);
	rig_free(r);
}

TEST(fxsave_without_rex_w_has_32_bit_pointers)
{
	struct rig *r = rig_xsave();

	fill(&r->c);
	CHECK_EQ(sys_fxsave(&r->c, AREA, false), 0);
	CHECK_EQ(load64(at(r, AREA + 8)), 0x56789abc);
	rig_free(r);
}

TEST(fxsave_in_32_bit_mode_has_8_registers)
{
	struct rig *r = rig_protected();

	fill(&r->c);
	r->c.cr4 |= CR4_OSFXSR;
	memset(at(r, AREA), 0xee, 512);
	CHECK_EQ(sys_fxsave(&r->c, AREA, false), 0);
	CHECK_EQ(*at(r, AREA + 160 + 127), r->c.fpu.zmm[7][15]);
	CHECK_EQ(*at(r, AREA + 160 + 128), 0xee);
	r->c.cr4 = 0;
	memset(at(r, AREA), 0xee, 512);
	CHECK_EQ(sys_fxsave(&r->c, AREA, false), 0);
	CHECK_EQ(*at(r, AREA + 160), 0xee);
	rig_free(r);
}

static void round_trip(enum xsave_form form)
{
	struct rig *r = rig_xsave();
	struct vcpu_fpu saved;

	fill(&r->c);
	saved = r->c.fpu;
	CHECK_EQ(sys_xsave(&r->c, AREA, ~0ull, form, true), 0);
	init(&r->c);
	CHECK_EQ(sys_xrstor(&r->c, AREA, ~0ull, form == XSAVE_SUPERVISOR, true), 0);
	saved.wide = r->c.fpu.wide; /* a hint, not state */
	CHECK_MEM(&r->c.fpu, &saved, sizeof(saved));
	rig_free(r);
}

TEST(xrstor_restores_what_every_form_of_xsave_saved)
{
	round_trip(XSAVE_PLAIN);
	round_trip(XSAVE_OPT);
	round_trip(XSAVE_COMPACT);
	round_trip(XSAVE_SUPERVISOR);
}

TEST(xsave_in_standard_form_is_what_the_processor_makes)
{
	struct rig *r = rig_xsave();

	if (!host_has(FEAT_AVX512F))
		skip();
	fill(&r->c);
	CHECK_EQ(sys_xsave(&r->c, AREA, ~0ull, XSAVE_PLAIN, true), 0);
	CHECK_EQ(load64(at(r, AREA + 512)), ALL);
	CHECK_MEM(at(r, AREA + 576), r->c.fpu.zmm[0] + 16, 16);
	CHECK_MEM(at(r, AREA + 1088 + 8), &r->c.fpu.k[1], 8);
	CHECK_MEM(at(r, AREA + 1152 + 32), r->c.fpu.zmm[1] + 32, 32);
	CHECK_MEM(at(r, AREA + 1664 + 64), r->c.fpu.zmm[17], 64);
	rig_free(r);
}

TEST(components_in_their_initial_state_are_optimised_away)
{
	struct rig *r = rig_xsave();
	uint64_t v;

	init(&r->c);
	memset(r->c.fpu.zmm[3] + 16, 1, 16);
	memset(at(r, AREA), 0xee, 4096);
	store64(at(r, AREA + 512), 0);
	CHECK_EQ(sys_xsave(&r->c, AREA, ~0ull, XSAVE_OPT, true), 0);
	CHECK_EQ(load64(at(r, AREA + 512)), XCR0_AVX);
	CHECK_EQ(*at(r, AREA + 160), 0xee);
	CHECK_EQ(load32(at(r, AREA + 24)), 0x1f80);
	CHECK_EQ(*at(r, AREA + 1664), 0xee);
	CHECK_EQ(sys_xgetbv(&r->c, 1, &v), 0);
	CHECK_EQ(v, XCR0_AVX);
	/* The compacted form puts what was asked for one behind the other. */
	store64(at(r, AREA + 520), 0);
	CHECK_EQ(sys_xsave(&r->c, AREA, XCR0_SSE | XCR0_AVX512, XSAVE_COMPACT, true), 0);
	CHECK_EQ(load64(at(r, AREA + 512)), 0);
	CHECK_EQ(load64(at(r, AREA + 520)), 1ull << 63 | XCR0_SSE | XCR0_AVX512);
	r->c.fpu.k[2] = 5;
	r->c.fpu.zmm[16][0] = 9;
	CHECK_EQ(sys_xsave(&r->c, AREA, XCR0_SSE | XCR0_AVX512, XSAVE_COMPACT, true), 0);
	CHECK_EQ(load64(at(r, AREA + 576 + 16)), 5);
	CHECK_EQ(*at(r, AREA + 576 + 64 + 512), 9);
	rig_free(r);
}

TEST(xrstor_initialises_what_the_header_says_is_unused)
{
	struct rig *r = rig_xsave();

	fill(&r->c);
	memset(at(r, AREA), 0, 4096);
	store32(at(r, AREA + 24), 0x1f80);
	CHECK_EQ(sys_xrstor(&r->c, AREA, XCR0_X87 | XCR0_AVX, false, true), 0);
	CHECK_EQ(load16(r->c.fpu.fx), 0x37f);
	CHECK_EQ(r->c.fpu.zmm[2][16], 0);
	CHECK(r->c.fpu.zmm[2][0] != 0);
	CHECK(r->c.fpu.zmm[2][32] != 0);
	CHECK_EQ(r->c.fpu.mxcsr, 0x1f80); /* AVX brings MXCSR in standard form */
	rig_free(r);
}

TEST(bad_headers_are_gp_and_change_nothing)
{
	struct rig *r = rig_xsave();
	struct vcpu_fpu saved;

	fill(&r->c);
	saved = r->c.fpu;
	memset(at(r, AREA), 0, 4096);
	store64(at(r, AREA + 512), 1ull << 9);
	CHECK_EQ(sys_xrstor(&r->c, AREA, ~0ull, false, true), EXC_GP);
	store64(at(r, AREA + 512), 1);
	store64(at(r, AREA + 528), 1);
	CHECK_EQ(sys_xrstor(&r->c, AREA, ~0ull, false, true), EXC_GP);
	store64(at(r, AREA + 528), 0);
	CHECK_EQ(sys_xrstor(&r->c, AREA, ~0ull, true, true), EXC_GP); /* not compacted */
	store64(at(r, AREA + 520), 1ull << 63 | 2);
	CHECK_EQ(sys_xrstor(&r->c, AREA, ~0ull, false, true), EXC_GP); /* BV beyond COMP */
	store64(at(r, AREA + 520), 0);
	store32(at(r, AREA + 24), 0x10000);
	CHECK_EQ(sys_xrstor(&r->c, AREA, XCR0_AVX, false, true), EXC_GP);
	CHECK_EQ(sys_xrstor(&r->c, AREA + 16, ~0ull, false, true), EXC_GP);
	CHECK_EQ(sys_xsave(&r->c, AREA + 32, ~0ull, XSAVE_PLAIN, true), EXC_GP);
	saved.wide = r->c.fpu.wide; /* a hint, not state */
	CHECK_MEM(&r->c.fpu, &saved, sizeof(saved));
	rig_free(r);
}

TEST(xsetbv_takes_whole_sets_only)
{
	struct rig *r = rig_xsave();

	CHECK_EQ(sys_xsetbv(&r->c, 0, 0), EXC_GP);
	CHECK_EQ(sys_xsetbv(&r->c, 0, 5), EXC_GP);
	CHECK_EQ(sys_xsetbv(&r->c, 0, 0x27), EXC_GP);
	CHECK_EQ(sys_xsetbv(&r->c, 0, 0xe3), EXC_GP);
	CHECK_EQ(sys_xsetbv(&r->c, 0, 7 | 1 << 9), EXC_GP);
	CHECK_EQ(sys_xsetbv(&r->c, 1, 7), EXC_GP);
	CHECK_EQ(sys_xsetbv(&r->c, 0, 7), 0);
	CHECK_EQ(r->c.fpu.xcr0, 7);
	r->c.cr4 &= ~(uint64_t)CR4_OSXSAVE;
	CHECK_EQ(sys_xsetbv(&r->c, 0, 7), EXC_UD);
	rig_free(r);
}

TESTS(T(fxsave_has_the_layout_of_the_processor), T(fxrstor_restores_what_fxsave_saved),
      T(fxsave_without_rex_w_has_32_bit_pointers), T(fxsave_in_32_bit_mode_has_8_registers),
      T(xrstor_restores_what_every_form_of_xsave_saved),
      T(xsave_in_standard_form_is_what_the_processor_makes),
      T(components_in_their_initial_state_are_optimised_away),
      T(xrstor_initialises_what_the_header_says_is_unused),
      T(bad_headers_are_gp_and_change_nothing), T(xsetbv_takes_whole_sets_only))
