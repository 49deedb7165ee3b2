/* The paravirtual interface that Linux knows from KVM: leaves, registers, hypercalls, and what it
 * keeps in memory. Linux, Documentation/virt/kvm/x86: cpuid, msr, hypercalls.
 */
#include "lib/long.h"

#define MSR_SYSTEM_TIME 0x4b564d01
#define MSR_WALL_CLOCK	0x4b564d00
#define MSR_STEAL_TIME	0x4b564d03
#define MSR_PV_EOI	0x4b564d04
#define MSR_POLL	0x4b564d05
#define HC_KICK_CPU	5
#define HC_SEND_IPI	10
#define VECTOR		0x51
#define LOWER		0x41

static volatile struct {
	u32 version, pad0;
	u64 tsc_timestamp, system_time;
	u32 mul;
	signed char shift;
	u8 flags, pad[2];
} clock __attribute__((aligned(64)));
static volatile struct {
	u64 steal;
	u32 version, flags;
	u8 preempted;
} steal __attribute__((aligned(64)));
static volatile u32 anywhere[10] __attribute__((aligned(64))); /* a clock at a multiple of 4 */
static volatile u32 wall[4];
static volatile u32 eoi __attribute__((aligned(4)));
static volatile u32 n_irqs, n_quiet, n_loud;
static volatile _Atomic u32 ap_waits, ap_woke, ap_irqs;
u64 user_result;

/* KVM takes the processor's own instruction alone. */
static bool is_amd(void)
{
	u32 r[4];

	cpuid(0, 0, r);
	return r[1] == 0x68747541;
}

static u64 hypercall(u64 nr, u64 a, u64 b, u64 c, u64 d)
{
	u64 ret;

	if (is_amd())
		__asm__ volatile("vmmcall"
				 : "=a"(ret)
				 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d)
				 : "memory");
	else
		__asm__ volatile("vmcall"
				 : "=a"(ret)
				 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d)
				 : "memory");
	return ret;
}

static void leaves(void)
{
	u32 r[4];

	cpuid(0x40000000, 0, r);
	CHECK(r[0] >= 0x40000001, 1);
	CHECK(r[1], 0x4b4d564b);
	CHECK(r[2], 0x564b4d56);
	CHECK(r[3], 0x4d);
	cpuid(0x40000001, 0, r);
	CHECK(r[0], 0x01003aeb);
}

static void registers(void)
{
	CHECK(rdmsr(MSR_POLL), 1);
	CHECK(try_wrmsr(MSR_POLL, 2), 13);
	CHECK(try_wrmsr(MSR_STEAL_TIME, (u64)&steal | 3), 13);
	CHECK(try_wrmsr(MSR_PV_EOI, (u64)&eoi | 3), 13);
	CHECK(try_rdmsr(0x4b564d02), 13);
	CHECK(try_rdmsr(0x4b564d06), 13);
	/* Where there is no memory nothing is written, and nobody falls. */
	wrmsr(MSR_SYSTEM_TIME, 0xfffffffffff001ull);
	wrmsr(MSR_STEAL_TIME, 0xfffffffffff041ull & ~0x3eull);
	wrmsr(MSR_PV_EOI, 0xfffffffffff001ull);
	wrmsr(MSR_WALL_CLOCK, 0xfffffffffff000ull);
	CHECK(rdmsr(MSR_SYSTEM_TIME), 0xfffffffffff001ull);
	wrmsr(MSR_SYSTEM_TIME, 0);
	wrmsr(MSR_STEAL_TIME, 0);
	wrmsr(MSR_PV_EOI, 0);
}

static u64 now_ns(void)
{
	u64 ticks = rdtsc() - clock.tsc_timestamp;

	ticks = clock.shift < 0 ? ticks >> -clock.shift : ticks << clock.shift;
	return clock.system_time + (u64)((unsigned __int128)ticks * clock.mul >> 32);
}

static void clocks(void)
{
	u64 before, after;

	wrmsr(MSR_SYSTEM_TIME, (u64)&anywhere[1] | 1);
	wrmsr(MSR_SYSTEM_TIME, (u64)&clock | 1);
	CHECK(anywhere[1] != 0 && anywhere[1] % 2 == 0, 1);
	CHECK(anywhere[7], clock.mul);
	CHECK(anywhere[0] | anywhere[9], 0);
	CHECK(clock.version != 0 && clock.version % 2 == 0, 1);
	CHECK(clock.flags, 1);
	before = now_ns();
	CHECK(before < 60000000000ull, 1);
	for (u64 end = rdtsc() + 20000000; rdtsc() < end;)
		pause();
	after = now_ns();
	CHECK(after > before && after - before < 10000000000ull, 1);
	/* Another TSC, the same time. */
	wrmsr(0x10, rdtsc() + 1000000000000ull);
	before = now_ns();
	CHECK(before > after && before - after < 10000000000ull, 1);
	CHECK(clock.flags, 0);
	wrmsr(0x10, rdtsc() - 1000000000000ull);
	wrmsr(MSR_WALL_CLOCK, (u64)wall);
	CHECK(wall[0] != 0 && wall[0] % 2 == 0, 1);
	CHECK(wall[1] > 1700000000, 1);
	CHECK(wall[3], 0);
	wrmsr(MSR_STEAL_TIME, (u64)&steal | 1);
	CHECK(steal.version != 0 && steal.version % 2 == 0, 1);
	CHECK(steal.preempted, 0);
}

