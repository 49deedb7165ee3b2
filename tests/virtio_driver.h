/* A small virtio driver for tests: rings of both formats in a physmap, and a board of memory, PCI
 * bus and event loop on which a device can be driven through its registers.
 *
 * Everything is in the test's hands: the rings are guest memory that it can also spoil.
 */
#ifndef TESTS_VIRTIO_DRIVER_H
#define TESTS_VIRTIO_DRIVER_H

#include "base/bits.h"
#include "dev/pci/pci.h"
#include "dev/virtio/virtio.h"
#include "dev/virtio/virtq.h"
#include "host/evloop.h"
#include "mem/iospace.h"
#include "mem/physmap.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define VRING_MAX	  256
#define VRING_TABLE_BYTES 4096ull /* for each buffer id: its indirect table */

#define VRING_F_NEXT	 1
#define VRING_F_WRITE	 2
#define VRING_F_INDIRECT 4
#define VRING_F_AVAIL	 0x80
#define VRING_F_USED	 0x8000

/* A buffer of a chain: guest memory that the device reads or (in) writes. */
struct vseg {
	gpa_t at;
	uint32_t len;
	bool in;
};

/* The driver's side of one ring. */
struct vring {
	struct physmap *pm;
	struct virtq_setup setup;
	gpa_t tables;
	bool packed;
	uint8_t *desc, *driver, *device;
	uint16_t size, next, used; /* next: to make available; used: to look at */
	bool next_wrap, used_wrap;
	uint16_t free_id[VRING_MAX], n_free;
	uint16_t n_desc[VRING_MAX]; /* of the chain with this id */
	bool taken[VRING_MAX];	    /* split: descriptors in use */
};

/* Guest memory that a ring takes from vring_init's at on. */
static inline uint64_t vring_bytes(unsigned size)
{
	return 3 * 8192 + size * VRING_TABLE_BYTES;
}

static inline void vring_init(struct vring *r, struct physmap *pm, gpa_t at, uint16_t size,
			      uint64_t features)
{
	*r = (struct vring){ .pm = pm, .size = size, .next_wrap = true, .used_wrap = true };
	assert(size <= VRING_MAX);
	r->packed = features & BIT(VIRTIO_F_RING_PACKED);
	r->setup = (struct virtq_setup){ .size = size,
					 .desc = at,
					 .driver = at + 8192,
					 .device = at + 16384,
					 .features = features };
	r->tables = at + 24576;
	r->desc = physmap_host(pm, at, vring_bytes(size), NULL);
	assert(r->desc);
	r->driver = r->desc + 8192;
	r->device = r->desc + 16384;
	memset(r->desc, 0, 24576);
	for (uint16_t i = 0; i < size; i++)
		r->free_id[r->n_free++] = (uint16_t)(size - 1 - i);
}

static inline void vring_put_desc(uint8_t *p, gpa_t at, uint32_t len, uint16_t a, uint16_t b)
{
	store64(p, at);
	store32(p + 8, len);
	store16(p + 12, a);
	__atomic_store_n((uint16_t *)(p + 14), b, __ATOMIC_RELEASE);
}

static inline void vring_put_table(struct vring *r, uint16_t id, const struct vseg *seg, unsigned n)
{
	uint8_t *t =
		physmap_host(r->pm, r->tables + id * VRING_TABLE_BYTES, VRING_TABLE_BYTES, NULL);

	assert(t && n * 16 <= VRING_TABLE_BYTES);
	for (unsigned i = 0; i < n; i++) {
		uint16_t flags = seg[i].in ? VRING_F_WRITE : 0;

		if (r->packed)
			vring_put_desc(t + 16 * i, seg[i].at, seg[i].len, 0, flags);
		else
			vring_put_desc(t + 16 * i, seg[i].at, seg[i].len,
				       flags | (i + 1 < n ? VRING_F_NEXT : 0), (uint16_t)(i + 1));
	}
}

static inline uint16_t vring_take_desc(struct vring *r)
{
	for (uint16_t i = 0; i < r->size; i++) {
		if (!r->taken[i]) {
			r->taken[i] = true;
			return i;
		}
	}
	assert(!"the ring is full");
}

/* Split: the chain's head is its id. */
static inline uint16_t vring_add_split(struct vring *r, const struct vseg *seg, unsigned n)
{
	uint16_t head = vring_take_desc(r), at = head;

	for (unsigned i = 0; i < n; i++) {
		uint16_t next = i + 1 < n ? vring_take_desc(r) : 0;

		vring_put_desc(r->desc + 16 * at, seg[i].at, seg[i].len,
			       (uint16_t)((seg[i].in ? VRING_F_WRITE : 0) |
					  (i + 1 < n ? VRING_F_NEXT : 0)),
			       next);
		at = next;
	}
	return head;
}

