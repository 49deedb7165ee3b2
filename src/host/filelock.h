/* Locks on open files that keep programs which know them from writing to the same disk image. They
 * are QEMU's (block/file-posix.c, "raw_apply_lock_bytes"): byte 100+i is locked by who does what
 * permission i stands for, byte 200+i by who bears nobody else doing it.
 */
#ifndef HOST_FILELOCK_H
#define HOST_FILELOCK_H

#include <stdbool.h>

struct err;

/* Lock fd, which must be open for reading, for a writer (alone) or a reader (with others, no
 * writer) until it is closed. -EBUSY if another program's lock is in the way for a second. Where
 * the file system has no locks this says so in the log and returns 0. name is the error's.
 */
int filelock_take(int fd, bool writer, const char *name, struct err *err);

#endif
