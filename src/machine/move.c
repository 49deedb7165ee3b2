#include "machine/move.h"

#include "base/err.h"
#include "base/log.h"
#include "cpu/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int move_all(struct vcpu_set *set, const struct engine *e, struct err *err)
{
	const struct engine *from = set->v[0]->engine;
	unsigned i;
	int ret = 0;

	for (i = 0; i < set->n && ret == 0; i++)
		ret = engine_take(set->v[i], e, err);
	/* It held them before, so it says yes. */
	for (; ret < 0 && i > 0; i--)
		engine_take(set->v[i - 1], from, NULL);
	return ret;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void mover_init(struct mover *v, pthread_mutex_t *lock, struct vcpu_set *set)
{
	v->lock = lock;
	v->set = set;
	v->random = now_ns() | 1;
	pthread_cond_init(&v->settled, NULL);
}

void mover_fini(struct mover *v)
{
	pthread_cond_destroy(&v->settled);
}

/* -- By chance -------------------------------------------------------------------------------- */

static uint64_t draw(struct mover *v)
{
	v->random ^= v->random << 13;
	v->random ^= v->random >> 7;
	v->random ^= v->random << 17;
	return v->random;
}

/* From nothing to twice the mean. */
static void set_due(struct mover *v)
{
	v->due_ns = now_ns() + draw(v) % (2000 * (uint64_t)v->dwell_us + 1);
}

/* Another engine than the one that holds the machine. */
static const struct engine *draw_engine(struct mover *v)
{
	unsigned n = (unsigned)(draw(v) % v->n_among);

	if (v->among[n] == v->set->v[0]->engine)
		n = (n + 1) % v->n_among;
	return v->among[n];
}

/* Add e to those that are drawn from, if it can run this machine. */
static int add_among(struct mover *v, const struct engine *e, struct err *err)
{
	const struct engine *from = v->set->v[0]->engine;
	int ret = move_all(v->set, e, err);

	if (ret < 0)
		return ret;
	move_all(v->set, from, NULL);
	for (unsigned n = 0; n < v->n_among; n++)
		if (v->among[n] == e)
			return 0;
	v->among[v->n_among++] = e;
	return 0;
}

static int add_names(struct mover *v, const char *names, bool for_kvm, struct err *err)
{
	char *copy = strdup(names), *rest = copy, *name;
	int ret = copy ? 0 : err_set(err, ENOMEM, "--engine-dwell");

	while (ret == 0 && (name = strsep(&rest, ","))) {
		const struct engine *e = engine_find(name);

		if (e == &engine_kvm && !for_kvm)
			e = NULL;

		ret = e ? add_among(v, e, err)
			: err_say(err, EINVAL,
				  "--engine-dwell: there is no engine '%s', as in "
				  "--engine-dwell 5,interp,dbt",
				  name);
	}
	free(copy);
	return ret;
}

int mover_dwell(struct mover *v, unsigned dwell_ms, const char *names, bool for_kvm,
		struct err *err)
{
	int ret = 0;

	if (names)
		ret = add_names(v, names, for_kvm, err);
	for (unsigned n = 0; !names && engines[n]; n++)
		if (for_kvm || engines[n] != &engine_kvm)
			add_among(v, engines[n], NULL);
	if (ret == 0 && v->n_among < 2)
		ret = err_say(err, EINVAL,
			      "--engine-dwell: needs two engines that run here, as in "
			      "--engine-dwell 5,interp,dbt");
	v->dwell_us = dwell_ms * 1000;
	set_due(v);
	return ret;
}

/* -- On request ------------------------------------------------------------------------------- */

int mover_ask(struct mover *v, const struct engine *to, pthread_cond_t *asked,
	      struct machine_move *out, struct err *err)
{
	struct move_request *r = &v->request;
	int ret;

	pthread_mutex_lock(v->lock);
	while (r->state != MOVE_NONE && !v->over)
		pthread_cond_wait(&v->settled, v->lock);
	*r = (struct move_request){ .state = MOVE_ASKED, .to = to };
	pthread_cond_signal(asked);
	while (r->state != MOVE_DONE && !v->over)
		pthread_cond_wait(&v->settled, v->lock);
	ret = r->ret;
	if (r->state != MOVE_DONE)
		ret = err_say(err, ECANCELED, "the machine has ended");
	else if (ret < 0)
		err_say(err, -ret, "%s", r->err.msg);
	*out = r->result;
	r->state = MOVE_NONE;
	pthread_cond_broadcast(&v->settled); /* the next may ask */
	pthread_mutex_unlock(v->lock);
	return ret;
}

/* -- The main thread -------------------------------------------------------------------------- */

bool mover_is_due(const struct mover *v)
{
	return v->request.state == MOVE_ASKED || (v->dwell_us && now_ns() >= v->due_ns);
}

void mover_wait(const struct mover *v, pthread_cond_t *asked)
{
	struct timespec t = { .tv_sec = (time_t)(v->due_ns / 1000000000),
			      .tv_nsec = (long)(v->due_ns % 1000000000) };

	if (v->dwell_us)
		pthread_cond_timedwait(asked, v->lock, &t);
	else
		pthread_cond_wait(asked, v->lock);
}

void mover_begin(struct mover *v)
{
	v->begin_ns = now_ns();
}

/* False if nobody asked. */
static bool take_request(struct mover *v)
{
	bool asked;

	pthread_mutex_lock(v->lock);
	asked = v->request.state == MOVE_ASKED;
	if (asked)
		v->request.state = MOVE_TAKEN;
	pthread_mutex_unlock(v->lock);
	return asked;
}

void mover_move(struct mover *v)
{
	const struct engine *from = v->set->v[0]->engine;
	struct move_request *r = &v->request;
	struct err err;

	if (!take_request(v)) {
		if (move_all(v->set, draw_engine(v), &err) < 0)
			log_say(LOG_ERROR, "%s", err.msg);
		return;
	}
	r->ret = move_all(v->set, r->to, &r->err);
	r->result = (struct machine_move){ .from = from->name, .to = r->to->name };
}

void mover_settle(struct mover *v)
{
	uint64_t pause_ns = now_ns() - v->begin_ns;
	struct move_request *r = &v->request;

	v->pause_us[v->n_moves++ % MOVE_PAUSES] = (uint32_t)(pause_ns / 1000);
	if (v->dwell_us)
		set_due(v);
	pthread_mutex_lock(v->lock);
	if (r->state == MOVE_TAKEN) {
		r->result.pause_ns = pause_ns;
		r->state = MOVE_DONE;
		pthread_cond_broadcast(&v->settled);
	}
	pthread_mutex_unlock(v->lock);
}

void mover_end(struct mover *v)
{
	pthread_mutex_lock(v->lock);
	v->over = true;
	pthread_cond_broadcast(&v->settled);
	pthread_mutex_unlock(v->lock);
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

void mover_print(const struct mover *v)
{
	uint32_t sorted[MOVE_PAUSES];
	size_t n = v->n_moves < MOVE_PAUSES ? (size_t)v->n_moves : MOVE_PAUSES;

	if (!n)
		return;
	memcpy(sorted, v->pause_us, n * sizeof(sorted[0]));
	qsort(sorted, n, sizeof(sorted[0]), compare);
	fprintf(stderr,
		"engine moves %llu, pause median %u us, 99th percentile %u us, longest %u us\n",
		(unsigned long long)v->n_moves, sorted[n / 2], sorted[n * 99 / 100], sorted[n - 1]);
}
