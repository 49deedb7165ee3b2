/* Parts of tables in memory. A slice that is dirty or being read is never given up, so at most half
 * of a cache may be dirty: q2_make_room sees to it.
 */
#include "dev/backend/qcow2/qcow2_internal.h"

#include <errno.h>
#include <stdlib.h>

#define MAX_SLICES 1024
#define MIN_SLICES 16
#define UNUSED	   UINT64_MAX

int q2_cache_init(struct q2_cache *c, uint32_t slice_bytes, uint64_t bytes)
{
	c->slice_bytes = slice_bytes;
	c->n = (unsigned)MAX(MIN_SLICES, MIN(bytes / slice_bytes, MAX_SLICES));
	c->n_buckets = 2 * c->n;
	c->slice = calloc(c->n, sizeof(*c->slice));
	c->bucket = calloc(c->n_buckets, sizeof(*c->bucket));
	if (!c->slice || !c->bucket)
		return -ENOMEM;
	for (unsigned i = 0; i < c->n; i++)
		c->slice[i].off = UNUSED;
	for (unsigned i = 0; i < c->n_buckets; i++)
		c->bucket[i] = -1;
	return 0;
}

void q2_cache_fini(struct q2_cache *c)
{
	for (unsigned i = 0; c->slice && i < c->n; i++)
		free(c->slice[i].data);
	free(c->slice);
	free(c->bucket);
}

static int *bucket_of(const struct q2_cache *c, uint64_t off)
{
	return &c->bucket[off / c->slice_bytes % c->n_buckets];
}

static struct q2_slice *find(const struct q2_cache *c, uint64_t off)
{
	for (int i = *bucket_of(c, off); i >= 0; i = c->slice[i].next)
		if (c->slice[i].off == off)
			return &c->slice[i];
	return NULL;
}

static void unlink_slice(struct q2_cache *c, struct q2_slice *s)
{
	int *at = bucket_of(c, s->off);

	while (&c->slice[*at] != s)
		at = &c->slice[*at].next;
	*at = s->next;
	s->off = UNUSED;
}

static void link_slice(struct q2_cache *c, struct q2_slice *s, uint64_t off)
{
	int *at = bucket_of(c, off);

	s->off = off;
	s->next = *at;
	*at = (int)(s - c->slice);
}

static bool is_dirty(const struct q2_slice *s)
{
	return s->dirty_lo < s->dirty_hi;
}

/* The slice to give up next; NULL if all are dirty or being read. */
static struct q2_slice *oldest(struct q2_cache *c)
{
	struct q2_slice *best = NULL;

	for (unsigned i = 0; i < c->n; i++) {
		struct q2_slice *s = &c->slice[i];

		if (s->off == UNUSED)
			return s;
		if (!s->loading && !is_dirty(s) && (!best || s->used < best->used))
			best = s;
	}
	return best;
}

static int load(struct qcow2 *q, struct q2_cache *c, struct q2_slice *s, uint64_t off)
{
	int ret = 0;

	if (s->off != UNUSED)
		unlink_slice(c, s);
	if (!s->data && posix_memalign((void **)&s->data, 4096, c->slice_bytes) != 0)
		return -ENOMEM;
	link_slice(c, s, off);
	s->loading = true;
	s->forgotten = false;
	ret = place_read(q->file, off, s->data, c->slice_bytes);
	s->loading = false;
	if (ret < 0 || s->forgotten)
		unlink_slice(c, s);
	fiber_queue_wake_all(&c->loaded);
	return ret;
}

int q2_cache_get(struct qcow2 *q, struct q2_cache *c, uint64_t off, uint8_t **data)
{
	for (;;) {
		struct q2_slice *s = find(c, off);

		if (s && !s->loading) {
			s->used = ++c->clock;
			*data = s->data;
			return 0;
		}
		if (!s && (s = oldest(c))) {
			int ret = load(q, c, s, off);

			if (ret < 0)
				return ret;
			continue;
		}
		fiber_queue_wait(q->node.drv->fibers, &c->loaded);
	}
}

void q2_cache_dirty(struct q2_cache *c, uint64_t off, uint32_t lo, uint32_t hi)
{
	struct q2_slice *s = find(c, off);

	/* Whole sectors. */
	lo &= ~(BLK_SECTOR - 1u);
	hi = ALIGN_UP(hi, BLK_SECTOR);
	if (!is_dirty(s)) {
		c->n_dirty++;
		s->dirty_lo = lo;
		s->dirty_hi = hi;
	}
	s->dirty_lo = MIN(s->dirty_lo, lo);
	s->dirty_hi = MAX(s->dirty_hi, hi);
}

int q2_cache_write(struct qcow2 *q, struct q2_cache *c)
{
	for (unsigned i = 0; i < c->n && c->n_dirty; i++) {
		struct q2_slice *s = &c->slice[i];

		if (!is_dirty(s))
			continue;

		int ret = place_write(q->file, s->off + s->dirty_lo, s->data + s->dirty_lo,
				      s->dirty_hi - s->dirty_lo);

		if (ret < 0)
			return ret;
		s->dirty_lo = s->dirty_hi = 0;
		c->n_dirty--;
	}
	fiber_queue_wake_all(&c->loaded);
	return 0;
}

static void forget(struct q2_cache *c, struct q2_slice *s)
{
	if (s->loading) {
		s->forgotten = true;
		return;
	}
	if (is_dirty(s)) {
		s->dirty_lo = s->dirty_hi = 0;
		c->n_dirty--;
	}
	unlink_slice(c, s);
}

void q2_cache_forget(struct q2_cache *c, uint64_t off, uint64_t len)
{
	for (uint64_t at = off; at < off + len; at += c->slice_bytes) {
		struct q2_slice *s = find(c, at);

		if (s)
			forget(c, s);
	}
}

void q2_cache_forget_all(struct q2_cache *c)
{
	for (unsigned i = 0; i < c->n; i++)
		if (c->slice[i].off != UNUSED)
			forget(c, &c->slice[i]);
}
