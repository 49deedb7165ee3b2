/* What the card's files share: net.c (life, features), net_tx.c, net_rx.c, net_filter.c,
 * net_ctrl.c.
 *
 * Locks. tx_lock: the transmit and control queues; rx_lock: the receive queues and the filter. The
 * worker (the loop's thread) takes tx_lock before rx_lock when it takes both; it holds tx_lock
 * while it sends, so that the other end may take its own rx_lock, never a tx_lock. The transport's
 * calls on vCPU threads take only ask_lock, under which nothing else is called.
 */
#ifndef DEV_VIRTIO_NET_INTERNAL_H
#define DEV_VIRTIO_NET_INTERNAL_H

#include "dev/virtio/net.h"
#include "dev/virtio/vdev.h"
#include "host/evloop.h"

#include <pthread.h>

/* Feature bits. virtio 1.2, 5.1.3. */
enum {
	NET_F_CSUM = 0,
	NET_F_GUEST_CSUM = 1,
	NET_F_CTRL_GUEST_OFFLOADS = 2,
	NET_F_MTU = 3,
	NET_F_MAC = 5,
	NET_F_GUEST_TSO4 = 7,
	NET_F_GUEST_TSO6 = 8,
	NET_F_GUEST_ECN = 9,
	NET_F_HOST_TSO4 = 11,
	NET_F_HOST_TSO6 = 12,
	NET_F_HOST_ECN = 13,
	NET_F_MRG_RXBUF = 15,
	NET_F_STATUS = 16,
	NET_F_CTRL_VQ = 17,
	NET_F_CTRL_RX = 18,
	NET_F_CTRL_VLAN = 19,
	NET_F_CTRL_RX_EXTRA = 20,
	NET_F_GUEST_ANNOUNCE = 21,
	NET_F_MQ = 22,
	NET_F_CTRL_MAC_ADDR = 23,
	NET_F_GUEST_USO4 = 54,
	NET_F_GUEST_USO6 = 55,
	NET_F_HOST_USO = 56,
	NET_F_SPEED_DUPLEX = 63,
};

#define NET_S_LINK_UP  1
#define NET_S_ANNOUNCE 2

/* virtio 1.2, 5.1.4. */
struct net_config {
	uint8_t mac[ETH_ADDR_BYTES];
	uint16_t status;
	uint16_t max_pairs;
	uint16_t mtu;
	uint32_t speed; /* Mbit/s */
	uint8_t duplex;
} __attribute__((packed));
_Static_assert(sizeof(struct net_config) == 17, "virtio 1.2, 5.1.4");

/* Before each frame in a queue. virtio 1.2, 5.1.6. */
struct net_hdr {
	struct frame_meta meta;
	uint16_t num_buffers;
};
_Static_assert(sizeof(struct net_hdr) == 12, "virtio 1.2, 5.1.6");

#define NET_MAX_QUEUES (2 * VIRTIO_NET_MAX_PAIRS + 1)
/* Buffers that one frame is put into; with smaller ones than 1 KiB long frames are dropped. */
#define NET_MAX_MERGE 66
#define FILTER_MACS   64

/* Which frames the guest wants. virtio 1.2, 5.1.6.5. */
struct net_filter {
	bool promisc, all_multi, all_uni, no_multi, no_uni, no_bcast;
	bool many_uni, many_multi; /* the driver has more addresses than the tables hold */
	bool by_vlan;		   /* only tagged frames whose id is in vlan */
	uint8_t mac[ETH_ADDR_BYTES];
	unsigned n_uni, n_multi;
	uint8_t uni[FILTER_MACS][ETH_ADDR_BYTES], multi[FILTER_MACS][ETH_ADDR_BYTES];
	uint64_t vlan[4096 / 64];
};

struct virtio_net {
	struct virtio_net_cfg cfg;
	struct vdev *vdev; /* owned */
	struct link_end link;
	unsigned max_pairs;
	int kick_fd; /* eventfd: look at kicked and asked */
	int bell_fd; /* the same: look at all queues */
	struct ev_watch bell;
	struct ev_watch watch;
	_Atomic uint64_t kicked; /* bit q: chains may have come on queue q */

	pthread_mutex_t ask_lock; /* guards what the driver asks for, and what it reads */
	bool reset_asked, activate_asked;
	uint64_t asked_features;
	struct virtq_setup asked_setup[NET_MAX_QUEUES];
	struct net_config config; /* status and mac change */

	pthread_mutex_t tx_lock, rx_lock; /* each guards its queues; both: the next four */
	bool running, paused;
	unsigned n_pairs; /* that the driver uses now */
	uint64_t features;
	struct virtq q[NET_MAX_QUEUES]; /* rx 0, tx 0, rx 1, tx 1 ..., control */
	unsigned ctrl;			/* the control queue's number; 0: none */
	struct virtq_chain tx_chain;	/* tx_lock */
	struct net_filter filter;	/* rx_lock, like all below */
	struct virtq_chain rx_chain[NET_MAX_MERGE];
};

/* Whether queues may be worked on. With a lock. */
static inline bool net_works(const struct virtio_net *n)
{
	return n->running && !n->paused;
}

static inline bool net_has(const struct virtio_net *n, unsigned feature)
{
	return n->features >> feature & 1;
}

/* Have the worker look at queue q. Any thread. */
void net_kick(struct virtio_net *n, unsigned q);

/* link_ops.send: a frame for the guest. Any thread. */
bool net_rx(void *end, const struct frame_meta *meta, const struct iovec *iov, unsigned n_iov,
	    uint32_t len_bytes);
/* Send what the guest has made available on transmit queue q. The worker, with tx_lock. */
void net_tx(struct virtio_net *n, unsigned q);
/* Serve the control queue. The worker, with tx_lock. */
void net_ctrl(struct virtio_net *n);
/* What the guest takes off the cable's other end's hands now, of offloads (feature bits). */
struct link_caps net_guest_caps(const struct virtio_net *n, uint64_t offloads);

/* As after reset: everything passes until the driver says otherwise. */
void net_filter_init(struct net_filter *f, const uint8_t *mac, bool by_vlan);
/* Whether the guest wants the frame that begins with len bytes at head. */
bool net_filter_passes(const struct net_filter *f, const uint8_t *head, unsigned len);

#endif
