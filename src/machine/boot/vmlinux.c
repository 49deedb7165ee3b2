/* A bzImage carries the kernel as a compressed ELF file and a program that unpacks it. That program
 * needs more memory than the kernel (67 MiB and up for Debian's), and an interpreter needs seconds
 * for what the host does in a tenth; so the host unpacks, loads and relocates the kernel, as the
 * image's own arch/x86/boot/compressed/misc.c would, and enters it at its 64-bit entry.
 *
 * Layout of the unpacked payload: the ELF file, then 32-bit words: 0, the virtual addresses of
 * 64-bit words to move, 0, those of 32-bit words to move the other way, 0, those of 32-bit words to
 * move. Virtual addresses stand there by their low half.
 */
#include "machine/boot/vmlinux.h"

#include "base/own.h"
#include "machine/boot/boot_internal.h"
#include "machine/boot/unpack.h"
#include "machine/memmap.h"
#include "mem/physmap.h"

#include <sys/random.h>

#define KERNEL_MAP	 0xffffffff80000000ull /* virtual address of physical 0 */
#define KERNEL_MAP_BYTES GiB		       /* of it that a randomized kernel may use */
#define MAX_UNPACKED	 (512 * MiB)

/* A kernel on its way into memory. */
struct load {
	struct physmap *pm;
	struct elf elf;
	gpa_t low, high; /* physical addresses it is linked for */
	int64_t moved;	 /* where it goes minus that */
	uint64_t slide;	 /* what is added to its virtual addresses */
};

static bool find_extent(struct load *l)
{
	struct elf_segment s;

	l->low = ~0ull;
	l->high = 0;
	for (unsigned i = 0; i < l->elf.phnum; i++) {
		if (!elf_segment(&l->elf, i, &s) || s.filesz > s.memsz || s.paddr > BIT(40) ||
		    s.memsz > BIT(40))
			return false;
		if (s.type != ELF_PT_LOAD || !s.memsz)
			continue;
		l->low = MIN(l->low, s.paddr);
		l->high = MAX(l->high, s.paddr + s.memsz);
	}
	return l->low < l->high;
}

/* Where it is linked for if that is there, else as low as it may be. */
static bool choose_address(struct load *l, gpa_t prefer, uint64_t align)
{
	uint64_t len = l->high - l->low, top = boot_low_ram(l->pm);
	gpa_t at = l->low;

	if (l->low != prefer || !align || align & (align - 1))
		return false;
	if (!range_fits(at, len, top))
		at = ALIGN_UP(HIGH_RAM_BASE, align);
	l->moved = (int64_t)(at - l->low);
	return range_fits(at, len, top) && boot_check_range(l->pm, at, len, NULL) == 0;
}

static bool copy_segments(const struct load *l)
{
	struct elf_segment s;

	for (unsigned i = 0; i < l->elf.phnum; i++) {
		uint8_t *host;

		if (!elf_segment(&l->elf, i, &s) || s.type != ELF_PT_LOAD || !s.memsz)
			continue;
		host = physmap_host(l->pm, s.paddr + (uint64_t)l->moved, s.memsz, NULL);
		if (!host)
			return false;
		memcpy(host, l->elf.f->data + s.off, s.filesz);
		memset(host + s.filesz, 0, s.memsz - s.filesz);
	}
	return true;
}

/* The end of the ELF file within the payload: behind its last segment and its section headers. */
static uint64_t elf_end(const struct load *l)
{
	const uint8_t *h = l->elf.f->data;
	uint64_t shoff = load64(h + 40), end = shoff + (uint64_t)load16(h + 58) * load16(h + 60);
	struct elf_segment s;

	for (unsigned i = 0; i < l->elf.phnum; i++)
		if (elf_segment(&l->elf, i, &s))
			end = MAX(end, s.off + s.filesz);
	return shoff > l->elf.f->len ? l->elf.f->len : end;
}

/* Where in memory the word at virtual address 0xffffffff'low is; NULL if it is not in the kernel.
 */
static uint8_t *word_at(const struct load *l, uint32_t low, unsigned size)
{
	uint64_t phys = (uint64_t)(int64_t)(int32_t)low - KERNEL_MAP;

	if (phys < l->low || !range_fits(phys, size, l->high))
		return NULL;
	return physmap_host(l->pm, phys + (uint64_t)l->moved, size, NULL);
}

/* Apply one list of relocations, from its end at *at down to the 0 before it. */
static bool relocate(const struct load *l, uint64_t *at, uint64_t floor, unsigned size, int sign)
{
	for (;;) {
		uint32_t low;
		uint8_t *p;

		if (*at < floor + 4)
			return false;
		*at -= 4;
		low = load32(l->elf.f->data + *at);
		if (!low)
			return true;
		p = word_at(l, low, size);
		if (!p)
			return false;
		if (size == 8)
			store64(p, load64(p) + l->slide);
		else
			store32(p, load32(p) + (uint32_t)(l->slide * (uint64_t)(int64_t)sign));
	}
}

/* A random multiple of align that keeps the kernel inside its part of the address space. */
static uint64_t random_slide(const struct load *l, uint64_t align)
{
	uint64_t steps = (KERNEL_MAP_BYTES - l->high) / align, r;

	if (l->high >= KERNEL_MAP_BYTES || !steps || getrandom(&r, sizeof(r), 0) != sizeof(r))
		return 0;
	return r % steps * align;
}

static bool place(struct load *l, gpa_t prefer, uint64_t align, bool randomize)
{
	uint64_t at = l->elf.f->len & ~3ull, floor;

	if (!l->elf.is64 || !find_extent(l) || !choose_address(l, prefer, align))
		return false;
	if (l->elf.entry < l->low || l->elf.entry >= l->high || !copy_segments(l))
		return false;
	floor = elf_end(l);
	l->slide = randomize ? random_slide(l, align) : 0;
	if (!l->slide || floor > at)
		return true;
	return relocate(l, &at, floor, 4, 1) && relocate(l, &at, floor, 4, -1) &&
	       relocate(l, &at, floor, 8, 1);
}

bool vmlinux_place(const uint8_t *payload, uint64_t len, struct physmap *pm, gpa_t prefer,
		   uint64_t align, bool randomize, struct vmlinux *out)
{
	struct boot_file f = { .text = "the kernel" };
	struct load l = { .pm = pm };
	AUTO_FREE uint8_t *image = NULL;

	if (len < 8)
		return false;
	/* The last four bytes of the payload, not part of the packed stream, tell the length. */
	f.len = load32(payload + len - 4);
	if (f.len < 64 || f.len > MAX_UNPACKED || !unpack(payload, len - 4, &image, f.len))
		return false;
	f.data = image;
	if (!elf_open(&l.elf, &f) || !place(&l, prefer, align, randomize))
		return false;
	*out = (struct vmlinux){
		.entry = l.elf.entry + (uint64_t)l.moved,
		.end = l.high + (uint64_t)l.moved,
		.random = l.slide != 0,
	};
	return true;
}
