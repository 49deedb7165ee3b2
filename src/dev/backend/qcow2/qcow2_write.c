/* Writes. What the image has to itself is written in place; anything else gets new clusters, which
 * are filled first and referred to after that.
 */
#include "dev/backend/qcow2/qcow2_internal.h"

#include <errno.h>
#include <stdlib.h>

#define MAX_RUN_BYTES (4 * MiB)

/* A part of a request: [off, off+len) of the disk is [skip, skip+len) of iov. */
struct piece {
	uint64_t off, len, skip;
	const struct iovec *iov;
	unsigned n_iov;
};

static bool in_place(const struct q2_run *run)
{
	return run->first.kind == Q2_KIND_DATA && run->first.copied;
}

static int write_in_place(struct qcow2 *q, const struct piece *p, const struct q2_run *run)
{
	struct iovec part[BLK_MAX_IOV];
	uint64_t first = run->first.host & ~(q->cluster - 1);
	unsigned n = iov_part(part, ARRAY_SIZE(part), p->iov, p->n_iov, p->skip, run->len);

	for (uint64_t at = first; at < run->first.host + run->len; at += q->cluster)
		if (q2_is_metadata(q, at))
			return q2_corrupt(q);
	return q->file->ops->write(q->file, run->first.host, part, n, run->len);
}

/* What the disk has at [off, off+len), as *buf, which is to be freed; NULL if that is zeros and
 * zeros need not be written. */
static int old_bytes(struct qcow2 *q, uint64_t off, uint64_t len, bool zeros_are_there,
		     uint8_t **buf)
{
	struct q2_run run;
	int ret = 0;

	*buf = NULL;
	if (!len)
		return 0;
	ret = q2_lookup(q, off, len, &run);
	if (ret < 0)
		return ret;

	bool nothing =
		run.first.kind == Q2_KIND_ZERO ||
		(run.first.kind == Q2_KIND_NONE && (!q->backing || off >= q->backing->bytes));

	if (nothing && zeros_are_there)
		return 0;
	if (posix_memalign((void **)buf, 4096, len) != 0)
		return -ENOMEM;
	/* Less than a cluster, so it is one run. */
	return q2_read_run(q, off, &run, &(struct iovec){ *buf, len }, 1, 0);
}

/* Write p into new clusters at host, with what surrounds it in the first and last of them. */
static int fill(struct qcow2 *q, const struct piece *p, uint64_t host, uint64_t bytes, bool fresh)
{
	uint64_t head = p->off & (q->cluster - 1), tail = bytes - head - p->len;
	struct iovec v[BLK_MAX_IOV + 2];
	uint64_t at = host + head, len = p->len;
	uint8_t *before = NULL, *after = NULL;
	unsigned n = 0;
	int ret = old_bytes(q, p->off - head, head, fresh, &before);

	if (ret == 0)
		ret = old_bytes(q, p->off + p->len, tail, fresh, &after);
	if (ret == 0 && before) {
		v[n++] = (struct iovec){ before, head };
		at = host;
		len += head;
	}
	if (ret == 0) {
		n += iov_part(v + n, BLK_MAX_IOV, p->iov, p->n_iov, p->skip, p->len);
		if (after) {
			v[n++] = (struct iovec){ after, tail };
			len += tail;
		}
		ret = q->file->ops->write(q->file, at, v, n, len);
	}
	free(before);
	free(after);
	return ret;
}

/* Let the n clusters of the disk from off on be those at host. Needs meta. */
static int link_clusters(struct qcow2 *q, uint64_t off, uint64_t host, uint64_t n)
{
	uint64_t at;
	uint32_t index;
	uint8_t *data;
	int ret = q2_make_room(q);

	if (ret == 0)
		ret = q2_l2_writable(q, off, &at, &index);
	if (ret == 0)
		ret = q2_cache_get(q, &q->l2, at, &data);
	if (ret < 0)
		return ret;
	for (uint64_t i = 0; i < n; i++) {
		uint8_t *entry = data + (index + i) * 8;

		q2_free_entry(q, be64_at(entry), false);
		put_be64(entry, (host + i * q->cluster) | Q2_COPIED);
	}
	q2_cache_dirty(&q->l2, at, index * 8, (uint32_t)(index + n) * 8);
	return 0;
}

