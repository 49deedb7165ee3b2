/* Kernels and how they are started without firmware.
 *
 * boot_load reads and checks the files; boot_place puts everything into guest memory, at the start
 * and again after each reset, and then forgets what it can read again. The files are the user's but
 * need not be what they claim to be: every offset and length in them is checked before it is used.
 */
#ifndef MACHINE_BOOT_BOOT_H
#define MACHINE_BOOT_BOOT_H

#include "base/bits.h"

struct boot;
struct err;
struct physmap;
struct vcpu;

/* Register state in which the boot processor enters the kernel. */
struct boot_entry {
	enum { BOOT_FLAT32, BOOT_LONG64 } mode; /* paging off; or on, with the tables at cr3 */
	uint64_t rip, rsp;
	uint64_t rax, rbx, rsi;
	gpa_t cr3;
	gpa_t gdt;
	uint16_t gdt_limit;
	uint16_t cs, ds;
};

struct boot_cfg {
	const char *kernel;  /* path */
	const char **initrd; /* paths, for multiboot each with a command line behind a space */
	unsigned n_initrd;
	const char *append; /* never NULL */
};

/* Read the files and see that they can be started. cfg's strings are borrowed. Errors say which
 * file and why.
 */
int boot_load(struct boot **out, const struct boot_cfg *cfg, struct err *err);
/* The same from bytes in memory, which are copied; name stands for the path. For tests. */
int boot_load_image(struct boot **out, const char *name, const void *image, size_t len,
		    const char *append, struct err *err);
void boot_free(struct boot *b);

/* What the loaders tell the guest about the board. */
struct boot_board {
	struct physmap *pm;
	gpa_t rsdp; /* where the ACPI tables start */
	bool fixed; /* leave nothing to chance: the kernel at the same place each time */
};

/* Write kernel, modules and boot information into memory and say how to enter. Errors: it does not
 * fit into the guest's memory; a file is not what it was.
 */
int boot_place(struct boot *b, const struct boot_board *board, struct boot_entry *entry,
	       struct err *err);

/* Give c, which was just reset, the entry's registers. */
void boot_enter(struct vcpu *c, const struct boot_entry *entry);

/* Set c's memory types as firmware does on every processor: RAM write-back, the hole below 4 GiB
 * and the frame buffer uncached. Linux leaves PAT alone if nobody did. phys_bits: 36 to 52.
 */
void boot_set_mtrrs(struct vcpu *c, unsigned phys_bits);

#endif
