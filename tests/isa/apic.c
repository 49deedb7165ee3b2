/* The local APIC in both modes, I/O APIC, 8259 and PIT. SDM 3A "Advanced Programmable Interrupt
 * Controller", 82093AA, 8259A.
 */
#include "lib/long.h"

static u32 order[64];
static volatile unsigned n_order;
static bool x2;

static u32 reg_read(unsigned reg)
{
	return x2 ? (u32)rdmsr(0x800 + reg / 16) : lapic_read(reg);
}

static void reg_write(unsigned reg, u32 v)
{
	if (x2)
		wrmsr(0x800 + reg / 16, v);
	else
		lapic_write(reg, v);
}

static void on_irq(struct regs *r)
{
	if (n_order < 64)
		order[n_order] = (u32)r->vector;
	n_order++;
	reg_write(APIC_EOI, 0);
}

static void catch_all(void)
{
	for (unsigned v = 32; v < 256; v++)
		handler[v] = on_irq;
}

static void self_ipi(u32 vector)
{
	reg_write(APIC_ICR, 0x40000 | vector);
}

static bool in_set(unsigned set, unsigned vector)
{
	return reg_read(set + vector / 32 * 16) >> vector % 32 & 1;
}

static void spin(u64 cycles)
{
	for (u64 end = rdtsc() + cycles; rdtsc() < end;)
		pause();
}

/* --- priorities, EOI, registers: the same in both modes --- */

static void on_nested(struct regs *r)
{
	order[n_order++] = (u32)r->vector;
	CHECK(in_set(APIC_ISR, (u32)r->vector), 1);
	CHECK(reg_read(APIC_PPR), r->vector & 0xf0);
	self_ipi(0x62); /* lower: waits */
	self_ipi(0x85); /* the same class: waits */
	self_ipi(0x91); /* higher: comes in now */
	let_in();
	CHECK(n_order, 2);
	CHECK(in_set(APIC_IRR, 0x62), 1);
	CHECK(in_set(APIC_IRR, 0x85), 1);
	reg_write(APIC_EOI, 0);
	CHECK(reg_read(APIC_PPR), 0);
	let_in();
	CHECK(n_order, 4);
}

static void priorities(void)
{
	n_order = 0;
	/* Pending ones come by priority. */
	self_ipi(0x41);
	self_ipi(0xa0);
	self_ipi(0x62);
	self_ipi(0x62); /* pending already: one */
	let_in();
	CHECK(n_order, 3);
	CHECK(order[0], 0xa0);
	CHECK(order[1], 0x62);
	CHECK(order[2], 0x41);
	/* TPR holds back its class and those below; CR8 is its upper half. */
	n_order = 0;
	reg_write(APIC_TPR, 0x6f);
	CHECK(read_cr8(), 6);
	CHECK(reg_read(APIC_PPR), 0x6f);
	self_ipi(0x6f);
	self_ipi(0x70);
	let_in();
	CHECK(n_order, 1);
	CHECK(order[0], 0x70);
	write_cr8(7);
	CHECK(reg_read(APIC_TPR), 0x70);
	let_in();
	CHECK(n_order, 1);
	sti();
	write_cr8(5);
	__asm__ volatile("nop; cli" : : : "memory");
	CHECK(n_order, 2);
	CHECK(order[1], 0x6f);
	CHECK(try_cr8(16), 13);
	write_cr8(0);
	/* Nesting. */
	n_order = 0;
	handler[0x80] = on_nested;
	self_ipi(0x80);
	let_in();
	handler[0x80] = on_irq;
	CHECK(order[0], 0x80);
	CHECK(order[1], 0x91);
	CHECK(order[2], 0x85);
	CHECK(order[3], 0x62);
	/* An EOI too many does nothing. */
	reg_write(APIC_EOI, 0);
	/* All but self, with nobody else: nothing. */
	n_order = 0;
	reg_write(APIC_ICR, 0xc0000 | 0x55);
	let_in();
	if (cpu_count() == 1)
		CHECK(n_order, 0);
	/* Software disable: nothing comes in, the LVT is masked for good. */
	n_order = 0;
	reg_write(APIC_SVR, 0xff);
	CHECK(reg_read(APIC_TIMER) & 0x10000, 0x10000);
	self_ipi(0x45);
	let_in();
	CHECK(n_order, 0);
	reg_write(APIC_TIMER, 0x40);
	CHECK(reg_read(APIC_TIMER) & 0x10000, 0x10000);
	reg_write(APIC_SVR, 0x1ff);
	reg_write(APIC_TIMER, 0x40);
	CHECK(reg_read(APIC_TIMER), 0x40);
	reg_write(APIC_TIMER, 0x10040);
	CHECK(reg_read(0x30) & 0xff, 0x14);
}

