/* Load for disks, by the library's own backends, for the scripts beside it.
 *
 * blk_load random IMAGE FORMAT MODEL SEED OPS [direct] [threads]
 *	MODEL is a file with the disk's bytes. Does random requests, many at once, compares each
 *	read with what it must give, and writes the disk's new bytes to MODEL.
 * blk_load crash IMAGE FORMAT LOG SEED
 *	Writes and flushes until it is killed. LOG, a file that is mapped, says what was begun and
 *	what a flush has confirmed.
 * blk_load verify IMAGE FORMAT LOG
 *	Compares IMAGE with LOG: nothing that was confirmed is lost, nothing else appears.
 *
 * Exit status: 0 fine, 1 a difference, 2 could not be done, 3 (crash) writing failed.
 */
#include "base/bits.h"
#include "base/err.h"
#include "dev/backend/blk.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_AT_ONCE 24

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static uint64_t hash(uint64_t x)
{
	x = (x ^ x >> 31) * 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9ull;
	return x ^ x >> 32;
}

static void die(const char *what, const struct err *err)
{
	fprintf(stderr, "blk_load: %s: %s\n", what, err ? err->msg : "");
	exit(2);
}

static struct blk *open_disk(const char *path, const char *format, bool readonly, int argc,
			     char **argv)
{
	struct blk_open how = { .path = path,
				.format = strcmp(format, "raw") == 0 ? BLK_RAW : BLK_QCOW2,
				.readonly = readonly,
				.backing = true };
	struct err err;
	struct blk *b;

	for (int i = 0; i < argc; i++) {
		how.direct |= strcmp(argv[i], "direct") == 0;
		how.threads |= strcmp(argv[i], "threads") == 0;
	}
	if (blk_open(&b, NULL, &how, &err) < 0)
		die("open", &err);
	return b;
}

/* A request of the random load, and the part of the disk that it has to itself. */
struct op {
	struct blk_req r;
	uint8_t *buf, *want;
	struct iovec iov[5];
	bool busy;
};

struct random_load {
	struct blk *b;
	uint64_t seed, bytes, room;
	uint8_t *model;
	struct op op[MAX_AT_ONCE];
	unsigned under_way;
	bool bad;
};

static bool is_free(const struct random_load *l, uint64_t off, uint64_t len)
{
	for (unsigned i = 0; i < MAX_AT_ONCE; i++) {
		const struct blk_req *r = &l->op[i].r;

		if (l->op[i].busy && r->op != BLK_FLUSH && off < r->off + r->len &&
		    r->off < off + len)
			return false;
	}
	return true;
}

static struct random_load *load_of(struct op *o)
{
	return *(struct random_load **)(void *)(o->buf - 16);
}

static void random_done(struct blk_req *r, int ret)
{
	struct op *o = container_of(r, struct op, r);
	struct random_load *l = load_of(o);

	if (ret < 0) {
		fprintf(stderr, "request %d at %#llx+%#llx: %s\n", r->op,
			(unsigned long long)r->off, (unsigned long long)r->len, strerror(-ret));
		l->bad = true;
	}
	if (ret == 0 && r->op == BLK_READ && memcmp(o->buf, l->model + r->off, r->len) != 0) {
		uint64_t i = 0;

		while (o->buf[i] == l->model[r->off + i])
			i++;
		fprintf(stderr, "read at %#llx+%#llx: differs at +%#llx\n",
			(unsigned long long)r->off, (unsigned long long)r->len,
			(unsigned long long)i);
		l->bad = true;
	}
	free(o->buf - 16);
	o->busy = false;
	l->under_way--;
}

/* Cut the buffer into pieces of odd lengths. */
static void scatter(struct random_load *l, struct op *o)
{
	uint64_t len = o->r.len, at = 0;
	unsigned n = 0, pieces = 1 + next_random(&l->seed) % ARRAY_SIZE(o->iov);

	while (at < len) {
		uint64_t take = n + 1 == pieces ? len - at : 1 + next_random(&l->seed) % (len - at);

		o->iov[n++] = (struct iovec){ o->buf + at, take };
		at += take;
	}
	o->r.iov = o->iov;
	o->r.n_iov = n;
}

