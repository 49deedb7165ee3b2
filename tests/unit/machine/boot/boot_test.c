#include "machine/boot/boot.h"

#include "base/err.h"
#include "images.h"
#include "check.h"
#include "machine/memmap.h"
#include "mem/physmap.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static uint8_t img[16384];
static struct err err;

static struct physmap memory(uint64_t bytes)
{
	struct physmap pm;

	CHECK_EQ(physmap_init(&pm, bytes, HOLE_BASE, NULL), 0);
	return pm;
}

static uint32_t word(struct physmap *pm, gpa_t gpa)
{
	uint32_t v = 0;

	CHECK(physmap_read(pm, gpa, &v, 4));
	return v;
}

static void text_at(struct physmap *pm, gpa_t gpa, char *buf, size_t len)
{
	CHECK(physmap_read(pm, gpa, buf, len));
	buf[len - 1] = 0;
}

/* Load and place img; returns boot_load's or boot_place's result. */
static int start(struct physmap *pm, size_t len, const char *append, struct boot_entry *e)
{
	struct boot_board board = { .pm = pm, .rsdp = ACPI_BASE };
	struct boot *b;
	int ret = boot_load_image(&b, "/boot/kernel", img, len, append, &err);

	if (ret < 0)
		return ret;
	ret = boot_place(b, &board, e, &err);
	boot_free(b);
	return ret;
}

TEST(linux_is_entered_in_long_mode_with_the_zero_page)
{
	struct physmap pm = memory(64 * MiB);
	struct boot_entry e;
	char text[32];

	CHECK_EQ(start(&pm, make_bzimage(img, 0x1000000, 0x100000, true), "quiet", &e), 0);
	CHECK_EQ(e.mode, BOOT_LONG64);
	CHECK_EQ(e.rip, 0x1000200);
	CHECK_EQ(e.rsi, BOOT_INFO);
	CHECK_EQ(e.cs, 0x10);
	CHECK_EQ(e.ds, 0x18);
	CHECK_EQ(word(&pm, 0x1000200), 0x90909090);
	CHECK_EQ(word(&pm, e.rsi + 0x202), 0x53726448);
	CHECK_EQ(word(&pm, e.rsi + 0x70), ACPI_BASE);
	CHECK_EQ(word(&pm, e.rsi + 0x210) & 0xff, 0xff);
	text_at(&pm, word(&pm, e.rsi + 0x228), text, sizeof(text));
	CHECK_STR(text, "quiet");
	/* Page tables map the kernel where it is. */
	CHECK_EQ(word(&pm, e.cr3) & ~0xfffu, BOOT_PAGE_TABLES + PAGE_SIZE);
	CHECK_EQ(word(&pm, BOOT_PAGE_TABLES + 2 * PAGE_SIZE + 8 * 8), 0x1000083);
	physmap_fini(&pm);
}

TEST(linux_gets_the_memory_map)
{
	struct physmap pm = memory(5 * GiB);
	struct boot_entry e;
	uint64_t ram = 0;

	CHECK_EQ(start(&pm, make_bzimage(img, 0x1000000, 0x100000, true), "", &e), 0);
	unsigned n = word(&pm, e.rsi + 0x1e8) & 0xff;
	for (unsigned i = 0; i < n; i++) {
		uint8_t r[20];

		physmap_read(&pm, e.rsi + 0x2d0 + 20 * i, r, 20);
		if (load32(r + 16) == 1)
			ram += load64(r + 8);
	}
	CHECK_EQ(ram, 5 * GiB - (HIGH_RAM_BASE - LOW_RAM_END));
	physmap_fini(&pm);
}

TEST(linux_without_a_64_bit_entry_starts_in_32_bit_mode)
{
	struct physmap pm = memory(64 * MiB);
	struct boot_entry e;

	CHECK_EQ(start(&pm, make_bzimage(img, 0x1000000, 0x100000, false), "", &e), 0);
	CHECK_EQ(e.mode, BOOT_FLAT32);
	CHECK_EQ(e.rip, 0x1000000);
	CHECK_EQ(e.rsi, BOOT_INFO);
	CHECK_EQ(e.cs, 0x10);
	physmap_fini(&pm);
}

TEST(linux_moves_down_when_it_must)
{
	struct physmap pm = memory(16 * MiB);
	struct boot_entry e;

	CHECK_EQ(start(&pm, make_bzimage(img, 0x1000000, 0x800000, true), "", &e), 0);
	CHECK_EQ(e.rip, 0x200200);
	CHECK(start(&pm, make_bzimage(img, 0x1000000, 0x1000000, true), "", &e) < 0);
	CHECK(strstr(err.msg, "--memory"));
	physmap_fini(&pm);
}

