/* A hostile driver of a console with two ports, to which bytes are typed meanwhile. */
#include "dev/backend/chr.h"
#include "dev/backend/chr_fd.h"
#include "virtio_hostile.h"

#include <fcntl.h>
#include <signal.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct pipes {
	int in[2], out[2];
};

static void host(void *arg, const uint8_t *buf, size_t n)
{
	struct pipes *p = arg;
	char sink[4096];

	if (write(p->in[1], buf, n) < 0 || read(p->out[0], sink, sizeof(sink)) < 0)
		return;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct hostile h;
	struct virtio_place at;
	struct pipes p;
	struct chr_fd_cfg fd = { .close_fds = true };
	struct virtio_console_cfg cfg = { .n_ports = 2, .name = { "a", "b" } };

	hostile_up(&h, 6, data, len);
	at = vboard_place(&h.b);
	signal(SIGPIPE, SIG_IGN); /* as the program does */
	assert(pipe2(p.in, O_NONBLOCK) == 0 && pipe2(p.out, O_NONBLOCK) == 0);
	fd.in_fd = p.in[0];
	fd.out_fd = p.out[1];
	assert(chr_fd_new(&cfg.chr[0], h.b.loop, &fd, NULL) == 0);
	assert(chr_null_new(&cfg.chr[1], NULL) == 0);
	assert(virtio_console_new(&h.b.dev, &at, &cfg, NULL) == 0);
	h.b.dev.ops->start(h.b.dev.dev);
	h.host = host;
	h.arg = &p;
	hostile_run(&h);
	close(p.out[0]); /* what is left is not waited for */
	close(p.in[1]);
	hostile_down(&h);
	return 0;
}
