/* Faults of generated code: SIGSEGV, SIGBUS, SIGFPE inside it lead on somewhere, everywhere else
 * they end the process as ever.
 */
#ifndef HOST_CODETRAP_H
#define HOST_CODETRAP_H

#include <stddef.h>

/* Where to go on after a fault at pc; NULL: nowhere, it is an error of ours. Called in the signal
 * handler, on the thread's stack: no locks, no allocation. */
typedef const void *(*codetrap_fn)(void *arg, const void *pc);

/* Install the handlers; any number of times. */
void codetrap_install(void);

/* From now on this thread may run code in [code, code+len). Until codetrap_leave or the next
 * enter. */
void codetrap_enter(const void *code, size_t len, codetrap_fn fn, void *arg);
void codetrap_leave(void);

#endif
