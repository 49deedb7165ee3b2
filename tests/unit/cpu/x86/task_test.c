#include "cpu/x86/transfer.h"
#include "rig.h"

/* The other task: 32-bit, ring 0, entry 0x8000, stack at STACK3. */
static void fill_task(struct rig *r, uint32_t eflags)
{
	uint8_t *t = at(r, TSS_B);

	memset(t, 0, 0x68);
	store32(t + 0x20, 0x8000);
	store32(t + 0x24, eflags);
	store32(t + 0x28, 0xa1b2c3d4);
	store32(t + 0x38, STACK3);
	for (unsigned i = 0; i < 6; i++)
		store32(t + 0x48 + 4 * i, DATA32);
	store32(t + 0x4c, CODE32);
}

static unsigned tss_type(struct rig *r, unsigned sel)
{
	return gdt_get(r, sel) >> 40 & 0xff;
}

TEST(jmp_switches_tasks_and_moves_the_busy_bit)
{
	struct rig *r = rig_protected();

	fill_task(r, 2);
	r->c.gpr[REG_RBX] = 0x1234;
	r->c.dr[7] |= 0x3ff;
	vcpu_set_rflags(&r->c, RFLAGS_CF);
	CHECK_EQ(far_jmp(&r->c, SEL_TSS_B, 0, 4, 0x10007), 0);
	CHECK_EQ(r->c.rip, 0x8000);
	CHECK_EQ(r->c.gpr[REG_RAX], 0xa1b2c3d4);
	CHECK_EQ(r->c.gpr[REG_RSP], STACK3);
	CHECK_EQ(r->c.seg[SEG_TR].sel, SEL_TSS_B);
	CHECK_EQ(tss_type(r, SEL_TSS), A_TSS32);
	CHECK_EQ(tss_type(r, SEL_TSS_B), A_TSS32_BUSY);
	CHECK_EQ(vcpu_rflags(&r->c), 2);
	CHECK(r->c.cr0 & CR0_TS);
	CHECK_EQ(r->c.dr[7] & 0x3ff, 0x2aa);
	/* What the old TSS remembers. */
	CHECK_EQ(load32(at(r, TSS + 0x20)), 0x10007);
	CHECK_EQ(load32(at(r, TSS + 0x24)), RFLAGS_CF | 2);
	CHECK_EQ(load32(at(r, TSS + 0x34)), 0x1234);
	CHECK_EQ(load16(at(r, TSS + 0x4c)), CODE32);
	rig_free(r);
}

TEST(call_nests_and_iret_comes_back)
{
	struct rig *r = rig_protected();

	fill_task(r, 2);
	CHECK_EQ(far_call(&r->c, SEL_TSS_B, 0, 4, 0x10007), 0);
	CHECK(r->c.rflags_rest & RFLAGS_NT);
	CHECK_EQ(load16(at(r, TSS_B)), SEL_TSS);
	CHECK_EQ(tss_type(r, SEL_TSS), A_TSS32_BUSY);
	CHECK_EQ(far_call(&r->c, SEL_TSS, 0, 4, 0), EXC_GP); /* busy */
	CHECK_EQ(iret(&r->c, 4, 0x8001), 0);
	CHECK_EQ(r->c.rip, 0x10007);
	CHECK_EQ(r->c.seg[SEG_TR].sel, SEL_TSS);
	CHECK_EQ(tss_type(r, SEL_TSS_B), A_TSS32);
	CHECK_EQ(load32(at(r, TSS_B + 0x20)), 0x8001);
	CHECK_EQ(load32(at(r, TSS_B + 0x24)), 2); /* NT cleared in the image */
	CHECK_EQ(r->c.rflags_rest & RFLAGS_NT, 0);
	rig_free(r);
}

TEST(an_exception_through_a_task_gate_pushes_its_error_code)
{
	struct rig *r = rig_protected();

	fill_task(r, 2);
	store64(at(r, IDT + 8 * 8), gate_bits(SEL_TSS_B, 0, 0x85, 0));
	idt_set(r, 13, CODE32, 0, 0x0e);
	CHECK(exc_deliver(&r->c, EXC_GP));
	CHECK_EQ(r->c.rip, 0x8000);
	CHECK_EQ(r->c.gpr[REG_RSP], STACK3 - 4);
	CHECK_EQ(load32(at(r, STACK3 - 4)), 0);
	CHECK_EQ(load32(at(r, TSS + 0x20)), 0x10000);
	CHECK(r->c.rflags_rest & RFLAGS_NT);
	rig_free(r);
}

TEST(a_bad_segment_in_the_new_task_faults_in_the_new_task)
{
	struct rig *r = rig_protected();

	fill_task(r, 2);
	store16(at(r, TSS_B + 0x54), CODE32_3); /* DS: DPL 3 is fine, but then SS */
	store16(at(r, TSS_B + 0x50), DATA32_3);
	CHECK_EQ(far_jmp(&r->c, SEL_TSS_B, 0, 4, 0x10007), EXC_TS);
	CHECK_EQ(r->c.exc_error, DATA32_3 & ~3);
	CHECK_EQ(r->c.rip, 0x8000);
	CHECK_EQ(r->c.seg[SEG_TR].sel, SEL_TSS_B);
	CHECK_EQ(r->c.seg[SEG_CS].sel, CODE32);
	CHECK(r->c.seg[SEG_SS].attr & ATTR_UNUSABLE);
	CHECK(r->c.seg[SEG_DS].attr & ATTR_UNUSABLE);
	rig_free(r);
}

