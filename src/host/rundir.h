/* The user's folder for what lives as long as the machines that run: sockets and locks. */
#ifndef HOST_RUNDIR_H
#define HOST_RUNDIR_H

#include <stddef.h>

struct err;

/* Its path in path: $XDG_RUNTIME_DIR/cleave, or /tmp/cleave-UID without that. Made if it is not
 * there; refused unless it is ours, a folder and nobody else's to enter (mode 0700). Errors: the
 * host's, -EPERM.
 */
int rundir_path(char *path, size_t size, struct err *err);

#endif
