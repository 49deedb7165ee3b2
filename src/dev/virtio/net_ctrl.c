/* The control queue. virtio 1.2, 5.1.6.5. A command's bytes are copied once, then checked. */
#include "base/bits.h"
#include "base/trace.h"
#include "dev/virtio/net_internal.h"

enum { CLASS_RX, CLASS_MAC, CLASS_VLAN, CLASS_ANNOUNCE, CLASS_MQ, CLASS_OFFLOADS };

#define MAX_COMMANDS 64
#define ACK_OK	     0
#define ACK_ERR	     1

/* A command: its class and number, and the bytes behind these two. */
struct command {
	const struct virtq_chain *c;
	uint8_t head[2];
	size_t len;
};

/* Read exactly len bytes at off of the command's data. */
static bool get(const struct command *cmd, size_t off, void *buf, size_t len)
{
	return range_fits(off, len, cmd->len) && virtq_read(cmd->c, 2 + off, buf, len) == len;
}

static bool set_rx_mode(struct virtio_net *n, const struct command *cmd)
{
	struct net_filter *f = &n->filter;
	bool *const flag[] = { &f->promisc,  &f->all_multi, &f->all_uni,
			       &f->no_multi, &f->no_uni,    &f->no_bcast };
	uint8_t on;

	if (cmd->head[1] >= ARRAY_SIZE(flag) || !get(cmd, 0, &on, 1))
		return false;
	*flag[cmd->head[1]] = on;
	return true;
}

/* One of the two tables of VIRTIO_NET_CTRL_MAC_TABLE_SET at *off, which moves behind it. Of a table
 * that is longer than ours nothing is kept: *all says that all addresses of the kind pass instead.
 */
static bool get_table(const struct command *cmd, size_t *off, uint8_t (*table)[ETH_ADDR_BYTES],
		      unsigned *n_out, bool *all)
{
	uint32_t n;

	if (!get(cmd, *off, &n, sizeof(n)))
		return false;
	*off += sizeof(n);
	if (!range_fits(*off, (uint64_t)n * ETH_ADDR_BYTES, cmd->len))
		return false;
	*all = n > FILTER_MACS;
	*n_out = *all ? 0 : n;
	if (!*all && n && !get(cmd, *off, table, (size_t)n * ETH_ADDR_BYTES))
		return false;
	*off += (size_t)n * ETH_ADDR_BYTES;
	return true;
}

static bool set_macs(struct virtio_net *n, const struct command *cmd)
{
	struct net_filter f = n->filter;
	size_t off = 0;

	if (!get_table(cmd, &off, f.uni, &f.n_uni, &f.many_uni) ||
	    !get_table(cmd, &off, f.multi, &f.n_multi, &f.many_multi))
		return false;
	n->filter = f;
	return true;
}

static bool set_mac(struct virtio_net *n, const struct command *cmd)
{
	uint8_t mac[ETH_ADDR_BYTES];

	switch (cmd->head[1]) {
	case 0: return set_macs(n, cmd);
	case 1:
		if (!get(cmd, 0, mac, sizeof(mac)))
			return false;
		memcpy(n->filter.mac, mac, sizeof(mac));
		pthread_mutex_lock(&n->ask_lock);
		memcpy(n->config.mac, mac, sizeof(mac));
		pthread_mutex_unlock(&n->ask_lock);
		return true;
	default: return false;
	}
}

static bool set_vlan(struct virtio_net *n, const struct command *cmd)
{
	uint16_t id;

	if (cmd->head[1] > 1 || !get(cmd, 0, &id, sizeof(id)) || id >= 4096)
		return false;
	if (cmd->head[1] == 0)
		n->filter.vlan[id / 64] |= BIT(id % 64);
	else
		n->filter.vlan[id / 64] &= ~BIT(id % 64);
	return true;
}

static bool acknowledge(struct virtio_net *n, const struct command *cmd)
{
	if (cmd->head[1] != 0)
		return false;
	pthread_mutex_lock(&n->ask_lock);
	n->config.status &= (uint16_t)~NET_S_ANNOUNCE;
	pthread_mutex_unlock(&n->ask_lock);
	return true;
}