static uint64_t random_length(struct random_load *l)
{
	switch (next_random(&l->seed) % 8) {
	case 0: return 512 * (1 + next_random(&l->seed) % 4096);
	case 1: return 65536;
	case 2: return 512;
	case 3: return 512 * (1 + next_random(&l->seed) % 300);
	default: return 512 * (1 + next_random(&l->seed) % 32);
	}
}

static void choose(struct random_load *l, struct op *o)
{
	static const enum blk_op kinds[] = { BLK_READ,	BLK_READ,  BLK_READ,	BLK_WRITE,
					     BLK_WRITE, BLK_WRITE, BLK_DISCARD, BLK_WRITE_ZEROES };
	uint64_t wish = random_length(l), len = MIN(wish, l->bytes);
	uint64_t off = next_random(&l->seed) % (l->bytes / 512 - len / 512 + 1) * 512;

	if (next_random(&l->seed) % 2)
		off &= ~0xffffull;
	o->r = (struct blk_req){ .op = kinds[next_random(&l->seed) % ARRAY_SIZE(kinds)],
				 .may_unmap = next_random(&l->seed) % 2,
				 .off = off,
				 .len = len,
				 .done = random_done };
	if (next_random(&l->seed) % 20 == 0)
		o->r = (struct blk_req){ .op = BLK_FLUSH, .done = random_done };
}

/* Discarded bytes are zeros or what they were: find out which. */
static void settle_discard(struct random_load *l, uint64_t off, uint64_t len)
{
	uint8_t *buf = malloc(len);
	struct iovec iov = { buf, len };
	struct blk_req r = { .op = BLK_READ, .off = off, .len = len, .iov = &iov, .n_iov = 1 };

	if (blk_do(l->b, &r) < 0)
		die("read what was discarded", NULL);
	for (uint64_t i = 0; i < len; i += 512) {
		static const uint8_t zeros[512];

		if (memcmp(buf + i, zeros, 512) == 0)
			memset(l->model + off + i, 0, 512);
	}
	free(buf);
}

static void begin(struct random_load *l, struct op *o)
{
	uint8_t *mem;
	uint64_t stamp;

	choose(l, o);
	if (o->r.op != BLK_FLUSH && !is_free(l, o->r.off, o->r.len))
		return;
	if (o->r.op == BLK_DISCARD) {
		if (blk_do(l->b, &o->r) < 0)
			die("discard", NULL);
		settle_discard(l, o->r.off, o->r.len);
		return;
	}
	mem = malloc(o->r.len + 16);
	*(struct random_load **)(void *)mem = l;
	o->buf = mem + 16;
	scatter(l, o);
	stamp = next_random(&l->seed);
	for (uint64_t i = 0; i < o->r.len; i += 8)
		store64(o->buf + i, hash(stamp + i));
	if (o->r.op == BLK_WRITE)
		memcpy(l->model + o->r.off, o->buf, o->r.len);
	if (o->r.op == BLK_WRITE_ZEROES)
		memset(l->model + o->r.off, 0, o->r.len);
	o->busy = true;
	l->under_way++;
	blk_submit(l->b, &o->r);
	if (next_random(&l->seed) % 4 == 0)
		blk_kick(l->b);
}

static void settle(struct random_load *l)
{
	while (l->under_way)
		blk_wait(l->b);
}

static void resize(struct random_load *l)
{
	uint64_t bytes = 512 * (1 + next_random(&l->seed) % (l->room / 512));
	struct err err;

	settle(l);
	if (blk_resize(l->b, bytes, &err) < 0)
		die("resize", &err);
	if (bytes < l->bytes)
		memset(l->model + bytes, 0, l->bytes - bytes);
	l->bytes = bytes;
}

