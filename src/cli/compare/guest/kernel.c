/* The guest of `cleave compare`: a kernel that does one fixed load and says, on the serial line,
 * when it begins and when it has ended.
 *
 * Its command line ends with the load's name and how many operations to do. It writes lines: "uses
 * WORD...", what it has found of an APIC and of the paravirtual interface; "begin"; "end SUM
 * EVENTS", what the load computed, in hex, and how many system calls, faults or interrupts the
 * kernel itself has counted. Then it ends the machine by the debug exit, with 0.
 *
 * Whether it uses the paravirtual interface is the machine's choice: what CPUID offers is used, as
 * Linux does. Clock: MSR_KVM_SYSTEM_TIME, else the ACPI timer, which is what a kernel has that does
 * not trust its time stamp counter. End of interrupt: in memory, else a store to the APIC. IPIs: by
 * hypercall, else by the APIC.
 */
#include "cli/compare/loads.h"
#include "cpu/x86/kvm_para.h"

#include <stdbool.h>
#include <stddef.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

/* The board of `cleave run`. */
#define COM1	   0x3f8
#define DEBUG_EXIT 0xf4
#define PM_TIMER   0x608
#define NO_DEVICE  0xed
#define IOAPIC	   0xfec00000ull
#define APIC	   0xfee00000ull

#define KERNEL_CS	0x08
#define SYSRET_BASE	0x18ull
#define TSS_SELECTOR	0x30
#define AP_CODE		0x8000
#define POOL		0x800000ull /* physical pages for faults; 512 of them */
#define FAULTS		0x8000000000ull
#define PTE_USER	7
#define PTE_GLOBAL	0x103
#define MSR_APIC_BASE	0x1b
#define MSR_EFER_STAR	0xc0000081
#define MSR_LSTAR	0xc0000082
#define MSR_SFMASK	0xc0000084
#define MSR_GS_BASE	0xc0000101
#define APIC_ID		0x20
#define APIC_EOI	0xb0
#define APIC_SVR	0xf0
#define APIC_ICR	0x300
#define APIC_ICR2	0x310
#define APIC_TIMER	0x320
#define APIC_INITIAL	0x380
#define APIC_DIVIDE	0x3e0
#define POLL_TICKS	500000 /* of a bus of 1 GHz or less: a millisecond or so */
#define VECTOR_SELF	0x40
#define VECTOR_TIMER	0x41
#define VECTOR_OTHER	0x42
#define VECTOR_SPURIOUS 0xff

extern const u64 ap_code_len;
extern u64 pml4[512], pd[2048], idt[512], gdt_tss[2];
extern u8 stubs[], entry_stack[], ap_code[], user_begin[], user_end[];
void syscall_entry(void);
u64 user_run(u64 (*code)(void *buf, u64 n), void *buf, u64 n);
u64 user_call(u64 nr);
void user_leave(void);
void kernel_main(u32 info);
void ap_main(void);
void on_event(u64 vector, u64 error, u64 rip);

static struct {
	u64 stack, scratch; /* start.S */
	u32 eoi __attribute__((aligned(4)));
} cpu[2];
static u64 events;
static volatile u64 irqs, answered;
static volatile u32 ap_up;
static bool x2apic, pv_clock, pv_eoi, pv_ipi, is_amd;
static volatile struct pvclock_vcpu_time_info clock __attribute__((aligned(64)));
static u64 low_pages[1024] __attribute__((aligned(4096)));
static u64 fault_tables[3][512] __attribute__((aligned(4096)));
static u64 other_pml4[512] __attribute__((aligned(4096)));
static u32 tss[26] __attribute__((aligned(16)));
static u8 buffer[LOADS_BUFFER] __attribute__((aligned(4096), section(".user.bss")));

/* -- Instructions ----------------------------------------------------------------------------- */

static void outb(uint16_t port, u8 val)
{
	__asm__ volatile("outb %0, %1" : : "a"(val), "d"(port) : "memory");
}

static u8 inb(uint16_t port)
{
	u8 val;

	__asm__ volatile("inb %1, %0" : "=a"(val) : "d"(port) : "memory");
	return val;
}

