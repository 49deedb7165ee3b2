#include "machine/icount.h"

#include "cpu/state.h"
#include "cpu/vcpu.h"
#include "host/clock.h"
#include "host/timer.h"

#include <stdio.h>

/* A timer was armed for earlier than the limit of the run() that we are in. */
static void on_earlier(void *arg)
{
	struct icount *k = arg;

	vcpu_kick(k->c, KICK_STOP);
}

void icount_init(struct icount *k, struct vcpu *c, struct vclock *clock, uint64_t hash_every)
{
	*k = (struct icount){
		.c = c, .clock = clock, .hash_every = hash_every, .hash_at = hash_every
	};
	vclock_count(clock, &c->stats.insns);
	c->tsc_clock = clock;
	c->insn_limit = ~0ull;
}

void icount_set_timers(struct icount *k, struct timer_queue *timers)
{
	k->timers = timers;
	timer_queue_on_earlier(timers, on_earlier, k);
}

/* The count of instructions at which guest time is ns. */
static uint64_t count_at(const struct icount *k, int64_t ns)
{
	return ns == INT64_MAX ? ~0ull : (uint64_t)(ns - k->clock->skipped_ns);
}

static void note_hash(struct icount *k)
{
	k->hash = vcpu_hash(k->c, k->hash);
	fprintf(stderr, "icount %llu %016llx\n", (unsigned long long)k->c->stats.insns,
		(unsigned long long)k->hash);
	while (k->hash_at <= k->c->stats.insns)
		k->hash_at += k->hash_every;
}

bool icount_skip(struct icount *k)
{
	int64_t next = timer_queue_next(k->timers);

	if (next == INT64_MAX)
		return false;
	if (next > vclock_now(k->clock))
		k->clock->skipped_ns += next - vclock_now(k->clock);
	return true;
}

enum run_exit icount_run(struct icount *k, uint64_t limit)
{
	struct vcpu *c = k->c;
	enum run_exit e;

	timer_queue_run(k->timers);
	limit = MIN(limit, count_at(k, timer_queue_next(k->timers)));
	if (k->hash_every)
		limit = MIN(limit, k->hash_at);
	c->insn_limit = MAX(limit, 1);
	e = c->engine->run(c);
	if (k->hash_every && c->stats.insns >= k->hash_at)
		note_hash(k);
	return e == RUN_HALTED && icount_skip(k) ? RUN_LIMIT : e;
}