static inline void vring_publish_split(struct vring *r, uint16_t head)
{
	store16(r->driver + 4 + 2 * (r->next % r->size), head);
	r->next++;
	__atomic_store_n((uint16_t *)(r->driver + 2), r->next, __ATOMIC_RELEASE);
}

static inline uint16_t vring_packed_flags(const struct vring *r, const struct vseg *seg, bool last)
{
	return (uint16_t)((r->next_wrap ? VRING_F_AVAIL : VRING_F_USED) |
			  (seg->in ? VRING_F_WRITE : 0) | (last ? 0 : VRING_F_NEXT));
}

static inline void vring_next_packed(struct vring *r)
{
	if (++r->next == r->size) {
		r->next = 0;
		r->next_wrap = !r->next_wrap;
	}
}

/* The first descriptor's flags go last: they make the chain visible. */
static inline uint16_t vring_add_packed(struct vring *r, const struct vseg *seg, unsigned n)
{
	uint16_t id = r->free_id[--r->n_free], first = r->next;
	uint16_t flags = vring_packed_flags(r, seg, n == 1);

	for (unsigned i = 0; i < n; i++) {
		uint8_t *p = r->desc + 16 * r->next;

		if (i == 0) {
			store64(p, seg[i].at);
			store32(p + 8, seg[i].len);
			store16(p + 12, id);
		} else {
			vring_put_desc(p, seg[i].at, seg[i].len, id,
				       vring_packed_flags(r, &seg[i], i + 1 == n));
		}
		vring_next_packed(r);
	}
	r->n_desc[id] = (uint16_t)n;
	__atomic_store_n((uint16_t *)(r->desc + 16 * first + 14), flags, __ATOMIC_RELEASE);
	return id;
}

/* Make a chain of n buffers available; returns its id. */
static inline uint16_t vring_add(struct vring *r, const struct vseg *seg, unsigned n)
{
	uint16_t head;

	if (r->packed)
		return vring_add_packed(r, seg, n);
	head = vring_add_split(r, seg, n);
	vring_publish_split(r, head);
	return head;
}

/* The same as an indirect table. */
static inline uint16_t vring_add_indirect(struct vring *r, const struct vseg *seg, unsigned n)
{
	uint16_t id;

	if (r->packed) {
		uint8_t *p = r->desc + 16 * r->next;
		uint16_t flags = (r->next_wrap ? VRING_F_AVAIL : VRING_F_USED) | VRING_F_INDIRECT;

		id = r->free_id[--r->n_free];
		vring_put_table(r, id, seg, n);
		r->n_desc[id] = 1;
		vring_next_packed(r);
		vring_put_desc(p, r->tables + id * VRING_TABLE_BYTES, n * 16, id, flags);
		return id;
	}
	id = vring_take_desc(r);
	vring_put_table(r, id, seg, n);
	vring_put_desc(r->desc + 16 * id, r->tables + id * VRING_TABLE_BYTES, n * 16,
		       VRING_F_INDIRECT, 0);
	vring_publish_split(r, id);
	return id;
}

/* The test may have spoilt its own ring: nothing in it is trusted here either. */
static inline void vring_release_split(struct vring *r, uint16_t head)
{
	uint16_t at = head;

	for (unsigned n = 0; n < r->size && at < r->size; n++) {
		r->taken[at] = false;
		if (!(load16(r->desc + 16 * at + 12) & VRING_F_NEXT))
			return;
		at = load16(r->desc + 16 * at + 14);
	}
}

static inline bool vring_used_split(struct vring *r, uint16_t *id, uint32_t *len)
{
	const uint8_t *e = r->device + 4 + 8 * (r->used % r->size);

	if (__atomic_load_n((uint16_t *)(r->device + 2), __ATOMIC_ACQUIRE) == r->used)
		return false;
	*id = (uint16_t)load32(e);
	*len = load32(e + 4);
	r->used++;
	vring_release_split(r, *id);
	return true;
}

static inline bool vring_used_packed(struct vring *r, uint16_t *id, uint32_t *len)
{
	const uint8_t *p = r->desc + 16 * r->used;
	uint16_t flags = __atomic_load_n((const uint16_t *)(p + 14), __ATOMIC_ACQUIRE);

	if (!!(flags & VRING_F_AVAIL) != r->used_wrap || !!(flags & VRING_F_USED) != r->used_wrap)
		return false;
	*len = load32(p + 8);
	*id = load16(p + 12);
	if (*id >= r->size || !r->n_desc[*id] || r->n_free == r->size)
		return false;
	r->free_id[r->n_free++] = *id;
	r->used = (uint16_t)(r->used + r->n_desc[*id]);
	if (r->used >= r->size) {
		r->used = (uint16_t)(r->used - r->size);
		r->used_wrap = !r->used_wrap;
	}
	r->n_desc[*id] = 0;
	return true;
}