static u32 inl(uint16_t port)
{
	u32 val;

	__asm__ volatile("inl %1, %0" : "=a"(val) : "d"(port) : "memory");
	return val;
}

static u64 rdmsr(u32 msr)
{
	u32 lo, hi;

	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return (u64)hi << 32 | lo;
}

static void wrmsr(u32 msr, u64 val)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)val), "d"((u32)(val >> 32)) : "memory");
}

static void cpuid(u32 leaf, u32 out[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
			 : "a"(leaf), "c"(0));
}

static u64 rdtsc(void)
{
	u32 lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (u64)hi << 32 | lo;
}

static void set_cr3(const void *table)
{
	__asm__ volatile("mov %0, %%cr3" : : "r"((u64)table) : "memory");
}

static u64 get_cr2(void)
{
	u64 val;

	__asm__ volatile("mov %%cr2, %0" : "=r"(val) : : "memory");
	return val;
}

static void pause(void)
{
	__asm__ volatile("pause" : : : "memory");
}

void *memset(void *to, int byte, size_t n)
{
	void *at = to;

	__asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(byte) : "memory");
	return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
	void *at = to;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
	return to;
}

/* -- Words ------------------------------------------------------------------------------------ */

static void put(char c)
{
	while (!(inb(COM1 + 5) & 0x20))
		pause();
	outb(COM1, (u8)c);
}

static void say(const char *text)
{
	while (*text)
		put(*text++);
}

static void say_hex(u64 val)
{
	int shift = 60;

	while (shift && !(val >> shift))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		put("0123456789abcdef"[val >> shift & 15]);
}

static _Noreturn void end(u8 status)
{
	outb(DEBUG_EXIT, status);
	for (;;)
		__asm__ volatile("cli; hlt");
}

static _Noreturn void give_up(const char *why, u64 a, u64 b, u64 c)
{
	say("failed: ");
	say(why);
	put(' ');
	say_hex(a);
	put(' ');
	say_hex(b);
	put(' ');
	say_hex(c);
	put('\n');
	end(1);
}

/* -- The local APIC --------------------------------------------------------------------------- */

static void apic_write(u32 reg, u64 val)
{
	if (x2apic)
		wrmsr(0x800 + (reg >> 4), val);
	else
		*(volatile u32 *)(APIC + reg) = (u32)val;
}

/* command as in the ICR's low half. */
static void apic_send(u32 to, u32 command)
{
	if (x2apic) {
		wrmsr(0x800 + (APIC_ICR >> 4), (u64)to << 32 | command);
		return;
	}
	*(volatile u32 *)(APIC + APIC_ICR2) = to << 24;
	*(volatile u32 *)(APIC + APIC_ICR) = command;
}

static void apic_on(unsigned number)
{
	if (x2apic)
		wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0xc00);
	apic_write(APIC_SVR, 0x100 | VECTOR_SPURIOUS);
	if (pv_eoi)
		wrmsr(MSR_KVM_PV_EOI, (u64)&cpu[number].eoi | KVM_MSR_ENABLED);
}

static void end_interrupt(unsigned number)
{
	u8 done = 0;

	if (pv_eoi)
		__asm__ volatile("btrl $0, %1; setc %0"
				 : "=r"(done), "+m"(cpu[number].eoi)
				 :
				 : "memory");
	if (!done)
		apic_write(APIC_EOI, 0);
}

/* -- Exceptions, interrupts, system calls ------------------------------------------------------ */

/* A new page for the address, zeroed as an operating system has to. */
static void on_fault(u64 error, u64 rip)
{
	u64 page = (get_cr2() - FAULTS) >> 12;

	if (page < LOADS_PAGES && !(error & 1)) {
		memset((void *)(POOL + (page << 12)), 0, 4096);
		fault_tables[2][page] = (POOL + (page << 12)) | PTE_USER;
		events++;
	} else {
		give_up("page fault", get_cr2(), error, rip);
	}
}

