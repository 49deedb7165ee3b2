/* ELF kernels with a PVH entry. Xen "x86/HVM direct boot ABI", public/arch-x86/hvm/start_info.h. */
#include "base/err.h"
#include "machine/boot/boot_internal.h"
#include "machine/memmap.h"
#include "mem/physmap.h"

#include <errno.h>

#define NOTE_NAME	  "Xen"
#define NOTE_PHYS32_ENTRY 18

#define START_INFO_MAGIC 0x336ec578

struct start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};
_Static_assert(sizeof(struct start_info) == 56, "hvm_start_info version 1");

struct start_module {
	uint64_t paddr, size, cmdline_paddr, reserved;
};
_Static_assert(sizeof(struct start_module) == 32, "hvm_modlist_entry");

struct start_range {
	uint64_t addr, size;
	uint32_t type, reserved;
};
_Static_assert(sizeof(struct start_range) == 24, "hvm_memmap_table_entry");

#define START_MAP    (BOOT_INFO + 0x100)
#define START_MODULE (BOOT_INFO + 0x80)

/* Look for the note in [off, off+len) of the file. Sizes are rounded up to 4 each. */
static bool find_note(const struct boot_file *f, uint64_t off, uint64_t len, uint64_t *entry)
{
	while (len >= 12) {
		const uint8_t *p = f->data + off;
		uint64_t name = ALIGN_UP((uint64_t)load32(p), 4ull);
		uint64_t desc = load32(p + 4), desc_len = ALIGN_UP(desc, 4ull);

		if (name > len - 12 || desc > len - 12 - name)
			return false;
		if (load32(p + 8) == NOTE_PHYS32_ENTRY && load32(p) == sizeof(NOTE_NAME) &&
		    memcmp(p + 12, NOTE_NAME, sizeof(NOTE_NAME)) == 0 && (desc == 4 || desc == 8)) {
			*entry = desc == 4 ? load32(p + 12 + name) : load64(p + 12 + name);
			return true;
		}
		if (desc_len > len - 12 - name)
			return false;
		off += 12 + name + desc_len;
		len -= 12 + name + desc_len;
	}
	return false;
}

static bool find_entry(const struct elf *e, uint64_t *entry)
{
	for (unsigned i = 0; i < e->phnum; i++) {
		struct elf_segment s;

		if (elf_segment(e, i, &s) && s.type == ELF_PT_NOTE &&
		    find_note(e->f, s.off, s.filesz, entry))
			return true;
	}
	return false;
}

bool pvh_is(const struct boot_file *f)
{
	uint64_t entry;
	struct elf e;

	return elf_open(&e, f) && find_entry(&e, &entry) && entry < 4 * GiB;
}

/* The initial RAM disk is one module: all files behind each other, above the kernel. */
static int write_modules(const struct boot *b, struct physmap *pm, gpa_t at, struct start_info *si,
			 struct err *err)
{
	struct start_module m = { .paddr = ALIGN_UP(at, PAGE_SIZE) };
	int ret = 0;

	for (unsigned i = 0; i < b->n_initrd && ret == 0; i++) {
		m.size = ALIGN_UP(m.size, 4ull);
		ret = boot_write(pm, m.paddr + m.size, b->initrd[i].data, b->initrd[i].len,
				 "--initrd", err);
		m.size += b->initrd[i].len;
	}
	if (ret < 0 || !m.size)
		return ret;
	si->nr_modules = 1;
	si->modlist_paddr = START_MODULE;
	return boot_write(pm, START_MODULE, &m, sizeof(m), "boot information", err);
}

static int write_map(struct physmap *pm, struct start_info *si, struct err *err)
{
	struct boot_range map[BOOT_MAX_RANGES];
	struct start_range out[BOOT_MAX_RANGES] = { 0 };
	unsigned n = boot_memory_map(pm, map);

	for (unsigned i = 0; i < n; i++)
		out[i] = (struct start_range){ map[i].base, map[i].len, map[i].type, 0 };
	si->memmap_paddr = START_MAP;
	si->memmap_entries = n;
	return boot_write(pm, START_MAP, out, n * sizeof(out[0]), "boot information", err);
}

static int write_cmdline(const struct boot *b, struct physmap *pm, struct err *err)
{
	uint64_t len = strlen(b->append) + 1;

	if (len > BOOT_CMDLINE_END - BOOT_CMDLINE)
		return err_say(err, EINVAL, "--append: at most %llu bytes fit",
			       BOOT_CMDLINE_END - BOOT_CMDLINE - 1);
	return boot_write(pm, BOOT_CMDLINE, b->append, len, "the command line", err);
}

int pvh_place(const struct boot *b, const struct boot_board *board, struct boot_entry *entry,
	      struct err *err)
{
	struct start_info si = {
		.magic = START_INFO_MAGIC,
		.version = 1,
		.cmdline_paddr = BOOT_CMDLINE,
		.rsdp_paddr = board->rsdp,
	};
	struct physmap *pm = board->pm;
	struct elf e;
	gpa_t end;

	/* boot_load found both when it looked what the file is. */
	if (!elf_open(&e, &b->kernel) || !find_entry(&e, &entry->rip))
		return err_say(err, EINVAL, "--kernel: %s has no PVH entry", b->kernel.text);

	int ret = elf_place(&e, pm, &end, err);

	if (ret == 0)
		ret = write_modules(b, pm, end, &si, err);
	if (ret == 0)
		ret = write_map(pm, &si, err);
	if (ret == 0)
		ret = write_cmdline(b, pm, err);
	if (ret == 0)
		ret = boot_write(pm, BOOT_INFO, &si, sizeof(si), "boot information", err);
	if (ret < 0)
		return ret;
	entry->mode = BOOT_FLAT32;
	entry->rbx = BOOT_INFO;
	entry->rsp = BOOT_STACK;
	return boot_write_gdt(pm, entry, err);
}
