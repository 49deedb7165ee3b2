/* What the loaders share. */
#ifndef MACHINE_BOOT_BOOT_INTERNAL_H
#define MACHINE_BOOT_BOOT_INTERNAL_H

#include "machine/boot/boot.h"

struct boot_file {
	uint8_t *data; /* owned; NULL while nobody wants it */
	uint64_t len;
	int fd;		  /* to read data again; -1: data stays */
	const char *text; /* as the user gave it: path, maybe a command line; borrowed */
};

enum boot_kind { BOOT_LINUX, BOOT_PVH, BOOT_MULTIBOOT };

struct boot {
	enum boot_kind kind;
	struct boot_file kernel;
	struct boot_file *initrd; /* owned */
	unsigned n_initrd;
	const char *append; /* borrowed */
};

/* One range of the memory map; types as E820 numbers them. */
#define E820_RAM      1
#define E820_RESERVED 2
struct boot_range {
	uint64_t base, len;
	uint32_t type;
};
#define BOOT_MAX_RANGES 8
/* Fill map with the board's ranges, ascending; returns how many. */
unsigned boot_memory_map(const struct physmap *pm, struct boot_range map[BOOT_MAX_RANGES]);

/* Bytes of RAM from 0 up to the hole. */
uint64_t boot_low_ram(const struct physmap *pm);

/* physmap_write that says what did not fit. */
int boot_write(struct physmap *pm, gpa_t gpa, const void *data, uint64_t len, const char *what,
	       struct err *err);
/* May the kernel have [gpa, gpa+len)? All of it RAM, clear of what the loader itself writes. */
int boot_check_range(const struct physmap *pm, gpa_t gpa, uint64_t len, struct err *err);

/* The GDT that flat32 and long64 entries start with; sets entry's gdt, cs and ds. */
int boot_write_gdt(struct physmap *pm, struct boot_entry *entry, struct err *err);
/* Identity page tables for 0 to 4 GiB by 2 MiB pages; sets entry's cr3. */
int boot_write_page_tables(struct physmap *pm, struct boot_entry *entry, struct err *err);

/* linux.c: bzImage. */
bool linux_is(const struct boot_file *f);
int linux_check(const struct boot *b, struct err *err);
int linux_place(const struct boot *b, const struct boot_board *board, struct boot_entry *entry,
		struct err *err);

/* elf_pvh.c */
bool pvh_is(const struct boot_file *f);
int pvh_place(const struct boot *b, const struct boot_board *board, struct boot_entry *entry,
	      struct err *err);

/* multiboot.c */
bool multiboot_is(const struct boot_file *f);
int multiboot_check(const struct boot *b, struct err *err);
int multiboot_place(const struct boot *b, const struct boot_board *board, struct boot_entry *entry,
		    struct err *err);

/* elf.c: the few fields of an ELF executable that a loader needs, 32- or 64-bit alike. */
struct elf {
	const struct boot_file *f; /* borrowed */
	bool is64;
	uint64_t entry; /* as the header has it: a virtual address */
	uint64_t phoff;
	unsigned phentsize, phnum;
};
struct elf_segment {
	uint32_t type;
	uint64_t off, vaddr, paddr, filesz, memsz;
};
#define ELF_PT_LOAD 1
#define ELF_PT_NOTE 4

/* False if f is not a little-endian x86 ELF executable whose header is whole. */
bool elf_open(struct elf *e, const struct boot_file *f);
/* Program header i (below phnum); false if it lies outside the file, or its bytes do. */
bool elf_segment(const struct elf *e, unsigned i, struct elf_segment *s);
/* Load all PT_LOAD segments by physical address. *end gets the address behind the last. */
int elf_place(const struct elf *e, struct physmap *pm, gpa_t *end, struct err *err);
/* Physical address of virtual address v, by the segments; v itself where none has it. */
uint64_t elf_physical(const struct elf *e, uint64_t v);

#endif
