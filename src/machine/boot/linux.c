/* Linux bzImages by the 64-bit boot protocol, or the 32-bit one where the kernel has no 64-bit
 * entry. Documentation/arch/x86/boot.rst of Linux 6.1.
 */
#include "base/err.h"
#include "base/trace.h"
#include "machine/boot/boot_internal.h"
#include "machine/boot/vmlinux.h"
#include "machine/memmap.h"
#include "mem/physmap.h"

#include <errno.h>

/* Offsets in the first sectors of the file, which are those of the setup header in struct
 * boot_params ("zero page") as well.
 */
#define HDR_SETUP_SECTS	  0x1f1
#define HDR_SYSSIZE	  0x1f4
#define HDR_BOOT_FLAG	  0x1fe
#define HDR_JUMP	  0x201 /* its offset byte tells where the header ends */
#define HDR_MAGIC	  0x202
#define HDR_VERSION	  0x206
#define HDR_LOADER	  0x210
#define HDR_LOADFLAGS	  0x211
#define HDR_RAMDISK_IMAGE 0x218
#define HDR_RAMDISK_SIZE  0x21c
#define HDR_CMDLINE_PTR	  0x228
#define HDR_INITRD_MAX	  0x22c
#define HDR_ALIGNMENT	  0x230
#define HDR_RELOCATABLE	  0x234
#define HDR_XLOADFLAGS	  0x236
#define HDR_CMDLINE_SIZE  0x238
#define HDR_PAYLOAD	  0x248 /* offset from the protected-mode part, length */
#define HDR_PREF_ADDRESS  0x258
#define HDR_INIT_SIZE	  0x260
#define HDR_MIN_BYTES	  0x264

#define ZP_ACPI_RSDP	     0x070
#define ZP_EXT_RAMDISK_IMAGE 0x0c0
#define ZP_EXT_RAMDISK_SIZE  0x0c4
#define ZP_E820_ENTRIES	     0x1e8
#define ZP_E820_TABLE	     0x2d0
#define ZP_BYTES	     0x1000

#define MIN_VERSION 0x020a /* tells where the kernel wants to be */

#define LOADFLAG_KASLR 0x02 /* set by what has randomized the kernel */

#define XLF_KERNEL_64		   0x01
#define XLF_CAN_BE_LOADED_ABOVE_4G 0x02

/* Entries, from the start of the protected-mode part. */
#define ENTRY32 0x000
#define ENTRY64 0x200

bool linux_is(const struct boot_file *f)
{
	return f->len >= HDR_MIN_BYTES && load16(f->data + HDR_BOOT_FLAG) == 0xaa55 &&
	       memcmp(f->data + HDR_MAGIC, "HdrS", 4) == 0;
}

static bool has_entry64(const struct boot_file *f)
{
	return load16(f->data + HDR_VERSION) >= 0x020c &&
	       (load16(f->data + HDR_XLOADFLAGS) & XLF_KERNEL_64);
}

/* Where the protected-mode part starts in the file. */
static uint64_t payload_offset(const struct boot_file *f)
{
	unsigned sects = f->data[HDR_SETUP_SECTS];

	return ((sects ? sects : 4) + 1) * 512ull;
}

int linux_check(const struct boot *b, struct err *err)
{
	const struct boot_file *f = &b->kernel;
	uint64_t off = payload_offset(f), need = load32(f->data + HDR_SYSSIZE) * 16ull;

	if (load16(f->data + HDR_VERSION) < MIN_VERSION)
		return err_say(err, EINVAL,
			       "--kernel: %s is too old a Linux kernel; it must be 2.6.31 or later",
			       f->text);
	/* syssize is rounded up to 16 bytes, the file need not be. */
	if (off + ENTRY64 >= f->len || f->len - off + 15 < need)
		return err_say(err, EINVAL, "--kernel: %s is cut short: %llu bytes of %llu",
			       f->text, (unsigned long long)f->len,
			       (unsigned long long)(off + need));

	uint64_t most =
		MIN(load32(f->data + HDR_CMDLINE_SIZE), BOOT_CMDLINE_END - BOOT_CMDLINE - 1);

	if (strlen(b->append) > most)
		return err_say(err, EINVAL, "--append: this kernel takes at most %llu bytes",
			       (unsigned long long)most);
	return 0;
}

