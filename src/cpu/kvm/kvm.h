/* Hardware-assisted execution by Linux's KVM: what the engine offers beside cpu/engine.h. */
#ifndef CPU_KVM_KVM_H
#define CPU_KVM_KVM_H

#include <stddef.h>

struct cpu_model;
struct err;

/* Open /dev/kvm. The descriptor is the caller's; -errno, -ENOTSUP for an API that is not ours. */
int kvm_open(struct err *err);

/* Take from the model what this host's KVM cannot show a guest, and what it would show differently
 * from the other engines; IA32_ARCH_CAPABILITIES gets what the processor itself says. A machine
 * that may come to run on KVM must be made with such a model. left_out gets the names of what was
 * taken, separated by blanks, cut to len. Errors: the host's.
 */
int kvm_limit_model(struct cpu_model *m, char *left_out, size_t len, struct err *err);

#endif
