/* The interpreter for engines that lean on it: what their own code does not do, it does.
 *
 * All calls by the thread that holds c, with struct vcpu whole.
 */
#ifndef CPU_INTERP_INTERP_H
#define CPU_INTERP_INTERP_H

#include "cpu/vcpu.h"

struct err;

/* Give c an interpreter (c->interp), or take it. -ENOMEM, or what the host says. */
int interp_attach(struct vcpu *c, struct err *err);
void interp_detach(struct vcpu *c);

/* Forget decoded code, and that an interrupt was not pending. */
void interp_forget(struct vcpu *c);

/* What happens between two instructions: serve c->kick and deliver what waits. INTERP_GO: execute
 * on; else what run() has to return. */
enum interp_event { INTERP_GO, INTERP_KICKED, INTERP_HALTED, INTERP_SHUTDOWN };
enum interp_event interp_events(struct vcpu *c);

/* Has the next instruction to be executed alone: TF, RF, a shadow, breakpoints, a trace? */
bool interp_must_step(const struct vcpu *c);
/* Has an interrupt to be looked for as soon as IF allows it? */
bool interp_irq_waits(const struct vcpu *c);
/* Execute one instruction, or a REP's part of one; what it raises is delivered. False on triple
 * fault. */
bool interp_one(struct vcpu *c);
/* Execute a block, and those that chain to it. Likewise. */
bool interp_some(struct vcpu *c);

#endif
