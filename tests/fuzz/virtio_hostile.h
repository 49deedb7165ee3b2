/* A hostile virtio driver: the fuzzer's bytes are what it does to a device's registers, its rings
 * and their memory, while the device works. Whatever that is, the device must come to rest when it
 * is reset, and must write nowhere but to guest RAM: the board has a ROM that the host cannot write
 * to.
 */
#ifndef TESTS_FUZZ_VIRTIO_HOSTILE_H
#define TESTS_FUZZ_VIRTIO_HOSTILE_H

#include "virtio_driver.h"

#include <sched.h>
#include <sys/mman.h>

#define HOSTILE_RAM	  (4 * MiB)
#define HOSTILE_ROM	  0x10000000ull
#define HOSTILE_ROM_BYTES 65536ull
#define HOSTILE_RING	  0x10000
#define HOSTILE_DATA	  0x300000
#define HOSTILE_QUEUES	  6
#define HOSTILE_SIZE	  8

struct hostile {
	struct vboard b;
	struct vring r[HOSTILE_QUEUES];
	unsigned n_queues;
	uint8_t *rom;
	const uint8_t *data;
	size_t left;
	/* Another op that the device's own fuzzer knows, with n bytes of its input. */
	void (*host)(void *arg, const uint8_t *buf, size_t n);
	void *arg;
};

static inline uint64_t hostile_take(struct hostile *h, unsigned bytes)
{
	uint64_t val = 0;

	bytes = (unsigned)MIN((size_t)bytes, h->left);
	memcpy(&val, h->data, bytes);
	h->data += bytes;
	h->left -= bytes;
	return val;
}

/* Mostly in RAM, at times at its edges, in the ROM, a device's registers or nowhere. */
static inline gpa_t hostile_address(struct hostile *h)
{
	uint8_t kind = (uint8_t)hostile_take(h, 1);
	uint16_t off = (uint16_t)hostile_take(h, 2);

	switch (kind % 16) {
	case 0: return HOSTILE_RAM - off % 64;
	case 1: return HOSTILE_ROM + off;
	case 2: return HOSTILE_ROM - off % 64;
	case 3: return VBOARD_BAR + off;
	case 4: return 0ull - off;
	case 5: return HOSTILE_RING + off * 8ull; /* the rings themselves */
	case 6: return hostile_take(h, 8);
	default: return HOSTILE_DATA + off;
	}
}

static inline uint32_t hostile_len(struct hostile *h)
{
	uint8_t kind = (uint8_t)hostile_take(h, 1);

	return kind < 224   ? kind
	       : kind < 250 ? (uint32_t)hostile_take(h, 2)
			    : (uint32_t)hostile_take(h, 4);
}

/* A chain as a driver makes it, with buffers that none would. */
static inline void hostile_chain(struct hostile *h, struct vring *r)
{
	struct vseg seg[4];
	uint8_t how = (uint8_t)hostile_take(h, 1);
	unsigned n = 1 + how % 4;
	uint16_t id;
	uint32_t len;

	while (vring_used(r, &id, &len))
		;
	for (unsigned i = 0; i < n; i++)
		seg[i] = (struct vseg){ hostile_address(h), hostile_len(h), how >> (2 + i) & 1 };
	/* No more than the test's driver has room for: held up, or spoilt. */
	unsigned free_slots = r->packed ? r->n_free : 0;
	for (unsigned i = 0; !r->packed && i < r->size; i++)
		free_slots += !r->taken[i];
	if (free_slots < n || (r->packed && free_slots <= n))
		return;
	if (how & 0x80)
		vring_add_indirect(r, seg, n);
	else
		vring_add(r, seg, n);
}

/* Bytes of a queue's areas or tables as the fuzzer likes them. */
static inline void hostile_spoil(struct hostile *h, struct vring *r)
{
	uint8_t where = (uint8_t)hostile_take(h, 1);
	uint8_t *area = where % 4 == 0	 ? r->desc
			: where % 4 == 1 ? r->driver
			: where % 4 == 2 ? r->device
					 : r->desc + 24576;
	unsigned off = (unsigned)hostile_take(h, 1) % 160, n = 1 + where / 4 % 16;

	for (unsigned i = 0; i < n; i++)
		((volatile uint8_t *)area)[off + i] = (uint8_t)hostile_take(h, 1);
}

static inline void hostile_fill(struct hostile *h)
{
	uint8_t *p = physmap_host(&h->b.pm, HOSTILE_DATA, 65536, NULL);
	unsigned off = (unsigned)hostile_take(h, 1), n = (unsigned)hostile_take(h, 1) % 64;

	for (unsigned i = 0; i < n; i++)
		((volatile uint8_t *)p)[off + i] = (uint8_t)hostile_take(h, 1);
}

