#include "base/err.h"
#include "dev/backend/chr_fd.h"

#include <errno.h>
#include <fcntl.h>

int chr_file_new(struct chr **out, struct evloop *loop, const char *path, struct err *err)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0)
		return err_set(err, errno, "open %s", path);
	return chr_fd_new(out, loop,
			  &(struct chr_fd_cfg){ .in_fd = -1, .out_fd = fd, .close_fds = true },
			  err);
}
