/* A disk for cloud-init's NoCloud: an ISO 9660 file system labelled CIDATA with two files. */
#ifndef CLI_SEED_H
#define CLI_SEED_H

#include <stddef.h>
#include <stdint.h>

#define SEED_MAX_FILE (1u << 20)

/* The disk with the files meta-data and user-data, at most SEED_MAX_FILE each; *size gets its
 * bytes. Owned by the caller; NULL: no memory. */
uint8_t *seed_build(const void *meta, size_t meta_len, const void *user, size_t user_len,
		    size_t *size);

#endif
