/* Code that changes: by its own thread, by another, through a second mapping, by another mapping at
 * the same address.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define RWX  (PROT_READ | PROT_WRITE | PROT_EXEC)

typedef uint32_t (*code_fn)(void);

/* mov eax, val; ret */
static void put_code(uint8_t *at, uint32_t val)
{
	at[0] = 0xb8;
	memcpy(at + 1, &val, 4);
	at[5] = 0xc3;
}

static uint32_t call(const void *at)
{
	return ((code_fn)(uintptr_t)at)();
}

static void serialize(void)
{
	uint32_t a = 0, b, c = 0, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

static void *new_pages(unsigned n)
{
	void *p = mmap(NULL, n * PAGE, RWX, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		failed("no memory for code");
	return p;
}

/* A function that stores to its own last instruction's immediate right before it gets there:
 *	mov [rip + imm of next], edi; mov eax, 0; ret */
static const uint8_t self_store[] = { 0x89, 0x3d, 0x01, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xc3 };

/* Each thread on pages of its own, many functions on each, across a page's end too; and the same
 * memory seen twice. */
static void self_work(unsigned number)
{
	uint8_t *p = new_pages(2), *rw, *rx;
	int fd = memfd_create("code", 0);

	if (has_failed() || fd < 0 || ftruncate(fd, PAGE) < 0)
		return failed("no memory for code");
	rw = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	rx = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	close(fd);
	memcpy(p + PAGE, self_store, sizeof(self_store));
	for (uint32_t n = 0; time_left(); n++) {
		unsigned at = n * 7 % (PAGE - 16), cross = PAGE - 1 - n % 5;
		uint32_t (*store)(uint32_t) = (uint32_t(*)(uint32_t))(uintptr_t)(p + PAGE + 64);

		put_code(p + at, n);
		if (call(p + at) != n)
			failed("old code ran after a store to it");
		put_code(p + cross, ~n);
		if (call(p + cross) != ~n)
			failed("old code ran across a page's end");
		memcpy(p + PAGE + 64, self_store, sizeof(self_store));
		if (store(n ^ 0x5555) != (n ^ 0x5555))
			failed("a store to the next instruction was not seen");
		put_code(rw + at, n);
		serialize();
		if (call(rx + at) != n)
			failed("old code ran after a store through another mapping");
	}
	munmap(p, 2 * PAGE);
	munmap(rw, PAGE);
	munmap(rx, PAGE);
}

const char *test_jit(void)
{
	return in_threads(threads, self_work);
}

/* ---- one writes, all run ---- */

static uint8_t *shared;
static _Atomic uint32_t published, runners_at[MAX_THREADS];
static _Atomic bool stop;

/* Shared code: at 0 "mov eax, imm32" with the immediate aligned; at 64 a JMP whose displacement is
 * aligned, to one of two functions; data that everybody stores to lies on the same page. */
static void make_shared(uint8_t *p)
{
	put_code(p + 3, 0);
	p[67] = 0xe9;
	memset(p + 68, 0, 4);
	put_code(p + 72, 1);
	put_code(p + 88, 2);
}

static void write_shared(void)
{
	for (uint32_t n = 1; time_left(); n++) {
		__atomic_store_n((uint32_t *)(shared + 4), n, __ATOMIC_SEQ_CST);
		__atomic_store_n((uint32_t *)(shared + 68), n % 2 ? 16 : 0, __ATOMIC_SEQ_CST);
		atomic_store(&published, n);
		for (unsigned k = 1; k < threads && n % 64 == 0; k++)
			while (atomic_load(&runners_at[k]) < n && time_left())
				__builtin_ia32_pause();
	}
	atomic_store(&stop, true);
}

static void run_shared(unsigned number)
{
	volatile uint32_t *mine = (uint32_t *)(shared + 1024) + number;
	uint32_t last = 0, stores = 0;

	while (!atomic_load(&stop)) {
		uint32_t n = atomic_load(&published), got, way;

		/* Who serializes after it has seen the flag has to see the code (SDM 3A 8.1.3). */
		serialize();
		got = call(shared + 3);
		if (got < n)
			failed("old code ran after another CPU's store and a serialization");
		if (got < last)
			failed("newer code ran, then older");
		last = got;
		way = call(shared + 67);
		if (way != 1 && way != 2)
			failed("a patched jump went astray");
		if (*mine != stores)
			failed("a store next to code was lost");
		*mine = ++stores;
		atomic_store(&runners_at[number], n);
	}
}

static void role(unsigned number)
{
	if (number)
		run_shared(number);
	else
		write_shared();
}

const char *test_crossmod(void)
{
	shared = new_pages(1);
	make_shared(shared);
	atomic_store(&published, 0);
	atomic_store(&stop, false);
	memset((void *)runners_at, 0, sizeof(runners_at));
	return in_threads(threads, role);
}

/* ---- other code at the same address ---- */

static void remap_work(unsigned number)
{
	uint8_t *at = new_pages(1);
	int fd[2];

	for (unsigned k = 0; k < 2; k++) {
		uint8_t code[PAGE] = { 0 };

		fd[k] = memfd_create("code", 0);
		put_code(code, number * 2 + k);
		if (fd[k] < 0 || write(fd[k], code, PAGE) != PAGE)
			return failed("no memory for code");
	}
	for (uint32_t n = 0; time_left(); n++) {
		unsigned k = n % 2;
		bool anonymous = n % 7 == 0;

		if (mmap(at, PAGE, anonymous ? RWX : PROT_READ | PROT_EXEC,
			 MAP_FIXED | (anonymous ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED),
			 anonymous ? -1 : fd[k], 0) == MAP_FAILED)
			return failed("code cannot be mapped");
		if (anonymous)
			put_code(at, n | 1u << 31);
		if (call(at) != (anonymous ? n | 1u << 31 : number * 2 + k))
			failed("code of an old mapping ran");
	}
	munmap(at, PAGE);
	close(fd[0]);
	close(fd[1]);
}

const char *test_remap(void)
{
	return in_threads(threads, remap_work);
}
