#include "base/bits.h"
#include "dev/virtio/net_internal.h"
#include "net/ether.h"

/* What fitting a frame into the driver's buffers came to. */
enum fit { FIT, FIT_LATER, FIT_NEVER };

struct buffers {
	unsigned n;
	uint64_t bytes;
};

static void give_back(struct virtio_net *n, struct virtq *vq, struct buffers *b)
{
	while (b->n)
		virtq_unpop(vq, &n->rx_chain[--b->n]);
	b->bytes = 0;
}

/* Take buffers for len bytes: one, or with MRG_RXBUF as many as it needs. */
static enum fit take_buffers(struct virtio_net *n, struct virtq *vq, uint64_t len,
			     struct buffers *b)
{
	unsigned max = net_has(n, NET_F_MRG_RXBUF) ? MIN(NET_MAX_MERGE, vq->setup.size) : 1;

	*b = (struct buffers){ 0 };
	while (b->bytes < len && b->n < max) {
		int ret = virtq_pop(vq, &n->rx_chain[b->n]);

		if (ret < 0)
			return FIT_NEVER;
		/* Ask for a notification while what there is counts as seen: the driver tells of
		 * what comes behind that. */
		if (ret == 0 && virtq_enable_kicks(vq))
			continue;
		if (ret == 0) {
			give_back(n, vq, b);
			return FIT_LATER;
		}
		b->bytes += n->rx_chain[b->n++].in_bytes;
	}
	if (b->bytes >= len && n->rx_chain[0].in_bytes >= sizeof(struct net_hdr))
		return FIT;
	give_back(n, vq, b);
	return FIT_NEVER;
}

/* Write header and frame into the buffers and hand them to the driver. */
static void fill(struct virtio_net *n, struct virtq *vq, const struct net_hdr *hdr,
		 const struct iovec *iov, unsigned n_iov, const struct buffers *b)
{
	size_t at = virtq_write(&n->rx_chain[0], 0, hdr, sizeof(*hdr));
	unsigned k = 0;

	for (unsigned i = 0; i < n_iov; i++) {
		const uint8_t *from = iov[i].iov_base;
		size_t left = iov[i].iov_len;

		while (left && k < b->n) {
			size_t part = virtq_write(&n->rx_chain[k], at, from, left);

			from += part;
			left -= part;
			at += part;
			if (left) {
				virtq_fill(vq, &n->rx_chain[k], (uint32_t)at, k);
				k++;
				at = 0;
			}
		}
	}
	for (; k < b->n; k++, at = 0)
		virtq_fill(vq, &n->rx_chain[k], (uint32_t)at, k);
	virtq_flush(vq, b->n);
}

/* Which pair a flow goes to: all its frames to the same one (virtio 1.2, 5.1.6.5.5). */
static unsigned steer(const struct virtio_net *n, const uint8_t *head, unsigned len)
{
	unsigned l3 = ETH_HDR_BYTES, sum = 0;

	if (n->n_pairs == 1 || len < l3 + IP6_HDR_BYTES + 4)
		return 0;
	if (be16_get(head + ETH_TYPE) == ETH_P_IP4)
		for (unsigned i = IP4_SRC; i < IP4_SRC + 12; i += 2)
			sum += be16_get(head + l3 + i);
	else if (be16_get(head + ETH_TYPE) == ETH_P_IP6)
		for (unsigned i = IP6_SRC; i < IP6_HDR_BYTES + 4; i += 2)
			sum += be16_get(head + l3 + i);
	return (sum ^ sum >> 8) % n->n_pairs;
}

bool net_rx(void *end, const struct frame_meta *meta, const struct iovec *iov, unsigned n_iov,
	    uint32_t len_bytes)
{
	struct virtio_net *n = end;
	struct net_hdr hdr = { .meta = *meta };
	uint8_t head[ETH_HDR_BYTES + IP6_HDR_BYTES + 4];
	unsigned head_len = 0;
	enum fit fit = FIT_NEVER;
	bool broken = false;

	for (unsigned i = 0; i < n_iov && head_len < sizeof(head); i++) {
		unsigned part = (unsigned)MIN(iov[i].iov_len, sizeof(head) - head_len);

		memcpy(head + head_len, iov[i].iov_base, part);
		head_len += part;
	}
	if (head_len < ETH_HDR_BYTES || len_bytes > NET_MAX_FRAME)
		return true;
	pthread_mutex_lock(&n->rx_lock);
	if (!net_has(n, NET_F_GUEST_CSUM))
		hdr.meta.flags = 0;
	if (n->running && n->paused)
		fit = FIT_LATER;
	else if (n->running && net_filter_passes(&n->filter, head, head_len)) {
		unsigned q = steer(n, head, head_len) * 2;
		struct virtq *vq = &n->q[q];
		struct buffers b;

		fit = take_buffers(n, vq, sizeof(hdr) + len_bytes, &b);
		hdr.num_buffers = (uint16_t)b.n;
		if (fit == FIT) {
			virtq_disable_kicks(vq);
			fill(n, vq, &hdr, iov, n_iov, &b);
			if (virtq_wants_irq(vq))
				vdev_irq(n->vdev, q);
		}
		broken = vq->broken;
	}
	pthread_mutex_unlock(&n->rx_lock);
	if (broken)
		vdev_broken(n->vdev);
	return fit != FIT_LATER;
}
