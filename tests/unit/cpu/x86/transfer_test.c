#include "cpu/x86/transfer.h"
#include "rig.h"

static uint32_t stack32(struct rig *r, unsigned n)
{
	return load32(at(r, r->c.gpr[REG_RSP] + 4 * n));
}

static uint64_t stack64(struct rig *r, unsigned n)
{
	return load64(at(r, r->c.gpr[REG_RSP] + 8 * n));
}

/* -- Far jumps, calls, returns ---------------------------------------------------------------- */

TEST(real_mode_far_call_and_return_are_inverse)
{
	struct rig *r = rig_real();

	CHECK_EQ(far_call(&r->c, 0x100, 0x20, 2, 0x7c05), 0);
	CHECK_EQ(r->c.seg[SEG_CS].base, 0x1000);
	CHECK_EQ(r->c.rip, 0x20);
	CHECK_EQ(r->c.gpr[REG_RSP], 0x6ffc);
	CHECK_EQ(far_ret(&r->c, 2, 4), 0);
	CHECK_EQ(r->c.seg[SEG_CS].sel, 0);
	CHECK_EQ(r->c.rip, 0x7c05);
	CHECK_EQ(r->c.gpr[REG_RSP], 0x7004);
	rig_free(r);
}

TEST(a_far_jump_enters_protected_mode_code_and_64_bit_code)
{
	struct rig *r = rig_protected();

	CHECK_EQ(far_jmp(&r->c, CODE16, 0x1234, 2, 0), 0);
	CHECK_EQ(r->c.code_size, 2);
	CHECK_EQ(far_jmp(&r->c, CODE32, 0x123456, 4, 0), 0);
	CHECK_EQ(r->c.code_size, 4);
	CHECK_EQ(far_jmp(&r->c, DATA32, 0, 4, 0), EXC_GP);
	CHECK_EQ(r->c.exc_error, DATA32);
	CHECK_EQ(far_jmp(&r->c, CODE32_3, 0, 4, 0), EXC_GP);
	CHECK_EQ(far_jmp(&r->c, 0, 0, 4, 0), EXC_GP);
	CHECK_EQ(far_jmp(&r->c, CODE16, 0x12345, 4, 0), EXC_GP); /* limit */
	CHECK_EQ(r->c.exc_error, 0);
	rig_free(r);
	r = rig_long();
	CHECK_EQ(far_jmp(&r->c, CODE32, 0x1000, 4, 0), 0);
	CHECK(!r->c.code64);
	CHECK_EQ(far_jmp(&r->c, CODE64, 0x1000, 4, 0), 0);
	CHECK(r->c.code64);
	gdt_set(r, SEL_FREE, 0, 0xfffff, A_CODE64 | ATTR_DB);
	CHECK_EQ(far_jmp(&r->c, SEL_FREE, 0, 4, 0), EXC_GP);
	rig_free(r);
}

TEST(a_call_gate_switches_stacks_and_copies_parameters)
{
	struct rig *r = rig_protected();

	store64(at(r, GDT + SEL_FREE), gate_bits(CODE32, 0x12345, 0xec, 2));
	rig_ring(r, 3);
	store32(at(r, STACK3), 0xaaaa);
	store32(at(r, STACK3 + 4), 0xbbbb);
	CHECK_EQ(far_call(&r->c, SEL_FREE | 3, 0x999, 4, 0x10007), 0);
	CHECK_EQ(r->c.cpl, 0);
	CHECK_EQ(r->c.rip, 0x12345);
	CHECK_EQ(r->c.gpr[REG_RSP], STACK0 - 0x1000 - 24);
	CHECK_EQ(stack32(r, 0), 0x10007);
	CHECK_EQ(stack32(r, 1), CODE32_3);
	CHECK_EQ(stack32(r, 2), 0xaaaa);
	CHECK_EQ(stack32(r, 3), 0xbbbb);
	CHECK_EQ(stack32(r, 4), STACK3);
	CHECK_EQ(stack32(r, 5), DATA32_3);
	/* RET 8 undoes it, takes the parameters off both stacks and drops inner segments. */
	seg_force(&r->c, SEG_DS, DATA32, A_DATA32);
	CHECK_EQ(far_ret(&r->c, 4, 8), 0);
	CHECK_EQ(r->c.cpl, 3);
	CHECK_EQ(r->c.rip, 0x10007);
	CHECK_EQ(r->c.gpr[REG_RSP], STACK3 + 8);
	CHECK(r->c.seg[SEG_DS].attr & ATTR_UNUSABLE);
	CHECK(!(r->c.seg[SEG_ES].attr & ATTR_UNUSABLE));
	rig_free(r);
}

