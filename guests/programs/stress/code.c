/* Code that changes, where jit.c leaves off: loops that change themselves, callees that change
 * their callers, fresh functions handed from thread to thread, pages that are writable or
 * executable. SDM 3A 8.1.3: a CPU sees its own stores to code from the next jump on, and where the
 * linear address is the same, at once; other CPUs' after a serializing instruction. Real programs
 * also rely on a fresh function being whole once its pointer is, and on aligned words changing at
 * once.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <cpuid.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u

typedef uint32_t (*code_fn)(uint32_t arg);

static uint8_t *pages(unsigned n, int prot, int flags, int fd)
{
	void *p = mmap(NULL, n * PAGE, prot, flags, fd, 0);

	if (p == MAP_FAILED)
		failed("no memory for code");
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
		failed(what);
}

/* Numbers that depend on the seed only. It must not be 0. */
static uint32_t rnd(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

/* mov eax, val; ret */
#define RETURN_BYTES 6

static void write_return(uint8_t *at, uint32_t val)
{
	at[0] = 0xb8;
	memcpy(at + 1, &val, 4);
	at[5] = 0xc3;
}

/* ---- by the thread that runs it ---- */

/* Changes the instruction right behind itself. */
static void next_instruction(uint8_t *at, uint32_t val)
{
	static const uint8_t code[] = { 0xc7, 0x05, 1, 0, 0, 0, 0, 0, 0, 0, /* mov [rip + 1], imm */
					0xb8, 0,    0, 0, 0,		    /* mov eax, imm */
					0xc3 };

	memcpy(at, code, sizeof(code));
	memcpy(at + 6, &val, 4);
	must_be("code that changes its next instruction ran on as it was", call(at, 0), val);
}

/* A loop that changes what it adds, in each iteration. */
static void own_loop(uint8_t *at, uint32_t n)
{
	static const uint8_t code[] = { 0x31, 0xc0,		/* xor eax, eax */
					0xff, 0x05, 1, 0, 0, 0, /* inc dword [rip + 1] */
					0x05, 0,    0, 0, 0,	/* add eax, imm */
					0xff, 0xcf,		/* dec edi */
					0x75, 0xf1,		/* jnz */
					0xc3 };

	memcpy(at, code, sizeof(code));
	must_be("a loop that changes itself came out wrong", call(at, n), n * (n + 1) / 2);
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
	must_be("code ran on as it was before its callee changed it", call(at, val), val);
}

static void self(uint8_t *at, uint32_t val)
{
	write_return(at, val);
	must_be("old code ran after a store to it", call(at, 0), val);
	/* One byte of it. */
	at[2] ^= 0x5a;
	must_be("old code ran after a byte of it changed", call(at, 0), val ^ 0x5a00);
	next_instruction(at, val);
	own_loop(at, 1 + val % 50);
	caller(at, val);
}

struct own {
	uint8_t *rwx, *flip;
};

static struct own own_new(void)
{
	return (struct own){
		pages(2, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1),
		pages(1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1),
	};
}

static void own_free(const struct own *o)
{
	munmap(o->rwx, 2 * PAGE);
	munmap(o->flip, PAGE);
}

static void own_round(const struct own *o, uint32_t *seed)
{
	uint32_t val = rnd(seed), off = rnd(seed) % (PAGE - 64);

	/* Anywhere in two pages, and on their border. */
	self(o->rwx + rnd(seed) % (2 * PAGE - 64), val);
	self(o->rwx + PAGE - 1 - val % 32, val);
	/* Never writable and executable at once. */
	if (val % 8)
		return;
	mprotect(o->flip, PAGE, PROT_READ | PROT_WRITE);
	write_return(o->flip + off, val);
	mprotect(o->flip, PAGE, PROT_READ | PROT_EXEC);
	must_be("old code ran in a page that was made executable", call(o->flip + off, 0), val);
}

/* ---- by another thread ---- */

#define FRESH_PAGES 8

/* What a pair of threads shares: one writes, the other runs. */
struct shop {
	uint8_t *fresh;	 /* functions are written one behind the other */
	uint8_t *reused; /* one function, again and again */
	uint8_t *word;	 /* its immediate is an aligned word that changes while it runs */
	_Atomic uint64_t posted __attribute__((aligned(64))); /* offset in fresh << 32 | value */
	_Atomic uint32_t done __attribute__((aligned(64)));   /* rounds that the runner has done */
	_Atomic uint32_t round __attribute__((aligned(64)));
	_Atomic bool over;
};

static struct shop shops[MAX_THREADS / 2];

static void wait_for(const struct shop *s, const _Atomic uint32_t *word, uint32_t val)
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

static void write_code(struct shop *s, uint32_t seed)
{
	struct own own = own_new();
	uint32_t at = 0, round = 0;

	while (round % 64 || time_left()) {
		uint32_t val = rnd(&seed);

		if (at > FRESH_PAGES * PAGE - 64) {
			/* New memory, so that what is written there was never run. */
			if (mmap(s->fresh, FRESH_PAGES * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != s->fresh)
				failed("no fresh memory");
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
	own_free(&own);
}

static void run_word(const struct shop *s, uint32_t *last)
{
	uint32_t n = call(s->word + 3, 0) * GATHER;

	if (n < *last || n > *last + 100)
		failed("a function whose word changes returned what was not stored");
	*last = n;
}

static void run_code(struct shop *s, uint32_t seed)
{
	struct own own = own_new();
	uint32_t round = 0, last = 0;

	for (;;) {
		uint64_t posted;

		while (atomic_load(&s->round) == round && !atomic_load(&s->over))
			run_word(s, &last);
		if (atomic_load(&s->over))
			break;
		round++;
		posted = atomic_load(&s->posted);
		must_be("a fresh function of another thread ran wrong",
			call(s->fresh + (posted >> 32), 0), (uint32_t)posted);
		serialize();
		must_be("old code ran after another thread had changed it", call(s->reused, 0),
			~(uint32_t)posted);
		if (round % 16 == 8)
			own_round(&own, &seed);
		atomic_store(&s->done, round);
	}
	own_free(&own);
}

static void role(unsigned number)
{
	struct shop *s = &shops[number / 2];

	if (number % 2)
		run_code(s, number + 1);
	else
		write_code(s, number + 1);
}

const char *test_code(void)
{
	unsigned n = threads & ~1u;
	const char *why;

	memset(shops, 0, sizeof(shops));
	for (unsigned i = 0; i < n / 2; i++) {
		struct shop *s = &shops[i];

		s->fresh = pages(FRESH_PAGES, PROT_READ | PROT_WRITE | PROT_EXEC,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1);
		s->reused = pages(1, PROT_READ | PROT_WRITE | PROT_EXEC,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1);
		s->word = s->reused + PAGE / 2;
		write_return(s->word + 3, 0);
	}
	if (has_failed())
		return "no memory for code";
	why = in_threads(n, role);
	for (unsigned i = 0; i < n / 2; i++) {
		munmap(shops[i].fresh, FRESH_PAGES * PAGE);
		munmap(shops[i].reused, PAGE);
	}
	return why;
}
