/* Opening and closing an image. */
#include "base/err.h"
#include "base/log.h"
#include "dev/backend/qcow2/qcow2_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_SLICE_BYTES (64 * KiB)
#define L2_CACHE_BYTES	(32 * MiB)
#define RB_CACHE_BYTES	(4 * MiB)

int q2_table_read(struct blk_place *file, uint64_t off, uint32_t n, uint64_t **table)
{
	uint64_t *t = calloc(MAX(n, 1u), 8);
	int ret = t ? 0 : -ENOMEM;

	if (ret == 0 && n)
		ret = place_read(file, off, t, n * 8ull);
	for (uint32_t i = 0; i < n && ret == 0; i++)
		t[i] = __builtin_bswap64(t[i]);
	if (ret < 0)
		free(t);
	else
		*table = t;
	return ret;
}

void q2_unload(struct qcow2 *q)
{
	q2_cache_fini(&q->l2);
	q2_cache_fini(&q->rb);
	free(q->l1);
	free(q->rt);
	free(q->gone);
	free(q->packed);
	free(q->unpacked);
	free(q);
}

static int load_tables(struct qcow2 *q)
{
	uint32_t slice = (uint32_t)MIN(q->cluster, MAX_SLICE_BYTES);
	uint64_t map_bytes = clusters_for(q->h.bytes, q->h.cluster_bits) * 8;
	int ret = q2_table_read(q->file, q->h.l1_off, q->h.l1_entries, &q->l1);

	q->rt_entries = (uint32_t)(q->h.rt_clusters * q->cluster / 8);
	if (ret == 0)
		ret = q2_table_read(q->file, q->h.rt_off, q->rt_entries, &q->rt);
	if (ret == 0)
		ret = q2_cache_init(&q->l2, slice, MIN(L2_CACHE_BYTES, 2 * map_bytes + slice));
	return ret == 0 ? q2_cache_init(&q->rb, slice, RB_CACHE_BYTES) : ret;
}

static const struct blk_node_ops qcow2_ops;

int q2_load(struct qcow2 **out, struct blk_place *file, const struct q2_header *h,
	    const struct qcow2_snapshot *snapshot, struct err *err)
{
	struct qcow2 *q = calloc(1, sizeof(*q));

	if (!q)
		return err_set(err, ENOMEM, "open the image");
	q->file = file;
	q->h = *h;
	if (snapshot) {
		q->h.l1_off = snapshot->l1_off;
		q->h.l1_entries = snapshot->l1_entries;
		q->h.bytes = snapshot->bytes;
	}
	q->cluster = BIT(h->cluster_bits);
	q->l2_bits = h->cluster_bits - 3;
	q->rb_bits = h->cluster_bits + 3 - h->refcount_order;
	q->fresh = file->fixed_size ? 0 : clusters_for(file->bytes, h->cluster_bits);
	q->node = (struct blk_node){ .ops = &qcow2_ops,
				     .drv = file->drv,
				     .bytes = q->h.bytes / BLK_SECTOR * BLK_SECTOR,
				     .block = (uint32_t)MAX(4096, file->align),
				     .readonly = file->readonly,
				     .can_discard = !file->readonly };

	int ret = load_tables(q);

	if (ret < 0) {
		q2_unload(q);
		return err_set(err, -ret, "read the image's tables");
	}
	*out = q;
	return 0;
}

static int find_snapshot(struct blk_place *file, const struct q2_header *h, const char *name,
			 struct qcow2_snapshot *s, struct err *err)
{
	struct qcow2_snapshot *list;
	const struct qcow2_snapshot *found = NULL;
	int ret = q2_snapshots_read(file, h, &list, NULL, err);

	if (ret < 0)
		return ret;
	for (uint32_t i = 0; i < h->n_snapshots; i++)
		if (strcmp(list[i].id, name) == 0 || (!found && strcmp(list[i].name, name) == 0))
			found = &list[i];
	if (found)
		*s = *found;
	free(list);
	if (!found)
		return err_say(err, ENOENT, "the image has no snapshot '%s'", name);
	if (s->l1_entries * 8ull > Q2_MAX_L1_BYTES || s->l1_off & (BIT(h->cluster_bits) - 1) ||
	    s->l1_off >= Q2_MAX_OFFSET || s->bytes > BLK_MAX_BYTES ||
	    clusters_for(clusters_for(s->bytes, h->cluster_bits), h->cluster_bits - 3) >
		    s->l1_entries)
		return err_say(err, EINVAL, "snapshot '%s' is not valid", name);
	return 0;
}

/* The backing file's name as a path from here: relative names count from the image's folder. */
static char *backing_path(const char *image, const char *name)
{
	const char *slash = strrchr(image, '/');
	char *path = NULL;

	if (name[0] == '/' || !slash)
		return strdup(name);
	if (asprintf(&path, "%.*s/%s", (int)(slash - image), image, name) < 0)
		return NULL;
	return path;
}

/* What to open below this image. 0 and below->path NULL: nothing. Who calls it frees below->path.
 */