TEST(a_call_gates_privilege_is_its_own)
{
	struct rig *r = rig_protected();

	store64(at(r, GDT + SEL_FREE), gate_bits(CODE32, 0x12345, 0x8c, 0));
	rig_ring(r, 3);
	CHECK_EQ(far_call(&r->c, SEL_FREE, 0, 4, 0), EXC_GP);
	CHECK_EQ(r->c.exc_error, SEL_FREE);
	store64(at(r, GDT + SEL_FREE), gate_bits(CODE32, 0x12345, 0x6c, 0));
	CHECK_EQ(far_call(&r->c, SEL_FREE, 0, 4, 0), EXC_NP);
	/* JMP through a gate cannot go inwards. */
	store64(at(r, GDT + SEL_FREE), gate_bits(CODE32, 0x12345, 0xec, 0));
	CHECK_EQ(far_jmp(&r->c, SEL_FREE, 0, 4, 0), EXC_GP);
	CHECK_EQ(r->c.exc_error, CODE32);
	CHECK_EQ(r->c.cpl, 3);
	rig_free(r);
}

TEST(a_bad_inner_stack_is_ts_and_changes_nothing)
{
	struct rig *r = rig_protected();

	store64(at(r, GDT + SEL_FREE), gate_bits(CODE32, 0x12345, 0xec, 0));
	rig_ring(r, 3);
	store16(at(r, TSS + 8), DATA32_3);
	CHECK_EQ(far_call(&r->c, SEL_FREE, 0, 4, 0), EXC_TS);
	CHECK_EQ(r->c.exc_error, DATA32_3 & ~3);
	r->c.seg[SEG_TR].limit = 8;
	CHECK_EQ(far_call(&r->c, SEL_FREE, 0, 4, 0), EXC_TS);
	CHECK_EQ(r->c.exc_error, SEL_TSS);
	CHECK_EQ(r->c.gpr[REG_RSP], STACK3);
	CHECK_EQ(r->c.cpl, 3);
	rig_free(r);
}

TEST(a_64_bit_call_gate_pushes_8_bytes_and_a_null_ss)
{
	struct rig *r = rig_long();

	store64(at(r, GDT + SEL_FREE), gate_bits(CODE64, 0x12345, 0xec, 2));
	store64(at(r, GDT + SEL_FREE + 8), 1);
	rig_ring(r, 3);
	CHECK_EQ(far_call(&r->c, SEL_FREE | 3, 0, 4, 0x10007), 0);
	CHECK_EQ(r->c.rip, 0x100012345);
	CHECK_EQ(r->c.cpl, 0);
	CHECK_EQ(r->c.seg[SEG_SS].sel, 0);
	CHECK_EQ(r->c.gpr[REG_RSP], STACK0 - 0x1000 - 32);
	CHECK_EQ(stack64(r, 0), 0x10007);
	CHECK_EQ(stack64(r, 2), STACK3);
	CHECK_EQ(far_ret(&r->c, 8, 0), 0);
	CHECK_EQ(r->c.cpl, 3);
	CHECK_EQ(r->c.gpr[REG_RSP], STACK3);
	rig_free(r);
}

/* -- Events --------------------------------------------------------------------------------- */

