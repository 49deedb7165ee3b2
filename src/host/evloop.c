/* poll(2) and not epoll: the descriptors are few, and a console's input may be a regular file or
 * /dev/null, which epoll refuses.
 */
#include "host/evloop.h"

#include "base/err.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MAX_WATCHES 64

struct evloop {
	pthread_t thread;
	enum sandbox_kind kind;
	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t fn_done;
	struct ev_watch *watch[MAX_WATCHES]; /* borrowed */
	unsigned n;
	struct ev_watch *running;
	int wake_fd;
	bool stop;
};

static void wake(struct evloop *l)
{
	uint64_t one = 1;

	/* Full means that a wake-up is already under way. */
	if (write(l->wake_fd, &one, sizeof(one)) < 0)
		return;
}

static bool is_watched(const struct evloop *l, const struct ev_watch *w)
{
	for (unsigned i = 0; i < l->n; i++)
		if (l->watch[i] == w)
			return true;
	return false;
}

/* Call w if it is still wanted. Needs the lock, and drops it meanwhile. */
static void call(struct evloop *l, struct ev_watch *w, short revents)
{
	if (!revents || !is_watched(l, w) || !w->events)
		return;
	l->running = w;
	pthread_mutex_unlock(&l->lock);
	w->fn(w->arg, revents);
	pthread_mutex_lock(&l->lock);
	l->running = NULL;
	pthread_cond_broadcast(&l->fn_done);
}

static void *loop_thread(void *arg)
{
	struct evloop *l = arg;

	sandbox_thread_is(&l->kind);
	pthread_mutex_lock(&l->lock);
	while (!l->stop) {
		struct pollfd fds[MAX_WATCHES + 1];
		struct ev_watch *who[MAX_WATCHES + 1];
		nfds_t n = 0;

		fds[n++] = (struct pollfd){ .fd = l->wake_fd, .events = POLLIN };
		for (unsigned i = 0; i < l->n; i++) {
			if (!l->watch[i]->events)
				continue;
			who[n] = l->watch[i];
			fds[n] = (struct pollfd){ .fd = who[n]->fd, .events = who[n]->events };
			n++;
		}
		pthread_mutex_unlock(&l->lock);

		int ready = poll(fds, n, -1);
		uint64_t count;

		if (ready > 0 && fds[0].revents && read(l->wake_fd, &count, sizeof(count)) < 0)
			ready = 0;
		pthread_mutex_lock(&l->lock);
		for (nfds_t i = 1; ready > 0 && i < n && !l->stop; i++)
			call(l, who[i], fds[i].revents);
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

int evloop_new(struct evloop **out, struct err *err)
{
	struct evloop *l = calloc(1, sizeof(*l));

	if (!l)
		return err_set(err, ENOMEM, "event loop");
	l->kind = SANDBOX_LOOP;
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wake_fd < 0) {
		int ret = err_set(err, errno, "event loop");

		free(l);
		return ret;
	}
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->fn_done, NULL);

	int ret = pthread_create(&l->thread, NULL, loop_thread, l);

	if (ret) {
		close(l->wake_fd);
		free(l);
		return err_set(err, ret, "start the event loop");
	}
	pthread_setname_np(l->thread, "evloop");
	*out = l;
	return 0;
}

void evloop_stop(struct evloop *l)
{
	if (!l)
		return;
	pthread_mutex_lock(&l->lock);

	bool was = l->stop;

	l->stop = true;
	pthread_mutex_unlock(&l->lock);
	if (was)
		return;
	wake(l);
	pthread_join(l->thread, NULL);
}

void evloop_free(struct evloop *l)
{
	if (!l)
		return;
	evloop_stop(l);
	close(l->wake_fd);
	pthread_cond_destroy(&l->fn_done);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

void evloop_set_kind(struct evloop *l, enum sandbox_kind kind)
{
	l->kind = kind;
}

int evloop_add(struct evloop *l, struct ev_watch *w, short events, struct err *err)
{
	int ret = 0;

	pthread_mutex_lock(&l->lock);
	if (l->n == MAX_WATCHES) {
		ret = err_say(err, ENOSPC, "the event loop watches %u files already", l->n);
	} else {
		w->events = events;
		l->watch[l->n++] = w;
	}
	pthread_mutex_unlock(&l->lock);
	wake(l);
	return ret;
}

void evloop_set(struct evloop *l, struct ev_watch *w, short events)
{
	pthread_mutex_lock(&l->lock);
	bool changed = w->events != events;
	w->events = events;
	pthread_mutex_unlock(&l->lock);
	if (changed)
		wake(l);
}

void evloop_del(struct evloop *l, struct ev_watch *w)
{
	pthread_mutex_lock(&l->lock);
	for (unsigned i = 0; i < l->n; i++) {
		if (l->watch[i] == w) {
			l->watch[i] = l->watch[--l->n];
			break;
		}
	}
	if (!pthread_equal(pthread_self(), l->thread))
		while (l->running == w)
			pthread_cond_wait(&l->fn_done, &l->lock);
	pthread_mutex_unlock(&l->lock);
	wake(l);
}