static void errors(void)
{
	reg_write(APIC_ESR, 0);
	reg_write(APIC_ESR, 0);
	CHECK(reg_read(APIC_ESR), 0);
	/* An illegal vector, and the interrupt of the error entry. */
	n_order = 0;
	reg_write(APIC_ERROR, 0x77);
	self_ipi(5);
	let_in();
	CHECK(n_order, 1);
	CHECK(order[0], 0x77);
	CHECK(reg_read(APIC_ESR), 0); /* shows after a write */
	reg_write(APIC_ESR, 0);
	CHECK(reg_read(APIC_ESR) & 0x20, 0x20);
	reg_write(APIC_ESR, 0);
	CHECK(reg_read(APIC_ESR), 0);
	reg_write(APIC_ERROR, 0x10000);
}

static void timer(void)
{
	u32 a, b;
	u64 t;

	n_order = 0;
	/* Masked it counts. */
	reg_write(APIC_DIVIDE, 0xb); /* 1 */
	reg_write(APIC_TIMER, 0x10040);
	reg_write(APIC_ICOUNT, 0xffffffff);
	a = reg_read(APIC_CCOUNT);
	spin(1000000);
	b = reg_read(APIC_CCOUNT);
	CHECK(b < a, 1);
	/* One-shot: once, then 0. */
	reg_write(APIC_TIMER, 0x40);
	reg_write(APIC_ICOUNT, 10000);
	sti();
	CHECK(WAIT(n_order == 1), 1);
	spin(3000000);
	cli();
	CHECK(n_order, 1);
	CHECK(order[0], 0x40);
	CHECK(reg_read(APIC_CCOUNT), 0);
	CHECK(reg_read(APIC_ICOUNT), 10000);
	/* HLT wakes up. */
	n_order = 0;
	reg_write(APIC_ICOUNT, 10000);
	while (!n_order)
		__asm__ volatile("sti; hlt; cli" : : : "memory");
	/* Periodic. */
	n_order = 0;
	reg_write(APIC_TIMER, 0x20041);
	reg_write(APIC_ICOUNT, 200000);
	sti();
	CHECK(WAIT(n_order >= 5), 1);
	cli();
	CHECK(order[0], 0x41);
	CHECK(order[4], 0x41);
	a = reg_read(APIC_CCOUNT);
	CHECK(a <= 200000, 1);
	/* A count of 0 stops it. */
	reg_write(APIC_ICOUNT, 0);
	let_in();
	n_order = 0;
	sti();
	spin(5000000);
	cli();
	CHECK(n_order, 0);
	/* The divider: 16 is slower than 1. */
	reg_write(APIC_TIMER, 0x10040);
	reg_write(APIC_DIVIDE, 3);
	CHECK(reg_read(APIC_DIVIDE), 3);
	t = rdtsc();
	reg_write(APIC_ICOUNT, 0xffffffff);
	spin(20000000);
	a = 0xffffffff - reg_read(APIC_CCOUNT);
	u64 slow = (rdtsc() - t) / (a + 1);

	reg_write(APIC_DIVIDE, 0xb);
	t = rdtsc();
	reg_write(APIC_ICOUNT, 0xffffffff);
	spin(20000000);
	b = 0xffffffff - reg_read(APIC_CCOUNT);
	u64 fast = (rdtsc() - t) / (b + 1);

	CHECK(slow >= fast * 12, 1);
	reg_write(APIC_ICOUNT, 0);
}

