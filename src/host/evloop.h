/* One thread that waits for file descriptors and calls back. */
#ifndef HOST_EVLOOP_H
#define HOST_EVLOOP_H

#include "host/sandbox_threads.h"

struct err;
struct evloop;

/* Embedded in its owner, who sets fd, fn and arg before evloop_add. fn runs on the loop's thread,
 * no lock held, with the poll(2) events that are there; it may change or remove its own watch.
 * Not edge-triggered: a fn that does not consume what it was called for is called again.
 */
struct ev_watch {
	int fd; /* borrowed; a regular file is always ready */
	void (*fn)(void *arg, short revents);
	void *arg;
	short events; /* POLLIN, POLLOUT or 0 to rest. Guarded by the loop. */
};

/* Start the thread. Errors: the host's. evloop_free stops it; watches that are left are dropped. */
int evloop_new(struct evloop **out, struct err *err);
void evloop_free(struct evloop *l);
/* End the thread, which finishes a running fn, and keep the loop, so that watches can be deleted in
 * any order. Not from a fn.
 */
void evloop_stop(struct evloop *l);

/* What the thread does, which the sandbox goes by: SANDBOX_LOOP unless said, before it is entered.
 */
void evloop_set_kind(struct evloop *l, enum sandbox_kind kind);

/* Begin to watch w for events. At most 64 watches: -ENOSPC. Any thread. */
int evloop_add(struct evloop *l, struct ev_watch *w, short events, struct err *err);
/* Watch for other events; 0 rests the watch (then hang-ups are not told either). Any thread. */
void evloop_set(struct evloop *l, struct ev_watch *w, short events);
/* Stop watching; when it returns fn is not running, unless fn itself is the caller. A watch that
 * was not added is ignored. Any thread.
 */
void evloop_del(struct evloop *l, struct ev_watch *w);

#endif
