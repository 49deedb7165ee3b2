/* The machine's paravirtual interface, as stock Linux guests know it from KVM: a clock, the time
 * that was stolen, IPIs, kicks and TLB flushes by hypercall or not at all, EOI by memory.
 *
 * The clock is a function of the time stamp counter alone, so that it never steps: not when the
 * machine moves to another engine, nor when it was paused. It stands while the TSC stands.
 */
#ifndef MACHINE_PV_H
#define MACHINE_PV_H

#include "base/bits.h"

struct err;
struct intc;
struct pv;
struct vcpu;
struct vcpu_set;

/* Give each vCPU of set the interface. ic sends its IPIs. Both are borrowed. calls: of the features
 * that are used by hypercalls, those that guests may be told of (cpu_model.pv_calls). Errors:
 * -ENOMEM. */
int pv_new(struct pv **out, struct vcpu_set *set, struct intc *ic, uint64_t tsc_khz, uint32_t calls,
	   struct err *err);
/* The vCPUs have none any more. NULL is fine. */
void pv_free(struct pv *pv);

/* The clock stands at 0 where the guest's TSC is the host's plus offset; all vCPUs are stopped.
 * Also when the host's TSC went on without the guest's. */
void pv_set_origin(struct pv *pv, int64_t offset);

/* For the interrupt controller, on c's thread, when it gives c an interrupt: a guest that never
 * halts never leaves run(), and is told here what was stolen from it. */
void pv_look(struct vcpu *c);

/* For the interrupt controller, on c's thread: may the guest, which has been given an interrupt,
 * end it in memory? False if it has not asked for that. */
bool pv_eoi_offer(struct vcpu *c);
/* Take the offer back. True if the guest has ended its interrupt. */
bool pv_eoi_taken(struct vcpu *c);

#endif
