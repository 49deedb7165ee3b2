/* Feeds frame finishing, the ring's consumer and the resolver with arbitrary frames. The first
 * bytes are the frame's meta, the receiver's caps and how the frame is cut into iovecs; whatever
 * they say, segments stay below the longest frame and their sum is what there was.
 */
#include "base/bits.h"
#include "net/finish.h"
#include "net/resolver.h"
#include "net/ring.h"

#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define HEAD 12

static bool take(void *arg, const struct frame_meta *meta, const struct iovec *iov, unsigned n_iov,
		 uint32_t len_bytes)
{
	static uint8_t frame[2 * NET_MAX_FRAME];
	uint32_t at = 0;

	for (unsigned i = 0; i < n_iov; i++) {
		assert(iov[i].iov_len <= sizeof(frame) - at);
		memcpy(frame + at, iov[i].iov_base, iov[i].iov_len);
		at += (uint32_t)iov[i].iov_len;
	}
	assert(at == len_bytes);
	assert(len_bytes <= NET_MAX_FRAME);
	/* One in a while is refused. */
	return frame[at - 1] != 0x5a;
}

static void finish(const uint8_t *data, size_t len)
{
	struct link_caps caps = { .csum = data[10] & 1,
				  .tso4 = data[10] & 2,
				  .tso6 = data[10] & 4,
				  .uso = data[10] & 8 };
	size_t piece = data[11] + 1u, n_frame = MIN(len - HEAD, NET_MAX_FRAME);
	struct frame_meta meta;
	struct iovec iov[260];
	unsigned n = 0;

	memcpy(&meta, data, sizeof(meta));
	for (size_t at = 0; at < n_frame && n < ARRAY_SIZE(iov); at += piece, n++)
		iov[n] = (struct iovec){ (void *)(data + HEAD + at),
					 n == ARRAY_SIZE(iov) - 1 ? n_frame - at
								  : MIN(piece, n_frame - at) };
	if (n && frame_needs_finish(&meta, &caps))
		frame_finish(&meta, iov, n, (uint32_t)n_frame, &caps, take, NULL);
}

/* The other process writes what it likes into the memory and the positions. */
static void consume(const uint8_t *data, size_t len)
{
	static struct ring_mem mem;
	struct ring r;
	struct frame_meta meta;
	const uint8_t *frame;
	uint32_t n;

	ring_init(&r, &mem);
	mem.head = load32(data) & 0x1ffff8;
	mem.tail = load32(data + 4);
	memcpy(mem.data, data + HEAD, MIN(len - HEAD, sizeof(mem.data)));
	for (unsigned i = 0; i < 1000 && ring_peek(&r, &meta, &frame, &n) == 1; i++) {
		assert(frame >= mem.data && n <= NET_MAX_FRAME &&
		       frame + n <= mem.data + sizeof(mem.data));
		ring_pop(&r);
	}
	ring_init(&r, &mem);

	struct iovec iov = { (void *)data, len };

	ring_put(&r, &meta, &iov, 1, (uint32_t)MIN(len, NET_MAX_FRAME));
}

static void resolve(const uint8_t *data, size_t len)
{
	struct resolver r = { .seen = { 10, 0, 2, 3 }, .real = { 1, 2, 3, 4 } };
	uint8_t *frame = malloc(len), *copy = malloc(len);

	assert(frame && copy);
	memcpy(frame, data, len);
	resolver_out(&r, frame, len);
	resolver_back(&r, frame, len, copy);
	free(frame);
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	if (len <= HEAD)
		return 0;
	finish(data, len);
	consume(data, len);
	resolve(data + HEAD, len - HEAD);
	return 0;
}
