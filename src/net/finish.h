/* Finishes frames in software: the checksum that a sender left open, and the cutting of a long TCP
 * or UDP frame into segments (virtio 1.2, 5.1.6.2). Frames and what they say of themselves are
 * hostile: anything that does not add up is dropped.
 */
#ifndef NET_FINISH_H
#define NET_FINISH_H

#include "net/link.h"

/* Takes a finished frame, as struct link_ops' send does. */
typedef bool (*frame_sink)(void *arg, const struct frame_meta *meta, const struct iovec *iov,
			   unsigned n_iov, uint32_t len_bytes);

enum finish {
	FINISH_DONE,	/* the sink took it, whole or at least the first segment */
	FINISH_REFUSED, /* the sink refused the frame, or its first segment */
	FINISH_BAD,	/* the frame is not what its meta says */
};

/* Whether the frame asks for something that caps lacks. */
bool frame_needs_finish(const struct frame_meta *meta, const struct link_caps *caps);

/* Finish a frame for an end with caps and give the result to sink, segment by segment. The iovecs
 * hold len_bytes; they may be memory that others write to at the same time: then checksums may be
 * wrong, and nothing else. An end that cuts frames itself but takes no open checksum gets a long
 * frame with the checksum over all of it. A segment that the sink refuses after the first is lost.
 */
enum finish frame_finish(const struct frame_meta *meta, const struct iovec *iov, unsigned n_iov,
			 uint32_t len_bytes, const struct link_caps *caps, frame_sink sink,
			 void *arg);

#endif
