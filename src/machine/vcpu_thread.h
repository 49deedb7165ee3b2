/* A host thread for each vCPU, and stopping and starting all of them. */
#ifndef MACHINE_VCPU_THREAD_H
#define MACHINE_VCPU_THREAD_H

#include "cpu/engine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct err;
struct vcpu;
struct vcpu_crew;
struct vcpu_set;

/* What the crew tells its owner. On a vCPU's thread, no lock held; then that vCPU waits until the
 * crew is started again.
 */
struct crew_events {
	/* Executes c: as the engine's run(), with its exits. NULL: that. */
	enum run_exit (*run)(void *arg, struct vcpu *c);
	void (*shutdown)(void *arg, struct vcpu *c); /* triple fault */
	void (*broken)(void *arg, struct vcpu *c);
	void (*debug)(void *arg, struct vcpu *c); /* c->debug.stop says why */
	void *arg;
};

/* Make a stopped thread for each vCPU of set, and set their wake. set is borrowed; its engines are
 * initialised. Errors: the host's.
 */
int crew_new(struct vcpu_crew **out, struct vcpu_set *set, struct crew_events events,
	     struct err *err);
/* End the threads. NULL is fine. */
void crew_free(struct vcpu_crew *w);

/* Let all vCPUs run. They are all stopped. */
void crew_start(struct vcpu_crew *w);
/* Ask all vCPUs to stop. Any thread, a vCPU's too; returns at once. */
void crew_ask_stop(struct vcpu_crew *w);
/* Wait until all have stopped; not on a vCPU's thread. */
void crew_wait_stopped(struct vcpu_crew *w);

#endif
