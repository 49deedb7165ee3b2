/* What the two ring formats share. */
#ifndef DEV_VIRTIO_VIRTQ_INTERNAL_H
#define DEV_VIRTIO_VIRTQ_INTERNAL_H

#include "dev/virtio/virtq.h"

#define VIRTQ_DESC_BYTES      16
#define VIRTQ_DESC_F_NEXT     1
#define VIRTQ_DESC_F_WRITE    2
#define VIRTQ_DESC_F_INDIRECT 4

/* One ring format. pop: as virtq_pop, with c's counts zeroed; unpop, fill, flush, kicks: as their
 * namesakes. need_event: whether the driver's event suppression lets an interrupt through for the
 * q->pushed (at least 1) entries before next_used.
 */
struct virtq_ring {
	uint64_t (*desc_bytes)(unsigned size);
	uint64_t (*driver_bytes)(unsigned size);
	uint64_t (*device_bytes)(unsigned size);
	unsigned driver_align, device_align;
	int (*pop)(struct virtq *q, struct virtq_chain *c);
	void (*unpop)(struct virtq *q, const struct virtq_chain *c);
	void (*fill)(struct virtq *q, const struct virtq_chain *c, uint32_t len_bytes,
		     unsigned nth);
	void (*flush)(struct virtq *q, unsigned n);
	bool (*need_event)(struct virtq *q);
	void (*kicks)(struct virtq *q, bool on);
	bool (*has_avail)(const struct virtq *q);
};
extern const struct virtq_ring virtq_split, virtq_packed;

/* A descriptor, copied out of guest memory by two loads. Split: next; packed: id. */
struct virtq_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t a, b; /* split: flags, next; packed: id, flags */
};
_Static_assert(sizeof(struct virtq_desc) == VIRTQ_DESC_BYTES, "virtio 1.2, 2.7.5 and 2.8.13");
struct virtq_desc virtq_desc_load(const uint8_t *p);

/* Append what a descriptor says to c. False if that breaks the rules. */
bool virtq_chain_add(const struct virtq *q, struct virtq_chain *c, const struct virtq_desc *d,
		     uint16_t flags);
/* The indirect table that d names: its host address and entries; NULL if it breaks the rules. */
const uint8_t *virtq_table(const struct virtq *q, const struct virtq_desc *d, uint16_t flags,
			   unsigned *n);

/* virtio 1.2, 2.7.10: whether event lies in the last n_new entries before now. */
static inline bool virtq_passed(uint16_t event, uint16_t now, uint16_t n_new)
{
	return (uint16_t)(now - event - 1) < n_new;
}

/* Words of the rings, which are aligned: the other side writes them meanwhile. */
static inline uint16_t ring_load16(const uint8_t *p)
{
	return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE);
}

static inline void ring_store16(uint8_t *p, uint16_t val)
{
	__atomic_store_n((uint16_t *)p, val, __ATOMIC_RELEASE);
}

static inline void ring_store32(uint8_t *p, uint32_t val)
{
	__atomic_store_n((uint32_t *)p, val, __ATOMIC_RELEASE);
}

#endif
