#include "cpu/x86/segment.h"
#include "cpu/x86/descriptor.h"
#include "rig.h"

TEST(real_mode_load_shifts_the_selector_and_keeps_the_limit)
{
	struct rig *r = rig_real();

	r->c.seg[SEG_DS].limit = 0xffffffff;
	CHECK_EQ(seg_load(&r->c, SEG_DS, 0x1234), 0);
	CHECK_EQ(r->c.seg[SEG_DS].base, 0x12340);
	CHECK_EQ(r->c.seg[SEG_DS].limit, 0xffffffff);
	rig_free(r);
}

TEST(loading_data_sets_the_accessed_bit_in_memory)
{
	struct rig *r = rig_protected();

	gdt_set(r, SEL_FREE, 0x12345678, 0x00fff, 0xc092);
	CHECK_EQ(seg_load(&r->c, SEG_ES, SEL_FREE), 0);
	CHECK_EQ(gdt_get(r, SEL_FREE) >> 40 & 0xff, 0x93);
	CHECK_EQ(r->c.seg[SEG_ES].base, 0x12345678);
	CHECK_EQ(r->c.seg[SEG_ES].limit, 0xffffff);
	CHECK_EQ(r->c.seg[SEG_ES].attr, 0xc093);
	rig_free(r);
}

TEST(data_segments_obey_rpl_and_cpl)
{
	struct rig *r = rig_protected();

	CHECK_EQ(seg_load(&r->c, SEG_DS, DATA32 | 3), EXC_GP);
	CHECK_EQ(r->c.exc_error, DATA32);
	rig_ring(r, 3);
	CHECK_EQ(seg_load(&r->c, SEG_DS, DATA32), EXC_GP);
	CHECK_EQ(seg_load(&r->c, SEG_DS, DATA32_3), 0);
	/* Conforming readable code is for every ring, execute-only code for none. */
	gdt_set(r, SEL_FREE, 0, 0xfffff, 0xc09e);
	CHECK_EQ(seg_load(&r->c, SEG_DS, SEL_FREE), 0);
	gdt_set(r, SEL_FREE, 0, 0xfffff, 0xc0f8);
	CHECK_EQ(seg_load(&r->c, SEG_DS, SEL_FREE | 3), EXC_GP);
	rig_free(r);
}

TEST(absent_segments_are_np_and_an_absent_stack_is_ss)
{
	struct rig *r = rig_protected();

	gdt_set(r, SEL_FREE, 0, 0xfffff, 0xc013);
	CHECK_EQ(seg_load(&r->c, SEG_DS, SEL_FREE), EXC_NP);
	CHECK_EQ(seg_load(&r->c, SEG_SS, SEL_FREE), EXC_SS);
	CHECK_EQ(r->c.exc_error, SEL_FREE);
	CHECK_EQ(r->c.seg[SEG_SS].sel, DATA32);
	rig_free(r);
}

TEST(selectors_beyond_the_table_are_gp)
{
	struct rig *r = rig_protected();

	CHECK_EQ(seg_load(&r->c, SEG_DS, 0x100), EXC_GP);
	CHECK_EQ(r->c.exc_error, 0x100);
	gdt_set(r, 0xf8, 0, 0xfffff, A_DATA32);
	CHECK_EQ(seg_load(&r->c, SEG_DS, 0xf8), 0);
	r->c.gdtr.limit = 0xfe;
	CHECK_EQ(seg_load(&r->c, SEG_DS, 0xf8), EXC_GP);
	CHECK_EQ(seg_load(&r->c, SEG_DS, 0x0c), EXC_GP);
	CHECK_EQ(r->c.exc_error, 0x0c);
	rig_free(r);
}

TEST(null_ss_is_for_64_bit_kernels_only)
{
	struct rig *r = rig_protected();

	CHECK_EQ(seg_load(&r->c, SEG_SS, 0), EXC_GP);
	CHECK_EQ(seg_load(&r->c, SEG_DS, 3), 0);
	CHECK(r->c.seg[SEG_DS].attr & ATTR_UNUSABLE);
	rig_free(r);
	r = rig_long();
	CHECK_EQ(seg_load(&r->c, SEG_SS, 0), 0);
	CHECK_EQ(r->c.cpl, 0);
	CHECK_EQ(seg_load(&r->c, SEG_SS, 3), EXC_GP);
	rig_ring(r, 3);
	CHECK_EQ(seg_load(&r->c, SEG_SS, 3), EXC_GP);
	rig_free(r);
}

