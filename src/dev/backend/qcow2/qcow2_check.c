/* Counts what refers to each cluster and compares that with the reference counts and the COPIED
 * flags. Reads tables as they are in the file, so nothing may be dirty in memory.
 */
#include "base/err.h"
#include "dev/backend/qcow2/qcow2_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_CLUSTERS BIT(28) /* of a file: 1 GiB of counts */

struct checker {
	struct qcow2 *q;
	struct qcow2_check *c;
	uint32_t *count; /* n; owned */
	uint64_t n;
	uint8_t *table; /* a cluster; owned */
};

__attribute__((format(printf, 2, 3))) static void note(struct qcow2_check *c, const char *fmt, ...)
{
	va_list ap;

	if (c->first[0])
		return;
	va_start(ap, fmt);
	vsnprintf(c->first, sizeof(c->first), fmt, ap);
	va_end(ap);
}

static void damage(struct checker *k, const char *what, uint64_t at)
{
	k->c->damage++;
	note(k->c, "%s at %#llx points to where nothing can be", what, (unsigned long long)at);
}

/* Something refers to [off, off+len). */
static bool refer(struct checker *k, uint64_t off, uint64_t len)
{
	unsigned bits = k->q->h.cluster_bits;

	if (!len)
		return true;
	if (!range_fits(off, len, k->n << bits))
		return false;
	for (uint64_t i = off >> bits; i <= (off + len - 1) >> bits; i++)
		if (k->count[i] < UINT32_MAX)
			k->count[i]++;
	return true;
}

static void refer_entry(struct checker *k, uint64_t raw, uint64_t at, bool active)
{
	struct q2_entry e;
	uint64_t off, len;
	bool ok = q2_entry_parse(k->q, raw, &e) == 0;

	if (ok && e.kind == Q2_KIND_COMPRESSED) {
		q2_compressed_place(k->q, raw, &off, &len);
		/* The last sectors need not be there: the stream ends before. */
		ok = refer(k, off, len) && !(raw & Q2_COPIED);
	} else if (ok && e.host) {
		ok = refer(k, e.host, k->q->cluster);
	}
	if (!ok)
		damage(k, "L2 entry", at);
	if (ok && active && e.kind != Q2_KIND_NONE) {
		k->c->allocated += e.kind != Q2_KIND_ZERO || e.host;
		k->c->compressed += e.kind == Q2_KIND_COMPRESSED;
	}
}

static int refer_l2(struct checker *k, uint64_t table, bool active)
{
	int ret = place_read(k->q->file, table, k->table, k->q->cluster);

	for (uint64_t i = 0; ret == 0 && i < BIT(k->q->l2_bits); i++) {
		uint64_t raw = be64_at(k->table + i * 8);

		if (raw)
			refer_entry(k, raw, table + i * 8, active);
	}
	return ret;
}

static int refer_l1(struct checker *k, const uint64_t *l1, uint64_t off, uint32_t n, bool active)
{
	int ret = 0;

	if (!refer(k, off, n * 8ull))
		damage(k, "the L1 table", off);
	for (uint32_t i = 0; i < n && ret == 0; i++) {
		uint64_t table = l1[i] & Q2_OFFSET;

		if (!table)
			continue;
		if (table & (k->q->cluster - 1) || !refer(k, table, k->q->cluster))
			damage(k, "L1 entry", off + i * 8ull);
		else
			ret = refer_l2(k, table, active);
	}
	return ret;
}

static int refer_snapshot(struct checker *k, const struct qcow2_snapshot *s)
{
	uint64_t *l1;
	int ret;

	if (s->l1_off & (k->q->cluster - 1) || s->l1_entries * 8ull > Q2_MAX_L1_BYTES ||
	    !range_fits(s->l1_off, s->l1_entries * 8ull, k->n << k->q->h.cluster_bits)) {
		damage(k, "a snapshot", k->q->h.snapshots_off);
		return 0;
	}
	ret = q2_table_read(k->q->file, s->l1_off, s->l1_entries, &l1);
	if (ret == 0) {
		ret = refer_l1(k, l1, s->l1_off, s->l1_entries, false);
		free(l1);
	}
	return ret;
}

