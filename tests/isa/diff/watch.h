/* Something that must not take long, told by the process's own time. One at a time. */
#ifndef TESTS_ISA_DIFF_WATCH_H
#define TESTS_ISA_DIFF_WATCH_H

/* Between watch_begin() and watch_end() call late(ctx), from a signal handler, every 100 ms of user
 * time after the first. */
void watch_start(void (*late)(void *ctx), void *ctx);
void watch_begin(void);
void watch_end(void);
void watch_stop(void);

#endif
