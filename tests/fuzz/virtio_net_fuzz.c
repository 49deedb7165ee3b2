/* A hostile driver of the network card, with a cable whose other end sends frames and is full at
 * times. */
#include "dev/virtio/net.h"
#include "virtio_hostile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct other {
	struct link_end e;
	_Atomic unsigned n;
};

static bool take(void *end, const struct frame_meta *meta, const struct iovec *iov, unsigned n_iov,
		 uint32_t len_bytes)
{
	struct other *o = end;
	uint32_t at = 0;

	for (unsigned i = 0; i < n_iov; i++) {
		at += (uint32_t)iov[i].iov_len;
		/* A frame that is not there any more is found here. */
		(void)*(const volatile uint8_t *)iov[i].iov_base;
	}
	assert(at == len_bytes && len_bytes <= NET_MAX_FRAME);
	return o->n++ % 8 != 7;
}

static const struct link_ops ops = { .send = take };

static void host(void *arg, const uint8_t *buf, size_t n)
{
	struct other *o = arg;
	struct frame_meta meta = { 0 };
	struct iovec iov = { (void *)buf, n };

	link_wake_peer(&o->e);
	if (n > sizeof(meta))
		memcpy(&meta, buf, sizeof(meta));
	link_send(&o->e, &meta, &iov, 1, (uint32_t)n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct other o = { .e = { .ops = &ops, .end = &o, .up = true } };
	struct virtio_net_cfg cfg = { .mtu = 1500, .n_pairs = 2 };
	struct link_end *card;
	struct hostile h;

	hostile_up(&h, 5, data, len);
	cfg.bus = h.b.bus;
	cfg.pm = &h.b.pm;
	cfg.loop = h.b.loop;
	assert(virtio_net_new(&h.b.dev, &card, &cfg, NULL) == 0);
	link_join(card, &o.e);
	h.host = host;
	h.arg = &o;
	hostile_run(&h);
	evloop_stop(h.b.loop);
	link_part(card);
	hostile_down(&h);
	return 0;
}
