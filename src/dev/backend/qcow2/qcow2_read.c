#include "dev/backend/qcow2/qcow2_internal.h"

#include <errno.h>

/* Bytes that this image does not have: the backing file's, as far as that goes. */
static int read_backing(struct qcow2 *q, uint64_t off, uint64_t len, const struct iovec *iov,
			unsigned n_iov, uint64_t skip)
{
	struct blk_node *b = q->backing;
	uint64_t have = b && off < b->bytes ? MIN(len, b->bytes - off) : 0;
	struct iovec part[BLK_MAX_IOV + 2];

	iov_zero(iov, n_iov, skip + have, len - have);
	if (!have)
		return 0;

	unsigned n = iov_part(part, ARRAY_SIZE(part), iov, n_iov, skip, have);

	return b->ops->read(b, off, part, n, have);
}

int q2_read_run(struct qcow2 *q, uint64_t off, const struct q2_run *run, const struct iovec *iov,
		unsigned n_iov, uint64_t skip)
{
	struct iovec part[BLK_MAX_IOV + 2];
	unsigned n;

	switch (run->first.kind) {
	case Q2_KIND_NONE: return read_backing(q, off, run->len, iov, n_iov, skip);
	case Q2_KIND_ZERO: iov_zero(iov, n_iov, skip, run->len); return 0;
	case Q2_KIND_COMPRESSED:
		return q2_unpack(q, run->raw, off & (q->cluster - 1), iov, n_iov, skip, run->len);
	case Q2_KIND_DATA: break;
	}
	n = iov_part(part, ARRAY_SIZE(part), iov, n_iov, skip, run->len);
	return q->file->ops->read(q->file, run->first.host, part, n, run->len);
}

/* Read up to len bytes of one kind; *done gets how many. */
static int read_piece(struct qcow2 *q, uint64_t off, uint64_t len, const struct iovec *iov,
		      unsigned n_iov, uint64_t skip, uint64_t *done)
{
	struct range_hold h;
	struct q2_run run;
	int ret;

	if (!q->node.readonly)
		range_acquire(q->node.drv->fibers, &q->guest, &h, off, len, false);
	ret = q2_lookup(q, off, len, &run);
	if (ret == 0)
		ret = q2_read_run(q, off, &run, iov, n_iov, skip);
	if (!q->node.readonly)
		range_release(&q->guest, &h);
	*done = run.len;
	return ret;
}

int q2_read(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
	struct qcow2 *q = q2_of(n);
	int ret = 0;

	for (uint64_t done = 0, piece; done < len && ret == 0; done += piece)
		ret = read_piece(q, off + done, len - done, iov, n_iov, done, &piece);
	return ret;
}