static void deadline(void)
{
	u32 id[4];

	cpuid(1, 0, id);
	if (!(id[2] >> 24 & 1))
		return;
	/* Another mode ignores it. */
	reg_write(APIC_TIMER, 0x42);
	wrmsr(MSR_DEADLINE, rdtsc() + 1000);
	CHECK(rdmsr(MSR_DEADLINE), 0);
	reg_write(APIC_TIMER, 0x40042);
	n_order = 0;
	wrmsr(MSR_DEADLINE, rdtsc() + 100000000);
	CHECK(rdmsr(MSR_DEADLINE) != 0, 1);
	sti();
	CHECK(WAIT(n_order == 1), 1);
	cli();
	CHECK(order[0], 0x42);
	CHECK(rdmsr(MSR_DEADLINE), 0);
	/* In the past: at once. */
	wrmsr(MSR_DEADLINE, 1);
	let_in();
	CHECK(n_order, 2);
	/* 0 disarms; the count registers do nothing. */
	wrmsr(MSR_DEADLINE, rdtsc() + 100000000);
	wrmsr(MSR_DEADLINE, 0);
	reg_write(APIC_ICOUNT, 100);
	CHECK(reg_read(APIC_CCOUNT), 0);
	sti();
	spin(120000000);
	cli();
	CHECK(n_order, 2);
	/* A write to the TSC moves what is waited for. */
	wrmsr(MSR_DEADLINE, rdtsc() + 1000000000000ull);
	wrmsr(0x10, rdtsc() + 2000000000000ull);
	sti();
	CHECK(WAIT(n_order == 3), 1);
	cli();
	wrmsr(0x3b, 0);
	reg_write(APIC_TIMER, 0x10000);
}

/* --- logical destinations --- */

static void logical(void)
{
	n_order = 0;
	if (!x2) {
		lapic_write(APIC_LDR, 0x02000000);
		lapic_write(APIC_ICR2, 0x03000000);
		lapic_write(APIC_ICR, 0x00800 | 0x51);
		let_in();
		CHECK(n_order, 1);
		lapic_write(APIC_ICR2, 0x0d000000);
		lapic_write(APIC_ICR, 0x00800 | 0x51);
		let_in();
		CHECK(n_order, 1);
		/* The cluster model. */
		lapic_write(APIC_DFR, 0x0fffffff);
		lapic_write(APIC_LDR, 0x32000000);
		lapic_write(APIC_ICR2, 0x36000000);
		lapic_write(APIC_ICR, 0x00800 | 0x51);
		lapic_write(APIC_ICR2, 0x26000000);
		lapic_write(APIC_ICR, 0x00800 | 0x52);
		let_in();
		CHECK(n_order, 2);
		CHECK(order[1], 0x51);
		lapic_write(APIC_DFR, 0xffffffff);
		lapic_write(APIC_LDR, 0x01000000);
		/* Lowest priority among one. */
		lapic_write(APIC_ICR2, 0x01000000);
		lapic_write(APIC_ICR, 0x00900 | 0x53);
		let_in();
		CHECK(order[2], 0x53);
	} else {
		u32 ldr = reg_read(APIC_LDR), id = reg_read(APIC_ID);

		CHECK(ldr, (id >> 4) << 16 | 1u << (id & 15));
		wrmsr(0x830, (u64)ldr << 32 | 0x800 | 0x51);
		wrmsr(0x830, (u64)(ldr ^ 0x10000) << 32 | 0x800 | 0x52);
		let_in();
		CHECK(n_order, 1);
		CHECK(order[0], 0x51);
		wrmsr(0x83f, 0x54);
		let_in();
		CHECK(order[1], 0x54);
	}
}

