/* Floating-point exceptions (SIGFPE) in code that was made at run time: go on elsewhere instead of
 * dying.
 */
#ifndef HOST_FPTRAP_H
#define HOST_FPTRAP_H

#include <stddef.h>

/* Take over SIGFPE for the process. Idempotent; a SIGFPE outside of entered code kills as ever. */
void fptrap_install(void);

/* Until fptrap_leave(), a SIGFPE of this thread inside [code, code+len) continues at resume with
 * all registers as they are. */
void fptrap_enter(const void *code, size_t len, const void *resume);
void fptrap_leave(void);

#endif
