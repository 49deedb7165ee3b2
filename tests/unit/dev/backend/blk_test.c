#include "dev/backend/blk.h"

#include "base/bits.h"
#include "base/err.h"
#include "check.h"
#include "dev/backend/qcow2/qcow2.h"
#include "host/evloop.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* A folder with the files disk, base and so on. */
struct place {
	char dir[64], path[4][100];
};

static void place_up(struct place *p)
{
	strcpy(p->dir, "/tmp/cleave-blk.XXXXXX");
	CHECK(mkdtemp(p->dir));
	for (unsigned i = 0; i < 4; i++) {
		snprintf(p->path[i], sizeof(p->path[i]), "%s/%u", p->dir, i);
		close(open(p->path[i], O_CREAT | O_RDWR, 0600));
	}
}

static void place_down(struct place *p)
{
	for (unsigned i = 0; i < 4; i++)
		unlink(p->path[i]);
	rmdir(p->dir);
}

static void make_qcow2(const char *path, uint64_t bytes, const char *backing, const char *format)
{
	struct qcow2_options o = { .bytes = bytes,
				   .version = 3,
				   .cluster_bits = 16,
				   .refcount_bits = 16,
				   .backing = backing,
				   .backing_format = format };

	CHECK_EQ(truncate(path, 0), 0);
	CHECK_EQ(qcow2_create(path, &o, NULL), 0);
}

static void poke(const char *path, off_t off, const void *buf, size_t len)
{
	int fd = open(path, O_RDWR);

	CHECK_EQ(pwrite(fd, buf, len, off), (ssize_t)len);
	close(fd);
}

static int transfer(struct blk *b, enum blk_op op, uint64_t off, void *buf, uint64_t len)
{
	struct iovec iov = { buf, len };
	struct blk_req r = { .op = op, .off = off, .len = len, .iov = &iov, .n_iov = 1 };

	return blk_do(b, &r);
}

/* Opening says no, with a sentence that has word in it. */
static void refused(const struct blk_open *how, int code, const char *word)
{
	struct err err = { 0 };
	struct blk *b;

	CHECK_EQ(blk_open(&b, NULL, how, &err), -code);
	if (!strstr(err.msg, word))
		fail_msg("'%s' is not in '%s'", word, err.msg);
}

TEST(a_second_writer_is_refused_and_a_second_reader_is_not)
{
	struct place p;
	struct blk *a, *b;

	place_up(&p);
	CHECK_EQ(truncate(p.path[0], 65536), 0);

	struct blk_open rw = { .path = p.path[0] }, ro = { .path = p.path[0], .readonly = true };

	CHECK_EQ(blk_open(&a, NULL, &rw, NULL), 0);
	refused(&rw, EBUSY, "in use");
	refused(&ro, EBUSY, "for writing");
	CHECK_EQ(blk_close(a, NULL), 0);
	CHECK_EQ(blk_open(&a, NULL, &ro, NULL), 0);
	CHECK_EQ(blk_open(&b, NULL, &ro, NULL), 0);
	refused(&rw, EBUSY, "in use");
	CHECK_EQ(blk_close(b, NULL), 0);
	CHECK_EQ(blk_close(a, NULL), 0);
	place_down(&p);
}

TEST(a_read_only_disk_takes_no_writes)
{
	uint8_t buf[512] = { 0 };
	struct place p;
	struct blk *b;

	place_up(&p);
	CHECK_EQ(truncate(p.path[0], 65536), 0);
	CHECK_EQ(
		blk_open(&b, NULL, &(struct blk_open){ .path = p.path[0], .readonly = true }, NULL),
		0);
	CHECK_EQ(transfer(b, BLK_WRITE, 0, buf, 512), -EROFS);
	CHECK_EQ(transfer(b, BLK_DISCARD, 0, NULL, 512), -EROFS);
	CHECK_EQ(transfer(b, BLK_FLUSH, 0, NULL, 0), 0);
	CHECK_EQ(transfer(b, BLK_READ, 0, buf, 512), 0);
	CHECK_EQ(blk_close(b, NULL), 0);
	place_down(&p);
}

TEST(a_backing_file_is_followed_only_when_asked_for)
{
	uint8_t buf[512], want[512];
	struct place p;
	struct blk *b;

	place_up(&p);
	memset(want, 0x5a, sizeof(want));
	CHECK_EQ(truncate(p.path[1], MiB), 0);
	poke(p.path[1], 4096, want, 512);
	make_qcow2(p.path[0], 2 * MiB, "1", "raw");

	struct blk_open how = { .path = p.path[0], .format = BLK_QCOW2 };

	refused(&how, EINVAL, "add backing");
	how.backing = true;
	CHECK_EQ(blk_open(&b, NULL, &how, NULL), 0);
	CHECK_EQ(transfer(b, BLK_READ, 4096, buf, 512), 0);
	CHECK_MEM(buf, want, 512);
	/* A write beside it brings it into the image. */
	memset(buf, 1, 512);
	CHECK_EQ(transfer(b, BLK_WRITE, 512, buf, 512), 0);
	poke(p.path[1], 4096, buf, 512);
	CHECK_EQ(transfer(b, BLK_READ, 4096, buf, 512), 0);
	CHECK_MEM(buf, want, 512);
	CHECK_EQ(transfer(b, BLK_READ, MiB + 512, buf, 512), 0);
	CHECK_EQ(buf[0], 0);
	CHECK_EQ(blk_close(b, NULL), 0);
	place_down(&p);
}

