/* Multiboot 1 kernels. "The Multiboot Specification", version 0.6.96. ELF images may be 64-bit, as
 * long as they are entered in 32-bit mode.
 */
#include "base/err.h"
#include "machine/boot/boot_internal.h"
#include "machine/memmap.h"
#include "mem/physmap.h"

#include <errno.h>

#define HEADER_MAGIC 0x1badb002
#define LOADER_MAGIC 0x2badb002
#define SEARCH_BYTES 8192

#define FLAG_ALIGN     (1u << 0)
#define FLAG_MEMORY    (1u << 1)
#define FLAG_ADDRESS   (1u << 16) /* the address fields ("a.out kludge") are valid */
#define FLAGS_REQUIRED 0xffffu	  /* a loader that does not know one of these must refuse */

#define INFO_MEMORY  (1u << 0)
#define INFO_CMDLINE (1u << 2)
#define INFO_MODS    (1u << 3)
#define INFO_MMAP    (1u << 6)
#define INFO_LOADER  (1u << 9)

struct mb_header {
	uint32_t magic, flags, checksum;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

struct mb_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
	uint32_t syms[4];
	uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table;
	uint32_t boot_loader_name, apm_table;
};
_Static_assert(sizeof(struct mb_info) == 72, "Multiboot 0.6.96 section 3.3");

struct mb_module {
	uint32_t start, end, string, reserved;
};

struct mb_range {
	uint32_t size; /* of what follows */
	uint64_t base, len;
	uint32_t type;
} __attribute__((packed));

#define INFO_MMAP_AT   (BOOT_INFO + 0x100)
#define INFO_LOADER_AT (BOOT_INFO + 0x80)

/* The header, and its offset in the file; the address fields are 0 where the file ends first. */
static bool find_header(const struct boot_file *f, struct mb_header *h, uint64_t *at)
{
	uint64_t end = MIN(f->len, SEARCH_BYTES);

	for (uint64_t off = 0; off + 12 <= end; off += 4) {
		const uint8_t *p = f->data + off;

		if (load32(p) != HEADER_MAGIC || load32(p) + load32(p + 4) + load32(p + 8) != 0)
			continue;
		memset(h, 0, sizeof(*h));
		memcpy(h, p, MIN(sizeof(*h), f->len - off));
		*at = off;
		return true;
	}
	return false;
}

bool multiboot_is(const struct boot_file *f)
{
	struct mb_header h;
	uint64_t at;

	return find_header(f, &h, &at);
}

int multiboot_check(const struct boot *b, struct err *err)
{
	struct mb_header h;
	struct elf e;
	uint64_t at;

	find_header(&b->kernel, &h, &at);
	if (h.flags & FLAGS_REQUIRED & ~(FLAG_ALIGN | FLAG_MEMORY))
		return err_say(err, EINVAL,
			       "--kernel: %s asks for multiboot features (flags %#x) that are not "
			       "there, such as a video mode",
			       b->kernel.text, h.flags);
	if (!(h.flags & FLAG_ADDRESS) && !elf_open(&e, &b->kernel))
		return err_say(err, EINVAL,
			       "--kernel: %s has a multiboot header but is no x86 ELF file and "
			       "gives no addresses",
			       b->kernel.text);
	return 0;
}

/* The address fields say what goes where. */
static int place_flat(const struct boot *b, const struct mb_header *h, uint64_t header_off,
		      struct physmap *pm, gpa_t *end, struct err *err)
{
	const struct boot_file *f = &b->kernel;
	uint64_t before = (uint64_t)h->header_addr - h->load_addr;
	uint64_t off = header_off - before, len;

	if (h->load_addr > h->header_addr || before > header_off)
		return err_say(err, EINVAL, "--kernel: %s: its multiboot addresses make no sense",
			       f->text);
	len = h->load_end_addr ? (uint64_t)h->load_end_addr - h->load_addr : f->len - off;
	/* An end before the start makes a length that fits nowhere. */
	if (!range_fits(off, len, f->len))
		return err_say(err, EINVAL, "--kernel: %s is cut short", f->text);
	*end = MAX(h->load_addr + len, (uint64_t)h->bss_end_addr);

	int ret = boot_check_range(pm, h->load_addr, *end - h->load_addr, err);

	if (ret < 0)
		return err_wrap(err, "--kernel: %s", f->text);
	/* Memory may hold what a run before the reset left: the bss starts as zeros. */
	memset(physmap_host(pm, h->load_addr, *end - h->load_addr, NULL), 0, *end - h->load_addr);
	return boot_write(pm, h->load_addr, f->data + off, len, "the kernel", err);
}

/* Append a string behind *at; *where gets its address. */
static int write_string(struct physmap *pm, gpa_t *at, gpa_t limit, const char *text,
			uint32_t *where, struct err *err)
{
	uint64_t len = strlen(text) + 1;

	if (len > limit - *at)
		return err_say(err, EINVAL, "the command lines are longer than %llu KiB",
			       (unsigned long long)(limit - BOOT_CMDLINE) / KiB);
	*where = (uint32_t)*at;
	*at += len;
	return boot_write(pm, *where, text, len, "the command line", err);
}

