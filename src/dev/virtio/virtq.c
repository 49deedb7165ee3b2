#include "dev/virtio/virtq.h"

#include "dev/virtio/virtq_internal.h"
#include "mem/physmap.h"

#include <errno.h>

static uint8_t *area(struct physmap *pm, gpa_t at, uint64_t len, unsigned align)
{
	bool rom;
	uint8_t *host = at % align ? NULL : physmap_host(pm, at, len, &rom);

	return host && !rom ? host : NULL;
}

static bool is_size(const struct virtq_setup *s)
{
	bool packed = s->features & BIT(VIRTIO_F_RING_PACKED);

	return s->size >= 1 && s->size <= VIRTQ_MAX_SIZE && (packed || !(s->size & (s->size - 1)));
}

bool virtq_start(struct virtq *q, struct physmap *pm, const struct virtq_setup *setup)
{
	const struct virtq_ring *ring =
		setup->features & BIT(VIRTIO_F_RING_PACKED) ? &virtq_packed : &virtq_split;

	*q = (struct virtq){
		.pm = pm,
		.ring = ring,
		.setup = *setup,
		.event_idx = setup->features & BIT(VIRTIO_F_RING_EVENT_IDX),
		.indirect = setup->features & BIT(VIRTIO_F_RING_INDIRECT_DESC),
		.avail_wrap = true,
		.used_wrap = true,
	};
	if (is_size(setup)) {
		q->desc = area(pm, setup->desc, ring->desc_bytes(setup->size), VIRTQ_DESC_BYTES);
		q->driver = area(pm, setup->driver, ring->driver_bytes(setup->size),
				 ring->driver_align);
		q->device = area(pm, setup->device, ring->device_bytes(setup->size),
				 ring->device_align);
	}
	q->ready = q->desc && q->driver && q->device;
	q->broken = !q->ready;
	if (q->ready)
		virtq_enable_kicks(q);
	return q->ready;
}

void virtq_stop(struct virtq *q)
{
	q->ready = q->broken = false;
}

int virtq_pop(struct virtq *q, struct virtq_chain *c)
{
	int ret;

	if (!q->ready || q->broken)
		return q->broken ? -EPROTO : 0;
	c->n_out = c->n_in = 0;
	c->out_bytes = c->in_bytes = 0;
	ret = q->ring->pop(q, c);
	if (ret < 0)
		q->broken = true;
	return ret;
}

void virtq_unpop(struct virtq *q, const struct virtq_chain *c)
{
	if (q->ready && !q->broken)
		q->ring->unpop(q, c);
}

void virtq_drop(struct virtq *q, const struct virtq_chain *c, uint32_t len_bytes)
{
	uint64_t left = MIN(len_bytes, c->in_bytes);

	for (unsigned i = 0; left; i++) {
		const struct iovec *v = &c->iov[c->n_out + i];
		uint64_t n = MIN(left, v->iov_len);

		physmap_stored_range(q->pm, v->iov_base, n);
		left -= n;
	}
}

void virtq_fill(struct virtq *q, const struct virtq_chain *c, uint32_t len_bytes, unsigned nth)
{
	virtq_drop(q, c, len_bytes);
	if (q->ready && !q->broken)
		q->ring->fill(q, c, len_bytes, nth);
}

void virtq_flush(struct virtq *q, unsigned n)
{
	if (q->ready && !q->broken && n)
		q->ring->flush(q, n);
}

void virtq_push(struct virtq *q, const struct virtq_chain *c, uint32_t len_bytes)
{
	virtq_fill(q, c, len_bytes, 0);
	virtq_flush(q, 1);
}

bool virtq_wants_irq(struct virtq *q)
{
	bool wants;

	if (!q->ready || q->broken || !q->pushed)
		return false;
	/* What was pushed must be visible before we read what the driver waits for: it writes that
	 * and then looks again. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	wants = q->ring->need_event(q);
	q->pushed = 0;
	return wants;
}

bool virtq_enable_kicks(struct virtq *q)
{
	if (!q->ready || q->broken)
		return false;
	q->ring->kicks(q, true);
	/* The same on our side: first say what we wait for, then look. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return q->ring->has_avail(q);
}

void virtq_disable_kicks(struct virtq *q)
{
	if (q->ready && !q->broken)
		q->ring->kicks(q, false);
}

struct virtq_desc virtq_desc_load(const uint8_t *p)
{
	const volatile any64 *word = (const volatile any64 *)p;
	uint64_t lo = word[0], hi = word[1];

	return (struct virtq_desc){
		.addr = lo,
		.len = (uint32_t)hi,
		.a = (uint16_t)(hi >> 32),
		.b = (uint16_t)(hi >> 48),
	};
}

bool virtq_chain_add(const struct virtq *q, struct virtq_chain *c, const struct virtq_desc *d,
		     uint16_t flags)
{
	bool in = flags & VIRTQ_DESC_F_WRITE;
	gpa_t at = d->addr;
	uint64_t left = d->len;

	/* virtio 1.2, 2.7.4.2: what the device reads comes first. */
	if (!in && c->n_in)
		return false;
	while (left) {
		uint64_t n = left;
		bool rom;
		uint8_t *host = physmap_span(q->pm, at, &n, &rom);

		if (!host || (in && rom) || c->n_out + c->n_in == VIRTQ_MAX_SEGS)
			return false;
		c->iov[c->n_out + c->n_in] = (struct iovec){ host, n };
		*(in ? &c->n_in : &c->n_out) += 1;
		*(in ? &c->in_bytes : &c->out_bytes) += n;
		at += n;
		left -= n;
	}
	return true;
}

const uint8_t *virtq_table(const struct virtq *q, const struct virtq_desc *d, uint16_t flags,
			   unsigned *n)
{
	if (!q->indirect || (flags & VIRTQ_DESC_F_NEXT) || !d->len || d->len % VIRTQ_DESC_BYTES)
		return NULL;
	*n = d->len / VIRTQ_DESC_BYTES;
	return physmap_host(q->pm, d->addr, d->len, NULL);
}

/* Copy between buf and n segments from byte off of them on. */
static size_t copy(const struct iovec *iov, unsigned n, size_t off, uint8_t *buf, size_t len,
		   bool to_guest)
{
	size_t done = 0;

	for (unsigned i = 0; i < n && done < len; i++) {
		size_t seg = iov[i].iov_len;

		if (off >= seg) {
			off -= seg;
			continue;
		}

		size_t part = MIN(len - done, seg - off);
		uint8_t *guest = (uint8_t *)iov[i].iov_base + off;

		memcpy(to_guest ? guest : buf + done, to_guest ? buf + done : guest, part);
		done += part;
		off = 0;
	}
	return done;
}

size_t virtq_read(const struct virtq_chain *c, size_t off, void *buf, size_t len)
{
	return copy(c->iov, c->n_out, off, buf, len, false);
}

size_t virtq_write(const struct virtq_chain *c, size_t off, const void *buf, size_t len)
{
	return copy(c->iov + c->n_out, c->n_in, off, (uint8_t *)buf, len, true);
}
