/* The code cache of a machine: where translations are, what voids them, making room.
 *
 * Void means: its top jumps to an exit, nothing finds it any more, and a new translation of the
 * same place gets those jumps redirected. A vCPU that is inside one goes on to its end, as a CPU
 * goes on with what it has fetched. The memory comes back when all is flushed.
 */
#include "cpu/dbt/dbt.h"
#include "cpu/dbt/dbt_internal.h"

#include "base/err.h"
#include "cpu/x86/features.h"
#include "host/codetrap.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#define HWCAP2_FSGSBASE_BIT 2

static void *map_table(size_t n, size_t size)
{
	void *p = mmap(NULL, n * size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void unmap_table(void *p, size_t n, size_t size)
{
	if (p)
		munmap(p, n * size);
}

static void cache_free(struct code_cache *k)
{
	if (k->code.rw)
		codemem_fini(&k->code);
	unmap_table(k->tb, k->max_tbs, sizeof(*k->tb));
	unmap_table(k->exit, k->max_exits, sizeof(*k->exit));
	unmap_table(k->mark, k->max_marks, sizeof(*k->mark));
	if (k->pm)
		unmap_table(k->page_tbs, k->pm->ram_bytes >> PAGE_SHIFT, sizeof(*k->page_tbs));
	free(k->work);
	show_fini(k);
	pthread_mutex_destroy(&k->lock);
	free(k);
}

/* Tables that hold what fits into the code, with room to spare. */
static void size_cache(struct code_cache *k, uint64_t ram_bytes, size_t *len)
{
	*len = MAX(MIN_CODE, MIN(MAX_CODE, ALIGN_UP(ram_bytes / 8, MiB)));
	k->budget = (uint32_t)(*len > MIN_CODE ? *len : FIRST_CODE);
	k->cold = (uint32_t)ALIGN_UP(*len / 8 * 5, PAGE_SIZE);
	k->max_tbs = (uint32_t)(*len / 128);
	k->max_exits = (uint32_t)(*len / 32);
	k->max_marks = (uint32_t)(*len / 16);
}

static int cache_new(struct code_cache **out, struct vcpu *c, struct err *err)
{
	struct code_cache *k = calloc(1, sizeof(*k));
	pthread_mutexattr_t attr;
	size_t len;
	int ret;

	if (!k)
		return err_set(err, ENOMEM, "the code cache");
	pthread_mutexattr_init(&attr);
	/* Setting accessed bits while translating may store to a page that holds code. */
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&k->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	k->set = c->set;
	size_cache(k, c->pm->ram_bytes, &len);
	ret = codemem_init(&k->code, len, err);
	if (ret < 0) {
		cache_free(k);
		return ret;
	}
	k->pm = c->pm;
	k->tb = map_table(k->max_tbs, sizeof(*k->tb));
	k->exit = map_table(k->max_exits, sizeof(*k->exit));
	k->mark = map_table(k->max_marks, sizeof(*k->mark));
	k->page_tbs = map_table(c->pm->ram_bytes >> PAGE_SHIFT, sizeof(*k->page_tbs));
	k->work = translate_new();
	if (!k->work || !k->tb || !k->exit || !k->mark || !k->page_tbs) {
		cache_free(k);
		return err_set(err, ENOMEM, "the code cache");
	}
	for (unsigned f = 0; f < N_CPU_FEATURES; f++)
		k->has[f] = f == FEAT_NONE || (cpu_has(c->model, f) && host_has(f));
	stubs_make(k, c->model->xcr0_mask);
	show_init(k);
	*out = k;
	return 0;
}

bool dbt_is_possible(void)
{
	return getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE_BIT && host_has(FEAT_BMI2);
}

int cache_join(struct dbt *d, struct err *err)
{
	struct vcpu *c = d->c;
	struct code_cache *k = NULL;

	if (!c->pm->ram_alone)
		return err_say(err, ENOTSUP,
			       "the translator finds no place for guest memory in this process; "
			       "take --engine interp");
	if (!dbt_is_possible())
		return err_say(err, ENOTSUP,
			       "the translator needs a CPU with BMI2 and a kernel that allows "
			       "FSGSBASE; take --engine interp");
	for (unsigned i = 0; i < c->set->n && !k; i++)
		if (c->set->v[i] != c && dbt_of(c->set->v[i]))
			k = dbt_of(c->set->v[i])->cache;
	if (!k) {
		int ret = cache_new(&k, c, err);

		if (ret < 0)
			return ret;
		codetrap_install();
		c->pm->on_code_hit = cache_void_lines;
		c->pm->on_code_hit_arg = k;
	}
	k->n_users++;
	d->cache = k;
	d->epoch = k->epoch;
	return 0;
}

void cache_leave(struct dbt *d)
{
	struct code_cache *k = d->cache;

	if (!k || --k->n_users)
		return;
	k->pm->on_code_hit = NULL;
	cache_free(k);
}

/* -- Finding ---------------------------------------------------------------------------------- */

static struct tb **bucket(struct code_cache *k, const uint8_t *host, uint16_t mode)
{
	uint64_t h = ((uintptr_t)host ^ (uint64_t)mode << 48) * 0x9e3779b97f4a7c15ull;

	return &k->hash[h >> (64 - TB_HASH_BITS)];
}

struct tb *cache_find(struct code_cache *k, const uint8_t *host, uint16_t mode)
{
	struct tb *t = *bucket(k, host, mode);

	while (t && (t->host != host || t->mode != mode))
		t = t->hash_next;
	return t;
}

static struct tb **page_list(struct code_cache *k, const uint8_t *host)
{
	return &k->page_tbs[(uint64_t)(host - k->pm->ram) >> PAGE_SHIFT];
}

void cache_insert(struct code_cache *k, struct tb *t)
{
	struct tb **b = bucket(k, t->host, t->mode), **p = page_list(k, t->host);

	t->hash_next = *b;
	__atomic_store_n(b, t, __ATOMIC_RELEASE); /* finders have no lock */
	t->page_next = *p;
	*p = t;
	if (t->host2) {
		struct tb *second = &k->tb[k->n_tbs++];

		p = page_list(k, t->host2);
		*second =
			(struct tb){ .host = t->host2, .whole = t, .page_next = *p, .valid = true };
		*p = second;
	}
}

uint32_t cache_new_exit(struct code_cache *k, struct tb_exit x)
{
	k->exit[k->n_exits] = x;
	return k->n_exits++;
}

const struct insn_mark *cache_mark(const struct code_cache *k, uint32_t code)
{
	uint32_t lo = 0, hi = k->n_marks;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (k->mark[mid].code <= code)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo ? &k->mark[lo - 1] : NULL;
}

/* -- Voiding ---------------------------------------------------------------------------------- */

/* Replace the 8 bytes at an entry by a jump; others may be executing there. */
void cache_redirect(struct code_cache *k, uint32_t at, uint32_t to)
{
	uint8_t jump[8] = { 0xe9, 0, 0, 0, 0, 0xcc, 0xcc, 0xcc };
	uint32_t rel = to - (at + 5);

	memcpy(jump + 1, &rel, 4);
	__atomic_store_n((uint64_t *)(k->code.rw + at), load64(jump), __ATOMIC_RELEASE);
}

static void void_tb(struct code_cache *k, struct tb *t)
{
	struct tb **b;

	if (!t->valid)
		return;
	t->valid = false;
	if (t->whole) {
		void_tb(k, t->whole);
		return;
	}
	b = bucket(k, t->host, t->mode);
	while (*b != t)
		b = &(*b)->hash_next;
	*b = t->hash_next;
	cache_redirect(k, t->top, t->void_exit);
	atomic_fetch_add_explicit(&k->voided, 1, memory_order_relaxed);
}

/* The lines of the page in whose list t is that it was made of. */
static uint64_t lines_of(const struct tb *t)
{
	/* One that reaches into the second page stands in the list of both. */
	unsigned first = t->off / 64u, last = (t->off + MAX(t->len, 1u) - 1u) / 64u;

	return t->whole ? 1 : (~0ull << first) & (~0ull >> (63 - MIN(last, 63u)));
}

void cache_void_lines(void *cache, struct page_state *ps, uint64_t lines)
{
	struct code_cache *k = cache;
	struct tb **at = &k->page_tbs[ps - k->pm->pages];

	pthread_mutex_lock(&k->lock);
	while (*at) {
		struct tb *t = *at;

		if (lines_of(t) & lines) {
			*at = t->page_next;
			void_tb(k, t);
		} else {
			at = &t->page_next;
		}
	}
	pthread_mutex_unlock(&k->lock);
}

/* -- Making room ------------------------------------------------------------------------------ */

bool cache_full(const struct code_cache *k)
{
	return k->used + (k->cold_used - k->cold) + 2 * TB_MAX_CODE > k->budget ||
	       k->used + TB_MAX_CODE > k->cold || k->cold_used + TB_MAX_CODE > k->code.len ||
	       k->n_tbs + 2 > k->max_tbs || k->n_exits + 8 * TB_MAX_INSNS > k->max_exits ||
	       k->n_marks + TB_MAX_INSNS > k->max_marks;
}

void cache_flush(struct dbt *d)
{
	struct code_cache *k = d->cache;

	if (atomic_exchange(&k->flushing, true))
		return;
	for (unsigned i = 0; i < k->set->n; i++) {
		struct vcpu *o = k->set->v[i];

		if (o == d->c || !dbt_of(o))
			continue;
		while (atomic_load(&dbt_of(o)->inside)) {
			atomic_store(&dbt_of(o)->ctx->poll, 1);
			sched_yield();
		}
	}
	pthread_mutex_lock(&k->lock);
	if (cache_full(k))
		k->budget = (uint32_t)MIN(2 * (uint64_t)k->budget, k->code.len);
	for (uint32_t i = 0; i < k->n_tbs; i++)
		*page_list(k, k->tb[i].host) = NULL;
	memset(k->hash, 0, sizeof(k->hash));
	k->used = k->stubs.end;
	k->cold_used = k->cold;
	k->n_tbs = k->n_exits = k->n_marks = 0;
	k->flushes++;
	atomic_fetch_add(&k->epoch, 1);
	pthread_mutex_unlock(&k->lock);
	atomic_store(&k->flushing, false);
}