/* Take clusters for n of the disk from off on, and see that the table for them can be changed. */
static int take(struct qcow2 *q, uint64_t off, uint64_t n, uint64_t *host, uint64_t *got,
		bool *fresh)
{
	uint64_t at;
	uint32_t index;
	int ret;

	fiber_lock(q->node.drv->fibers, &q->meta);
	ret = q2_make_room(q);
	if (ret == 0)
		ret = q2_l2_writable(q, off, &at, &index);
	if (ret == 0)
		ret = q2_alloc(q, n, host, got, fresh);
	fiber_unlock(&q->meta);
	return ret;
}

/* Write p, whose clusters all need new ones and lie in one slice. p->len gets what was done. The
 * range is locked alone. */
static int write_new(struct qcow2 *q, struct piece *p)
{
	uint64_t begin = p->off & ~(q->cluster - 1), host, got;
	bool fresh;
	int ret = take(q, begin, clusters_for(p->off + p->len - begin, q->h.cluster_bits), &host,
		       &got, &fresh);

	if (ret < 0)
		return ret;
	p->len = MIN(p->len, begin + got * q->cluster - p->off);
	ret = fill(q, p, host, got * q->cluster, fresh);
	fiber_lock(q->node.drv->fibers, &q->meta);
	if (ret == 0)
		ret = link_clusters(q, begin, host, got);
	if (ret < 0)
		q2_unalloc(q, host, got);
	fiber_unlock(&q->meta);
	return ret;
}

/* How far, at most len bytes from off, no cluster can be written in place. */
static int needs_new(struct qcow2 *q, uint64_t off, uint64_t len, uint64_t *n)
{
	struct q2_run run;
	int ret = 0;

	for (*n = 0; *n < len; *n += run.len) {
		ret = q2_lookup(q, off + *n, len - *n, &run);
		if (ret < 0 || in_place(&run))
			break;
	}
	return ret;
}

static int write_alone(struct qcow2 *q, struct piece *p)
{
	struct q2_run run;
	int ret = q2_lookup(q, p->off, p->len, &run);

	if (ret == 0 && in_place(&run)) {
		p->len = run.len;
		return write_in_place(q, p, &run);
	}
	if (ret == 0)
		ret = needs_new(q, p->off, p->len, &p->len);
	return ret == 0 ? write_new(q, p) : ret;
}

/* Write the beginning of p; p->len gets how much. */
static int write_piece(struct qcow2 *q, struct piece *p)
{
	uint64_t reach = (uint64_t)q->l2.slice_bytes / 8 * q->cluster;
	struct fiber_pool *fibers = q->node.drv->fibers;
	struct range_hold h;
	struct q2_run run;
	int ret;

	p->len = MIN(p->len, MIN(MAX_RUN_BYTES, reach - p->off % reach));

	uint64_t begin = p->off & ~(q->cluster - 1);
	uint64_t span = ALIGN_UP(p->off + p->len, q->cluster) - begin;

	range_acquire(fibers, &q->guest, &h, begin, span, false);
	ret = q2_lookup(q, p->off, p->len, &run);
	if (ret == 0 && in_place(&run)) {
		p->len = run.len;
		ret = write_in_place(q, p, &run);
		range_release(&q->guest, &h);
		return ret;
	}
	range_release(&q->guest, &h);
	if (ret < 0)
		return ret;
	range_acquire(fibers, &q->guest, &h, begin, span, true);
	ret = write_alone(q, p);
	range_release(&q->guest, &h);
	return ret;
}

int q2_write(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov,
	     uint64_t len)
{
	struct qcow2 *q = q2_of(n);
	int ret = q->failed;

	for (uint64_t done = 0; done < len && ret == 0;) {
		struct piece p = { off + done, len - done, done, iov, n_iov };

		ret = write_piece(q, &p);
		done += p.len;
	}
	return ret;
}