TEST(real_mode_interrupts_use_the_vector_table)
{
	struct rig *r = rig_real();

	store32(at(r, 4 * 0x21), 0x00501234);
	vcpu_set_rflags(&r->c, RFLAGS_IF | RFLAGS_CF | RFLAGS_TF);
	CHECK_EQ(soft_int(&r->c, 0x21, SOFT_INT_N, 0x7c02), 0);
	CHECK_EQ(r->c.seg[SEG_CS].sel, 0x50);
	CHECK_EQ(r->c.rip, 0x1234);
	CHECK_EQ(load16(at(r, 0x6ffa)), 0x7c02);
	CHECK_EQ(load16(at(r, 0x6ffe)), 0x303);
	CHECK_EQ(vcpu_rflags(&r->c), 3);
	CHECK_EQ(iret(&r->c, 2, 0), 0);
	CHECK_EQ(r->c.rip, 0x7c02);
	CHECK_EQ(vcpu_rflags(&r->c), 0x303);
	r->c.idtr.limit = 0x3f;
	CHECK_EQ(soft_int(&r->c, 0x21, SOFT_INT_N, 0), EXC_GP);
	rig_free(r);
}

TEST(faults_push_an_error_code_and_rf)
{
	struct rig *r = rig_protected();

	vcpu_set_rflags(&r->c, RFLAGS_IF);
	r->c.exc_error = 0x1234;
	CHECK(exc_deliver(&r->c, EXC_GP));
	CHECK_EQ(r->c.rip, 0x50000 + 13);
	CHECK_EQ(stack32(r, 0), 0x1234);
	CHECK_EQ(stack32(r, 1), 0x10000);
	CHECK_EQ(stack32(r, 2), CODE32);
	CHECK_EQ(stack32(r, 3), RFLAGS_IF | RFLAGS_RF | 2);
	CHECK_EQ(vcpu_rflags(&r->c), 2);
	rig_free(r);
}

TEST(trap_gates_leave_if_alone)
{
	struct rig *r = rig_protected();

	idt_set(r, 0x80, CODE32, 0x1000, 0xef);
	vcpu_set_rflags(&r->c, RFLAGS_IF | RFLAGS_NT);
	CHECK_EQ(soft_int(&r->c, 0x80, SOFT_INT_N, 0x10002), 0);
	CHECK_EQ(vcpu_rflags(&r->c), RFLAGS_IF | 2);
	CHECK_EQ(stack32(r, 2), RFLAGS_IF | RFLAGS_NT | 2);
	rig_free(r);
}

TEST(software_interrupts_need_the_gates_dpl)
{
	struct rig *r = rig_protected();

	rig_ring(r, 3);
	CHECK_EQ(soft_int(&r->c, 0x80, SOFT_INT_N, 0), EXC_GP);
	CHECK_EQ(r->c.exc_error, 0x80 * 8 + 2);
	CHECK_EQ(soft_int(&r->c, 3, SOFT_INT3, 0), EXC_GP);
	CHECK_EQ(soft_int(&r->c, 1, SOFT_INT1, 0x10001), 0);
	CHECK_EQ(r->c.rip, 0x50001);
	rig_free(r);
}

TEST(inward_interrupts_and_iret_are_inverse)
{
	struct rig *r = rig_protected();

	rig_ring(r, 3);
	vcpu_set_rflags(&r->c, RFLAGS_IF | RFLAGS_ZF);
	CHECK(irq_deliver(&r->c, 0x40));
	CHECK_EQ(r->c.cpl, 0);
	CHECK_EQ(stack32(r, 0), 0x10000);
	CHECK_EQ(stack32(r, 3), STACK3);
	CHECK_EQ(stack32(r, 4), DATA32_3);
	CHECK_EQ(iret(&r->c, 4, 0), 0);
	CHECK_EQ(r->c.cpl, 3);
	CHECK_EQ(r->c.rip, 0x10000);
	CHECK_EQ(r->c.gpr[REG_RSP], STACK3);
	CHECK_EQ(vcpu_rflags(&r->c), RFLAGS_IF | RFLAGS_ZF | 2);
	rig_free(r);
}