/* Take the next chain that the device gave back, and how many bytes it wrote. */
static inline bool vring_used(struct vring *r, uint16_t *id, uint32_t *len)
{
	return r->packed ? vring_used_packed(r, id, len) : vring_used_split(r, id, len);
}

/* Ask for an interrupt when the device has given back up to and with the n-th entry from here. */
static inline void vring_set_event(struct vring *r, unsigned n)
{
	unsigned at = r->used + n - 1;
	bool wrap = r->used_wrap ^ (at >= r->size);

	if (r->packed)
		store32(r->driver, (at % r->size) | (wrap ? 0x8000 : 0) | 2u << 16);
	else
		store16(r->driver + 4 + 2 * r->size, (uint16_t)at);
}

/* The board. Its first PCI device is the one under test. */
#define VBOARD_ECAM   0xe0000000ull
#define VBOARD_BAR    0xc0000000ull
#define VBOARD_COMMON VBOARD_BAR
#define VBOARD_ISR    (VBOARD_BAR + 0x1000)
#define VBOARD_CONFIG (VBOARD_BAR + 0x2000)
#define VBOARD_NOTIFY (VBOARD_BAR + 0x3000)
#define VBOARD_TABLE  (VBOARD_BAR + 0x4000)

struct vboard {
	struct physmap pm;
	struct iospace *pio, *mmio;
	struct pci_bus *bus;
	struct dev bus_dev, dev;
	struct evloop *loop;
	_Atomic unsigned msis[80]; /* by data */
	_Atomic int pin;
};

static inline void vboard_msi(void *to, uint64_t addr, uint32_t data)
{
	struct vboard *b = to;

	if (data < ARRAY_SIZE(b->msis))
		atomic_fetch_add(&b->msis[data], 1);
}

static inline void vboard_intx(void *to, unsigned pin, bool level)
{
	atomic_store(&((struct vboard *)to)->pin, level);
}

static inline void vboard_reset_asked(void *arg)
{
}

static inline void vboard_up(struct vboard *b, uint64_t ram_bytes)
{
	struct pci_bus_cfg cfg = { .address_port = 0xcf8,
				   .ecam_base = VBOARD_ECAM,
				   .ecam_buses = 1,
				   .msi = { vboard_msi, b },
				   .reset = vboard_reset_asked };

	memset(b, 0, sizeof(*b));
	for (unsigned i = 0; i < 4; i++)
		cfg.intx[i] = (struct irq_line){ vboard_intx, b, i };
	cfg.pio = b->pio = iospace_new(0x10000);
	cfg.mmio = b->mmio = iospace_new(1ull << 40);
	assert(physmap_init(&b->pm, ram_bytes, VBOARD_BAR, NULL) == 0);
	assert(pci_bus_new(&b->bus_dev, &b->bus, &cfg, NULL) == 0);
	assert(evloop_new(&b->loop, NULL) == 0);
}

static inline struct virtio_place vboard_place(struct vboard *b)
{
	return (struct virtio_place){ .bus = b->bus, .pm = &b->pm, .loop = b->loop };
}

static inline void vboard_down(struct vboard *b)
{
	if (b->dev.ops)
		b->dev.ops->free(b->dev.dev);
	b->bus_dev.ops->free(b->bus_dev.dev);
	evloop_free(b->loop);
	iospace_free(b->pio);
	iospace_free(b->mmio);
	physmap_fini(&b->pm);
}

static inline void vboard_cfg_write(struct vboard *b, unsigned off, unsigned size, uint32_t val)
{
	iospace_write(b->mmio, VBOARD_ECAM + (PCI_DEVFN(1, 0) << 12) + off, size, val);
}

static inline uint32_t vboard_cfg_read(struct vboard *b, unsigned off, unsigned size)
{
	return (uint32_t)iospace_read(b->mmio, VBOARD_ECAM + (PCI_DEVFN(1, 0) << 12) + off, size);
}

static inline void vboard_write(struct vboard *b, uint64_t at, unsigned size, uint64_t val)
{
	iospace_write(b->mmio, at, size, val);
}

static inline uint64_t vboard_read(struct vboard *b, uint64_t at, unsigned size)
{
	return iospace_read(b->mmio, at, size);
}

/* The offset of the first capability with this id, and for a vendor's with this virtio type. */
static inline unsigned vboard_cap(struct vboard *b, uint8_t id, uint8_t type)
{
	unsigned at = vboard_cfg_read(b, PCI_CAP_POINTER, 1);

	while (at && (vboard_cfg_read(b, at, 1) != id ||
		      (id == 9 && vboard_cfg_read(b, at + 3, 1) != type)))
		at = vboard_cfg_read(b, at + 1, 1);
	return at;
}

