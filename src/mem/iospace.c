/* Regions stand in a sorted array behind a sequence lock: an access searches it without a lock
 * and looks again if somebody changed it meanwhile. Nothing is allocated after the start, so a
 * guest that moves its BARs for ever costs no memory.
 */
#include "mem/iospace.h"

#include "base/bits.h"
#include "base/err.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define MAX_REGIONS 256

struct region {
	uint64_t base, len;
	const struct io_ops *ops;
	void *dev;
};

/* The same, readable while it is being written. Loads acquire and stores release, so that neither
 * passes the sequence number's on the wrong side; on x86 they are plain moves.
 */
struct region_cell {
	_Atomic uint64_t base, len;
	_Atomic(const struct io_ops *) ops;
	_Atomic(void *) dev;
};

struct iospace {
	uint64_t limit;
	pthread_mutex_t lock; /* guards changes */
	_Atomic uint32_t seq; /* odd while a change is under way */
	_Atomic uint32_t n;
	struct region_cell cell[MAX_REGIONS]; /* by base */
	/* The rest is guarded by the lock. */
	struct io_bells bells[IO_MAX_BELLS]; /* n 0: free */
	void (*on_bells)(void *arg, const struct io_bells *b, bool here);
	void *on_bells_arg;
};

static struct region cell_get(const struct region_cell *c)
{
	return (struct region){
		.base = atomic_load_explicit(&c->base, memory_order_acquire),
		.len = atomic_load_explicit(&c->len, memory_order_acquire),
		.ops = atomic_load_explicit(&c->ops, memory_order_acquire),
		.dev = atomic_load_explicit(&c->dev, memory_order_acquire),
	};
}

static void cell_set(struct region_cell *c, struct region r)
{
	atomic_store_explicit(&c->base, r.base, memory_order_release);
	atomic_store_explicit(&c->len, r.len, memory_order_release);
	atomic_store_explicit(&c->ops, r.ops, memory_order_release);
	atomic_store_explicit(&c->dev, r.dev, memory_order_release);
}

/* Index of the first region that ends above addr. The array may be changing: any result in
 * 0...n is possible then.
 */
