#include "dev/chip/lapic.h"

#include "check.h"
#include "mem/lapic_state.h"

static struct lapic_out out;

static struct lapic on(uint32_t id)
{
	struct lapic l;

	lapic_reset(&l, id, id == 0, 46, 40);
	lapic_write(&l, LAPIC_SVR, 0x1ff, 0, &out);
	return l;
}

static struct lapic x2(uint32_t id)
{
	struct lapic l = on(id);

	CHECK(lapic_write_base(&l, l.base | APIC_BASE_X2APIC, &out));
	return l;
}

TEST(reset_values_are_the_manuals)
{
	struct lapic l;

	lapic_reset(&l, 3, false, 46, 40);
	CHECK_EQ(l.base, 0xfee00800);
	CHECK_EQ(lapic_read(&l, LAPIC_ID, 0), 3 << 24);
	CHECK_EQ(lapic_read(&l, LAPIC_VERSION, 0), 0x1050014);
	CHECK_EQ(lapic_read(&l, LAPIC_DFR, 0), 0xffffffff);
	CHECK_EQ(lapic_read(&l, LAPIC_SVR, 0), 0xff);
	CHECK_EQ(lapic_read(&l, LAPIC_LVT_TIMER, 0), 0x10000);
}

TEST(interrupts_are_taken_only_while_software_enabled)
{
	struct lapic l;

	lapic_reset(&l, 0, true, 46, 40);
	CHECK(!lapic_accept(&l, 0x40, false));
	CHECK_EQ(lapic_pending(&l), -1);
	lapic_write(&l, LAPIC_SVR, 0x1ff, 0, &out);
	CHECK(lapic_accept(&l, 0x40, false));
	CHECK_EQ(lapic_pending(&l), 0x40);
}

TEST(the_highest_vector_comes_first_and_blocks_its_class)
{
	struct lapic l = on(0);

	lapic_accept(&l, 0x41, false);
	lapic_accept(&l, 0x52, false);
	CHECK_EQ(lapic_ack(&l), 0x52);
	CHECK_EQ(lapic_pending(&l), -1);
	lapic_accept(&l, 0x5f, false);
	CHECK_EQ(lapic_pending(&l), -1); /* the same class */
	lapic_accept(&l, 0x60, false);
	CHECK_EQ(lapic_ack(&l), 0x60);
	lapic_write(&l, LAPIC_EOI, 0, 0, &out);
	CHECK_EQ(lapic_pending(&l), -1);
	lapic_write(&l, LAPIC_EOI, 0, 0, &out);
	CHECK_EQ(lapic_ack(&l), 0x5f);
}

TEST(task_priority_holds_back_lower_classes)
{
	struct lapic l = on(0);

	lapic_accept(&l, 0x45, false);
	lapic_write(&l, LAPIC_TPR, 0x40, 0, &out);
	CHECK_EQ(lapic_pending(&l), -1);
	CHECK_EQ(lapic_read(&l, LAPIC_PPR, 0), 0x40);
	lapic_write(&l, LAPIC_TPR, 0x3f, 0, &out);
	CHECK_EQ(lapic_pending(&l), 0x45);
}

TEST(eoi_of_a_level_vector_is_broadcast)
{
	struct lapic l = on(0);

	lapic_accept(&l, 0x45, true);
	CHECK_EQ(lapic_read(&l, LAPIC_TMR + 2, 0), 1 << 5);
	lapic_ack(&l);
	lapic_write(&l, LAPIC_EOI, 0, 0, &out);
	CHECK(out.eoi);
	CHECK_EQ(out.eoi_vector, 0x45);
	lapic_accept(&l, 0x45, false);
	lapic_ack(&l);
	lapic_write(&l, LAPIC_EOI, 0, 0, &out);
	CHECK(!out.eoi);
	/* Software may want to tell the I/O APIC itself. */
	lapic_write(&l, LAPIC_SVR, SVR_ENABLE | SVR_NO_EOI_BROADCAST | 0xff, 0, &out);
	lapic_accept(&l, 0x45, true);
	lapic_ack(&l);
	lapic_write(&l, LAPIC_EOI, 0, 0, &out);
	CHECK(!out.eoi);
	CHECK_EQ(lapic_pending(&l), -1);
}

TEST(low_vectors_are_errors)
{
	struct lapic l = on(0);

	CHECK(!lapic_accept(&l, 15, false));
	CHECK_EQ(lapic_read(&l, LAPIC_ESR, 0), 0);
	lapic_write(&l, LAPIC_ESR, 0, 0, &out);
	CHECK_EQ(lapic_read(&l, LAPIC_ESR, 0), ESR_RECEIVE_ILLEGAL);
	lapic_write(&l, LAPIC_ESR, 0, 0, &out);
	CHECK_EQ(lapic_read(&l, LAPIC_ESR, 0), 0);
}

