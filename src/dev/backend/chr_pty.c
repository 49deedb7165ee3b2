#include "base/err.h"
#include "base/own.h"
#include "dev/backend/chr_fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>

/* The slave is opened here and kept, so that the master does not see a hang-up each time a
 * terminal program comes and goes; it is closed with the backend.
 */
static int open_pair(struct chr_fd_cfg *cfg, char *name, size_t len)
{
	AUTO_FD int m = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios tio;

	if (m < 0 || grantpt(m) < 0 || unlockpt(m) < 0 || ptsname_r(m, name, len) != 0)
		return -errno;

	AUTO_FD int slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (slave < 0 || tcgetattr(slave, &tio) < 0)
		return -errno;
	cfmakeraw(&tio);
	if (tcsetattr(slave, TCSANOW, &tio) < 0 || fcntl(m, F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	cfg->keep_fd = move_fd(&slave);
	cfg->in_fd = cfg->out_fd = move_fd(&m);
	return 0;
}

int chr_pty_new(struct chr **out, struct evloop *loop, const char *what, struct err *err)
{
	struct chr_fd_cfg cfg = { .close_fds = true, .lossy = true };
	char name[64];
	int ret = open_pair(&cfg, name, sizeof(name));

	if (ret < 0)
		return err_set(err, -ret, "make a pseudo-terminal");
	fprintf(stderr, "cleave: %s is %s\n", what, name);
	return chr_fd_new(out, loop, &cfg, err);
}
