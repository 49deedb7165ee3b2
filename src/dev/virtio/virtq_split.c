/* The split ring: descriptors, a ring of heads that the driver makes available, a ring of used
 * ones. virtio 1.2, 2.7.
 */
#include "dev/virtio/virtq_internal.h"
#include "mem/physmap.h"

#include <errno.h>

/* The driver and device areas begin with flags and a free-running index, and end with an event. */
#define RING_FLAGS   0
#define RING_IDX     2
#define RING_ENTRIES 4

#define VIRTQ_AVAIL_F_NO_INTERRUPT 1
#define VIRTQ_USED_F_NO_NOTIFY	   1

static uint64_t desc_bytes(unsigned size)
{
	return 16ull * size;
}

static uint64_t driver_bytes(unsigned size)
{
	return RING_ENTRIES + 2ull * size + 2;
}

static uint64_t device_bytes(unsigned size)
{
	return RING_ENTRIES + 8ull * size + 2;
}

static uint8_t *avail_entry(const struct virtq *q, uint16_t idx)
{
	return q->driver + RING_ENTRIES + 2 * (idx & (q->setup.size - 1u));
}

static uint8_t *used_event(const struct virtq *q)
{
	return q->driver + RING_ENTRIES + 2u * q->setup.size;
}

static uint8_t *used_entry(const struct virtq *q, uint16_t idx)
{
	return q->device + RING_ENTRIES + 8 * (idx & (q->setup.size - 1u));
}

static uint8_t *avail_event(const struct virtq *q)
{
	return q->device + RING_ENTRIES + 8u * q->setup.size;
}

/* Follow a chain through a table of n descriptors, from number i on. nested: the table is an
 * indirect one. The steps are counted, so loops end.
 */
static bool walk(const struct virtq *q, const uint8_t *table, unsigned n, unsigned i,
		 struct virtq_chain *c, bool nested)
{
	for (unsigned seen = 0; i < n && seen < n && seen < VIRTQ_MAX_SEGS; seen++) {
		struct virtq_desc d = virtq_desc_load(table + (size_t)i * VIRTQ_DESC_BYTES);
		uint16_t flags = d.a;

		if (flags & VIRTQ_DESC_F_INDIRECT) {
			table = nested ? NULL : virtq_table(q, &d, flags, &n);
			return table && walk(q, table, n, 0, c, true);
		}
		if (!virtq_chain_add(q, c, &d, flags))
			return false;
		if (!(flags & VIRTQ_DESC_F_NEXT))
			return true;
		i = d.b;
	}
	return false;
}

static bool has_avail(const struct virtq *q)
{
	return ring_load16(q->driver + RING_IDX) != q->next_avail;
}

static int pop(struct virtq *q, struct virtq_chain *c)
{
	unsigned size = q->setup.size;
	uint16_t n = (uint16_t)(ring_load16(q->driver + RING_IDX) - q->next_avail);

	if (!n)
		return 0;
	c->id = ring_load16(avail_entry(q, q->next_avail));
	c->n_desc = 1;
	if (n > size || q->held == size || !walk(q, q->desc, size, c->id, c, false))
		return -EPROTO;
	q->next_avail++;
	q->held++;
	return 1;
}

static void unpop(struct virtq *q, const struct virtq_chain *c)
{
	q->next_avail--;
	q->held--;
}

static void fill(struct virtq *q, const struct virtq_chain *c, uint32_t len_bytes, unsigned nth)
{
	uint8_t *p = used_entry(q, (uint16_t)(q->next_used + nth));

	ring_store32(p, c->id);
	ring_store32(p + 4, len_bytes);
	physmap_stored_range(q->pm, p, 8); /* it may cross into the next page */
}

static void flush(struct virtq *q, unsigned n)
{
	q->next_used = (uint16_t)(q->next_used + n);
	q->held -= MIN(n, q->held);
	q->pushed += n;
	ring_store16(q->device + RING_IDX, q->next_used);
	physmap_stored(q->pm, q->device + RING_IDX, 2);
}

static bool need_event(struct virtq *q)
{
	if (!q->event_idx)
		return !(ring_load16(q->driver + RING_FLAGS) & VIRTQ_AVAIL_F_NO_INTERRUPT);
	return q->pushed > UINT16_MAX ||
	       virtq_passed(ring_load16(used_event(q)), q->next_used, (uint16_t)q->pushed);
}

/* With the event index there is no "none": the event is left behind, which says so for long. */
static void kicks(struct virtq *q, bool on)
{
	uint8_t *p = q->event_idx ? avail_event(q) : q->device + RING_FLAGS;

	if (q->event_idx && !on)
		return;
	ring_store16(p, q->event_idx ? q->next_avail : on ? 0 : VIRTQ_USED_F_NO_NOTIFY);
	physmap_stored(q->pm, p, 2);
}

const struct virtq_ring virtq_split = {
	.desc_bytes = desc_bytes,
	.driver_bytes = driver_bytes,
	.device_bytes = device_bytes,
	.driver_align = 2,
	.device_align = 4,
	.pop = pop,
	.unpop = unpop,
	.fill = fill,
	.flush = flush,
	.need_event = need_event,
	.kicks = kicks,
	.has_avail = has_avail,
};
