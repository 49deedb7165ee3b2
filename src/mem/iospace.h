/* One address space of device registers: port I/O or the MMIO holes. */
#ifndef MEM_IOSPACE_H
#define MEM_IOSPACE_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct iospace;

/* A device's half of an access. off counts from the region's start; the guest chose it, so it
 * may be unaligned. size: 1, 2, 4 or 8 bytes, at most max. Called on the vCPU's thread with no
 * iospace lock held, so a handler may map and unmap regions. It cannot fail: what a chip does
 * not decode reads as ones, writes nothing.
 */
struct io_ops {
	uint64_t (*read)(void *dev, uint64_t off, unsigned size);
	void (*write)(void *dev, uint64_t off, unsigned size, uint64_t val);
	uint8_t max; /* bytes; a wider access is split, low address first */
};

/* Doorbells: n registers, step bytes apart from base on. A store there says no more than that it
 * came, whatever its size and value. So who executes guests may add 1 to the eventfd fd, for any of
 * them, in place of calling the device's write: the device watches fd, too.
 */
struct io_bells {
	uint64_t base;
	uint32_t step, n; /* n 0: none */
	int fd;		  /* borrowed from the device */
};

/* limit: addresses in the space (0x10000 for ports). NULL when out of memory. */
struct iospace *iospace_new(uint64_t limit);
void iospace_free(struct iospace *s);

/* Route [base, base+len) to dev. dev is borrowed: unmap before freeing it, with the vCPUs
 * stopped. -EEXIST if it overlaps a mapped region, -ERANGE if it passes the limit, -ENOSPC if
 * the space has no slot left. Any thread.
 */
int iospace_map(struct iospace *s, uint64_t base, uint64_t len, const struct io_ops *ops, void *dev,
		struct err *err);

/* Undo the map that starts at base; nothing happens if there is none. An access that is inside
 * the handler on another thread may still finish after this returns.
 */
void iospace_unmap(struct iospace *s, uint64_t base);

/* Tell of doorbells in a region that is mapped; they go with it. Those beyond IO_MAX_BELLS are
 * served by write alone. Any thread. */
#define IO_MAX_BELLS 64
void iospace_add_bells(struct iospace *s, const struct io_bells *b);
/* Call fn for all doorbells there are, and from now on for those that come and go (here tells
 * which), with the space's lock held: it must not call back. One caller; fn NULL ends it. */
void iospace_watch_bells(struct iospace *s,
			 void (*fn)(void *arg, const struct io_bells *b, bool here), void *arg);

/* size: 1, 2, 4 or 8. An address that nothing decodes reads as ones and ignores writes; an
 * access across the end of a region is split there. Any thread.
 */
uint64_t iospace_read(struct iospace *s, uint64_t addr, unsigned size);
void iospace_write(struct iospace *s, uint64_t addr, unsigned size, uint64_t val);

#endif
