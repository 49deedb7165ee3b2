/* Mappings that some threads change while others use them. Each slot is one page of address space;
 * it shows one of two pages of a file, may be read-only, closed or not there at all. Its state is
 * published behind each change: from then on nobody may see the page as it was before, that is, the
 * kernel's TLB shootdowns must have worked.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define SLOTS 32
#define PAGE  4096

/* A state is a number that counts up, and this in its low bits. */
enum { CHANGING, OPEN, READ_ONLY, CLOSED, KINDS };
#define KIND(s) ((s)&7)
#define SIDE(s) ((s) >> 3 & 1) /* which of the slot's two pages of the file */

static _Atomic unsigned long state[SLOTS];
static uint8_t *slots;
static int file;
static unsigned n_changers;
static _Atomic bool over;
static _Atomic long n_faults;

/* bool try_load(const uint64_t *from, uint64_t *val); bool try_store(uint64_t *to, uint64_t val);
 * False if the access faulted. */
__asm__("try_load:\n\t"
	"xorl %eax, %eax\n"
	"try_load_at:\n\t"
	"movq (%rdi), %rcx\n\t"
	"movq %rcx, (%rsi)\n\t"
	"incl %eax\n"
	"try_end:\n\t"
	"ret\n"
	"try_store:\n\t"
	"xorl %eax, %eax\n"
	"try_store_at:\n\t"
	"movq %rsi, (%rdi)\n\t"
	"incl %eax\n\t"
	"ret");
int try_load(const uint64_t *from, uint64_t *val);
int try_store(uint64_t *to, uint64_t val);
extern const char try_load_at[], try_store_at[], try_end[];

static void on_fault(int sig, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	bool load = r[REG_RIP] == (greg_t)try_load_at, store = r[REG_RIP] == (greg_t)try_store_at;

	if (!load && !store)
		_Exit(99);
	if (info->si_addr != (void *)r[REG_RDI])
		failed("a fault's address is not the access's");
	if (!(r[REG_ERR] & 2) != load || !(r[REG_ERR] & 4))
		failed("a fault has a wrong error code");
	r[REG_RIP] = (greg_t)try_end;
	atomic_fetch_add_explicit(&n_faults, 1, memory_order_relaxed);
}

/* Numbers that depend on the seed only. It must not be 0. */
static uint32_t rnd(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

static uint64_t tag(unsigned slot, unsigned side)
{
	return 0x5107000000000000ull | slot << 8 | side;
}

static void show(unsigned slot, unsigned side)
{
	void *at = slots + slot * PAGE;

	if (mmap(at, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file,
		 (slot * 2 + side) * PAGE) != at)
		failed("no mapping");
}

/* Change slots i, i + n_changers ... at random. */
static void change(unsigned i)
{
	uint32_t seed = i + 1;
	long n = 0;

	do {
		unsigned slot = rnd(&seed) % (SLOTS / n_changers) * n_changers + i;
		void *at = slots + slot * PAGE;
		unsigned long s = atomic_load(&state[slot]);
		unsigned side = SIDE(s), kind = OPEN + rnd(&seed) % (KINDS - 1);

		atomic_store(&state[slot], s & ~7ul);
		switch (rnd(&seed) % 4) {
		case 0:
			if (munmap(at, PAGE) != 0)
				failed("munmap");
			atomic_store(&state[slot], (s & ~7ul) + 16 + CLOSED);
			for (unsigned k = rnd(&seed) % 1000; k; k--)
				__builtin_ia32_pause();
			s += 16;
			atomic_store(&state[slot], s & ~7ul);
			/* fall through */
		case 1:
			side = rnd(&seed) & 1;
			show(slot, side);
			break;
		default: break;
		}
		if (mprotect(at, PAGE,
			     kind == CLOSED	 ? PROT_NONE
			     : kind == READ_ONLY ? PROT_READ
						 : PROT_READ | PROT_WRITE) != 0)
			failed("mprotect");
		atomic_store(&state[slot], (s & ~15ul) + 16 + side * 8 + kind);
		n++;
	} while (n % 64 || time_left());
}

struct user {
	unsigned word;		 /* of each page, its own to write to */
	uint64_t last[SLOTS][2]; /* what was written there */
	bool known[SLOTS][2];
};

static void load_one(unsigned slot, struct user *u)
{
	const uint64_t *page = (const uint64_t *)(slots + slot * PAGE);
	unsigned long s = atomic_load(&state[slot]);
	uint64_t val = 0, mine = 0;
	bool ok = try_load(page, &val) && try_load(page + u->word, &mine);
	bool same = atomic_load(&state[slot]) == s && KIND(s) != CHANGING;

	if (val && val != tag(slot, 0) && val != tag(slot, 1))
		failed("a slot has what was never there");
	if (!same)
		return;
	if (ok != (KIND(s) != CLOSED))
		failed(ok ? "a load from a closed page worked"
			  : "a load from an open page faulted");
	if (ok && val != tag(slot, SIDE(s)))
		failed("a load found the page that was there before");
	if (ok && u->known[slot][SIDE(s)] && mine != u->last[slot][SIDE(s)])
		failed("a store was lost");
}

static void store_one(unsigned slot, struct user *u, uint64_t val)
{
	uint64_t *page = (uint64_t *)(slots + slot * PAGE);
	unsigned long s = atomic_load(&state[slot]);
	bool ok = try_store(page + u->word, val);
	bool same = atomic_load(&state[slot]) == s && KIND(s) != CHANGING;

	if (!same) {
		/* It went to either, or nowhere. */
		u->known[slot][0] = u->known[slot][1] = false;
		return;
	}
	if (ok != (KIND(s) == OPEN))
		failed(ok ? "a store to a closed page worked" : "a store to an open page faulted");
	if (ok) {
		u->last[slot][SIDE(s)] = val;
		u->known[slot][SIDE(s)] = true;
	}
}

static void use(unsigned i)
{
	struct user u = { .word = 8 + i };
	uint32_t seed = i + 77;
	long n = 0;

	for (; !atomic_load_explicit(&over, memory_order_relaxed); n++) {
		unsigned slot = rnd(&seed) % SLOTS;

		if (rnd(&seed) & 1)
			load_one(slot, &u);
		else
			store_one(slot, &u, (uint64_t)n << 8 | i);
	}
}

static void role(unsigned number)
{
	if (number >= n_changers)
		return use(number);
	change(number);
	atomic_store(&over, true);
}

const char *test_slots(void)
{
	struct sigaction act = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO }, old;
	unsigned n = threads < 3 ? 3 : threads;
	const char *why;

	n_changers = n >= 4 ? 2 : 1;
	file = memfd_create("stress", 0);
	slots = mmap(NULL, SLOTS * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (file < 0 || ftruncate(file, SLOTS * 2 * PAGE) != 0 || slots == MAP_FAILED)
		return "no memory";
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		for (unsigned side = 0; side < 2; side++) {
			uint64_t t = tag(slot, side);

			if (pwrite(file, &t, sizeof(t), (slot * 2 + side) * PAGE) != sizeof(t))
				return "no room in memory";
		}
		show(slot, 0);
		atomic_store(&state[slot], 16 + OPEN);
	}
	atomic_store(&over, false);
	sigaction(SIGSEGV, &act, &old);
	why = in_threads(n, role);
	sigaction(SIGSEGV, &old, NULL);
	munmap(slots, SLOTS * PAGE);
	close(file);
	return why || atomic_load(&n_faults) ? why : "there was no fault";
}