static int refer_snapshots(struct checker *k, struct err *err)
{
	const struct q2_header *h = &k->q->h;
	struct qcow2_snapshot *list;
	uint64_t bytes;
	int ret;

	if (!h->n_snapshots)
		return 0;
	ret = q2_snapshots_read(k->q->file, h, &list, &bytes, err);
	if (ret < 0)
		return ret;
	if (!refer(k, h->snapshots_off, bytes))
		damage(k, "the snapshot table", h->snapshots_off);
	for (uint32_t i = 0; i < h->n_snapshots && ret == 0; i++)
		ret = refer_snapshot(k, &list[i]);
	free(list);
	return ret < 0 ? err_set(err, -ret, "read a snapshot") : 0;
}

static void refer_refcounts(struct checker *k)
{
	const struct qcow2 *q = k->q;

	if (!refer(k, q->h.rt_off, (uint64_t)q->h.rt_clusters << q->h.cluster_bits))
		damage(k, "the reference table", q->h.rt_off);
	for (uint32_t i = 0; i < q->rt_entries; i++)
		if (q->rt[i] && (q->rt[i] & (q->cluster - 1) || !refer(k, q->rt[i], q->cluster)))
			damage(k, "reference table entry", q->h.rt_off + i * 8ull);
}

/* Of the bitmaps of QEMU only the places are of interest here. */
static int refer_bitmaps(struct checker *k)
{
	const struct q2_header *h = &k->q->h;
	uint64_t at = h->bitmaps_off, end = h->bitmaps_off + h->bitmaps_bytes;
	uint8_t entry[24];
	int ret = 0;

	if (!(h->autoclear & Q2_AUTOCLEAR_BITMAPS) || !h->has_bitmaps)
		return 0;
	if (!refer(k, h->bitmaps_off, h->bitmaps_bytes)) {
		damage(k, "the bitmap directory", h->bitmaps_off);
		return 0;
	}
	for (uint32_t i = 0; i < h->n_bitmaps && end - at >= sizeof(entry) && ret == 0; i++) {
		uint64_t off, *table;
		uint32_t n;

		ret = place_read(k->q->file, at, entry, sizeof(entry));
		off = be64_at(entry);
		n = be32_at(entry + 8);
		if (ret == 0 && (n * 8ull > Q2_MAX_L1_BYTES || !refer(k, off, n * 8ull)))
			damage(k, "a bitmap", at);
		else if (ret == 0 && (ret = q2_table_read(k->q->file, off, n, &table)) == 0) {
			for (uint32_t b = 0; b < n; b++)
				if (table[b] & Q2_OFFSET &&
				    !refer(k, table[b] & Q2_OFFSET, k->q->cluster))
					damage(k, "a bitmap's table", off);
			free(table);
		}
		uint64_t name = __builtin_bswap16(load16(entry + 18));

		at += MIN(end - at, ALIGN_UP(24 + name + be32_at(entry + 20), 8));
	}
	return ret;
}

static int refer_all(struct checker *k, bool refcounts, struct err *err)
{
	struct qcow2 *q = k->q;
	int ret;

	refer(k, 0, q->cluster);
	ret = refer_l1(k, q->l1, q->h.l1_off, q->h.l1_entries, true);
	if (ret == 0)
		ret = refer_bitmaps(k);
	if (ret < 0)
		return err_set(err, -ret, "read the image's tables");
	if (refcounts)
		refer_refcounts(k);
	return refer_snapshots(k, err);
}