static uint32_t first_above(const struct iospace *s, uint32_t n, uint64_t addr)
{
	uint32_t lo = 0, hi = n;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;
		struct region r = cell_get(&s->cell[mid]);

		if (r.base + (r.len - 1) < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* The region that holds addr, or, with ops == NULL, the gap around it: base is addr then and len
 * the distance to the next region (UINT64_MAX for none).
 */
static struct region find(struct iospace *s, uint64_t addr)
{
	for (;;) {
		uint32_t seq = atomic_load_explicit(&s->seq, memory_order_acquire);
		uint32_t n = atomic_load_explicit(&s->n, memory_order_acquire);
		uint32_t i = first_above(s, n, addr);
		struct region r = { .base = addr, .len = UINT64_MAX };

		if (i < n)
			r = cell_get(&s->cell[i]);
		if (seq % 2 || atomic_load_explicit(&s->seq, memory_order_acquire) != seq)
			continue;
		if (i < n && addr < r.base)
			r = (struct region){ .base = addr, .len = r.base - addr };
		return r;
	}
}

struct iospace *iospace_new(uint64_t limit)
{
	struct iospace *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->limit = limit;
	pthread_mutex_init(&s->lock, NULL);
	return s;
}

void iospace_free(struct iospace *s)
{
	if (!s)
		return;
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static void change_begin(struct iospace *s)
{
	atomic_fetch_add_explicit(&s->seq, 1, memory_order_acq_rel);
}

static void change_end(struct iospace *s)
{
	atomic_fetch_add_explicit(&s->seq, 1, memory_order_release);
}

/* Needs the lock. */
static int insert(struct iospace *s, struct region r, struct err *err)
{
	uint32_t n = s->n, i = first_above(s, n, r.base);

	if (i < n) {
		struct region next = cell_get(&s->cell[i]);

		if (next.base <= r.base || next.base - r.base < r.len)
			return err_set(err, EEXIST, "map %#llx+%#llx", (unsigned long long)r.base,
				       (unsigned long long)r.len);
	}
	if (n == MAX_REGIONS)
		return err_set(err, ENOSPC, "map %#llx+%#llx", (unsigned long long)r.base,
			       (unsigned long long)r.len);
	change_begin(s);
	for (uint32_t k = n; k > i; k--)
		cell_set(&s->cell[k], cell_get(&s->cell[k - 1]));
	cell_set(&s->cell[i], r);
	atomic_store_explicit(&s->n, n + 1, memory_order_release);
	change_end(s);
	return 0;
}

int iospace_map(struct iospace *s, uint64_t base, uint64_t len, const struct io_ops *ops, void *dev,
		struct err *err)
{
	if (len == 0 || !range_fits(base, len, s->limit))
		return err_set(err, ERANGE, "map %#llx+%#llx", (unsigned long long)base,
			       (unsigned long long)len);
	pthread_mutex_lock(&s->lock);
	int ret = insert(s, (struct region){ base, len, ops, dev }, err);
	pthread_mutex_unlock(&s->lock);
	return ret;
}

/* Needs the lock. */
static void remove_bells(struct iospace *s, uint64_t base, uint64_t len)
{
	for (unsigned i = 0; i < IO_MAX_BELLS; i++) {
		struct io_bells *b = &s->bells[i];

		if (!b->n || b->base - base >= len)
			continue;
		if (s->on_bells)
			s->on_bells(s->on_bells_arg, b, false);
		b->n = 0;
	}
}

void iospace_add_bells(struct iospace *s, const struct io_bells *b)
{
	unsigned i = 0;

	pthread_mutex_lock(&s->lock);
	while (i < IO_MAX_BELLS && s->bells[i].n)
		i++;
	if (b->n && i < IO_MAX_BELLS) {
		s->bells[i] = *b;
		if (s->on_bells)
			s->on_bells(s->on_bells_arg, b, true);
	}
	pthread_mutex_unlock(&s->lock);
}

void iospace_watch_bells(struct iospace *s,
			 void (*fn)(void *arg, const struct io_bells *b, bool here), void *arg)
{
	pthread_mutex_lock(&s->lock);
	s->on_bells = fn;
	s->on_bells_arg = arg;
	for (unsigned i = 0; fn && i < IO_MAX_BELLS; i++)
		if (s->bells[i].n)
			fn(arg, &s->bells[i], true);
	pthread_mutex_unlock(&s->lock);
}

void iospace_unmap(struct iospace *s, uint64_t base)
{
	pthread_mutex_lock(&s->lock);

	uint32_t n = s->n, i = first_above(s, n, base);

	if (i < n && cell_get(&s->cell[i]).base == base) {
		remove_bells(s, base, cell_get(&s->cell[i]).len);
		change_begin(s);
		for (uint32_t k = i; k + 1 < n; k++)
			cell_set(&s->cell[k], cell_get(&s->cell[k + 1]));
		atomic_store_explicit(&s->n, n - 1, memory_order_release);
		change_end(s);
	}
	pthread_mutex_unlock(&s->lock);
}

/* How much of an access of size bytes at addr the region can take in one piece: a power of 2. */
static unsigned piece_size(const struct region *r, uint64_t addr, unsigned size)
{
	uint64_t room = r->len - (addr - r->base);
	unsigned most = r->ops ? r->ops->max : 8;
	unsigned piece = 8;

	while (piece > size || piece > room || piece > most)
		piece /= 2;
	return piece;
}

uint64_t iospace_read(struct iospace *s, uint64_t addr, unsigned size)
{
	uint64_t val = 0;

	for (unsigned done = 0; done < size;) {
		struct region r = find(s, addr + done);
		unsigned n = piece_size(&r, addr + done, size - done);
		uint64_t part = ~0ull;

		if (r.ops && r.ops->read)
			part = r.ops->read(r.dev, addr + done - r.base, n);
		val |= (part & size_mask(n)) << (done * 8);
		done += n;
	}
	return val;
}

void iospace_write(struct iospace *s, uint64_t addr, unsigned size, uint64_t val)
{
	for (unsigned done = 0; done < size;) {
		struct region r = find(s, addr + done);
		unsigned n = piece_size(&r, addr + done, size - done);

		if (r.ops && r.ops->write)
			r.ops->write(r.dev, addr + done - r.base, n,
				     val >> (done * 8) & size_mask(n));
		done += n;
	}
}
