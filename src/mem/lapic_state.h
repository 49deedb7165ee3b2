/* A local APIC's state on its way between the board's chip and an engine that has such chips
 * itself, and what each of them offers the other.
 */
#ifndef MEM_LAPIC_STATE_H
#define MEM_LAPIC_STATE_H

#include <stdbool.h>
#include <stdint.h>

#define LAPIC_REGS 64

struct lapic_state {
	uint64_t base; /* IA32_APIC_BASE; does not come back, since who writes it is told here */
	/* By number, the offset in the APIC's page divided by 16, and as an xAPIC shows them: the
	 * id in the upper 8 bits, the command register in two halves. The current count is what is
	 * left now. A one-shot timer that has run out has no initial count: the one it had would
	 * start it again. */
	uint32_t reg[LAPIC_REGS];
	uint64_t tsc_deadline; /* guest TSC; 0: disarmed */
};

/* A message as a device sends it (mem/msi.h); addr 0: none. */
struct lapic_route {
	uint64_t addr;
	uint32_t data;
};

/* What an engine offers that has local APICs: those of all vCPUs of the set, by their index. The
 * board's lock is held. */
struct lapic_host {
	/* Take over the state of a chip; give it back. */
	void (*load)(void *host, unsigned index, const struct lapic_state *s);
	void (*save)(void *host, unsigned index, struct lapic_state *s);
	/* Send a message; true if somebody took it. Any thread. */
	bool (*send)(void *host, uint64_t addr, uint32_t data);
	/* The messages of the I/O APIC's level-triggered pins are these now: the end of one of them
	 * is to be told by vcpu_apic_ops' ended(). Any thread. */
	void (*watch)(void *host, const struct lapic_route *route, unsigned n);
};

#endif
