#include "cpu/x86/system.h"
#include "rig.h"

/* Arm breakpoint n at addr. */
static void arm(struct rig *r, unsigned n, uint64_t addr, unsigned rw, unsigned len)
{
	r->c.dr[n] = addr;
	r->c.dr[7] |= 2ull << 2 * n | (uint64_t)(rw | len << 2) << (16 + 4 * n);
}

TEST(dr4_and_dr5_are_aliases_unless_de_is_set)
{
	struct rig *r = rig_protected();
	uint64_t v;

	CHECK_EQ(dr_write(&r->c, 5, 0x2aa), 0);
	CHECK_EQ(dr_read(&r->c, 7, &v), 0);
	CHECK_EQ(v, 0x6aa);
	CHECK_EQ(dr_read(&r->c, 4, &v), 0);
	CHECK_EQ(v, DR6_FIXED1);
	r->c.cr4 |= CR4_DE;
	CHECK_EQ(dr_read(&r->c, 4, &v), EXC_UD);
	rig_free(r);
}

TEST(reserved_bits_of_dr6_and_dr7_are_fixed)
{
	struct rig *r = rig_protected();
	uint64_t v;

	CHECK_EQ(dr_write(&r->c, 6, 0), 0);
	CHECK_EQ(dr_read(&r->c, 6, &v), 0);
	CHECK_EQ(v, 0xffff0ff0);
	CHECK_EQ(dr_write(&r->c, 6, 1ull << 32), EXC_GP);
	CHECK_EQ(dr_write(&r->c, 7, 1ull << 32), EXC_GP);
	CHECK_EQ(dr_write(&r->c, 0, 1ull << 63), 0);
	CHECK_EQ(dr_write(&r->c, 7, 0xffffdfff), 0);
	CHECK_EQ(dr_read(&r->c, 7, &v), 0);
	CHECK_EQ(v, 0xffff07ff);
	rig_free(r);
}

TEST(general_detect_traps_register_access)
{
	struct rig *r = rig_protected();
	uint64_t v;

	CHECK_EQ(dr_write(&r->c, 7, DR7_GD), 0);
	CHECK_EQ(dr_read(&r->c, 0, &v), EXC_DB);
	CHECK_EQ(r->c.pending_db, DR6_BD);
	rig_ring(r, 3);
	CHECK_EQ(dr_read(&r->c, 0, &v), EXC_GP);
	rig_free(r);
}

TEST(code_breakpoints_hit_their_address_only)
{
	struct rig *r = rig_protected();

	CHECK(!debug_has_code_bp(&r->c));
	arm(r, 1, 0x1234, 0, 0);
	CHECK(debug_has_code_bp(&r->c));
	CHECK(!debug_has_data_bp(&r->c));
	CHECK_EQ(debug_code_hit(&r->c, 0x1234), 2);
	CHECK_EQ(debug_code_hit(&r->c, 0x1235), 0);
	rig_free(r);
}

TEST(data_breakpoints_cover_their_aligned_length)
{
	struct rig *r = rig_protected();

	arm(r, 0, 0x1000, 1, 3); /* 4 bytes, writes */
	arm(r, 3, 0x2004, 3, 2); /* 8 bytes, both; aligned down */
	CHECK(debug_has_data_bp(&r->c));
	debug_data_access(&r->c, 0x1003, 1, false, false);
	debug_data_access(&r->c, 0x0ffc, 4, true, false);
	debug_data_access(&r->c, 0x1004, 4, true, false);
	CHECK_EQ(r->c.pending_db, 0);
	debug_data_access(&r->c, 0x1003, 4, true, false);
	CHECK_EQ(r->c.pending_db, 1);
	debug_data_access(&r->c, 0x2008, 8, true, false);
	CHECK_EQ(r->c.pending_db, 1);
	debug_data_access(&r->c, 0x1ffe, 8, false, false);
	CHECK_EQ(r->c.pending_db, 9);
	rig_free(r);
}

TEST(io_breakpoints_need_de)
{
	struct rig *r = rig_protected();

	arm(r, 2, 0x3f8, 2, 0);
	debug_data_access(&r->c, 0x3f8, 1, true, true);
	CHECK_EQ(r->c.pending_db, 0);
	r->c.cr4 |= CR4_DE;
	debug_data_access(&r->c, 0x3f8, 1, true, false);
	CHECK_EQ(r->c.pending_db, 0);
	debug_data_access(&r->c, 0x3f7, 2, false, true);
	CHECK_EQ(r->c.pending_db, 4);
	rig_free(r);
}

TESTS(T(dr4_and_dr5_are_aliases_unless_de_is_set), T(reserved_bits_of_dr6_and_dr7_are_fixed),
      T(general_detect_traps_register_access), T(code_breakpoints_hit_their_address_only),
      T(data_breakpoints_cover_their_aligned_length), T(io_breakpoints_need_de))