TEST(errors_interrupt_by_their_vector)
{
	struct lapic l = on(0);

	lapic_write(&l, LAPIC_LVT_ERROR, 0xf0, 0, &out);
	lapic_write(&l, LAPIC_ICR, 0x00004005, 0, &out);
	CHECK(!out.ipi);
	CHECK_EQ(lapic_pending(&l), 0xf0);
	lapic_write(&l, LAPIC_ESR, 0, 0, &out);
	CHECK_EQ(lapic_read(&l, LAPIC_ESR, 0), ESR_SEND_ILLEGAL);
}

TEST(a_reserved_register_is_an_error)
{
	struct lapic l = on(0);

	lapic_read(&l, 0x01, 0);
	lapic_write(&l, LAPIC_ESR, 0, 0, &out);
	CHECK_EQ(lapic_read(&l, LAPIC_ESR, 0), ESR_REGISTER);
}

TEST(the_command_register_sends_what_it_says)
{
	struct lapic l = on(0);

	lapic_write(&l, LAPIC_ICR2, 5u << 24, 0, &out);
	lapic_write(&l, LAPIC_ICR, 0x00004640, 0, &out); /* start-up, page 0x40 */
	CHECK(out.ipi);
	CHECK_EQ(out.msg.mode, APIC_STARTUP);
	CHECK_EQ(out.msg.vector, 0x40);
	CHECK_EQ(out.msg.dest, 5);
	CHECK_EQ(out.shorthand, 0);
	lapic_write(&l, LAPIC_ICR, 0x000c40fd, 0, &out);
	CHECK_EQ(out.shorthand, 3);
	lapic_write(&l, LAPIC_ICR, 0x0000c500, 0, &out);
	CHECK(out.ipi);
	lapic_write(&l, LAPIC_ICR, 0x00008500, 0, &out); /* INIT de-assert */
	CHECK(!out.ipi);
}

TEST(physical_destinations_name_the_id_or_all)
{
	struct lapic l = on(3);

	CHECK(lapic_matches(&l, &(struct apic_msg){ .dest = 3 }));
	CHECK(!lapic_matches(&l, &(struct apic_msg){ .dest = 2 }));
	CHECK(lapic_matches(&l, &(struct apic_msg){ .dest = 0xff }));
}

TEST(flat_logical_destinations_are_a_mask)
{
	struct lapic l = on(3);

	lapic_write(&l, LAPIC_LDR, 0x08000000, 0, &out);
	CHECK(lapic_matches(&l, &(struct apic_msg){ .dest = 0x0c, .logical = true }));
	CHECK(!lapic_matches(&l, &(struct apic_msg){ .dest = 0x04, .logical = true }));
}

TEST(cluster_logical_destinations_are_a_cluster_and_a_mask)
{
	struct lapic l = on(3);

	lapic_write(&l, LAPIC_DFR, 0x0fffffff, 0, &out);
	lapic_write(&l, LAPIC_LDR, 0x22000000, 0, &out);
	CHECK(lapic_matches(&l, &(struct apic_msg){ .dest = 0x23, .logical = true }));
	CHECK(!lapic_matches(&l, &(struct apic_msg){ .dest = 0x13, .logical = true }));
	CHECK(!lapic_matches(&l, &(struct apic_msg){ .dest = 0x21, .logical = true }));
}

TEST(x2apic_logical_ids_follow_from_the_id)
{
	struct lapic l = x2(0x25);
	uint64_t val;

	CHECK(lapic_read_x2(&l, LAPIC_LDR, 0, &val));
	CHECK_EQ(val, 0x00020020);
	CHECK(lapic_matches(
		&l,
		&(struct apic_msg){ .dest = 0x00020030, .logical = true, .x2apic_dest = true }));
	CHECK(!lapic_matches(
		&l,
		&(struct apic_msg){ .dest = 0x00010020, .logical = true, .x2apic_dest = true }));
}

TEST(x2apic_registers_fault_where_the_manual_says)
{
	struct lapic l = x2(0);
	uint64_t val;

	CHECK(!lapic_read_x2(&l, LAPIC_EOI, 0, &val));
	CHECK(!lapic_read_x2(&l, LAPIC_DFR, 0, &val));
	CHECK(!lapic_read_x2(&l, LAPIC_ICR2, 0, &val));
	CHECK(!lapic_write_x2(&l, LAPIC_EOI, 1, 0, &out));
	CHECK(lapic_write_x2(&l, LAPIC_EOI, 0, 0, &out));
	CHECK(!lapic_write_x2(&l, LAPIC_ID, 0, 0, &out));
	CHECK(!lapic_write_x2(&l, LAPIC_TPR, 0x100, 0, &out));
	CHECK(!lapic_write_x2(&l, LAPIC_SVR, 0x10000, 0, &out));
}