TEST(images_that_stand_on_each_other_are_refused)
{
	struct place p;

	place_up(&p);
	make_qcow2(p.path[0], MiB, "1", "qcow2");
	make_qcow2(p.path[1], MiB, "0", "qcow2");
	refused(
		&(struct blk_open){
			.path = p.path[0], .format = BLK_QCOW2, .readonly = true, .backing = true },
		ELOOP, "its own backing file");
	make_qcow2(p.path[2], MiB, "json:{}", "raw");
	refused(&(struct blk_open){ .path = p.path[2], .format = BLK_QCOW2, .backing = true },
		ENOTSUP, "not the name of a file");
	place_down(&p);
}

TEST(what_is_no_file_is_refused)
{
	struct place p;

	place_up(&p);
	refused(&(struct blk_open){ .path = p.dir, .readonly = true }, EINVAL, "neither a file");
	refused(&(struct blk_open){ .path = "/dev/null" }, EINVAL, "neither a file");
	refused(&(struct blk_open){ .path = p.path[0], .format = BLK_QCOW2 }, EINVAL,
		"not a qcow2 image");
	place_down(&p);
}

/* A good image with len bytes changed at off is refused with word. */
static void bad_header(off_t off, const char *bytes, size_t len, int code, const char *word)
{
	struct place p;

	place_up(&p);
	make_qcow2(p.path[0], 64 * MiB, NULL, NULL);
	poke(p.path[0], off, bytes, len);
	refused(&(struct blk_open){ .path = p.path[0], .format = BLK_QCOW2 }, code, word);
	place_down(&p);
}

TEST(headers_that_make_no_sense_are_refused)
{
	bad_header(4, "\0\0\0\4", 4, ENOTSUP, "version 4");
	bad_header(20, "\0\0\0\10", 4, EINVAL, "cluster size");
	bad_header(20, "\0\0\0\50", 4, EINVAL, "cluster size");
	bad_header(24, "\177\377\377\377", 4, EINVAL, "too large");
	bad_header(32, "\0\0\0\1", 4, ENOTSUP, "encrypted");
	bad_header(36, "\377\377\377\377", 4, EINVAL, "L1 table");
	bad_header(36, "\0\0\0\0", 4, EINVAL, "too small");
	bad_header(40, "\0\0\0\0\0\0\2\0", 8, EINVAL, "L1 table");
	bad_header(40, "\377\377\377\377\377\377\0\0", 8, EINVAL, "L1 table");
	bad_header(48, "\0\0\0\0\0\1\0\1", 8, EINVAL, "reference table");
	bad_header(56, "\0\0\0\0", 4, EINVAL, "reference table");
	bad_header(56, "\377\377\377\377", 4, EINVAL, "reference table");
	bad_header(60, "\1\0\0\0", 4, EINVAL, "snapshot");
	bad_header(72, "\0\0\0\0\0\0\0\4", 8, ENOTSUP, "another file");
	bad_header(72, "\0\0\0\0\0\0\0\20", 8, ENOTSUP, "extended L2");
	bad_header(72, "\0\0\0\0\0\1\0\0", 8, ENOTSUP, "features");
	bad_header(72, "\0\0\0\0\0\0\0\10", 8, ENOTSUP, "compression");
	bad_header(72, "\0\0\0\0\0\0\0\2", 8, EINVAL, "corrupt");
	bad_header(96, "\0\0\0\7", 4, EINVAL, "64 bits");
	bad_header(100, "\0\0\0\5", 4, EINVAL, "header");
	bad_header(112, "\0\0\0\77\377\377\377\0", 8, EINVAL, "extension");
	bad_header(8, "\0\0\0\0\0\0\377\0\0\0\377\377", 12, EINVAL, "backing file's name");
}

TEST(a_dirty_image_is_repaired_when_it_is_opened_for_writing)
{
	struct qcow2_check c;
	struct place p;
	struct blk *b;

	place_up(&p);
	make_qcow2(p.path[0], 64 * MiB, NULL, NULL);
	/* Counts are wrong, as lazy refcounts leave them, and the image says so. */
	poke(p.path[0], 2 * 65536, "\0\0\0\0\0\0\0\0", 8);
	poke(p.path[0], 72, "\0\0\0\0\0\0\0\1", 8);
	CHECK_EQ(qcow2_check_image(p.path[0], false, &c, NULL), 0);
	CHECK(c.errors > 0);
	CHECK_EQ(blk_open(&b, NULL, &(struct blk_open){ .path = p.path[0], .format = BLK_QCOW2 },
			  NULL),
		 0);
	CHECK_EQ(blk_close(b, NULL), 0);
	CHECK_EQ(qcow2_check_image(p.path[0], false, &c, NULL), 0);
	CHECK_EQ(c.errors + c.damage + c.leaks, 0);
	place_down(&p);
}

