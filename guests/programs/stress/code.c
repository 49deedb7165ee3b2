/* Code that is written while the program runs, as just-in-time compilers do: by the thread that runs
 * it, by another one, and under the feet of who runs it. SDM 3A 8.1.3: a CPU sees its own stores to
 * code from the next jump on, and where the linear address is the same, at once; other CPUs' after a
 * serializing instruction. Real programs also rely on a fresh function being whole once its pointer
 * is, and on aligned words changing at once.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <cpuid.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u

typedef uint32_t (*code_fn)(uint32_t arg);

static uint8_t *pages(unsigned n, int prot, int flags, int fd)
{
	void *p = mmap(NULL, n * PAGE, prot, flags, fd, 0);

	if (p == MAP_FAILED)
		fail("no memory for code");
	return p;
}

static uint32_t call(const uint8_t *code, uint32_t arg)
{
	return ((code_fn)(uintptr_t)code)(arg);
}

static void serialize(void)
{
	unsigned a, b, c, d;

	__cpuid(0, a, b, c, d);
}

static void must_be(const char *what, uint32_t got, uint32_t want)
{
	if (got != want)
		fail("%s returned %#x, not %#x", what, got, want);
}

/* mov eax, val; ret */
#define RETURN_BYTES 6

static void write_return(uint8_t *at, uint32_t val)
{
	at[0] = 0xb8;
	memcpy(at + 1, &val, 4);
	at[5] = 0xc3;
}

/* --- by the thread that runs it --- */

/* Changes the instruction right behind itself. */
static void next_instruction(uint8_t *at, uint32_t val)
{
	static const uint8_t code[] = { 0xc7, 0x05, 1, 0, 0, 0, 0, 0, 0, 0, /* mov [rip + 1], imm */
					0xb8, 0, 0, 0, 0,		    /* mov eax, imm */
					0xc3 };

	memcpy(at, code, sizeof(code));
	memcpy(at + 6, &val, 4);
	must_be("code that changes its next instruction", call(at, 0), val);
}

/* A loop that changes what it adds, in each iteration. */
static void own_loop(uint8_t *at, uint32_t n)
{
	static const uint8_t code[] = { 0x31, 0xc0,		/* xor eax, eax */
					0xff, 0x05, 1, 0, 0, 0, /* inc dword [rip + 1] */
					0x05, 0, 0, 0, 0,	/* add eax, imm */
					0xff, 0xcf,		/* dec edi */
					0x75, 0xf1,		/* jnz */
					0xc3 };

	memcpy(at, code, sizeof(code));
	must_be("a loop that changes itself", call(at, n), n * (n + 1) / 2);
}

/* The function that is called changes the one that it returns to: mov [rsi], edi; ret, called by
 * mov esi, ..., call, mov eax, imm; ret. */
static void caller(uint8_t *at, uint32_t val)
{
	uint8_t *callee = at + 32, *imm = at + 9;
	int32_t rel = (int32_t)(callee - (at + 8)), disp = (int32_t)(imm - (callee + 6));

	at[0] = at[1] = at[2] = 0x90;
	at[3] = 0xe8;
	memcpy(at + 4, &rel, 4);
	write_return(at + 8, ~val);
	callee[0] = 0x89; /* mov [rip + disp], edi */
	callee[1] = 0x3d;
	memcpy(callee + 2, &disp, 4);
	callee[6] = 0xc3;
	must_be("code whose callee changes it", call(at, val), val);
}

static void self(uint8_t *at, uint32_t val)
{
	write_return(at, val);
	must_be("a new function", call(at, 0), val);
	/* One byte of it. */
	at[2] ^= 0x5a;
	must_be("a function with a byte changed", call(at, 0), val ^ 0x5a00);
	next_instruction(at, val);
	own_loop(at, 1 + val % 50);
	caller(at, val);
}

struct own {
	uint8_t *rwx, *rw, *rx, *flip;
};

static struct own own_new(void)
{
	int fd = memfd_create("code", 0);
	struct own o;

