/* Discard and write-zeroes: whole clusters change their entry, parts of clusters get zeros written.
 */
#include "dev/backend/qcow2/qcow2_internal.h"

#include <errno.h>
#include <stdlib.h>

#define ZEROS_BYTES MiB

enum how {
	DROP,	   /* there is no such place on the disk any more */
	DISCARD,   /* as the guest pleases */
	ZERO,	   /* zeros; the clusters are given up */
	ZERO_KEEP, /* zeros; the clusters stay */
};

static bool has_backing(const struct qcow2 *q, uint64_t off)
{
	return q->backing && off < q->backing->bytes;
}

/* What an entry becomes, for the cluster at off. */
static uint64_t new_entry(const struct qcow2 *q, uint64_t off, uint64_t raw, enum how how)
{
	struct q2_entry e;

	if (how == DROP)
		return 0;
	/* What makes no sense stays for who checks the image. */
	if (q2_entry_parse(q, raw, &e) < 0)
		return raw;
	if (e.kind == Q2_KIND_NONE && (how == DISCARD || !has_backing(q, off)))
		return raw;
	if (how == DISCARD && q->h.version < 3 && has_backing(q, off))
		return raw;
	if (how == ZERO_KEEP && e.kind == Q2_KIND_DATA && e.copied)
		return raw | Q2_ZERO;
	if (how == ZERO_KEEP && e.kind == Q2_KIND_ZERO)
		return raw;
	return has_backing(q, off) ? Q2_ZERO : 0;
}

/* Change the entries of n clusters from off on, all in one slice. Needs meta. */
static int change(struct qcow2 *q, uint64_t off, uint64_t n, enum how how)
{
	uint64_t at;
	uint32_t index;
	uint8_t *data;
	int ret = q2_l2_writable(q, off, &at, &index);

	if (ret == 0)
		ret = q2_cache_get(q, &q->l2, at, &data);
	if (ret < 0)
		return ret;
	for (uint64_t i = 0; i < n; i++) {
		uint8_t *entry = data + (index + i) * 8;
		uint64_t was = be64_at(entry);
		uint64_t now = new_entry(q, off + i * q->cluster, was, how);

		if (now == was)
			continue;
		put_be64(entry, now);
		q2_cache_dirty(&q->l2, at, (uint32_t)(index + i) * 8,
			       (uint32_t)(index + i + 1) * 8);
		if ((now & Q2_OFFSET) == 0)
			q2_free_entry(q, was, true);
	}
	return 0;
}

/* The first part of [off, off+len), whole clusters; *done gets how much. */
static int change_piece(struct qcow2 *q, uint64_t off, uint64_t len, enum how how, uint64_t *done)
{
	uint64_t reach = (uint64_t)q->l2.slice_bytes / 8 * q->cluster;
	struct fiber_pool *fibers = q->node.drv->fibers;
	struct range_hold h;
	struct q2_run run;
	int ret;

	range_acquire(fibers, &q->guest, &h, off, len, true);
	ret = q2_lookup(q, off, len, &run);
	/* Where there is nothing, not even a table, there is often nothing to do. */
	*done = run.len;
	if (ret == 0 && run.first.kind == Q2_KIND_NONE &&
	    (how == DROP || how == DISCARD || !has_backing(q, off))) {
		range_release(&q->guest, &h);
		return 0;
	}
	*done = MIN(len, reach - off % reach);
	if (ret == -EIO || ret == 0) {
		fiber_lock(fibers, &q->meta);
		ret = q2_make_room(q);
		if (ret == 0)
			ret = change(q, off, *done >> q->h.cluster_bits, how);
		fiber_unlock(&q->meta);
	}
	range_release(&q->guest, &h);
	return ret;
}

static int change_all(struct qcow2 *q, uint64_t off, uint64_t len, enum how how)
{
	int ret = q->failed;

	for (uint64_t done = 0, piece; done < len && ret == 0; done += piece)
		ret = change_piece(q, off + done, len - done, how, &piece);
	return ret;
}

int q2_drop(struct qcow2 *q, uint64_t off, uint64_t len)
{
	return change_all(q, off, len, DROP);
}

/* Write zeros where the disk has something else. */
static int write_zeros(struct qcow2 *q, uint64_t off, uint64_t len)
{
	uint8_t *zeros = NULL;
	int ret = 0;

	for (uint64_t n; len && ret == 0; off += n, len -= n) {
		struct q2_run run;

		ret = q2_lookup(q, off, len, &run);
		n = run.len;
		if (ret < 0 || run.first.kind == Q2_KIND_ZERO ||
		    (run.first.kind == Q2_KIND_NONE && !has_backing(q, off)))
			continue;
		n = MIN(n, ZEROS_BYTES);
		if (!zeros && !(zeros = calloc(1, ZEROS_BYTES)))
			ret = -ENOMEM;
		else
			ret = q2_write(&q->node, off, &(struct iovec){ zeros, n }, 1, n);
	}
	free(zeros);
	return ret;
}

int q2_zero(struct blk_node *n, uint64_t off, uint64_t len, bool may_unmap)
{
	struct qcow2 *q = q2_of(n);
	uint64_t begin = ALIGN_UP(off, q->cluster), end = (off + len) & ~(q->cluster - 1);
	int ret;

	/* The rest of the last cluster is not on the disk. */
	if (off + len == n->bytes)
		end = ALIGN_UP(off + len, q->cluster);
	if (begin >= end || (q->h.version < 3 && (q->backing || !may_unmap)))
		return write_zeros(q, off, len);
	ret = write_zeros(q, off, begin - off);
	if (ret == 0)
		ret = change_all(q, begin, end - begin, may_unmap ? ZERO : ZERO_KEEP);
	if (ret == 0 && off + len > end)
		ret = write_zeros(q, end, off + len - end);
	return ret;
}

int q2_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
	struct qcow2 *q = q2_of(n);
	uint64_t begin = ALIGN_UP(off, q->cluster), end = (off + len) & ~(q->cluster - 1);

	if (off + len == n->bytes)
		end = ALIGN_UP(off + len, q->cluster);
	return begin < end ? change_all(q, begin, end - begin, DISCARD) : q->failed;
}
