/* KVM's local APICs: what goes there, what comes back, and what a guest sees meanwhile. A board's
 * interrupt controllers and one vCPU; guests of a few instructions, also on a KVM that emulates. */
#include "check.h"
#include "flatcpu.h"

#include "base/err.h"
#include "host/clock.h"
#include "host/timer.h"
#include "machine/intc.h"
#include "machine/memmap.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CODE(...) (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ })
#define HLT	  0xf4

#define MMIO_VA	  (FLAT_RAM - 2 * MiB) /* leads to the APICs' page */
#define IOAPIC_VA (FLAT_RAM - 4 * MiB)
#define APIC_GPA  0xfee00000ull
#define GDT_AT	  0x5000
#define IDT_AT	  0x6000
#define HANDLER	  0x7000
#define STOP_PORT 0x100

#define SVR	  0xf0
#define TPR	  0x80
#define LVT_TIMER 0x320
#define LVT_LINT0 0x350
#define ICOUNT	  0x380
#define CCOUNT	  0x390
#define DIVIDE	  0x3e0

static struct flatcpu f;
static struct vclock now;
static struct timer_queue *timers;
static struct intc *ic;
static unsigned n_stops;

static void stop_write(void *arg, uint64_t off, unsigned size, uint64_t val)
{
	n_stops++;
	vcpu_kick(&f.c, KICK_STOP);
}

static uint64_t stop_read(void *arg, uint64_t off, unsigned size)
{
	return 0;
}

static const struct io_ops stop_ops = { .read = stop_read, .write = stop_write, .max = 1 };

/* mov byte [MMIO_VA + 0xb0], 0 as 32 bits; out STOP_PORT, al; iretq. The vector is not told. */
static void make_tables(void)
{
	static const uint64_t gdt[] = { 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff };
	uint8_t handler[] = { 0xc7, 0x04, 0x25, 0,    0, 0, 0,	  0,	0,
			      0,    0,	  0x66, 0xba, 0, 1, 0xee, 0x48, 0xcf };

	store32(handler + 3, (uint32_t)(MMIO_VA + 0xb0));
	memcpy(f.pm.ram + GDT_AT, gdt, sizeof(gdt));
	for (unsigned v = 0; v < 256; v++)
		store64(f.pm.ram + IDT_AT + 16 * v, HANDLER | 0x10ull << 16 | 0x8eull << 40);
	memcpy(f.pm.ram + HANDLER, handler, sizeof(handler));
	f.c.gdtr = (struct dtable){ .base = GDT_AT, .limit = sizeof(gdt) - 1 };
	f.c.idtr = (struct dtable){ .base = IDT_AT, .limit = 256 * 16 - 1 };
}

static uint32_t reg_read(unsigned off)
{
	return (uint32_t)f.c.apic_ops->read(f.c.apic, off, 4);
}

static void reg_write(unsigned off, uint32_t val)
{
	f.c.apic_ops->write(f.c.apic, off, 4, val);
}

static void msi(uint32_t data)
{
	struct msi_sink s = intc_msi(ic);

	s.send(s.to, MSI_BASE, data);
}

static void begin(void)
{
	if (f.c.engine->begin)
		f.c.engine->begin(&f.set);
}

static void end(void)
{
	if (f.c.engine->end)
		f.c.engine->end(&f.set);
}

static int setup(void **state)
{
	uint64_t *pd;
	char left_out[400];

	n_stops = 0;
	flat_init(&f, &engine_interp, "host");
	FLAT_MUST(kvm_limit_model(&f.model, left_out, sizeof(left_out), NULL));
	vclock_init(&now);
	FLAT_MUST(timer_queue_new(&timers, &now, NULL));
	FLAT_MUST(intc_new(&ic,
			   &(struct intc_cfg){ .set = &f.set,
					       .clock = &now,
					       .timers = timers,
					       .pio = f.c.pio,
					       .mmio = f.c.mmio,
					       .phys_bits = f.model.phys_bits,
					       .apic_tick_ns = f.model.apic_tick_ns,
					       .tsc_khz = host_tsc_khz() },
			   NULL));
	FLAT_MUST(iospace_map(f.c.pio, STOP_PORT, 1, &stop_ops, NULL, NULL));
	flat_reset(&f, 0);
	pd = (uint64_t *)(f.pm.ram + 0x3000);
	pd[MMIO_VA / (2 * MiB)] = APIC_GPA | 0x9f;
	pd[IOAPIC_VA / (2 * MiB)] = IOAPIC_BASE | 0x9f;
	make_tables();
	reg_write(SVR, 0x1ff);
	FLAT_MUST(engine_take(&f.c, &engine_kvm, NULL));
	return 0;
}

