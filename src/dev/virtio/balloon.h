/* The memory balloon: the guest gives pages back to the host when it is asked to, and tells of
 * those it does not use. virtio 1.2, 5.5.
 */
#ifndef DEV_VIRTIO_BALLOON_H
#define DEV_VIRTIO_BALLOON_H

#include "dev/virtio/virtio.h"

#include <stdint.h>

struct balloon;

/* What the guest says of its memory; virtio 1.2, 5.5.6.3. */
enum balloon_stat {
	BALLOON_SWAP_IN,  /* bytes */
	BALLOON_SWAP_OUT, /* bytes */
	BALLOON_MAJOR_FAULTS,
	BALLOON_MINOR_FAULTS,
	BALLOON_FREE,	   /* bytes */
	BALLOON_TOTAL,	   /* bytes */
	BALLOON_AVAILABLE, /* bytes */
	BALLOON_CACHES,	   /* bytes */
	BALLOON_HUGE_ALLOCS,
	BALLOON_HUGE_FAILS,
	N_BALLOON_STATS
};

struct balloon_info {
	uint64_t target, actual;	/* bytes in the balloon, as wished and as the guest says */
	uint64_t inflated, reported;	/* bytes given back to the host, in all */
	uint64_t stat[N_BALLOON_STATS]; /* the last that a guest said; UINT64_MAX: nothing */
};

/* stats_s: seconds between two questions for the guest's statistics; 0: none. *b is for the calls
 * below and lives as long as the device. -ENOMEM, a full bus.
 */
int virtio_balloon_new(struct dev *out, struct balloon **b, const struct virtio_place *at,
		       unsigned stats_s, struct err *err);

/* Ask the guest to have that many bytes in its balloon; the pages are 4 KiB. Any thread. */
void balloon_set(struct balloon *b, uint64_t bytes);
/* Any thread. */
void balloon_look(struct balloon *b, struct balloon_info *info);

#endif
