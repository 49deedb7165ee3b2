/* Which clusters of the file are taken. */
#include "dev/backend/qcow2/qcow2_internal.h"

#include <errno.h>
#include <stdlib.h>

uint64_t q2_count_get(const uint8_t *block, uint64_t i, unsigned order)
{
	switch (order) {
	case 3: return block[i];
	case 4: return __builtin_bswap16(load16(block + i * 2));
	case 5: return be32_at(block + i * 4);
	case 6: return be64_at(block + i * 8);
	default: return block[i >> (3 - order)] >> ((i << order) & 7) & (BIT(1 << order) - 1);
	}
}

void q2_count_set(uint8_t *block, uint64_t i, unsigned order, uint64_t count)
{
	unsigned shift = (unsigned)(i << order) & 7;
	uint8_t *byte;

	switch (order) {
	case 3: block[i] = (uint8_t)count; break;
	case 4: store16(block + i * 2, __builtin_bswap16((uint16_t)count)); break;
	case 5: put_be32(block + i * 4, (uint32_t)count); break;
	case 6: put_be64(block + i * 8, count); break;
	default:
		byte = block + (i >> (3 - order));
		*byte = (uint8_t)((*byte & ~((BIT(1 << order) - 1) << shift)) | count << shift);
	}
}

int q2_corrupt(struct qcow2 *q)
{
	uint8_t bits[8];

	if (!q->failed && q->h.version >= 3 && !q->node.readonly) {
		put_be64(bits, q->h.incompat | Q2_INCOMPAT_CORRUPT);
		(void)!place_write(q->file, 72, bits, sizeof(bits));
	}
	q->failed = -EIO;
	return -EIO;
}

static bool overlaps(uint64_t off, uint64_t cluster, uint64_t table, uint64_t bytes)
{
	return bytes && off < table + bytes && table < off + cluster;
}

static bool is_cached(const struct q2_cache *c, uint64_t off, uint64_t cluster)
{
	for (unsigned i = 0; i < c->n; i++)
		if (c->slice[i].off >= off && c->slice[i].off < off + cluster)
			return true;
	return false;
}

bool q2_is_metadata(const struct qcow2 *q, uint64_t off)
{
	return off < q->cluster || overlaps(off, q->cluster, q->h.l1_off, q->h.l1_entries * 8ull) ||
	       overlaps(off, q->cluster, q->h.rt_off, (uint64_t)q->h.rt_clusters * q->cluster) ||
	       overlaps(off, q->cluster, q->h.snapshots_off, q->h.n_snapshots ? q->cluster : 0) ||
	       is_cached(&q->l2, off, q->cluster) || is_cached(&q->rb, off, q->cluster);
}

/* The slice with index's count, and the count's index in it. *at is 0 if the block is not there:
 * all its counts are 0. */
static int find_slice(struct qcow2 *q, uint64_t index, uint64_t *at, uint8_t **data, uint64_t *i)
{
	uint64_t block = index >> q->rb_bits, off;
	unsigned slice_bits = (unsigned)__builtin_ctz(q->rb.slice_bytes * 8) - q->h.refcount_order;

	*at = 0;
	if (block >= q->rt_entries || !q->rt[block])
		return 0;
	off = q->rt[block];
	if (off & (q->cluster - 1) || off >= Q2_MAX_OFFSET)
		return q2_corrupt(q);
	index &= BIT(q->rb_bits) - 1;
	*at = off + (index >> slice_bits) * q->rb.slice_bytes;
	*i = index & (BIT(slice_bits) - 1);
	/* Counts may be written at any time, so a full cache is no obstacle. */
	if (q->rb.n_dirty > q->rb.n / 2) {
		int ret = q2_cache_write(q, &q->rb);

		if (ret < 0)
			return ret;
	}
	return q2_cache_get(q, &q->rb, *at, data);
}

int q2_refcount(struct qcow2 *q, uint64_t index, uint64_t *count)
{
	uint64_t at, i;
	uint8_t *data;
	int ret = find_slice(q, index, &at, &data, &i);

	if (ret == 0)
		*count = at ? q2_count_get(data, i, q->h.refcount_order) : 0;
	return ret;
}

static int set_count(struct qcow2 *q, uint64_t index, uint64_t count)
{
	unsigned order = q->h.refcount_order;
	uint64_t at, i;
	uint8_t *data;
	int ret = find_slice(q, index, &at, &data, &i);

	if (ret < 0)
		return ret;
	if (!at)
		return q2_corrupt(q);
	q2_count_set(data, i, order, count);

	uint32_t lo = (uint32_t)(i << order >> 3);
	uint32_t hi = (uint32_t)(((i + 1) << order) + 7) >> 3;

	q2_cache_dirty(&q->rb, at, lo & ~7u, ALIGN_UP(hi, 8));
	return 0;
}