TEST(linux_refuses_long_command_lines_and_cut_files)
{
	struct physmap pm = memory(64 * MiB);
	struct boot_entry e;
	char append[300];
	size_t len = make_bzimage(img, 0x1000000, 0x100000, true);

	memset(append, 'a', sizeof(append) - 1);
	append[sizeof(append) - 1] = 0;
	CHECK(start(&pm, len, append, &e) < 0);
	CHECK(strstr(err.msg, "--append"));
	for (size_t cut = 0; cut < len - 16; cut += 13)
		CHECK(start(&pm, cut, "", &e) < 0);
	physmap_fini(&pm);
}

static const char *temp_file(char *path, const void *data, size_t len)
{
	int fd = mkstemp(path);

	CHECK(fd >= 0);
	CHECK_EQ(write(fd, data, len), (ssize_t)len);
	close(fd);
	return path;
}

TEST(initrds_are_joined_high_in_memory)
{
	struct physmap pm = memory(64 * MiB);
	char k[] = "/tmp/kernel-XXXXXX", a[] = "/tmp/initrd-XXXXXX", b[] = "/tmp/initrd-XXXXXX";
	size_t len = make_bzimage(img, 0x1000000, 0x100000, true);
	const char *initrd[] = { temp_file(a, "first", 5), temp_file(b, "next", 4) };
	struct boot_cfg cfg = {
		.kernel = temp_file(k, img, len), .initrd = initrd, .n_initrd = 2, .append = ""
	};
	struct boot_board board = { .pm = &pm, .rsdp = ACPI_BASE };
	struct boot_entry e;
	struct boot *boot;
	char got[12];

	CHECK_EQ(boot_load(&boot, &cfg, &err), 0);
	CHECK_EQ(boot_place(boot, &board, &e, &err), 0);
	CHECK_EQ(word(&pm, e.rsi + 0x21c), 12);
	CHECK_EQ(word(&pm, e.rsi + 0x218), 64 * MiB - PAGE_SIZE);
	CHECK(physmap_read(&pm, 64 * MiB - PAGE_SIZE, got, 12));
	CHECK_MEM(got, "first\0\0\0next", 12);
	boot_free(boot);
	unlink(k);
	unlink(a);
	unlink(b);
	physmap_fini(&pm);
}

TEST(pvh_is_entered_flat_with_start_info)
{
	struct physmap pm = memory(64 * MiB);
	struct boot_entry e;
	uint8_t note[32];
	char text[8];

	size_t len = make_elf64(img, 0xffffffff81000000, 0x1000000, note,
				make_pvh_note(note, 0x1000040));
	CHECK_EQ(start(&pm, len, "x=1", &e), 0);
	CHECK_EQ(e.mode, BOOT_FLAT32);
	CHECK_EQ(e.rip, 0x1000040);
	CHECK_EQ(word(&pm, e.rbx), 0x336ec578);
	CHECK_EQ(word(&pm, e.rbx + 4), 1);
	CHECK_EQ(word(&pm, e.rbx + 32), ACPI_BASE);
	text_at(&pm, word(&pm, e.rbx + 24), text, sizeof(text));
	CHECK_STR(text, "x=1");
	CHECK_EQ(word(&pm, e.rbx + 48), 5); /* ranges */
	CHECK_EQ(word(&pm, 0x1000000), 0xcccccccc);
	physmap_fini(&pm);
}

TEST(bss_is_zero_after_a_reset_too)
{
	struct physmap pm = memory(64 * MiB);
	struct boot_entry e;
	uint8_t note[32];
	uint32_t dirt = 0xdeadbeef;

	physmap_write(&pm, 0x1000100, &dirt, 4);
	size_t len = make_elf64(img, 0x1000000, 0x1000000, note, make_pvh_note(note, 0x1000000));
	CHECK_EQ(start(&pm, len, "", &e), 0);
	CHECK_EQ(word(&pm, 0x1000100), 0);
	physmap_fini(&pm);
}

