/* The user's store: $XDG_DATA_HOME/cleave or ~/.local/share/cleave. */
#ifndef CLI_STORE_H
#define CLI_STORE_H

#include <stddef.h>

struct err;

/* The path of what (a file or folder below the store, printf-like) in path; the store's folders on
 * the way are made, mode 0700. -ENAMETOOLONG, and the host's errors. */
int store_path(char *path, size_t size, struct err *err, const char *what, ...)
	__attribute__((format(printf, 4, 5)));

#endif
