/* Frames that tests send, and what they look for in those that they get. */
#ifndef TESTS_UNIT_NET_FRAMES_H
#define TESTS_UNIT_NET_FRAMES_H

#include "net/csum.h"
#include "net/ether.h"
#include "net/link.h"

#include <stdbool.h>
#include <string.h>

static const uint8_t frame_guest_mac[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };

struct frame_spec {
	bool ip6, udp, vlan;
	uint32_t src, dst; /* IPv4 */
	uint16_t sport, dport;
	uint32_t seq, ack;
	uint8_t tcp_flags;
	const uint8_t *dst_mac;
	const void *payload;
	uint32_t len;
};

static inline uint64_t frame_pseudo(const uint8_t *ip, bool ip6, unsigned proto, uint32_t len)
{
	uint8_t tail[8] = { 0, 0, 0, 0, 0, 0, 0, (uint8_t)proto };
	uint64_t sum = ip6 ? csum_add(0, ip + IP6_SRC, 32, 0) : csum_add(0, ip + IP4_SRC, 8, 0);

	be32_put(tail, len);
	return csum_add(sum, tail, 8, 0);
}

/* Build a frame whose TCP or UDP checksum is open: the field has the pseudo header's sum. Returns
 * its length; *meta says what it lacks. */
static inline uint32_t frame_make(uint8_t *to, const struct frame_spec *s, struct frame_meta *meta)
{
	unsigned l3 = s->vlan ? 18 : 14, l4 = l3 + (s->ip6 ? 40 : 20);
	unsigned head = l4 + (s->udp ? 8 : 20), csum = s->udp ? UDP_CSUM : TCP_CSUM;
	unsigned proto = s->udp ? IPPROTO_IS_UDP : IPPROTO_IS_TCP;
	uint8_t *ip = to + l3, *t = to + l4;

	memset(to, 0, head);
	memset(to, 0xff, 6);
	if (s->dst_mac)
		memcpy(to, s->dst_mac, 6);
	memcpy(to + 6, frame_guest_mac, 6);
	if (s->vlan) {
		be16_put(to + 12, ETH_P_VLAN);
		be16_put(to + 14, 5);
	}
	be16_put(ip - 2, s->ip6 ? ETH_P_IP6 : ETH_P_IP4);
	if (s->ip6) {
		ip[0] = 0x60;
		be16_put(ip + IP6_PAYLOAD_LEN, (uint16_t)(head - l4 + s->len));
		ip[IP6_NEXT] = (uint8_t)proto;
		ip[7] = 64;
		ip[IP6_SRC] = ip[IP6_DST] = 0xfd;
		be32_put(ip + IP6_SRC + 12, s->src);
		be32_put(ip + IP6_DST + 12, s->dst);
	} else {
		ip[0] = 0x45;
		be16_put(ip + IP4_TOT_LEN, (uint16_t)(head - l3 + s->len));
		be16_put(ip + IP4_ID, 1000);
		ip[8] = 64;
		ip[IP4_PROTO] = (uint8_t)proto;
		be32_put(ip + IP4_SRC, s->src);
		be32_put(ip + IP4_DST, s->dst);
		uint16_t field = csum_field(csum_add(0, ip, 20, 0));
		memcpy(ip + IP4_CSUM, &field, 2);
	}
	be16_put(t + L4_SRC_PORT, s->sport);
	be16_put(t + L4_DST_PORT, s->dport);
	if (s->udp) {
		be16_put(t + UDP_LEN, (uint16_t)(8 + s->len));
	} else {
		be32_put(t + TCP_SEQ, s->seq);
		be32_put(t + 8, s->ack);
		t[TCP_DATA_OFF] = 5 << 4;
		t[TCP_FLAGS] = s->tcp_flags;
		be16_put(t + 14, 65535);
	}
	uint16_t pseudo = csum_fold(frame_pseudo(ip, s->ip6, proto, head - l4 + s->len));
	memcpy(t + csum, &pseudo, 2);
	if (s->len)
		memcpy(to + head, s->payload, s->len);
	*meta = (struct frame_meta){ .flags = FRAME_NEEDS_CSUM,
				     .hdr_len = (uint16_t)head,
				     .csum_start = (uint16_t)l4,
				     .csum_offset = (uint16_t)csum };
	return head + s->len;
}

/* Whether a whole frame's IPv4 header and TCP or UDP checksums are right. l3: offset. */
static inline bool frame_sums_hold(const uint8_t *f, uint32_t len, unsigned l3)
{
	const uint8_t *ip = f + l3;
	bool ip6 = ip[0] >> 4 == 6;
	unsigned l4 = l3 + (ip6 ? 40 : (ip[0] & 15) * 4u);
	unsigned proto = ip6 ? ip[IP6_NEXT] : ip[IP4_PROTO];

	if (!ip6 && csum_field(csum_add(0, ip, l4 - l3, 0)) != 0)
		return false;
	return csum_field(csum_add(frame_pseudo(ip, ip6, proto, len - l4), f + l4, len - l4, 0)) ==
	       0;
}

#endif