/* Choose where the kernel goes: where it prefers, or if that does not fit the lowest place its
 * alignment allows. *bytes: what it needs there until it has set up its own memory management.
 */
static int choose_place(const struct boot_file *f, const struct physmap *pm, gpa_t *at,
			uint64_t *bytes, struct err *err)
{
	uint64_t low = boot_low_ram(pm), pref = load64(f->data + HDR_PREF_ADDRESS);
	uint64_t align = load32(f->data + HDR_ALIGNMENT);

	*bytes = MAX(load32(f->data + HDR_INIT_SIZE), f->len - payload_offset(f));
	*at = pref;
	if (pref >= HIGH_RAM_BASE && range_fits(pref, *bytes, low))
		return 0;
	if (f->data[HDR_RELOCATABLE] && align && (align & (align - 1)) == 0) {
		*at = ALIGN_UP(HIGH_RAM_BASE, align);
		if (range_fits(*at, *bytes, low))
			return 0;
	}
	return err_say(err, ENOMEM,
		       "--kernel: %s needs %llu MiB from %#llx on, the guest has %llu MiB; give "
		       "more, as in --memory 1G",
		       f->text, (unsigned long long)((*bytes + MiB - 1) / MiB),
		       (unsigned long long)pref, (unsigned long long)(pm->ram_bytes / MiB));
}

/* Choose where the initial RAM disk of len bytes goes: as high as the kernel can reach. */
static int place_initrd(const struct boot *b, const struct physmap *pm, gpa_t kernel_end,
			uint64_t len, gpa_t *at, struct err *err)
{
	const uint8_t *h = b->kernel.data;
	uint64_t low = boot_low_ram(pm);
	uint64_t top = MIN(low, load32(h + HDR_INITRD_MAX) + 1ull);

	if (len <= top && ((top - len) & ~(PAGE_SIZE - 1)) >= kernel_end) {
		*at = (top - len) & ~(PAGE_SIZE - 1);
		return 0;
	}
	if (has_entry64(&b->kernel) && (load16(h + HDR_XLOADFLAGS) & XLF_CAN_BE_LOADED_ABOVE_4G) &&
	    pm->ram_bytes - low >= len) {
		*at = 4 * GiB;
		return 0;
	}
	return err_say(err, ENOMEM,
		       "--initrd: %llu MiB do not fit beside the kernel into %llu MiB of memory; "
		       "give more, as in --memory 1G",
		       (unsigned long long)((len + MiB - 1) / MiB),
		       (unsigned long long)(pm->ram_bytes / MiB));
}

/* All files one behind the other; Linux wants each archive to start at a multiple of 4. */
static int write_initrd(const struct boot *b, struct physmap *pm, uint8_t *zp, gpa_t kernel_end,
			struct err *err)
{
	uint64_t len = 0;
	gpa_t at = 0;

	for (unsigned i = 0; i < b->n_initrd; i++)
		len = ALIGN_UP(len, 4ull) + b->initrd[i].len;
	if (!len)
		return 0;

	int ret = place_initrd(b, pm, kernel_end, len, &at, err);

	store32(zp + HDR_RAMDISK_IMAGE, (uint32_t)at);
	store32(zp + ZP_EXT_RAMDISK_IMAGE, (uint32_t)(at >> 32));
	store32(zp + HDR_RAMDISK_SIZE, (uint32_t)len);
	store32(zp + ZP_EXT_RAMDISK_SIZE, (uint32_t)(len >> 32));
	len = 0;
	for (unsigned i = 0; i < b->n_initrd && ret == 0; i++) {
		static const uint8_t zero[4];
		uint64_t start = ALIGN_UP(len, 4ull);

		ret = boot_write(pm, at + len, zero, start - len, "--initrd", err);
		if (ret == 0)
			ret = boot_write(pm, at + start, b->initrd[i].data, b->initrd[i].len,
					 "--initrd", err);
		len = start + b->initrd[i].len;
	}
	return ret;
}

