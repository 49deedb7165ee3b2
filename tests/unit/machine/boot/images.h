/* Small kernel images made in memory, for the loaders' tests. */
#ifndef TESTS_BOOT_IMAGES_H
#define TESTS_BOOT_IMAGES_H

#include "base/bits.h"

#include <elf.h>

/* A bzImage of a boot sector, one setup sector and 4 KiB of code (bytes 0x90). pref: where it wants
 * to be. Returns its length, below 8192.
 */
static inline size_t make_bzimage(uint8_t *img, uint64_t pref, uint32_t init_size, bool entry64)
{
	size_t len = 2 * 512 + 4096;

	memset(img, 0, len);
	memset(img + 1024, 0x90, 4096);
	img[0x1f1] = 1;
	store32(img + 0x1f4, 4096 / 16);
	store16(img + 0x1fe, 0xaa55);
	img[0x201] = 0x66;
	memcpy(img + 0x202, "HdrS", 4);
	store16(img + 0x206, 0x020f);
	store32(img + 0x22c, 0x7fffffff);
	store32(img + 0x230, 0x200000);
	img[0x234] = 1;
	store16(img + 0x236, entry64 ? 3 : 0);
	store32(img + 0x238, 255);
	store64(img + 0x258, pref);
	store32(img + 0x260, init_size);
	return len;
}

/* A 64-bit ELF executable with one segment of 256 bytes (0xcc) at paddr, mapped at vaddr, 512 in
 * memory, and a note segment with len bytes of note. Returns its length, below 4096.
 */
static inline size_t make_elf64(uint8_t *img, uint64_t vaddr, uint64_t paddr, const void *note,
				size_t len)
{
	Elf64_Ehdr h = { .e_type = ET_EXEC,
			 .e_machine = EM_X86_64,
			 .e_version = 1,
			 .e_entry = vaddr + 16,
			 .e_phoff = sizeof(h),
			 .e_ehsize = sizeof(h),
			 .e_phentsize = sizeof(Elf64_Phdr),
			 .e_phnum = 2 };
	Elf64_Phdr ph[2] = {
		{ .p_type = PT_LOAD,
		  .p_offset = 1024,
		  .p_vaddr = vaddr,
		  .p_paddr = paddr,
		  .p_filesz = 256,
		  .p_memsz = 512 },
		{ .p_type = PT_NOTE, .p_offset = 512, .p_filesz = len, .p_memsz = len },
	};

	memcpy(h.e_ident, ELFMAG "\2\1\1", 7);
	memset(img, 0, 1280);
	memcpy(img, &h, sizeof(h));
	memcpy(img + sizeof(h), ph, sizeof(ph));
	memcpy(img + 512, note, len);
	memset(img + 1024, 0xcc, 256);
	return 1280;
}

/* The note with the PVH entry address. */
static inline size_t make_pvh_note(uint8_t *note, uint32_t entry)
{
	store32(note, 4);
	store32(note + 4, 4);
	store32(note + 8, 18);
	memcpy(note + 12, "Xen", 4);
	store32(note + 16, entry);
	return 20;
}

/* A multiboot header; with 8 words if flags has bit 16. */
static inline void put_multiboot(uint8_t *p, uint32_t flags, const uint32_t addr[5])
{
	store32(p, 0x1badb002);
	store32(p + 4, flags);
	store32(p + 8, -(0x1badb002 + flags));
	for (unsigned i = 0; (flags & 1 << 16) && i < 5; i++)
		store32(p + 12 + 4 * i, addr[i]);
}

#endif
