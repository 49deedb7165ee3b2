/* A structure is fields of a fixed layout, then the strings that its fields number from 1, then an
 * empty string. Two entry points lead to the same structures: the 64-bit one, and the older one for
 * guests that do not know it.
 */
#include "machine/smbios.h"

#include "cpu/x86/features.h"
#include "machine/memmap.h"

#define MAKER "Cleave"

#define HANDLE_MEMORY 0x1000
#define NO_HANDLE     0xffff
#define NO_ERROR_INFO 0xfffe

/* DSP0134 3.0, 5.2.1 and 5.2.2. */
struct entry32 {
	char anchor[4];
	uint8_t checksum, length, major, minor;
	uint16_t max_structure;
	uint8_t revision, formatted[5];
	char dmi_anchor[5];
	uint8_t dmi_checksum;
	uint16_t table_length;
	uint32_t table;
	uint16_t n_structures;
	uint8_t bcd_revision;
} __attribute__((packed));
_Static_assert(sizeof(struct entry32) == 0x1f, "DSP0134 5.2.1");
#define ENTRY32_DMI 0x10 /* what the second checksum covers starts here */

struct entry64 {
	char anchor[5];
	uint8_t checksum, length, major, minor, docrev, revision, reserved;
	uint32_t max_bytes;
	uint64_t table;
} __attribute__((packed));
_Static_assert(sizeof(struct entry64) == 0x18, "DSP0134 5.2.2");

#define ENTRY64_AT 0x20
#define TABLE_AT   0x40

struct header {
	uint8_t type, length;
	uint16_t handle;
} __attribute__((packed));

struct bios {
	struct header h;
	uint8_t vendor, version;
	uint16_t segment;
	uint8_t date, rom_64k_less_1;
	uint64_t characteristics;
	uint8_t extension[2], major, minor, ec_major, ec_minor;
} __attribute__((packed));
_Static_assert(sizeof(struct bios) == 0x18, "DSP0134 7.1");
#define BIOS_NOTHING_SAID BIT(3)
#define BIOS_EXT1_ACPI	  BIT(0)
#define BIOS_EXT2_VIRTUAL BIT(4)

struct system {
	struct header h;
	uint8_t maker, product, version, serial, uuid[16], wakeup, sku, family;
} __attribute__((packed));
_Static_assert(sizeof(struct system) == 0x1b, "DSP0134 7.2");
#define WAKEUP_POWER_SWITCH 6

struct chassis {
	struct header h;
	uint8_t maker, type, version, serial, asset, boot_up, power, thermal, security;
	uint32_t oem;
	uint8_t height, power_cords, n_elements, element_bytes, sku;
} __attribute__((packed));
_Static_assert(sizeof(struct chassis) == 0x16, "DSP0134 7.4");
#define CHASSIS_OTHER 1
#define STATE_SAFE    3
#define SECURITY_NONE 3

struct processor {
	struct header h;
	uint8_t socket, type, family, maker;
	uint32_t signature, features;
	uint8_t version, voltage;
	uint16_t clock_mhz, max_mhz, now_mhz;
	uint8_t status, upgrade;
	uint16_t cache[3];
	uint8_t serial, asset, part, cores, cores_on, threads;
	uint16_t characteristics, family2, cores2, cores_on2, threads2;
} __attribute__((packed));
_Static_assert(sizeof(struct processor) == 0x30, "DSP0134 7.5");
#define PROCESSOR_CENTRAL   3
#define PROCESSOR_OTHER	    1
#define PROCESSOR_ENABLED   0x41
#define PROCESSOR_64BIT	    BIT(2)
#define PROCESSOR_MULTICORE BIT(3)

struct oem_strings {
	struct header h;
	uint8_t n;
} __attribute__((packed));
_Static_assert(sizeof(struct oem_strings) == 5, "DSP0134 7.12");
#define MAX_STRINGS 255

struct memory_array {
	struct header h;
	uint8_t location, use, correction;
	uint32_t capacity_kib;
	uint16_t error_handle, n_devices;
	uint64_t capacity_bytes;
} __attribute__((packed));
_Static_assert(sizeof(struct memory_array) == 0x17, "DSP0134 7.17");
#define ARRAY_ON_BOARD	  3
#define ARRAY_SYSTEM	  3
#define ARRAY_NONE	  3 /* no error correction */
#define CAPACITY_IN_BYTES 0x80000000

struct memory_device {
	struct header h;
	uint16_t array, error_handle, total_width, data_width, size;
	uint8_t form, set, locator, bank, type;
	uint16_t detail, speed;
	uint8_t maker, serial, asset, part, attributes;
	uint32_t size_mib;
	uint16_t clock, min_mv, max_mv, mv;
} __attribute__((packed));
_Static_assert(sizeof(struct memory_device) == 0x28, "DSP0134 7.18");
#define WIDTH_UNKNOWN	0xffff
#define SIZE_IN_KIB	0x8000
#define SIZE_IN_FIELD32 0x7fff
#define FORM_DIMM	9
#define MEMORY_RAM	7
#define DETAIL_OTHER	BIT(1)