int q2_find_end(struct qcow2 *q)
{
	for (uint32_t block = q->rt_entries; block-- > 0;) {
		for (uint64_t i = BIT(q->rb_bits); q->rt[block] && i-- > 0;) {
			uint64_t index = ((uint64_t)block << q->rb_bits) + i, count;
			int ret = q2_refcount(q, index, &count);

			if (ret < 0)
				return ret;
			if (count) {
				q->fresh = index + 1;
				return 0;
			}
		}
	}
	return 0;
}

static void rt_dirty(struct qcow2 *q, uint32_t i)
{
	bool clean = q->rt_lo >= q->rt_hi;

	q->rt_lo = clean ? i : MIN(q->rt_lo, i);
	q->rt_hi = clean ? i + 1 : MAX(q->rt_hi, i + 1);
}

/* Write a new block at off, where the counts of [from, to) are 1. */
static int write_block(struct qcow2 *q, uint32_t block, uint64_t off, uint64_t from, uint64_t to)
{
	uint64_t first = (uint64_t)block << q->rb_bits, n = BIT(q->rb_bits);
	uint8_t *buf = NULL;
	int ret;

	if (posix_memalign((void **)&buf, 4096, q->cluster) != 0)
		return -ENOMEM;
	memset(buf, 0, q->cluster);
	for (uint64_t i = MAX(from, first); i < MIN(to, first + n); i++)
		q2_count_set(buf, i - first, q->h.refcount_order, 1);
	q2_cache_forget(&q->rb, off, q->cluster);
	ret = place_write(q->file, off, buf, q->cluster);
	free(buf);
	if (ret < 0)
		return ret;
	q->rt[block] = off;
	rt_dirty(q, block);
	return 0;
}

static void not_fresh(struct qcow2 *q, uint64_t end)
{
	q->fresh = MAX(q->fresh, end);
}

/* The block is not there, so all its clusters are free: the first becomes the block itself. */
static int add_block(struct qcow2 *q, uint32_t block)
{
	uint64_t first = (uint64_t)block << q->rb_bits, off = first << q->h.cluster_bits;

	if (off >= Q2_MAX_OFFSET)
		return -EFBIG;
	if (q2_is_metadata(q, off))
		return q2_corrupt(q);
	not_fresh(q, first + 1);
	return write_block(q, block, off, first, first + 1);
}

/* The first cluster behind everything that is in the file. */
static uint64_t file_end(const struct qcow2 *q)
{
	if (q->file->fixed_size)
		return q->fresh;
	return MAX(q->fresh, clusters_for(q->file->bytes, q->h.cluster_bits));
}

/* How many blocks are missing for [begin, begin+n) and themselves, placed right behind it. */
static uint64_t blocks_missing(const struct qcow2 *q, uint64_t begin, uint64_t n)
{
	uint64_t missing = 0, block = begin >> q->rb_bits;

	for (; block <= (begin + n + missing - 1) >> q->rb_bits; block++)
		if (block >= q->rt_entries || !q->rt[block])
			missing++;
	return missing;
}

/* Take [begin, begin+n) and the blocks that this needs behind it. The table has room for them. */
static int take_end(struct qcow2 *q, uint64_t begin, uint64_t n, uint64_t missing)
{
	uint64_t end = begin + n + missing, next = begin + n;
	uint64_t first = begin >> q->rb_bits, last = (end - 1) >> q->rb_bits;
	int ret = 0;

	if (end >= Q2_MAX_OFFSET >> q->h.cluster_bits)
		return -EFBIG;
	not_fresh(q, end);
	for (uint64_t block = first; block <= last && ret == 0; block++) {
		uint64_t from = MAX(begin, block << q->rb_bits);
		uint64_t to = MIN(end, (block + 1) << q->rb_bits);

		if (!q->rt[block]) {
			ret = write_block(q, (uint32_t)block, next++ << q->h.cluster_bits, begin,
					  end);
			continue;
		}
		for (uint64_t i = from; i < to && ret == 0; i++)
			ret = set_count(q, i, 1);
	}
	return ret;
}

static int write_table(struct qcow2 *q, uint64_t off, uint64_t clusters)
{
	uint64_t bytes = clusters * q->cluster;
	uint8_t *buf = NULL, place[12];
	int ret;

	if (posix_memalign((void **)&buf, 4096, bytes) != 0)
		return -ENOMEM;
	for (uint64_t i = 0; i < bytes / 8; i++)
		put_be64(buf + i * 8, q->rt[i]);
	ret = place_write(q->file, off, buf, bytes);
	free(buf);
	if (ret == 0)
		ret = q2_cache_write(q, &q->rb);
	if (ret < 0)
		return ret;
	put_be64(place, off);
	put_be32(place + 8, (uint32_t)clusters);
	return q2_header_write(q, 48, place, sizeof(place));
}

