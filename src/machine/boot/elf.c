/* ELF executables. System V ABI "Object Files". */
#include "base/err.h"
#include "machine/boot/boot_internal.h"
#include "mem/physmap.h"

#include <elf.h>
#include <errno.h>

bool elf_open(struct elf *e, const struct boot_file *f)
{
	const uint8_t *p = f->data;

	*e = (struct elf){ .f = f };
	if (f->len < sizeof(Elf32_Ehdr) || memcmp(p, ELFMAG, SELFMAG) != 0 ||
	    p[EI_DATA] != ELFDATA2LSB)
		return false;
	if (p[EI_CLASS] == ELFCLASS32) {
		Elf32_Ehdr h;

		memcpy(&h, p, sizeof(h));
		*e = (struct elf){ f, false, h.e_entry, h.e_phoff, h.e_phentsize, h.e_phnum };
		return h.e_machine == EM_386 && h.e_phentsize >= sizeof(Elf32_Phdr);
	}
	if (p[EI_CLASS] == ELFCLASS64 && f->len >= sizeof(Elf64_Ehdr)) {
		Elf64_Ehdr h;

		memcpy(&h, p, sizeof(h));
		*e = (struct elf){ f, true, h.e_entry, h.e_phoff, h.e_phentsize, h.e_phnum };
		return h.e_machine == EM_X86_64 && h.e_phentsize >= sizeof(Elf64_Phdr);
	}
	return false;
}

bool elf_segment(const struct elf *e, unsigned i, struct elf_segment *s)
{
	uint64_t step = (uint64_t)i * e->phentsize;

	if (!range_fits(e->phoff, step + e->phentsize, e->f->len))
		return false;

	const uint8_t *p = e->f->data + e->phoff + step;

	if (e->is64) {
		Elf64_Phdr h;

		memcpy(&h, p, sizeof(h));
		*s = (struct elf_segment){ h.p_type,  h.p_offset, h.p_vaddr,
					   h.p_paddr, h.p_filesz, h.p_memsz };
	} else {
		Elf32_Phdr h;

		memcpy(&h, p, sizeof(h));
		*s = (struct elf_segment){ h.p_type,  h.p_offset, h.p_vaddr,
					   h.p_paddr, h.p_filesz, h.p_memsz };
	}
	return range_fits(s->off, s->filesz, e->f->len);
}

static int zero(struct physmap *pm, gpa_t gpa, uint64_t len, struct err *err)
{
	static const uint8_t zeros[64 * KiB];
	int ret = 0;

	for (uint64_t done = 0; done < len && ret == 0; done += sizeof(zeros))
		ret = boot_write(pm, gpa + done, zeros, MIN(len - done, sizeof(zeros)),
				 "the kernel", err);
	return ret;
}

int elf_place(const struct elf *e, struct physmap *pm, gpa_t *end, struct err *err)
{
	*end = 0;
	for (unsigned i = 0; i < e->phnum; i++) {
		struct elf_segment s;

		if (!elf_segment(e, i, &s) || (s.type == ELF_PT_LOAD && s.filesz > s.memsz))
			return err_say(err, EINVAL,
				       "--kernel: %s is cut short or damaged: segment %u lies "
				       "outside the file",
				       e->f->text, i);
		if (s.type != ELF_PT_LOAD || !s.memsz)
			continue;

		int ret = boot_check_range(pm, s.paddr, s.memsz, err);

		if (ret == 0)
			ret = boot_write(pm, s.paddr, e->f->data + s.off, s.filesz, "the kernel",
					 err);
		if (ret == 0)
			ret = zero(pm, s.paddr + s.filesz, s.memsz - s.filesz, err);
		if (ret < 0)
			return err_wrap(err, "--kernel: %s", e->f->text);
		*end = MAX(*end, s.paddr + s.memsz);
	}
	if (!*end)
		return err_say(err, EINVAL, "--kernel: %s has nothing to load", e->f->text);
	return 0;
}

uint64_t elf_physical(const struct elf *e, uint64_t v)
{
	for (unsigned i = 0; i < e->phnum; i++) {
		struct elf_segment s;

		if (elf_segment(e, i, &s) && s.type == ELF_PT_LOAD && v >= s.vaddr &&
		    v - s.vaddr < s.memsz)
			return s.paddr + (v - s.vaddr);
	}
	return v;
}
