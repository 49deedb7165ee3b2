/* The headers are copied once into a buffer of ours, read and rewritten there; payload goes out by
 * iovecs into the sender's memory. So nothing that was checked can change before it is used.
 */
#include "net/finish.h"

#include "base/bits.h"
#include "net/csum.h"
#include "net/ether.h"

#define MAX_HEAD 320 /* Ethernet, VLAN, IPv6 with extension headers, TCP with options */
#define MAX_IOV	 300 /* more than a virtqueue's chain has */
/* Of one frame. TCP's smallest segments, 36 bytes beside the options (RFC 879's 536 is not kept by
 * all), make 1,820 out of 64 KiB; more is a guest that wants to keep us busy. */
#define MAX_SEGMENTS 2048

struct cut {
	uint8_t head[MAX_HEAD]; /* as the sender wrote it */
	unsigned head_len;	/* to the end of the TCP or UDP header */
	unsigned l3, l4;	/* offsets */
	unsigned csum_at;
	bool is_ip6, is_udp;
	const struct iovec *iov; /* the whole frame */
	unsigned n_iov;
	uint32_t payload; /* bytes behind the headers */
};

static bool must_cut(const struct frame_meta *meta, const struct link_caps *caps)
{
	switch (meta->gso_type & ~(unsigned)GSO_ECN) {
	case GSO_NONE: return false;
	case GSO_TCPV4: return !caps->tso4;
	case GSO_TCPV6: return !caps->tso6;
	case GSO_UDP_L4: return !caps->uso;
	default: return true;
	}
}

bool frame_needs_finish(const struct frame_meta *meta, const struct link_caps *caps)
{
	return must_cut(meta, caps) || (meta->flags & FRAME_NEEDS_CSUM && !caps->csum);
}

/* The slice [off, off+len) of a frame as iovecs in out; 0 if they are too many. */
static unsigned slice(const struct iovec *iov, unsigned n_iov, size_t off, size_t len,
		      struct iovec *out, unsigned max)
{
	unsigned n = 0;

	for (unsigned i = 0; i < n_iov && len; i++) {
		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}

		size_t part = MIN(iov[i].iov_len - off, len);

		if (n == max)
			return 0;
		out[n++] = (struct iovec){ (uint8_t *)iov[i].iov_base + off, part };
		len -= part;
		off = 0;
	}
	return len ? 0 : n;
}

static void copy_head(uint8_t *to, size_t len, const struct iovec *iov, unsigned n_iov)
{
	for (unsigned i = 0; i < n_iov && len; i++) {
		size_t part = MIN(iov[i].iov_len, len);

		memcpy(to, iov[i].iov_base, part);
		to += part;
		len -= part;
	}
}

static uint64_t sum_iov(const struct iovec *iov, unsigned n_iov)
{
	uint64_t sum = 0;
	size_t done = 0;

	for (unsigned i = 0; i < n_iov; i++) {
		sum = csum_add(sum, iov[i].iov_base, iov[i].iov_len, done & 1);
		done += iov[i].iov_len;
	}
	return sum;
}

/* Fill one checksum. The field holds the sum of the pseudo header already, and the sum over all
 * behind csum_start includes it (virtio 1.2, 5.1.6.2.1).
 */
