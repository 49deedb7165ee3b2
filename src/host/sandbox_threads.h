/* Takes from each thread of a running machine what that kind of thread will not need any more. See
 * docs/sandbox.md.
 */
#ifndef HOST_SANDBOX_THREADS_H
#define HOST_SANDBOX_THREADS_H

#include <stdbool.h>
#include <sys/types.h>

struct err;

enum sandbox_kind {
	SANDBOX_MAIN,	     /* waits, and takes the machine apart at its end */
	SANDBOX_SIGNALS,     /* waits for signals */
	SANDBOX_CPU,	     /* executes guest code */
	SANDBOX_TIMER,	     /* a machine's timers */
	SANDBOX_WRITER,	     /* a console's output */
	SANDBOX_LOOP,	     /* console input and small virtio devices */
	SANDBOX_CONTROL,     /* the control socket */
	SANDBOX_DISK,	     /* a disk on a file */
	SANDBOX_DISK_WORKER, /* disk I/O without io_uring */
	SANDBOX_DISK_NET,    /* a disk on a network */
	SANDBOX_NET,	     /* a network card */
	SANDBOX_VSOCK,	     /* connects the guest with Unix sockets */
	SANDBOX_GDB,	     /* a debugger's socket */
	N_SANDBOX_KINDS
};

/* Say what the calling thread is, when it starts and once it has done what it may not do in the
 * sandbox. *kind is read when the sandbox is entered, and must be there as long as the thread.
 */
void sandbox_thread_is(const enum sandbox_kind *kind);

/* Before the process starts its first thread. */
void sandbox_prepare(void);

#define SANDBOX_MAX_FOLDERS 3
#define SANDBOX_MAX_HELPERS 8

struct sandbox_threads_cfg {
	int remove_in[SANDBOX_MAX_FOLDERS]; /* folders from which the main thread removes files */
	unsigned n_remove_in;
	pid_t helper[SANDBOX_MAX_HELPERS]; /* children that may be killed */
	unsigned n_helpers;
	bool kvm; /* guest code is executed by KVM */
};

/* What is in force. */
struct sandbox_report {
	bool on;
	unsigned n_threads;
	int landlock_abi; /* 0: this kernel has none */
};

/* For each thread, in this order: no capabilities, no new privileges, no files and no TCP by
 * Landlock where the kernel has it, and a filter that lets through the calls of the thread's kind.
 * Every other call fails with EPERM and is logged; the machine goes on. For the process: no core
 * file, not dumpable, no more descriptors than it has limits for now. Threads that start later have
 * their creator's.
 *
 * Called on the main thread, which is of the kind SANDBOX_MAIN, when all threads have been started;
 * each of them is interrupted by a signal. Errors: the host's, and a thread of no known kind; some
 * threads are then shut in and the process should end.
 */
int sandbox_enter_threads(const struct sandbox_threads_cfg *cfg, struct sandbox_report *report,
			  struct err *err);

/* How many calls were refused since. */
unsigned sandbox_n_refused(void);

#endif