TEST(limits_hold_in_both_directions)
{
	struct rig *r = rig_protected();
	gva_t gva;

	r->c.seg[SEG_DS].limit = 0xfff;
	CHECK_EQ(seg_linear(&r->c, SEG_DS, 0xffc, 4, true, &gva), 0);
	CHECK_EQ(seg_linear(&r->c, SEG_DS, 0xffd, 4, true, &gva), EXC_GP);
	CHECK_EQ(r->c.exc_error, 0);
	r->c.seg[SEG_SS].attr |= ATTR_DOWN;
	r->c.seg[SEG_SS].limit = 0xfff;
	CHECK_EQ(seg_linear(&r->c, SEG_SS, 0xfff, 1, false, &gva), EXC_SS);
	CHECK_EQ(seg_linear(&r->c, SEG_SS, 0x1000, 4, false, &gva), 0);
	CHECK_EQ(seg_linear(&r->c, SEG_SS, 0xfffffffe, 4, false, &gva), EXC_SS);
	r->c.seg[SEG_SS].attr &= ~ATTR_DB;
	CHECK_EQ(seg_linear(&r->c, SEG_SS, 0x10000, 1, false, &gva), EXC_SS);
	rig_free(r);
}

TEST(types_hold_in_protected_mode_only)
{
	struct rig *r = rig_protected();
	gva_t gva;

	CHECK_EQ(seg_linear(&r->c, SEG_CS, 0, 4, true, &gva), EXC_GP);
	CHECK_EQ(seg_linear(&r->c, SEG_CS, 0, 4, false, &gva), 0);
	r->c.seg[SEG_CS].attr &= ~ATTR_WRITE;
	CHECK_EQ(seg_linear(&r->c, SEG_CS, 0, 4, false, &gva), EXC_GP);
	CHECK_EQ(seg_fetch(&r->c, 0, 4, &gva), 0);
	r->c.seg[SEG_DS].attr &= ~ATTR_WRITE;
	CHECK_EQ(seg_linear(&r->c, SEG_DS, 0, 4, true, &gva), EXC_GP);
	r->c.cr0 &= ~(uint64_t)CR0_PE;
	CHECK_EQ(seg_linear(&r->c, SEG_CS, 0, 4, true, &gva), 0);
	rig_free(r);
}

TEST(addresses_wrap_at_4g_outside_and_must_be_canonical_inside_64_bit_mode)
{
	struct rig *r = rig_protected();
	gva_t gva;

	r->c.seg[SEG_DS].base = 0xfffff000;
	CHECK_EQ(seg_linear(&r->c, SEG_DS, 0x2000, 4, false, &gva), 0);
	CHECK_EQ(gva, 0x1000);
	rig_free(r);
	r = rig_long();
	CHECK_EQ(seg_linear(&r->c, SEG_DS, 0x7ffffffffff8, 8, false, &gva), 0);
	CHECK_EQ(seg_linear(&r->c, SEG_DS, 0x7ffffffffff9, 8, false, &gva), EXC_GP);
	CHECK_EQ(seg_linear(&r->c, SEG_SS, 0x800000000000, 8, false, &gva), EXC_SS);
	r->c.seg[SEG_FS].base = 0xffff800000000000;
	CHECK_EQ(seg_linear(&r->c, SEG_FS, 8, 8, false, &gva), 0);
	CHECK_EQ(gva, 0xffff800000000008);
	rig_free(r);
}

TEST(ldtr_and_tr_take_16_byte_descriptors_in_long_mode)
{
	struct rig *r = rig_long();

	gdt_set(r, SEL_LDT, 0x5000, 0xff, A_LDT);
	store64(at(r, GDT + SEL_LDT + 8), 0xffff8000);
	CHECK_EQ(seg_load_ldtr(&r->c, SEL_LDT), 0);
	CHECK_EQ(r->c.seg[SEG_LDTR].base, 0xffff800000005000);
	store64(at(r, GDT + SEL_LDT + 8), 0x7fff8000);
	CHECK_EQ(seg_load_ldtr(&r->c, SEL_LDT), EXC_GP);
	store64(at(r, GDT + SEL_LDT + 8), 0x1f00ull << 32);
	CHECK_EQ(seg_load_ldtr(&r->c, SEL_LDT), EXC_GP);
	CHECK_EQ(seg_load_tr(&r->c, SEL_TSS), EXC_GP); /* busy */
	gdt_set(r, SEL_TSS, TSS, 0x67, A_TSS32);
	CHECK_EQ(seg_load_tr(&r->c, SEL_TSS), 0);
	CHECK_EQ(gdt_get(r, SEL_TSS) >> 40 & 0xff, A_TSS32_BUSY);
	CHECK_EQ(r->c.seg[SEG_TR].attr & ATTR_TYPE, 11);
	rig_free(r);
}

TEST(tss16_is_no_tss_in_long_mode)
{
	struct rig *r = rig_protected();

	gdt_set(r, SEL_FREE, TSS_B, 0x2b, A_TSS16);
	CHECK_EQ(seg_load_tr(&r->c, SEL_FREE), 0);
	rig_free(r);
	r = rig_long();
	gdt_set(r, SEL_FREE, TSS_B, 0x2b, A_TSS16);
	CHECK_EQ(seg_load_tr(&r->c, SEL_FREE), EXC_GP);
	CHECK_EQ(seg_load_tr(&r->c, 0), EXC_GP);
	CHECK_EQ(r->c.exc_error, 0);
	rig_free(r);
}

