/* The common part of backends that are file descriptors. */
#ifndef DEV_BACKEND_CHR_FD_H
#define DEV_BACKEND_CHR_FD_H

#include "dev/backend/chr.h"

struct chr_fd_cfg {
	int in_fd; /* -1 for no input */
	int out_fd;
	int keep_fd;		     /* only kept open; 0 for none */
	bool close_fds;		     /* the backend owns them */
	bool lossy;		     /* nobody may be at the other end: drop rather than wait */
	bool raw;		     /* terminal_raw was called: restore at the end */
	struct chr_escape_fn escape; /* fn NULL: Ctrl-A is nothing special */
};

/* On failure cfg's descriptors are closed if they were to be owned. */
int chr_fd_new(struct chr **out, struct evloop *loop, const struct chr_fd_cfg *cfg,
	       struct err *err);

#endif