static enum finish finish_csum(const struct frame_meta *meta, const struct iovec *iov,
			       unsigned n_iov, uint32_t len, frame_sink sink, void *arg)
{
	uint8_t head[MAX_HEAD];
	struct iovec out[MAX_IOV];
	size_t at = (size_t)meta->csum_start + meta->csum_offset;
	size_t head_len = at + 2;
	unsigned n = 1;

	if (head_len > len || head_len > sizeof(head))
		return FINISH_BAD;
	copy_head(head, head_len, iov, n_iov);
	out[0] = (struct iovec){ head, head_len };
	if (len > head_len) {
		n = slice(iov, n_iov, head_len, len - head_len, out + 1, MAX_IOV - 1);
		if (!n++)
			return FINISH_BAD;
	}

	uint64_t sum = csum_add(0, head + meta->csum_start, head_len - meta->csum_start, 0);
	uint64_t rest = csum_fold(sum_iov(out + 1, n - 1));

	if ((head_len - meta->csum_start) & 1)
		rest = (rest << 8 | rest >> 8) & 0xffff;

	uint16_t field = csum_field(sum + rest);

	/* A UDP checksum of 0 would say that there is none; TCP takes either. RFC 768. */
	store16(head + at, field ? field : 0xffff);

	struct frame_meta rest_of = *meta;

	rest_of.flags &= (uint8_t)~FRAME_NEEDS_CSUM;
	return sink(arg, &rest_of, out, n, len) ? FINISH_DONE : FINISH_REFUSED;
}

/* Find IPv4 or IPv6 behind the Ethernet header, one VLAN tag allowed. head has len bytes. */
static bool find_ip(struct cut *c, unsigned len)
{
	unsigned at = ETH_TYPE;

	if (len < NET_FRAME_VLAN + IP4_HDR_BYTES)
		return false;
	if (be16_get(c->head + at) == ETH_P_VLAN)
		at += ETH_VLAN_BYTES;
	c->l3 = at + 2;
	c->is_ip6 = be16_get(c->head + at) == ETH_P_IP6;
	return c->is_ip6 || be16_get(c->head + at) == ETH_P_IP4;
}

/* Check that the IP header at l3 and the transport header at l4 are whole and the kind wanted. */
static bool check_headers(struct cut *c, unsigned len, bool want_ip6)
{
	const uint8_t *ip = c->head + c->l3;
	unsigned proto = c->is_udp ? IPPROTO_IS_UDP : IPPROTO_IS_TCP;

	if (c->is_ip6) {
		/* Extension headers are taken as they are: csum_start says where they end. */
		if (c->l4 < c->l3 + IP6_HDR_BYTES || ip[0] >> 4 != 6)
			return false;
	} else if (ip[0] >> 4 != 4 || (ip[0] & 15) * 4u < IP4_HDR_BYTES ||
		   c->l4 != c->l3 + (ip[0] & 15) * 4u || ip[IP4_PROTO] != proto) {
		return false;
	}
	if (!c->is_udp && c->is_ip6 != want_ip6)
		return false;
	if (c->is_udp) {
		c->head_len = c->l4 + UDP_HDR_BYTES;
		c->csum_at = c->l4 + UDP_CSUM;
		return c->head_len <= len;
	}
	if (c->l4 + TCP_HDR_BYTES > len)
		return false;
	c->head_len = c->l4 + (c->head[c->l4 + TCP_DATA_OFF] >> 4) * 4u;
	c->csum_at = c->l4 + TCP_CSUM;
	return c->head_len >= c->l4 + TCP_HDR_BYTES && c->head_len <= len;
}

static bool parse(struct cut *c, const struct frame_meta *meta, const struct iovec *iov,
		  unsigned n_iov, uint32_t len)
{
	unsigned type = meta->gso_type & ~(unsigned)GSO_ECN;
	unsigned head_len = MIN(len, MAX_HEAD);

	if ((type != GSO_TCPV4 && type != GSO_TCPV6 && type != GSO_UDP_L4) || !meta->gso_size ||
	    !(meta->flags & FRAME_NEEDS_CSUM))
		return false;
	memset(c->head, 0, sizeof(c->head));
	copy_head(c->head, head_len, iov, n_iov);
	c->is_udp = type == GSO_UDP_L4;
	c->l4 = meta->csum_start;
	if (!find_ip(c, head_len) || c->l4 > head_len ||
	    !check_headers(c, head_len, type == GSO_TCPV6))
		return false;
	c->iov = iov;
	c->n_iov = n_iov;
	c->payload = len - c->head_len;
	return c->payload > 0 && c->payload / meta->gso_size < MAX_SEGMENTS;
}