__asm__("u_vmcall:\n"
	"	mov $9999, %eax\n"
	"	vmcall\n"
	"	mov %rax, (%rdi)\n"
	"	ud2\n");
__asm__("u_vmmcall:\n"
	"	mov $9999, %eax\n"
	"	vmmcall\n"
	"	mov %rax, (%rdi)\n"
	"	ud2\n");
extern const u8 u_vmcall[], u_vmmcall[];

static void hypercalls(void)
{
	CHECK(hypercall(9999, 0, 0, 0, 0), -1000);
	CHECK(hypercall(1, 0, 0, 0, 0), 0);
	/* To nobody. */
	CHECK(hypercall(HC_KICK_CPU, 0, 4000, 0, 0), 0);
	CHECK(hypercall(HC_SEND_IPI, ~0ull, ~0ull, 4000, VECTOR), 0);
	CHECK(hypercall(HC_SEND_IPI, 1, 0, 0, 0x500), -22);
	CHECK(user_run(is_amd() ? u_vmmcall : u_vmcall, 2, USER(&user_result)), 6);
	CHECK(user_result, -1);
	/* To itself. */
	n_irqs = 0;
	CHECK(hypercall(HC_SEND_IPI, 1, 0, 0, VECTOR), 1);
	let_in();
	CHECK(n_irqs, 1);
}

static void end_interrupt(void)
{
	u8 quiet;

	__asm__ volatile("lock btrl $0, %1; setc %0" : "=r"(quiet), "+m"(eoi) : : "memory");
	if (quiet) {
		n_quiet++;
	} else {
		n_loud++;
		lapic_write(APIC_EOI, 0);
	}
}

static void on_irq(struct regs *r)
{
	n_irqs++;
	if (rdmsr(MSR_PV_EOI))
		end_interrupt();
	else
		lapic_write(APIC_EOI, 0);
	/* Only now: a look at the APIC settles what was ended in memory. */
	if (lapic_read(APIC_ID) >> 24)
		ap_irqs++;
}

/* Another interrupt comes while this one may be ended in memory: that has to be told. */
static void on_busy_irq(struct regs *r)
{
	CHECK(eoi & 1, 1);
	n_irqs++;
	lapic_write(APIC_ICR, 0x40000 | LOWER);
	CHECK(eoi & 1, 0);
	end_interrupt();
}

/* Ended in memory, and the interface switched off before anybody has looked. */
static void on_last_irq(struct regs *r)
{
	n_irqs++;
	end_interrupt();
	wrmsr(MSR_PV_EOI, 0);
}

static void eoi_by_memory(void)
{
	wrmsr(MSR_PV_EOI, (u64)&eoi | 1);
	n_irqs = n_quiet = n_loud = 0;
	for (int i = 0; i < 10; i++) {
		lapic_write(APIC_ICR, 0x40000 | VECTOR);
		let_in();
	}
	CHECK(n_irqs, 10);
	CHECK(n_quiet, 10);
	CHECK(lapic_read(APIC_PPR), 0);
	handler[VECTOR] = on_busy_irq;
	lapic_write(APIC_ICR, 0x40000 | VECTOR);
	let_in();
	let_in();
	CHECK(n_irqs, 12);
	CHECK(n_loud, 1);
	CHECK(lapic_read(APIC_PPR), 0);
	handler[VECTOR] = on_last_irq;
	lapic_write(APIC_ICR, 0x40000 | VECTOR);
	let_in();
	CHECK(n_irqs, 13);
	CHECK(lapic_read(APIC_PPR), 0);
	handler[VECTOR] = on_irq;
	lapic_write(APIC_ICR, 0x40000 | VECTOR);
	let_in();
	CHECK(n_irqs, 14);
}

/* Halts without being open to interrupts, again and again; then waits for some. */
void ap_main(unsigned id)
{
	lapic_write(0xf0, 0x1ff);
	for (int i = 0; i < 20; i++) {
		ap_waits++;
		__asm__ volatile("cli; hlt" : : : "memory");
		ap_woke++;
	}
	for (;;)
		__asm__ volatile("sti; hlt" : : : "memory");
}

static void other_cpus(unsigned n)
{
	u64 others = (1ull << n) - 2;

	for (unsigned id = 1; id < n; id++)
		ap_start(id);
	for (u32 round = 1; round <= 20; round++) {
		CHECK(WAIT(ap_waits == round * (n - 1)), 1);
		CHECK(ap_woke, (round - 1) * (n - 1));
		/* Also one that comes before the halt counts. */
		for (unsigned id = 1; id < n; id++)
			hypercall(HC_KICK_CPU, 0, id, 0, 0);
		CHECK(WAIT(ap_woke == round * (n - 1)), 1);
	}
	CHECK(hypercall(HC_SEND_IPI, others, 0, 0, VECTOR), n - 1);
	CHECK(WAIT(ap_irqs == n - 1), 1);
}

void main64(void)
{
	lapic_write(0xf0, 0x1ff);
	handler[VECTOR] = handler[LOWER] = on_irq;
	leaves();
	registers();
	clocks();
	hypercalls();
	eoi_by_memory();
	if (cpu_count() > 1)
		other_cpus(cpu_count());
}
