/* What is done with an image file besides opening it as a disk: create, look, check, repair. */
#include "base/err.h"
#include "base/own.h"
#include "dev/backend/qcow2/qcow2_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

/* Clusters of a new image: header, reference table, reference blocks, L1 table. */
struct layout {
	const struct qcow2_options *o;
	unsigned order; /* of a count's width */
	uint64_t l1_entries, l1_clusters, rt_clusters, n_blocks, end;
};

static unsigned rb_bits(const struct layout *l)
{
	return l->o->cluster_bits + 3 - l->order;
}

static void lay_out(struct layout *l)
{
	unsigned bits = l->o->cluster_bits;

	l->order = (unsigned)__builtin_ctz(l->o->refcount_bits);
	l->l1_entries = clusters_for(clusters_for(l->o->bytes, bits), bits - 3);
	l->l1_clusters = clusters_for(l->l1_entries * 8, bits);
	l->rt_clusters = l->n_blocks = 1;
	for (;;) {
		uint64_t blocks, clusters;

		l->end = 1 + l->rt_clusters + l->n_blocks + l->l1_clusters;
		blocks = ((l->end - 1) >> rb_bits(l)) + 1;
		clusters = clusters_for(blocks * 8, bits);
		if (blocks <= l->n_blocks && clusters <= l->rt_clusters)
			break;
		l->n_blocks = blocks;
		l->rt_clusters = clusters;
	}
}

