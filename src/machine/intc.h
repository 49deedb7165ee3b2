/* The board's interrupt complex: 8259 pair, I/O APIC and the local APICs, under one lock. */
#ifndef MACHINE_INTC_H
#define MACHINE_INTC_H

#include "mem/irq_line.h"
#include "mem/msi.h"

#include <stdint.h>

struct apic_msg;
struct err;
struct intc;
struct iospace;
struct timer_queue;
struct vclock;
struct vcpu;
struct vcpu_set;

struct intc_cfg {
	struct vcpu_set *set; /* its vCPUs get apic and apic_ops */
	const struct vclock *clock;
	struct timer_queue *timers;
	struct iospace *pio, *mmio;
	unsigned phys_bits, apic_tick_ns;
	uint64_t tsc_khz; /* of the guest's TSC */
};			  /* pointers are borrowed */

/* Errors: out of memory, or an address that is taken. */
int intc_new(struct intc **out, const struct intc_cfg *cfg, struct err *err);
/* Before the timer queue is freed. NULL is fine. */
void intc_free(struct intc *ic);

/* As firmware leaves it after power-on: the boot processor's local APIC passes the 8259s'
 * interrupts and NMI (virtual wire mode, MultiProcessor Specification 3.6.2.2); their inputs are
 * all masked. Wires keep their levels. The vCPUs are stopped.
 */
void intc_reset(struct intc *ic);

/* Take back what pv_eoi_offer() offered c, on its thread: the place in memory is about to change.
 */
void intc_settle_eoi(struct vcpu *c);
/* Send a message with an APIC id, of an interrupt or an NMI. True if somebody took it. Any thread.
 */
bool intc_send(struct intc *ic, const struct apic_msg *m);

/* The wire of ISA interrupt irq (0 to 15), which is on the 8259s and the I/O APIC. */
struct irq_line intc_isa_line(struct intc *ic, unsigned irq);
/* The wire of I/O APIC pin gsi (16 to 23). */
struct irq_line intc_gsi_line(struct intc *ic, unsigned gsi);
struct msi_sink intc_msi(struct intc *ic);

#endif
