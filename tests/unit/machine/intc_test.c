#include "machine/intc.h"

#include "check.h"
#include "cpu/vcpu.h"
#include "cpu/engine.h"
#include "host/clock.h"
#include "host/timer.h"
#include "machine/memmap.h"
#include "mem/iospace.h"
#include "mem/lapic_state.h"

#include <stdlib.h>
#include <time.h>

/* Two vCPUs that nobody runs: kicks stay in c->kick. */
struct rig {
	struct vcpu *c[2];
	struct vcpu_set set;
	struct vclock clock;
	struct timer_queue *timers;
	struct iospace *pio, *mmio;
	struct intc *ic;
};

static void no_kick(struct vcpu *c)
{
}

static const struct engine still = { .name = "still", .kick = no_kick };

static void no_wake(struct vcpu *c)
{
}

static void rig_up(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	for (unsigned i = 0; i < 2; i++) {
		CHECK_EQ(posix_memalign((void **)&r->c[i], 64, ALIGN_UP(sizeof(struct vcpu), 64ul)),
			 0);
		memset(r->c[i], 0, sizeof(struct vcpu));
		r->c[i]->index = i;
		r->c[i]->engine = &still;
		r->c[i]->wake = no_wake;
		r->set.v[r->set.n++] = r->c[i];
	}
	vclock_init(&r->clock);
	timer_queue_new(&r->timers, &r->clock, NULL);
	r->pio = iospace_new(0x10000);
	r->mmio = iospace_new(1ull << 40);
	CHECK_EQ(intc_new(&r->ic,
			  &(struct intc_cfg){ .set = &r->set,
					      .clock = &r->clock,
					      .timers = r->timers,
					      .pio = r->pio,
					      .mmio = r->mmio,
					      .phys_bits = 40,
					      .apic_tick_ns = 40,
					      .tsc_khz = host_tsc_khz() },
			  NULL),
		 0);
	for (unsigned i = 0; i < 2; i++)
		r->c[i]->apic_ops->write(r->c[i]->apic, 0xf0, 4, 0x1ff);
}

static void rig_down(struct rig *r)
{
	intc_free(r->ic);
	timer_queue_free(r->timers);
	iospace_free(r->pio);
	iospace_free(r->mmio);
	free(r->c[0]);
	free(r->c[1]);
}

static int ack(struct rig *r, unsigned i)
{
	const struct vcpu_apic_ops *ops = r->c[i]->apic_ops;
	bool pending = ops->pending(r->c[i]->apic);
	int vector = ops->ack(r->c[i]->apic);

	CHECK_EQ(pending, vector >= 0);
	return vector;
}

static void apic_write(struct rig *r, unsigned i, unsigned off, uint32_t val)
{
	r->c[i]->apic_ops->write(r->c[i]->apic, off, 4, val);
}

static void redirect(struct rig *r, unsigned pin, uint32_t low, uint32_t high)
{
	iospace_write(r->mmio, IOAPIC_BASE, 4, 0x11 + 2 * pin);
	iospace_write(r->mmio, IOAPIC_BASE + 0x10, 4, high);
	iospace_write(r->mmio, IOAPIC_BASE, 4, 0x10 + 2 * pin);
	iospace_write(r->mmio, IOAPIC_BASE + 0x10, 4, low);
}

static void line(struct rig *r, unsigned irq, bool level)
{
	struct irq_line l = intc_isa_line(r->ic, irq);

	irq_line_set(&l, level);
}

TEST(the_8259s_interrupt_the_boot_processor_after_reset)
{
	static const uint8_t icw[] = { 0x30, 0x04, 0x01, 0x00 };
	struct rig r;

	rig_up(&r);
	iospace_write(r.pio, 0x20, 1, 0x11);
	for (unsigned i = 0; i < 4; i++)
		iospace_write(r.pio, 0x21, 1, icw[i]);
	line(&r, 4, true);
	CHECK(r.c[0]->kick & KICK_IRQ);
	CHECK(!(r.c[1]->kick & KICK_IRQ));
	CHECK_EQ(ack(&r, 0), 0x34);
	CHECK_EQ(ack(&r, 0), -1);
	rig_down(&r);
}

