/* The terminal that the process was started on, in raw mode and back. */
#ifndef HOST_TERMINAL_H
#define HOST_TERMINAL_H

struct err;

/* Put the terminal fd in raw mode. It goes back by itself at exit and when a fatal signal (SEGV,
 * BUS, ABRT, ILL, FPE) ends the process. One terminal at a time. Errors: the host's.
 */
int terminal_raw(int fd, struct err *err);
/* Back to what it was. Async-signal-safe; does nothing when it is not raw. */
void terminal_restore(void);
/* Stop the process as SIGTSTP would have, with the terminal in its own mode meanwhile. Returns when
 * the process goes on.
 */
void terminal_suspend(void);

#endif
