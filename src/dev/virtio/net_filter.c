#include "base/bits.h"
#include "dev/virtio/net_internal.h"
#include "net/ether.h"

void net_filter_init(struct net_filter *f, const uint8_t *mac, bool by_vlan)
{
	*f = (struct net_filter){ .promisc = true, .by_vlan = by_vlan };
	memcpy(f->mac, mac, ETH_ADDR_BYTES);
}

static bool is_in(uint8_t (*table)[ETH_ADDR_BYTES], unsigned n, const uint8_t *mac)
{
	for (unsigned i = 0; i < n; i++)
		if (memcmp(table[i], mac, ETH_ADDR_BYTES) == 0)
			return true;
	return false;
}

static bool passes_vlan(const struct net_filter *f, const uint8_t *head, unsigned len)
{
	if (!f->by_vlan || len < ETH_HDR_BYTES + 2 || be16_get(head + ETH_TYPE) != ETH_P_VLAN)
		return true;

	unsigned id = be16_get(head + ETH_HDR_BYTES) & VLAN_ID_MASK;

	return f->vlan[id / 64] >> (id % 64) & 1;
}

bool net_filter_passes(const struct net_filter *f, const uint8_t *head, unsigned len)
{
	static const uint8_t broadcast[ETH_ADDR_BYTES] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	/* is_in only looks. */
	struct net_filter *t = (struct net_filter *)f;

	if (!passes_vlan(f, head, len))
		return false;
	if (f->promisc)
		return true;
	if (memcmp(head, broadcast, ETH_ADDR_BYTES) == 0)
		return !f->no_bcast;
	if (head[0] & 1)
		return !f->no_multi &&
		       (f->all_multi || f->many_multi || is_in(t->multi, f->n_multi, head));
	if (f->no_uni)
		return false;
	return f->all_uni || f->many_uni || memcmp(head, f->mac, ETH_ADDR_BYTES) == 0 ||
	       is_in(t->uni, f->n_uni, head);
}