TEST(the_pit_is_on_pin_2_of_the_io_apic)
{
	struct rig r;

	rig_up(&r);
	redirect(&r, 2, 0x40, 1u << 24);
	line(&r, 0, true);
	CHECK(r.c[1]->kick & KICK_IRQ);
	CHECK_EQ(ack(&r, 1), 0x40);
	rig_down(&r);
}

TEST(a_level_comes_again_after_its_eoi)
{
	struct rig r;

	rig_up(&r);
	redirect(&r, 9, 0x8050, 0);
	line(&r, 9, true);
	CHECK_EQ(ack(&r, 0), 0x50);
	CHECK_EQ(ack(&r, 0), -1);
	apic_write(&r, 0, 0xb0, 0);
	CHECK_EQ(ack(&r, 0), 0x50);
	line(&r, 9, false);
	apic_write(&r, 0, 0xb0, 0);
	CHECK_EQ(ack(&r, 0), -1);
	rig_down(&r);
}

TEST(messages_reach_the_vcpu_they_name)
{
	struct msi_sink msi;
	struct rig r;

	rig_up(&r);
	msi = intc_msi(r.ic);
	msi.send(msi.to, 0xfee01000, 0x61);
	CHECK_EQ(ack(&r, 0), -1);
	CHECK_EQ(ack(&r, 1), 0x61);
	msi.send(msi.to, 0xfed01000, 0x62);
	CHECK_EQ(ack(&r, 1), -1);
	rig_down(&r);
}

TEST(init_and_start_up_kick_the_target)
{
	struct rig r;

	rig_up(&r);
	apic_write(&r, 0, 0x310, 1u << 24);
	apic_write(&r, 0, 0x300, 0x0000c500);
	CHECK(r.c[1]->kick & KICK_INIT);
	apic_write(&r, 0, 0x300, 0x00004699);
	CHECK(r.c[1]->kick & KICK_SIPI);
	CHECK_EQ(r.c[1]->sipi_vector, 0x99);
	CHECK(!(r.c[0]->kick & (KICK_INIT | KICK_SIPI)));
	rig_down(&r);
}

TEST(shorthands_include_and_leave_out_the_sender)
{
	struct rig r;

	rig_up(&r);
	apic_write(&r, 0, 0x300, 0x000c0071); /* all but self */
	CHECK_EQ(ack(&r, 0), -1);
	CHECK_EQ(ack(&r, 1), 0x71);
	apic_write(&r, 0, 0x300, 0x00040072); /* self */
	CHECK_EQ(ack(&r, 0), 0x72);
	CHECK_EQ(ack(&r, 1), -1);
	apic_write(&r, 0, 0x300, 0x00080083); /* all */
	CHECK_EQ(ack(&r, 0), 0x83);
	CHECK_EQ(ack(&r, 1), 0x83);
	rig_down(&r);
}

TEST(cr8_holds_interrupts_back)
{
	const struct vcpu_apic_ops *ops;
	struct rig r;

	rig_up(&r);
	ops = r.c[0]->apic_ops;
	ops->set_cr8(r.c[0]->apic, 8);
	apic_write(&r, 0, 0x300, 0x00040072);
	CHECK(!ops->pending(r.c[0]->apic));
	CHECK_EQ(ops->get_cr8(r.c[0]->apic), 8);
	CHECK_EQ(ops->read(r.c[0]->apic, 0x80, 4), 0x80);
	ops->set_cr8(r.c[0]->apic, 6);
	CHECK_EQ(ack(&r, 0), 0x72);
	rig_down(&r);
}

static void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

/* A busy host may be late, but not by two seconds. */
static void wait_pending(struct rig *r)
{
	for (unsigned i = 0; i < 2000 && !r->c[0]->apic_ops->pending(r->c[0]->apic); i++)
		sleep_ms(1);
}