TEST(multiboot_elf_is_entered_with_its_magic)
{
	struct physmap pm = memory(64 * MiB);
	struct boot_entry e;
	char text[32];

	size_t len = make_elf64(img, 0x400000, 0x400000, "", 0);
	put_multiboot(img + 1028, 3, NULL);
	CHECK_EQ(start(&pm, len, "smp 3", &e), 0);
	CHECK_EQ(e.mode, BOOT_FLAT32);
	CHECK_EQ(e.rip, 0x400010);
	CHECK_EQ(e.rax, 0x2badb002);
	CHECK_EQ(word(&pm, e.rbx) & 0x4d, 0x4d);
	CHECK_EQ(word(&pm, e.rbx + 4), 639);
	CHECK_EQ(word(&pm, e.rbx + 8), 63 * 1024);
	text_at(&pm, word(&pm, e.rbx + 16), text, sizeof(text));
	CHECK_STR(text, "/boot/kernel smp 3");
	physmap_fini(&pm);
}

TEST(multiboot_entry_is_translated_from_virtual)
{
	struct physmap pm = memory(64 * MiB);
	struct boot_entry e;

	size_t len = make_elf64(img, 0xc0400000, 0x400000, "", 0);
	put_multiboot(img + 1028, 0, NULL);
	CHECK_EQ(start(&pm, len, "", &e), 0);
	CHECK_EQ(e.rip, 0x400010);
	physmap_fini(&pm);
}

TEST(multiboot_flat_images_go_where_they_say)
{
	struct physmap pm = memory(64 * MiB);
	/* header, load, load end, bss end, entry */
	const uint32_t addr[5] = { 0x100010, 0x100000, 0x100100, 0x100200, 0x100020 };
	uint32_t dirt = ~0u;
	struct boot_entry e;

	memset(img, 0x55, 0x200);
	put_multiboot(img + 0x20, 1 << 16, addr);
	physmap_write(&pm, 0x100180, &dirt, 4);
	CHECK_EQ(start(&pm, 0x200, "", &e), 0);
	CHECK_EQ(e.rip, 0x100020);
	CHECK_EQ(word(&pm, 0x100010), 0x1badb002);
	CHECK_EQ(word(&pm, 0x1000fc), 0x55555555);
	CHECK_EQ(word(&pm, 0x100180), 0);
	physmap_fini(&pm);
}

TEST(multiboot_addresses_that_make_no_sense_are_refused)
{
	static const uint32_t bad[][5] = {
		{ 0x100000, 0x100010, 0x100100, 0, 0x100010 },	 /* header before the image */
		{ 0x200000, 0x100000, 0x100100, 0, 0x100010 },	 /* image starts before the file */
		{ 0x100020, 0x100000, 0x800000, 0, 0x100010 },	 /* file too short */
		{ 0x100020, 0x100000, 0x0ff000, 0, 0x100010 },	 /* end before start */
		{ 0x100020, 0x100000, 0, 0xffffffff, 0x100010 }, /* bss beyond memory */
		{ 0x1020, 0x1000, 0x1100, 0, 0x1010 },		 /* over the boot information */
	};
	struct physmap pm = memory(64 * MiB);
	struct boot_entry e;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		memset(img, 0, 0x200);
		put_multiboot(img + 0x20, 1 << 16, bad[i]);
		CHECK(start(&pm, 0x200, "", &e) < 0);
	}
	memset(img, 0, 0x200);
	put_multiboot(img + 0x20, 1 << 2, NULL); /* a video mode */
	CHECK(start(&pm, 0x200, "", &e) < 0);
	physmap_fini(&pm);
}

TEST(modules_carry_their_command_lines)
{
	struct physmap pm = memory(64 * MiB);
	char k[] = "/tmp/kernel-XXXXXX", a[] = "/tmp/module-XXXXXX", with_text[64], text[64];
	size_t len = make_elf64(img, 0x400000, 0x400000, "", 0);

	put_multiboot(img + 1028, 3, NULL);
	temp_file(a, "module", 6);
	snprintf(with_text, sizeof(with_text), "%s env x", a);
	const char *initrd[] = { with_text, a };
	struct boot_cfg cfg = {
		.kernel = temp_file(k, img, len), .initrd = initrd, .n_initrd = 2, .append = ""
	};
	struct boot_board board = { .pm = &pm };
	struct boot_entry e;
	struct boot *boot;

	CHECK_EQ(boot_load(&boot, &cfg, &err), 0);
	CHECK_EQ(boot_place(boot, &board, &e, &err), 0);
	CHECK_EQ(word(&pm, e.rbx + 20), 2);
	gpa_t list = word(&pm, e.rbx + 24);
	CHECK_EQ(word(&pm, list), 0x401000);
	CHECK_EQ(word(&pm, list + 4), 0x401006);
	CHECK_EQ(word(&pm, list + 16), 0x402000);
	text_at(&pm, word(&pm, list + 8), text, sizeof(text));
	CHECK_STR(text, with_text);
	boot_free(boot);
	unlink(k);
	unlink(a);
	physmap_fini(&pm);
}