static int do_random(int argc, char **argv)
{
	struct random_load l = { .seed = hash(strtoull(argv[4], NULL, 0)) | 1 };
	unsigned ops = (unsigned)strtoul(argv[5], NULL, 0);
	struct blk_info info;
	struct err err;
	struct stat st;
	int fd = open(argv[3], O_RDWR);

	l.b = open_disk(argv[1], argv[2], false, argc - 6, argv + 6);
	blk_info(l.b, &info);
	l.bytes = info.bytes;
	if (fd < 0 || fstat(fd, &st) < 0 || (uint64_t)st.st_size != l.bytes)
		die("the model is not of the disk's size", NULL);
	l.room = l.bytes + 3 * MiB;
	l.model = calloc(1, l.room);
	if (read(fd, l.model, l.bytes) != (ssize_t)l.bytes)
		die("read the model", NULL);
	for (unsigned i = 0; i < ops && !l.bad; i++) {
		struct op *o = &l.op[next_random(&l.seed) % MAX_AT_ONCE];

		if (next_random(&l.seed) % 150 == 0 && argc > 6 && strcmp(argv[6], "resize") == 0)
			resize(&l);
		if (o->busy)
			blk_wait(l.b);
		else
			begin(&l, o);
	}
	settle(&l);
	if (blk_close(l.b, &err) < 0)
		die("close", &err);
	if (ftruncate(fd, 0) < 0 || pwrite(fd, l.model, l.bytes, 0) != (ssize_t)l.bytes)
		die("write the model", NULL);
	free(l.model);
	return l.bad;
}

/* The crash load: blocks with versions. */

#define BLOCK 4096u

struct log {
	uint64_t blocks;
	struct {
		uint32_t begun, done, flushed; /* versions; 0: as the disk was */
	} block[];
};

struct crash_load {
	struct blk *b;
	struct log *log;
	uint64_t seed;
	bool *busy;
	unsigned under_way;
	int failed;
};

struct write_op {
	struct blk_req r;
	struct crash_load *l;
	uint64_t first;
	unsigned n;
	struct iovec iov;
	uint8_t *buf;
	uint32_t *done; /* a flush's: what it confirms */
};

static bool is_zero_version(uint32_t version)
{
	return hash(version) % 5 == 0;
}

static void make_block(uint8_t *buf, uint64_t block, uint32_t version)
{
	for (unsigned i = 0; i < BLOCK; i += 8)
		store64(buf + i, hash(block << 32 | version) + i);
}

static void write_done(struct blk_req *r, int ret)
{
	struct write_op *o = container_of(r, struct write_op, r);
	struct crash_load *l = o->l;

	l->under_way--;
	if (ret < 0)
		l->failed = ret;
	for (unsigned i = 0; i < o->n; i++) {
		l->busy[o->first + i] = false;
		if (ret == 0)
			l->log->block[o->first + i].done = l->log->block[o->first + i].begun;
	}
	for (uint64_t i = 0; o->done && ret == 0 && i < l->log->blocks; i++)
		l->log->block[i].flushed = MAX(l->log->block[i].flushed, o->done[i]);
	free(o->done);
	free(o->buf);
	free(o);
}

static void begin_flush(struct crash_load *l)
{
	struct write_op *o = calloc(1, sizeof(*o));

	o->done = calloc(l->log->blocks, sizeof(*o->done));
	for (uint64_t i = 0; i < l->log->blocks; i++)
		o->done[i] = l->log->block[i].done;
	o->l = l;
	o->r = (struct blk_req){ .op = BLK_FLUSH, .done = write_done };
	l->under_way++;
	blk_submit(l->b, &o->r);
}

/* All blocks of one request have the same version, so that they are zeros together or not. */
static void begin_write(struct crash_load *l)
{
	uint64_t first = next_random(&l->seed) % l->log->blocks;
	unsigned n = 1 + (unsigned)(next_random(&l->seed) % (next_random(&l->seed) % 4 ? 4 : 60));
	struct write_op *o;
	uint32_t version = 0;

	if (next_random(&l->seed) % 3)
		first %= MIN(l->log->blocks, 512); /* where it hurts: the same clusters again */
	n = (unsigned)MIN(n, l->log->blocks - first);
	for (unsigned i = 0; i < n; i++) {
		if (l->busy[first + i])
			return;
		version = MAX(version, l->log->block[first + i].begun + 1);
	}
	o = calloc(1, sizeof(*o));
	o->l = l;
	o->first = first;
	o->n = n;
	o->buf = malloc((size_t)n * BLOCK);
	o->iov = (struct iovec){ o->buf, (size_t)n * BLOCK };
	o->r = (struct blk_req){ .op = is_zero_version(version) ? BLK_WRITE_ZEROES : BLK_WRITE,
				 .may_unmap = version & 1,
				 .off = first * BLOCK,
				 .len = (uint64_t)n * BLOCK,
				 .iov = &o->iov,
				 .n_iov = 1,
				 .done = write_done };
	for (unsigned i = 0; i < n; i++) {
		make_block(o->buf + (size_t)i * BLOCK, first + i, version);
		l->log->block[first + i].begun = version;
		l->busy[first + i] = true;
	}
	l->under_way++;
	blk_submit(l->b, &o->r);
}

