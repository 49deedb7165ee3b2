/* A network cable: two ends that hand each other Ethernet frames. A NIC holds one end, what it is
 * connected to (user-mode NAT, a tap, later a switch port) the other.
 */
#ifndef NET_LINK_H
#define NET_LINK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define ETH_ADDR_BYTES	6
#define NET_MAX_FRAME	65550 /* bytes: a segmentation-offload frame with its header */
#define NET_DEFAULT_MTU 1500
#define NET_FRAME_VLAN	18 /* bytes of the longest Ethernet header, with one VLAN tag */

#define FRAME_NEEDS_CSUM 1
#define FRAME_DATA_VALID 2

enum frame_gso { GSO_NONE = 0, GSO_TCPV4 = 1, GSO_TCPV6 = 4, GSO_UDP_L4 = 5, GSO_ECN = 0x80 };

/* What a frame still lacks, as struct virtio_net_hdr says it (virtio 1.2, 5.1.6), without
 * num_buffers; all zero for a complete frame.
 */
struct frame_meta {
	uint8_t flags;	  /* FRAME_* */
	uint8_t gso_type; /* enum frame_gso */
	uint16_t hdr_len, gso_size, csum_start, csum_offset;
};
_Static_assert(sizeof(struct frame_meta) == 10, "virtio 1.2, 5.1.6");

/* What an end can take. link_send finishes a frame (checksum, segments) that asks for more. */
struct link_caps {
	bool csum;	      /* frames with NEEDS_CSUM */
	bool tso4, tso6, uso; /* frames longer than the MTU, to be cut */
	uint16_t mtu;	      /* bytes of payload, 0: 1500 */
};

/* The two directions. Any thread; frames of one thread keep their order. The iovecs are read before
 * it returns; frame contents are hostile. */
struct link_ops {
	/* Take a frame. False: no room now, and .wake of the other end is called once there is; the
	 * sender keeps or drops the frame. */
	bool (*send)(void *end, const struct frame_meta *meta, const struct iovec *iov,
		     unsigned n_iov, uint32_t len_bytes);
	/* The other end has room again. Any thread: only wake a worker. */
	void (*wake)(void *end);
	/* The other end's caps changed, or the cable was (un)plugged. Any thread, no lock held. */
	void (*changed)(void *end, bool up, const struct link_caps *peer);
};

struct link_end {
	const struct link_ops *ops; /* what the holder of this end does */
	void *end;		    /* borrowed */
	struct link_caps caps;	    /* link_set_caps */
	struct link_end *peer;	    /* NULL: not connected; frames are dropped */
	_Atomic bool up;	    /* this end's half; link_set_up */
};

/* Join two ends, and part them. With neither end's workers running. */
void link_join(struct link_end *a, struct link_end *b);
void link_part(struct link_end *a);
/* Send from end e to its peer, finished as far as the peer's caps demand. True also where the frame
 * was dropped: no peer, an end that is down, a frame that cannot be finished. False: the whole
 * frame was refused; of one cut into segments some may have gone, and what was refused is dropped.
 */
bool link_send(struct link_end *e, const struct frame_meta *meta, const struct iovec *iov,
	       unsigned n_iov, uint32_t len_bytes);
/* Tell the peer that e has room again. Any thread. */
void link_wake_peer(struct link_end *e);
/* Change e's half of the cable and tell the peer. Frames pass while both halves are up. Not with a
 * lock held that .changed takes. caps: with e's own worker only; frames on the way may still be as
 * the old ones allowed.
 */
void link_set_up(struct link_end *e, bool up);
void link_set_caps(struct link_end *e, const struct link_caps *caps);

#endif
