/* From a place on the disk to a place in the file. */
#include "dev/backend/qcow2/qcow2_internal.h"

#include <errno.h>
#include <stdlib.h>

void q2_compressed_place(const struct qcow2 *q, uint64_t raw, uint64_t *off, uint64_t *len)
{
	unsigned x = 62 - (q->h.cluster_bits - 8);
	uint64_t sectors = bits_get(raw, x, q->h.cluster_bits - 8) + 1;

	*off = bits_get(raw, 0, x);
	*len = sectors * 512 - *off % 512;
}

int q2_entry_parse(const struct qcow2 *q, uint64_t raw, struct q2_entry *e)
{
	uint64_t off, len;

	*e = (struct q2_entry){ .kind = Q2_KIND_NONE };
	if (raw & Q2_COMPRESSED) {
		q2_compressed_place(q, raw, &off, &len);
		e->kind = Q2_KIND_COMPRESSED;
		return off < Q2_MAX_OFFSET ? 0 : -EIO;
	}
	e->host = raw & Q2_OFFSET;
	if (e->host & (q->cluster - 1))
		return -EIO;
	if (raw & Q2_ZERO) {
		e->kind = Q2_KIND_ZERO;
		return q->h.version >= 3 ? 0 : -EIO;
	}
	if (!e->host)
		return raw & Q2_COPIED ? -EIO : 0;
	e->kind = Q2_KIND_DATA;
	e->copied = raw & Q2_COPIED;
	return 0;
}

/* The entry of the L1 table, checked. *table is 0 where there is no L2 table. */
static int l2_table(const struct qcow2 *q, uint64_t off, uint64_t *table, bool *copied)
{
	uint64_t i = off >> (q->h.cluster_bits + q->l2_bits);
	uint64_t raw = i < q->h.l1_entries ? q->l1[i] : 0;

	*table = raw & Q2_OFFSET;
	*copied = raw & Q2_COPIED;
	return *table & (q->cluster - 1) ? -EIO : 0;
}

/* Where off's entry is: the slice's place in the file from the table's, and the index in it. */
static uint64_t slice_at(const struct qcow2 *q, uint64_t table, uint64_t off, uint32_t *index)
{
	uint64_t i = off >> q->h.cluster_bits & (BIT(q->l2_bits) - 1);
	uint32_t per_slice = q->l2.slice_bytes / 8;

	*index = (uint32_t)(i % per_slice);
	return table + i / per_slice * q->l2.slice_bytes;
}

/* Whether e goes on where the n clusters from first on end. */
static bool goes_on(const struct qcow2 *q, const struct q2_entry *first, const struct q2_entry *e,
		    uint64_t n)
{
	if (e->kind != first->kind || e->kind == Q2_KIND_COMPRESSED)
		return false;
	return e->kind != Q2_KIND_DATA ||
	       (e->host == first->host + n * q->cluster && e->copied == first->copied);
}

int q2_lookup(struct qcow2 *q, uint64_t off, uint64_t len, struct q2_run *run)
{
	uint64_t table, inside = off & (q->cluster - 1), n = 1;
	uint64_t reach = BIT(q->h.cluster_bits + q->l2_bits);
	bool copied;
	uint32_t i;
	uint8_t *data;
	int ret = l2_table(q, off, &table, &copied);

	*run = (struct q2_run){ .len = MIN(len, reach - (off & (reach - 1))) };
	if (ret < 0 || !table)
		return ret;

	uint64_t at = slice_at(q, table, off, &i);

	ret = q2_cache_get(q, &q->l2, at, &data);
	if (ret < 0)
		return ret;
	run->raw = be64_at(data + i * 8);
	ret = q2_entry_parse(q, run->raw, &run->first);
	for (; ret == 0 && i + n < q->l2.slice_bytes / 8 && n * q->cluster - inside < len; n++) {
		struct q2_entry e;

		/* A bad entry is met when it is its turn. */
		if (q2_entry_parse(q, be64_at(data + (i + n) * 8), &e) < 0 ||
		    !goes_on(q, &run->first, &e, n))
			break;
	}
	run->len = MIN(len, n * q->cluster - inside);
	run->first.host += inside;
	return ret;
}

/* Make a new table, filled from the one at from, or with zeros if that is 0. */
static int new_table(struct qcow2 *q, uint64_t from, uint64_t *off)
{
	uint8_t *buf = NULL;
	uint64_t got;
	bool fresh;
	int ret = q2_alloc(q, 1, off, &got, &fresh);

	if (ret < 0)
		return ret;
	if (posix_memalign((void **)&buf, 4096, q->cluster) != 0)
		ret = -ENOMEM;
	if (ret == 0)
		memset(buf, 0, q->cluster);
	if (ret == 0 && from)
		ret = place_read(q->file, from, buf, q->cluster);
	if (ret == 0)
		ret = place_write(q->file, *off, buf, q->cluster);
	free(buf);
	if (ret < 0)
		q2_unalloc(q, *off, 1);
	return ret;
}

static void l1_dirty(struct qcow2 *q, uint32_t i)
{
	bool clean = q->l1_lo >= q->l1_hi;

	q->l1_lo = clean ? i : MIN(q->l1_lo, i);
	q->l1_hi = clean ? i + 1 : MAX(q->l1_hi, i + 1);
}

/* A table that a snapshot shares is never dirty in the cache: it is copied before it is changed. */
int q2_l2_writable(struct qcow2 *q, uint64_t off, uint64_t *at, uint32_t *index)
{
	uint64_t i = off >> (q->h.cluster_bits + q->l2_bits), table, copy;
	bool copied;
	int ret = l2_table(q, off, &table, &copied);

	if (ret < 0 || i >= q->h.l1_entries)
		return q2_corrupt(q);
	if (!table || !copied) {
		ret = new_table(q, table, &copy);
		if (ret < 0)
			return ret;
		if (table)
			q2_free(q, table, false);
		q->l1[i] = copy | Q2_COPIED;
		l1_dirty(q, (uint32_t)i);
		table = copy;
	}
	*at = slice_at(q, table, off, index);
	return 0;
}

static int map_backing(struct qcow2 *q, uint64_t off, uint64_t len, struct blk_extent *e)
{
	struct blk_node *b = q->backing;
	int ret;

	*e = (struct blk_extent){ .off = off, .len = len, .kind = BLK_HOLE };
	if (!b || off >= b->bytes)
		return 0;
	ret = b->ops->map(b, off, MIN(len, b->bytes - off), e);
	e->depth++;
	return ret;
}

int q2_map(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e)
{
	struct qcow2 *q = q2_of(n);
	struct q2_run run;
	int ret = q2_lookup(q, off, len, &run);

	if (ret < 0)
		return ret;
	*e = (struct blk_extent){ .off = off, .len = run.len };
	switch (run.first.kind) {
	case Q2_KIND_NONE: return map_backing(q, off, run.len, e);
	case Q2_KIND_ZERO: e->kind = BLK_ZERO; break;
	case Q2_KIND_COMPRESSED: e->kind = BLK_COMPRESSED; break;
	case Q2_KIND_DATA:
		e->kind = BLK_DATA;
		e->has_host_off = true;
		e->host_off = run.first.host;
		break;
	}
	return 0;
}
