/* Locked instructions by all threads on the same words: nothing may be lost. */
#include "stress.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

struct pair {
	uint64_t low, high;
} __attribute__((aligned(16)));

static struct {
	uint64_t xadd, cmpxchg, inc, exchanged, bit_lock, guarded, xchg_lock, guarded2;
	struct pair pair;
	uint32_t word32;
	uint16_t word16;
	uint8_t word8;
	uint8_t own[MAX_THREADS]; /* each thread its byte, with plain stores */
} v __attribute__((aligned(64)));

static uint8_t *pages;	       /* two */
static uint8_t *split, *cross; /* counters across two cache lines, and across two pages */

static void add_pair(void)
{
	struct pair old = v.pair;
	bool ok;

	do
		__asm__ volatile("lock cmpxchg16b %1\n\tsete %0"
				 : "=q"(ok), "+m"(v.pair), "+a"(old.low), "+d"(old.high)
				 : "b"(old.low + 1), "c"(old.high + 3)
				 : "cc", "memory");
	while (!ok);
}

static void take(uint64_t *lock, bool by_bit)
{
	uint64_t one = 1;
	bool was;

	do {
		if (by_bit) {
			__asm__ volatile("lock btsq $17, %1\n\tsetc %0" : "=q"(was), "+m"(*lock) : : "cc", "memory");
		} else {
			__asm__ volatile("xchgq %0, %1" : "+r"(one), "+m"(*lock) : : "memory");
			was = one;
		}
		if (was)
			__builtin_ia32_pause();
	} while (was);
}

static void give_back(uint64_t *lock, bool by_bit)
{
	if (by_bit)
		__asm__ volatile("lock btrq $17, %0" : "+m"(*lock) : : "cc", "memory");
	else
		__atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

static void round_of(unsigned i, uint32_t r)
{
	uint64_t one = 1, old;

	__asm__ volatile("lock xaddq %0, %1" : "+r"(one), "+m"(v.xadd) : : "cc", "memory");
	old = __atomic_load_n(&v.cmpxchg, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(&v.cmpxchg, &old, old + 5, false, __ATOMIC_SEQ_CST,
					    __ATOMIC_RELAXED))
		;
	add_pair();
	__asm__ volatile("lock incq %0" : "+m"(v.inc) : : "cc", "memory");
	__asm__ volatile("lock addl $3, %0" : "+m"(v.word32) : : "cc", "memory");
	__asm__ volatile("lock subw $3, %0" : "+m"(v.word16) : : "cc", "memory");
	__asm__ volatile("lock decb %0" : "+m"(v.word8) : : "cc", "memory");
	*(volatile uint8_t *)&v.own[i] += 1;
	if (r % 16 == 0) {
		take(&v.bit_lock, true);
		v.guarded++;
		give_back(&v.bit_lock, true);
		take(&v.xchg_lock, false);
		v.guarded2++;
		give_back(&v.xchg_lock, false);
	}
	/* Slow on the real thing too. */
	if (r % 4096 == 0) {
		__asm__ volatile("lock incq %0" : "+m"(*(uint64_t *)split) : : "cc", "memory");
		__asm__ volatile("lock incq %0" : "+m"(*(uint64_t *)cross) : : "cc", "memory");
	}
}

static long add_up(unsigned i)
{
	long n = 0;

	do
		for (unsigned k = 0; k < 4096; k++, n++)
			round_of(i, (uint32_t)n);
	while (time_left());
	if (v.own[i] != (uint8_t)n)
		fail("thread %u's byte is %u, not %u", i, v.own[i], (uint8_t)n);
	return n;
}

static void must_be(const char *what, uint64_t got, uint64_t want)
{
	if (got != want)
		fail("%s: %llu, not %llu", what, (unsigned long long)got, (unsigned long long)want);
}

static uint64_t load(const uint8_t *p)
{
	uint64_t val;

	memcpy(&val, p, 8);
	return val;
}

long stress_atomics(void)
{
	uint64_t n;

	pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pages == MAP_FAILED)
		fail("no memory");
	split = pages + 60;
	cross = pages + 4096 - 3;
	n = (uint64_t)on_threads(n_threads(2), add_up);
	must_be("lock xadd", v.xadd, n);
	must_be("lock cmpxchg", v.cmpxchg, 5 * n);
	must_be("lock cmpxchg16b, low", v.pair.low, n);
	must_be("lock cmpxchg16b, high", v.pair.high, 3 * n);
	must_be("lock inc", v.inc, n);
	must_be("lock add, 32 bits", v.word32, (uint32_t)(3 * n));
	must_be("lock sub, 16 bits", v.word16, (uint16_t)(0 - 3 * n));
	must_be("lock dec, 8 bits", v.word8, (uint8_t)(0 - n));
	must_be("guarded by lock bts", v.guarded, n / 16);
	must_be("guarded by xchg", v.guarded2, n / 16);
	must_be("lock inc across cache lines", load(split), n / 4096);
	must_be("lock inc across pages", load(cross), n / 4096);
	return (long)n;
}
