/* The paravirtual interface that stock Linux guests know as KVM's: numbers and formats. Linux,
 * Documentation/virt/kvm/x86: cpuid, msr, hypercalls.
 */
#ifndef CPU_X86_KVM_PARA_H
#define CPU_X86_KVM_PARA_H

#include <stdint.h>

#define KVM_CPUID_SIGNATURE "KVMKVMKVM\0\0\0"
#define KVM_CPUID_FEATURES  0x40000001u

/* EAX of that leaf. */
#define KVM_FEATURE_CLOCKSOURCE	       (1u << 0)
#define KVM_FEATURE_NOP_IO_DELAY       (1u << 1)
#define KVM_FEATURE_CLOCKSOURCE2       (1u << 3)
#define KVM_FEATURE_STEAL_TIME	       (1u << 5)
#define KVM_FEATURE_PV_EOI	       (1u << 6)
#define KVM_FEATURE_PV_UNHALT	       (1u << 7)
#define KVM_FEATURE_PV_TLB_FLUSH       (1u << 9)
#define KVM_FEATURE_PV_SEND_IPI	       (1u << 11)
#define KVM_FEATURE_POLL_CONTROL       (1u << 12)
#define KVM_FEATURE_PV_SCHED_YIELD     (1u << 13)
#define KVM_FEATURE_CLOCKSOURCE_STABLE (1u << 24)

#define MSR_KVM_WALL_CLOCK_OLD	0x11u
#define MSR_KVM_SYSTEM_TIME_OLD 0x12u
#define MSR_KVM_WALL_CLOCK	0x4b564d00u
#define MSR_KVM_SYSTEM_TIME	0x4b564d01u
#define MSR_KVM_STEAL_TIME	0x4b564d03u
#define MSR_KVM_PV_EOI		0x4b564d04u
#define MSR_KVM_POLL_CONTROL	0x4b564d05u
#define KVM_MSR_ENABLED		1u

#define KVM_HC_VAPIC_POLL_IRQ 1u
#define KVM_HC_KICK_CPU	      5u
#define KVM_HC_SEND_IPI	      10u
#define KVM_HC_SCHED_YIELD    11u
#define KVM_ENOSYS	      1000u
#define KVM_EPERM	      1u

#define PVCLOCK_TSC_STABLE (1u << 0)

/* Where MSR_KVM_SYSTEM_TIME says. version is odd while it is being written. */
struct pvclock_vcpu_time_info {
	uint32_t version;
	uint32_t pad0;
	uint64_t tsc_timestamp;
	uint64_t system_time; /* ns at tsc_timestamp */
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t pad[2];
};

/* Where MSR_KVM_WALL_CLOCK says: the time of day when system time was 0. */
struct pvclock_wall_clock {
	uint32_t version, sec, nsec;
};

#define KVM_VCPU_PREEMPTED (1u << 0)
#define KVM_VCPU_FLUSH_TLB (1u << 1)

/* Where MSR_KVM_STEAL_TIME says, at a multiple of 64. */
struct kvm_steal_time {
	uint64_t steal; /* ns in which the vCPU wanted to run and did not */
	uint32_t version;
	uint32_t flags;
	uint8_t preempted; /* it does not run: what is to be done before it does can be left here */
	uint8_t pad0[3];
	uint32_t pad[11];
};

_Static_assert(sizeof(struct pvclock_vcpu_time_info) == 32, "format");
_Static_assert(sizeof(struct kvm_steal_time) == 64, "format");

#endif
