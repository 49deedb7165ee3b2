/* Makes the reference counts anew from what refers to the clusters: into tables at the end of the
 * file, which the header then names in one write, so that a crash leaves the old ones.
 */
#include "base/err.h"
#include "dev/backend/qcow2/qcow2_internal.h"

#include <errno.h>
#include <stdlib.h>

/* New tables: clusters [begin, end) of the file; the table first, the blocks behind it. */
struct rebuild {
	struct qcow2 *q;
	const uint32_t *count; /* of n clusters */
	uint64_t n, begin, end, table_clusters, n_blocks;
};

static uint64_t count_at(const struct rebuild *r, uint64_t i)
{
	if (i >= r->begin && i < r->end)
		return 1;
	return i < r->n ? r->count[i] : 0;
}

static void lay_out(struct rebuild *r)
{
	unsigned bits = r->q->h.cluster_bits, rb_bits = r->q->rb_bits;

	r->begin = MAX(clusters_for(r->q->file->bytes, bits), r->n);
	r->n_blocks = r->table_clusters = 1;
	for (;;) {
		uint64_t blocks, clusters;

		r->end = r->begin + r->table_clusters + r->n_blocks;
		blocks = ((r->end - 1) >> rb_bits) + 1;
		clusters = clusters_for(blocks * 8, bits);
		if (blocks <= r->n_blocks && clusters <= r->table_clusters)
			break;
		r->n_blocks = blocks;
		r->table_clusters = clusters;
	}
}

static int write_blocks(struct rebuild *r)
{
	struct qcow2 *q = r->q;
	uint64_t max = q->h.refcount_order == 6 ? ~0ull : BIT(1 << q->h.refcount_order) - 1;
	uint8_t *block = malloc(q->cluster);
	int ret = block ? 0 : -ENOMEM;

	for (uint64_t b = 0; b < r->n_blocks && ret == 0; b++) {
		memset(block, 0, q->cluster);
		for (uint64_t i = 0; i < BIT(q->rb_bits); i++) {
			uint64_t count = count_at(r, (b << q->rb_bits) + i);

			/* Too many for the counts' width. */
			if (count > max)
				ret = -ERANGE;
			else if (count)
				q2_count_set(block, i, q->h.refcount_order, count);
		}
		if (ret == 0)
			ret = place_write(q->file,
					  (r->begin + r->table_clusters + b) << q->h.cluster_bits,
					  block, q->cluster);
	}
	free(block);
	return ret;
}

static int write_table(struct rebuild *r)
{
	struct qcow2 *q = r->q;
	uint64_t entries = r->table_clusters * q->cluster / 8;
	uint64_t *rt = calloc(entries, 8);
	uint8_t *buf = calloc(entries, 8), place[12];
	int ret = rt && buf ? 0 : -ENOMEM;

	for (uint64_t b = 0; b < r->n_blocks && ret == 0; b++) {
		rt[b] = (r->begin + r->table_clusters + b) << q->h.cluster_bits;
		put_be64(buf + b * 8, rt[b]);
	}
	if (ret == 0)
		ret = place_write(q->file, r->begin << q->h.cluster_bits, buf, entries * 8);
	free(buf);
	put_be64(place, r->begin << q->h.cluster_bits);
	put_be32(place + 8, (uint32_t)r->table_clusters);
	if (ret == 0)
		ret = q2_header_write(q, 48, place, sizeof(place));
	if (ret < 0) {
		free(rt);
		return ret;
	}
	free(q->rt);
	q->rt = rt;
	q->rt_entries = (uint32_t)entries;
	q->h.rt_off = r->begin << q->h.cluster_bits;
	q->h.rt_clusters = (uint32_t)r->table_clusters;
	q->fresh = MAX(q->fresh, r->end);
	q->hint = 0;
	return 0;
}

static int mend_l2_flags(struct qcow2 *q, uint64_t at, uint8_t *table, void *arg)
{
	const struct rebuild *r = arg;
	bool changed = false;

	for (uint64_t i = 0; i < BIT(q->l2_bits); i++) {
		uint64_t raw = be64_at(table + i * 8);
		uint64_t right = q2_right_flag(q, raw, r->count, r->n);

		changed |= raw != right;
		put_be64(table + i * 8, right);
	}
	return changed ? place_write(q->file, at, table, q->cluster) : 0;
}

static int mend_flags(struct rebuild *r)
{
	struct qcow2 *q = r->q;
	int ret = q2_each_l2(q, r->n, r, mend_l2_flags);

	for (uint32_t i = 0; i < q->h.l1_entries && ret == 0; i++) {
		uint64_t right = q2_right_flag(q, q->l1[i], r->count, r->n);
		uint8_t word[8];

		if (right == q->l1[i])
			continue;
		q->l1[i] = right;
		put_be64(word, right);
		ret = place_write(q->file, q->h.l1_off + i * 8ull, word, sizeof(word));
	}
	return ret;
}

static int clear_bits(struct qcow2 *q, uint64_t bits)
{
	uint8_t word[8];
	int ret;

	if (q->h.version < 3 || !(q->h.incompat & bits))
		return q2_sync(q);
	put_be64(word, q->h.incompat & ~bits);
	ret = q2_header_write(q, 72, word, sizeof(word));
	if (ret == 0)
		q->h.incompat &= ~bits;
	return ret;
}

int q2_repair(struct qcow2 *q, struct err *err)
{
	struct qcow2_check c = { 0 };
	struct rebuild r = { .q = q };
	uint32_t *count;
	int ret = q2_count_all(q, &c, false, &count, &r.n, err);

	if (ret < 0)
		return ret;
	r.count = count;
	q2_cache_forget_all(&q->rb);
	q2_cache_forget_all(&q->l2);
	lay_out(&r);
	ret = write_blocks(&r);
	if (ret == 0)
		ret = write_table(&r);
	if (ret == 0)
		ret = mend_flags(&r);
	if (ret == 0)
		ret = clear_bits(q, Q2_INCOMPAT_DIRTY | (c.damage ? 0 : Q2_INCOMPAT_CORRUPT));
	free(count);
	if (ret == -ERANGE)
		return err_say(err, ERANGE,
			       "the image's reference counts are too narrow for its snapshots");
	return ret < 0 ? err_set(err, -ret, "repair the image") : 0;
}
