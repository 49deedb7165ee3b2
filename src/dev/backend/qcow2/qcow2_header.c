/* The header: everything in it is checked here, once. */
#include "base/err.h"
#include "dev/backend/qcow2/qcow2_internal.h"

#include <errno.h>
#include <stdlib.h>

#define EXT_END		   0
#define EXT_BACKING_FORMAT 0xe2792acau
#define EXT_BITMAPS	   0x23852875u
#define MAX_REFCOUNT_ORDER 6

static int bad(struct err *err, const char *what)
{
	return err_say(err, EINVAL, "not a valid qcow2 image: %s", what);
}

static void parse_fields(struct q2_header *h, const uint8_t *b)
{
	h->version = be32_at(b + 4);
	h->cluster_bits = be32_at(b + 20);
	h->bytes = be64_at(b + 24);
	h->crypt = be32_at(b + 32);
	h->l1_entries = be32_at(b + 36);
	h->l1_off = be64_at(b + 40);
	h->rt_off = be64_at(b + 48);
	h->rt_clusters = be32_at(b + 56);
	h->n_snapshots = be32_at(b + 60);
	h->snapshots_off = be64_at(b + 64);
	h->refcount_order = 4;
	h->header_len = Q2_V2_HEADER_BYTES;
	if (h->version < 3)
		return;
	h->incompat = be64_at(b + 72);
	h->compat = be64_at(b + 80);
	h->autoclear = be64_at(b + 88);
	h->refcount_order = be32_at(b + 96);
	h->header_len = be32_at(b + 100);
	if (h->header_len > 104)
		h->compression = b[104];
}

/* Whether a table of n 8-byte entries at off is where a table can be. */
static bool table_ok(const struct q2_header *h, uint64_t off, uint64_t n, uint64_t max_bytes)
{
	return n * 8 <= max_bytes && (off & (BIT(h->cluster_bits) - 1)) == 0 &&
	       range_fits(off, n * 8, Q2_MAX_OFFSET);
}

static int check_fields(const struct q2_header *h, struct err *err)
{
	if (h->version != 2 && h->version != 3)
		return err_say(err, ENOTSUP, "qcow2 version %u is not known here, only 2 and 3",
			       h->version);
	if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS || h->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return bad(err, "its cluster size is not from 512 bytes to 2 MiB");
	if (h->version == 3 && (h->header_len < Q2_V3_HEADER_BYTES || h->header_len % 8 ||
				h->header_len > BIT(h->cluster_bits)))
		return bad(err, "its header has an impossible length");
	if (h->refcount_order > MAX_REFCOUNT_ORDER)
		return bad(err, "its reference counts are wider than 64 bits");
	if (!table_ok(h, h->l1_off, h->l1_entries, Q2_MAX_L1_BYTES))
		return bad(err, "its L1 table is too large or in an impossible place");
	if (h->rt_clusters == 0 ||
	    !table_ok(h, h->rt_off, (uint64_t)h->rt_clusters << (h->cluster_bits - 3),
		      MAX(Q2_MAX_RT_BYTES, BIT(h->cluster_bits))))
		return bad(err, "its reference table is too large or in an impossible place");
	if (h->n_snapshots > 65536 || h->snapshots_off & (BIT(h->cluster_bits) - 1) ||
	    h->snapshots_off >= Q2_MAX_OFFSET)
		return bad(err, "its snapshot table is in an impossible place");
	if (h->bytes > BLK_MAX_BYTES)
		return bad(err, "the disk is too large");
	if (clusters_for(clusters_for(h->bytes, h->cluster_bits), h->cluster_bits - 3) >
	    h->l1_entries)
		return bad(err, "its L1 table is too small for the disk");
	return 0;
}

static void copy_text(char *to, size_t room, const uint8_t *from, size_t len)
{
	len = MIN(len, room - 1);
	memcpy(to, from, len);
	to[len] = 0;
}

