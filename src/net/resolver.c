#include "net/resolver.h"

#include "base/bits.h"
#include "net/csum.h"
#include "net/ether.h"

#include <arpa/inet.h>
#include <stdio.h>

#define DNS_PORT 53

struct packet {
	uint8_t *ip, *l4;
	bool is_udp;
	uint8_t *csum; /* TCP's or UDP's; NULL: UDP without one */
};

/* Find a whole IPv4 packet's TCP or UDP header; false if there is none, or only a fragment. */
static bool find(struct packet *p, uint8_t *frame, size_t len)
{
	size_t l4 = ETH_HDR_BYTES + IP4_HDR_BYTES;

	if (len < l4 || be16_get(frame + ETH_TYPE) != ETH_P_IP4)
		return false;
	p->ip = frame + ETH_HDR_BYTES;
	if (p->ip[0] >> 4 != 4 || (p->ip[0] & 15) * 4 < IP4_HDR_BYTES ||
	    be16_get(p->ip + IP4_FRAGMENT) & 0x3fff)
		return false;
	l4 = ETH_HDR_BYTES + (p->ip[0] & 15) * 4u;
	p->l4 = frame + l4;
	p->is_udp = p->ip[IP4_PROTO] == IPPROTO_IS_UDP;
	if (p->is_udp) {
		if (len < l4 + UDP_HDR_BYTES)
			return false;
		p->csum = load16(p->l4 + UDP_CSUM) ? p->l4 + UDP_CSUM : NULL;
		return true;
	}
	p->csum = p->l4 + TCP_CSUM;
	return p->ip[IP4_PROTO] == IPPROTO_IS_TCP && len >= l4 + TCP_HDR_BYTES;
}

/* Put another address at addr, which both checksums cover. */
static void replace(struct packet *p, uint8_t *addr, const uint8_t with[4])
{
	for (unsigned i = 0; i < 4; i += 2) {
		uint16_t old = load16(addr + i), new = load16(with + i);

		store16(p->ip + IP4_CSUM, csum_replace(load16(p->ip + IP4_CSUM), old, new));
		if (p->csum) {
			uint16_t field = csum_replace(load16(p->csum), old, new);

			store16(p->csum, p->is_udp && !field ? 0xffff : field);
		}
		store16(addr + i, new);
	}
}

static bool is_zero(const uint8_t addr[4])
{
	return load32(addr) == 0;
}

bool resolver_out(struct resolver *r, uint8_t *frame, size_t len)
{
	struct packet p;

	if (!find(&p, frame, len) || be16_get(p.l4 + L4_DST_PORT) != DNS_PORT)
		return true;

	uint8_t *dst = p.ip + IP4_DST;
	uint16_t port = be16_get(p.l4 + L4_SRC_PORT);
	uint64_t *word = &r->asked[p.is_udp][port / 64];

	if (load32(dst) == load32(r->seen)) {
		if (is_zero(r->real))
			return false;
		*word |= BIT(port % 64);
		replace(&p, dst, r->real);
	} else if (load32(dst) == load32(r->real)) {
		*word &= ~BIT(port % 64);
	}
	return true;
}

const uint8_t *resolver_back(const struct resolver *r, const uint8_t *frame, size_t len,
			     uint8_t *copy)
{
	struct packet p;

	/* find only looks. */
	if (is_zero(r->real) || !find(&p, (uint8_t *)frame, len) ||
	    be16_get(p.l4 + L4_SRC_PORT) != DNS_PORT || load32(p.ip + IP4_SRC) != load32(r->real))
		return frame;

	uint16_t port = be16_get(p.l4 + L4_DST_PORT);

	if (!(r->asked[p.is_udp][port / 64] & BIT(port % 64)))
		return frame;
	memcpy(copy, frame, len);
	find(&p, copy, len);
	replace(&p, p.ip + IP4_SRC, r->seen);
	return copy;
}

bool resolver_parse(const char *text, uint8_t addr[4])
{
	while (*text) {
		char word[64];

		if (sscanf(text, " nameserver %63s", word) == 1 &&
		    inet_pton(AF_INET, word, addr) == 1)
			return true;
		text += strcspn(text, "\n");
		text += strspn(text, "\n");
	}
	return false;
}
