/* Moving a machine between engines while it runs: who asks, when it is due, what it took. The main
 * thread calls mover_begin, stops the vCPUs, calls mover_move, starts them again and calls
 * mover_settle.
 */
#ifndef MACHINE_MOVE_H
#define MACHINE_MOVE_H

#include "base/err.h"
#include "cpu/vcpu.h"
#include "machine/machine.h"

#include <pthread.h>

#define MOVE_PAUSES 4096 /* so many pauses are kept, the last ones, for the median */

/* One at a time. */
struct move_request {
	enum { MOVE_NONE, MOVE_ASKED, MOVE_TAKEN, MOVE_DONE } state;
	const struct engine *to;
	struct machine_move result;
	struct err err;
	int ret;
};

struct mover {
	pthread_mutex_t *lock; /* the machine's: guards request and over */
	pthread_cond_t settled;
	struct move_request request;
	bool over; /* the machine has ended */

	/* The rest is the main thread's. */
	struct vcpu_set *set; /* borrowed */
	unsigned dwell_us;    /* mean time on an engine; 0: it stays where it is put */
	const struct engine *among[N_ENGINES];
	unsigned n_among;
	uint64_t due_ns, begin_ns, random;
	uint64_t n_moves;
	uint32_t pause_us[MOVE_PAUSES];
};

/* Let all vCPUs of set, which stand, be e's; or leave them all as they are. Errors: e's init()'s.
 */
int move_all(struct vcpu_set *set, const struct engine *e, struct err *err);

/* lock and set are borrowed. */
void mover_init(struct mover *v, pthread_mutex_t *lock, struct vcpu_set *set);
void mover_fini(struct mover *v);

/* Move at random times, dwell_ms apart in the mean, among the engines of names, which commas
 * separate; NULL: all that this host has. kvm is one of them only for_kvm. The vCPUs stand and have
 * an engine. -EINVAL with what is wrong with names, or what an engine's init() says.
 */
int mover_dwell(struct mover *v, unsigned dwell_ms, const char *names, bool for_kvm,
		struct err *err);

/* Ask the main thread, by its condition asked, for a move, and wait for it. Not on a vCPU's thread.
 * -ECANCELED if the machine ends first. */
int mover_ask(struct mover *v, const struct engine *to, pthread_cond_t *asked,
	      struct machine_move *out, struct err *err);

/* The main thread, holding the lock: is a move due, and else wait for asked or until one is. asked
 * goes by CLOCK_MONOTONIC. */
bool mover_is_due(const struct mover *v);
void mover_wait(const struct mover *v, pthread_cond_t *asked);
/* The main thread, without the lock: before the vCPUs are stopped, while they stand, and when they
 * run again. */
void mover_begin(struct mover *v);
void mover_move(struct mover *v);
void mover_settle(struct mover *v);
/* Refuse who asks or waits from now on. */
void mover_end(struct mover *v);

/* A line of counters on stderr, if there was a move. */
void mover_print(const struct mover *v);

#endif