TEST(the_counting_timer_interrupts)
{
	struct rig r;

	rig_up(&r);
	apic_write(&r, 0, 0x3e0, 0xb);
	apic_write(&r, 0, 0x320, 0x90);
	apic_write(&r, 0, 0x380, 25000 * 10); /* 10 ms */
	CHECK(!r.c[0]->apic_ops->pending(r.c[0]->apic));
	wait_pending(&r);
	CHECK_EQ(ack(&r, 0), 0x90);
	apic_write(&r, 0, 0xb0, 0);
	sleep_ms(20);
	CHECK_EQ(ack(&r, 0), -1);
	rig_down(&r);
}

TEST(a_count_that_is_over_before_the_write_returns_interrupts)
{
	struct rig r;

	rig_up(&r);
	apic_write(&r, 0, 0x3e0, 0xb);
	apic_write(&r, 0, 0x320, 0x92);
	for (unsigned i = 0; i < 100; i++) {
		apic_write(&r, 0, 0x380, 1); /* 40 ns */
		wait_pending(&r);
		CHECK_EQ(ack(&r, 0), 0x92);
		apic_write(&r, 0, 0xb0, 0);
	}
	rig_down(&r);
}

TEST(the_deadline_timer_interrupts_and_shows_zero)
{
	uint64_t val, ten_ms = host_tsc_khz() * 10;
	const struct vcpu_apic_ops *ops;
	struct rig r;

	rig_up(&r);
	ops = r.c[0]->apic_ops;
	apic_write(&r, 0, 0x320, 0x40091);
	CHECK(ops->write_msr(r.c[0]->apic, 0x6e0, vcpu_tsc(r.c[0]) + ten_ms));
	CHECK(!ops->pending(r.c[0]->apic));
	CHECK(ops->read_msr(r.c[0]->apic, 0x6e0, &val));
	CHECK(val != 0);
	wait_pending(&r);
	CHECK(ops->read_msr(r.c[0]->apic, 0x6e0, &val));
	CHECK(val == 0);
	CHECK_EQ(ack(&r, 0), 0x91);
	apic_write(&r, 0, 0xb0, 0);
	CHECK(ops->write_msr(r.c[0]->apic, 0x6e0, 1)); /* long ago */
	CHECK_EQ(ack(&r, 0), 0x91);
	rig_down(&r);
}

TEST(the_apic_page_follows_its_base_register)
{
	const struct vcpu_apic_ops *ops;
	struct rig r;

	rig_up(&r);
	ops = r.c[0]->apic_ops;
	CHECK(ops->owns_gpa(r.c[0]->apic, 0xfee00020));
	CHECK(ops->write_msr(r.c[0]->apic, 0x1b, 0xfed00900));
	CHECK(!ops->owns_gpa(r.c[0]->apic, 0xfee00020));
	CHECK(ops->owns_gpa(r.c[0]->apic, 0xfed00020));
	CHECK(ops->write_msr(r.c[0]->apic, 0x1b, 0xfee00d00));
	CHECK(!ops->owns_gpa(r.c[0]->apic, 0xfee00020));
	rig_down(&r);
}

/* --- Who borrows the local APICs --- */

static struct borrower {
	struct lapic_state s[2];
	unsigned n_loads, n_sent, n_watched;
	struct lapic_route sent;
	bool refuses;
} borrower;

static void borrow(void *host, unsigned index, const struct lapic_state *s)
{
	struct borrower *b = host;

	b->s[index] = *s;
	b->n_loads++;
}

static void bring_back(void *host, unsigned index, struct lapic_state *s)
{
	*s = ((struct borrower *)host)->s[index];
}

static bool borrower_sends(void *host, uint64_t addr, uint32_t data)
{
	struct borrower *b = host;

	b->sent = (struct lapic_route){ addr, data };
	b->n_sent++;
	return !b->refuses;
}

static void borrower_watches(void *host, const struct lapic_route *route, unsigned n)
{
	struct borrower *b = host;

	b->n_watched = 0;
	for (unsigned i = 0; i < n; i++)
		b->n_watched += route[i].addr != 0;
}

