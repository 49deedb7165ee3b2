/* Feeds the qcow2 format with arbitrary images: whatever an image is, it is refused with a
 * sentence, or read and written, checked and repaired without harm to anything else. The input
 * begins with a byte of choices, then requests of 8 bytes behind their count, then the image, or
 * changes (offset, offset, value) to a good one with data, backed tables and snapshots' room.
 */
#include "base/err.h"
#include "dev/backend/qcow2/qcow2_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define FILE_BYTES (512 * KiB)
#define MAX_OP	   (128 * KiB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct memory {
	struct blk_place place;
	uint8_t bytes[FILE_BYTES];
};

static uint8_t *mem_at(struct blk_place *p, uint64_t off)
{
	return container_of(p, struct memory, place)->bytes + off;
}

static int mem_read(struct blk_place *p, uint64_t off, const struct iovec *iov, unsigned n_iov,
		    uint64_t len)
{
	iov_zero(iov, n_iov, 0, len);
	if (off < p->bytes)
		iov_from(iov, n_iov, 0, mem_at(p, off), MIN(len, p->bytes - off));
	return 0;
}

static int mem_write(struct blk_place *p, uint64_t off, const struct iovec *iov, unsigned n_iov,
		     uint64_t len)
{
	if (!range_fits(off, len, FILE_BYTES))
		return -ENOSPC;
	iov_to(iov, n_iov, 0, mem_at(p, off), len);
	p->bytes = MAX(p->bytes, off + len);
	return 0;
}

static int mem_flush(struct blk_place *p)
{
	return 0;
}

static int mem_discard(struct blk_place *p, uint64_t off, uint64_t len)
{
	return 0;
}

static int mem_zero(struct blk_place *p, uint64_t off, uint64_t len, bool may_unmap)
{
	return -EOPNOTSUPP;
}

static int mem_truncate(struct blk_place *p, uint64_t bytes)
{
	return -ENOTSUP;
}

static int mem_map(struct blk_place *p, uint64_t off, uint64_t len, bool *is_data, uint64_t *n)
{
	*is_data = true;
	*n = len;
	return 0;
}

static void mem_close(struct blk_place *p)
{
}

static const struct blk_place_ops mem_ops = {
	.read = mem_read,
	.write = mem_write,
	.flush = mem_flush,
	.discard = mem_discard,
	.zero = mem_zero,
	.truncate = mem_truncate,
	.map = mem_map,
	.close = mem_close,
};

struct run {
	struct blk_driver drv;
	struct memory *mem;
	const uint8_t *ops;
	unsigned n_ops;
	bool readonly;
};

static void one_op(struct blk_node *n, const uint8_t *op, uint8_t *buf)
{
	uint64_t len = (1 + load16(op + 6) % 255u) * 512u;
	uint64_t off = (uint64_t)(load32(op + 1) | (uint64_t)op[5] << 32) * 512;
	struct iovec iov = { buf, len };
	struct blk_extent e;

	if (n->bytes < len)
		return;
	if (op[0] < 128 || off > n->bytes - len)
		off = off % (n->bytes - len + 1) / 512 * 512;
	switch (op[0] % 8) {
	case 0:
	case 1: (void)!n->ops->read(n, off, &iov, 1, len); break;
	case 2:
	case 3:
		if (!n->readonly)
			(void)!n->ops->write(n, off, &iov, 1, len);
		break;
	case 4:
		if (!n->readonly)
			(void)!n->ops->zero(n, off, len, op[0] & 16);
		break;
	case 5:
		if (!n->readonly)
			(void)!n->ops->discard(n, off, len);
		break;
	case 6:
		if (n->ops->map(n, off, len, &e) == 0)
			assert(e.len > 0 && e.len <= len);
		break;
	default:
		if (!n->readonly)
			(void)!n->ops->flush(n);
	}
}

