/* Numbers that the CPU and the board must tell the guest alike. */
#ifndef MEM_PLATFORM_H
#define MEM_PLATFORM_H

/* Nanoseconds between two ticks of the local APIC timers' input, 25 MHz. It is the core crystal
 * clock that CPUID leaf 0x15 reports in ECX: Linux takes its timers' frequency from there and skips
 * calibration. A machine that may run on a KVM whose local APICs count nanoseconds has 1.
 */
#define LAPIC_TICK_NS	  40u
#define LAPIC_TICK_NS_KVM 1u

/* Where the local APICs' page is after reset. SDM 3A "Local APIC Status and Location". */
#define LAPIC_DEFAULT_BASE 0xfee00000ull

#endif
