/* Tests on the host's own CPU, in a child process that has the window and little else. */
#ifndef TESTS_ISA_DIFF_NATIVE_H
#define TESTS_ISA_DIFF_NATIVE_H

#include "diff.h"

struct native {
	struct shared *shared; /* owned */
	int pid;
	int go, done; /* pipes: a byte starts a batch, a byte says that it is done */
};

/* Map the shared memory. The caller fills the images before native_start. NULL, or why this host
 * cannot run the test. */
const char *native_init(struct native *n);
/* Fork the child. NULL, or why not. */
const char *native_start(struct native *n);

/* Let the child run the shared->n tests. native_wait says how that went: NULL, or what became of
 * the child (it was at shared->current; it is gone then and may be started anew). */
void native_go(struct native *n);
const char *native_wait(struct native *n);

void native_stop(struct native *n);

#endif
