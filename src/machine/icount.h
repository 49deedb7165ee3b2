/* Deterministic mode: the machine's one vCPU counts its instructions, and guest time is that count,
 * a nanosecond each. Timers run on the vCPU's thread at exact counts (the translator: at the end of
 * the translation that reaches them); a halt lets time jump to the next timer. So two runs of the
 * same configuration without input do the same. What counts as an instruction is said in
 * cpu/vcpu.h.
 */
#ifndef MACHINE_ICOUNT_H
#define MACHINE_ICOUNT_H

#include "cpu/engine.h"

#include <stdbool.h>
#include <stdint.h>

struct timer_queue;
struct vclock;
struct vcpu;

/* Of the TSC: the count of instructions is its value. */
#define ICOUNT_TSC_KHZ 1000000
/* The real-time clock starts there: 2026-01-01 00:00 UTC. */
#define ICOUNT_WALL_NS (1767225600 * INT64_C(1000000000))

struct icount {
	struct vcpu *c; /* this and the next two are borrowed */
	struct vclock *clock;
	struct timer_queue *timers;
	uint64_t hash_every; /* instructions between two lines with a hash of the registers; 0: none
			      */
	uint64_t hash_at, hash;
};

/* Make k's clock count, and its timers be served here. c's clock and timers are not in use yet. */
void icount_init(struct icount *k, struct vcpu *c, struct vclock *clock, uint64_t hash_every);
void icount_set_timers(struct icount *k, struct timer_queue *timers);

/* Serve the timers that are due, then execute until an exit, the next timer, or the boundary where
 * c->stats.insns has reached limit. RUN_HALTED: also no timer will end it. */
enum run_exit icount_run(struct icount *k, uint64_t limit);

/* The vCPU has halted: let time jump to the next timer. False if there is none. */
bool icount_skip(struct icount *k);

#endif
