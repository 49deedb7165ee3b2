/* Feeds the boot loaders with arbitrary kernel files: any input is refused with a sentence or
 * placed into memory, and nothing else. The first byte chooses how much memory the guest has and
 * whether the rest is the file, or changes (offset, offset, value) to a good one of each kind.
 */
#include "base/err.h"
#include "machine/boot/boot.h"
#include "machine/memmap.h"
#include "mem/physmap.h"
#include "unit/machine/boot/images.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void place(struct boot *b, uint64_t bytes)
{
	struct physmap pm;
	struct boot_board board = { .pm = &pm, .rsdp = ACPI_BASE };
	struct boot_entry entry;
	struct err err = { 0 };

	assert(physmap_init(&pm, bytes, HOLE_BASE, NULL) == 0);
	if (boot_place(b, &board, &entry, &err) < 0)
		assert(err.code > 0 && err.msg[0]);
	else
		assert(entry.rip < 1ull << 32 && entry.gdt_limit);
	physmap_fini(&pm);
}

/* A good image of kind 1 to 4 in img; its length. */
static size_t template(unsigned kind, uint8_t *img)
{
	static const uint32_t addr[5] = { 0x100010, 0x100000, 0x100100, 0x100200, 0x100020 };
	uint8_t note[32];
	size_t len;

	switch (kind) {
	case 1: return make_bzimage(img, 0x1000000, 0x100000, true);
	case 2: return make_elf64(img, 0x1000000, 0x1000000, note, make_pvh_note(note, 0x1000010));
	case 3:
		len = make_elf64(img, 0x400000, 0x400000, "", 0);
		put_multiboot(img + 1028, 3, NULL);
		return len;
	default:
		memset(img, 0x55, 512);
		put_multiboot(img + 0x20, 1 << 16, addr);
		return 512;
	}
}

static int load(struct boot **b, const uint8_t *data, size_t len, struct err *err)
{
	uint8_t img[8192];
	size_t img_len;

	if (data[0] >> 5 == 0 || data[0] >> 5 > 4)
		return boot_load_image(b, "fuzz", data + 1, len - 1, "console=ttyS0", err);
	img_len = template(data[0] >> 5, img);
	for (size_t i = 1; i + 3 <= len; i += 3)
		img[load16(data + i) % img_len] = data[i + 2];
	return boot_load_image(b, "fuzz", img, img_len, "console=ttyS0", err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct err err = { 0 };
	struct boot *b;

	if (len < 1)
		return 0;
	if (load(&b, data, len, &err) < 0) {
		assert(err.code > 0 && err.msg[0]);
		return 0;
	}
	place(b, (1 + data[0] % 32) * MiB);
	boot_free(b);
	return 0;
}