TEST(a_reset_reads_the_files_again)
{
	struct physmap pm = memory(64 * MiB);
	char k[] = "/tmp/kernel-XXXXXX";
	size_t len = make_elf64(img, 0x400000, 0x400000, "", 0);
	struct boot_board board = { .pm = &pm };
	struct boot_entry e;
	struct boot *boot;

	put_multiboot(img + 1028, 3, NULL);
	struct boot_cfg cfg = { .kernel = temp_file(k, img, len), .append = "" };

	CHECK_EQ(boot_load(&boot, &cfg, &err), 0);
	CHECK_EQ(boot_place(boot, &board, &e, &err), 0);
	uint32_t first = word(&pm, 0x400000);
	uint32_t zero = 0;
	CHECK(physmap_write(&pm, 0x400000, &zero, 4));
	CHECK_EQ(boot_place(boot, &board, &e, &err), 0);
	CHECK_EQ(word(&pm, 0x400000), first);

	/* It is no kernel any more, then not even as long. */
	int fd = open(k, O_WRONLY);
	memset(img, 0, len);
	CHECK_EQ(pwrite(fd, img, len, 0), (ssize_t)len);
	CHECK(boot_place(boot, &board, &e, &err) < 0);
	CHECK(strstr(err.msg, "is not a kernel"));
	CHECK_EQ(ftruncate(fd, 100), 0);
	CHECK(boot_place(boot, &board, &e, &err) < 0);
	CHECK(strstr(err.msg, "has become shorter"));
	close(fd);
	boot_free(boot);
	unlink(k);
	physmap_fini(&pm);
}

TEST(segments_outside_file_or_memory_are_refused)
{
	struct physmap pm = memory(64 * MiB);
	struct boot_entry e;
	uint8_t note[32];
	size_t n = make_pvh_note(note, 0x1000000);
	Elf64_Phdr *ph = (Elf64_Phdr *)(img + sizeof(Elf64_Ehdr));

	size_t len = make_elf64(img, 0, 0x8000000, note, n);
	CHECK(start(&pm, len, "", &e) < 0);
	CHECK(strstr(err.msg, "--memory"));
	make_elf64(img, 0, 0xffffffffffffff00, note, n);
	CHECK(start(&pm, len, "", &e) < 0);
	make_elf64(img, 0, 0x1000, note, n);
	CHECK(start(&pm, len, "", &e) < 0);
	make_elf64(img, 0, 0x1000000, note, n);
	ph->p_offset = UINT64_MAX - 16;
	CHECK(start(&pm, len, "", &e) < 0);
	make_elf64(img, 0, 0x1000000, note, n);
	ph->p_filesz = 100000;
	CHECK(start(&pm, len, "", &e) < 0);
	make_elf64(img, 0, 0x1000000, note, n);
	ph->p_memsz = 8;
	CHECK(start(&pm, len, "", &e) < 0);
	physmap_fini(&pm);
}

TEST(what_is_no_kernel_is_told_so)
{
	struct physmap pm = memory(16 * MiB);
	struct boot_entry e;

	memset(img, 0, sizeof(img));
	CHECK(start(&pm, 0, "", &e) < 0);
	CHECK(start(&pm, sizeof(img), "", &e) < 0);
	CHECK(strstr(err.msg, "/boot/kernel is not a kernel"));
	struct boot *b;
	CHECK(boot_load(&b, &(struct boot_cfg){ .kernel = "/nonexistent", .append = "" }, &err) <
	      0);
	CHECK(strstr(err.msg, "--kernel"));
	physmap_fini(&pm);
}

TESTS(T(linux_is_entered_in_long_mode_with_the_zero_page), T(linux_gets_the_memory_map),
      T(linux_without_a_64_bit_entry_starts_in_32_bit_mode), T(linux_moves_down_when_it_must),
      T(linux_refuses_long_command_lines_and_cut_files), T(initrds_are_joined_high_in_memory),
      T(pvh_is_entered_flat_with_start_info), T(bss_is_zero_after_a_reset_too),
      T(multiboot_elf_is_entered_with_its_magic), T(multiboot_entry_is_translated_from_virtual),
      T(multiboot_flat_images_go_where_they_say),
      T(multiboot_addresses_that_make_no_sense_are_refused), T(modules_carry_their_command_lines),
      T(a_reset_reads_the_files_again), T(segments_outside_file_or_memory_are_refused),
      T(what_is_no_kernel_is_told_so))