TEST(iret_in_ring_3_cannot_change_if_or_iopl)
{
	struct rig *r = rig_protected();

	rig_ring(r, 3);
	vcpu_set_rflags(&r->c, RFLAGS_IF);
	r->c.gpr[REG_RSP] = STACK3 - 12;
	store32(at(r, STACK3 - 12), 0x4000);
	store32(at(r, STACK3 - 8), CODE32_3);
	store32(at(r, STACK3 - 4), RFLAGS_IOPL | RFLAGS_CF | RFLAGS_VIP);
	CHECK_EQ(iret(&r->c, 4, 0), 0);
	CHECK_EQ(vcpu_rflags(&r->c), RFLAGS_IF | RFLAGS_CF | 2);
	CHECK_EQ(r->c.gpr[REG_RSP], STACK3);
	store32(at(r, STACK3 - 8), CODE32);
	r->c.gpr[REG_RSP] = STACK3 - 12;
	CHECK_EQ(iret(&r->c, 4, 0), EXC_GP);
	CHECK_EQ(r->c.gpr[REG_RSP], STACK3 - 12);
	rig_free(r);
}

TEST(long_mode_frames_are_aligned_and_have_the_stack)
{
	struct rig *r = rig_long();

	r->c.gpr[REG_RSP] = STACK0 - 4;
	r->c.exc_error = 7;
	r->c.exc_cr2 = 0x1234;
	CHECK(exc_deliver(&r->c, EXC_PF));
	CHECK_EQ(r->c.cr2, 0x1234);
	CHECK_EQ(r->c.gpr[REG_RSP], STACK0 - 16 - 48);
	CHECK_EQ(stack64(r, 0), 7);
	CHECK_EQ(stack64(r, 1), 0x10000);
	CHECK_EQ(stack64(r, 2), CODE64);
	CHECK_EQ(stack64(r, 4), STACK0 - 4);
	CHECK_EQ(stack64(r, 5), DATA32);
	r->c.gpr[REG_RSP] += 8;
	CHECK_EQ(iret(&r->c, 8, 0), 0);
	CHECK_EQ(r->c.gpr[REG_RSP], STACK0 - 4);
	CHECK_EQ(r->c.rip, 0x10000);
	rig_free(r);
}

TEST(ist_switches_stacks_even_in_ring_0)
{
	struct rig *r = rig_long();

	idt64_set(r, 2, CODE64, 0x1000, 0x8e, 1);
	CHECK(nmi_deliver(&r->c));
	CHECK_EQ(r->c.nmi_blocked, 1);
	CHECK_EQ(r->c.gpr[REG_RSP], STACK_IST - 40);
	CHECK_EQ(r->c.seg[SEG_SS].sel, DATA32);
	CHECK_EQ(iret(&r->c, 8, 0), 0);
	CHECK_EQ(r->c.nmi_blocked, 0);
	CHECK_EQ(r->c.gpr[REG_RSP], STACK0);
	rig_free(r);
}

TEST(a_non_canonical_return_address_faults_in_ring_0)
{
	struct rig *r = rig_long();

	r->c.gpr[REG_RSP] = STACK0 - 40;
	store64(at(r, STACK0 - 40), 0x800000000000);
	store64(at(r, STACK0 - 32), CODE64_3);
	store64(at(r, STACK0 - 24), 2);
	store64(at(r, STACK0 - 16), STACK3);
	store64(at(r, STACK0 - 8), DATA32_3);
	CHECK_EQ(iret(&r->c, 8, 0), EXC_GP);
	CHECK_EQ(r->c.exc_error, 0);
	CHECK_EQ(r->c.cpl, 0);
	store64(at(r, STACK0 - 40), 0x4000);
	CHECK_EQ(iret(&r->c, 8, 0), 0);
	CHECK_EQ(r->c.cpl, 3);
	rig_free(r);
}

