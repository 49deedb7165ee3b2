/* A larger or smaller disk. The header's size changes last when the disk grows, first when it
 * shrinks, so that a crash leaves an image of one size or the other.
 */
#include "base/err.h"
#include "dev/backend/qcow2/qcow2_internal.h"

#include <errno.h>
#include <stdlib.h>

/* Write the table in memory, which has the new size, to a place of its own. Needs meta. */
static int move_l1(struct qcow2 *q, uint32_t entries, uint64_t *off)
{
	uint64_t clusters = clusters_for(entries * 8ull, q->h.cluster_bits);
	uint8_t *buf = calloc(clusters, q->cluster), place[12];
	int ret = buf ? q2_alloc_end(q, clusters, off) : -ENOMEM;

	for (uint32_t i = 0; i < entries && ret == 0; i++)
		put_be64(buf + i * 8ull, q->l1[i]);
	if (ret == 0)
		ret = place_write(q->file, *off, buf, clusters * q->cluster);
	free(buf);
	if (ret == 0)
		ret = q2_writeback(q, true);
	if (ret < 0)
		return ret;
	put_be32(place, entries);
	put_be64(place + 4, *off);
	return q2_header_write(q, 36, place, sizeof(place));
}

/* See that the L1 table has so many entries. Needs meta. */
static int grow_l1(struct qcow2 *q, uint64_t entries)
{
	uint64_t was_off = q->h.l1_off, off;
	uint32_t was = q->h.l1_entries;
	uint64_t *l1;
	int ret;

	if (entries <= was)
		return 0;
	if (entries * 8 > Q2_MAX_L1_BYTES)
		return -EFBIG;
	ret = q2_writeback(q, true);
	if (ret < 0)
		return ret;
	l1 = realloc(q->l1, entries * 8);
	if (!l1)
		return -ENOMEM;
	memset(l1 + was, 0, (entries - was) * 8);
	q->l1 = l1;
	ret = move_l1(q, (uint32_t)entries, &off);
	if (ret < 0)
		return ret;
	q->h.l1_off = off;
	q->h.l1_entries = (uint32_t)entries;
	return q2_unalloc(q, was_off, clusters_for(was * 8ull, q->h.cluster_bits));
}

static int set_size(struct qcow2 *q, uint64_t bytes)
{
	struct fiber_pool *fibers = q->node.drv->fibers;
	uint8_t word[8];
	int ret;

	fiber_lock(fibers, &q->meta);
	put_be64(word, bytes);
	ret = q2_writeback(q, true);
	if (ret == 0)
		ret = q2_header_write(q, 24, word, sizeof(word));
	if (ret == 0) {
		q->h.bytes = bytes;
		__atomic_store_n(&q->node.bytes, bytes, __ATOMIC_RELAXED);
	}
	fiber_unlock(&q->meta);
	return ret;
}

static int grow(struct qcow2 *q, uint64_t bytes)
{
	uint64_t was = q->node.bytes, edge = ALIGN_UP(was, q->cluster);
	uint64_t entries = clusters_for(clusters_for(bytes, q->h.cluster_bits), q->l2_bits);
	int ret;

	fiber_lock(q->node.drv->fibers, &q->meta);
	ret = grow_l1(q, entries);
	fiber_unlock(&q->meta);
	/* What lies behind the old end was not the disk's. */
	if (ret == 0 && bytes > edge)
		ret = q2_drop(q, edge, ALIGN_UP(bytes, q->cluster) - edge);
	if (ret == 0 && edge > was)
		ret = q2_zero(&q->node, was, MIN(edge, bytes) - was, false);
	if (ret == 0 && q->backing && q->backing->bytes > edge && bytes > edge)
		ret = q2_zero(&q->node, edge, MIN(bytes, q->backing->bytes) - edge, true);
	return ret == 0 ? set_size(q, bytes) : ret;
}

static int shrink(struct qcow2 *q, uint64_t bytes)
{
	uint64_t edge = ALIGN_UP(bytes, q->cluster), was = ALIGN_UP(q->node.bytes, q->cluster);
	int ret = set_size(q, bytes);

	return ret == 0 && was > edge ? q2_drop(q, edge, was - edge) : ret;
}

int q2_resize(struct blk_node *n, uint64_t bytes, struct err *err)
{
	struct qcow2 *q = q2_of(n);
	int ret;

	if (q->h.version < 3 && q->h.n_snapshots)
		return err_say(err, ENOTSUP,
			       "a version 2 image with snapshots has one size for all of them");
	ret = bytes > n->bytes ? grow(q, bytes) : shrink(q, bytes);
	if (ret == -EFBIG)
		return err_say(err, EFBIG, "the disk would be too large for its clusters");
	return ret < 0 ? err_set(err, -ret, "resize") : 0;
}