/* Place the BAR, switch on memory and bus mastering; with vectors, MSI-X too: vector i sends data
 * i. */
static inline void vboard_enable(struct vboard *b, unsigned vectors)
{
	unsigned cap = vboard_cap(b, 0x11, 0);

	vboard_cfg_write(b, PCI_BAR0, 4, (uint32_t)VBOARD_BAR);
	vboard_cfg_write(b, PCI_BAR0 + 4, 4, 0);
	vboard_cfg_write(b, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	for (unsigned i = 0; i < vectors; i++) {
		vboard_write(b, VBOARD_TABLE + 16 * i, 4, 0xfee00000);
		vboard_write(b, VBOARD_TABLE + 16 * i + 8, 4, i);
		vboard_write(b, VBOARD_TABLE + 16 * i + 12, 4, 0);
	}
	vboard_cfg_write(b, cap + 2, 2, vectors ? 0x8000 : 0);
}

static inline uint64_t vboard_offered(struct vboard *b)
{
	uint64_t lo, hi;

	vboard_write(b, VBOARD_COMMON, 4, 0);
	lo = vboard_read(b, VBOARD_COMMON + 4, 4);
	vboard_write(b, VBOARD_COMMON, 4, 1);
	hi = vboard_read(b, VBOARD_COMMON + 4, 4);
	return hi << 32 | lo;
}

static inline uint8_t vboard_status(struct vboard *b)
{
	return (uint8_t)vboard_read(b, VBOARD_COMMON + 20, 1);
}

static inline void vboard_set_status(struct vboard *b, uint8_t status)
{
	vboard_write(b, VBOARD_COMMON + 20, 1, status);
}

static inline void vboard_pause(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

/* Reset the device and wait for it: false if that takes 10 s. */
static inline bool vboard_reset(struct vboard *b)
{
	vboard_set_status(b, 0);
	for (unsigned i = 0; i < 10000 && vboard_status(b); i++)
		vboard_pause();
	return vboard_status(b) == 0;
}

/* Up to FEATURES_OK with those features of want that are offered; returns them, 0 if refused. */
static inline uint64_t vboard_negotiate(struct vboard *b, uint64_t want)
{
	uint64_t take = vboard_offered(b) & want;

	vboard_set_status(b, 1);
	vboard_set_status(b, 3);
	vboard_write(b, VBOARD_COMMON + 8, 4, 0);
	vboard_write(b, VBOARD_COMMON + 12, 4, (uint32_t)take);
	vboard_write(b, VBOARD_COMMON + 8, 4, 1);
	vboard_write(b, VBOARD_COMMON + 12, 4, take >> 32);
	vboard_set_status(b, 0xb);
	return vboard_status(b) & 8 ? take : 0;
}

/* Enable queue q with ring r; its interrupts go to vector q + 1. */
static inline void vboard_queue(struct vboard *b, unsigned q, const struct vring *r)
{
	vboard_write(b, VBOARD_COMMON + 22, 2, q);
	vboard_write(b, VBOARD_COMMON + 24, 2, r->setup.size);
	vboard_write(b, VBOARD_COMMON + 26, 2, q + 1);
	vboard_write(b, VBOARD_COMMON + 32, 8, r->setup.desc);
	vboard_write(b, VBOARD_COMMON + 40, 8, r->setup.driver);
	vboard_write(b, VBOARD_COMMON + 48, 8, r->setup.device);
	vboard_write(b, VBOARD_COMMON + 28, 2, 1);
}

static inline void vboard_notify(struct vboard *b, unsigned q)
{
	vboard_write(b, VBOARD_NOTIFY + 4 * q, 2, q);
}

/* Bring the device up: reset, features, n rings of size entries one behind the other from at on,
 * vectors, DRIVER_OK. Returns the features; 0 if it did not work. */
static inline uint64_t vboard_start(struct vboard *b, uint64_t want, struct vring *r, unsigned n,
				    gpa_t at, uint16_t size)
{
	uint64_t features;

	vboard_enable(b, n + 1);
	if (!vboard_reset(b))
		return 0;
	features = vboard_negotiate(b, want | BIT(VIRTIO_F_VERSION_1));
	vboard_write(b, VBOARD_COMMON + 16, 2, 0);
	for (unsigned q = 0; q < n; q++) {
		vring_init(&r[q], &b->pm, at + q * vring_bytes(size), size, features);
		vboard_queue(b, q, &r[q]);
	}
	vboard_set_status(b, 0xf);
	return vboard_status(b) == 0xf ? features : 0;
}

/* Wait for the device to give a chain back: false if that takes 10 s. */
static inline bool vboard_wait(struct vring *r, uint16_t *id, uint32_t *len)
{
	for (unsigned i = 0; i < 10000; i++) {
		if (vring_used(r, id, len))
			return true;
		vboard_pause();
	}
	return false;
}

#endif
