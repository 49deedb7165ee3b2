/* A thread is running guest code, asleep in a halt, or parked. Halts sleep on a futex word of
 * their own, so that waking a vCPU takes no lock: wake may be called under any.
 */
#include "machine/vcpu_thread.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "cpu/engine.h"
#include "cpu/vcpu.h"
#include "host/sandbox_threads.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <sys/syscall.h>

struct member {
	struct vcpu_crew *crew;
	struct vcpu *c;
	pthread_t thread;
	bool started;
	uint64_t seen;		 /* generation it ran last; its thread's own */
	_Atomic uint32_t asleep; /* futex: 1 while halted */
};

struct vcpu_crew {
	struct vcpu_set *set; /* borrowed */
	struct crew_events events;
	pthread_mutex_t lock; /* guards n_parked, generation and quit; the rest is constant */
	pthread_cond_t parked, go;
	unsigned n_parked;
	uint64_t generation; /* counts crew_start */
	bool quit;
	_Atomic bool stop; /* vCPUs shall park */
	struct member member[];
};

/* Sleep until a kick. A kick that came before is seen in c->kick. */
static void sleep_halted(struct member *m)
{
	atomic_store(&m->asleep, 1);
	while (!atomic_load(&m->c->kick) && atomic_load(&m->asleep))
		syscall(SYS_futex, &m->asleep, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
	atomic_store(&m->asleep, 0);
}

static void wake(struct vcpu *c)
{
	struct member *m = c->owner;

	if (atomic_exchange(&m->asleep, 0))
		syscall(SYS_futex, &m->asleep, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Wait for the next start; false to end the thread. A start that came before the thread got here
 * counts. */
static bool park(struct member *m)
{
	struct vcpu_crew *w = m->crew;
	bool quit;

	pthread_mutex_lock(&w->lock);
	if (m->seen == w->generation) {
		w->n_parked++;
		pthread_cond_broadcast(&w->parked);
		while (m->seen == w->generation && !w->quit)
			pthread_cond_wait(&w->go, &w->lock);
	}
	m->seen = w->generation;
	quit = w->quit;
	pthread_mutex_unlock(&w->lock);
	return !quit;
}

static enum run_exit run_guest(struct member *m)
{
	const struct crew_events *events = &m->crew->events;
	struct vcpu *c = m->c;
	const struct engine *engine = c->engine;
	enum run_exit why;

	if (c->pv_ops)
		c->pv_ops->enter(c->pv_arg);
	why = events->run ? events->run(events->arg, c) : engine->run(c);
	if (c->pv_ops)
		c->pv_ops->leave(c->pv_arg);
	return why;
}

/* Run until the vCPU has to park. */
static void run(struct member *m)
{
	struct vcpu_crew *w = m->crew;
	struct vcpu *c = m->c;

	/* At a breakpoint: only a debugger lets it go on. */
	while (!atomic_load(&w->stop) && !c->debug.stop) {
		switch (run_guest(m)) {
		case RUN_KICKED:
			if (likely(!c->debug.stop))
				break;
			w->events.debug(w->events.arg, c);
			return;
		case RUN_LIMIT: break;
		case RUN_HALTED: sleep_halted(m); break;
		case RUN_SHUTDOWN: w->events.shutdown(w->events.arg, c); return;
		case RUN_BROKEN: w->events.broken(w->events.arg, c); return;
		}
	}
}

static void *member_thread(void *arg)
{
	static const enum sandbox_kind kind = SANDBOX_CPU;
	struct member *m = arg;

	sandbox_thread_is(&kind);
	while (park(m))
		run(m);
	return NULL;
}

void crew_start(struct vcpu_crew *w)
{
	const struct engine *e = w->set->v[0]->engine;

	if (e->begin)
		e->begin(w->set);
	pthread_mutex_lock(&w->lock);
	atomic_store(&w->stop, false);
	w->generation++;
	/* At once, not when each thread wakes: who stops the crew next waits for all of them. */
	w->n_parked = 0;
	pthread_cond_broadcast(&w->go);
	pthread_mutex_unlock(&w->lock);
}

void crew_ask_stop(struct vcpu_crew *w)
{
	atomic_store(&w->stop, true);
	for (unsigned i = 0; i < w->set->n; i++)
		vcpu_kick(w->set->v[i], KICK_STOP);
}

void crew_wait_stopped(struct vcpu_crew *w)
{
	const struct engine *e = w->set->v[0]->engine;

	pthread_mutex_lock(&w->lock);
	while (w->n_parked < w->set->n)
		pthread_cond_wait(&w->parked, &w->lock);
	pthread_mutex_unlock(&w->lock);
	if (e->end)
		e->end(w->set);
}

static int start_thread(struct member *m, struct err *err)
{
	int ret = pthread_create(&m->thread, NULL, member_thread, m);
	char name[16];

	if (ret)
		return err_set(err, ret, "start the thread of CPU %u", m->c->index);
	m->started = true;
	snprintf(name, sizeof(name), "cpu%u", m->c->index);
	pthread_setname_np(m->thread, name);
	return 0;
}

int crew_new(struct vcpu_crew **out, struct vcpu_set *set, struct crew_events events,
	     struct err *err)
{
	struct vcpu_crew *w = calloc(1, sizeof(*w) + set->n * sizeof(w->member[0]));
	int ret = 0;

	if (!w)
		return err_set(err, ENOMEM, "CPU threads");
	w->set = set;
	w->events = events;
	w->stop = true;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->parked, NULL);
	pthread_cond_init(&w->go, NULL);
	for (unsigned i = 0; i < set->n && ret == 0; i++) {
		w->member[i] = (struct member){ .crew = w, .c = set->v[i] };
		set->v[i]->wake = wake;
		set->v[i]->owner = &w->member[i];
		ret = start_thread(&w->member[i], err);
	}
	if (ret < 0)
		crew_free(w);
	else
		*out = w;
	return ret;
}

void crew_free(struct vcpu_crew *w)
{
	if (!w)
		return;
	crew_ask_stop(w);
	pthread_mutex_lock(&w->lock);
	w->quit = true;
	pthread_cond_broadcast(&w->go);
	pthread_mutex_unlock(&w->lock);
	for (unsigned i = 0; i < w->set->n; i++) {
		if (w->member[i].started)
			pthread_join(w->member[i].thread, NULL);
		w->set->v[i]->wake = NULL;
	}
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->parked);
	pthread_cond_destroy(&w->go);
	free(w);
}
