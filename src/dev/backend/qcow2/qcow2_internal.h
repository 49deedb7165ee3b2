/* What the files of the qcow2 format share.
 *
 * Durability. Metadata is changed in memory and written by q2_writeback, in this order, with a
 * flush of the file wherever something follows that relies on it:
 *	data and new tables (written as requests run), reference counts	-> the reference table
 *	-> L2 tables and the L1 table -> reference counts of what these no longer refer to
 * A count goes up in memory before anything refers to the cluster, and down only after the L2 entry
 * that referred to it has been flushed (q2_free puts it off), so counts may be written at any time.
 * At every moment the file refers to no cluster with a count too low: a crash only leaks clusters.
 *
 * Concurrency. All run on fibers of one pool. guest locks ranges of the disk: requests that keep
 *the mapping share it, those that change it have it alone. meta is held while tables change or are
 * written. A pointer into a cached table is good until the fiber pauses.
 */
#ifndef DEV_BACKEND_QCOW2_QCOW2_INTERNAL_H
#define DEV_BACKEND_QCOW2_QCOW2_INTERNAL_H

#include "dev/backend/blk_internal.h"
#include "dev/backend/qcow2/qcow2.h"

#define Q2_MAGIC 0x514649fbu /* "QFI\xfb" */

#define Q2_INCOMPAT_DIRTY	BIT(0)
#define Q2_INCOMPAT_CORRUPT	BIT(1)
#define Q2_INCOMPAT_DATA_FILE	BIT(2)
#define Q2_INCOMPAT_COMPRESSION BIT(3)
#define Q2_INCOMPAT_EXTENDED_L2 BIT(4)
#define Q2_COMPAT_LAZY		BIT(0)
#define Q2_AUTOCLEAR_BITMAPS	BIT(0)

#define Q2_COPIED     BIT(63)
#define Q2_COMPRESSED BIT(62)
#define Q2_ZERO	      BIT(0)
#define Q2_OFFSET     0x00fffffffffffe00ull /* bits 9 to 55 */
#define Q2_MAX_OFFSET BIT(56)

/* QEMU's limits. */
#define Q2_MAX_L1_BYTES	       (32 * MiB)
#define Q2_MAX_RT_BYTES	       (8 * MiB)
#define Q2_MAX_SNAPSHOTS_BYTES (64 * MiB)
#define Q2_V2_HEADER_BYTES     72
#define Q2_V3_HEADER_BYTES     104

struct q2_header {
	unsigned version, cluster_bits, refcount_order;
	uint64_t bytes;
	uint64_t l1_off, rt_off, snapshots_off;
	uint32_t l1_entries, rt_clusters, n_snapshots, crypt;
	uint64_t incompat, compat, autoclear;
	uint32_t header_len;
	uint8_t compression; /* 0 zlib, 1 zstd */
	char backing[QCOW2_MAX_NAME + 1];
	char backing_format[32];
	bool has_bitmaps;
	uint32_t n_bitmaps;
	uint64_t bitmaps_bytes, bitmaps_off; /* the directory */
};

/* A part of an L2 table or a reference block in memory. */
struct q2_slice {
	uint64_t off;  /* in the file; UINT64_MAX: unused */
	uint8_t *data; /* owned */
	bool loading;
	bool forgotten;		     /* while it was being read */
	uint32_t dirty_lo, dirty_hi; /* bytes [lo, hi) are newer than the file's */
	uint64_t used;		     /* when, by the cache's clock */
	int next;		     /* in its bucket; -1 ends it */
};

struct q2_cache {
	struct q2_slice *slice; /* n; owned */
	int *bucket;		/* n_buckets; owned */
	unsigned n, n_buckets, n_dirty;
	uint32_t slice_bytes;
	uint64_t clock;
	struct fiber_queue loaded; /* who waits for a slice */
};

/* A cluster to be given up once nothing in the file refers to it. */
struct q2_gone {
	uint64_t off;
	bool punch;
};

struct qcow2 {
	struct blk_node node;
	struct blk_place *file;	  /* owned */
	struct blk_node *backing; /* owned; or NULL */
	struct q2_header h;
	uint64_t cluster; /* bytes */
	unsigned l2_bits; /* an L2 table has 1 << l2_bits entries */
	unsigned rb_bits; /* the same of a reference block */

	uint64_t *l1;	       /* h.l1_entries in host order; owned */
	uint32_t l1_lo, l1_hi; /* entries [lo, hi) are newer than the file's */
	uint64_t *rt;	       /* rt_entries; owned */
	uint32_t rt_entries, rt_lo, rt_hi;
	struct q2_cache l2, rb;