static const struct lapic_host borrower_ops = {
	.load = borrow, .save = bring_back, .send = borrower_sends, .watch = borrower_watches
};

static bool lend(struct rig *r)
{
	borrower = (struct borrower){ 0 };
	return r->c[0]->apic_ops->lend(r->c[0]->apic, &borrower_ops, &borrower);
}

TEST(messages_go_to_who_has_the_local_apics)
{
	struct rig r;

	rig_up(&r);
	redirect(&r, 18, 0x8000 | 0x55, 1u << 24);
	CHECK(lend(&r));
	CHECK_EQ(borrower.n_loads, 2);
	CHECK_EQ(borrower.n_watched, 1);
	struct irq_line l = intc_gsi_line(r.ic, 18);
	struct msi_sink msi = intc_msi(r.ic);

	l.set(l.to, l.pin, true);
	CHECK_EQ(borrower.sent.addr, 0xfee01000);
	CHECK_EQ(borrower.sent.data, 0x8055);
	CHECK_EQ(borrower.n_sent, 1);
	l.set(l.to, l.pin, true);
	CHECK_EQ(borrower.n_sent, 1);
	r.c[1]->apic_ops->ended(r.c[1]->apic, 0x55);
	CHECK_EQ(borrower.n_sent, 2);
	msi.send(msi.to, 0xfee00000, 0x61);
	CHECK_EQ(borrower.sent.data, 0x61);
	msi.send(msi.to, 0xfee00000, 0x261); /* SMI */
	CHECK_EQ(borrower.n_sent, 3);
	CHECK(!r.c[0]->apic_ops->pending(r.c[0]->apic));
	/* It comes back with what it got. */
	borrower.s[1].reg[0x22] = 1u << 0x15;
	r.c[0]->apic_ops->take_back(r.c[0]->apic);
	CHECK_EQ(ack(&r, 1), 0x55);
	msi.send(msi.to, 0xfee00000, 0x61);
	CHECK_EQ(borrower.n_sent, 3);
	CHECK_EQ(ack(&r, 0), 0x61);
	rig_down(&r);
}

TEST(a_level_that_nobody_takes_is_offered_again)
{
	struct rig r;

	rig_up(&r);
	redirect(&r, 18, 0x8000 | 0x55, 0);
	CHECK(lend(&r));
	borrower.refuses = true;
	struct irq_line l = intc_gsi_line(r.ic, 18);

	l.set(l.to, l.pin, true);
	borrower.refuses = false;
	l.set(l.to, l.pin, true);
	CHECK_EQ(borrower.n_sent, 2);
	l.set(l.to, l.pin, true);
	CHECK_EQ(borrower.n_sent, 2);
	r.c[0]->apic_ops->take_back(r.c[0]->apic);
	rig_down(&r);
}

TEST(a_start_up_that_waits_is_served_before_the_local_apics_go)
{
	struct rig r;

	rig_up(&r);
	apic_write(&r, 0, 0x310, 1u << 24);
	apic_write(&r, 0, 0x300, 0x0000c500);
	CHECK(!lend(&r));
	CHECK_EQ(borrower.n_loads, 0);
	r.c[1]->kick = 0;
	CHECK(lend(&r));
	r.c[0]->apic_ops->take_back(r.c[0]->apic);
	rig_down(&r);
}

TESTS(T(the_8259s_interrupt_the_boot_processor_after_reset), T(the_pit_is_on_pin_2_of_the_io_apic),
      T(a_level_comes_again_after_its_eoi), T(messages_reach_the_vcpu_they_name),
      T(init_and_start_up_kick_the_target), T(shorthands_include_and_leave_out_the_sender),
      T(cr8_holds_interrupts_back), T(the_counting_timer_interrupts),
      T(a_count_that_is_over_before_the_write_returns_interrupts),
      T(the_deadline_timer_interrupts_and_shows_zero), T(the_apic_page_follows_its_base_register),
      T(messages_go_to_who_has_the_local_apics), T(a_level_that_nobody_takes_is_offered_again),
      T(a_start_up_that_waits_is_served_before_the_local_apics_go))
