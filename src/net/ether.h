/* Where things stand in Ethernet, IPv4, IPv6, TCP and UDP headers, and numbers as the wire has
 * them: IEEE 802.3 and 802.1Q, RFC 791, 8200, 9293, 768. Offsets count from the header's own start.
 */
#ifndef NET_ETHER_H
#define NET_ETHER_H

#include <stdint.h>

#define ETH_TYPE	12
#define ETH_HDR_BYTES	14
#define ETH_VLAN_BYTES	4 /* tag between the addresses and the type */
#define ETH_P_IP4	0x0800
#define ETH_P_VLAN	0x8100
#define ETH_P_IP6	0x86dd
#define VLAN_ID_MASK	0x0fff
#define IPPROTO_IS_TCP	6
#define IPPROTO_IS_UDP	17
#define IP4_TOT_LEN	2
#define IP4_ID		4
#define IP4_FRAGMENT	6
#define IP4_PROTO	9
#define IP4_CSUM	10
#define IP4_SRC		12
#define IP4_DST		16
#define IP4_HDR_BYTES	20 /* at least */
#define IP6_PAYLOAD_LEN 4
#define IP6_NEXT	6
#define IP6_SRC		8
#define IP6_DST		24
#define IP6_HDR_BYTES	40
#define TCP_SEQ		4
#define TCP_DATA_OFF	12
#define TCP_FLAGS	13
#define TCP_CSUM	16
#define TCP_HDR_BYTES	20 /* at least */
#define TCP_FIN		0x01
#define TCP_PSH		0x08
#define TCP_CWR		0x80
#define UDP_LEN		4
#define UDP_CSUM	6
#define UDP_HDR_BYTES	8
#define L4_SRC_PORT	0
#define L4_DST_PORT	2

/* Big-endian numbers at any alignment. */
static inline uint16_t be16_get(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t be32_get(const uint8_t *p)
{
	return (uint32_t)be16_get(p) << 16 | be16_get(p + 2);
}

static inline void be16_put(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline void be32_put(uint8_t *p, uint32_t v)
{
	be16_put(p, (uint16_t)(v >> 16));
	be16_put(p + 2, (uint16_t)v);
}

#endif