	struct fiber_mutex meta;
	struct range_lock guest;
	struct q2_gone *gone; /* owned */
	size_t n_gone, gone_room;
	uint64_t hint;	/* no cluster below this index is free */
	uint64_t fresh; /* no cluster from this index on was ever taken; in a file that is not a
			 * device they read as zeros */
	int failed;	/* -errno: the file cannot be trusted to take more metadata */

	uint8_t *unpacked;	 /* a decompressed cluster; owned */
	uint64_t unpacked_entry; /* whose; 0: nobody's */
	struct fiber_mutex unpack;
	uint8_t *packed; /* two clusters and a sector; owned */
};

static inline struct qcow2 *q2_of(struct blk_node *n)
{
	return container_of(n, struct qcow2, node);
}

static inline uint64_t be64_at(const void *p)
{
	return __builtin_bswap64(load64(p));
}

static inline uint32_t be32_at(const void *p)
{
	return __builtin_bswap32(load32(p));
}

static inline void put_be64(void *p, uint64_t v)
{
	store64(p, __builtin_bswap64(v));
}

static inline void put_be32(void *p, uint32_t v)
{
	store32(p, __builtin_bswap32(v));
}

static inline uint64_t clusters_for(uint64_t bytes, unsigned cluster_bits)
{
	return (bytes >> cluster_bits) + ((bytes & (BIT(cluster_bits) - 1)) != 0);
}

/* qcow2_header.c. Read and check it: -EINVAL with a sentence for what is no valid image. Fiber. */
int q2_header_read(struct blk_place *file, struct q2_header *h, struct err *err);
/* -ENOTSUP with a sentence if h asks for what this program does not know. */
int q2_header_supported(const struct q2_header *h, struct err *err);
/* Change fields of the header in the file, len bytes at off, and flush before and after. Fiber. */
int q2_header_write(struct qcow2 *q, unsigned off, const void *buf, unsigned len);

/* qcow2_snapshot.c. Read the table: *list gets h->n_snapshots of them, to be freed. Fiber.
 * *table_bytes (may be NULL): how long it is. */
int q2_snapshots_read(struct blk_place *file, const struct q2_header *h,
		      struct qcow2_snapshot **list, uint64_t *table_bytes, struct err *err);

/* qcow2_open.c. Everything but backing, repair and locks. Fiber. */
int q2_load(struct qcow2 **out, struct blk_place *file, const struct q2_header *h,
	    const struct qcow2_snapshot *snapshot, struct err *err);
void q2_unload(struct qcow2 *q); /* does not close the file */
/* n big-endian words at off, into host order. *table is to be freed. Fiber. */
int q2_table_read(struct blk_place *file, uint64_t off, uint32_t n, uint64_t **table);

/* qcow2_cache.c. */
int q2_cache_init(struct q2_cache *c, uint32_t slice_bytes, uint64_t bytes);
void q2_cache_fini(struct q2_cache *c);
/* The slice at off of the file. -EIO or the place's error. Fiber. */
int q2_cache_get(struct qcow2 *q, struct q2_cache *c, uint64_t off, uint8_t **data);
/* data (of q2_cache_get, without a pause in between) was changed in [lo, hi). */
void q2_cache_dirty(struct q2_cache *c, uint64_t off, uint32_t lo, uint32_t hi);
/* Write what is dirty. Needs meta. Fiber. */
int q2_cache_write(struct qcow2 *q, struct q2_cache *c);
/* Forget the slices of the cluster at off: it is something else now. */
void q2_cache_forget(struct q2_cache *c, uint64_t off, uint64_t len);
void q2_cache_forget_all(struct q2_cache *c);

/* qcow2_refcount.c. All need meta. Fiber. index: of a cluster in the file. */
int q2_refcount(struct qcow2 *q, uint64_t index, uint64_t *count);
/* Take up to want free clusters that follow each other, at least one, and count them up to 1.
 * *fresh: they read as zeros. -ENOSPC, -EFBIG, -EIO. */
int q2_alloc(struct qcow2 *q, uint64_t want, uint64_t *off, uint64_t *got, bool *fresh);
/* Take n that follow each other, at the end of the file. */
int q2_alloc_end(struct qcow2 *q, uint64_t n, uint64_t *off);
/* Give back n clusters that nothing in the file has ever referred to, or refers to any more. */
int q2_unalloc(struct qcow2 *q, uint64_t off, uint64_t n);
/* Set q->fresh of an image on a device: behind the last cluster that is counted. */
int q2_find_end(struct qcow2 *q);
/* A count in a block's or slice's bytes, by index. */
uint64_t q2_count_get(const uint8_t *block, uint64_t i, unsigned order);
void q2_count_set(uint8_t *block, uint64_t i, unsigned order, uint64_t count);
/* Whether a cluster is the header, a table, or cached metadata: then no data can be there. */
bool q2_is_metadata(const struct qcow2 *q, uint64_t off);
/* The image contradicts itself: nothing more is written to it. Returns -EIO. */
int q2_corrupt(struct qcow2 *q);

