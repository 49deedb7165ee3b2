/* A frame is a header of 16 bytes and its contents, filled up to a multiple of 16. A frame never
 * wraps: where it does not fit before the end of the memory, a filler header stands in its place.
 *
 * Sleeping: the sleeper sets its flag, then looks once more; the other side changes its position,
 * then looks at the flag. With a full barrier between the two steps on both sides one of them sees
 * the other.
 */
#include "net/ring.h"

#include "base/bits.h"

#include <errno.h>

#define ALIGN  16u
#define MASK   (RING_DATA_BYTES - 1)
#define FILLER 0xffffffffu

struct frame_head {
	uint32_t len_bytes; /* or FILLER */
	struct frame_meta meta;
	uint16_t pad;
};
_Static_assert(sizeof(struct frame_head) == ALIGN, "frames are aligned to their headers");
_Static_assert(NET_MAX_FRAME * 4 < RING_DATA_BYTES, "a filler and a frame fit an empty ring");

void ring_init(struct ring *r, struct ring_mem *mem)
{
	*r = (struct ring){ .mem = mem };
}

static uint32_t frame_bytes(uint32_t len)
{
	return (uint32_t)sizeof(struct frame_head) + ALIGN_UP(len, ALIGN);
}

/* Room as the producer sees it. */
static uint32_t look_for_room(struct ring *r)
{
	uint32_t tail = atomic_load_explicit(&r->mem->tail, memory_order_acquire);

	if (r->pos - tail > RING_DATA_BYTES || tail % ALIGN)
		r->broken = true;
	else
		r->seen = tail;
	return r->broken ? 0 : RING_DATA_BYTES - (r->pos - r->seen);
}

uint32_t ring_room(struct ring *r)
{
	return look_for_room(r);
}

static void put_head(struct ring *r, const struct frame_head *h)
{
	memcpy(r->mem->data + (r->pos & MASK), h, sizeof(*h));
}

int ring_put(struct ring *r, const struct frame_meta *meta, const struct iovec *iov, unsigned n_iov,
	     uint32_t len_bytes)
{
	struct frame_head h = { .len_bytes = len_bytes, .meta = *meta };
	uint32_t need = frame_bytes(len_bytes);
	uint32_t to_end = RING_DATA_BYTES - (r->pos & MASK);
	uint32_t filler = to_end < need ? to_end : 0;

	if (RING_DATA_BYTES - (r->pos - r->seen) < filler + need &&
	    look_for_room(r) < filler + need)
		return r->broken ? -EPROTO : 0;
	if (filler) {
		put_head(r, &(struct frame_head){ .len_bytes = FILLER });
		r->pos += filler;
	}
	put_head(r, &h);

	uint8_t *to = r->mem->data + (r->pos & MASK) + sizeof(h);

	for (unsigned i = 0; i < n_iov && len_bytes; i++) {
		uint32_t part = (uint32_t)MIN(iov[i].iov_len, len_bytes);

		memcpy(to, iov[i].iov_base, part);
		to += part;
		len_bytes -= part;
	}
	r->pos += need;
	return 1;
}

bool ring_publish(struct ring *r)
{
	atomic_store_explicit(&r->mem->head, r->pos, memory_order_release);
	atomic_thread_fence(memory_order_seq_cst);
	return atomic_load_explicit(&r->mem->consumer_sleeps, memory_order_relaxed) &&
	       atomic_exchange(&r->mem->consumer_sleeps, 0);
}

bool ring_sleep_for_room(struct ring *r, uint32_t bytes)
{
	atomic_store(&r->mem->producer_sleeps, 1);
	atomic_thread_fence(memory_order_seq_cst);
	if (look_for_room(r) < bytes && !r->broken)
		return true;
	atomic_store(&r->mem->producer_sleeps, 0);
	return false;
}

/* Frames as the consumer sees them, in bytes. */
static uint32_t look_for_frames(struct ring *r)
{
	uint32_t head = atomic_load_explicit(&r->mem->head, memory_order_acquire);

	if (head - r->pos > RING_DATA_BYTES || head % ALIGN)
		r->broken = true;
	else
		r->seen = head;
	return r->broken ? 0 : r->seen - r->pos;
}

int ring_peek(struct ring *r, struct frame_meta *meta, const uint8_t **data, uint32_t *len_bytes)
{
	for (;;) {
		struct frame_head h;
		uint32_t to_end = RING_DATA_BYTES - (r->pos & MASK);
		uint32_t there = r->broken ? 0 : r->seen - r->pos;

		if (!there)
			there = look_for_frames(r);
		if (!there)
			return r->broken ? -EPROTO : 0;
		memcpy(&h, r->mem->data + (r->pos & MASK), sizeof(h));
		if (h.len_bytes == FILLER && to_end < there) {
			r->pos += to_end;
			continue;
		}
		if (h.len_bytes > NET_MAX_FRAME || frame_bytes(h.len_bytes) > MIN(there, to_end)) {
			r->broken = true;
			return -EPROTO;
		}
		*meta = h.meta;
		*data = r->mem->data + (r->pos & MASK) + sizeof(h);
		*len_bytes = h.len_bytes;
		r->next = r->pos + frame_bytes(h.len_bytes);
		return 1;
	}
}

void ring_pop(struct ring *r)
{
	r->pos = r->next;
}

bool ring_release(struct ring *r)
{
	atomic_store_explicit(&r->mem->tail, r->pos, memory_order_release);
	atomic_thread_fence(memory_order_seq_cst);
	return atomic_load_explicit(&r->mem->producer_sleeps, memory_order_relaxed) &&
	       atomic_exchange(&r->mem->producer_sleeps, 0);
}

bool ring_sleep_for_frames(struct ring *r)
{
	atomic_store(&r->mem->consumer_sleeps, 1);
	atomic_thread_fence(memory_order_seq_cst);
	if (!look_for_frames(r) && !r->broken)
		return true;
	atomic_store(&r->mem->consumer_sleeps, 0);
	return false;
}
