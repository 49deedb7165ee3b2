/* One direction of a frame channel between two processes: a ring of frames in memory that both have
 * mapped, one producer, one consumer.
 *
 * Each side keeps its own position to itself and believes of the other's only what it has checked;
 * a position or a frame header that makes no sense is a broken ring, and stays one. What lies in
 * the ring can change at any time: the consumer copies headers before it looks at them, and frame
 * contents before it looks at them twice. No system calls: the owner has a doorbell (an eventfd)
 * for each side and rings it when told to.
 */
#ifndef NET_RING_H
#define NET_RING_H

#include "net/link.h"

#define RING_DATA_BYTES (1u << 20)

/* The shared memory of one direction; all zero to begin with. */
struct ring_mem {
	_Atomic uint32_t head; /* the producer's: bytes put in so far, modulo 2^32 */
	_Atomic uint32_t consumer_sleeps;
	uint8_t pad0[56];
	_Atomic uint32_t tail; /* the consumer's: bytes taken out */
	_Atomic uint32_t producer_sleeps;
	uint8_t pad1[56];
	uint8_t data[RING_DATA_BYTES] __attribute__((aligned(64)));
};

/* One side's view. Not thread-safe. */
struct ring {
	struct ring_mem *mem; /* borrowed */
	uint32_t pos;	      /* this side's position */
	uint32_t seen;	      /* the other's, as last read and checked */
	uint32_t next;	      /* consumer: position behind the frame last shown */
	bool broken;
};

void ring_init(struct ring *r, struct ring_mem *mem);

/* Producer. Put a frame in. 1: it is in; 0: no room; -EPROTO: broken. len_bytes at most
 * NET_MAX_FRAME. Then ring_publish what was put. */
int ring_put(struct ring *r, const struct frame_meta *meta, const struct iovec *iov, unsigned n_iov,
	     uint32_t len_bytes);
/* Show the consumer all that was put. True: ring the consumer's doorbell. */
bool ring_publish(struct ring *r);
/* Bytes of room, at most; frames take up to 32 more than their own. 0 if broken. */
uint32_t ring_room(struct ring *r);
/* Before the producer waits for its doorbell: false if there is room for bytes by now, or the ring
 * is broken. */
bool ring_sleep_for_room(struct ring *r, uint32_t bytes);

/* Consumer. Show the next frame, where it lies in the ring. 1, 0: none, -EPROTO: broken. */
int ring_peek(struct ring *r, struct frame_meta *meta, const uint8_t **data, uint32_t *len_bytes);
/* Done with the frame shown. */
void ring_pop(struct ring *r);
/* Give the producer the room of all that was popped. True: ring the producer's doorbell. */
bool ring_release(struct ring *r);
/* Before the consumer waits for its doorbell: false if there are frames by now, or the ring is
 * broken. */
bool ring_sleep_for_frames(struct ring *r);

#endif
