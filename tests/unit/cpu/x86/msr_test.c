#include "cpu/x86/system.h"
#include "rig.h"

static uint64_t get(struct rig *r, uint32_t msr)
{
	uint64_t v = 0xdead;

	CHECK_EQ(msr_read(&r->c, msr, &v), 0);
	return v;
}

TEST(unknown_registers_and_other_rings_are_gp)
{
	struct rig *r = rig_long();
	uint64_t v;

	CHECK_EQ(msr_read(&r->c, 0x12345, &v), EXC_GP);
	CHECK_EQ(msr_write(&r->c, 0xfe, 0), EXC_GP);  /* read-only */
	CHECK_EQ(msr_read(&r->c, 0x49, &v), EXC_GP);  /* write-only */
	CHECK_EQ(msr_read(&r->c, 0xda0, &v), EXC_GP); /* no xsaves in v1 */
	CHECK_EQ(msr_read(&r->c, 0xffffffff, &v), EXC_GP);
	rig_ring(r, 3);
	CHECK_EQ(msr_read(&r->c, 0x10, &v), EXC_GP);
	rig_free(r);
}

TEST(addresses_must_be_canonical)
{
	static const uint32_t msrs[] = { 0x175,	     0x176,	 0xc0000082, 0xc0000083,
					 0xc0000100, 0xc0000101, 0xc0000102 };
	struct rig *r = rig_long();

	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
		CHECK_EQ(msr_write(&r->c, msrs[i], 0xffff800000000000), 0);
		CHECK_EQ(get(r, msrs[i]), 0xffff800000000000);
		CHECK_EQ(msr_write(&r->c, msrs[i], 0x800000000000), EXC_GP);
	}
	CHECK_EQ(r->c.seg[SEG_FS].base, 0xffff800000000000);
	rig_free(r);
}

TEST(efer_has_only_the_models_bits)
{
	struct rig *r = rig_protected();

	CHECK_EQ(msr_write(&r->c, 0xc0000080, EFER_SCE | EFER_NXE | EFER_LMA), 0);
	CHECK_EQ(get(r, 0xc0000080), EFER_SCE | EFER_NXE);
	CHECK_EQ(msr_write(&r->c, 0xc0000080, EFER_FFXSR), EXC_GP);
	r->m.has[FEAT_NX] = false;
	CHECK_EQ(msr_write(&r->c, 0xc0000080, EFER_NXE), EXC_GP);
	rig_free(r);
}

TEST(the_tsc_and_its_adjustment_move_together)
{
	struct rig *r = rig_long();

	CHECK_EQ(msr_write(&r->c, 0x10, 1ull << 60), 0);
	CHECK(get(r, 0x10) - (1ull << 60) < 1ull << 40);
	CHECK_EQ((uint64_t)r->c.tsc_offset, r->c.msr.tsc_adjust);
	CHECK_EQ(msr_write(&r->c, 0x3b, 0), 0);
	CHECK_EQ(r->c.tsc_offset, 0);
	rig_free(r);
}

TEST(memory_types_are_checked)
{
	struct rig *r = rig_long();

	CHECK_EQ(get(r, 0x277), 0x0007040600070406);
	CHECK_EQ(msr_write(&r->c, 0x277, 0x0607050401000000), 0);
	CHECK_EQ(msr_write(&r->c, 0x277, 0x02), EXC_GP);
	CHECK_EQ(msr_write(&r->c, 0x200, 6), 0);
	CHECK_EQ(msr_write(&r->c, 0x200, 2), EXC_GP);
	CHECK_EQ(msr_write(&r->c, 0x200, 0x106), EXC_GP);
	CHECK_EQ(msr_write(&r->c, 0x201, 0x800), 0);
	CHECK_EQ(msr_write(&r->c, 0x201, 1ull << r->m.phys_bits), EXC_GP);
	CHECK_EQ(msr_write(&r->c, 0x250, 0x0606060606060606), 0);
	CHECK_EQ(msr_write(&r->c, 0x26f, 0x0706060606060606), EXC_GP);
	CHECK_EQ(msr_write(&r->c, 0x2ff, 0xc06), 0);
	CHECK_EQ(msr_write(&r->c, 0x2ff, 0x1006), EXC_GP);
	CHECK_EQ(get(r, 0xfe), 0x508);
	CHECK_EQ(msr_write(&r->c, 0x26f, 5), 0);
	CHECK_EQ(r->c.msr.mtrr_fixed[10], 5);
	rig_free(r);
}

TEST(machine_check_banks_keep_only_their_control)
{
	struct rig *r = rig_long();

	CHECK_EQ(get(r, 0x179) & 0xff, N_MC_BANKS);
	CHECK_EQ(msr_write(&r->c, 0x404, ~0ull), 0);
	CHECK_EQ(get(r, 0x404), ~0ull);
	CHECK_EQ(get(r, 0x400), 0);
	CHECK_EQ(msr_write(&r->c, 0x405, 0), 0);
	CHECK_EQ(msr_write(&r->c, 0x405, 1), EXC_GP);
	CHECK_EQ(msr_write(&r->c, 0x400 + 4 * N_MC_BANKS, 0), EXC_GP);
	rig_free(r);
}

TEST(speculation_control_takes_known_bits)
{
	struct rig *r = rig_long();

	CHECK_EQ(msr_write(&r->c, 0x48, 7), 0);
	CHECK_EQ(msr_write(&r->c, 0x48, 8), EXC_GP);
	CHECK_EQ(msr_write(&r->c, 0x49, 1), 0);
	CHECK_EQ(msr_write(&r->c, 0x49, 2), EXC_GP);
	CHECK_EQ(get(r, 0x10a) & 1, 1);
	rig_free(r);
}

TESTS(T(unknown_registers_and_other_rings_are_gp), T(addresses_must_be_canonical),
      T(efer_has_only_the_models_bits), T(the_tsc_and_its_adjustment_move_together),
      T(memory_types_are_checked), T(machine_check_banks_keep_only_their_control),
      T(speculation_control_takes_known_bits))
