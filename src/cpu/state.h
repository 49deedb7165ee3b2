/* What of struct vcpu the guest can see, by name: for comparing and hashing. */
#ifndef CPU_STATE_H
#define CPU_STATE_H

#include <stddef.h>
#include <stdint.h>

struct vcpu;

struct vcpu_field {
	const char *name;
	uint16_t off, size; /* bytes of struct vcpu */
};

/* All architectural state but RFLAGS (vcpu_rflags), memory and the interrupt controller. */
extern const struct vcpu_field vcpu_fields[];
extern const unsigned n_vcpu_fields;

/* Continue hash h with all of them and RFLAGS; struct vcpu is whole. Begin with 0. */
uint64_t vcpu_hash(const struct vcpu *c, uint64_t h);
/* The first field in which they differ, "rflags" for RFLAGS, or NULL if there is none. */
const char *vcpu_differs(const struct vcpu *a, const struct vcpu *b);

#endif