void on_event(u64 vector, u64 error, u64 rip)
{
	switch (vector) {
	case 14: on_fault(error, rip); return;
	case VECTOR_SELF:
	case VECTOR_TIMER:
		irqs++;
		events++;
		end_interrupt(0);
		return;
	case VECTOR_OTHER:
		answered++;
		end_interrupt(1);
		return;
	case VECTOR_SPURIOUS: return;
	default: give_up("exception", vector, error, rip);
	}
}

static u64 sys_count(void)
{
	return ++events;
}

/* As an operating system does after many pages: all translations but the kernel's are forgotten. */
static u64 sys_unmap(void)
{
	memset(fault_tables[2], 0, sizeof(fault_tables[2]));
	set_cr3(pml4);
	return 0;
}

void *const syscalls[] = { sys_count, sys_unmap, user_leave };

/* -- Setting up ------------------------------------------------------------------------------- */

static void set_gates(void)
{
	for (u64 n = 0; n < 256; n++) {
		u64 at = (u64)stubs + 16 * n;

		idt[2 * n] = (at & 0xffff) | KERNEL_CS << 16 | 0x8eull << 40 | at >> 16 << 48;
		idt[2 * n + 1] = at >> 32;
	}
}

static void set_task(void)
{
	u64 at = (u64)tss, stack = (u64)entry_stack;

	memcpy((u8 *)tss + 4, &stack, 8);
	gdt_tss[0] =
		(sizeof(tss) - 1) | (at & 0xffffff) << 16 | 0x89ull << 40 | (at >> 24 & 0xff) << 56;
	gdt_tss[1] = at >> 32;
	__asm__ volatile("ltr %w0" : : "r"(TSS_SELECTOR));
}

static void set_syscalls(void)
{
	cpu[0].stack = (u64)entry_stack;
	wrmsr(MSR_GS_BASE, (u64)&cpu[0]);
	wrmsr(MSR_EFER_STAR, SYSRET_BASE << 48 | (u64)KERNEL_CS << 32);
	wrmsr(MSR_LSTAR, (u64)syscall_entry);
	wrmsr(MSR_SFMASK, 0x47700);
}

/* The first 4 MiB in small pages, of which ring 3 has its own; a table for the pages that fault; a
 * second address space with the same in it. */
static void set_pages(void)
{
	for (u64 n = 0; n < 1024; n++) {
		u64 at = n << 12;
		bool user = at >= (u64)user_begin && at < (u64)user_end;

		low_pages[n] = at | (user ? PTE_USER : PTE_GLOBAL);
	}
	pd[0] = (u64)low_pages | PTE_USER;
	pd[1] = (u64)&low_pages[512] | PTE_USER;
	pml4[1] = (u64)fault_tables[0] | PTE_USER;
	fault_tables[0][0] = (u64)fault_tables[1] | PTE_USER;
	fault_tables[1][0] = (u64)fault_tables[2] | PTE_USER;
	memcpy(other_pml4, pml4, sizeof(other_pml4));
	/* Global ones are forgotten too. SDM 3A 4.10.4.1. */
	__asm__ volatile("mov %%cr4, %%rax; xor $0x80, %%rax; mov %%rax, %%cr4; xor $0x80, %%rax;"
			 "mov %%rax, %%cr4"
			 :
			 :
			 : "rax", "memory");
}

static void look_around(void)
{
	u32 r[4];

	cpuid(0, r);
	is_amd = r[1] == 0x68747541;
	cpuid(1, r);
	x2apic = r[2] >> 21 & 1;
	cpuid(0x40000000, r);
	if (r[1] == 0x4b4d564b && r[2] == 0x564b4d56 && r[0] >= KVM_CPUID_FEATURES) {
		cpuid(KVM_CPUID_FEATURES, r);
		pv_clock = r[0] & KVM_FEATURE_CLOCKSOURCE2;
		pv_eoi = r[0] & KVM_FEATURE_PV_EOI;
		pv_ipi = r[0] & KVM_FEATURE_PV_SEND_IPI;
	}
	if (pv_clock)
		wrmsr(MSR_KVM_SYSTEM_TIME, (u64)&clock | KVM_MSR_ENABLED);
	say("uses");
	say(x2apic ? " x2apic" : " xapic");
	say(pv_clock ? " pv-clock" : "");
	say(pv_eoi ? " pv-eoi" : "");
	say(pv_ipi ? " pv-ipi" : "");
	put('\n');
}