static inline void hostile_wait(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		sched_yield();
		nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
	}
}

static inline void hostile_register(struct hostile *h)
{
	static const uint8_t size[] = { 1, 2, 4, 8 };
	uint16_t off = (uint16_t)hostile_take(h, 2);

	vboard_write(&h->b, VBOARD_BAR + off % 0x8000, size[off >> 15 | (off >> 14 & 1) << 1],
		     hostile_take(h, 8));
}

static inline void hostile_start(struct hostile *h)
{
	uint8_t how = (uint8_t)hostile_take(h, 1);
	uint64_t features = (how & 1 ? BIT(VIRTIO_F_RING_PACKED) : 0) |
			    (how & 2 ? BIT(VIRTIO_F_RING_EVENT_IDX) : 0) |
			    (how & 4 ? BIT(VIRTIO_F_RING_INDIRECT_DESC) : 0) |
			    (how & 8 ? BIT(VIRTIO_F_RING_RESET) : 0) | (how & 16 ? 0xffffff : 0);

	vboard_cfg_write(&h->b, PCI_BAR0, 4, (uint32_t)VBOARD_BAR);
	assert(vboard_start(&h->b, features, h->r, h->n_queues, HOSTILE_RING, HOSTILE_SIZE) != 0);
}

static inline void hostile_reset_queue(struct hostile *h, unsigned q)
{
	vboard_write(&h->b, VBOARD_COMMON + 22, 2, q);
	vboard_write(&h->b, VBOARD_COMMON + 58, 2, 1);
	hostile_wait(1);
	if (vboard_read(&h->b, VBOARD_COMMON + 28, 2) == 0) {
		vring_init(&h->r[q], &h->b.pm, HOSTILE_RING + q * vring_bytes(HOSTILE_SIZE),
			   HOSTILE_SIZE, h->r[q].setup.features);
		vboard_queue(&h->b, q, &h->r[q]);
	}
}

static inline void hostile_op(struct hostile *h)
{
	uint8_t op = (uint8_t)hostile_take(h, 1);
	unsigned q = (op >> 4) % h->n_queues;
	uint8_t buf[64];
	size_t n;

	switch (op % 16) {
	case 0: hostile_register(h); break;
	case 1: hostile_start(h); break;
	case 2: vboard_set_status(&h->b, 0); break;
	case 3: hostile_reset_queue(h, q); break;
	case 4: hostile_spoil(h, &h->r[q]); break;
	case 5:
		vboard_cfg_write(&h->b, (unsigned)hostile_take(h, 1), 4,
				 (uint32_t)hostile_take(h, 4));
		break;
	case 6:
		vboard_write(&h->b, VBOARD_CONFIG + hostile_take(h, 1) % 32, 4, hostile_take(h, 4));
		break;
	case 7: hostile_wait(1 + q); break;
	case 8: hostile_fill(h); break;
	case 9:
		n = (size_t)hostile_take(h, 1) % sizeof(buf);
		n = MIN(n, h->left);
		memcpy(buf, h->data, n);
		h->data += n;
		h->left -= n;
		if (h->host)
			h->host(h->arg, buf, n);
		break;
	case 10: vboard_notify(&h->b, q); break;
	default: hostile_chain(h, &h->r[q]); vboard_notify(&h->b, q);
	}
}

static inline void hostile_up(struct hostile *h, unsigned n_queues, const uint8_t *data, size_t len)
{
	memset(h, 0, sizeof(*h));
	vboard_up(&h->b, HOSTILE_RAM);
	h->rom = mmap(NULL, HOSTILE_ROM_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert(h->rom != MAP_FAILED);
	assert(physmap_add_rom(&h->b.pm, HOSTILE_ROM, HOSTILE_ROM_BYTES, h->rom, NULL) == 0);
	h->n_queues = n_queues;
	h->data = data;
	h->left = len;
}

/* Do all that the input says, to the device that is on the board by now. */
static inline void hostile_run(struct hostile *h)
{
	hostile_start(h);
	while (h->left)
		hostile_op(h);
	vboard_cfg_write(&h->b, PCI_BAR0 + 4, 4, 0);
	vboard_cfg_write(&h->b, PCI_BAR0, 4, (uint32_t)VBOARD_BAR);
	vboard_cfg_write(&h->b, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert(vboard_reset(&h->b));
	h->b.bus_dev.ops->reset(h->b.bus_dev.dev);
	h->b.dev.ops->reset(h->b.dev.dev);
}

static inline void hostile_down(struct hostile *h)
{
	vboard_down(&h->b);
	munmap(h->rom, HOSTILE_ROM_BYTES);
}

#endif
