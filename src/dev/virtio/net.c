#include "dev/virtio/net.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "dev/virtio/net_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#define DATA_SIZE   512 /* descriptors of a receive or transmit queue */
#define CTRL_SIZE   64
#define SPEED_MBIT  10000
#define FULL_DUPLEX 1
#define ASKED	    63 /* bit of kicked: look at what the transport asks for */
#define CLASS_ETHER 0x020000

_Static_assert(NET_MAX_QUEUES < ASKED && NET_MAX_QUEUES <= VDEV_MAX_QUEUES, "a bit for each queue");

void net_kick(struct virtio_net *n, unsigned q)
{
	uint64_t one = 1;

	/* Full means that the worker is awake already. */
	if (atomic_fetch_or(&n->kicked, BIT(q)) == 0 && write(n->kick_fd, &one, sizeof(one)) < 0)
		return;
}

static uint64_t offered(const struct virtio_net *n)
{
	uint64_t f = BIT(NET_F_CSUM) | BIT(NET_F_GUEST_CSUM) | BIT(NET_F_CTRL_GUEST_OFFLOADS) |
		     BIT(NET_F_MAC) | BIT(NET_F_GUEST_TSO4) | BIT(NET_F_GUEST_TSO6) |
		     BIT(NET_F_GUEST_ECN) | BIT(NET_F_HOST_TSO4) | BIT(NET_F_HOST_TSO6) |
		     BIT(NET_F_HOST_ECN) | BIT(NET_F_MRG_RXBUF) | BIT(NET_F_STATUS) |
		     BIT(NET_F_CTRL_VQ) | BIT(NET_F_CTRL_RX) | BIT(NET_F_CTRL_VLAN) |
		     BIT(NET_F_CTRL_RX_EXTRA) | BIT(NET_F_GUEST_ANNOUNCE) |
		     BIT(NET_F_CTRL_MAC_ADDR) | BIT(NET_F_GUEST_USO4) | BIT(NET_F_GUEST_USO6) |
		     BIT(NET_F_HOST_USO) | BIT(NET_F_SPEED_DUPLEX);

	return f | (n->cfg.mtu ? BIT(NET_F_MTU) : 0) | (n->max_pairs > 1 ? BIT(NET_F_MQ) : 0);
}

struct link_caps net_guest_caps(const struct virtio_net *n, uint64_t offloads)
{
	return (struct link_caps){
		.csum = offloads >> NET_F_GUEST_CSUM & 1,
		.tso4 = offloads >> NET_F_GUEST_TSO4 & 1,
		.tso6 = offloads >> NET_F_GUEST_TSO6 & 1,
		.uso = (offloads >> NET_F_GUEST_USO4 & offloads >> NET_F_GUEST_USO6) & 1,
		.mtu = n->cfg.mtu,
	};
}

/* The worker's answers to what the transport asked for. */

static void stop(struct virtio_net *n)
{
	static const struct link_caps none;

	pthread_mutex_lock(&n->tx_lock);
	pthread_mutex_lock(&n->rx_lock);
	n->running = false;
	for (unsigned q = 0; q < NET_MAX_QUEUES; q++)
		virtq_stop(&n->q[q]);
	n->features = 0;
	n->n_pairs = 1;
	n->ctrl = 0;
	net_filter_init(&n->filter, n->cfg.mac, false);
	pthread_mutex_unlock(&n->rx_lock);
	pthread_mutex_unlock(&n->tx_lock);
	pthread_mutex_lock(&n->ask_lock);
	memcpy(n->config.mac, n->cfg.mac, ETH_ADDR_BYTES);
	pthread_mutex_unlock(&n->ask_lock);
	link_set_caps(&n->link, &none);
	vdev_reset_done(n->vdev);
}

static bool start_queues(struct virtio_net *n, const struct virtq_setup *setup)
{
	for (unsigned q = 0; q < 2 * n->max_pairs + 1; q++)
		if (setup[q].size && !virtq_start(&n->q[q], n->cfg.pm, &setup[q]))
			return false;
	return true;
}

static void start(struct virtio_net *n, uint64_t features, const struct virtq_setup *setup)
{
	pthread_mutex_lock(&n->tx_lock);
	pthread_mutex_lock(&n->rx_lock);
	n->features = features;
	n->n_pairs = 1;
	if (net_has(n, NET_F_CTRL_VQ))
		n->ctrl = net_has(n, NET_F_MQ) ? 2 * n->max_pairs : 2;
	net_filter_init(&n->filter, n->cfg.mac, net_has(n, NET_F_CTRL_VLAN));
	n->running = start_queues(n, setup);

	bool good = n->running;

	pthread_mutex_unlock(&n->rx_lock);
	pthread_mutex_unlock(&n->tx_lock);
	if (!good) {
		vdev_broken(n->vdev);
		return;
	}

	struct link_caps caps = net_guest_caps(n, features);

	link_set_caps(&n->link, &caps);
	/* What was refused while there was no driver. */
	link_wake_peer(&n->link);
	for (unsigned q = 0; q < 2 * n->max_pairs + 1; q++)
		net_kick(n, q);
}