static void work(void *arg)
{
	struct run *r = arg;
	struct blk_open how = { .path = "fuzz", .format = BLK_QCOW2, .readonly = r->readonly };
	struct blk_chain chain = { 0 };
	struct err err = { 0 };
	struct blk_node *n;
	uint8_t *buf;

	if (qcow2_open(&n, &r->mem->place, &how, &chain, &err) < 0) {
		assert(err.code > 0 && err.msg[0]);
		return;
	}
	buf = malloc(MAX_OP);
	memset(buf, 0x77, MAX_OP);
	for (unsigned i = 0; i < r->n_ops; i++)
		one_op(n, r->ops + i * 8, buf);
	free(buf);
	(void)!n->ops->close(n);
}

static void check(void *arg)
{
	struct run *r = arg;
	struct qcow2_check c = { 0 };
	struct qcow2_snapshot *list;
	struct q2_header h;
	struct qcow2 *q;

	if (q2_header_read(&r->mem->place, &h, NULL) < 0 || q2_header_supported(&h, NULL) < 0)
		return;
	if (q2_snapshots_read(&r->mem->place, &h, &list, NULL, NULL) == 0)
		free(list);
	if (q2_load(&q, &r->mem->place, &h, NULL, NULL) < 0)
		return;
	/* Tables that lie on each other can be repaired to no end: that it ends is what is asked.
	 */
	if (q2_check(q, &c, NULL) == 0 && (c.leaks || c.errors))
		(void)!q2_repair(q, NULL);
	q2_unload(q);
}

/* A small good image with data, made once by the format itself. */
static void make_good(struct run *r, uint8_t choice)
{
	char path[] = "/tmp/cleave-fuzz.XXXXXX";
	static const uint8_t ops[] = { 2, 0, 0, 0, 0, 0, 20, 0, 2, 99, 0, 0, 0, 0, 90, 0,
				       4, 3, 0, 0, 0, 0, 9,  0, 7, 0,  0, 0, 0, 0, 0,  0 };
	struct qcow2_options o = { .bytes = 256 * KiB,
				   .version = choice & 1 ? 3 : 2,
				   .cluster_bits = 9 + choice % 3,
				   .refcount_bits = choice & 1 ? 1u << (choice / 2 % 7) : 16 };
	struct run load = { r->drv, r->mem, ops, sizeof(ops) / 8, false };
	int fd = mkstemp(path);
	ssize_t n;

	assert(fd >= 0 && qcow2_create(path, &o, NULL) == 0);
	n = pread(fd, r->mem->bytes, FILE_BYTES, 0);
	assert(n > 0);
	r->mem->place.bytes = (uint64_t)n;
	close(fd);
	unlink(path);
	fiber_start(r->drv.fibers, work, &load);
	fiber_run(r->drv.fibers);
}

static void fill(struct run *r, uint8_t choice, const uint8_t *data, size_t len)
{
	r->mem->place = (struct blk_place){ .ops = &mem_ops, .drv = &r->drv, .align = 1 };
	if (choice & 0x80) {
		r->mem->place.bytes = MIN(len, FILE_BYTES);
		memcpy(r->mem->bytes, data, r->mem->place.bytes);
		return;
	}
	make_good(r, choice);
	for (size_t i = 0; i + 3 <= len; i += 3)
		r->mem->bytes[load16(data + i) % r->mem->place.bytes] = data[i + 2];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct run r = { 0 };

	if (len < 2 || len < 2 + data[1] % 32u * 8)
		return 0;
	r.mem = calloc(1, sizeof(*r.mem));
	assert(r.mem && fiber_pool_new(&r.drv.fibers, 2, NULL) == 0);
	r.n_ops = data[1] % 32;
	r.ops = data + 2;
	fill(&r, data[0], data + 2 + r.n_ops * 8, len - 2 - r.n_ops * 8);
	r.readonly = data[0] & 0x40;
	fiber_start(r.drv.fibers, work, &r);
	fiber_run(r.drv.fibers);
	assert(fiber_busy(r.drv.fibers) == 0);
	fiber_start(r.drv.fibers, check, &r);
	fiber_run(r.drv.fibers);
	fiber_pool_free(r.drv.fibers);
	free(r.mem);
	return 0;
}