int q2_count_all(struct qcow2 *q, struct qcow2_check *c, bool refcounts, uint32_t **count,
		 uint64_t *n, struct err *err)
{
	/* The last cluster may end behind the file's end. */
	struct checker k = { .q = q, .c = c };
	int ret;

	k.n = clusters_for(q->file->bytes, q->h.cluster_bits) + 1;
	if (k.n > MAX_CLUSTERS)
		return err_say(err, EFBIG, "the image has too many clusters to be checked");
	k.count = calloc(k.n, sizeof(*k.count));
	k.table = malloc(q->cluster);
	ret = k.count && k.table ? refer_all(&k, refcounts, err)
				 : err_set(err, ENOMEM, "check the image");
	free(k.table);
	if (ret < 0) {
		free(k.count);
		return ret;
	}
	*count = k.count;
	*n = k.n;
	return 0;
}

static int compare_counts(struct qcow2 *q, struct qcow2_check *c, const uint32_t *count, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t has;
		int ret = q2_refcount(q, i, &has);

		if (ret < 0)
			return ret;
		if (count[i])
			c->image_end = (i + 1) << q->h.cluster_bits;
		c->leaks += has > count[i];
		c->errors += has < count[i];
		if (has < count[i])
			note(c, "the cluster at %#llx has %llu references and a count of %llu",
			     (unsigned long long)i << q->h.cluster_bits,
			     (unsigned long long)count[i], (unsigned long long)has);
	}
	return 0;
}

uint64_t q2_right_flag(struct qcow2 *q, uint64_t raw, const uint32_t *count, uint64_t n)
{
	uint64_t i = (raw & Q2_OFFSET) >> q->h.cluster_bits;

	if (raw & Q2_COMPRESSED || !(raw & Q2_OFFSET) || i >= n)
		return raw;
	return count[i] == 1 ? raw | Q2_COPIED : raw & ~Q2_COPIED;
}

int q2_each_l2(struct qcow2 *q, uint64_t n, void *arg,
	       int (*fn)(struct qcow2 *q, uint64_t at, uint8_t *table, void *arg))
{
	uint8_t *table = malloc(q->cluster);
	int ret = table ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < q->h.l1_entries && ret == 0; i++) {
		uint64_t at = q->l1[i] & Q2_OFFSET;

		if (!at || at & (q->cluster - 1) || at >> q->h.cluster_bits >= n)
			continue;
		ret = place_read(q->file, at, table, q->cluster);
		if (ret == 0)
			ret = fn(q, at, table, arg);
	}
	free(table);
	return ret;
}

struct flags {
	struct qcow2_check *c;
	const uint32_t *count;
	uint64_t n;
};

static void check_flag(struct qcow2 *q, struct flags *f, uint64_t raw, uint64_t at)
{
	if (q2_right_flag(q, raw, f->count, f->n) == raw)
		return;
	f->c->errors++;
	note(f->c, "the entry at %#llx has the wrong COPIED flag", (unsigned long long)at);
}

static int check_l2_flags(struct qcow2 *q, uint64_t at, uint8_t *table, void *arg)
{
	for (uint64_t i = 0; i < BIT(q->l2_bits); i++)
		check_flag(q, arg, be64_at(table + i * 8), at + i * 8);
	return 0;
}

int q2_check(struct qcow2 *q, struct qcow2_check *c, struct err *err)
{
	uint32_t *count;
	uint64_t n;
	int ret = q2_count_all(q, c, true, &count, &n, err);

	if (ret < 0)
		return ret;

	struct flags f = { c, count, n };

	c->clusters = clusters_for(q->h.bytes, q->h.cluster_bits);
	ret = compare_counts(q, c, count, n);
	for (uint32_t i = 0; i < q->h.l1_entries && ret == 0; i++)
		check_flag(q, &f, q->l1[i], q->h.l1_off + i * 8ull);
	if (ret == 0)
		ret = q2_each_l2(q, n, &f, check_l2_flags);
	free(count);
	return ret < 0 ? err_set(err, -ret, "read the image's tables") : 0;
}