struct mapped_range {
	struct header h;
	uint32_t first_kib, last_kib;
	uint16_t array;
	uint8_t width;
	uint64_t first, last;
} __attribute__((packed));
_Static_assert(sizeof(struct mapped_range) == 0x1f, "DSP0134 7.20");
#define RANGE_IN_BYTES 0xffffffff

struct boot_status {
	struct header h;
	uint8_t reserved[6], status;
} __attribute__((packed));
_Static_assert(sizeof(struct boot_status) == 0x0b, "DSP0134 7.33");

struct builder {
	uint8_t *buf;
	size_t size, used;
	unsigned n, largest; /* structures, and the bytes of the largest */
	bool overflow;
};

static void put(struct builder *b, const void *data, size_t len)
{
	if (!range_fits(b->used, len, b->size)) {
		b->overflow = true;
		return;
	}
	memcpy(b->buf + b->used, data, len);
	b->used += len;
}

/* Add a structure of len bytes; its handle is its place, unless it has one. strings: what its
 * fields number, up to a NULL. */
static void add(struct builder *b, uint8_t type, void *structure, size_t len,
		const char *const *strings)
{
	struct header *h = structure;
	size_t start = b->used;

	h->type = type;
	h->length = (uint8_t)len;
	if (!h->handle)
		h->handle = (uint16_t)b->n;
	put(b, structure, len);
	if (!*strings)
		put(b, "", 1);
	for (; *strings; strings++)
		put(b, *strings, strlen(*strings) + 1);
	put(b, "", 1);
	b->n++;
	b->largest = MAX(b->largest, (unsigned)(b->used - start));
}

#define ADD(b, type, structure, ...)                                                               \
	add(b, type, structure, sizeof(*(structure)), (const char *const[]){ __VA_ARGS__ })

static void add_bios(struct builder *b)
{
	struct bios s = {
		.vendor = 1,
		.version = 2,
		.segment = ACPI_BASE >> 4,
		.date = 3,
		.rom_64k_less_1 = (SMBIOS_END - ACPI_BASE) / (64 * KiB) - 1,
		.characteristics = BIOS_NOTHING_SAID,
		.extension = { BIOS_EXT1_ACPI, BIOS_EXT2_VIRTUAL },
		.major = 1,
		.ec_major = 0xff, /* there is no embedded controller */
		.ec_minor = 0xff,
	};

	ADD(b, 0, &s, MAKER, "1.0", "01/01/2026", NULL);
}

/* Serial number and UUID are not given: all zeros are "not present". */
static void add_system(struct builder *b)
{
	struct system s = { .maker = 1, .product = 2, .version = 3, .wakeup = WAKEUP_POWER_SWITCH };

	ADD(b, 1, &s, MAKER, "PC", "1.0", NULL);
}

static void add_chassis(struct builder *b)
{
	struct chassis s = {
		.maker = 1,
		.type = CHASSIS_OTHER,
		.boot_up = STATE_SAFE,
		.power = STATE_SAFE,
		.thermal = STATE_SAFE,
		.security = SECURITY_NONE,
	};

	ADD(b, 3, &s, MAKER, NULL);
}