TEST(external_events_set_ext_in_error_codes)
{
	struct rig *r = rig_protected();

	/* Vector 0x40's gate is absent: #NP with IDT and EXT, whose handler then runs. */
	idt_set(r, 0x40, CODE32, 0, 0x0e);
	CHECK(irq_deliver(&r->c, 0x40));
	CHECK_EQ(r->c.rip, 0x50000 + 11);
	CHECK_EQ(stack32(r, 0), 0x40 * 8 + 3);
	/* INT n has no EXT. */
	CHECK_EQ(soft_int(&r->c, 0x40, SOFT_INT_N, 0), EXC_NP);
	CHECK_EQ(r->c.exc_error, 0x40 * 8 + 2);
	rig_free(r);
}

TEST(contributory_faults_pair_up_to_a_double_fault)
{
	struct rig *r = rig_protected();

	idt_set(r, 13, CODE32, 0, 0x0e); /* #GP's handler absent: #NP, hence #DF */
	CHECK(exc_deliver(&r->c, EXC_GP));
	CHECK_EQ(r->c.rip, 0x50000 + 8);
	CHECK_EQ(stack32(r, 0), 0);
	rig_ring(r, 0);
	idt_set(r, 6, CODE32, 0, 0x0e); /* #UD is benign: #NP comes alone */
	CHECK(exc_deliver(&r->c, EXC_UD));
	CHECK_EQ(r->c.rip, 0x50000 + 11);
	rig_ring(r, 0);
	idt_set(r, 14, CODE32, 0, 0x0e); /* #PF, then #NP */
	CHECK(exc_deliver(&r->c, EXC_PF));
	CHECK_EQ(r->c.rip, 0x50000 + 8);
	idt_set(r, 8, CODE32, 0, 0x0e);
	CHECK(!exc_deliver(&r->c, EXC_GP));
	rig_free(r);
}

TEST(debug_exceptions_update_dr6_and_clear_gd)
{
	struct rig *r = rig_protected();

	r->c.pending_db = DR6_BS | DR6_B0;
	r->c.dr[7] |= DR7_GD;
	CHECK(exc_deliver(&r->c, EXC_DB));
	CHECK_EQ(r->c.dr[6], DR6_FIXED1 | DR6_BS | DR6_B0);
	CHECK_EQ(r->c.dr[7] & DR7_GD, 0);
	CHECK_EQ(r->c.pending_db, 0);
	CHECK_EQ(stack32(r, 2) & RFLAGS_RF, 0);
	rig_free(r);
}

/* -- Virtual-8086 mode --------------------------------------------------------------------------
 */

/* Ring 0 that IRETs to 0x100:0x20 with flags. */
static void enter_v8086(struct rig *r, uint32_t flags)
{
	static const uint32_t frame[] = {
		0x20, 0x100, 0, 0x800, 0x200, 0x300, 0x400, 0x500, 0x600
	};

	vcpu_set_rflags(&r->c, 0);
	rig_ring(r, 0);
	r->c.gpr[REG_RSP] = STACK0 - sizeof(frame);
	memcpy(at(r, STACK0 - sizeof(frame)), frame, sizeof(frame));
	store32(at(r, STACK0 - sizeof(frame) + 8), flags | RFLAGS_VM);
	CHECK_EQ(iret(&r->c, 4, 0), 0);
}

