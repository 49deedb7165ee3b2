/* cleave disk convert: copy a disk into a new image. */
#include "base/bits.h"
#include "base/err.h"
#include "cli/disk_image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define UNIT_BYTES (64 * KiB)
#define N_UNITS	   32 /* under way at once */

struct unit {
	struct blk_req r;
	struct iovec iov;
	uint8_t *buf;
	struct copy *copy;
};

struct copy {
	struct blk *from, *to;
	struct unit unit[N_UNITS];
	unsigned n, under_way;
	int failed;
	struct progress progress;
};

static void on_done(struct blk_req *r, int ret)
{
	struct copy *c = container_of(r, struct unit, r)->copy;

	c->under_way--;
	if (ret < 0)
		c->failed = ret;
}

static bool is_zeros(const uint8_t *buf, size_t len)
{
	return buf[0] == 0 && memcmp(buf, buf + 1, len - 1) == 0;
}

static void wait_for_all(struct copy *c, struct blk *b)
{
	blk_kick(b);
	while (c->under_way)
		blk_wait(b);
}

/* Read the units that were gathered, then write those that are not zeros. */
static int pass_on(struct copy *c)
{
	for (unsigned i = 0; i < c->n; i++) {
		c->under_way++;
		blk_submit(c->from, &c->unit[i].r);
	}
	wait_for_all(c, c->from);
	for (unsigned i = 0; i < c->n && !c->failed; i++) {
		struct unit *u = &c->unit[i];

		if (is_zeros(u->buf, u->r.len))
			continue;
		u->r.op = BLK_WRITE;
		c->under_way++;
		blk_submit(c->to, &u->r);
	}
	wait_for_all(c, c->to);
	c->n = 0;
	return c->failed;
}

static void gather(struct copy *c, uint64_t off, uint64_t len)
{
	struct unit *u = &c->unit[c->n++];

	u->iov.iov_len = len;
	u->r = (struct blk_req){
		.op = BLK_READ, .off = off, .len = len, .iov = &u->iov, .n_iov = 1, .done = on_done
	};
}

/* Copy [off, end), which has data. */
static int copy_range(struct copy *c, uint64_t off, uint64_t end, struct new_file *f)
{
	int ret = 0;

	for (uint64_t len; off < end && ret == 0 && !new_file_stopped(f); off += len) {
		len = MIN(end - off, UNIT_BYTES - off % UNIT_BYTES);
		gather(c, off, len);
		if (c->n == N_UNITS) {
			ret = pass_on(c);
			progress_tell(&c->progress, off);
		}
	}
	return ret;
}

static int copy_all(struct copy *c, uint64_t bytes, struct new_file *f, struct err *err)
{
	int ret = 0;

	progress_begin(&c->progress, bytes);
	for (uint64_t off = 0; off < bytes && ret == 0 && !new_file_stopped(f);) {
		struct blk_extent e;

		ret = blk_map(c->from, off, bytes - off, &e);
		if (ret == 0 && (e.kind == BLK_DATA || e.kind == BLK_COMPRESSED))
			ret = copy_range(c, off, off + e.len, f);
		off += e.len;
	}
	if (ret == 0)
		ret = pass_on(c);
	progress_end(&c->progress);
	return ret < 0 ? err_set(err, -ret, "copy") : 0;
}

static int make_units(struct copy *c, struct err *err)
{
	for (unsigned i = 0; i < N_UNITS; i++) {
		struct unit *u = &c->unit[i];

		if (posix_memalign((void **)&u->buf, 4096, UNIT_BYTES) != 0) {
			u->buf = NULL;
			return err_set(err, ENOMEM, "convert");
		}
		u->iov.iov_base = u->buf;
		u->copy = c;
	}
	return 0;
}

static int copy_into(struct copy *c, const struct disk_args *a, enum blk_format to,
		     struct new_file *f, struct err *err)
{
	struct blk_open how = { .path = f->temporary, .format = to };
	struct blk_info info;
	int ret, closed;

	blk_info(c->from, &info);
	ret = disk_make(a, f->temporary, to, info.bytes, err);
	if (ret == 0)
		ret = blk_open(&c->to, NULL, &how, err);
	if (ret < 0)
		return ret;
	ret = make_units(c, err);
	if (ret == 0)
		ret = copy_all(c, info.bytes, f, err);
	closed = blk_close(c->to, ret == 0 ? err : NULL);
	for (unsigned i = 0; i < N_UNITS; i++)
		free(c->unit[i].buf);
	return ret == 0 ? closed : ret;
}

int disk_copy(const struct blk_open *from, const struct disk_args *a, enum blk_format to,
	      struct new_file *f, struct err *err)
{
	struct copy c = { 0 };
	int ret = blk_open(&c.from, NULL, from, err);

	if (ret < 0)
		return ret;
	ret = copy_into(&c, a, to, f, err);
	blk_close(c.from, NULL);
	return ret;
}

int disk_convert(const struct disk_args *a, struct err *err)
{
	struct blk_open how = {
		.path = a->file[0], .readonly = true, .backing = a->backing, .snapshot = a->snapshot
	};
	enum blk_format to = BLK_QCOW2;
	struct new_file f;
	int ret = disk_source_format(a, a->file[0], &how.format, err);

	if (ret == 0 && a->to && !blk_format_parse(a->to, &to))
		ret = err_say(err, EINVAL, "--to: '%s' is not raw or qcow2, as in --to raw", a->to);
	if (ret == 0 && how.format == BLK_RAW && a->snapshot)
		ret = err_say(err, EINVAL, "--snapshot: only qcow2 images have snapshots");
	if (ret == 0)
		ret = new_file_begin(&f, a->file[1], a->force, err);
	return ret < 0 ? ret : new_file_end(&f, disk_copy(&how, a, to, &f, err), err);
}