static void answer(struct virtio_net *n)
{
	struct virtq_setup setup[NET_MAX_QUEUES];
	bool reset, activate;
	uint64_t features;

	pthread_mutex_lock(&n->ask_lock);
	reset = n->reset_asked;
	activate = n->activate_asked;
	n->reset_asked = n->activate_asked = false;
	features = n->asked_features;
	memcpy(setup, n->asked_setup, sizeof(setup));
	pthread_mutex_unlock(&n->ask_lock);
	/* A driver asks for a reset and waits for its end before it activates; so a reset that is
	 * here together with an activation came after it.
	 */
	if (reset)
		stop(n);
	else if (activate)
		start(n, features, setup);
}

static void work(struct virtio_net *n, uint64_t kicked)
{
	bool rx = false;

	pthread_mutex_lock(&n->tx_lock);
	for (unsigned q = 0; net_works(n) && q < 2 * n->max_pairs + 1; q++) {
		if (!(kicked >> q & 1))
			continue;
		if (n->ctrl && q == n->ctrl)
			net_ctrl(n);
		else if (q & 1)
			net_tx(n, q);
		else
			rx = true;
	}
	pthread_mutex_unlock(&n->tx_lock);
	if (rx)
		link_wake_peer(&n->link);
}

static void on_kick(void *arg, short revents)
{
	struct virtio_net *n = arg;
	uint64_t count, kicked;

	if (read(n->kick_fd, &count, sizeof(count)) < 0)
		return;
	kicked = atomic_exchange(&n->kicked, 0);
	if (kicked & BIT(ASKED))
		answer(n);
	kicked &= ~BIT(ASKED);
	work(n, kicked);
}

/* Whoever executes the guest has rung it for the driver, and does not tell for which queue. */
static void on_bell(void *arg, short revents)
{
	struct virtio_net *n = arg;
	uint64_t count;

	if (read(n->bell_fd, &count, sizeof(count)) >= 0)
		work(n, BIT(2 * n->max_pairs + 1) - 1);
}

/* What the transport calls. */

static void config_read(void *dev, unsigned off, void *buf, unsigned len)
{
	struct virtio_net *n = dev;

	memset(buf, 0, len);
	pthread_mutex_lock(&n->ask_lock);
	if (off < sizeof(n->config))
		memcpy(buf, (const uint8_t *)&n->config + off, MIN(len, sizeof(n->config) - off));
	pthread_mutex_unlock(&n->ask_lock);
}

/* Nothing in it is the driver's to write: the address goes by the control queue. */
static void config_write(void *dev, unsigned off, const void *buf, unsigned len)
{
}

static void activate(void *dev, uint64_t features, const struct virtq_setup *setup)
{
	struct virtio_net *n = dev;

	pthread_mutex_lock(&n->ask_lock);
	n->activate_asked = true;
	n->asked_features = features;
	memcpy(n->asked_setup, setup, (2 * n->max_pairs + 1) * sizeof(*setup));
	pthread_mutex_unlock(&n->ask_lock);
	net_kick(n, ASKED);
}

static void reset(void *dev)
{
	struct virtio_net *n = dev;

	pthread_mutex_lock(&n->ask_lock);
	n->reset_asked = true;
	n->activate_asked = false;
	pthread_mutex_unlock(&n->ask_lock);
	net_kick(n, ASKED);
}

static void notify(void *dev, unsigned q)
{
	net_kick(dev, q);
}

static const struct vdev_ops vdev_ops = {
	.id = VIRTIO_ID_NET,
	.class_code = CLASS_ETHER,
	.config_read = config_read,
	.config_write = config_write,
	.activate = activate,
	.notify = notify,
	.reset = reset,
};

/* What the cable calls. */

static void other_end_has_room(void *end)
{
	struct virtio_net *n = end;

	for (unsigned p = 0; p < n->max_pairs; p++)
		net_kick(n, 2 * p + 1);
}

static void set_status(struct virtio_net *n, uint16_t set, uint16_t clear)
{
	pthread_mutex_lock(&n->ask_lock);

	uint16_t was = n->config.status;

	n->config.status = (uint16_t)((was & ~clear) | set);

	bool changed = n->config.status != was;

	pthread_mutex_unlock(&n->ask_lock);
	if (changed)
		vdev_config_changed(n->vdev);
}

