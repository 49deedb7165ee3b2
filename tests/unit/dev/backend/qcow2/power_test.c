/* What becomes of an image when the power fails: a place in memory keeps what was written since the
 * last flush, and at the end any part of that, sector by sector, is there or not.
 */
#include "dev/backend/qcow2/qcow2_internal.h"

#include "check.h"
#include "base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define FILE_BYTES (24 * MiB)
#define SECTORS	   2048u /* of the disk: 1 MiB */

struct late {
	uint64_t off, len;
	uint8_t *data; /* owned */
};

struct memory {
	struct blk_place place;
	uint8_t *now, *durable;
	struct late *late;
	unsigned n_late, room;
	uint64_t seed;
	unsigned fail_in; /* writes and flushes until all fail; 0: never */
	bool flush_fails;
};

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static struct memory *mem_of(struct blk_place *p)
{
	return container_of(p, struct memory, place);
}

static int mem_read(struct blk_place *p, uint64_t off, const struct iovec *iov, unsigned n_iov,
		    uint64_t len)
{
	iov_zero(iov, n_iov, 0, len);
	if (off < FILE_BYTES)
		iov_from(iov, n_iov, 0, mem_of(p)->now + off, MIN(len, FILE_BYTES - off));
	return 0;
}

static bool fails(struct memory *m)
{
	return m->fail_in && --m->fail_in == 0;
}

static void remember(struct memory *m, uint64_t off, uint64_t len)
{
	struct late *l;

	if (m->n_late == m->room) {
		m->room = 2 * m->room + 64;
		m->late = realloc(m->late, m->room * sizeof(*m->late));
	}
	l = &m->late[m->n_late++];
	*l = (struct late){ off, len, malloc(len) };
	memcpy(l->data, m->now + off, len);
	m->place.bytes = MAX(m->place.bytes, off + len);
}

static int mem_write(struct blk_place *p, uint64_t off, const struct iovec *iov, unsigned n_iov,
		     uint64_t len)
{
	struct memory *m = mem_of(p);

	if (!range_fits(off, len, FILE_BYTES))
		return -ENOSPC;
	if (fails(m)) {
		m->fail_in = 1; /* and from now on */
		return -EIO;
	}
	iov_to(iov, n_iov, 0, m->now + off, len);
	remember(m, off, len);
	return 0;
}

static void forget_late(struct memory *m)
{
	for (unsigned i = 0; i < m->n_late; i++)
		free(m->late[i].data);
	m->n_late = 0;
}

static int mem_flush(struct blk_place *p)
{
	struct memory *m = mem_of(p);

	if (m->flush_fails)
		return -EIO;
	if (fails(m)) {
		m->fail_in = 1;
		return -EIO;
	}
	for (unsigned i = 0; i < m->n_late; i++)
		memcpy(m->durable + m->late[i].off, m->now + m->late[i].off, m->late[i].len);
	forget_late(m);
	return 0;
}

