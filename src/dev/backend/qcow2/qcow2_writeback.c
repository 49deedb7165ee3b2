/* What is in memory only goes to the file: see the order in qcow2_internal.h. */
#include "dev/backend/qcow2/qcow2_internal.h"

#include <errno.h>
#include <stdlib.h>

#define MAX_GONE 65536 /* clusters put off before they are given up */
#define CHUNK	 8192  /* table entries written at once */

int q2_sync(struct qcow2 *q)
{
	int ret = q->failed ? q->failed : q->file->ops->flush(q->file);

	/* The host forgets what it could not write and says so once only. */
	if (ret < 0)
		q->failed = ret;
	return ret;
}

void q2_free(struct qcow2 *q, uint64_t off, bool punch)
{
	if (q->n_gone == q->gone_room) {
		size_t room = MAX(64, 2 * q->gone_room);
		struct q2_gone *gone = realloc(q->gone, room * sizeof(*gone));

		/* Without memory the cluster leaks, which is allowed. */
		if (!gone)
			return;
		q->gone = gone;
		q->gone_room = room;
	}
	q->gone[q->n_gone++] = (struct q2_gone){ off & ~(q->cluster - 1), punch };
}

void q2_free_entry(struct qcow2 *q, uint64_t raw, bool punch)
{
	struct q2_entry e;
	uint64_t off, len;

	if (q2_entry_parse(q, raw, &e) < 0)
		return;
	if (e.kind == Q2_KIND_DATA || (e.kind == Q2_KIND_ZERO && e.host))
		q2_free(q, e.host, punch);
	if (e.kind != Q2_KIND_COMPRESSED)
		return;
	q2_compressed_place(q, raw, &off, &len);
	q->unpacked_entry = 0;
	for (uint64_t at = off & ~(q->cluster - 1); at < off + len; at += q->cluster)
		q2_free(q, at, false);
}

static int by_offset(const void *a, const void *b)
{
	const struct q2_gone *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

/* Give the host back what nothing else refers to, before it can be taken again. gone is sorted. */
static void punch_gone(struct qcow2 *q, const struct q2_gone *gone, size_t n)
{
	uint64_t begin = 0, len = 0;

	for (size_t i = 0; i < n; i++) {
		uint64_t count = 0;
		bool once = (i == 0 || gone[i - 1].off != gone[i].off) &&
			    (i + 1 == n || gone[i + 1].off != gone[i].off);

		if (!gone[i].punch || !once ||
		    q2_refcount(q, gone[i].off >> q->h.cluster_bits, &count) < 0 || count != 1)
			continue;
		if (len && gone[i].off != begin + len) {
			(void)!q->file->ops->discard(q->file, begin, len);
			len = 0;
		}
		if (!len)
			begin = gone[i].off;
		len += q->cluster;
	}
	if (len)
		(void)!q->file->ops->discard(q->file, begin, len);
}

/* The flushed file refers to them no more. */
static int drop_gone(struct qcow2 *q)
{
	struct q2_gone *gone = q->gone;
	size_t n = q->n_gone;
	int ret = 0;

	if (!n)
		return 0;
	q->gone = NULL;
	q->n_gone = q->gone_room = 0;
	qsort(gone, n, sizeof(*gone), by_offset);
	punch_gone(q, gone, n);
	for (size_t i = 0; i < n && ret == 0; i++)
		ret = q2_unalloc(q, gone[i].off, 1);
	free(gone);
	return ret;
}

/* Write entries [lo, hi) of a table at off. */
static int write_words(struct qcow2 *q, uint64_t off, const uint64_t *table, uint32_t lo,
		       uint32_t hi)
{
	uint64_t *buf = malloc(CHUNK * 8);
	int ret = buf ? 0 : -ENOMEM;

	while (lo < hi && ret == 0) {
		uint32_t n = MIN(hi - lo, CHUNK);

		for (uint32_t i = 0; i < n; i++)
			buf[i] = __builtin_bswap64(table[lo + i]);
		ret = place_write(q->file, off + lo * 8ull, buf, n * 8ull);
		lo += n;
	}
	free(buf);
	return ret;
}

static int write_rt(struct qcow2 *q)
{
	int ret = q->rt_lo < q->rt_hi ? q2_sync(q) : 0;

	if (ret == 0 && q->rt_lo < q->rt_hi)
		ret = write_words(q, q->h.rt_off, q->rt, q->rt_lo, q->rt_hi);
	if (ret == 0)
		q->rt_lo = q->rt_hi = 0;
	return ret;
}

static int write_maps(struct qcow2 *q)
{
	int ret;

	if (!q->l2.n_dirty && q->l1_lo >= q->l1_hi)
		return 0;
	ret = q2_sync(q);
	if (ret == 0)
		ret = q2_cache_write(q, &q->l2);
	if (ret == 0)
		ret = write_words(q, q->h.l1_off, q->l1, q->l1_lo, q->l1_hi);
	if (ret == 0)
		q->l1_lo = q->l1_hi = 0;
	return ret;
}

int q2_writeback(struct qcow2 *q, bool sync)
{
	int ret = q->failed ? q->failed : q2_cache_write(q, &q->rb);

	if (ret == 0)
		ret = write_rt(q);
	if (ret == 0)
		ret = write_maps(q);
	if (ret == 0 && (sync || q->n_gone))
		ret = q2_sync(q);
	return ret == 0 ? drop_gone(q) : ret;
}

int q2_make_room(struct qcow2 *q)
{
	if (q->failed)
		return q->failed;
	if (q->l2.n_dirty < q->l2.n / 2 && q->n_gone < MAX_GONE)
		return 0;
	return q2_writeback(q, false);
}

static bool is_clean(const struct qcow2 *q)
{
	return !q->l2.n_dirty && !q->rb.n_dirty && !q->n_gone && q->l1_lo >= q->l1_hi &&
	       q->rt_lo >= q->rt_hi;
}

int q2_flush(struct blk_node *n)
{
	struct qcow2 *q = q2_of(n);
	int ret;

	if (is_clean(q) && !q->meta.held)
		return q2_sync(q);
	fiber_lock(n->drv->fibers, &q->meta);
	ret = q2_writeback(q, true);
	fiber_unlock(&q->meta);
	return ret;
}
