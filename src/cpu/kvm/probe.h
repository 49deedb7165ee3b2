/* Does this host's KVM run stock guests at hardware speed? Found out by trying, since a /dev/kvm
 * that emulates looks like any other. */
#ifndef CPU_KVM_PROBE_H
#define CPU_KVM_PROBE_H

#include <stdbool.h>
#include <stddef.h>

/* Slower than this is no hardware: native is below 1 ns, KVM inside an emulated machine was
 * measured at 7 to 10, a KVM that emulates at 1,100 to 1,400. */
#define KVM_PROBE_MAX_NS 100.0

/* What stops a guest for a debugger, by KVM_SET_GUEST_DEBUG. */
#define KVM_STOPS_AT_CODE (1u << 0) /* a debug register with a code address */
#define KVM_STOPS_AT_DATA (1u << 1) /* one with a data address */
#define KVM_STOPS_AT_INT3 (1u << 2)
#define KVM_STOPS_ALL	  7u

/* What was found. */
struct kvm_probe {
	char refused[160];	/* why no vCPU could be made; empty: one could */
	double ns_per_turn;	/* a turn of a loop in 64-bit mode at CPL 0; 0: not measured */
	const char *failed_at;	/* what the function test failed at; NULL: all passed */
	const char *failed_how; /* and how */
	unsigned stops;		/* KVM_STOPS_ bits */
	double took_ms;
};

/* Try, for at most about 100 ms of CPU time. The signal of host/kick.h must not be blocked. */
void kvm_probe(struct kvm_probe *p);

/* Is it fit for engine auto? why gets one sentence with the figures, cut to len. */
bool kvm_probe_accepts(const struct kvm_probe *p, char *why, size_t len);

#endif
