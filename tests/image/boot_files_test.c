/* Kernel and initrd out of ext4 file systems: whole ones, damaged ones, and none. mke2fs makes
 * them. */
#include "cli/image_boot.h"

#include "base/bits.h"
#include "base/err.h"
#include "check.h"
#include "dev/backend/blk.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/boot-files.XXXXXX";
static char disk[64];

static void shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void shell(const char *format, ...)
{
	char command[2048];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	CHECK_EQ(system(command), 0);
}

/* A disk with what the commands make in the folder that they are in. */
static void make_disk(const char *commands)
{
	shell("cd %s && rm -rf tree disk && mkdir tree && (cd tree && %s) && "
	      "PATH=$PATH:/usr/sbin mke2fs -q -F -t ext4 -d tree disk 24M",
	      folder, commands);
}

static int look(struct image_boot *b, struct err *err)
{
	struct blk_open how = { .path = disk };

	return image_boot_read(b, &how, err);
}

static void check_content(int fd, const char *text)
{
	char buf[64] = { 0 };

	CHECK_EQ(pread(fd, buf, sizeof(buf) - 1, 0), strlen(text));
	CHECK_STR(buf, text);
}

static void check_found(const char *commands, const char *kernel, const char *initrd)
{
	struct image_boot b;
	struct err err;

	make_disk(commands);
	CHECK_EQ(look(&b, &err), 0);
	check_content(b.kernel_fd, kernel);
	if (initrd)
		check_content(b.initrd_fd, initrd);
	else
		CHECK_EQ(b.initrd_fd, -1);
	image_boot_fini(&b);
}

static void check_refused(const char *why)
{
	struct image_boot b;
	struct err err;

	CHECK(look(&b, &err) < 0);
	CHECK_EQ(b.kernel_fd, -1);
	if (!strstr(err.msg, why))
		fail_msg("'%s' does not say '%s'", err.msg, why);
}

TEST(the_links_in_the_root_come_first)
{
	check_found("mkdir boot; printf old >boot/vmlinuz-1; printf new >boot/vmlinuz-2;"
		    "printf ird >boot/initrd.img-1;"
		    "ln -s boot/vmlinuz-1 vmlinuz; ln -s boot/initrd.img-1 initrd.img",
		    "old", "ird");
}

TEST(without_links_the_newest_version_counts)
{
	check_found(
		"mkdir boot; printf nine >boot/vmlinuz-6.1.0-9; printf ten >boot/vmlinuz-6.1.0-10;"
		"printf ird >boot/initrd.img-6.1.0-10",
		"ten", "ird");
	check_found("mkdir boot; printf k >boot/vmlinuz-6", "k", NULL);
}

TEST(a_large_file_is_whole)
{
	struct image_boot b;
	struct err err;
	struct stat st;

	make_disk("head -c 5000001 /dev/urandom >vmlinuz");
	CHECK_EQ(look(&b, &err), 0);
	CHECK_EQ(fstat(b.kernel_fd, &st), 0);
	CHECK_EQ(st.st_size, 5000001);
	shell("cmp %s/tree/vmlinuz /proc/%d/fd/%d", folder, (int)getpid(), b.kernel_fd);
	image_boot_fini(&b);
}

TEST(what_is_no_kernel_is_refused_with_a_sentence)
{
	make_disk("true");
	check_refused("neither /vmlinuz nor");
	make_disk("mkdir vmlinuz");
	check_refused("neither /vmlinuz nor");
	make_disk("ln -s vmlinuz vmlinuz");
	check_refused("neither /vmlinuz nor");
	make_disk("mkfifo vmlinuz");
	check_refused("neither /vmlinuz nor");
	make_disk("truncate -s 300M vmlinuz");
	check_refused("too large");
	shell("truncate -s 0 %s && truncate -s 24M %s", disk, disk);
	check_refused("no ext4 file system");
	shell("truncate -s 512 %s", disk);
	check_refused("no ext4 file system");
}

/* Nothing that a damaged file system does ends this process or fails without a sentence. */
TEST(damage_is_survived)
{
	uint32_t random = 20261123;

	make_disk(
		"mkdir boot; head -c 300000 /dev/zero >boot/vmlinuz-1; ln -s boot/vmlinuz-1 vmlinuz");
	for (unsigned n = 0; n < 60; n++) {
		int fd = open(disk, O_RDWR | O_CLOEXEC);
		struct image_boot b;
		struct err err = { 0 };
		uint64_t saved, value;
		off_t at;

		random = random * 1664525 + 1013904223;
		/* The superblock, the group descriptors, and the tables behind them. */
		at = n % 2 ? 1024 + (random >> 8) % 256 : (random >> 8) % (400 * 1024);
		CHECK_EQ(pread(fd, &saved, sizeof(saved), at), sizeof(saved));
		value = (uint64_t)random << 32 | ~random;
		CHECK_EQ(pwrite(fd, &value, sizeof(value), at), sizeof(value));
		if (look(&b, &err) < 0)
			CHECK(err.msg[0]);
		image_boot_fini(&b);
		CHECK_EQ(pwrite(fd, &saved, sizeof(saved), at), sizeof(saved));
		close(fd);
	}
	check_found("printf k >vmlinuz", "k", NULL);
}

static int begin(void **state)
{
	if (!mkdtemp(folder))
		return -1;
	snprintf(disk, sizeof(disk), "%s/disk", folder);
	return 0;
}

static int end(void **state)
{
	shell("rm -r %s", folder);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_links_in_the_root_come_first),
		T(without_links_the_newest_version_counts),
		T(a_large_file_is_whole),
		T(what_is_no_kernel_is_refused_with_a_sentence),
		T(damage_is_survived),
	};

	if (system("PATH=$PATH:/usr/sbin mke2fs -V 2>/dev/null") != 0)
		return 77;
	return cmocka_run_group_tests(tests, begin, end);
}
