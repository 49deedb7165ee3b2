#include "cli/seed.h"

#include "base/bits.h"
#include "check.h"

#include <stdlib.h>
#include <string.h>

#define SECTOR 2048

/* The content of a file in the root directory, found as a reader does; NULL if it is not there. */
static const uint8_t *find(const uint8_t *disk, size_t size, const char *name, uint32_t *len)
{
	const uint8_t *root = disk + 16 * SECTOR + 156;
	uint32_t at = load32(root + 2) * SECTOR, end = at + load32(root + 10);

	CHECK(end <= size);
	while (at < end && disk[at]) {
		const uint8_t *r = disk + at;

		CHECK_EQ(r[0] % 2, 0);
		CHECK_EQ(load32(r + 2), __builtin_bswap32(load32(r + 6)));
		CHECK_EQ(load32(r + 10), __builtin_bswap32(load32(r + 14)));
		if (r[32] == strlen(name) && memcmp(r + 33, name, r[32]) == 0) {
			*len = load32(r + 10);
			CHECK(load32(r + 2) * SECTOR + *len <= size);
			return disk + load32(r + 2) * SECTOR;
		}
		at += r[0];
	}
	return NULL;
}

static void check_seed(size_t meta_len, size_t user_len)
{
	uint8_t *meta = malloc(meta_len + 1), *user = malloc(user_len + 1);
	size_t size;
	uint32_t len;
	uint8_t *disk;
	const uint8_t *file;

	memset(meta, 'm', meta_len);
	memset(user, 'u', user_len);
	disk = seed_build(meta, meta_len, user, user_len, &size);
	CHECK(disk != NULL);
	CHECK_EQ(size % SECTOR, 0);
	CHECK_EQ(load32(disk + 16 * SECTOR + 80) * SECTOR, size);
	file = find(disk, size, "meta-data", &len);
	CHECK(file && len == meta_len);
	CHECK_MEM(file, meta, len);
	file = find(disk, size, "user-data", &len);
	CHECK(file && len == user_len);
	CHECK_MEM(file, user, len);
	CHECK(!find(disk, size, "vendor-data", &len));
	free(disk);
	free(meta);
	free(user);
}

TEST(both_files_are_found_whole)
{
	static const size_t lengths[] = { 0, 1, SECTOR - 1, SECTOR, SECTOR + 1, SEED_MAX_FILE };

	for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++)
		for (unsigned k = 0; k < ARRAY_SIZE(lengths); k++)
			check_seed(lengths[i], lengths[k]);
}

TEST(the_label_is_what_cloud_init_looks_for)
{
	size_t size;
	uint8_t *disk = seed_build("a", 1, "b", 1, &size);

	CHECK_MEM(disk + 16 * SECTOR, "\1CD001\1", 7);
	CHECK_MEM(disk + 16 * SECTOR + 40, "CIDATA  ", 8);
	CHECK_MEM(disk + 17 * SECTOR, "\377CD001\1", 7);
	free(disk);
}

TESTS(T(both_files_are_found_whole), T(the_label_is_what_cloud_init_looks_for))