/* cluster: the header's, of len bytes. */
static int parse_extensions(struct q2_header *h, const uint8_t *cluster, size_t len,
			    struct err *err)
{
	for (size_t at = h->header_len; range_fits(at, 8, len);) {
		uint32_t type = be32_at(cluster + at), n = be32_at(cluster + at + 4);
		const uint8_t *data = cluster + at + 8;

		if (type == EXT_END)
			break;
		if (!range_fits(at + 8, n, len))
			return bad(err, "a header extension goes beyond the first cluster");
		if (type == EXT_BACKING_FORMAT)
			copy_text(h->backing_format, sizeof(h->backing_format), data, n);
		if (type == EXT_BITMAPS && n >= 24) {
			h->has_bitmaps = true;
			h->n_bitmaps = be32_at(data);
			h->bitmaps_bytes = be64_at(data + 8);
			h->bitmaps_off = be64_at(data + 16);
		}
		at += 8 + ALIGN_UP((size_t)n, 8);
	}
	return 0;
}

static int parse_backing(struct q2_header *h, const uint8_t *cluster, size_t len, struct err *err)
{
	uint64_t off = be64_at(cluster + 8);
	uint32_t n = be32_at(cluster + 16);

	if (!off)
		return 0;
	if (n == 0 || n > QCOW2_MAX_NAME || !range_fits(off, n, len))
		return bad(err, "its backing file's name is too long or in an impossible place");
	copy_text(h->backing, sizeof(h->backing), cluster + off, n);
	return 0;
}

int q2_header_read(struct blk_place *file, struct q2_header *h, struct err *err)
{
	uint8_t first[128];
	int ret = place_read(file, 0, first, sizeof(first));

	memset(h, 0, sizeof(*h));
	if (ret < 0)
		return err_set(err, -ret, "read the header");
	if (file->bytes < Q2_V2_HEADER_BYTES || be32_at(first) != Q2_MAGIC)
		return err_say(err, EINVAL, "not a qcow2 image");
	parse_fields(h, first);
	ret = check_fields(h, err);
	if (ret < 0)
		return ret;

	size_t len = BIT(h->cluster_bits);
	uint8_t *cluster = malloc(len);

	if (!cluster)
		return err_set(err, ENOMEM, "read the header");
	ret = place_read(file, 0, cluster, len);
	if (ret < 0)
		ret = err_set(err, -ret, "read the header");
	if (ret == 0)
		ret = parse_extensions(h, cluster, len, err);
	if (ret == 0)
		ret = parse_backing(h, cluster, len, err);
	free(cluster);
	return ret;
}

int q2_header_supported(const struct q2_header *h, struct err *err)
{
	const uint64_t known = Q2_INCOMPAT_DIRTY | Q2_INCOMPAT_CORRUPT | Q2_INCOMPAT_COMPRESSION;

	if (h->crypt)
		return err_say(err, ENOTSUP, "the image is encrypted, which is not known here");
	if (h->incompat & Q2_INCOMPAT_DATA_FILE)
		return err_say(err, ENOTSUP,
			       "the image has its data in another file, which is not known here");
	if (h->incompat & Q2_INCOMPAT_EXTENDED_L2)
		return err_say(err, ENOTSUP,
			       "the image has extended L2 entries, which are not known here; "
			       "qemu-img convert -o extended_l2=off makes one without");
	if (h->incompat & ~known)
		return err_say(err, ENOTSUP,
			       "the image needs features that are not known here (bits %#llx)",
			       (unsigned long long)(h->incompat & ~known));
	if (h->compression > 1 || !!(h->incompat & Q2_INCOMPAT_COMPRESSION) != !!h->compression)
		return err_say(err, ENOTSUP, "the image's compression is not known here (type %u)",
			       h->compression);
	return 0;
}

int q2_header_write(struct qcow2 *q, unsigned off, const void *buf, unsigned len)
{
	int ret = q2_sync(q);

	if (ret == 0)
		ret = place_write(q->file, off, buf, len);
	return ret == 0 ? q2_sync(q) : ret;
}