TEST(data_on_top_of_metadata_is_not_written)
{
	uint8_t buf[512] = { 1 };
	struct place p;
	struct blk *b;

	place_up(&p);
	make_qcow2(p.path[0], MiB, NULL, NULL);
	CHECK_EQ(blk_open(&b, NULL, &(struct blk_open){ .path = p.path[0], .format = BLK_QCOW2 },
			  NULL),
		 0);
	CHECK_EQ(transfer(b, BLK_WRITE, 0, buf, 512), 0);
	CHECK_EQ(blk_close(b, NULL), 0);
	/* The L2 table is cluster 4 (header, table, block, L1): let entry 0 be the L1 table. */
	poke(p.path[0], 4 * 65536, "\200\0\0\0\0\3\0\0", 8);
	CHECK_EQ(blk_open(&b, NULL, &(struct blk_open){ .path = p.path[0], .format = BLK_QCOW2 },
			  NULL),
		 0);
	CHECK_EQ(transfer(b, BLK_WRITE, 0, buf, 512), -EIO);
	CHECK(blk_close(b, NULL) < 0);
	/* It is marked corrupt now. */
	refused(&(struct blk_open){ .path = p.path[0], .format = BLK_QCOW2 }, EINVAL, "corrupt");
	place_down(&p);
}

/* Requests on a loop's thread. */
struct many {
	struct blk_req r[40];
	struct iovec iov;
	uint8_t buf[4096];
	struct blk *b;
	struct ev_watch go;
	_Atomic unsigned done;
	_Atomic int failed;
};

static void many_done(struct blk_req *r, int ret)
{
	struct many *m = container_of(r->iov, struct many, iov);

	if (ret < 0)
		m->failed = ret;
	m->done++;
}

static void many_go(void *arg, short revents)
{
	struct many *m = arg;
	uint64_t n;

	CHECK_EQ(read(m->go.fd, &n, 8), 8);
	for (unsigned i = 0; i < 40; i++) {
		m->r[i] = (struct blk_req){ .op = BLK_WRITE,
					    .off = i * 4096,
					    .len = 4096,
					    .iov = &m->iov,
					    .n_iov = 1,
					    .done = many_done };
		blk_submit(m->b, &m->r[i]);
	}
	blk_kick(m->b);
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double time_many(const struct blk_limits *limits)
{
	struct many m = { 0 };
	struct evloop *loop;
	struct place p;
	uint64_t one = 1;
	double start;

	place_up(&p);
	make_qcow2(p.path[0], MiB, NULL, NULL);
	CHECK_EQ(evloop_new(&loop, NULL), 0);
	CHECK_EQ(blk_open(&m.b, loop, &(struct blk_open){ .path = p.path[0], .format = BLK_QCOW2 },
			  NULL),
		 0);
	if (limits)
		CHECK_EQ(blk_throttle_new(&m.b, loop, m.b, limits, NULL), 0);
	m.iov = (struct iovec){ m.buf, sizeof(m.buf) };
	m.go = (struct ev_watch){ .fd = eventfd(0, 0), .fn = many_go, .arg = &m };
	evloop_add(loop, &m.go, POLLIN, NULL);
	start = seconds();
	CHECK_EQ(write(m.go.fd, &one, 8), 8);
	while (m.done < 40 && seconds() < start + 60)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	start = seconds() - start;
	CHECK_EQ(m.done, 40);
	CHECK_EQ(m.failed, 0);
	evloop_del(loop, &m.go);
	close(m.go.fd);
	CHECK_EQ(blk_close(m.b, NULL), 0);
	evloop_free(loop);
	place_down(&p);
	return start;
}

TEST(requests_on_a_loop_all_finish)
{
	time_many(NULL);
}

TEST(limits_slow_requests_down_to_their_rates)
{
	/* 40 requests; 10 at once, the rest at 60 a second. */
	CHECK(time_many(&(struct blk_limits){ .iops = 60, .iops_burst = 10 }) > 0.4);
	/* 160 KiB; 32 at once, the rest at 256 KiB/s. */
	CHECK(time_many(&(struct blk_limits){ .bytes_per_s = 256 * KiB, .bytes_burst = 32 * KiB }) >
	      0.4);
}

TESTS(T(a_second_writer_is_refused_and_a_second_reader_is_not), T(a_read_only_disk_takes_no_writes),
      T(a_backing_file_is_followed_only_when_asked_for),
      T(images_that_stand_on_each_other_are_refused), T(what_is_no_file_is_refused),
      T(headers_that_make_no_sense_are_refused),
      T(a_dirty_image_is_repaired_when_it_is_opened_for_writing),
      T(data_on_top_of_metadata_is_not_written), T(requests_on_a_loop_all_finish),
      T(limits_slow_requests_down_to_their_rates))