static int check_options(const struct qcow2_options *o, struct err *err)
{
	if (o->version != 2 && o->version != 3)
		return err_say(err, EINVAL, "qcow2 has versions 2 and 3");
	if (o->cluster_bits < QCOW2_MIN_CLUSTER_BITS || o->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return err_say(err, EINVAL, "clusters have from 512 bytes to 2 MiB");
	if (o->refcount_bits < 1 || o->refcount_bits > 64 ||
	    (o->refcount_bits & (o->refcount_bits - 1)))
		return err_say(err, EINVAL, "reference counts have 1, 2, 4, 8, 16, 32 or 64 bits");
	if (o->version == 2 && o->refcount_bits != 16)
		return err_say(err, EINVAL, "reference counts have 16 bits in version 2");
	if (o->bytes % BLK_SECTOR)
		return err_say(err, EINVAL, "a disk's size is a multiple of 512 bytes");
	if (o->bytes > BLK_MAX_BYTES ||
	    clusters_for(clusters_for(o->bytes, o->cluster_bits), o->cluster_bits - 3) * 8 >
		    Q2_MAX_L1_BYTES)
		return err_say(err, EINVAL,
			       "the disk is too large for its clusters: take larger ones");
	if (o->backing && strlen(o->backing) > QCOW2_MAX_NAME)
		return err_say(err, EINVAL, "the backing file's name is too long");
	if (o->backing && 256 + strlen(o->backing) > BIT(o->cluster_bits))
		return err_say(err, EINVAL,
			       "the backing file's name does not fit into the first cluster");
	return 0;
}

/* The first cluster, in b, which is zeros. */
static void put_header(const struct layout *l, uint8_t *b)
{
	const struct qcow2_options *o = l->o;
	unsigned at = o->version == 2 ? Q2_V2_HEADER_BYTES : 112, bits = o->cluster_bits;

	put_be32(b, Q2_MAGIC);
	put_be32(b + 4, o->version);
	put_be32(b + 20, bits);
	put_be64(b + 24, o->bytes);
	put_be32(b + 36, (uint32_t)l->l1_entries);
	put_be64(b + 40, l->l1_entries ? (1 + l->rt_clusters + l->n_blocks) << bits : 0);
	put_be64(b + 48, 1ull << bits);
	put_be32(b + 56, (uint32_t)l->rt_clusters);
	if (o->version == 3) {
		put_be32(b + 96, l->order);
		put_be32(b + 100, 112);
	}
	if (!o->backing)
		return;
	put_be32(b + at, 0xe2792acau);
	put_be32(b + at + 4, (uint32_t)strlen(o->backing_format));
	memcpy(b + at + 8, o->backing_format, strlen(o->backing_format));
	at += 8 + 8 + 8; /* that extension's eight bytes, and the end of extensions */
	put_be64(b + 8, at);
	put_be32(b + 16, (uint32_t)strlen(o->backing));
	memcpy(b + at, o->backing, strlen(o->backing));
}

static void put_block(const struct layout *l, uint64_t block, uint8_t *b)
{
	uint64_t first = block << rb_bits(l);

	for (uint64_t i = 0; i < BIT(rb_bits(l)) && first + i < l->end; i++)
		q2_count_set(b, i, l->order, 1);
}

static void put_table(const struct layout *l, uint64_t cluster, uint8_t *b)
{
	uint64_t per_cluster = BIT(l->o->cluster_bits - 3), first = cluster * per_cluster;

	for (uint64_t i = 0; i < per_cluster && first + i < l->n_blocks; i++)
		put_be64(b + i * 8, (1 + l->rt_clusters + first + i) << l->o->cluster_bits);
}

static int create(struct blk_place *p, void *arg, struct err *err)
{
	struct layout l = { .o = arg };
	uint64_t size = BIT(l.o->cluster_bits);
	uint8_t *b = malloc(size);
	int ret = b ? 0 : -ENOMEM;

	lay_out(&l);
	/* The header last: without it this is no image. */
	for (uint64_t i = l.end; i-- > 0 && ret == 0;) {
		memset(b, 0, size);
		if (i == 0)
			put_header(&l, b);
		else if (i < 1 + l.rt_clusters)
			put_table(&l, i - 1, b);
		else if (i < 1 + l.rt_clusters + l.n_blocks)
			put_block(&l, i - 1 - l.rt_clusters, b);
		if (i == 0)
			ret = p->ops->flush(p);
		if (ret == 0)
			ret = place_write(p, i * size, b, size);
	}
	free(b);
	if (ret == 0)
		ret = p->ops->flush(p);
	return ret < 0 ? err_set(err, -ret, "write the image") : 0;
}

int qcow2_create(const char *path, const struct qcow2_options *o, struct err *err)
{
	int ret = check_options(o, err);

	if (ret < 0)
		return ret;
	return blk_on_place(&(struct blk_open){ .path = path }, create,
			    (struct qcow2_options *)(uintptr_t)o, err);
}

bool qcow2_has_magic(const char *path)
{
	AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	uint8_t magic[4];

	return fd >= 0 && pread(fd, magic, sizeof(magic), 0) == sizeof(magic) &&
	       be32_at(magic) == Q2_MAGIC;
}

static int facts(struct blk_place *p, void *arg, struct err *err)
{
	struct qcow2_facts *f = arg;
	struct q2_header h;
	int ret = q2_header_read(p, &h, err);

	if (ret < 0)
		return ret;
	*f = (struct qcow2_facts){
		.bytes = h.bytes,
		.version = h.version,
		.cluster_bits = h.cluster_bits,
		.refcount_bits = 1u << h.refcount_order,
		.zstd = h.compression == 1,
		.dirty = h.incompat & Q2_INCOMPAT_DIRTY,
		.corrupt = h.incompat & Q2_INCOMPAT_CORRUPT,
		.data_file = h.incompat & Q2_INCOMPAT_DATA_FILE,
		.extended_l2 = h.incompat & Q2_INCOMPAT_EXTENDED_L2,
		.lazy_refcounts = h.compat & Q2_COMPAT_LAZY,
		.bitmaps = h.has_bitmaps && h.autoclear & Q2_AUTOCLEAR_BITMAPS,
		.encrypted = h.crypt != 0,
		.n_snapshots = h.n_snapshots,
	};
	memcpy(f->backing, h.backing, sizeof(f->backing));
	memcpy(f->backing_format, h.backing_format, sizeof(f->backing_format));
	return q2_snapshots_read(p, &h, &f->snapshot, NULL, err);
}

int qcow2_facts(const char *path, struct qcow2_facts *f, struct err *err)
{
	struct blk_open how = { .path = path, .readonly = true, .no_lock = true };

	return blk_on_place(&how, facts, f, err);
}

struct check_call {
	bool repair;
	struct qcow2_check *c;
};

static int check_loaded(struct qcow2 *q, struct check_call *call, struct err *err)
{
	struct qcow2_check was = { 0 };
	int ret = q2_check(q, &was, err);
	bool dirty = q->h.incompat & (Q2_INCOMPAT_DIRTY | Q2_INCOMPAT_CORRUPT);

	*call->c = was;
	if (ret < 0 || !call->repair || (!was.leaks && !was.errors && !dirty))
		return ret;
	ret = q2_repair(q, err);
	if (ret < 0)
		return ret;
	*call->c = (struct qcow2_check){ 0 };
	ret = q2_check(q, call->c, err);
	call->c->repaired = was.leaks + was.errors;
	return ret;
}

static int check(struct blk_place *p, void *arg, struct err *err)
{
	struct q2_header h;
	struct qcow2 *q;
	int ret = q2_header_read(p, &h, err);

	if (ret == 0)
		ret = q2_header_supported(&h, err);
	if (ret == 0)
		ret = q2_load(&q, p, &h, NULL, err);
	if (ret < 0)
		return ret;
	ret = check_loaded(q, arg, err);
	q2_unload(q);
	return ret;
}

int qcow2_check_image(const char *path, bool repair, struct qcow2_check *c, struct err *err)
{
	struct blk_open how = { .path = path, .readonly = !repair };
	struct check_call call = { repair, c };

	memset(c, 0, sizeof(*c));
	return blk_on_place(&how, check, &call, err);
}