static int find_backing(const struct q2_header *h, const struct blk_open *how,
			struct blk_open *below, struct err *err)
{
	*below = (struct blk_open){ .readonly = true,
				    .direct = how->direct,
				    .backing = how->backing,
				    .no_lock = how->no_lock };
	if (how->backing_path) {
		below->path = strdup(how->backing_path);
		below->format = how->backing_format;
		return below->path ? 0 : err_set(err, ENOMEM, "open the backing file");
	}
	if (!h->backing[0] || how->as_is)
		return 0;
	if (!how->backing)
		return err_say(err, EINVAL,
			       "the image stands on the backing file '%s', which is followed only "
			       "when asked for: add backing",
			       h->backing);
	/* A name that is more than a path (as QEMU tells) is another program's to follow. */
	if (h->backing[strcspn(h->backing, ":/")] == ':' && !blk_is_nbd(h->backing))
		return err_say(err, ENOTSUP, "the backing file '%s' is not the name of a file",
			       h->backing);
	if (strcmp(h->backing_format, "raw") != 0 && strcmp(h->backing_format, "qcow2") != 0)
		return err_say(err, EINVAL,
			       "the image says '%s' for the format of its backing file '%s': name "
			       "it by backing=FILE,backing-format=raw or qcow2",
			       h->backing_format, h->backing);
	below->format = strcmp(h->backing_format, "raw") == 0 ? BLK_RAW : BLK_QCOW2;
	below->path =
		blk_is_nbd(h->backing) ? strdup(h->backing) : backing_path(how->path, h->backing);
	return below->path ? 0 : err_set(err, ENOMEM, "open the backing file");
}

static int open_backing(struct qcow2 *q, const struct blk_open *how, struct blk_chain *chain,
			struct err *err)
{
	struct blk_open below;
	int ret = find_backing(&q->h, how, &below, err);

	if (ret < 0 || !below.path)
		return ret;
	ret = blk_node_open(&q->backing, q->node.drv, &below, chain, err);
	if (ret < 0)
		err_wrap(err, "backing file %s", below.path);
	free((char *)(uintptr_t)below.path);
	return ret;
}

/* What an image needs before it is written to. */
static int prepare_writing(struct qcow2 *q, const struct blk_open *how, struct err *err)
{
	static const uint8_t none[8];
	int ret = 0;

	if (q->h.incompat & Q2_INCOMPAT_CORRUPT)
		return err_say(err, EINVAL,
			       "the image is marked corrupt: it can be read, or mended by "
			       "`cleave disk check --repair`");
	if (q->h.incompat & Q2_INCOMPAT_DIRTY) {
		log_say(LOG_INFO, "%s was not closed in order: its reference counts are made anew",
			how->path);
		ret = q2_repair(q, err);
	}
	/* Unknown bits stand for what writing may make wrong. */
	if (ret == 0 && q->h.autoclear) {
		ret = q2_header_write(q, 88, none, sizeof(none));
		if (ret < 0)
			return err_set(err, -ret, "write the header");
	}
	if (ret == 0 && q->file->fixed_size) {
		ret = q2_find_end(q);
		if (ret < 0)
			return err_set(err, -ret, "read the reference counts");
	}
	return ret;
}

static int load_image(struct qcow2 **out, struct blk_place *place, const struct blk_open *how,
		      struct err *err)
{
	struct qcow2_snapshot snapshot;
	struct q2_header h;
	int ret = q2_header_read(place, &h, err);

	if (ret == 0)
		ret = q2_header_supported(&h, err);
	if (ret == 0 && how->snapshot && !how->readonly)
		ret = err_say(err, EINVAL, "a snapshot can only be read");
	if (ret == 0 && how->snapshot)
		ret = find_snapshot(place, &h, how->snapshot, &snapshot, err);
	if (ret == 0)
		ret = q2_load(out, place, &h, how->snapshot ? &snapshot : NULL, err);
	return ret;
}

static int close_image(struct qcow2 *q)
{
	struct blk_node *backing = q->backing;
	struct blk_place *file = q->file;
	int ret = 0;

	/* Twice: the first gives up clusters, the second writes that. */
	if (!q->node.readonly) {
		ret = q2_writeback(q, true);
		if (ret == 0)
			ret = q2_writeback(q, true);
	}
	q2_unload(q);
	if (backing)
		backing->ops->close(backing);
	file->ops->close(file);
	return ret;
}

static int q2_close(struct blk_node *n)
{
	return close_image(q2_of(n));
}

static const struct blk_node_ops qcow2_ops = {
	.read = q2_read,
	.write = q2_write,
	.flush = q2_flush,
	.discard = q2_discard,
	.zero = q2_zero,
	.resize = q2_resize,
	.map = q2_map,
	.close = q2_close,
};

int qcow2_open(struct blk_node **out, struct blk_place *place, const struct blk_open *how,
	       struct blk_chain *chain, struct err *err)
{
	struct qcow2 *q;
	int ret = load_image(&q, place, how, err);

	if (ret < 0) {
		place->ops->close(place);
		return err_wrap(err, "%s", how->path);
	}
	ret = open_backing(q, how, chain, err);
	if (ret == 0 && !how->readonly && !how->as_is)
		ret = prepare_writing(q, how, err);
	if (ret < 0) {
		q->node.readonly = true; /* nothing to write back */
		close_image(q);
		return err_wrap(err, "%s", how->path);
	}
	*out = &q->node;
	return 0;
}
