#include "base/err.h"
#include "dev/backend/chr_fd.h"
#include "host/terminal.h"

#include <unistd.h>

int chr_stdio_new(struct chr **out, struct evloop *loop, struct chr_escape_fn escape,
		  struct err *err)
{
	struct chr_fd_cfg cfg = { .in_fd = STDIN_FILENO, .out_fd = STDOUT_FILENO };

	if (isatty(STDIN_FILENO)) {
		int ret = terminal_raw(STDIN_FILENO, err);

		if (ret < 0)
			return ret;
		cfg.raw = true;
		cfg.escape = escape;
	}

	int ret = chr_fd_new(out, loop, &cfg, err);

	if (ret < 0 && cfg.raw)
		terminal_restore();
	return ret;
}
