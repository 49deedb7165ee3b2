/* A guest that never halts is told what was stolen from it. steal_test.py starts it beside a
 * process that wants the same CPU of the host, and reads "stolen HEX of HEX": nanoseconds, and
 * ticks of the time stamp counter.
 */
#include "lib/long.h"

#define MSR_STEAL_TIME 0x4b564d03
#define VECTOR	       0x51
#define TICKS	       4000000000ull

static volatile struct {
	u64 steal;
	u32 version, flags;
	u8 preempted;
} steal __attribute__((aligned(64)));

static void on_tick(struct regs *r)
{
	lapic_write(APIC_EOI, 0);
}

void main64(void)
{
	u64 begin = rdtsc();

	lapic_write(0xf0, 0x1ff);
	handler[VECTOR] = on_tick;
	wrmsr(MSR_STEAL_TIME, (u64)&steal | 1);
	lapic_write(APIC_DIVIDE, 0xb);
	lapic_write(APIC_TIMER, 0x20000 | VECTOR);
	lapic_write(APIC_ICOUNT, 1000000);
	sti();
	while (rdtsc() - begin < TICKS)
		pause();
	cli();
	print("stolen ");
	print_hex(steal.steal);
	print(" of ");
	print_hex(rdtsc() - begin);
	print("\n");
}
