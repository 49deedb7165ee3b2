/* The board's network cards: for each a thread, a virtio device, and what its cable ends in. */
#include "base/err.h"
#include "dev/backend/net.h"
#include "dev/virtio/net.h"
#include "host/evloop.h"
#include "machine/machine_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct nic {
	struct evloop *loop;
	struct dev card;
	struct net *net;
	struct link_end *link; /* borrowed from card */
};

static void nic_start(void *dev)
{
	net_start(((struct nic *)dev)->net);
}

static void nic_pause(void *dev)
{
	struct nic *n = dev;

	if (n->card.ops->pause)
		n->card.ops->pause(n->card.dev);
}

static void nic_resume(void *dev)
{
	struct nic *n = dev;

	if (n->card.ops->resume)
		n->card.ops->resume(n->card.dev);
}

static void nic_reset(void *dev)
{
	struct nic *n = dev;

	if (n->card.ops->reset)
		n->card.ops->reset(n->card.dev);
}

/* The loop's thread ends first: then nobody works at either end of the cable. */
static void nic_free(void *dev)
{
	struct nic *n = dev;

	evloop_stop(n->loop);
	if (n->link)
		link_part(n->link);
	net_free(n->net);
	if (n->card.ops)
		n->card.ops->free(n->card.dev);
	evloop_free(n->loop);
	free(n);
}

static const struct dev_ops nic_ops = {
	.name = "network card",
	.start = nic_start,
	.pause = nic_pause,
	.resume = nic_resume,
	.reset = nic_reset,
	.free = nic_free,
};

static uint32_t hash(uint32_t h, const char *text)
{
	for (; *text; text++)
		h = (h ^ (uint8_t)*text) * 16777619;
	return h;
}

/* A locally administered address: the same for a named machine on this host, and another for each
 * machine and card (FNV-1a over the host's name, the machine's or the process's number, the
 * card's). Deterministic runs have the same one everywhere.
 */
static void make_mac(const struct machine *m, unsigned i, uint8_t *mac)
{
	char host[256] = "", self[32];
	uint32_t h = 2166136261u;

	if (memcmp(m->cfg.nic[i].mac, "\0\0\0\0\0", ETH_ADDR_BYTES) != 0) {
		memcpy(mac, m->cfg.nic[i].mac, ETH_ADDR_BYTES);
		return;
	}
	snprintf(self, sizeof(self), "%d", (int)getpid());
	if (!m->cfg.icount && gethostname(host, sizeof(host) - 1) == 0)
		h = hash(hash(h, host), m->cfg.name ? m->cfg.name : self);
	h += i;
	memcpy(mac, "\x52\x54", 2);
	memcpy(mac + 2, &h, 4);
}

static int connect_cable(struct nic *n, const struct nic_config *cfg, struct err *err)
{
	if (cfg->kind == NIC_TAP)
		return net_tap_new(&n->net, n->loop, cfg->tap, err);
	return net_user_new(&n->net, n->loop, &cfg->user, err);
}

static int build(struct machine *m, struct nic *n, unsigned i, struct err *err)
{
	struct virtio_net_cfg card = { .bus = m->pci, .pm = &m->pm, .n_pairs = m->set.n };
	int ret = evloop_new(&n->loop, err);

	if (ret == 0) {
		evloop_set_kind(n->loop, SANDBOX_NET);
		ret = connect_cable(n, &m->cfg.nic[i], err);
	}
	if (ret < 0)
		return ret;
	m->net[i] = n->net;
	card.loop = n->loop;
	card.mtu = n->net->end.caps.mtu;
	make_mac(m, i, card.mac);
	ret = virtio_net_new(&n->card, &n->link, &card, err);
	if (ret == 0)
		link_join(n->link, &n->net->end);
	return ret;
}

int pc_add_nics(struct machine *m, struct err *err)
{
	for (unsigned i = 0; i < m->cfg.n_nics; i++) {
		struct nic *n = calloc(1, sizeof(*n));

		if (!n)
			return err_set(err, ENOMEM, "network card %u", i);
		*pc_slot(m) = (struct dev){ &nic_ops, n };
		pc_add(m, 0);

		int ret = build(m, n, i, err);

		if (ret < 0)
			return err_wrap(err, "--net");
	}
	return 0;
}
