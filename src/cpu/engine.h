/* The seam between a machine and what executes its CPUs. */
#ifndef CPU_ENGINE_H
#define CPU_ENGINE_H

#include "base/bits.h"
#include "cpu/vcpu.h"

struct err;
struct tlb_watch;
struct vcpu;

/* Why run() came back. */
enum run_exit {
	RUN_KICKED,   /* KICK_STOP was set (and is cleared) */
	RUN_HALTED,   /* HLT or wait-for-SIPI with nothing pending: sleep until kicked */
	RUN_SHUTDOWN, /* triple fault */
	RUN_BROKEN,   /* the engine itself failed; the reason is in the log */
	RUN_LIMIT,    /* vcpu.insn_limit was reached */
};

/* A way to execute guest code. Nothing above this table names an engine. All calls are made by
 * the thread that holds c, except kick.
 */
struct engine {
	const char *name;
	enum engine_slot slot;
	bool stores_unseen; /* stores of guest code are not told to the physical map */
	const struct tlb_watch *tlb_watch; /* c->tlb_watch while it holds c; or NULL */
	/* Get ready to run c; puts its own state in c->engine_state[slot]. Another engine may hold
	 * c meanwhile, and is not disturbed. */
	int (*init)(struct vcpu *c, struct err *err);
	void (*fini)(struct vcpu *c);
	/* Execute until one of the exits. Port and MMIO accesses are done inside through iospace.
	 */
	enum run_exit (*run)(struct vcpu *c);
	/* Make struct vcpu whole (pull), or take changes made to it (push). Between two runs. */
	void (*pull)(struct vcpu *c);
	void (*push)(struct vcpu *c);
	/* All vCPUs of the set, which the engine holds, are about to run, or have all stopped. By
	 * the thread that starts and stops them, any number of times; NULL: nothing to do. */
	void (*begin)(struct vcpu_set *set);
	void (*end)(struct vcpu_set *set);
	/* Bits were added to c->kick while c may be inside run(): make it look soon. Any thread. */
	void (*kick)(struct vcpu *c);
	/* Forget what was derived from guest-physical [gpa, gpa+len); len 0 means everything. */
	void (*inval)(struct vcpu *c, gpa_t gpa, uint64_t len);
	/* Write the engine's own counters for c into buf, as "name number, ..."; NULL if it has
	 * none. */
	void (*describe)(const struct vcpu *c, char *buf, size_t len);
};

extern const struct engine engine_interp;
extern const struct engine engine_dbt;
extern const struct engine engine_kvm;

/* All there are, and NULL behind them. */
extern const struct engine *const engines[];
/* The one with that name, or NULL. */
const struct engine *engine_find(const char *name);

/* Let e hold c, which no engine or another one holds, from where it stands. c is stopped, and so
 * are all of its set. The engines that held it before keep what they have derived, to be fast when
 * they get it back. Errors are those of init(): c is as it was.
 */
int engine_take(struct vcpu *c, const struct engine *e, struct err *err);
/* Let e get ready for c, so that engine_take() needs nothing of the host any more. Errors:
 * init()'s. */
int engine_prepare(struct vcpu *c, const struct engine *e, struct err *err);
/* inval() for every engine that holds c or did. */
void engine_inval(struct vcpu *c, gpa_t gpa, uint64_t len);
/* fini() for every engine that holds c or did. */
void engine_leave(struct vcpu *c);

struct kvm_probe;
/* What "auto" means on this host: kvm where *p says that it is hardware, dbt where the processor
 * and the kernel allow it, else interp. p may be NULL: not kvm. */
const struct engine *engine_auto(const struct kvm_probe *p);
/* What "auto" takes in place of e where e could not start; NULL behind the last. */
const struct engine *engine_after(const struct engine *e);

#endif
