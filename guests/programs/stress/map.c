/* Mappings that one thread changes while others use them. Each slot is one page of address space; it
 * shows one of two pages of a file, may be read-only, closed or not there at all. Its state is
 * published behind each change: from then on nobody may see the page as it was before, that is, the
 * kernel's TLB shootdowns must have worked.
 */
#define _GNU_SOURCE
#include "stress.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define SLOTS 32
#define PAGE  4096

/* A state is a number that counts up, and this in its low bits. */
enum { CHANGING, OPEN, READ_ONLY, CLOSED, KINDS };
#define KIND(s) ((s)&7)
#define SIDE(s) ((s) >> 3 & 1) /* which of the slot's two pages of the file */

static atomic_ulong state[SLOTS];
static uint8_t *slots;
static int file;
static unsigned n_changers;
static atomic_bool over;
static atomic_long n_faults;

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
		fail("a fault at %#llx, address %p", r[REG_RIP], info->si_addr);
	if (info->si_addr != (void *)r[REG_RDI])
		fail("a fault's address is %p, the access was to %#llx", info->si_addr, r[REG_RDI]);
	if (!(r[REG_ERR] & 2) != load || !(r[REG_ERR] & 4))
		fail("a fault of a %s has error code %#llx", load ? "load" : "store", r[REG_ERR]);
	r[REG_RIP] = (greg_t)try_end;
	atomic_fetch_add_explicit(&n_faults, 1, memory_order_relaxed);
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
		fail("no mapping");
}

/* Change slots i, i + n_changers ... at random. */
static long change(unsigned i)
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
				fail("munmap");
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
			fail("mprotect");
		atomic_store(&state[slot], (s & ~15ul) + 16 + side * 8 + kind);
		n++;
	} while (n % 64 || time_left());
	return n;
}

struct user {
	unsigned word;		    /* of each page, its own to write to */
	uint64_t last[SLOTS][2];    /* what was written there */
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
		fail("slot %u has %#llx", slot, (unsigned long long)val);
	if (!same)
		return;
	if (ok != (KIND(s) != CLOSED))
		fail("slot %u: a load %s in state %lu", slot, ok ? "worked" : "faulted", KIND(s));
	if (ok && val != tag(slot, SIDE(s)))
		fail("slot %u: a load found the page that was there before", slot);
	if (ok && u->known[slot][SIDE(s)] && mine != u->last[slot][SIDE(s)])
		fail("slot %u: a store was lost: %#llx, not %#llx", slot, (unsigned long long)mine,
		     (unsigned long long)u->last[slot][SIDE(s)]);
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
		fail("slot %u: a store %s in state %lu", slot, ok ? "worked" : "faulted", KIND(s));
	if (ok) {
		u->last[slot][SIDE(s)] = val;
		u->known[slot][SIDE(s)] = true;
	}
}

static long use(unsigned i)
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
	return 0;
}

static long either(unsigned i)
{
	long n;

	if (i >= n_changers)
		return use(i);
	n = change(i);
	atomic_store(&over, true);
	return n;
}

long stress_map(void)
{
	struct sigaction act = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	unsigned n = n_threads(3);

	n_changers = n >= 4 ? 2 : 1;
	sigaction(SIGSEGV, &act, NULL);
	file = memfd_create("stress", 0);
	slots = mmap(NULL, SLOTS * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (file < 0 || ftruncate(file, SLOTS * 2 * PAGE) != 0 || slots == MAP_FAILED)
		fail("no memory");
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		for (unsigned side = 0; side < 2; side++) {
			uint64_t t = tag(slot, side);

			if (pwrite(file, &t, sizeof(t), (slot * 2 + side) * PAGE) != sizeof(t))
				fail("no room in memory");
		}
		show(slot, 0);
		atomic_store(&state[slot], 16 + OPEN);
	}
	n = (unsigned)on_threads(n, either);
	if (!atomic_load(&n_faults))
		fail("there was no fault");
	return n;
}