static int setup_without(void **state)
{
	setenv("CLEAVE_KVM_NO_IRQCHIP", "1", 1);
	return setup(state);
}

static int teardown(void **state)
{
	end();
	unsetenv("CLEAVE_KVM_NO_IRQCHIP");
	engine_leave(&f.c);
	intc_free(ic);
	timer_queue_free(timers);
	iospace_free(f.c.pio);
	iospace_free(f.c.mmio);
	vcpu_fini(&f.c);
	physmap_fini(&f.pm);
	return 0;
}

/* -- There and back --------------------------------------------------------------------------- */

static const unsigned kept[] = { 0x20,	0x30,  0x80,  0xa0,  0xd0,  0xe0,  0xf0,  0x100,
				 0x120, 0x180, 0x1a0, 0x200, 0x220, 0x300, 0x310, 0x320,
				 0x330, 0x340, 0x350, 0x360, 0x370, 0x380, 0x3e0 };

static void check_kept(void)
{
	uint32_t before[ARRAY_SIZE(kept)];

	for (unsigned i = 0; i < ARRAY_SIZE(kept); i++)
		before[i] = reg_read(kept[i]);
	for (unsigned n = 0; n < 3; n++) {
		begin();
		end();
		for (unsigned i = 0; i < ARRAY_SIZE(kept); i++)
			CHECK_EQ(reg_read(kept[i]), before[i]);
	}
}

TEST(registers_come_back_as_they_went)
{
	reg_write(0xd0, 0x01000000);
	reg_write(0xe0, 0x0fffffff);
	reg_write(0x350, 0x700);
	reg_write(0x360, 0x400);
	reg_write(0x370, 0xfe);
	reg_write(0x310, 0x01000000);
	msi(0x45);
	CHECK_EQ(f.c.apic_ops->ack(f.c.apic), 0x45);
	msi(0x43);
	msi(0x8000 | 0x46);
	reg_write(TPR, 0x35);
	check_kept();
}

TEST(registers_of_an_x2apic_come_back_as_they_went)
{
	uint64_t val;

	CHECK(f.c.apic_ops->write_msr(f.c.apic, 0x1b, 0xfee00d00));
	CHECK(f.c.apic_ops->write_msr(f.c.apic, 0x808, 0x20));
	CHECK(f.c.apic_ops->write_msr(f.c.apic, 0x835, 0x10700));
	msi(0x93);
	for (unsigned n = 0; n < 3; n++) {
		begin();
		end();
		CHECK(f.c.apic_ops->read_msr(f.c.apic, 0x802, &val));
		CHECK_EQ(val, 0);
		CHECK(f.c.apic_ops->read_msr(f.c.apic, 0x80d, &val));
		CHECK_EQ(val, 1);
		CHECK(f.c.apic_ops->read_msr(f.c.apic, 0x808, &val));
		CHECK_EQ(val, 0x20);
		CHECK(f.c.apic_ops->read_msr(f.c.apic, 0x835, &val));
		CHECK_EQ(val, 0x10700);
		CHECK(f.c.apic_ops->read_msr(f.c.apic, 0x824, &val));
		CHECK_EQ(val, 1 << 19);
		CHECK(f.c.apic_ops->read_msr(f.c.apic, 0x1b, &val));
		CHECK_EQ(val, 0xfee00d00);
	}
}

TEST(a_halt_and_a_wait_for_start_up_come_back)
{
	static const uint8_t states[] = { MP_RUNNING, MP_HALTED, MP_WAIT_SIPI };

	for (unsigned i = 0; i < ARRAY_SIZE(states); i++) {
		f.c.mp_state = states[i];
		begin();
		end();
		CHECK_EQ(f.c.mp_state, states[i]);
	}
}