/* qcow2_writeback.c. Fiber. */
/* Give up the cluster at off when nothing in the file refers to it any more. Needs meta. */
void q2_free(struct qcow2 *q, uint64_t off, bool punch);
/* The same of what an L2 entry refers to. */
void q2_free_entry(struct qcow2 *q, uint64_t entry, bool punch);
/* Before tables are changed: see that the caches have room. Needs meta. */
int q2_make_room(struct qcow2 *q);
/* Write all metadata; durable when it returns 0 if sync is set. Needs meta. */
int q2_writeback(struct qcow2 *q, bool sync);
/* Flush the file. A flush that failed once is not believed again: q->failed. */
int q2_sync(struct qcow2 *q);
int q2_flush(struct blk_node *n);

/* qcow2_map.c. */
enum q2_kind { Q2_KIND_NONE, Q2_KIND_ZERO, Q2_KIND_DATA, Q2_KIND_COMPRESSED };
struct q2_entry {
	enum q2_kind kind;
	uint64_t host; /* DATA; ZERO: its preallocated cluster, or 0 */
	bool copied;   /* host's count is 1: it may be written to */
};
/* -EIO if the entry makes no sense. */
int q2_entry_parse(const struct qcow2 *q, uint64_t raw, struct q2_entry *e);
/* Where a compressed cluster is in the file. */
void q2_compressed_place(const struct qcow2 *q, uint64_t raw, uint64_t *off, uint64_t *len);
/* A run of bytes from off on, in whole or part clusters of one kind, that follow each other in the
 * file if they are DATA. */
struct q2_run {
	struct q2_entry first; /* first.host: where off itself is */
	uint64_t raw;	       /* the first entry as it is */
	uint64_t len;	       /* 1 to what was asked for, bytes */
};
/* Fiber. writable: runs are cut where the answer to "may be written to in place" changes. */
int q2_lookup(struct qcow2 *q, uint64_t off, uint64_t len, struct q2_run *run);
/* The slice that maps off, in a table that may be changed (it is made or copied if need be): *at
 * gets its place in the file, *index the entry's index in it. Needs meta. Fiber. */
int q2_l2_writable(struct qcow2 *q, uint64_t off, uint64_t *at, uint32_t *index);
int q2_map(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e);

/* qcow2_read.c. Fiber. */
int q2_read(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov,
	    uint64_t len);
/* What run (of q2_lookup, mapping locked) has, to [skip, skip+run->len) of iov. */
int q2_read_run(struct qcow2 *q, uint64_t off, const struct q2_run *run, const struct iovec *iov,
		unsigned n_iov, uint64_t skip);

/* qcow2_compress.c. Unpack the cluster of entry raw and copy [skip, skip+len) of it. Fiber. */
int q2_unpack(struct qcow2 *q, uint64_t raw, uint64_t skip, const struct iovec *iov, unsigned n_iov,
	      uint64_t iov_skip, uint64_t len);

/* qcow2_write.c, qcow2_zero.c, qcow2_resize.c. Fiber. */
int q2_write(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov,
	     uint64_t len);
int q2_discard(struct blk_node *n, uint64_t off, uint64_t len);
int q2_zero(struct blk_node *n, uint64_t off, uint64_t len, bool may_unmap);
int q2_resize(struct blk_node *n, uint64_t bytes, struct err *err);
/* Free whatever maps [off, off+len), whole clusters, without a request's checks. */
int q2_drop(struct qcow2 *q, uint64_t off, uint64_t len);

/* qcow2_check.c, qcow2_repair.c. Fiber. Nothing may be dirty in memory. */
int q2_check(struct qcow2 *q, struct qcow2_check *c, struct err *err);
int q2_repair(struct qcow2 *q, struct err *err);
/* How often each cluster of the file is referred to, with or without what the reference counts
 * themselves take: *count of *n, to be freed. Fills c's allocated, compressed and damage. */
int q2_count_all(struct qcow2 *q, struct qcow2_check *c, bool refcounts, uint32_t **count,
		 uint64_t *n, struct err *err);
/* raw with the COPIED flag that it should have. */
uint64_t q2_right_flag(struct qcow2 *q, uint64_t raw, const uint32_t *count, uint64_t n);
/* Call fn for each L2 table of the active L1 table that is in the file's first n clusters. */
int q2_each_l2(struct qcow2 *q, uint64_t n, void *arg,
	       int (*fn)(struct qcow2 *q, uint64_t at, uint8_t *table, void *arg));

#endif