static bool set_pairs(struct virtio_net *n, const struct command *cmd)
{
	uint16_t pairs;

	if (cmd->head[1] != 0 || !get(cmd, 0, &pairs, sizeof(pairs)) || pairs < 1 ||
	    pairs > n->max_pairs)
		return false;
	for (unsigned p = 0; p < pairs; p++)
		if (!n->q[2 * p].ready || !n->q[2 * p + 1].ready)
			return false;
	n->n_pairs = pairs;
	return true;
}

static bool is_allowed(const struct virtio_net *n, unsigned class, unsigned number)
{
	switch (class) {
	case CLASS_RX: return net_has(n, number < 2 ? NET_F_CTRL_RX : NET_F_CTRL_RX_EXTRA);
	case CLASS_MAC: return net_has(n, number ? NET_F_CTRL_MAC_ADDR : NET_F_CTRL_RX);
	case CLASS_VLAN: return net_has(n, NET_F_CTRL_VLAN);
	case CLASS_ANNOUNCE: return net_has(n, NET_F_GUEST_ANNOUNCE);
	case CLASS_MQ: return net_has(n, NET_F_MQ);
	case CLASS_OFFLOADS: return net_has(n, NET_F_CTRL_GUEST_OFFLOADS);
	default: return false;
	}
}

static bool execute(struct virtio_net *n, const struct command *cmd)
{
	if (!is_allowed(n, cmd->head[0], cmd->head[1]))
		return false;
	switch (cmd->head[0]) {
	case CLASS_RX: return set_rx_mode(n, cmd);
	case CLASS_MAC: return set_mac(n, cmd);
	case CLASS_VLAN: return set_vlan(n, cmd);
	case CLASS_ANNOUNCE: return acknowledge(n, cmd);
	case CLASS_MQ: return set_pairs(n, cmd);
	default: return false;
	}
}

/* VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: only what was negotiated can be switched. Without rx_lock:
 * the other end may be asked for frames in turn.
 */
static bool set_offloads(struct virtio_net *n, const struct command *cmd)
{
	uint64_t wanted, mine = BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_TSO4) |
				BIT(NET_F_GUEST_TSO6) | BIT(NET_F_GUEST_ECN) |
				BIT(NET_F_GUEST_USO4) | BIT(NET_F_GUEST_USO6);

	if (cmd->head[1] != 0 || !get(cmd, 0, &wanted, sizeof(wanted)) ||
	    wanted & ~(n->features & mine))
		return false;

	struct link_caps caps = net_guest_caps(n, wanted);

	link_set_caps(&n->link, &caps);
	return true;
}

/* Serve one chain; its answer is the last byte that the device may write, in any layout. */
static void serve(struct virtio_net *n, struct virtq *vq, struct virtq_chain *c)
{
	struct command cmd = { .c = c };
	uint8_t ack = ACK_ERR;

	if (c->out_bytes >= 2 && virtq_read(c, 0, cmd.head, 2) == 2) {
		cmd.len = c->out_bytes - 2;
		if (cmd.head[0] == CLASS_OFFLOADS && is_allowed(n, CLASS_OFFLOADS, 0)) {
			ack = set_offloads(n, &cmd) ? ACK_OK : ACK_ERR;
		} else {
			pthread_mutex_lock(&n->rx_lock);
			ack = execute(n, &cmd) ? ACK_OK : ACK_ERR;
			pthread_mutex_unlock(&n->rx_lock);
		}
	}
	if (ack != ACK_OK && trace_on(TRACE_GUEST))
		trace_print(TRACE_GUEST, "net: control command %u.%u refused", cmd.head[0],
			    cmd.head[1]);
	virtq_push(vq, c, (uint32_t)virtq_write(c, 0, &ack, 1));
}

void net_ctrl(struct virtio_net *n)
{
	struct virtq *vq = &n->q[n->ctrl];
	unsigned done = 0;
	int ret;

	do {
		while ((ret = virtq_pop(vq, &n->tx_chain)) == 1) {
			serve(n, vq, &n->tx_chain);
			if (++done == MAX_COMMANDS) {
				net_kick(n, n->ctrl);
				break;
			}
		}
	} while (ret == 0 && virtq_enable_kicks(vq));
	if (virtq_wants_irq(vq))
		vdev_irq(n->vdev, n->ctrl);
	if (ret < 0)
		vdev_broken(n->vdev);
}