TEST(x2apic_command_register_has_a_wide_destination)
{
	struct lapic l = x2(0);

	CHECK(lapic_write_x2(&l, LAPIC_ICR, 0x0000012300000041, 0, &out));
	CHECK(out.ipi);
	CHECK_EQ(out.msg.dest, 0x123);
	CHECK(out.msg.x2apic_dest);
	CHECK(lapic_write_x2(&l, LAPIC_SELF_IPI, 0x50, 0, &out));
	CHECK_EQ(lapic_pending(&l), 0x50);
}

TEST(mode_transitions_follow_the_state_diagram)
{
	struct lapic l = on(0);

	CHECK(!lapic_write_base(&l, 0xfee00000 | APIC_BASE_X2APIC, &out));
	CHECK(lapic_write_base(&l, 0xfee00c00, &out));
	CHECK(!lapic_write_base(&l, 0xfee00800, &out));
	CHECK(lapic_write_base(&l, 0xfee00000, &out));
	CHECK(!lapic_write_base(&l, 0xfee00c00, &out));
	CHECK(lapic_write_base(&l, 0xfee00800, &out));
	CHECK(!lapic_write_base(&l, 0xfee00801, &out));
	CHECK(!lapic_write_base(&l, 1ull << 50 | 0x800, &out));
}

/* 25 MHz: 40 ns a tick. */
TEST(a_one_shot_timer_counts_down_and_stops)
{
	struct lapic l = on(0);

	lapic_write(&l, LAPIC_DIVIDE, 0xb, 0, &out); /* by 1 */
	lapic_write(&l, LAPIC_LVT_TIMER, 0x80, 0, &out);
	lapic_write(&l, LAPIC_ICOUNT, 1000, 1000, &out);
	CHECK(out.timer);
	CHECK_EQ(lapic_timer_next(&l, 1000), 41000);
	CHECK_EQ(lapic_read(&l, LAPIC_CCOUNT, 21000), 500);
	CHECK_EQ(lapic_read(&l, LAPIC_CCOUNT, 50000), 0);
	CHECK_EQ(lapic_timer_next(&l, 41000), INT64_MAX);
	CHECK(lapic_timer_expire(&l));
	CHECK_EQ(lapic_pending(&l), 0x80);
}

TEST(a_periodic_timer_goes_on)
{
	struct lapic l = on(0);

	lapic_write(&l, LAPIC_DIVIDE, 0x0, 0, &out); /* by 2 */
	lapic_write(&l, LAPIC_LVT_TIMER, 0x20080, 0, &out);
	lapic_write(&l, LAPIC_ICOUNT, 100, 0, &out);
	CHECK_EQ(lapic_timer_next(&l, 0), 8000);
	CHECK_EQ(lapic_timer_next(&l, 8000), 16000);
	CHECK_EQ(lapic_read(&l, LAPIC_CCOUNT, 12000), 50);
}

TEST(a_masked_timer_expires_silently)
{
	struct lapic l = on(0);

	lapic_write(&l, LAPIC_LVT_TIMER, 0x10080, 0, &out);
	lapic_write(&l, LAPIC_ICOUNT, 100, 0, &out);
	CHECK(!lapic_timer_expire(&l));
}

TEST(the_deadline_is_kept_in_its_mode_only)
{
	struct lapic l = on(0);

	lapic_write_deadline(&l, 12345, &out);
	CHECK(!out.timer);
	lapic_write(&l, LAPIC_LVT_TIMER, 0x40080, 0, &out);
	lapic_write_deadline(&l, 12345, &out);
	CHECK(out.timer);
	CHECK_EQ(l.tsc_deadline, 12345);
	lapic_write(&l, LAPIC_ICOUNT, 100, 0, &out);
	CHECK_EQ(lapic_read(&l, LAPIC_ICOUNT, 0), 0);
	lapic_timer_expire(&l);
	CHECK_EQ(l.tsc_deadline, 0);
	CHECK_EQ(lapic_pending(&l), 0x80);
}

