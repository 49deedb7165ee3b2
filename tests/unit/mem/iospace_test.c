#include "mem/iospace.h"

#include "base/err.h"
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

/* A device that notes the last access and answers with its offset in each byte. */
struct probe {
	uint64_t off, val;
	unsigned size, n;
};

static uint64_t probe_read(void *dev, uint64_t off, unsigned size)
{
	struct probe *p = dev;
	uint64_t val = 0;

	*p = (struct probe){ .off = off, .size = size, .n = p->n + 1 };
	for (unsigned i = 0; i < size; i++)
		val |= (off + i) << (8 * i);
	return val;
}

static void probe_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct probe *p = dev;

	*p = (struct probe){ .off = off, .size = size, .val = val, .n = p->n + 1 };
}

static const struct io_ops byte_ops = { .read = probe_read, .write = probe_write, .max = 1 };
static const struct io_ops word_ops = { .read = probe_read, .write = probe_write, .max = 4 };

TEST(an_access_reaches_the_region_with_its_offset)
{
	struct iospace *s = iospace_new(0x10000);
	struct probe p = { 0 };

	CHECK_EQ(iospace_map(s, 0x100, 16, &word_ops, &p, NULL), 0);
	CHECK_EQ(iospace_read(s, 0x104, 4), 0x07060504);
	CHECK_EQ(p.off, 4);
	CHECK_EQ(p.size, 4);
	iospace_write(s, 0x10f, 1, 0x1ff);
	CHECK_EQ(p.off, 15);
	CHECK_EQ(p.val, 0xff);
	iospace_free(s);
}

TEST(nothing_reads_as_ones)
{
	struct iospace *s = iospace_new(0x10000);

	CHECK_EQ(iospace_read(s, 0x80, 1), 0xff);
	CHECK_EQ(iospace_read(s, 0x80, 4), 0xffffffff);
	CHECK(iospace_read(s, UINT64_MAX - 2, 8) == UINT64_MAX);
	iospace_write(s, 0x80, 2, 1);
	iospace_free(s);
}

TEST(wide_accesses_are_split_low_address_first)
{
	struct iospace *s = iospace_new(0x10000);
	struct probe p = { 0 };

	iospace_map(s, 0x40, 4, &byte_ops, &p, NULL);
	CHECK_EQ(iospace_read(s, 0x40, 4), 0x03020100);
	CHECK_EQ(p.n, 4);
	iospace_write(s, 0x40, 2, 0xaabb);
	CHECK_EQ(p.n, 6);
	CHECK_EQ(p.off, 1);
	CHECK_EQ(p.val, 0xaa);
	iospace_free(s);
}

TEST(an_access_across_an_end_is_split_there)
{
	struct iospace *s = iospace_new(0x10000);
	struct probe a = { 0 }, b = { 0 };

	iospace_map(s, 0x10, 3, &word_ops, &a, NULL);
	iospace_map(s, 0x13, 1, &word_ops, &b, NULL);
	CHECK_EQ(iospace_read(s, 0x10, 8), 0xffffffff00020100);
	CHECK_EQ(a.n, 2); /* two bytes, then one */
	CHECK_EQ(b.n, 1);
	CHECK_EQ(iospace_read(s, 0xf, 2), 0x00ff);
	iospace_free(s);
}

TEST(overlaps_and_overruns_are_refused)
{
	struct iospace *s = iospace_new(0x10000);
	struct probe p = { 0 };
	struct err err;

	CHECK_EQ(iospace_map(s, 0x100, 16, &word_ops, &p, &err), 0);
	CHECK_EQ(iospace_map(s, 0x10f, 4, &word_ops, &p, &err), -EEXIST);
	CHECK_EQ(iospace_map(s, 0xff, 2, &word_ops, &p, &err), -EEXIST);
	CHECK_EQ(iospace_map(s, 0x80, 0x200, &word_ops, &p, &err), -EEXIST);
	CHECK_EQ(iospace_map(s, 0x104, 1, &word_ops, &p, &err), -EEXIST);
	CHECK_EQ(iospace_map(s, 0xfff8, 9, &word_ops, &p, &err), -ERANGE);
	CHECK_EQ(iospace_map(s, 8, UINT64_MAX, &word_ops, &p, &err), -ERANGE);
	CHECK_EQ(iospace_map(s, 8, 0, &word_ops, &p, &err), -ERANGE);
	CHECK_EQ(iospace_map(s, 0x110, 1, &word_ops, &p, &err), 0);
	CHECK_EQ(iospace_map(s, 0xff, 1, &word_ops, &p, &err), 0);
	iospace_free(s);
}