/* -- Timers --------------------------------------------------------------------------------- */

static bool waits(unsigned vector)
{
	return reg_read(0x200 + vector / 32 * 16) >> vector % 32 & 1;
}

static uint32_t ticks(unsigned us)
{
	return us * 1000 / f.model.apic_tick_ns;
}

TEST(a_timer_that_runs_out_while_kvm_has_it_is_not_lost)
{
	static const uint32_t modes[] = { 0, 0x20000 };

	reg_write(DIVIDE, 0xb);
	for (unsigned i = 0; i < ARRAY_SIZE(modes); i++)
		for (unsigned us = 0; us < 4000; us += 200) {
			reg_write(LVT_TIMER, 0x50 | modes[i]);
			reg_write(ICOUNT, ticks(1 + us));
			begin();
			/* Nobody runs the vCPU: KVM keeps it to itself. */
			usleep(2000);
			end();
			for (unsigned n = 0; n < 1000 && !waits(0x50); n++)
				usleep(100);
			CHECK(waits(0x50));
			reg_write(ICOUNT, 0);
			CHECK_EQ(f.c.apic_ops->ack(f.c.apic), 0x50);
			reg_write(0xb0, 0);
		}
}

TEST(a_one_shot_timer_that_has_run_out_does_not_start_again)
{
	reg_write(DIVIDE, 0xb);
	reg_write(LVT_TIMER, 0x50);
	reg_write(ICOUNT, ticks(10));
	for (unsigned n = 0; n < 1000 && !waits(0x50); n++)
		usleep(100);
	CHECK_EQ(f.c.apic_ops->ack(f.c.apic), 0x50);
	reg_write(0xb0, 0);
	for (unsigned n = 0; n < 5; n++) {
		begin();
		usleep(1000);
		end();
		usleep(1000);
		CHECK(!waits(0x50));
		CHECK_EQ(reg_read(ICOUNT), ticks(10));
		CHECK_EQ(reg_read(CCOUNT), 0);
	}
}

TEST(a_deadline_that_comes_while_kvm_has_it_is_not_lost)
{
	uint64_t val;

	reg_write(LVT_TIMER, 0x40051);
	for (unsigned us = 0; us < 4000; us += 200) {
		CHECK(f.c.apic_ops->write_msr(f.c.apic, 0x6e0,
					      vcpu_tsc(&f.c) + us * host_tsc_khz() / 1000 + 1));
		begin();
		usleep(2000);
		end();
		for (unsigned n = 0; n < 1000 && !waits(0x51); n++)
			usleep(100);
		CHECK(waits(0x51));
		CHECK(f.c.apic_ops->read_msr(f.c.apic, 0x6e0, &val));
		CHECK_EQ(val, 0);
		CHECK_EQ(f.c.apic_ops->ack(f.c.apic), 0x51);
		reg_write(0xb0, 0);
		usleep(100);
		CHECK(!waits(0x51));
	}
}

/* -- Guests ---------------------------------------------------------------------------------- */

/* Until somebody stops it; halts are slept through, wherever they come to. */
static enum run_exit go(void)
{
	enum run_exit why;

	while ((why = f.c.engine->run(&f.c)) == RUN_HALTED)
		usleep(20);
	return why;
}

/* sti; l: hlt; jmp l */
#define SLEEPS 0xfb, HLT, 0xeb, 0xfd

static void *sender(void *arg)
{
	usleep(20000);
	msi(0x61);
	return NULL;
}

TEST(a_message_ends_a_halt)
{
	pthread_t t;

	physmap_write(&f.pm, FLAT_CODE, CODE(SLEEPS));
	msi(0x60);
	CHECK_EQ(go(), RUN_KICKED);
	CHECK_EQ(n_stops, 1);
	pthread_create(&t, NULL, sender, NULL);
	CHECK_EQ(go(), RUN_KICKED);
	pthread_join(t, NULL);
	CHECK_EQ(n_stops, 2);
	end();
	CHECK(!waits(0x60) && !waits(0x61));
	CHECK_EQ(reg_read(0x130), 0); /* ended, both */
}