static void fill_zero_page(const struct boot *b, const struct boot_board *board, uint8_t *zp)
{
	const uint8_t *h = b->kernel.data;
	unsigned end = MIN(HDR_MAGIC + (unsigned)h[HDR_JUMP], 0x290u);
	struct boot_range map[BOOT_MAX_RANGES];
	unsigned n = boot_memory_map(board->pm, map);

	memset(zp, 0, ZP_BYTES);
	memcpy(zp + HDR_SETUP_SECTS, h + HDR_SETUP_SECTS,
	       MIN((uint64_t)end, b->kernel.len) - HDR_SETUP_SECTS);
	zp[HDR_LOADER] = 0xff; /* a loader without a number of its own */
	store32(zp + HDR_CMDLINE_PTR, BOOT_CMDLINE);
	store64(zp + ZP_ACPI_RSDP, board->rsdp);
	zp[ZP_E820_ENTRIES] = (uint8_t)n;
	for (unsigned i = 0; i < n; i++) {
		store64(zp + ZP_E820_TABLE + 20 * i, map[i].base);
		store64(zp + ZP_E820_TABLE + 20 * i + 8, map[i].len);
		store32(zp + ZP_E820_TABLE + 20 * i + 16, map[i].type);
	}
}

/* Is word one of the command line's? */
static bool has_word(const char *line, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = line; (p = strstr(p, word)); p += n)
		if ((p == line || p[-1] == ' ') && (p[n] == 0 || p[n] == ' '))
			return true;
	return false;
}

/* Unpack the kernel here (vmlinux.h); false where it has to do that itself. */
static bool place_unpacked(const struct boot *b, const struct boot_board *board, struct vmlinux *v)
{
	const struct boot_file *f = &b->kernel;
	uint64_t at = payload_offset(f) + load32(f->data + HDR_PAYLOAD);
	uint64_t len = load32(f->data + HDR_PAYLOAD + 4);
	bool randomize = !board->fixed && !has_word(b->append, "nokaslr");

	return has_entry64(f) && f->data[HDR_RELOCATABLE] && range_fits(at, len, f->len) &&
	       vmlinux_place(f->data + at, len, board->pm, load64(f->data + HDR_PREF_ADDRESS),
			     load32(f->data + HDR_ALIGNMENT), randomize, v);
}

/* The image as it is, with its unpacker. *end: what it needs until it runs its own memory. */
static int place_image(const struct boot *b, struct physmap *pm, gpa_t *entry, gpa_t *end,
		       struct err *err)
{
	const struct boot_file *f = &b->kernel;
	uint64_t off = payload_offset(f), bytes;
	gpa_t at;
	int ret = choose_place(f, pm, &at, &bytes, err);

	if (ret < 0)
		return ret;
	*entry = at + (has_entry64(f) ? ENTRY64 : ENTRY32);
	*end = at + bytes;
	return boot_write(pm, at, f->data + off, f->len - off, "the kernel", err);
}

int linux_place(const struct boot *b, const struct boot_board *board, struct boot_entry *entry,
		struct err *err)
{
	const struct boot_file *f = &b->kernel;
	struct physmap *pm = board->pm;
	struct vmlinux v = { 0 };
	uint8_t zp[ZP_BYTES];
	int ret = 0;

	fill_zero_page(b, board, zp);
	if (!place_unpacked(b, board, &v))
		ret = place_image(b, pm, &v.entry, &v.end, err);
	else if (v.random)
		zp[HDR_LOADFLAGS] |= LOADFLAG_KASLR;
	if (ret == 0)
		ret = write_initrd(b, pm, zp, v.end, err);
	if (ret == 0)
		ret = boot_write(pm, BOOT_INFO, zp, sizeof(zp), "boot information", err);
	if (ret == 0)
		ret = boot_write(pm, BOOT_CMDLINE, b->append, strlen(b->append) + 1,
				 "the command line", err);
	if (ret < 0)
		return ret;
	if (trace_on(TRACE_BOOT))
		trace_print(TRACE_BOOT, "linux enters at %#llx, ends at %#llx, initrd at %#x + %#x",
			    (unsigned long long)v.entry, (unsigned long long)v.end,
			    load32(zp + HDR_RAMDISK_IMAGE), load32(zp + HDR_RAMDISK_SIZE));
	entry->mode = has_entry64(f) ? BOOT_LONG64 : BOOT_FLAT32;
	entry->rip = v.entry;
	entry->rsi = BOOT_INFO;
	entry->rsp = BOOT_STACK;
	ret = boot_write_gdt(pm, entry, err);
	if (ret == 0 && has_entry64(f))
		ret = boot_write_page_tables(pm, entry, err);
	return ret;
}