TEST(a_tss_that_is_too_short_faults_in_the_old_task)
{
	struct rig *r = rig_protected();

	fill_task(r, 2);
	gdt_set(r, SEL_TSS_B, TSS_B, 0x66, A_TSS32);
	CHECK_EQ(far_jmp(&r->c, SEL_TSS_B, 0, 4, 0), EXC_TS);
	CHECK_EQ(r->c.exc_error, SEL_TSS_B);
	CHECK_EQ(r->c.rip, 0x10000);
	CHECK_EQ(tss_type(r, SEL_TSS), A_TSS32_BUSY);
	CHECK_EQ(tss_type(r, SEL_TSS_B), A_TSS32);
	rig_free(r);
}

TEST(a_16_bit_task_leaves_ones_in_upper_halves)
{
	struct rig *r = rig_protected();
	uint8_t *t = at(r, TSS_B);

	memset(t, 0, 0x2c);
	gdt_set(r, SEL_TSS_B, TSS_B, 0x2b, A_TSS16);
	store16(t + 0x0e, 0x1000);
	store16(t + 0x12, 0xabcd);
	store16(t + 0x1a, 0x8000);
	store16(t + 0x22, DATA16);
	store16(t + 0x24, CODE16);
	store16(t + 0x26, DATA16);
	store16(t + 0x28, DATA16);
	CHECK_EQ(far_jmp(&r->c, SEL_TSS_B, 0, 4, 0), 0);
	CHECK_EQ(r->c.gpr[REG_RAX], 0xffffabcd);
	CHECK_EQ(r->c.rip, 0x1000);
	CHECK_EQ(r->c.code_size, 2);
	CHECK(r->c.seg[SEG_FS].attr & ATTR_UNUSABLE);
	/* And back into the 32-bit one, whose image must be whole. */
	CHECK_EQ(far_jmp(&r->c, SEL_TSS, 0, 4, 0x1005), 0);
	CHECK_EQ(load16(at(r, TSS_B + 0x0e)), 0x1005);
	CHECK_EQ(load16(at(r, TSS_B + 0x12)), 0xabcd);
	rig_free(r);
}

TEST(a_task_can_be_a_virtual_8086_program)
{
	struct rig *r = rig_protected();

	fill_task(r, RFLAGS_VM | 2);
	store32(at(r, TSS_B + 0x4c), 0x100);
	store32(at(r, TSS_B + 0x20), 0x80);
	CHECK_EQ(far_jmp(&r->c, SEL_TSS_B, 0, 4, 0), 0);
	CHECK_EQ(r->c.cpl, 3);
	CHECK_EQ(r->c.seg[SEG_CS].base, 0x1000);
	CHECK_EQ(r->c.code_size, 2);
	rig_free(r);
}

TEST(the_debug_trap_bit_raises_bt)
{
	struct rig *r = rig_protected();

	fill_task(r, 2);
	store16(at(r, TSS_B + 0x64), 1);
	CHECK_EQ(far_jmp(&r->c, SEL_TSS_B, 0, 4, 0), 0);
	CHECK_EQ(r->c.pending_db, DR6_BT);
	rig_free(r);
}

TEST(long_mode_has_no_task_switch)
{
	struct rig *r = rig_long();

	CHECK_EQ(far_jmp(&r->c, SEL_TSS_B, 0, 4, 0), EXC_GP);
	vcpu_set_rflags(&r->c, RFLAGS_NT);
	CHECK_EQ(iret(&r->c, 8, 0), EXC_GP);
	rig_free(r);
}

/* A chain of faults must end: every handler is a task gate to a task that cannot run. */
TEST(faults_through_task_gates_end_in_a_triple_fault)
{
	struct rig *r = rig_protected();

	fill_task(r, 2);
	store16(at(r, TSS_B + 0x50), DATA32_3);
	for (unsigned v = 0; v < 32; v++)
		store64(at(r, IDT + 8 * v), gate_bits(SEL_TSS_B, 0, 0x85, 0));
	CHECK(!exc_deliver(&r->c, EXC_UD));
	rig_free(r);
}

TESTS(T(jmp_switches_tasks_and_moves_the_busy_bit), T(call_nests_and_iret_comes_back),
      T(an_exception_through_a_task_gate_pushes_its_error_code),
      T(a_bad_segment_in_the_new_task_faults_in_the_new_task),
      T(a_tss_that_is_too_short_faults_in_the_old_task),
      T(a_16_bit_task_leaves_ones_in_upper_halves), T(a_task_can_be_a_virtual_8086_program),
      T(the_debug_trap_bit_raises_bt), T(long_mode_has_no_task_switch),
      T(faults_through_task_gates_end_in_a_triple_fault))
