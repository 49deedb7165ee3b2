/* A machine that runs an image: its disk, which stands on the image's, its kernel, and what the
 * guest is told. Kept ones are the folders instances/NAME of the user's store: disk.qcow2,
 * instance.json.
 */
#ifndef CLI_INSTANCE_H
#define CLI_INSTANCE_H

#include "cli/image_boot.h"
#include "dev/backend/blk.h"

#include <jansson.h>
#include <limits.h>

struct err;

/* What `cleave run IMAGE` was told. NULL: not said. */
struct instance_order {
	const char *image;
	const char *name;    /* keeps the disk */
	bool keep;	     /* also without a name: one is made up */
	const char *ssh_key; /* file of public keys that may log in, besides this user's own */
	const char *hostname;
	const char *user_data; /* file for cloud-init */
	const char *append;    /* further words for the kernel */
	bool has_kernel;       /* the user names one: do not look for it on the disk */
};

#define INSTANCE_MAX_NAME 64

struct instance {
	char name[INSTANCE_MAX_NAME + 1]; /* "": has none */
	struct blk_open disk[2]; /* the disk, and the seed for cloud-init if there is one */
	unsigned n_disks;
	struct image_boot boot;
	char append[4096];
	char *oem[2];	   /* SMBIOS strings, up to a NULL; owned */
	char password[32]; /* root's, on the console; "": not known */

	char path[PATH_MAX], seed[32]; /* disk's */
	int disk_fd, seed_fd;	       /* owned; -1: none */
};

/* Build the image if it is missing, make or find the disk, find the kernel. Needs to be called
 * before this process has threads. Errors: a sentence; nothing is left behind.
 */
int instance_new(struct instance **out, const struct instance_order *o, struct err *err);
/* A disk that is not kept is gone with this, or with the process. NULL is fine. */
void instance_free(struct instance *i);

/* The kept ones: a list of objects with name, image, host_bytes; owned by the caller. */
int instance_list(json_t **list, struct err *err);
/* -ENOENT if there is none of that name, -EBUSY if it runs. */
int instance_check_idle(const char *name, struct err *err);

/* This user's public key for machines, with its newline; made at the first time. Owned by the
 * caller; NULL with a sentence. */
char *ssh_key_public(struct err *err);

#endif