	if (fd < 0 || ftruncate(fd, PAGE) != 0)
		fail("no file for code");
	o.rwx = pages(2, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	o.rw = pages(1, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	o.rx = pages(1, PROT_READ | PROT_EXEC, MAP_SHARED, fd);
	o.flip = pages(1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	close(fd);
	return o;
}

static void own_round(const struct own *o, uint32_t *seed)
{
	uint32_t val = rnd(seed), off = rnd(seed) % (PAGE - 64);

	/* Anywhere in two pages, and on their border. */
	self(o->rwx + rnd(seed) % (2 * PAGE - 64), val);
	self(o->rwx + PAGE - 1 - val % 32, val);
	/* The same memory at another address. */
	write_return(o->rw + off, val);
	serialize();
	must_be("code written through another mapping", call(o->rx + off, 0), val);
	/* Never writable and executable at once. */
	if (val % 8)
		return;
	mprotect(o->flip, PAGE, PROT_READ | PROT_WRITE);
	write_return(o->flip + off, val);
	mprotect(o->flip, PAGE, PROT_READ | PROT_EXEC);
	must_be("code in a page that was made executable", call(o->flip + off, 0), val);
}

/* --- by another thread --- */

#define FRESH_PAGES 8

/* What a pair of threads shares: one writes, the other runs. */
struct shop {
	uint8_t *fresh;	 /* functions are written one behind the other */
	uint8_t *reused; /* one function, again and again */
	uint8_t *word;	 /* its immediate is an aligned word that changes while it runs */
	_Atomic uint64_t posted __attribute__((aligned(64))); /* offset in fresh << 32 | value */
	atomic_uint done __attribute__((aligned(64)));	      /* rounds that the runner has done */
	atomic_uint round __attribute__((aligned(64)));
	atomic_bool over;
};

static struct shop shops[MAX_THREADS / 2];

static void wait_for(struct shop *s, atomic_uint *word, uint32_t val)
{
	for (unsigned n = 0; atomic_load(word) != val && !atomic_load(&s->over); n++) {
		if (n > 500)
			sched_yield();
		else
			__builtin_ia32_pause();
	}
}

/* Numbers in the word's order; any other value is one that was never written. */
#define SCATTER 2654435761u
#define GATHER	244002641u /* its inverse modulo 2^32 */

static long write_code(struct shop *s, uint32_t seed)
{
	struct own own = own_new();
	uint32_t at = 0, round = 0;

	while (round % 64 || time_left()) {
		uint32_t val = rnd(&seed);

		if (at > FRESH_PAGES * PAGE - 64) {
			/* New memory, so that what is written there was never run. */
			if (mmap(s->fresh, FRESH_PAGES * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != s->fresh)
				fail("no fresh memory");
			at = 0;
		}
		write_return(s->fresh + at, val);
		write_return(s->reused, ~val);
		__asm__ volatile("mfence" : : : "memory");
		atomic_store(&s->posted, (uint64_t)at << 32 | val);
		atomic_store(&s->round, ++round);
		at += RETURN_BYTES + val % 40;
		/* It runs this all the time. */
		for (unsigned k = 0; k < 20; k++)
			*(volatile uint32_t *)(s->word + 4) = (round * 32 + k) * SCATTER;
		if (round % 16 == 0)
			own_round(&own, &seed);
		wait_for(s, &s->done, round);
	}
	atomic_store(&s->over, true);
	return round;
}

static void run_word(const struct shop *s, uint32_t *last)
{
	uint32_t n = call(s->word + 3, 0) * GATHER;

	if (n < *last || n > *last + 100)
		fail("a function whose word changes returned number %u after %u", n, *last);
	*last = n;
}

static long run_code(struct shop *s, uint32_t seed)
{
	struct own own = own_new();
	uint32_t round = 0, last = 0;

	for (;;) {
		uint64_t posted;

		while (atomic_load(&s->round) == round && !atomic_load(&s->over))
			run_word(s, &last);
		if (atomic_load(&s->over))
			return round;
		round++;
		posted = atomic_load(&s->posted);
		must_be("a fresh function of another thread", call(s->fresh + (posted >> 32), 0),
			(uint32_t)posted);
		serialize();
		must_be("a function that another thread has changed", call(s->reused, 0),
			~(uint32_t)posted);
		if (round % 16 == 8)
			own_round(&own, &seed);
		atomic_store(&s->done, round);
	}
}

static long either(unsigned i)
{
	return i % 2 ? run_code(&shops[i / 2], i + 1) : write_code(&shops[i / 2], i + 1);
}

long stress_code(void)
{
	unsigned n = n_threads(2) & ~1u;

	for (unsigned i = 0; i < n / 2; i++) {
		struct shop *s = &shops[i];

		s->fresh = pages(FRESH_PAGES, PROT_READ | PROT_WRITE | PROT_EXEC,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1);
		s->reused = pages(1, PROT_READ | PROT_WRITE | PROT_EXEC,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1);
		s->word = s->reused + PAGE / 2;
		write_return(s->word + 3, 0);
	}
	return on_threads(n, either);
}
