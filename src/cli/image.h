/* Guest images: disks with a whole operating system, in the folder images/NAME of the user's store:
 *	disk.qcow2	the disk; instances stand on it, so nobody writes to it again
 *	image.json	what it is
 *	lock		held while it is built
 */
#ifndef CLI_IMAGE_H
#define CLI_IMAGE_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

struct err;

#define IMAGE_MAX_PACKAGES 256
#define IMAGE_EXAMPLE	   "debian:12"

/* What `cleave image build` was told. */
struct image_order {
	const char *system;			 /* IMAGE_EXAMPLE is the only one yet */
	const char *name;			 /* NULL: the system's */
	uint64_t bytes;				 /* of the disk; 0: IMAGE_DEFAULT_BYTES */
	const char *package[IMAGE_MAX_PACKAGES]; /* further ones */
	unsigned n_packages;
	bool force; /* replace an image that is there */
};
#define IMAGE_DEFAULT_BYTES (4ull << 30)
#define IMAGE_MIN_BYTES	    (1ull << 30)

/* The command line of `cleave image`. */
struct image_args {
	const char *name;
	bool json, instance;
	struct image_order order;
};

/* -EBUSY with a sentence if a kept instance stands on it. */
int image_check_unused(const char *name, struct err *err);
/* Letters, digits, '.', '_', '-', and one ':' inside: NAME or NAME:VERSION. */
bool image_is_name(const char *name);
/* A system that can be built. */
bool image_is_system(const char *name);
/* Build it, telling on stderr how far it is. Waits while another process builds the same: then that
 * one's is taken. Errors: what is missing on this host, in one sentence. */
int image_build(const struct image_order *o, struct err *err);

/* Where its file is ("disk.qcow2"): path has PATH_MAX bytes. The folder is made. */
int image_path(char *path, const char *name, const char *file, struct err *err);
/* Its image.json, owned by the caller. -ENOENT if there is no such image. */
int image_load(json_t **facts, const char *name, struct err *err);
/* A list of the names in one of the store's folders that have the file, in order; owned by the
 * caller. */
int image_names(json_t **names, const char *folder, const char *file, struct err *err);

/* Where this host's apt finds the packages of a Debian release, else deb.debian.org; all owned. */
struct image_sources {
	char *sources;	  /* sources.list, one line a source */
	char *build_conf; /* apt.conf: the host's proxies; may be empty */
	char *guest_conf; /* the same as a guest behind NAT has them */
};
int image_sources_find(struct image_sources *s, const char *release, struct err *err);
void image_sources_fini(struct image_sources *s);

/* Run a program and return what it prints; NULL if it cannot be started or fails. Owned by the
 * caller. */
char *image_output(const char *const *argv);

#endif
