/* Locked instructions on shared memory: sums must be exact. */
#define _GNU_SOURCE
#include "stress.h"

#include <sys/mman.h>

struct pair {
	uint64_t lo, hi;
} __attribute__((aligned(16)));

static struct {
	uint64_t xadd, cmpxchg, inc, guarded, bit_guarded;
	uint8_t byte;
	uint16_t word;
	uint32_t lock, bits;
	struct pair pair;
} s __attribute__((aligned(64)));
static _Atomic uint64_t rounds;

static void add16(struct pair *p)
{
	uint64_t lo = p->lo, hi = p->hi;
	uint8_t ok;

	do {
		__asm__ volatile("lock cmpxchg16b %1\n\tsetz %0"
				 : "=q"(ok), "+m"(*p), "+a"(lo), "+d"(hi)
				 : "b"(lo + 1), "c"(hi + 3)
				 : "cc", "memory");
	} while (!ok);
}

static void once(void)
{
	uint64_t one = 1, old = *(volatile uint64_t *)&s.cmpxchg;
	uint32_t held = 1;
	uint8_t got;

	__asm__ volatile("lock xadd %0, %1" : "+r"(one), "+m"(s.xadd) : : "cc", "memory");
	for (uint8_t ok = 0; !ok;)
		__asm__ volatile("lock cmpxchg %3, %1\n\tsetz %0"
				 : "=q"(ok), "+m"(s.cmpxchg), "+a"(old)
				 : "r"(old + 1)
				 : "cc", "memory");
	__asm__ volatile("lock incq %0" : "+m"(s.inc) : : "cc", "memory");
	__asm__ volatile("lock addb $1, %0" : "+m"(s.byte) : : "cc", "memory");
	__asm__ volatile("lock subw $1, %0" : "+m"(s.word) : : "cc", "memory");
	add16(&s.pair);
	while (held) {
		__asm__ volatile("xchg %0, %1" : "+r"(held), "+m"(s.lock) : : "memory");
		if (held)
			__builtin_ia32_pause();
	}
	s.guarded++;
	__atomic_store_n(&s.lock, 0, __ATOMIC_RELEASE);
	do {
		__asm__ volatile("lock btsl $7, %0\n\tsetnc %1"
				 : "+m"(s.bits), "=q"(got)
				 :
				 : "cc", "memory");
		if (!got)
			__builtin_ia32_pause();
	} while (!got);
	s.bit_guarded++;
	__asm__ volatile("lock btrl $7, %0" : "+m"(s.bits) : : "cc", "memory");
}

static void work(unsigned number)
{
	uint64_t n = 0;

	while (n % 64 || time_left()) {
		once();
		n++;
	}
	atomic_fetch_add(&rounds, n);
}

const char *test_atomics(void)
{
	const char *why;
	uint64_t n;

	memset(&s, 0, sizeof(s));
	atomic_store(&rounds, 0);
	why = in_threads(threads, work);
	n = atomic_load(&rounds);
	if (why)
		return why;
	if (s.xadd != n)
		return "lock xadd lost some";
	if (s.cmpxchg != n)
		return "lock cmpxchg lost some";
	if (s.inc != n || s.byte != (uint8_t)n || s.word != (uint16_t)-n)
		return "lock inc, add or sub lost some";
	if (s.pair.lo != n || s.pair.hi != 3 * n)
		return "lock cmpxchg16b lost some";
	if (s.guarded != n)
		return "a lock by xchg let two in";
	return s.bit_guarded != n ? "a lock by bts let two in" : NULL;
}

/* ---- operands across a cache line, and across a page ---- */

static uint64_t *line, *page;

static void split_work(unsigned number)
{
	uint64_t n = 0;

	while (n % 16 || time_left()) {
		uint64_t one = 1, old;

		__asm__ volatile("lock xadd %0, %1" : "+r"(one), "+m"(*line) : : "cc", "memory");
		__asm__ volatile("lock incq %0" : "+m"(*page) : : "cc", "memory");
		old = *(volatile uint64_t *)page;
		for (uint8_t ok = 0; !ok;)
			__asm__ volatile("lock cmpxchg %3, %1\n\tsetz %0"
					 : "=q"(ok), "+m"(*page), "+a"(old)
					 : "r"(old + 1)
					 : "cc", "memory");
		n++;
	}
	atomic_fetch_add(&rounds, n);
}

const char *test_split(void)
{
	uint8_t *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const char *why;

	line = (uint64_t *)(m + 1024 - 3);
	page = (uint64_t *)(m + 4096 - 5);
	memset(m, 0, 8192);
	atomic_store(&rounds, 0);
	why = in_threads(threads, split_work);
	if (why)
		return why;
	if (*line != atomic_load(&rounds))
		return "lock xadd across cache lines lost some";
	return *page != 2 * atomic_load(&rounds) ? "locks across pages lost some" : NULL;
}
