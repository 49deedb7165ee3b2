/* The packed ring: one ring of descriptors, which both sides write; two wrap counters say whose
 * each one is. virtio 1.2, 2.8.
 */
#include "dev/virtio/virtq_internal.h"
#include "mem/physmap.h"

#include <errno.h>

#define DESC_ID	   12
#define DESC_LEN   8
#define DESC_FLAGS 14

#define VIRTQ_DESC_F_AVAIL 0x0080
#define VIRTQ_DESC_F_USED  0x8000

/* Event suppression: 15 bits of offset, the wrap counter, then flags. 2.8.14 */
#define EVENT_FLAGS_ENABLE  0
#define EVENT_FLAGS_DISABLE 1
#define EVENT_FLAGS_DESC    2
#define EVENT_OFF_MASK	    0x7fff
#define EVENT_WRAP	    0x8000
#define EVENT_FLAGS_AT	    2

static uint64_t desc_bytes(unsigned size)
{
	return 16ull * size;
}

static uint64_t event_bytes(unsigned size)
{
	return 4;
}

static uint8_t *desc(const struct virtq *q, unsigned i)
{
	return q->desc + (size_t)i * VIRTQ_DESC_BYTES;
}

/* Move a ring position n entries (at most size) on. */
static void advance(const struct virtq *q, uint16_t *at, bool *wrap, unsigned n)
{
	unsigned next = *at + n;

	if (next >= q->setup.size) {
		next -= q->setup.size;
		*wrap = !*wrap;
	}
	*at = (uint16_t)next;
}

static bool has_avail(const struct virtq *q)
{
	uint16_t flags = ring_load16(desc(q, q->next_avail) + DESC_FLAGS);

	return !!(flags & VIRTQ_DESC_F_AVAIL) == q->avail_wrap &&
	       !!(flags & VIRTQ_DESC_F_USED) != q->avail_wrap;
}

/* An indirect table is used from front to back; of the flags only WRITE counts in it. 2.8.7 */
static bool walk_table(const struct virtq *q, const struct virtq_desc *d, struct virtq_chain *c)
{
	unsigned n;
	const uint8_t *table = virtq_table(q, d, d->b, &n);

	if (!table || n > VIRTQ_MAX_SEGS)
		return false;
	for (unsigned i = 0; i < n; i++) {
		struct virtq_desc e = virtq_desc_load(table + (size_t)i * VIRTQ_DESC_BYTES);

		if (!virtq_chain_add(q, c, &e, e.b))
			return false;
	}
	return true;
}

/* Take the chain that begins at next_avail; its id is the last descriptor's. */
static bool walk(const struct virtq *q, struct virtq_chain *c)
{
	uint16_t at = q->next_avail;
	bool wrap = q->avail_wrap;

	for (c->n_desc = 0; c->n_desc < q->setup.size - q->held;) {
		struct virtq_desc d = virtq_desc_load(desc(q, at));

		c->n_desc++;
		c->id = d.a;
		advance(q, &at, &wrap, 1);
		if (d.b & VIRTQ_DESC_F_INDIRECT)
			return walk_table(q, &d, c);
		if (!virtq_chain_add(q, c, &d, d.b))
			return false;
		if (!(d.b & VIRTQ_DESC_F_NEXT))
			return true;
	}
	return false;
}

static int pop(struct virtq *q, struct virtq_chain *c)
{
	if (!has_avail(q))
		return 0;
	if (!walk(q, c))
		return -EPROTO;
	advance(q, &q->next_avail, &q->avail_wrap, c->n_desc);
	q->held += c->n_desc;
	return 1;
}

static void unpop(struct virtq *q, const struct virtq_chain *c)
{
	unsigned back = q->next_avail + q->setup.size - c->n_desc;

	if (c->n_desc > q->next_avail)
		q->avail_wrap = !q->avail_wrap;
	q->next_avail = (uint16_t)(back % q->setup.size);
	q->held -= c->n_desc;
}

/* The first one's flags are what the driver waits for; they are written last, by flush. */
static void fill(struct virtq *q, const struct virtq_chain *c, uint32_t len_bytes, unsigned nth)
{
	uint8_t *p;
	uint16_t flags;

	if (nth == 0) {
		q->fill_at = q->next_used;
		q->fill_wrap = q->used_wrap;
	}
	p = desc(q, q->fill_at);
	flags = q->fill_wrap ? VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED : 0;
	if (len_bytes)
		flags |= VIRTQ_DESC_F_WRITE;
	ring_store32(p + DESC_LEN, len_bytes);
	ring_store16(p + DESC_ID, c->id);
	if (nth == 0)
		q->fill_flags = flags;
	else
		ring_store16(p + DESC_FLAGS, flags);
	physmap_stored(q->pm, p, VIRTQ_DESC_BYTES);
	advance(q, &q->fill_at, &q->fill_wrap, c->n_desc);
}

static void flush(struct virtq *q, unsigned n)
{
	uint8_t *first = desc(q, q->next_used) + DESC_FLAGS;
	unsigned entries = (q->fill_at + q->setup.size - q->next_used) % q->setup.size;

	/* All the way round is the whole ring. */
	if (!entries)
		entries = q->setup.size;
	ring_store16(first, q->fill_flags);
	physmap_stored(q->pm, first, 2);
	q->next_used = q->fill_at;
	q->used_wrap = q->fill_wrap;
	q->held -= MIN(entries, q->held);
	q->pushed += entries;
}

static bool need_event(struct virtq *q)
{
	uint32_t event = __atomic_load_n((const uint32_t *)q->driver, __ATOMIC_ACQUIRE);
	uint16_t off = event & EVENT_OFF_MASK, flags = event >> (8 * EVENT_FLAGS_AT) & 3;

	if (flags != EVENT_FLAGS_DESC || !q->event_idx)
		return flags != EVENT_FLAGS_DISABLE;
	if (!!(event & EVENT_WRAP) != q->used_wrap)
		off = (uint16_t)(off - q->setup.size);
	return q->pushed >= q->setup.size || virtq_passed(off, q->next_used, (uint16_t)q->pushed);
}

static void kicks(struct virtq *q, bool on)
{
	uint32_t event = EVENT_FLAGS_DISABLE << (8 * EVENT_FLAGS_AT);

	if (on && q->event_idx)
		event = EVENT_FLAGS_DESC << (8 * EVENT_FLAGS_AT) | q->next_avail |
			(q->avail_wrap ? EVENT_WRAP : 0);
	else if (on)
		event = EVENT_FLAGS_ENABLE;
	ring_store32(q->device, event);
	physmap_stored(q->pm, q->device, 4);
}

const struct virtq_ring virtq_packed = {
	.desc_bytes = desc_bytes,
	.driver_bytes = event_bytes,
	.device_bytes = event_bytes,
	.driver_align = 4,
	.device_align = 4,
	.pop = pop,
	.unpop = unpop,
	.fill = fill,
	.flush = flush,
	.need_event = need_event,
	.kicks = kicks,
	.has_avail = has_avail,
};
