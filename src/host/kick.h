/* A signal that makes a thread's blocking system call return EINTR, and does nothing else. */
#ifndef HOST_KICK_H
#define HOST_KICK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct err;

/* Install its handler; again is fine. It is SIGUSR2, which must not be blocked in threads that are
 * kicked. Errors: the host's. */
int kick_install(struct err *err);

/* Kick thread, which lives. Any thread. */
void kick_thread(pthread_t thread);

/* Keep the signal from the calling thread, and send it one: it waits. *mask gets the signals that
 * are kept from the thread otherwise, as system calls take them. Then let it come. */
void kick_hold(uint64_t *mask);
void kick_let_come(uint64_t mask);

/* Kick the calling thread in ms milliseconds, and every two from then on, until stopped. Errors:
 * the host's. */
int kick_timer_start(timer_t *timer, unsigned ms, struct err *err);
void kick_timer_stop(timer_t timer);

#endif
