/* Compressed clusters, read only. zlib's are raw deflate streams with a window of 4 KiB, zstd's are
 * frames. The last cluster unpacked is kept: a guest reads on in it.
 */
#include "dev/backend/qcow2/qcow2_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

static int inflate_cluster(uint8_t *out, size_t out_len, const uint8_t *in, size_t in_len)
{
	z_stream z = { .next_in = (uint8_t *)(uintptr_t)in,
		       .avail_in = (unsigned)in_len,
		       .next_out = out,
		       .avail_out = (unsigned)out_len };
	int ret;

	if (inflateInit2(&z, -12) != Z_OK)
		return -ENOMEM;
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* The stream need not end where the cluster is full. */
	return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && z.avail_out == 0 ? 0 : -EIO;
}

static int unzstd_cluster(uint8_t *out, size_t out_len, const uint8_t *in, size_t in_len)
{
	ZSTD_inBuffer src = { in, in_len, 0 };
	ZSTD_outBuffer dst = { out, out_len, 0 };
	ZSTD_DCtx *ctx = ZSTD_createDCtx();
	int ret = 0;

	if (!ctx)
		return -ENOMEM;
	/* A window that is larger than the cluster cannot be needed. */
	ZSTD_DCtx_setParameter(ctx, ZSTD_d_windowLogMax, 22);
	while (dst.pos < dst.size && ret == 0) {
		size_t was_in = src.pos, was_out = dst.pos;
		size_t left = ZSTD_decompressStream(ctx, &dst, &src);

		if (ZSTD_isError(left) || (src.pos == was_in && dst.pos == was_out))
			ret = -EIO;
	}
	ZSTD_freeDCtx(ctx);
	return ret;
}

/* Make q->unpacked the cluster of entry raw. Needs unpack. */
static int unpack(struct qcow2 *q, uint64_t raw)
{
	uint64_t off, len;
	int ret;

	if (q->unpacked_entry == raw)
		return 0;
	if (!q->unpacked)
		q->unpacked = malloc(q->cluster);
	if (!q->packed)
		q->packed = malloc(2 * q->cluster + 512);
	if (!q->unpacked || !q->packed)
		return -ENOMEM;
	q2_compressed_place(q, raw, &off, &len);
	q->unpacked_entry = 0;
	ret = place_read(q->file, off, q->packed, len);
	if (ret < 0)
		return ret;
	ret = q->h.compression ? unzstd_cluster(q->unpacked, q->cluster, q->packed, len)
			       : inflate_cluster(q->unpacked, q->cluster, q->packed, len);
	if (ret == 0)
		q->unpacked_entry = raw;
	return ret;
}

int q2_unpack(struct qcow2 *q, uint64_t raw, uint64_t skip, const struct iovec *iov, unsigned n_iov,
	      uint64_t iov_skip, uint64_t len)
{
	int ret;

	fiber_lock(q->node.drv->fibers, &q->unpack);
	ret = unpack(q, raw);
	if (ret == 0)
		iov_from(iov, n_iov, iov_skip, q->unpacked + skip, len);
	fiber_unlock(&q->unpack);
	return ret;
}