/* -- Loads ------------------------------------------------------------------------------------ */

USER_CODE static u64 do_syscalls(void *buf, u64 n)
{
	u64 sum = 0;

	for (u64 i = 0; i < n; i++)
		sum += user_call(0);
	return sum;
}

USER_CODE static u64 do_faults(void *buf, u64 n)
{
	volatile u8 *page = (u8 *)FAULTS;

	for (u64 i = 0; i < n; i++) {
		page[i % LOADS_PAGES << 12] = (u8)i;
		if (i % LOADS_PAGES == LOADS_PAGES - 1)
			user_call(1);
	}
	return n;
}

static u64 user_integer(u64 n)
{
	return user_run(load_integer, buffer, n);
}

static u64 user_sort(u64 n)
{
	return user_run(load_sort, buffer, n);
}

static u64 user_hash(u64 n)
{
	return user_run(load_hash, buffer, n);
}

static u64 user_syscalls(u64 n)
{
	return user_run(do_syscalls, buffer, n);
}

static u64 user_faults(u64 n)
{
	return user_run(do_faults, buffer, n);
}

/* Each switch is followed by what a process would do: a look at its memory. */
static u64 switches(u64 n)
{
	volatile u8 *b = buffer;

	for (u64 i = 0; i < n; i++) {
		set_cr3(i & 1 ? pml4 : other_pml4);
		for (unsigned page = 0; page < 8; page++)
			b[page << 12]++;
	}
	set_cr3(pml4);
	return n;
}

static u64 self_ipis(u64 n)
{
	__asm__ volatile("sti");
	for (u64 i = 0; i < n; i++) {
		apic_send(x2apic ? rdmsr(0x802) : 0, 0x40000 | VECTOR_SELF);
		while (irqs == i)
			pause();
	}
	__asm__ volatile("cli");
	return irqs;
}

static u64 timers(u64 n)
{
	apic_write(APIC_DIVIDE, 0xb);
	apic_write(APIC_TIMER, VECTOR_TIMER);
	__asm__ volatile("sti");
	for (u64 i = 0; i < n; i++) {
		apic_write(APIC_INITIAL, 1);
		while (irqs == i)
			pause();
	}
	__asm__ volatile("cli");
	return irqs;
}

void ap_main(void)
{
	apic_on(1);
	ap_up = 1;
	__asm__ volatile("sti");
	for (;;)
		pause();
}

static void start_ap(void)
{
	memcpy((void *)AP_CODE, ap_code, ap_code_len);
	apic_send(1, 0x4500);
	apic_send(1, 0x4600 | AP_CODE >> 12);
	for (u64 limit = rdtsc() + 40000000000ull; !ap_up; pause())
		if (rdtsc() > limit)
			give_up("no second CPU", 0, 0, 0);
}

static void send_other(void)
{
	u64 ret;

	if (!pv_ipi) {
		apic_send(1, VECTOR_OTHER);
		return;
	}
	/* KVM takes the processor's own instruction alone. */
	if (is_amd)
		__asm__ volatile("vmmcall"
				 : "=a"(ret)
				 : "a"(KVM_HC_SEND_IPI), "b"(2ull), "c"(0ull), "d"(0ull),
				   "S"((u64)VECTOR_OTHER)
				 : "memory");
	else
		__asm__ volatile("vmcall"
				 : "=a"(ret)
				 : "a"(KVM_HC_SEND_IPI), "b"(2ull), "c"(0ull), "d"(0ull),
				   "S"((u64)VECTOR_OTHER)
				 : "memory");
}

static u64 other_ipis(u64 n)
{
	for (u64 i = 0; i < n; i++) {
		send_other();
		while (answered == i)
			pause();
		events++;
	}
	return answered;
}

