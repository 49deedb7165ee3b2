/* A hostile driver of the socket device, while clients come and go on the host. Packets are put
 * together from a few bytes, so that the fuzzer finds connections.
 */
#include "virtio_hostile.h"

#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define CID	  9
#define N_CLIENTS 4

struct world {
	struct hostile h;
	struct sockaddr_un path;
	int listener, client[N_CLIENTS];
};

static void redial(struct world *w, unsigned i)
{
	static const char greeting[] = "CONNECT 1\n";

	if (w->client[i] >= 0)
		close(w->client[i]);
	w->client[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (connect(w->client[i], (struct sockaddr *)&w->path, sizeof(w->path)) == 0 &&
	    send(w->client[i], greeting, sizeof(greeting) - 1, MSG_NOSIGNAL) < 0)
		return;
}

/* A packet of the guest's: op, ports, flags and so on are the input's. */
static void packet(struct world *w, const uint8_t *buf, size_t n)
{
	uint8_t p[128] = { 0 };
	struct vring *r = &w->h.r[1];
	struct vseg seg = { HOSTILE_DATA + 0x8000 + buf[1] % 16 * 128, 44 + n, false };
	uint16_t id;
	uint32_t len;
	unsigned used = 0;

	store64(p, CID);
	store64(p + 8, 2);
	store32(p + 16, buf[2] % 4); /* the guest's port */
	store32(p + 20, buf[2] & 4 ? 7 : (1u << 30) + buf[2] / 8 % 8);
	store32(p + 24, (uint32_t)n);
	store16(p + 28, 1);
	store16(p + 30, buf[3] % 9);
	store32(p + 32, buf[4] % 4);
	store32(p + 36, buf[5] * 64u);
	store32(p + 40, buf[6]);
	while (vring_used(r, &id, &len))
		;
	for (unsigned i = 0; i < r->size; i++)
		used += r->taken[i];
	if ((r->packed && r->n_free < 2) || (!r->packed && used >= r->size))
		return;
	memcpy(physmap_host(&w->h.b.pm, seg.at, sizeof(p), NULL), p, sizeof(p));
	vring_add(r, &seg, 1);
	vboard_notify(&w->h.b, 1);
}

static void host(void *arg, const uint8_t *buf, size_t n)
{
	struct world *w = arg;
	char sink[4096];
	unsigned i;

	if (n < 8)
		return;
	i = buf[1] % N_CLIENTS;
	switch (buf[0] % 8) {
	case 0: redial(w, i); break;
	case 1:
		if (w->client[i] >= 0 && send(w->client[i], buf, n, MSG_NOSIGNAL) < 0)
			return;
		break;
	case 2:
		if (w->client[i] >= 0 && recv(w->client[i], sink, sizeof(sink), 0) < 0)
			return;
		break;
	case 3:
		if (w->client[i] >= 0)
			close(w->client[i]);
		w->client[i] = accept4(w->listener, NULL, NULL, SOCK_NONBLOCK);
		break;
	default: packet(w, buf, n);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct world w = { .path.sun_family = AF_UNIX, .listener = -1 };
	struct sockaddr_un seven = { .sun_family = AF_UNIX };
	struct virtio_place at;
	struct virtio_vsock_cfg cfg = { .cid = CID, .path = w.path.sun_path };

	snprintf(w.path.sun_path, sizeof(w.path.sun_path), "/tmp/vsock-fuzz.%d", getpid());
	snprintf(seven.sun_path, sizeof(seven.sun_path), "/tmp/vsock-fuzz.%d_7", getpid());
	hostile_up(&w.h, 3, data, len);
	at = vboard_place(&w.h.b);
	w.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert(bind(w.listener, (struct sockaddr *)&seven, sizeof(seven)) == 0);
	assert(listen(w.listener, 4) == 0);
	unlink(w.path.sun_path);
	assert(virtio_vsock_new(&w.h.b.dev, &at, &cfg, NULL) == 0);
	for (unsigned i = 0; i < N_CLIENTS; i++)
		w.client[i] = -1;
	w.h.host = host;
	w.h.arg = &w;
	hostile_run(&w.h);
	for (unsigned i = 0; i < N_CLIENTS; i++)
		if (w.client[i] >= 0)
			close(w.client[i]);
	close(w.listener);
	unlink(seven.sun_path);
	hostile_down(&w.h);
	return 0;
}