TEST(lar_lsl_verr_verw_answer_without_faulting)
{
	struct rig *r = rig_protected();
	uint32_t v = 0;
	bool ok;

	CHECK_EQ(seg_lar(&r->c, CODE32, &v, &ok), 0);
	CHECK(ok);
	CHECK_EQ(v, 0x00c09b00);
	CHECK_EQ(seg_lsl(&r->c, CODE32, &v, &ok), 0);
	CHECK_EQ(v, 0xffffffff);
	CHECK_EQ(seg_lar(&r->c, 0, &v, &ok), 0);
	CHECK(!ok);
	CHECK_EQ(seg_lar(&r->c, 0xfff8, &v, &ok), 0);
	CHECK(!ok);
	CHECK_EQ(seg_verify(&r->c, CODE32, false, &ok), 0);
	CHECK(ok);
	CHECK_EQ(seg_verify(&r->c, CODE32, true, &ok), 0);
	CHECK(!ok);
	rig_ring(r, 3);
	CHECK_EQ(seg_verify(&r->c, DATA32, false, &ok), 0);
	CHECK(!ok);
	store64(at(r, GDT + SEL_FREE), gate_bits(CODE32, 0, 0xec, 0));
	CHECK_EQ(seg_lar(&r->c, SEL_FREE, &v, &ok), 0);
	CHECK(ok);
	CHECK_EQ(seg_lsl(&r->c, SEL_FREE, &v, &ok), 0);
	CHECK(!ok); /* a gate has no limit */
	rig_free(r);
}

TEST(pushes_use_the_stack_segments_width)
{
	struct rig *r = rig_protected();
	uint64_t v;

	r->c.seg[SEG_SS].attr &= ~ATTR_DB;
	vcpu_update_mode(&r->c);
	r->c.gpr[REG_RSP] = 0x00020000;
	CHECK_EQ(stack_push(&r->c, 4, 0x11223344), 0);
	CHECK_EQ(r->c.gpr[REG_RSP], 0x0002fffc);
	CHECK_EQ(load32(at(r, 0xfffc)), 0x11223344);
	CHECK_EQ(stack_pop(&r->c, 2, &v), 0);
	CHECK_EQ(v, 0x3344);
	CHECK_EQ(r->c.gpr[REG_RSP], 0x0002fffe);
	rig_free(r);
}

TEST(a_push_that_faults_leaves_rsp)
{
	struct rig *r = rig_real();

	r->c.gpr[REG_RSP] = 1;
	CHECK_EQ(stack_push(&r->c, 2, 0), EXC_SS);
	CHECK_EQ(r->c.gpr[REG_RSP], 1);
	rig_free(r);
}

TEST(io_bitmap_decides_when_iopl_does_not)
{
	struct rig *r = rig_protected();

	CHECK_EQ(io_check(&r->c, 0x3f8, 1), 0);
	rig_ring(r, 3);
	CHECK_EQ(io_check(&r->c, 0x3f8, 1), EXC_GP); /* no room for a map */
	r->c.seg[SEG_TR].limit = 0x67 + 0x2001;
	store16(at(r, TSS + 102), 0x68);
	memset(at(r, TSS + 0x68), 0xff, 0x2001);
	*at(r, TSS + 0x68 + 0x3f8 / 8) = 0xfc;
	CHECK_EQ(io_check(&r->c, 0x3f8, 2), 0);
	CHECK_EQ(io_check(&r->c, 0x3f8, 4), EXC_GP);
	*at(r, TSS + 0x68 + 0x3ff / 8) = 0x7f;
	*at(r, TSS + 0x68 + 0x400 / 8) = 0xfe;
	CHECK_EQ(io_check(&r->c, 0x3ff, 2), 0);
	CHECK_EQ(io_check(&r->c, 0x3ff, 4), EXC_GP);
	vcpu_set_rflags(&r->c, RFLAGS_IOPL);
	CHECK_EQ(io_check(&r->c, 0x70, 1), 0);
	vcpu_set_rflags(&r->c, RFLAGS_IOPL | RFLAGS_VM);
	CHECK_EQ(io_check(&r->c, 0x70, 1), EXC_GP);
	rig_free(r);
}

TESTS(T(real_mode_load_shifts_the_selector_and_keeps_the_limit),
      T(loading_data_sets_the_accessed_bit_in_memory), T(data_segments_obey_rpl_and_cpl),
      T(absent_segments_are_np_and_an_absent_stack_is_ss), T(selectors_beyond_the_table_are_gp),
      T(null_ss_is_for_64_bit_kernels_only), T(limits_hold_in_both_directions),
      T(types_hold_in_protected_mode_only),
      T(addresses_wrap_at_4g_outside_and_must_be_canonical_inside_64_bit_mode),
      T(ldtr_and_tr_take_16_byte_descriptors_in_long_mode), T(tss16_is_no_tss_in_long_mode),
      T(lar_lsl_verr_verw_answer_without_faulting), T(pushes_use_the_stack_segments_width),
      T(a_push_that_faults_leaves_rsp), T(io_bitmap_decides_when_iopl_does_not))
