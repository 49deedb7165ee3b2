/* The qcow2 format, versions 2 and 3, as docs/interop/qcow2.txt of QEMU has it. blk_open opens one;
 * here is what else one can do with an image file.
 *
 * An image is hostile: whatever its bytes are, the functions read and write nothing but what
 * belongs to it, and use a bounded amount of memory.
 */
#ifndef DEV_BACKEND_QCOW2_QCOW2_H
#define DEV_BACKEND_QCOW2_QCOW2_H

#include <stdbool.h>
#include <stdint.h>

struct err;

#define QCOW2_MIN_CLUSTER_BITS 9
#define QCOW2_MAX_CLUSTER_BITS 21
#define QCOW2_MAX_NAME	       1023

/* Whether the file at path begins as qcow2 does. False also where it cannot be read. */
bool qcow2_has_magic(const char *path);

struct qcow2_options {
	uint64_t bytes;		    /* of the disk; a multiple of 512 */
	unsigned version;	    /* 2 or 3 */
	unsigned cluster_bits;	    /* QCOW2_MIN_CLUSTER_BITS to QCOW2_MAX_CLUSTER_BITS */
	unsigned refcount_bits;	    /* a power of two from 1 to 64; 16 in version 2 */
	const char *backing;	    /* file name as the header shall have it; NULL: none */
	const char *backing_format; /* "raw" or "qcow2" */
};

/* Fill the empty file at path, which must be there, with an image of nothing. -EINVAL for options
 * that do not go together or a disk too large for its clusters. Waits. */
int qcow2_create(const char *path, const struct qcow2_options *o, struct err *err);

struct qcow2_snapshot {
	char id[64], name[256];	       /* cut where longer */
	uint64_t bytes;		       /* of the disk then */
	uint64_t vm_state_bytes;       /* 0: none was saved */
	uint32_t seconds, nanoseconds; /* since the Epoch */
	uint64_t l1_off;
	uint32_t l1_entries;
};

#define QCOW2_MAX_SNAPSHOTS 4096

struct qcow2_facts {
	uint64_t bytes;
	unsigned version, cluster_bits, refcount_bits;
	bool zstd, dirty, corrupt, lazy_refcounts, bitmaps, encrypted, data_file, extended_l2;
	char backing[QCOW2_MAX_NAME + 1]; /* "": none */
	char backing_format[32];	  /* "": the header does not say */
	unsigned n_snapshots;
	struct qcow2_snapshot *snapshot; /* the caller frees it */
};

/* What the header says, also of images that this program cannot open. Waits. */
int qcow2_facts(const char *path, struct qcow2_facts *f, struct err *err);

struct qcow2_check {
	uint64_t clusters;   /* of the disk: */
	uint64_t allocated;  /* that are stored */
	uint64_t compressed; /* of these */
	uint64_t leaks;	     /* clusters counted too high */
	uint64_t errors;     /* that can lose data: counted too low, flags that are wrong */
	uint64_t damage;     /* entries that point to where nothing can be; not repaired */
	uint64_t repaired;   /* of leaks and errors */
	uint64_t image_end;  /* bytes of the file that are in use */
	char first[200];     /* the first error or damage, in words */
};

/* Compare what refers to each cluster with its reference count; with repair write counts (into new
 * tables, so that a crash leaves the old) and flags anew, and clear the dirty bit. Takes the
 * writer's lock to repair, else the reader's. -EFBIG if the file has too many clusters to hold
 * their counts in memory. Waits.
 */
int qcow2_check_image(const char *path, bool repair, struct qcow2_check *c, struct err *err);

#endif