/* --- the I/O APIC, with the PIT on pin 2 and the serial port on pin 4 --- */

static void io_write(u32 reg, u32 v)
{
	*(volatile u32 *)0xfec00000 = reg;
	*(volatile u32 *)0xfec00010 = v;
}

static u32 io_read(u32 reg)
{
	*(volatile u32 *)0xfec00000 = reg;
	return *(volatile u32 *)0xfec00010;
}

static void redirect(unsigned pin, u32 low)
{
	io_write(0x11 + 2 * pin, reg_read(APIC_ID) << (x2 ? 24 : 0));
	io_write(0x10 + 2 * pin, low);
}

static void pit_rate(u16 count, u8 mode)
{
	outb(0x43, 0x30 | mode << 1);
	outb(0x40, (u8)count);
	outb(0x40, (u8)(count >> 8));
}

static volatile unsigned levels;

/* A level interrupt comes again until its source is quiet. */
static void on_level(struct regs *r)
{
	levels++;
	CHECK(io_read(0x10 + 2 * 4) >> 14 & 1, 1);
	CHECK(in_set(APIC_TMR, 0x58), 1);
	if (levels == 3)
		outb(0x3f9, 0);
	reg_write(APIC_EOI, 0);
}

static void io_apic(void)
{
	CHECK(io_read(1) & 0xff0000, 0x170000);
	n_order = 0;
	redirect(2, 0x10057);
	/* An edge while masked is lost. */
	pit_rate(1000, 0);
	spin(10000000);
	redirect(2, 0x57);
	let_in();
	CHECK(n_order, 0);
	pit_rate(1000, 0);
	sti();
	CHECK(WAIT(n_order == 1), 1);
	cli();
	CHECK(order[0], 0x57);
	/* Periodic. */
	n_order = 0;
	pit_rate(2000, 2);
	sti();
	CHECK(WAIT(n_order >= 3), 1);
	cli();
	redirect(2, 0x10057);
	pit_rate(0, 0);
	let_in();
	/* The transmitter's interrupt as a level. */
	levels = 0;
	handler[0x58] = on_level;
	outb(0x3fc, 8);
	redirect(4, 0x8058);
	sti();
	outb(0x3f9, 2);
	CHECK(WAIT(levels >= 3), 1);
	spin(1000000);
	cli();
	CHECK(levels, 3);
	CHECK(io_read(0x10 + 2 * 4) >> 14 & 1, 0);
	handler[0x58] = on_irq;
	redirect(4, 0x10058);
}

/* --- the 8259s, by ExtINT on LINT0 --- */

static volatile unsigned pics;

static void on_pic(struct regs *r)
{
	pics++;
	outb(0x20, 0x0b);
	CHECK(inb(0x20), 1);
	outb(0x20, 0x20);
}

static void pic(void)
{
	pics = 0;
	outb(0x20, 0x11);
	outb(0x21, 0x30);
	outb(0x21, 4);
	outb(0x21, 1);
	outb(0xa0, 0x11);
	outb(0xa1, 0x38);
	outb(0xa1, 2);
	outb(0xa1, 1);
	outb(0x21, 0xfe);
	outb(0xa1, 0xff);
	handler[0x30] = on_pic;
	reg_write(APIC_LINT0, 0x10700);
	pit_rate(1000, 0);
	sti();
	spin(10000000);
	CHECK(pics, 0);
	reg_write(APIC_LINT0, 0x700);
	CHECK(WAIT(pics == 1), 1);
	/* It does not pass through the APIC's ISR. */
	CHECK(in_set(APIC_ISR, 0x30), 0);
	pit_rate(1000, 0);
	CHECK(WAIT(pics == 2), 1);
	outb(0x21, 0xff);
	pit_rate(1000, 0);
	spin(10000000);
	cli();
	CHECK(pics, 2);
	reg_write(APIC_LINT0, 0x10700);
	handler[0x30] = on_irq;
}

