/* Something that must not take long, told by the process's own time. One at a time. */
#ifndef TESTS_ISA_DIFF_WATCH_H
#define TESTS_ISA_DIFF_WATCH_H

/* From now on call late(ctx), from a signal handler, when watch_next() has not been called for
 * 100 ms of user time or more. */
void watch_start(void (*late)(void *ctx), void *ctx);
void watch_next(void);
void watch_stop(void);

#endif