static int mem_discard(struct blk_place *p, uint64_t off, uint64_t len)
{
	struct memory *m = mem_of(p);

	if (off >= FILE_BYTES)
		return 0;
	len = MIN(len, FILE_BYTES - off);
	/* Not zeros: nothing may rely on that. */
	memset(m->now + off, 0xdb, len);
	remember(m, off, len);
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

/* The power fails: of what was late, any sectors are there. */
static void power_fails(struct memory *m)
{
	memcpy(m->now, m->durable, FILE_BYTES);
	for (unsigned i = 0; i < m->n_late; i++) {
		const struct late *l = &m->late[i];
		unsigned mood = (unsigned)(next_random(&m->seed) % 3);

		for (uint64_t at = l->off; at < l->off + l->len;) {
			uint64_t end = MIN(l->off + l->len, (at / 512 + 1) * 512);

			if (mood == 0 || (mood == 1 && next_random(&m->seed) % 2))
				memcpy(m->now + at, l->data + (at - l->off), end - at);
			at = end;
		}
	}
	memcpy(m->durable, m->now, FILE_BYTES);
	forget_late(m);
	m->fail_in = 0;
}

struct rig {
	struct blk_driver drv;
	struct memory mem;
	struct blk_node *node;
	uint32_t begun[SECTORS], done[SECTORS], flushed[SECTORS];
	unsigned ops;
	int ret;
};

static void make_sector(uint8_t *buf, unsigned sector, uint32_t version)
{
	for (unsigned i = 0; i < 512; i += 8)
		store64(buf + i, version % 4 ? (uint64_t)version << 32 | sector << 8 | i : 0);
}

static void write_some(struct rig *r)
{
	uint64_t *seed = &r->mem.seed;
	unsigned n = 1 + (unsigned)(next_random(seed) % (next_random(seed) % 8 ? 12 : 300));
	unsigned first = (unsigned)(next_random(seed) % (SECTORS - n));
	uint8_t *buf = malloc(n * 512);
	uint32_t version = 0;

	for (unsigned i = 0; i < n; i++)
		version = MAX(version, r->begun[first + i] + 1);
	for (unsigned i = 0; i < n; i++) {
		r->begun[first + i] = version;
		make_sector(buf + i * 512, first + i, version);
	}
	if (version % 4 == 0)
		r->ret = r->node->ops->zero(r->node, first * 512, n * 512, version & 4);
	else
		r->ret = r->node->ops->write(r->node, first * 512, &(struct iovec){ buf, n * 512 },
					     1, n * 512);
	for (unsigned i = 0; i < n && r->ret == 0; i++)
		r->done[first + i] = version;
	free(buf);
}

static void load_main(void *arg)
{
	struct rig *r = arg;

	r->ret = 0;
	for (unsigned i = 0; i < r->ops && r->ret == 0; i++) {
		if (next_random(&r->mem.seed) % 12) {
			write_some(r);
			continue;
		}
		r->ret = r->node->ops->flush(r->node);
		if (r->ret == 0)
			memcpy(r->flushed, r->done, sizeof(r->flushed));
	}
}

static void open_main(void *arg)
{
	struct rig *r = arg;
	struct blk_open how = { .path = "memory", .format = BLK_QCOW2 };
	struct blk_chain chain = { 0 };

	r->mem.place.bytes = FILE_BYTES;
	r->ret = qcow2_open(&r->node, &r->mem.place, &how, &chain, NULL);
}

static void check_main(void *arg)
{
	struct rig *r = arg;
	struct qcow2_check c = { 0 };
	struct q2_header h;
	struct qcow2 *q;

	r->mem.place.bytes = FILE_BYTES;
	CHECK_EQ(q2_header_read(&r->mem.place, &h, NULL), 0);
	CHECK_EQ(q2_load(&q, &r->mem.place, &h, NULL, NULL), 0);
	CHECK_EQ(q2_check(q, &c, NULL), 0);
	q2_unload(q);
	if (c.errors || c.damage)
		fail_msg("%llu errors, %llu damage: %s", (unsigned long long)c.errors,
			 (unsigned long long)c.damage, c.first);
}

static void compare_main(void *arg)
{
	struct rig *r = arg;
	uint8_t have[512], want[512];

	for (unsigned s = 0; s < SECTORS; s++) {
		uint32_t v = r->flushed[s];

		CHECK_EQ(r->node->ops->read(r->node, s * 512, &(struct iovec){ have, 512 }, 1, 512),
			 0);
		for (; v <= r->begun[s]; v++) {
			make_sector(want, s, v);
			if (memcmp(have, want, 512) == 0)
				break;
		}
		if (v > r->begun[s])
			fail_msg("sector %u: none of its versions %u to %u: %llx", s, r->flushed[s],
				 r->begun[s], (unsigned long long)load64(have + 8));
		r->flushed[s] = r->done[s] = v;
	}
}

static void run(struct rig *r, void (*fn)(void *arg))
{
	CHECK(fiber_start(r->drv.fibers, fn, r));
	fiber_run(r->drv.fibers);
	CHECK_EQ(fiber_busy(r->drv.fibers), 0);
}

/* Make the image by its own file first. */
static void make_image(struct rig *r, unsigned cluster_bits, unsigned refcount_bits)
{
	char path[] = "/tmp/cleave-power.XXXXXX";
	int fd = mkstemp(path);
	struct qcow2_options o = { .bytes = SECTORS * 512,
				   .version = 3,
				   .cluster_bits = cluster_bits,
				   .refcount_bits = refcount_bits };

	CHECK(fd >= 0);
	CHECK_EQ(qcow2_create(path, &o, NULL), 0);
	CHECK(pread(fd, r->mem.now, FILE_BYTES, 0) > 0);
	memcpy(r->mem.durable, r->mem.now, FILE_BYTES);
	unlink(path);
	close(fd);
}

static void rig_up(struct rig *r, unsigned cluster_bits, unsigned refcount_bits, uint64_t seed)
{
	memset(r, 0, sizeof(*r));
	CHECK_EQ(fiber_pool_new(&r->drv.fibers, 4, NULL), 0);
	r->mem.now = calloc(1, FILE_BYTES);
	r->mem.durable = calloc(1, FILE_BYTES);
	r->mem.seed = seed;
	/* Old bytes are not zeros there. */
	r->mem.place = (struct blk_place){
		.ops = &mem_ops, .drv = &r->drv, .bytes = FILE_BYTES, .align = 1, .fixed_size = true
	};
	make_image(r, cluster_bits, refcount_bits);
}

static void rig_down(struct rig *r)
{
	forget_late(&r->mem);
	free(r->mem.late);
	free(r->mem.now);
	free(r->mem.durable);
	fiber_pool_free(r->drv.fibers);
	free(r);
}

static void close_main(void *arg)
{
	struct rig *r = arg;

	r->ret = r->node->ops->close(r->node);
}

/* The program is gone, and with it what it had in memory only. */
static void abandon(struct rig *r)
{
	r->node->readonly = true;
	run(r, close_main);
}

static void try(unsigned cluster_bits, unsigned refcount_bits, uint64_t seed, bool failing)
{
	struct rig *r = malloc(sizeof(*r));

	rig_up(r, cluster_bits, refcount_bits, seed * 7919 + cluster_bits + 1);
	for (unsigned life = 0; life < 6; life++) {
		run(r, open_main);
		CHECK_EQ(r->ret, 0);
		r->ops = 1 + (unsigned)(next_random(&r->mem.seed) % 120);
		r->mem.fail_in = failing ? 1 + (unsigned)(next_random(&r->mem.seed) % 150) : 0;
		run(r, load_main);
		if (!failing)
			CHECK_EQ(r->ret, 0);
		abandon(r);
		power_fails(&r->mem);
		run(r, check_main);
		run(r, open_main);
		CHECK_EQ(r->ret, 0);
		run(r, compare_main);
		run(r, close_main);
	}
	rig_down(r);
}

TEST(a_power_failure_leaks_at_most_and_keeps_what_was_flushed)
{
	for (uint64_t seed = 1; seed <= 12; seed++) {
		try(9, 64, seed, false);
		try(12, 16, seed, false);
		try(16, 1, seed, false);
	}
}

TEST(a_disk_that_fails_leaves_the_same)
{
	for (uint64_t seed = 101; seed <= 112; seed++) {
		try(9, 8, seed, true);
		try(13, 16, seed, true);
		try(16, 2, seed, true);
	}
}

TEST(a_flush_that_failed_is_not_believed_again)
{
	struct rig *r = malloc(sizeof(*r));

	rig_up(r, 12, 16, 5);
	run(r, open_main);
	r->ops = 1;
	r->mem.flush_fails = true;
	for (unsigned i = 0; i < 1000 && !q2_of(r->node)->failed; i++)
		run(r, load_main);
	CHECK_EQ(r->ret, -EIO);
	r->mem.flush_fails = false;
	run(r, load_main);
	CHECK_EQ(r->ret, -EIO);
	abandon(r);
	rig_down(r);
}

TESTS(T(a_power_failure_leaks_at_most_and_keeps_what_was_flushed),
      T(a_disk_that_fails_leaves_the_same), T(a_flush_that_failed_is_not_believed_again))
