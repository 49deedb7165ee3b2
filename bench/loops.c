/* Integer loops with loads and stores: the same machine code run by the host's CPU and by the
 * interpreter, in turn. Prints a line a loop, and the geometric mean of the ratios.
 */
#include "flatcpu.h"

#include <math.h>
#include <sys/mman.h>
#include <time.h>

#define GUEST __attribute__((section("guest_code"), noinline, used))

/* Primes below n by Eratosthenes' sieve; returns their number. */
GUEST static uint64_t sieve(uint8_t *a, uint64_t n)
{
	uint64_t count = 0;

	for (uint64_t i = 2; i < n; i++)
		a[i] = 1;
	for (uint64_t i = 2; i < n; i++) {
		if (!a[i])
			continue;
		count++;
		for (uint64_t k = i * i; k < n; k += i)
			a[k] = 0;
	}
	return count;
}

/* CRC-32 by a table of bytes, made first. */
GUEST static uint64_t crc(uint8_t *a, uint64_t n)
{
	uint32_t *table = (uint32_t *)a, c = ~0u;
	uint8_t *data = a + 1024;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t v = i;

		for (int k = 0; k < 8; k++)
			v = v & 1 ? v >> 1 ^ 0xedb88320 : v >> 1;
		table[i] = v;
	}
	for (uint64_t i = 0; i < n; i++)
		data[i & 0xffff] = (uint8_t)(i * 7);
	for (uint64_t i = 0; i < n; i++)
		c = table[(c ^ data[i & 0xffff]) & 0xff] ^ c >> 8;
	return c;
}

/* Heap sort of n words. */
GUEST static uint64_t sort(uint8_t *p, uint64_t n)
{
	uint64_t *a = (uint64_t *)p, x = 88172645463325252ull, sum = 0;

	for (uint64_t i = 0; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		a[i] = x;
	}
	for (uint64_t start = n / 2, end = n; end > 1;) {
		uint64_t root, child, t;

		if (start) {
			start--;
		} else {
			end--;
			t = a[end];
			a[end] = a[0];
			a[0] = t;
		}
		for (root = start; (child = 2 * root + 1) < end; root = child) {
			if (child + 1 < end && a[child] < a[child + 1])
				child++;
			if (a[root] >= a[child])
				break;
			t = a[root];
			a[root] = a[child];
			a[child] = t;
		}
	}
	for (uint64_t i = 0; i < n; i++)
		sum = sum * 31 + a[i];
	return sum;
}

/* A linked list through memory, walked and counted up. */
GUEST static uint64_t list(uint8_t *p, uint64_t n)
{
	uint64_t *a = (uint64_t *)p, at = 0, sum = 0;

	for (uint64_t i = 0; i < 4096; i++)
		a[i * 2] = (i * 1223 + 1) & 4095;
	for (uint64_t i = 0; i < n; i++) {
		sum += a[at * 2 + 1]++;
		at = a[at * 2];
	}
	return sum;
}

extern const uint8_t __start_guest_code[], __stop_guest_code[];

typedef uint64_t loop_fn(uint8_t *data, uint64_t n);

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Run fn in the guest: a call of it, then HLT. */
static uint64_t in_guest(struct flatcpu *f, loop_fn *fn, uint64_t n)
{
	uint64_t at = FLAT_CODE + 64 + (uint64_t)((const uint8_t *)fn - __start_guest_code);
	uint8_t stub[13] = { 0x48, 0xb8, [10] = 0xff, 0xd0, 0xf4 }; /* mov rax, at; call rax; hlt */

	store64(stub + 2, at);
	flat_reset(f, 0);
	physmap_write(&f->pm, FLAT_CODE + 64, __start_guest_code,
		      (uint64_t)(__stop_guest_code - __start_guest_code));
	f->c.gpr[REG_RSP] = FLAT_DATA - 64;
	f->c.gpr[REG_RDI] = FLAT_DATA;
	f->c.gpr[REG_RSI] = n;
	if (flat_run(f, stub, sizeof(stub)) != RUN_HALTED)
		exit(1);
	return f->c.gpr[REG_RAX];
}

int main(void)
{
	static const struct {
		const char *name;
		loop_fn *fn;
		uint64_t n;
	} loops[] = { { "sieve", sieve, 4000000 },
		      { "crc", crc, 6000000 },
		      { "sort", sort, 200000 },
		      { "list", list, 8000000 } };
	uint8_t *data =
		mmap(NULL, 16 * MiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct flatcpu *f = malloc(sizeof(*f));
	double product = 1;

	flat_init(f, &engine_interp, "host");
	for (unsigned i = 0; i < ARRAY_SIZE(loops); i++) {
		double native = 1e9, guest = 1e9;
		uint64_t insns = 0;

		/* Best of five, in turn, so that a change of the machine's speed hits both. */
		for (unsigned k = 0; k < 5; k++) {
			uint64_t a, b, was;
			double t;

			memset(data, 0, 16 * MiB);
			t = now();
			a = loops[i].fn(data, loops[i].n);
			native = MIN(native, now() - t);
			memset(f->pm.ram + FLAT_DATA, 0, 16 * MiB);
			was = f->c.stats.insns;
			t = now();
			b = in_guest(f, loops[i].fn, loops[i].n);
			guest = MIN(guest, now() - t);
			insns = f->c.stats.insns - was;
			if (a != b) {
				printf("%s: native %#lx, guest %#lx\n", loops[i].name, a, b);
				return 1;
			}
		}
		printf("  %-8s interp is %5.1f times slower than native (%.0f M guest instructions/s)\n",
		       loops[i].name, guest / native, (double)insns / guest / 1e6);
		product *= guest / native;
	}
	printf("  geometric mean: %.1f times slower than native (promise: at most 30)\n",
	       pow(product, 1.0 / ARRAY_SIZE(loops)));
	flat_fini(f);
	free(f);
	return 0;
}