static void *kicker(void *arg)
{
	const unsigned *us = arg;

	usleep(*us);
	vcpu_kick(&f.c, KICK_STOP);
	return NULL;
}

TEST(a_kick_ends_a_halt_whenever_it_comes)
{
	physmap_write(&f.pm, FLAT_CODE, CODE(SLEEPS));
	for (unsigned i = 0; i < 100; i++) {
		unsigned us = i * 7;
		pthread_t t;

		pthread_create(&t, NULL, kicker, &us);
		CHECK_EQ(go(), RUN_KICKED);
		pthread_join(t, NULL);
		if (i % 10 == 9)
			end();
	}
}

TEST(an_interrupt_of_the_8259s_comes_in_also_to_a_halt)
{
	struct irq_line l = intc_isa_line(ic, 5);

	physmap_write(&f.pm, FLAT_CODE, CODE(SLEEPS));
	reg_write(LVT_LINT0, 0x700);
	iospace_write(f.c.pio, 0x20, 1, 0x11);
	iospace_write(f.c.pio, 0x21, 1, 0x30);
	iospace_write(f.c.pio, 0x21, 1, 0x04);
	iospace_write(f.c.pio, 0x21, 1, 0x03); /* ends by itself */
	iospace_write(f.c.pio, 0x21, 1, 0xdf);
	for (unsigned n = 1; n <= 3; n++) {
		l.set(l.to, l.pin, true);
		CHECK_EQ(go(), RUN_KICKED);
		CHECK_EQ(n_stops, n);
		l.set(l.to, l.pin, false);
		if (n == 2)
			end();
	}
	/* Not while LINT0 is masked. */
	end();
	reg_write(LVT_LINT0, 0x10700);
	l.set(l.to, l.pin, true);
	vcpu_kick(&f.c, KICK_STOP);
	CHECK_EQ(go(), RUN_KICKED);
	CHECK_EQ(n_stops, 3);
}

static bool is_in_flight(void)
{
	return iospace_read(f.c.mmio, IOAPIC_BASE + 0x10, 4) & 0x4000;
}

TEST(the_end_of_a_level_interrupt_is_told_to_the_ioapic)
{
	struct irq_line l = intc_gsi_line(ic, 16);

	physmap_write(&f.pm, FLAT_CODE, CODE(SLEEPS));
	iospace_write(f.c.mmio, IOAPIC_BASE, 4, 0x10 + 2 * 16);
	iospace_write(f.c.mmio, IOAPIC_BASE + 0x10, 4, 0x8000 | 0x71);
	l.set(l.to, l.pin, true);
	for (unsigned n = 1; n <= 3; n++) {
		/* It comes again, as long as it is asked for. */
		CHECK_EQ(go(), RUN_KICKED);
		CHECK_EQ(n_stops, n);
		if (n == 2)
			end();
	}
	l.set(l.to, l.pin, false);
	end();
	/* What was sent again before comes once more. */
	if (is_in_flight()) {
		CHECK(waits(0x71));
		CHECK_EQ(go(), RUN_KICKED);
		CHECK_EQ(n_stops, 4);
		end();
	}
	CHECK(!waits(0x71));
	CHECK(!is_in_flight());
}

/* -- Doorbells ------------------------------------------------------------------------------- */

static unsigned n_device_writes;

static void bell_write(void *arg, uint64_t off, unsigned size, uint64_t val)
{
	n_device_writes++;
}