TEST(software_disable_masks_the_local_vectors)
{
	struct lapic l = on(0);

	lapic_write(&l, LAPIC_LVT_LINT0, 0x700, 0, &out);
	CHECK(lapic_passes_extint(&l));
	lapic_write(&l, LAPIC_SVR, 0xff, 0, &out);
	CHECK(!lapic_passes_extint(&l));
	lapic_write(&l, LAPIC_LVT_LINT0, 0x700, 0, &out);
	CHECK_EQ(lapic_read(&l, LAPIC_LVT_LINT0, 0), 0x10700);
}

TEST(init_keeps_id_and_base_only)
{
	struct lapic l = x2(7);

	lapic_accept(&l, 0x40, false);
	lapic_init(&l);
	CHECK_EQ(lapic_pending(&l), -1);
	CHECK_EQ(l.id, 7);
	CHECK(lapic_is_x2(&l));
	CHECK_EQ(l.ldr, 0x80);
	CHECK(!lapic_is_on(&l));
}

TEST(what_is_handed_over_comes_back)
{
	struct lapic l = on(3), was;
	struct lapic_state s;

	lapic_accept(&l, 0x45, true);
	lapic_ack(&l);
	lapic_accept(&l, 0x51, false);
	lapic_write(&l, LAPIC_TPR, 0x27, 0, &out);
	lapic_write(&l, LAPIC_DIVIDE, 0xb, 0, &out);
	lapic_write(&l, LAPIC_LVT_TIMER, 0x20080, 0, &out);
	lapic_write(&l, LAPIC_ICOUNT, 1000, 1000, &out);
	was = l;
	lapic_save(&l, 21000, &s);
	CHECK_EQ(s.reg[LAPIC_ID], 3u << 24);
	CHECK_EQ(s.reg[LAPIC_CCOUNT], 500);
	CHECK_EQ(s.reg[LAPIC_ISR + 2], 1 << 5);
	/* The count has gone on meanwhile. */
	s.reg[LAPIC_CCOUNT] = 100;
	lapic_load(&l, 37000, &s);
	CHECK_EQ(lapic_timer_next(&l, 37000), 41000);
	CHECK_MEM(&l, &was, sizeof(l));
}

TEST(a_timer_that_has_run_out_is_handed_over_without_its_count)
{
	struct lapic l = on(0);
	struct lapic_state s;

	lapic_write(&l, LAPIC_DIVIDE, 0xb, 0, &out);
	lapic_write(&l, LAPIC_LVT_TIMER, 0x80, 0, &out);
	lapic_write(&l, LAPIC_ICOUNT, 1000, 0, &out);
	lapic_save(&l, 50000, &s);
	CHECK_EQ(s.reg[LAPIC_ICOUNT], 0);
	lapic_load(&l, 60000, &s);
	CHECK_EQ(lapic_read(&l, LAPIC_ICOUNT, 60000), 1000);
	CHECK_EQ(lapic_read(&l, LAPIC_CCOUNT, 60000), 0);
	CHECK_EQ(lapic_timer_next(&l, 60000), INT64_MAX);
	/* One that was stopped where it was handed to is none. */
	lapic_write(&l, LAPIC_ICOUNT, 1000, 60000, &out);
	lapic_save(&l, 60000, &s);
	CHECK_EQ(s.reg[LAPIC_ICOUNT], 1000);
	s.reg[LAPIC_ICOUNT] = s.reg[LAPIC_CCOUNT] = 0;
	lapic_load(&l, 61000, &s);
	CHECK_EQ(lapic_read(&l, LAPIC_ICOUNT, 61000), 0);
}

TESTS(T(reset_values_are_the_manuals), T(interrupts_are_taken_only_while_software_enabled),
      T(the_highest_vector_comes_first_and_blocks_its_class),
      T(task_priority_holds_back_lower_classes), T(eoi_of_a_level_vector_is_broadcast),
      T(low_vectors_are_errors), T(errors_interrupt_by_their_vector),
      T(a_reserved_register_is_an_error), T(the_command_register_sends_what_it_says),
      T(physical_destinations_name_the_id_or_all), T(flat_logical_destinations_are_a_mask),
      T(cluster_logical_destinations_are_a_cluster_and_a_mask),
      T(x2apic_logical_ids_follow_from_the_id), T(x2apic_registers_fault_where_the_manual_says),
      T(x2apic_command_register_has_a_wide_destination),
      T(mode_transitions_follow_the_state_diagram), T(a_one_shot_timer_counts_down_and_stops),
      T(a_periodic_timer_goes_on), T(a_masked_timer_expires_silently),
      T(the_deadline_is_kept_in_its_mode_only), T(software_disable_masks_the_local_vectors),
      T(init_keeps_id_and_base_only), T(what_is_handed_over_comes_back),
      T(a_timer_that_has_run_out_is_handed_over_without_its_count))