TEST(iret_enters_virtual_8086_mode_and_interrupts_leave_it)
{
	struct rig *r = rig_protected();

	enter_v8086(r, RFLAGS_IF);
	CHECK_EQ(r->c.cpl, 3);
	CHECK_EQ(r->c.code_size, 2);
	CHECK_EQ(r->c.rip, 0x20);
	CHECK_EQ(r->c.seg[SEG_CS].base, 0x1000);
	CHECK_EQ(r->c.seg[SEG_GS].base, 0x6000);
	CHECK_EQ(r->c.gpr[REG_RSP], 0x800);
	CHECK(irq_deliver(&r->c, 0x40));
	CHECK_EQ(r->c.cpl, 0);
	CHECK_EQ(r->c.gpr[REG_RSP], STACK0 - 0x1000 - 36);
	CHECK_EQ(stack32(r, 0), 0x20);
	CHECK_EQ(stack32(r, 2), RFLAGS_IF | RFLAGS_VM | 2);
	CHECK_EQ(stack32(r, 4), 0x200);
	CHECK_EQ(stack32(r, 5), 0x300);
	CHECK_EQ(stack32(r, 8), 0x600);
	CHECK(r->c.seg[SEG_DS].attr & ATTR_UNUSABLE);
	CHECK_EQ(vcpu_rflags(&r->c) & (RFLAGS_VM | RFLAGS_IF), 0);
	rig_free(r);
}

TEST(int_n_in_virtual_8086_mode_follows_iopl)
{
	struct rig *r = rig_protected();

	idt_set(r, 0x21, CODE32, 0x7000, 0xee);
	enter_v8086(r, 0);
	CHECK_EQ(soft_int(&r->c, 0x21, SOFT_INT_N, 0x22), EXC_GP);
	CHECK_EQ(r->c.exc_error, 0);
	enter_v8086(r, RFLAGS_IOPL);
	CHECK_EQ(soft_int(&r->c, 0x21, SOFT_INT_N, 0x22), 0);
	CHECK_EQ(r->c.rip, 0x7000);
	CHECK_EQ(r->c.cpl, 0);
	rig_free(r);
}

TEST(vme_redirects_int_n_with_a_virtual_if)
{
	struct rig *r = rig_protected();

	r->c.cr4 |= CR4_VME;
	r->c.seg[SEG_TR].limit = 0x200;
	store16(at(r, TSS + 102), 0x88);
	store32(at(r, 4 * 0x21), 0x07000055);
	enter_v8086(r, RFLAGS_VIF);
	CHECK_EQ(soft_int(&r->c, 0x21, SOFT_INT_N, 0x22), 0);
	CHECK_EQ(r->c.seg[SEG_CS].sel, 0x700);
	CHECK_EQ(r->c.rip, 0x55);
	CHECK_EQ(load16(at(r, 0x2000 + 0x7fe)), RFLAGS_IF | RFLAGS_IOPL | 2);
	CHECK_EQ(vcpu_rflags(&r->c) & (RFLAGS_VIF | RFLAGS_IOPL), 0);
	CHECK_EQ(iret(&r->c, 2, 0), 0);
	CHECK_EQ(vcpu_rflags(&r->c), RFLAGS_VM | RFLAGS_VIF | 2);
	*at(r, TSS + 0x68 + 0x21 / 8) = 0xff; /* not redirected: IOPL rules */
	CHECK_EQ(soft_int(&r->c, 0x21, SOFT_INT_N, 0x22), EXC_GP);
	rig_free(r);
}

/* -- Fast calls ------------------------------------------------------------------------------- */

TEST(syscall_and_sysret_are_inverse)
{
	struct rig *r = rig_long();

	r->c.msr.star = (uint64_t)0x20 << 48 | (uint64_t)CODE64 << 32;
	r->c.msr.lstar = 0xffff800000001000;
	r->c.msr.sfmask = RFLAGS_IF | RFLAGS_TF;
	rig_ring(r, 3);
	vcpu_set_rflags(&r->c, RFLAGS_IF | RFLAGS_CF);
	CHECK_EQ(sys_syscall(&r->c, 0x10002), 0);
	CHECK_EQ(r->c.rip, 0xffff800000001000);
	CHECK_EQ(r->c.cpl, 0);
	CHECK_EQ(r->c.seg[SEG_SS].sel, CODE64 + 8);
	CHECK_EQ(r->c.gpr[REG_R11], RFLAGS_IF | RFLAGS_CF | 2);
	CHECK_EQ(vcpu_rflags(&r->c), RFLAGS_CF | 2);
	CHECK_EQ(sys_sysret(&r->c, 8), 0);
	CHECK_EQ(r->c.rip, 0x10002);
	CHECK_EQ(r->c.cpl, 3);
	CHECK(r->c.code64);
	CHECK_EQ(r->c.seg[SEG_CS].sel, 0x33);
	CHECK_EQ(r->c.seg[SEG_SS].sel, 0x2b);
	CHECK_EQ(vcpu_rflags(&r->c), RFLAGS_IF | RFLAGS_CF | 2);
	rig_free(r);
}

