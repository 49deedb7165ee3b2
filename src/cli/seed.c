/* ECMA-119 (ISO 9660): volume descriptors at sector 16, two path tables, a root directory with two
 * files. Names are as NoCloud wants them, which no level of the standard allows and all readers
 * take.
 */
#include "cli/seed.h"

#include "base/bits.h"

#include <stdlib.h>

#define SECTOR 2048

enum { AT_VOLUME = 16, AT_END_MARK, AT_PATHS_LE, AT_PATHS_BE, AT_ROOT, AT_FILES };

struct both16 {
	uint8_t le[2], be[2];
};

struct both32 {
	uint8_t le[4], be[4];
};

/* 9.1 */
struct record {
	uint8_t length, ext_length;
	struct both32 extent, bytes;
	uint8_t date[7], flags, unit, gap;
	struct both16 volume;
	uint8_t name_length;
} __attribute__((packed));
_Static_assert(sizeof(struct record) == 33, "ECMA-119 9.1");
#define RECORD_DIRECTORY 2

/* 8.4 */
struct volume {
	uint8_t type;
	char id[5];
	uint8_t version, unused1;
	char system[32], label[32];
	uint8_t unused2[8];
	struct both32 sectors;
	uint8_t unused3[32];
	struct both16 set_size, sequence, sector;
	struct both32 path_bytes;
	uint8_t paths_le[4], optional_le[4], paths_be[4], optional_be[4];
	struct record root;
	uint8_t root_name;
	char texts[623]; /* set, publisher, preparer, application, files */
	char dates[4][17];
	uint8_t structure_version, unused4;
} __attribute__((packed));
_Static_assert(sizeof(struct volume) == 883, "ECMA-119 8.4");

static struct both16 both16(uint16_t v)
{
	return (struct both16){ { (uint8_t)v, (uint8_t)(v >> 8) },
				{ (uint8_t)(v >> 8), (uint8_t)v } };
}

static struct both32 both32(uint32_t v)
{
	struct both32 b = { { 0 }, { 0 } };

	store32(b.le, v);
	store32(b.be, __builtin_bswap32(v));
	return b;
}

static uint32_t sectors_of(size_t len)
{
	return (uint32_t)((len + SECTOR - 1) / SECTOR);
}

static struct record make_record(uint32_t sector, size_t bytes, uint8_t flags, size_t name_len)
{
	size_t len = ALIGN_UP(sizeof(struct record) + name_len, (size_t)2);

	return (struct record){
		.length = (uint8_t)len,
		.extent = both32(sector),
		.bytes = both32((uint32_t)bytes),
		.flags = flags,
		.volume = both16(1),
		.name_length = (uint8_t)name_len,
	};
}

/* Returns where the next one goes. */
static uint8_t *put_record(uint8_t *at, struct record r, const char *name)
{
	memcpy(at, &r, sizeof(r));
	memcpy(at + sizeof(r), name, r.name_length);
	return at + r.length;
}

static void put_volume(uint8_t *disk, uint32_t sectors)
{
	struct volume v = {
		.type = 1,
		.id = { 'C', 'D', '0', '0', '1' },
		.version = 1,
		.sectors = both32(sectors),
		.set_size = both16(1),
		.sequence = both16(1),
		.sector = both16(SECTOR),
		.path_bytes = both32(10),
		.root = make_record(AT_ROOT, SECTOR, RECORD_DIRECTORY, 1),
		.structure_version = 1,
	};
	static const uint8_t end[] = { 255, 'C', 'D', '0', '0', '1', 1 };

	memset(v.system, ' ', sizeof(v.system));
	memset(v.label, ' ', sizeof(v.label));
	memcpy(v.label, "CIDATA", 6);
	memset(v.texts, ' ', sizeof(v.texts));
	for (unsigned i = 0; i < 4; i++)
		memset(v.dates[i], '0', 16); /* not specified */
	store32(v.paths_le, AT_PATHS_LE);
	store32(v.paths_be, __builtin_bswap32(AT_PATHS_BE));
	memcpy(disk + AT_VOLUME * SECTOR, &v, sizeof(v));
	memcpy(disk + AT_END_MARK * SECTOR, end, sizeof(end));
}

/* 9.4: the root is the only directory. */
static void put_paths(uint8_t *disk)
{
	uint8_t *le = disk + AT_PATHS_LE * SECTOR, *be = disk + AT_PATHS_BE * SECTOR;

	le[0] = be[0] = 1; /* bytes of the name */
	store32(le + 2, AT_ROOT);
	store32(be + 2, __builtin_bswap32(AT_ROOT));
	le[6] = be[7] = 1; /* its parent: itself */
}

static void put_root(uint8_t *disk, size_t meta_len, size_t user_len)
{
	struct record self = make_record(AT_ROOT, SECTOR, RECORD_DIRECTORY, 1);
	uint8_t *at = put_record(disk + AT_ROOT * SECTOR, self, "\0");

	at = put_record(at, self, "\1");
	at = put_record(at, make_record(AT_FILES, meta_len, 0, 9), "meta-data");
	put_record(at, make_record(AT_FILES + sectors_of(meta_len), user_len, 0, 9), "user-data");
}

uint8_t *seed_build(const void *meta, size_t meta_len, const void *user, size_t user_len,
		    size_t *size)
{
	uint32_t user_at = AT_FILES + sectors_of(meta_len);
	uint32_t sectors = user_at + sectors_of(user_len);
	uint8_t *disk = calloc(sectors, SECTOR);

	if (!disk)
		return NULL;
	put_volume(disk, sectors);
	put_paths(disk);
	put_root(disk, meta_len, user_len);
	memcpy(disk + AT_FILES * SECTOR, meta, meta_len);
	memcpy(disk + (size_t)user_at * SECTOR, user, user_len);
	*size = (size_t)sectors * SECTOR;
	return disk;
}