/* CPUID.1:EDX. */
static uint32_t feature_bits(const struct cpu_model *cpu)
{
	uint32_t bits = 0;

#define X(id, text, leaf, sub, reg, bit)                                                           \
	if ((leaf) == 1 && (reg) == CPUID_EDX && cpu_has(cpu, FEAT_##id))                          \
		bits |= 1u << (bit);
	CPU_FEATURES(X)
#undef X
	return bits;
}

/* All vCPUs are cores of one package, as CPUID has it. */
static void add_processor(struct builder *b, const struct cpu_model *cpu)
{
	uint16_t mhz = (uint16_t)(cpu->tsc_khz / 1000);
	uint8_t n = (uint8_t)cpu->n_vcpus;
	const char *brand = cpu->brand + strspn(cpu->brand, " ");
	struct processor s = {
		.socket = 1,
		.type = PROCESSOR_CENTRAL,
		.family = PROCESSOR_OTHER,
		.maker = 2,
		.signature = cpu->signature,
		.features = feature_bits(cpu),
		.version = *brand ? 3 : 0,
		.max_mhz = mhz,
		.now_mhz = mhz,
		.status = PROCESSOR_ENABLED,
		.upgrade = PROCESSOR_OTHER,
		.cache = { NO_HANDLE, NO_HANDLE, NO_HANDLE },
		.cores = n,
		.cores_on = n,
		.threads = n,
		.characteristics = (cpu_has(cpu, FEAT_LM) ? PROCESSOR_64BIT : 0) |
				   (n > 1 ? PROCESSOR_MULTICORE : 0),
		.family2 = PROCESSOR_OTHER,
		.cores2 = n,
		.cores_on2 = n,
		.threads2 = n,
	};

	ADD(b, 4, &s, "CPU 0", cpu->vendor, *brand ? brand : NULL, NULL);
}

static void add_oem_strings(struct builder *b, const char *const *text)
{
	struct oem_strings s = { .n = 0 };

	while (text[s.n] && s.n < MAX_STRINGS)
		s.n++;
	if (s.n)
		add(b, 11, &s, sizeof(s), text);
}

static void add_memory_array(struct builder *b, uint64_t bytes)
{
	struct memory_array s = {
		.h.handle = HANDLE_MEMORY,
		.location = ARRAY_ON_BOARD,
		.use = ARRAY_SYSTEM,
		.correction = ARRAY_NONE,
		.capacity_kib = (uint32_t)MIN(bytes / KiB, CAPACITY_IN_BYTES),
		.error_handle = NO_ERROR_INFO,
		.n_devices = 1,
	};

	if (s.capacity_kib == CAPACITY_IN_BYTES)
		s.capacity_bytes = bytes;
	ADD(b, 16, &s, NULL);
}

static void add_memory_device(struct builder *b, uint64_t bytes)
{
	struct memory_device s = {
		.array = HANDLE_MEMORY,
		.error_handle = NO_ERROR_INFO,
		.total_width = WIDTH_UNKNOWN,
		.data_width = WIDTH_UNKNOWN,
		.form = FORM_DIMM,
		.locator = 1,
		.maker = 2,
		.type = MEMORY_RAM,
		.detail = DETAIL_OTHER,
	};

	if (bytes % MiB && bytes / KiB < SIZE_IN_KIB) {
		s.size = (uint16_t)(SIZE_IN_KIB | bytes / KiB);
	} else if (bytes / MiB < SIZE_IN_FIELD32) {
		s.size = (uint16_t)(bytes / MiB);
	} else {
		s.size = SIZE_IN_FIELD32;
		s.size_mib = (uint32_t)(bytes / MiB);
	}
	ADD(b, 17, &s, "DIMM 0", MAKER, NULL);
}

static void add_range(struct builder *b, uint64_t first, uint64_t bytes)
{
	uint64_t last = first + bytes - 1;
	struct mapped_range s = { .array = HANDLE_MEMORY, .width = 1 };

	if (last / KiB < RANGE_IN_BYTES) {
		s.first_kib = (uint32_t)(first / KiB);
		s.last_kib = (uint32_t)(last / KiB);
	} else {
		s.first_kib = s.last_kib = RANGE_IN_BYTES;
		s.first = first;
		s.last = last;
	}
	ADD(b, 19, &s, NULL);
}

static void add_structures(struct builder *b, const struct cpu_model *cpu, uint64_t low_bytes,
			   uint64_t high_bytes, const char *const *oem)
{
	struct boot_status no_errors = { 0 };
	struct header end = { 0 };

	add_bios(b);
	add_system(b);
	add_chassis(b);
	add_processor(b, cpu);
	if (oem)
		add_oem_strings(b, oem);
	add_memory_array(b, low_bytes + high_bytes);
	add_memory_device(b, low_bytes + high_bytes);
	add_range(b, 0, low_bytes);
	if (high_bytes)
		add_range(b, 4 * GiB, high_bytes);
	ADD(b, 32, &no_errors, NULL);
	ADD(b, 127, &end, NULL);
}

static uint8_t checksum(const void *p, size_t len)
{
	const uint8_t *byte = p;
	uint8_t sum = 0;

	while (len--)
		sum += *byte++;
	return (uint8_t)-sum;
}

static struct entry32 make_entry32(const struct builder *b)
{
	struct entry32 e = {
		.length = sizeof(e),
		.major = 2,
		.minor = 8,
		.max_structure = (uint16_t)b->largest,
		.table_length = (uint16_t)(b->used - TABLE_AT),
		.table = SMBIOS_BASE + TABLE_AT,
		.n_structures = (uint16_t)b->n,
		.bcd_revision = 0x28,
	};

	memcpy(e.anchor, "_SM_", 4);
	memcpy(e.dmi_anchor, "_DMI_", 5);
	e.dmi_checksum = checksum(e.dmi_anchor, sizeof(e) - ENTRY32_DMI);
	e.checksum = checksum(&e, sizeof(e));
	return e;
}

static struct entry64 make_entry64(const struct builder *b)
{
	struct entry64 e = {
		.length = sizeof(e),
		.major = 3,
		.minor = 0,
		.revision = 1,
		.max_bytes = (uint32_t)(b->used - TABLE_AT),
		.table = SMBIOS_BASE + TABLE_AT,
	};

	memcpy(e.anchor, "_SM3_", 5);
	e.checksum = checksum(&e, sizeof(e));
	return e;
}

size_t smbios_build(uint8_t *buf, size_t size, const struct cpu_model *cpu, uint64_t low_bytes,
		    uint64_t high_bytes, const char *const *oem)
{
	struct builder b = { .buf = buf, .size = size, .used = TABLE_AT };
	struct entry32 old;
	struct entry64 e;

	if (size < TABLE_AT)
		return 0;
	add_structures(&b, cpu, low_bytes, high_bytes, oem);
	if (b.overflow)
		return 0;
	old = make_entry32(&b);
	e = make_entry64(&b);
	memset(buf, 0, TABLE_AT);
	memcpy(buf, &old, sizeof(old));
	memcpy(buf + ENTRY64_AT, &e, sizeof(e));
	return b.used;
}