/* Move the table to the end of the file, large enough for n more clusters behind that. */
static int grow_table(struct qcow2 *q, uint64_t n)
{
	uint32_t was_entries = q->rt_entries, was_clusters = q->h.rt_clusters;
	uint64_t was_off = q->h.rt_off, end = file_end(q);
	uint64_t need = ((end + n) >> q->rb_bits) + 2, entries = need + need / 2;
	uint64_t clusters = clusters_for(entries * 8, q->h.cluster_bits);

	/* Its own blocks need entries too; generously. */
	clusters += clusters_for(((clusters >> q->rb_bits) + 2) * 16, q->h.cluster_bits);
	entries = clusters * q->cluster / 8;
	if (entries * 8 > MAX(Q2_MAX_RT_BYTES, q->cluster))
		return -EFBIG;

	uint64_t *rt = realloc(q->rt, entries * 8);

	if (!rt)
		return -ENOMEM;
	memset(rt + was_entries, 0, (entries - was_entries) * 8);
	q->rt = rt;
	q->rt_entries = (uint32_t)entries;

	int ret = take_end(q, end, clusters, blocks_missing(q, end, clusters));

	if (ret == 0)
		ret = write_table(q, end << q->h.cluster_bits, clusters);
	if (ret < 0) {
		/* What was counted leaks; entries of the old table may point to blocks written. */
		q->rt_entries = was_entries;
		q->rt_hi = MIN(q->rt_hi, was_entries);
		return ret;
	}
	q->h.rt_off = end << q->h.cluster_bits;
	q->h.rt_clusters = (uint32_t)clusters;
	q->rt_lo = q->rt_hi = 0;
	return q2_unalloc(q, was_off, was_clusters);
}

int q2_alloc_end(struct qcow2 *q, uint64_t n, uint64_t *off)
{
	for (;;) {
		uint64_t end = file_end(q), missing = blocks_missing(q, end, n);
		int ret;

		if ((end + n + missing - 1) >> q->rb_bits < q->rt_entries) {
			*off = end << q->h.cluster_bits;
			return take_end(q, end, n, missing);
		}
		ret = grow_table(q, n);
		if (ret < 0)
			return ret;
	}
}

/* The first free cluster from q->hint on. */
static int find_free(struct qcow2 *q, uint64_t *index)
{
	for (uint64_t i = q->hint;; i++) {
		uint64_t block = i >> q->rb_bits, count;
		int ret = 0;

		if (block >= q->rt_entries)
			ret = grow_table(q, 1);
		else if (!q->rt[block])
			ret = add_block(q, (uint32_t)block);
		if (ret == 0)
			ret = q2_refcount(q, i, &count);
		if (ret < 0)
			return ret;
		if (!count) {
			*index = i;
			return 0;
		}
	}
}

int q2_alloc(struct qcow2 *q, uint64_t want, uint64_t *off, uint64_t *got, bool *fresh)
{
	uint64_t begin = 0, n = 0;
	int ret = q->failed ? q->failed : find_free(q, &begin);

	if (ret < 0)
		return ret;
	if (begin + want >= Q2_MAX_OFFSET >> q->h.cluster_bits)
		return -EFBIG;
	*fresh = begin >= q->fresh && !q->file->fixed_size;
	while (n < want) {
		uint64_t count = 0, i = begin + n;

		if (n && ((i >> q->rb_bits) >= q->rt_entries || !q->rt[i >> q->rb_bits]))
			break;
		if (n)
			ret = q2_refcount(q, i, &count);
		if (ret == 0 && !count && q2_is_metadata(q, i << q->h.cluster_bits))
			ret = q2_corrupt(q);
		if (ret == 0 && !count)
			ret = set_count(q, i, 1);
		if (ret < 0 || count)
			break;
		n++;
	}
	if (ret < 0 && n)
		q2_unalloc(q, begin << q->h.cluster_bits, n);
	if (ret < 0)
		return ret;
	q->hint = begin + n;
	not_fresh(q, begin + n);
	*off = begin << q->h.cluster_bits;
	*got = n;
	return 0;
}

int q2_unalloc(struct qcow2 *q, uint64_t off, uint64_t n)
{
	uint64_t first = off >> q->h.cluster_bits;

	for (uint64_t i = first; i < first + n; i++) {
		uint64_t count;
		int ret = q2_refcount(q, i, &count);

		if (ret == 0 && !count)
			ret = q2_corrupt(q);
		if (ret == 0)
			ret = set_count(q, i, count - 1);
		if (ret < 0)
			return ret;
		if (count == 1) {
			q2_cache_forget(&q->l2, i << q->h.cluster_bits, q->cluster);
			q2_cache_forget(&q->rb, i << q->h.cluster_bits, q->cluster);
			q->hint = MIN(q->hint, i);
		}
	}
	return 0;
}