static uint64_t rings(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

TEST(a_store_to_a_doorbell_rings_and_one_beside_it_is_the_device_s)
{
	static const struct io_ops ops = { .read = stop_read, .write = bell_write, .max = 4 };
	struct io_bells b = { .base = IOAPIC_BASE + 0x2000, .step = 4, .n = 2 };
	/* mov dword [bell], eax; mov word [bell + 4], ax; mov dword [bell + 8], eax; out; jmp $ */
	uint8_t code[] = { 0x89, 0x04, 0x25, 0, 0, 0, 0, 0x66, 0x89, 0x04, 0x25, 0,    0,    0,	  0,
			   0x89, 0x04, 0x25, 0, 0, 0, 0, 0x66, 0xba, 0x00, 0x01, 0xee, 0xeb, 0xfe };

	for (unsigned i = 0; i < 3; i++)
		store32(code + (const unsigned[]){ 3, 11, 18 }[i],
			(uint32_t)(IOAPIC_VA + 0x2000 + 4 * i));
	b.fd = eventfd(0, EFD_NONBLOCK);
	n_device_writes = 0;
	FLAT_MUST(iospace_map(f.c.mmio, IOAPIC_BASE + 0x2000, 0x1000, &ops, NULL, NULL));
	iospace_add_bells(f.c.mmio, &b);
	CHECK_EQ(flat_run(&f, code, sizeof(code)), RUN_KICKED);
	CHECK_EQ(rings(b.fd), 2);
	CHECK_EQ(n_device_writes, 1);
	/* It goes with its region. */
	iospace_unmap(f.c.mmio, IOAPIC_BASE + 0x2000);
	f.c.engine->pull(&f.c);
	f.c.rip = FLAT_CODE;
	f.c.engine->push(&f.c);
	FLAT_MUST(iospace_map(f.c.mmio, IOAPIC_BASE + 0x2000, 0x1000, &ops, NULL, NULL));
	end();
	CHECK_EQ(go(), RUN_KICKED);
	CHECK_EQ(rings(b.fd), 0);
	CHECK_EQ(n_device_writes, 4);
	close(b.fd);
}

TEST(a_guest_goes_from_engine_to_engine_and_its_deadlines_come)
{
	/* l: cli; rdtsc; shl rdx,32; or rax,rdx; add rax,200000; mov rdx,rax; shr rdx,32;
	 * mov ecx,0x6e0; wrmsr; sti; hlt; jmp l */
	static const uint8_t code[] = { 0xfa, 0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09,
					0xd0, 0x48, 0x05, 0x40, 0x0d, 0x03, 0x00, 0x48, 0x89,
					0xc2, 0x48, 0xc1, 0xea, 0x20, 0xb9, 0xe0, 0x06, 0,
					0,    0x0f, 0x30, 0xfb, HLT,  0xeb, 0xde };
	const struct engine *e[] = { &engine_interp, &engine_kvm };

	reg_write(LVT_TIMER, 0x40051);
	physmap_write(&f.pm, FLAT_CODE, code, sizeof(code));
	for (unsigned n = 1; n <= 20; n++) {
		CHECK_EQ(go(), RUN_KICKED);
		CHECK_EQ(n_stops, n);
		end();
		FLAT_MUST(engine_take(&f.c, e[n % 2], NULL));
	}
}

#define K(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
/* With the board's chips all the time. */
#define WITHOUT(name)                                                                              \
	{                                                                                          \
#name " (without)", name, setup_without, teardown, NULL                            \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		K(registers_come_back_as_they_went),
		K(registers_of_an_x2apic_come_back_as_they_went),
		K(a_halt_and_a_wait_for_start_up_come_back),
		K(a_timer_that_runs_out_while_kvm_has_it_is_not_lost),
		K(a_one_shot_timer_that_has_run_out_does_not_start_again),
		K(a_deadline_that_comes_while_kvm_has_it_is_not_lost),
		K(a_message_ends_a_halt),
		K(a_kick_ends_a_halt_whenever_it_comes),
		K(an_interrupt_of_the_8259s_comes_in_also_to_a_halt),
		K(the_end_of_a_level_interrupt_is_told_to_the_ioapic),
		K(a_store_to_a_doorbell_rings_and_one_beside_it_is_the_device_s),
		K(a_guest_goes_from_engine_to_engine_and_its_deadlines_come),
		WITHOUT(a_message_ends_a_halt),
		WITHOUT(a_kick_ends_a_halt_whenever_it_comes),
		WITHOUT(an_interrupt_of_the_8259s_comes_in_also_to_a_halt),
		WITHOUT(the_end_of_a_level_interrupt_is_told_to_the_ioapic),
		WITHOUT(a_guest_goes_from_engine_to_engine_and_its_deadlines_come),
	};
	struct err err;
	int kvm = kvm_open(&err);

	if (kvm < 0) {
		printf("skipped: %s\n", err.msg);
		return 77;
	}
	close(kvm);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
