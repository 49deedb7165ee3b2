/* Writes to /dev/vda until the machine is killed, and says what was flushed:
 * tests/disk/kill_test.py looks for it.
 *
 * From the environment, which the kernel makes of its command line: seed, and first, the number of
 * the first step. Step n writes some blocks; where, how many and what follows from seed and n
 * alone. Each sector says which step wrote it and where it belongs. After some steps there is a
 * flush, then a line "flushed N".
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BLOCK	   4096
#define SECTOR	   512
#define MAX_BLOCKS 32

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static uint64_t number(const char *name)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : 0;
}

static void die(const char *what)
{
	printf("failed %s: %s\n", what, strerror(errno));
	fflush(stdout);
	exit(1);
}

static void fill(uint8_t *buf, uint64_t step, uint64_t block, unsigned n)
{
	for (uint64_t i = 0; i < n * (BLOCK / SECTOR); i++) {
		uint64_t head[2] = { step, block * (BLOCK / SECTOR) + i };

		memcpy(buf + i * SECTOR, head, sizeof(head));
		memset(buf + i * SECTOR + sizeof(head), (int)(step * 37 & 255),
		       SECTOR - sizeof(head));
	}
}

int main(void)
{
	static uint8_t buf[MAX_BLOCKS * BLOCK];
	uint64_t seed = number("seed"), bytes;
	int fd = open("/dev/vda", O_RDWR);

	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes) < 0)
		die("open");
	for (uint64_t step = number("first");; step++) {
		uint64_t r = mix(seed + step);
		unsigned n = 1 + (r >> 40) % MAX_BLOCKS;
		uint64_t block = r % (bytes / BLOCK - MAX_BLOCKS);

		fill(buf, step, block, n);
		if (pwrite(fd, buf, n * BLOCK, (off_t)(block * BLOCK)) != (ssize_t)(n * BLOCK))
			die("write");
		if ((r >> 50) % 16)
			continue;
		if (fdatasync(fd) < 0)
			die("flush");
		printf("flushed %llu\n", (unsigned long long)step);
		fflush(stdout);
	}
}
