#include "base/bits.h"
#include "base/trace.h"
#include "dev/virtio/net_internal.h"
#include "net/ether.h"

#define BUDGET 128 /* frames between two looks at the loop's other work */

/* Whether the driver may ask for what the header says: it negotiated it (virtio 1.2, 5.1.6.2). */
static bool may_ask(const struct virtio_net *n, const struct frame_meta *m)
{
	bool open = m->flags & FRAME_NEEDS_CSUM;

	if (open && !net_has(n, NET_F_CSUM))
		return false;
	switch (m->gso_type & ~(unsigned)GSO_ECN) {
	case GSO_NONE: return true;
	case GSO_TCPV4: return open && net_has(n, NET_F_HOST_TSO4);
	case GSO_TCPV6: return open && net_has(n, NET_F_HOST_TSO6);
	case GSO_UDP_L4: return open && net_has(n, NET_F_HOST_USO);
	default: return false;
	}
}

/* The frame behind the header, as iovecs in place. */
static unsigned strip_header(struct virtq_chain *c, struct iovec **iov)
{
	size_t skip = sizeof(struct net_hdr);
	unsigned i = 0;

	while (skip >= c->iov[i].iov_len)
		skip -= c->iov[i++].iov_len;
	c->iov[i].iov_base = (uint8_t *)c->iov[i].iov_base + skip;
	c->iov[i].iov_len -= skip;
	*iov = c->iov + i;
	return c->n_out - i;
}

/* Send one chain's frame. False: the other end has no room. */
static bool send_chain(struct virtio_net *n, struct virtq_chain *c)
{
	struct net_hdr hdr;
	uint64_t len = c->out_bytes - sizeof(hdr);

	if (c->out_bytes < sizeof(hdr) + ETH_HDR_BYTES || len > NET_MAX_FRAME ||
	    virtq_read(c, 0, &hdr, sizeof(hdr)) != sizeof(hdr) || !may_ask(n, &hdr.meta)) {
		if (trace_on(TRACE_GUEST))
			trace_print(TRACE_GUEST, "net: a chain of %llu bytes is no frame",
				    (unsigned long long)c->out_bytes);
		return true;
	}
	hdr.meta.flags &= FRAME_NEEDS_CSUM;

	struct iovec *iov;
	unsigned n_iov = strip_header(c, &iov);

	return link_send(&n->link, &hdr.meta, iov, n_iov, (uint32_t)len);
}

void net_tx(struct virtio_net *n, unsigned q)
{
	struct virtq *vq = &n->q[q];
	struct virtq_chain *c = &n->tx_chain;
	unsigned done = 0;
	int ret = 1;

	do {
		virtq_disable_kicks(vq);
		while (done < BUDGET && (ret = virtq_pop(vq, c)) == 1) {
			if (!send_chain(n, c)) {
				/* Again when the other end has room: link_ops.wake kicks. */
				virtq_unpop(vq, c);
				goto out;
			}
			virtq_push(vq, c, 0);
			done++;
		}
		if (done == BUDGET) {
			net_kick(n, q);
			goto out;
		}
	} while (ret == 0 && virtq_enable_kicks(vq));
out:
	if (virtq_wants_irq(vq))
		vdev_irq(n->vdev, q);
	if (ret < 0)
		vdev_broken(n->vdev);
}
