/* Numbers that the CPU and the board must tell the guest alike. */
#ifndef MEM_PLATFORM_H
#define MEM_PLATFORM_H

/* The local APIC timer's input, which is the core crystal clock that CPUID leaf 0x15 reports in
 * ECX. Linux takes its LAPIC timer frequency from there and skips calibration.
 */
#define LAPIC_TIMER_HZ 25000000u

/* Where the local APICs' page is after reset. SDM 3A "Local APIC Status and Location". */
#define LAPIC_DEFAULT_BASE 0xfee00000ull

#endif
