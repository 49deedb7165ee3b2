/* Takes from this process what it will not need any more, for good. */
#ifndef HOST_SANDBOX_H
#define HOST_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>

struct err;

/* A system call that stays allowed; with a mask, only if (argument arg & mask) == value. Several
 * rows of one call: any of them.
 */
struct sandbox_call {
	int nr; /* SCMP_SYS(...) or __NR_... */
	uint8_t arg;
	uint32_t mask, value;
};

struct sandbox_cfg {
	const struct sandbox_call *calls;
	unsigned n_calls;
	uint32_t max_fds;
	uint64_t max_data_bytes; /* RLIMIT_DATA; 0: as it is */
};

/* Does nothing in programs that a sanitizer or coverage watches. In this order: no core files,
 * limits, no capabilities, no new privileges, no file system by Landlock where the kernel has it,
 * and the filter: what is not in calls fails with EPERM, and what only an attacker would try
 * (execve, ptrace, mount, other processes' memory ...) kills the process. No executable memory. The
 * process is not dumpable afterwards. Single-threaded callers only. landlocked says whether
 * Landlock is on. Errors: the host's; the process is then half shut in and should end.
 */
int sandbox_enter(const struct sandbox_cfg *cfg, bool *landlocked, struct err *err);

/* Close all descriptors from first up, and open 0 to 2 anew on /dev/null. */
int sandbox_close_files(unsigned first, struct err *err);

#endif
