/* The kernel proper of a bzImage, started without the image's own unpacker. */
#ifndef MACHINE_BOOT_VMLINUX_H
#define MACHINE_BOOT_VMLINUX_H

#include "base/bits.h"

struct boot_file;
struct physmap;

/* What vmlinux_place did. */
struct vmlinux {
	gpa_t entry; /* for 64-bit mode, as the bzImage's 64-bit entry wants the registers */
	gpa_t end;   /* behind the kernel's memory */
	bool random; /* its virtual addresses were moved at random (KASLR) */
};

/* payload: a compressed ELF file followed by its relocations, len bytes. prefer: physical address
 * it is linked for; align: what its physical address must be a multiple of (a power of two).
 *
 * False if it cannot be done, for whatever reason; then the guest's memory may hold remains that
 * the caller overwrites by booting the image the ordinary way.
 */
bool vmlinux_place(const uint8_t *payload, uint64_t len, struct physmap *pm, gpa_t prefer,
		   uint64_t align, bool randomize, struct vmlinux *out);

#endif