/* --- NMI by ICR --- */

static volatile unsigned nmis;

static void on_nmi(struct regs *r)
{
	nmis++;
}

static void nmi(void)
{
	handler[2] = on_nmi;
	if (x2) {
		wrmsr(0x830, (u64)reg_read(APIC_ID) << 32 | 0x400);
	} else {
		lapic_write(APIC_ICR2, lapic_read(APIC_ID));
		lapic_write(APIC_ICR, 0x400);
	}
	CHECK(WAIT(nmis != 0), 1);
	nmis = 0;
	handler[2] = NULL;
}

/* --- modes --- */

static void to_x2(void)
{
	u64 base = rdmsr(MSR_APIC_BASE);

	CHECK(base & 0xfff, 0x900);
	/* Never x2APIC without enable. */
	CHECK(try_wrmsr(MSR_APIC_BASE, (base & ~0x800ull) | 0x400), 13);
	CHECK(try_rdmsr(0x802), 13);
	wrmsr(MSR_APIC_BASE, base | 0x400);
	/* No way back but through off. */
	CHECK(try_wrmsr(MSR_APIC_BASE, base), 13);
	x2 = true;
	CHECK(try_rdmsr(0x80b), 13);	/* EOI cannot be read */
	CHECK(try_wrmsr(0x80b, 1), 13); /* and takes 0 only */
	CHECK(try_wrmsr(0x802, 0), 13); /* the id cannot be written */
	CHECK(try_rdmsr(0x80e), 13);	/* there is no DFR */
	CHECK(try_wrmsr(0x80e, 0), 13);
	CHECK(try_rdmsr(0x831), 13); /* nor a second half of the ICR */
	CHECK(try_wrmsr(0x828, 1), 13);
	CHECK(try_wrmsr(0x808, 0x100), 13);
	CHECK(try_rdmsr(0x83f), 13);
	/* The page is memory's, or nobody's. */
	CHECK(lapic_read(APIC_SVR) == 0x1ff, 0);
}

static void back_to_x1(void)
{
	u64 base = rdmsr(MSR_APIC_BASE);
	u32 id[4];

	wrmsr(MSR_APIC_BASE, base & ~0xc00ull);
	cpuid(1, 0, id);
	CHECK(id[3] >> 9 & 1, 0);
	CHECK(try_wrmsr(MSR_APIC_BASE, base), 13);
	wrmsr(MSR_APIC_BASE, (base & ~0x400ull));
	cpuid(1, 0, id);
	CHECK(id[3] >> 9 & 1, 1);
	x2 = false;
	CHECK(lapic_read(APIC_SVR), 0xff);
	/* The page moves. */
	wrmsr(MSR_APIC_BASE, (base & 0xfff & ~0x400) | 0x700000);
	CHECK(*(volatile u32 *)0x7000f0, 0xff);
	wrmsr(MSR_APIC_BASE, base & ~0x400ull);
	CHECK(try_wrmsr(MSR_APIC_BASE, base | 1ull << 60), 13);
	CHECK(try_wrmsr(MSR_APIC_BASE, base | 1), 13);
}

void main64(void)
{
	u32 id[4];

	catch_all();
	lapic_write(APIC_SVR, 0x1ff);
	priorities();
	errors();
	timer();
	deadline();
	logical();
	io_apic();
	pic();
	nmi();
	cpuid(1, 0, id);
	if (id[2] >> 21 & 1) {
		to_x2();
		priorities();
		errors();
		timer();
		deadline();
		logical();
		io_apic();
		pic();
		nmi();
		back_to_x1();
	}
}