static struct log *map_log(const char *path, uint64_t blocks)
{
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	size_t bytes = sizeof(struct log) + blocks * sizeof(((struct log *)0)->block[0]);
	struct log *log;

	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
		die("open the log", NULL);
	log = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (log == MAP_FAILED)
		die("map the log", NULL);
	log->blocks = blocks;
	return log;
}

static int do_crash(int argc, char **argv)
{
	struct crash_load l = { .seed = hash(strtoull(argv[4], NULL, 0)) | 1 };
	struct blk_info info;

	signal(SIGXFSZ, SIG_IGN);
	l.b = open_disk(argv[1], argv[2], false, argc - 5, argv + 5);
	blk_info(l.b, &info);
	l.log = map_log(argv[3], info.bytes / BLOCK);
	l.busy = calloc(l.log->blocks, 1);
	puts("ready");
	fflush(stdout);
	while (!l.failed) {
		if (next_random(&l.seed) % 40 == 0)
			begin_flush(&l);
		else if (l.under_way < MAX_AT_ONCE)
			begin_write(&l);
		if (l.under_way >= MAX_AT_ONCE || next_random(&l.seed) % 8 == 0)
			blk_wait(l.b);
	}
	while (l.under_way)
		blk_wait(l.b);
	blk_close(l.b, NULL);
	free(l.busy);
	return 3;
}

static bool is_version(const uint8_t *have, uint64_t block, uint32_t version)
{
	static const uint8_t zeros[BLOCK];
	uint8_t want[BLOCK];

	if (version == 0 || is_zero_version(version))
		return memcmp(have, zeros, BLOCK) == 0;
	make_block(want, block, version);
	return memcmp(have, want, BLOCK) == 0;
}

static int do_verify(int argc, char **argv)
{
	struct blk *b = open_disk(argv[1], argv[2], true, argc - 4, argv + 4);
	struct blk_info info;
	struct log *log;
	uint8_t buf[BLOCK];
	uint64_t confirmed = 0;
	int bad = 0;

	blk_info(b, &info);
	log = map_log(argv[3], info.bytes / BLOCK);
	for (uint64_t i = 0; i < log->blocks; i++) {
		struct iovec iov = { buf, BLOCK };
		struct blk_req r = { .off = i * BLOCK, .len = BLOCK, .iov = &iov, .n_iov = 1 };
		uint32_t v = log->block[i].flushed;

		confirmed += v;
		if (blk_do(b, &r) < 0)
			die("read", NULL);
		while (v <= log->block[i].begun && !is_version(buf, i, v))
			v++;
		if (v > log->block[i].begun) {
			fprintf(stderr, "block %llu: none of its versions %u to %u\n",
				(unsigned long long)i, log->block[i].flushed, log->block[i].begun);
			bad = 1;
		}
		/* The next round goes on from what is there. */
		log->block[i].done = log->block[i].flushed = v;
	}
	blk_close(b, NULL);
	printf("%llu versions confirmed\n", (unsigned long long)confirmed);
	return bad;
}

int main(int argc, char **argv)
{
	if (argc >= 7 && strcmp(argv[1], "random") == 0)
		return do_random(argc - 1, argv + 1);
	if (argc >= 6 && strcmp(argv[1], "crash") == 0)
		return do_crash(argc - 1, argv + 1);
	if (argc >= 5 && strcmp(argv[1], "verify") == 0)
		return do_verify(argc - 1, argv + 1);
	fprintf(stderr, "usage: see the head of blk_load.c\n");
	return 2;
}