/* Sum of the pseudo header: addresses, protocol, length. RFC 9293 3.1, RFC 8200 8.1. */
static uint64_t pseudo_sum(const struct cut *c, const uint8_t *head, uint32_t l4_len)
{
	uint8_t tail[8] = { 0 };
	const uint8_t *ip = head + c->l3;

	be32_put(tail, l4_len);
	tail[7] = c->is_udp ? IPPROTO_IS_UDP : IPPROTO_IS_TCP;
	return c->is_ip6 ? csum_add(csum_add(0, ip + IP6_SRC, 32, 0), tail, 8, 0)
			 : csum_add(csum_add(0, ip + IP4_SRC, 8, 0), tail, 8, 0);
}

/* Make the headers of the segment that has payload bytes off to off + len. */
static void make_head(const struct cut *c, uint8_t *head, uint32_t off, uint32_t len, unsigned nth)
{
	uint8_t *ip = head + c->l3, *l4 = head + c->l4;

	memcpy(head, c->head, c->head_len);
	if (c->is_ip6) {
		be16_put(ip + IP6_PAYLOAD_LEN,
			 (uint16_t)(c->head_len + len - c->l3 - IP6_HDR_BYTES));
	} else {
		be16_put(ip + IP4_TOT_LEN, (uint16_t)(c->head_len + len - c->l3));
		be16_put(ip + IP4_ID, (uint16_t)(be16_get(ip + IP4_ID) + nth));
		store16(ip + IP4_CSUM, 0);
		store16(ip + IP4_CSUM, csum_field(csum_add(0, ip, c->l4 - c->l3, 0)));
	}
	if (c->is_udp) {
		be16_put(l4 + UDP_LEN, (uint16_t)(UDP_HDR_BYTES + len));
		return;
	}
	be32_put(l4 + TCP_SEQ, be32_get(l4 + TCP_SEQ) + off);
	if (off + len < c->payload)
		l4[TCP_FLAGS] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
	if (nth)
		l4[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
}

static enum finish send_segment(const struct cut *c, uint32_t off, uint32_t len, unsigned nth,
				frame_sink sink, void *arg)
{
	static const struct frame_meta whole;
	uint8_t head[MAX_HEAD];
	struct iovec out[MAX_IOV];
	unsigned n = slice(c->iov, c->n_iov, c->head_len + off, len, out + 1, MAX_IOV - 1);

	if (!n)
		return FINISH_BAD;
	make_head(c, head, off, len, nth);
	out[0] = (struct iovec){ head, c->head_len };
	store16(head + c->csum_at, 0);

	/* Headers of TCP and UDP have an even length. */
	uint64_t sum = pseudo_sum(c, head, c->head_len - c->l4 + len);

	sum = csum_add(sum, head + c->l4, c->head_len - c->l4, 0) + sum_iov(out + 1, n);

	uint16_t field = csum_field(sum);

	store16(head + c->csum_at, field ? field : 0xffff);
	return sink(arg, &whole, out, n + 1, c->head_len + len) ? FINISH_DONE : FINISH_REFUSED;
}

enum finish frame_finish(const struct frame_meta *meta, const struct iovec *iov, unsigned n_iov,
			 uint32_t len_bytes, const struct link_caps *caps, frame_sink sink,
			 void *arg)
{
	struct frame_meta m = *meta;
	struct cut c;
	unsigned nth = 0;

	if (!must_cut(&m, caps))
		return finish_csum(&m, iov, n_iov, len_bytes, sink, arg);
	if (!parse(&c, &m, iov, n_iov, len_bytes))
		return FINISH_BAD;
	for (uint32_t off = 0; off < c.payload; off += m.gso_size, nth++) {
		enum finish how =
			send_segment(&c, off, MIN(m.gso_size, c.payload - off), nth, sink, arg);

		if (how != FINISH_DONE)
			return nth ? FINISH_DONE : how;
	}
	return FINISH_DONE;
}