TEST(sysret_to_a_non_canonical_address_faults_in_ring_0)
{
	struct rig *r = rig_long();

	r->c.gpr[REG_RCX] = 0x800000000000;
	CHECK_EQ(sys_sysret(&r->c, 8), EXC_GP);
	CHECK_EQ(r->c.cpl, 0);
	r->c.msr.efer &= ~(uint64_t)EFER_SCE;
	CHECK_EQ(sys_sysret(&r->c, 8), EXC_UD);
	rig_free(r);
}

TEST(sysenter_and_sysexit_use_fixed_selectors)
{
	struct rig *r = rig_protected();

	CHECK_EQ(sys_sysenter(&r->c), EXC_GP);
	r->c.msr.sysenter_cs = CODE32;
	r->c.msr.sysenter_eip = 0x1234;
	r->c.msr.sysenter_esp = 0x5678;
	rig_ring(r, 3);
	CHECK_EQ(sys_sysexit(&r->c, 4), EXC_GP);
	CHECK_EQ(sys_sysenter(&r->c), 0);
	CHECK_EQ(r->c.rip, 0x1234);
	CHECK_EQ(r->c.gpr[REG_RSP], 0x5678);
	CHECK_EQ(r->c.cpl, 0);
	CHECK_EQ(r->c.code_size, 4);
	r->c.gpr[REG_RDX] = 0x1111;
	r->c.gpr[REG_RCX] = 0x2222;
	CHECK_EQ(sys_sysexit(&r->c, 4), 0);
	CHECK_EQ(r->c.seg[SEG_CS].sel, CODE32_3);
	CHECK_EQ(r->c.seg[SEG_SS].sel, DATA32_3);
	CHECK_EQ(r->c.rip, 0x1111);
	CHECK_EQ(r->c.gpr[REG_RSP], 0x2222);
	rig_free(r);
}

TESTS(T(real_mode_far_call_and_return_are_inverse),
      T(a_far_jump_enters_protected_mode_code_and_64_bit_code),
      T(a_call_gate_switches_stacks_and_copies_parameters), T(a_call_gates_privilege_is_its_own),
      T(a_bad_inner_stack_is_ts_and_changes_nothing),
      T(a_64_bit_call_gate_pushes_8_bytes_and_a_null_ss),
      T(real_mode_interrupts_use_the_vector_table), T(faults_push_an_error_code_and_rf),
      T(trap_gates_leave_if_alone), T(software_interrupts_need_the_gates_dpl),
      T(inward_interrupts_and_iret_are_inverse), T(iret_in_ring_3_cannot_change_if_or_iopl),
      T(long_mode_frames_are_aligned_and_have_the_stack), T(ist_switches_stacks_even_in_ring_0),
      T(a_non_canonical_return_address_faults_in_ring_0), T(external_events_set_ext_in_error_codes),
      T(contributory_faults_pair_up_to_a_double_fault), T(debug_exceptions_update_dr6_and_clear_gd),
      T(iret_enters_virtual_8086_mode_and_interrupts_leave_it),
      T(int_n_in_virtual_8086_mode_follows_iopl), T(vme_redirects_int_n_with_a_virtual_if),
      T(syscall_and_sysret_are_inverse), T(sysret_to_a_non_canonical_address_faults_in_ring_0),
      T(sysenter_and_sysexit_use_fixed_selectors))
