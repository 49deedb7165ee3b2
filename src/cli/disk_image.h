/* What the subcommands of `cleave disk` share. */
#ifndef CLI_DISK_IMAGE_H
#define CLI_DISK_IMAGE_H

#include "dev/backend/blk.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

struct err;

/* What the command line said. Strings are argv's; NULL: not said. */
struct disk_args {
	const char *command;
	bool json, repair, force, backing, shrink;
	const char *format, *to, *cluster_size, *compat, *refcount_bits, *backing_file,
		*backing_format, *snapshot;
	const char *file[2];
	unsigned n_files;
};

/* 0, a positive exit status, or -errno with a sentence. */
int disk_create(const struct disk_args *a, struct err *err);
int disk_info(const struct disk_args *a, struct err *err);
int disk_check(const struct disk_args *a, struct err *err);
int disk_convert(const struct disk_args *a, struct err *err);
int disk_resize(const struct disk_args *a, struct err *err);
int disk_map(const struct disk_args *a, struct err *err);

/* The format that was said, or raw unless the file looks like qcow2. */
int disk_source_format(const struct disk_args *a, const char *path, enum blk_format *format,
		       struct err *err);
/* A size for a disk: rounded up to sectors. */
int disk_parse_size(const char *text, uint64_t *bytes, struct err *err);

/* A file that gets its name only when it is complete. */
struct new_file {
	const char *name; /* borrowed */
	char *temporary;  /* owned; in the same folder */
	bool force;	  /* may replace what has the name */
	sigset_t signals; /* that are held back from new_file_begin to new_file_end */
	int got;	  /* the signal that asked for the end, or 0 */
};
/* Errors: -EEXIST with a sentence if the name is taken and force is not set; the host's. */
int new_file_begin(struct new_file *f, const char *name, bool force, struct err *err);
/* Whether the user wants to stop: then f->got is set. */
bool new_file_stopped(struct new_file *f);
/* Give it its name if ret is 0, else remove it. Returns ret, the error of that, or 128 + the signal
 * that was asked for. */
int new_file_end(struct new_file *f, int ret, struct err *err);
/* Make an empty image of the size and options in a format at path, which is an empty file. */
int disk_make(const struct disk_args *a, const char *path, enum blk_format format, uint64_t bytes,
	      struct err *err);

/* Copy the disk from into f as a new image with a's options. Ends early
 * where new_file_stopped says so. */
int disk_copy(const struct blk_open *from, const struct disk_args *a, enum blk_format to,
	      struct new_file *f, struct err *err);

/* Says how far something is, on a terminal, once it takes more than a second. */
struct progress {
	uint64_t total, next_ns;
	bool shown;
};
void progress_begin(struct progress *p, uint64_t total);
void progress_tell(struct progress *p, uint64_t done);
void progress_end(struct progress *p);

/* Text from an image, which may hold anything: as a JSON string, or for a terminal. */
void print_json_string(const char *text);
void print_safely(const char *text);

#endif
