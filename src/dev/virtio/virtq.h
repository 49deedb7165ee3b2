/* One virtqueue, split or packed: takes chains that the driver made available, gives them back.
 * virtio 1.2, 2.6 to 2.8.
 *
 * The driver is hostile and may rewrite rings and descriptors at any time: every field is copied
 * once, checked, then used. What breaks the rules puts the queue into an error state that its
 * owner turns into DEVICE_NEEDS_RESET; nothing is ever read or written outside of guest memory.
 */
#ifndef DEV_VIRTIO_VIRTQ_H
#define DEV_VIRTIO_VIRTQ_H

#include "base/bits.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct physmap;

#define VIRTQ_MAX_SIZE 1024
#define VIRTQ_MAX_SEGS 258 /* descriptors in one chain, an indirect table's included */

#define VIRTIO_F_RING_INDIRECT_DESC 28
#define VIRTIO_F_RING_EVENT_IDX	    29
#define VIRTIO_F_VERSION_1	    32
#define VIRTIO_F_ACCESS_PLATFORM    33
#define VIRTIO_F_RING_PACKED	    34
#define VIRTIO_F_RING_RESET	    40

/* What the driver set up; copied from the transport's registers when it enables the queue. */
struct virtq_setup {
	uint16_t size; /* descriptors: 1 to VIRTQ_MAX_SIZE; a power of two if the ring is split */
	gpa_t desc, driver, device; /* the three areas (virtio 1.2, 2.6, 2.8) */
	uint64_t features;	    /* negotiated: bits 28, 29 and 34 count here */
};

struct virtq_ring; /* what differs between split and packed: virtq_internal.h */

/* Not thread-safe: one thread at a time (its worker's) uses a queue. Fields are virtq*.c's. */
struct virtq {
	struct physmap *pm; /* borrowed */
	const struct virtq_ring *ring;
	struct virtq_setup setup;
	bool ready, broken;
	bool event_idx, indirect;
	uint8_t *desc, *driver, *device; /* the areas; in guest RAM, aligned */
	uint16_t next_avail, next_used;	 /* split: free-running; packed: below size */
	bool avail_wrap, used_wrap;	 /* packed: the wrap counters */
	unsigned held;	 /* ring entries taken and not yet given back; at most size */
	uint32_t pushed; /* ring entries given back since virtq_wants_irq was asked */
	/* packed, from virtq_fill to virtq_flush: where the next one goes, and what makes the first
	 * one visible */
	uint16_t fill_at, fill_flags;
	bool fill_wrap;
};

/* A chain as the device sees it: first what the driver wrote (out), then what the device may write
 * (in). The memory is the guest's: it can change at any time. Embedded in its owner's request.
 */
struct virtq_chain {
	uint16_t id;	 /* head descriptor (split) or buffer id (packed) */
	uint16_t n_desc; /* ring entries that it holds: 1 in a split ring */
	unsigned n_out, n_in;
	uint64_t out_bytes, in_bytes;
	struct iovec iov[VIRTQ_MAX_SEGS]; /* n_out, then n_in; no iovec crosses a memory region */
};

/* Begin with a set-up that the driver chose. False (and broken) if it makes no sense: sizes,
 * alignment, areas that are not all guest RAM.
 */
bool virtq_start(struct virtq *q, struct physmap *pm, const struct virtq_setup *setup);
/* Forget the driver's set-up. Chains still in flight may not be given back any more: where the
 * device has stored to one, it says so by virtq_drop.
 */
void virtq_stop(struct virtq *q);

/* Take the next chain. 1: *c is filled; 0: none is there; -EPROTO: the ring is broken. */
int virtq_pop(struct virtq *q, struct virtq_chain *c);
/* Undo the last virtq_pop: the chain is next again. */
void virtq_unpop(struct virtq *q, const struct virtq_chain *c);
/* Give c back with the first len_bytes of its in part written. Tells physmap which pages the device
 * stored to. Chains may come back in any order. For mergeable buffers, virtq_fill several with
 * nth = 0, 1, 2 ... and then virtq_flush how many; virtq_push is one of each.
 */
void virtq_push(struct virtq *q, const struct virtq_chain *c, uint32_t len_bytes);
void virtq_fill(struct virtq *q, const struct virtq_chain *c, uint32_t len_bytes, unsigned nth);
void virtq_flush(struct virtq *q, unsigned n);
/* Forget c without giving it back: len_bytes of its in part were written. Also after virtq_stop. */
void virtq_drop(struct virtq *q, const struct virtq_chain *c, uint32_t len_bytes);

/* Whether the driver wants an interrupt for what was pushed since it last was told. Has the full
 * barrier that the event index needs. */
bool virtq_wants_irq(struct virtq *q);
/* Ask the driver for notifications, or (as a hint) for none. Enabling returns true if chains came
 * in the meantime: pop again then. */
bool virtq_enable_kicks(struct virtq *q);
void virtq_disable_kicks(struct virtq *q);

/* Copy from the out part, to the in part; off counts from the part's start. Return the bytes
 * copied, fewer than len where the part ends. */
size_t virtq_read(const struct virtq_chain *c, size_t off, void *buf, size_t len);
size_t virtq_write(const struct virtq_chain *c, size_t off, const void *buf, size_t len);

#endif