/* Nanoseconds. */
static u64 read_clock(void)
{
	u32 version;
	u64 ns;

	if (!pv_clock)
		return inl(PM_TIMER) * 1000000000ull / 3579545;
	do {
		version = clock.version;
		ns = rdtsc() - clock.tsc_timestamp;
		ns = clock.tsc_shift < 0 ? ns >> -clock.tsc_shift : ns << clock.tsc_shift;
		ns = (u64)((unsigned __int128)ns * clock.tsc_to_system_mul >> 32) +
		     clock.system_time;
	} while (version & 1 || version != clock.version);
	return ns;
}

static u64 clocks(u64 n)
{
	u64 last = read_clock(), steps = 0;

	for (u64 i = 0; i < n; i++) {
		u64 now = read_clock();

		steps += now != last;
		last = now;
	}
	if (!steps)
		give_up("the clock stands", last, 0, 0);
	return n;
}

static u64 ports(u64 n)
{
	for (u64 i = 0; i < n; i++)
		outb(NO_DEVICE, (u8)i);
	return n;
}

static u64 mmios(u64 n)
{
	u64 sum = 0;

	for (u64 i = 0; i < n; i++)
		sum += *(volatile u32 *)IOAPIC;
	return n + sum;
}

static u64 nothing(u64 n)
{
	return n;
}

static const struct {
	const char *name;
	u64 (*fn)(u64 n);
	bool two_cpus;
} loads[] = {
	{ "integer", user_integer, false }, { "sort", user_sort, false },
	{ "hash", user_hash, false },	    { "syscall", user_syscalls, false },
	{ "fault", user_faults, false },    { "switch", switches, false },
	{ "interrupt", self_ipis, false },  { "timer", timers, false },
	{ "ipi", other_ipis, true },	    { "clock", clocks, false },
	{ "port", ports, false },	    { "mmio", mmios, false },
	{ "nothing", nothing, false },
};

static bool same(const char *a, const char *b)
{
	for (; *a && *a == *b; a++)
		b++;
	return *a == *b;
}

/* "... NAME COUNT": sets *name, ends it, returns the count. */
static u64 parse(char *text, char **name)
{
	char *count = text;
	u64 n = 0;

	*name = text;
	for (; *text; text++) {
		if (*text != ' ')
			continue;
		*name = count;
		count = text + 1;
	}
	if (count > *name)
		count[-1] = 0;
	for (; *count >= '0' && *count <= '9'; count++)
		n = 10 * n + (u64)(*count - '0');
	return n;
}

/* Until a byte comes. Nearly all the time the CPU is halted. */
static void wait_for_byte(void)
{
	apic_write(APIC_DIVIDE, 0xb);
	apic_write(APIC_TIMER, VECTOR_TIMER);
	while (!(inb(COM1 + 5) & 1)) {
		apic_write(APIC_INITIAL, POLL_TICKS);
		__asm__ volatile("sti; hlt; cli" : : : "memory");
	}
	inb(COM1);
	irqs = events = 0;
}

static void do_load(unsigned which, u64 n)
{
	u64 sum, begin;

	if (loads[which].two_cpus)
		start_ap();
	say("begin\n");
	wait_for_byte();
	begin = rdtsc();
	sum = loads[which].fn(n);
	begin = rdtsc() - begin;
	say("end ");
	say_hex(sum);
	put(' ');
	say_hex(events);
	put(' ');
	say_hex(begin);
	put('\n');
	wait_for_byte();
	end(0);
}

/* info: what the loader says. Multiboot 3.3: the command line's address at 16. */
void kernel_main(u32 info)
{
	char *name;
	u64 n = parse((char *)(u64) * (u32 *)(u64)(info + 16), &name);

	set_gates();
	set_task();
	set_pages();
	set_syscalls();
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	look_around();
	apic_on(0);
	for (unsigned i = 0; i < sizeof(loads) / sizeof(loads[0]); i++)
		if (same(loads[i].name, name))
			do_load(i, n);
	give_up("no such load", n, 0, 0);
}
