/* What sandbox.c (a process of one thread) and sandbox_threads.c (a machine's) share. */
#ifndef HOST_SANDBOX_INTERNAL_H
#define HOST_SANDBOX_INTERNAL_H

#include "host/sandbox_threads.h"

#include <linux/filter.h>
#include <stdint.h>

/* Landlock's version in this kernel; 0 if there is none. */
int sandbox_landlock_abi(void);

/* A set of Landlock rules as a descriptor: of all rights to files that this kernel's Landlock knows
 * none, but for removing files from the folders remove_in; and if tcp is false, no TCP port to
 * bind or connect to. abi is at least 1. -errno.
 */
int sandbox_ruleset(int abi, bool tcp, const int *remove_in, unsigned n, struct err *err);

/* Any thread, also in a signal handler: no capabilities and no new privileges from now on; and the
 * rules of ruleset (-1: none). 0 or -errno. */
int sandbox_drop_privileges(void);
int sandbox_restrict(int ruleset);

/* Lower a resource limit of the process. */
int sandbox_limit(int what, uint64_t max, struct err *err);

/* The filter of a kind of thread; filter->filter is the caller's to free. */
int sandbox_filter(enum sandbox_kind kind, const struct sandbox_threads_cfg *cfg,
		   struct sock_fprog *filter, struct err *err);

/* What people call a call that programs which break out try; NULL for others. */
const char *sandbox_call_name(int nr);

#endif