static void other_end_changed(void *end, bool up, const struct link_caps *peer)
{
	set_status(end, up ? NET_S_LINK_UP : 0, up ? 0 : NET_S_LINK_UP);
}

static const struct link_ops link_ops = {
	.send = net_rx,
	.wake = other_end_has_room,
	.changed = other_end_changed,
};

/* What the machine calls. */

static void set_paused(struct virtio_net *n, bool paused)
{
	pthread_mutex_lock(&n->tx_lock);
	pthread_mutex_lock(&n->rx_lock);
	n->paused = paused;
	pthread_mutex_unlock(&n->rx_lock);
	pthread_mutex_unlock(&n->tx_lock);
}

static void net_pause(void *dev)
{
	set_paused(dev, true);
}

/* After a pause the host, or the place in the network, may be another: have the guest say where it
 * is (virtio 1.2, 5.1.6.5.4). */
static void net_resume(void *dev)
{
	struct virtio_net *n = dev;

	set_paused(n, false);
	pthread_mutex_lock(&n->tx_lock);

	bool wants = n->running && net_has(n, NET_F_GUEST_ANNOUNCE);

	pthread_mutex_unlock(&n->tx_lock);
	if (wants)
		set_status(n, NET_S_ANNOUNCE, 0);
	for (unsigned q = 0; q < 2 * n->max_pairs + 1; q++)
		net_kick(n, q);
}

static void net_reset(void *dev)
{
	vdev_power_on(((struct virtio_net *)dev)->vdev);
}

static void net_free(void *dev)
{
	struct virtio_net *n = dev;

	evloop_del(n->cfg.loop, &n->watch);
	evloop_del(n->cfg.loop, &n->bell);
	vdev_free(n->vdev);
	own_close(&n->kick_fd);
	own_close(&n->bell_fd);
	pthread_mutex_destroy(&n->ask_lock);
	pthread_mutex_destroy(&n->tx_lock);
	pthread_mutex_destroy(&n->rx_lock);
	free(n);
}

static const struct dev_ops net_dev_ops = {
	.name = "virtio-net",
	.pause = net_pause,
	.resume = net_resume,
	.reset = net_reset,
	.free = net_free,
};

static int plug(struct virtio_net *n, struct err *err)
{
	uint16_t size[NET_MAX_QUEUES];
	struct vdev_cfg cfg = { .features = offered(n),
				.n_queues = 2 * n->max_pairs + 1,
				.max_size = size,
				.ops = &vdev_ops,
				.dev = n };

	for (unsigned q = 0; q < NET_MAX_QUEUES; q++)
		size[q] = DATA_SIZE;
	size[2 * n->max_pairs] = CTRL_SIZE;
	n->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	cfg.bell_fd = n->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (n->kick_fd < 0 || n->bell_fd < 0)
		return err_set(err, errno, "network card");
	n->bell = (struct ev_watch){ .fd = n->bell_fd, .fn = on_bell, .arg = n };
	n->watch = (struct ev_watch){ .fd = n->kick_fd, .fn = on_kick, .arg = n };

	int ret = vdev_new_pci(&n->vdev, n->cfg.bus, &cfg, err);

	if (ret == 0)
		ret = evloop_add(n->cfg.loop, &n->watch, POLLIN, err);
	return ret < 0 ? ret : evloop_add(n->cfg.loop, &n->bell, POLLIN, err);
}

int virtio_net_new(struct dev *out, struct link_end **link, const struct virtio_net_cfg *cfg,
		   struct err *err)
{
	struct virtio_net *n = calloc(1, sizeof(*n));

	if (!n)
		return err_set(err, ENOMEM, "network card");
	n->cfg = *cfg;
	n->max_pairs = MAX(1u, MIN(cfg->n_pairs, (unsigned)VIRTIO_NET_MAX_PAIRS));
	n->n_pairs = 1;
	n->config = (struct net_config){ .max_pairs = (uint16_t)n->max_pairs,
					 .mtu = cfg->mtu,
					 .speed = SPEED_MBIT,
					 .duplex = FULL_DUPLEX };
	memcpy(n->config.mac, cfg->mac, ETH_ADDR_BYTES);
	n->link = (struct link_end){ .ops = &link_ops, .end = n, .up = true };
	net_filter_init(&n->filter, cfg->mac, false);
	pthread_mutex_init(&n->ask_lock, NULL);
	pthread_mutex_init(&n->tx_lock, NULL);
	pthread_mutex_init(&n->rx_lock, NULL);

	int ret = plug(n, err);

	if (ret < 0) {
		net_free(n);
		return ret;
	}
	*link = &n->link;
	*out = (struct dev){ &net_dev_ops, n };
	return 0;
}