/* The kernel's own name comes first, as from a boot loader's menu. */
static int write_cmdline(const struct boot *b, struct physmap *pm, struct mb_info *mbi,
			 struct err *err)
{
	gpa_t at = BOOT_CMDLINE;
	int ret = write_string(pm, &at, BOOT_CMDLINE_END, b->kernel.text, &mbi->cmdline, err);
	uint32_t rest;

	if (ret < 0 || !*b->append)
		return ret;
	ret = boot_write(pm, at - 1, " ", 1, "the command line", err);
	return ret < 0 ? ret : write_string(pm, &at, BOOT_CMDLINE_END, b->append, &rest, err);
}

static int write_modules(const struct boot *b, struct physmap *pm, gpa_t at, struct mb_info *mbi,
			 struct err *err)
{
	gpa_t list = BOOT_MODULES, strings = list + b->n_initrd * sizeof(struct mb_module);

	if (strings > BOOT_MODULES_END)
		return err_say(err, EINVAL, "--initrd: at most %llu modules",
			       (BOOT_MODULES_END - BOOT_MODULES) / sizeof(struct mb_module) / 2);
	for (unsigned i = 0; i < b->n_initrd; i++) {
		const struct boot_file *f = &b->initrd[i];
		struct mb_module m = { 0 };
		int ret;

		at = ALIGN_UP(at, PAGE_SIZE);
		if (!range_fits(at, f->len, boot_low_ram(pm)))
			return err_say(err, ENOMEM,
				       "--initrd: %s does not fit into the guest's memory; give "
				       "more, as in --memory 1G",
				       f->text);
		m.start = (uint32_t)at;
		m.end = (uint32_t)(at + f->len);
		ret = boot_write(pm, at, f->data, f->len, "--initrd", err);
		if (ret == 0)
			ret = write_string(pm, &strings, BOOT_MODULES_END, f->text, &m.string, err);
		if (ret == 0)
			ret = boot_write(pm, list + i * sizeof(m), &m, sizeof(m), "--initrd", err);
		if (ret < 0)
			return ret;
		at += f->len;
	}
	mbi->mods_count = b->n_initrd;
	mbi->mods_addr = (uint32_t)list;
	return 0;
}

static int write_map(struct physmap *pm, struct mb_info *mbi, struct err *err)
{
	struct boot_range map[BOOT_MAX_RANGES];
	struct mb_range out[BOOT_MAX_RANGES];
	unsigned n = boot_memory_map(pm, map);

	for (unsigned i = 0; i < n; i++)
		out[i] = (struct mb_range){ 20, map[i].base, map[i].len, map[i].type };
	mbi->mmap_addr = INFO_MMAP_AT;
	mbi->mmap_length = (uint32_t)(n * sizeof(out[0]));
	mbi->mem_lower = LOW_RAM_END / KiB;
	if (boot_low_ram(pm) > HIGH_RAM_BASE)
		mbi->mem_upper = (uint32_t)((boot_low_ram(pm) - HIGH_RAM_BASE) / KiB);
	return boot_write(pm, INFO_MMAP_AT, out, mbi->mmap_length, "boot information", err);
}

static int write_info(const struct boot *b, struct physmap *pm, gpa_t end, struct err *err)
{
	struct mb_info mbi = {
		.flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_LOADER,
		.boot_loader_name = INFO_LOADER_AT,
	};
	int ret = write_cmdline(b, pm, &mbi, err);

	if (ret == 0)
		ret = write_modules(b, pm, end, &mbi, err);
	if (ret == 0)
		ret = write_map(pm, &mbi, err);
	if (ret == 0)
		ret = boot_write(pm, INFO_LOADER_AT, "Cleave", 7, "boot information", err);
	if (ret == 0)
		ret = boot_write(pm, BOOT_INFO, &mbi, sizeof(mbi), "boot information", err);
	return ret;
}

int multiboot_place(const struct boot *b, const struct boot_board *board, struct boot_entry *entry,
		    struct err *err)
{
	struct physmap *pm = board->pm;
	struct mb_header h;
	uint64_t at = 0;
	struct elf e;
	gpa_t end = 0;
	int ret;

	find_header(&b->kernel, &h, &at);
	if (h.flags & FLAG_ADDRESS) {
		ret = place_flat(b, &h, at, pm, &end, err);
		entry->rip = h.entry_addr;
	} else {
		elf_open(&e, &b->kernel);
		ret = elf_place(&e, pm, &end, err);
		entry->rip = elf_physical(&e, e.entry);
	}
	if (ret == 0 && entry->rip >= 4 * GiB)
		ret = err_say(err, EINVAL, "--kernel: %s: its entry %#llx is above 4 GiB",
			      b->kernel.text, (unsigned long long)entry->rip);
	if (ret == 0)
		ret = write_info(b, pm, end, err);
	if (ret < 0)
		return ret;
	entry->mode = BOOT_FLAT32;
	entry->rax = LOADER_MAGIC;
	entry->rbx = BOOT_INFO;
	entry->rsp = BOOT_STACK;
	return boot_write_gdt(pm, entry, err);
}