TEST(a_full_space_says_so)
{
	struct iospace *s = iospace_new(0x10000);
	struct probe p = { 0 };
	int ret = 0;
	unsigned n;

	for (n = 0; n < 0x8000 && ret == 0; n++)
		ret = iospace_map(s, 0x8000 - 2 * n, 1, &word_ops, &p, NULL);
	CHECK_EQ(ret, -ENOSPC);
	CHECK_EQ(n, 257);
	iospace_free(s);
}

TEST(unmap_undoes_the_map_that_starts_there)
{
	struct iospace *s = iospace_new(0x10000);
	struct probe p = { 0 };

	iospace_map(s, 0x100, 16, &word_ops, &p, NULL);
	iospace_unmap(s, 0x101);
	CHECK_EQ(iospace_read(s, 0x100, 1), 0x00);
	iospace_unmap(s, 0x100);
	CHECK_EQ(iospace_read(s, 0x100, 1), 0xff);
	CHECK_EQ(iospace_map(s, 0x100, 16, &word_ops, &p, NULL), 0);
	iospace_free(s);
}

struct mover {
	struct iospace *s;
	_Atomic bool stop;
	struct probe p;
};

static void *move(void *arg)
{
	struct mover *m = arg;

	for (uint64_t at = 0; !m->stop; at ^= 0x10) {
		iospace_map(m->s, at, 16, &word_ops, &m->p, NULL);
		iospace_unmap(m->s, at);
	}
	return NULL;
}

static int n_here;

static void count_bells(void *arg, const struct io_bells *b, bool here)
{
	n_here += here ? (int)b->n : -(int)b->n;
	CHECK_EQ(b->base, 0x1100);
}

TEST(doorbells_are_told_while_their_region_is_there)
{
	static const struct io_ops none = { .max = 4 };
	struct iospace *s = iospace_new(0x10000);
	struct io_bells b = { .base = 0x1100, .step = 4, .n = 3 };

	n_here = 0;
	iospace_map(s, 0x1000, 0x1000, &none, NULL, NULL);
	iospace_map(s, 0x2000, 0x1000, &none, NULL, NULL);
	iospace_add_bells(s, &b);
	iospace_watch_bells(s, count_bells, NULL);
	CHECK_EQ(n_here, 3);
	iospace_unmap(s, 0x2000);
	CHECK_EQ(n_here, 3);
	iospace_unmap(s, 0x1000);
	CHECK_EQ(n_here, 0);
	iospace_map(s, 0x1000, 0x1000, &none, NULL, NULL);
	for (unsigned i = 0; i < IO_MAX_BELLS + 1; i++)
		iospace_add_bells(s, &b);
	CHECK_EQ(n_here, 3 * IO_MAX_BELLS);
	iospace_watch_bells(s, NULL, NULL);
	iospace_unmap(s, 0x1000);
	CHECK_EQ(n_here, 3 * IO_MAX_BELLS);
	iospace_free(s);
}

static uint64_t constant_read(void *dev, uint64_t off, unsigned size)
{
	return 0x5a;
}

TEST(readers_see_whole_regions_while_others_move)
{
	static const struct io_ops constant = { .read = constant_read, .max = 1 };
	struct mover m = { .s = iospace_new(0x10000) };
	pthread_t t;

	iospace_map(m.s, 0x100, 1, &constant, NULL, NULL);
	pthread_create(&t, NULL, move, &m);
	for (unsigned i = 0; i < 5000000; i++)
		if (iospace_read(m.s, 0x100, 1) != 0x5a)
			fail_msg("read %u missed the region", i);
	m.stop = true;
	pthread_join(t, NULL);
	iospace_free(m.s);
}

TESTS(T(an_access_reaches_the_region_with_its_offset), T(nothing_reads_as_ones),
      T(wide_accesses_are_split_low_address_first), T(an_access_across_an_end_is_split_there),
      T(overlaps_and_overruns_are_refused), T(a_full_space_says_so),
      T(unmap_undoes_the_map_that_starts_there), T(readers_see_whole_regions_while_others_move),
      T(doorbells_are_told_while_their_region_is_there))
