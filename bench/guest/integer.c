/* Integer work: sorting, hashing, an interpreter's loop, compression, calls, trees, text. */
#include "bench.h"

#include <regex.h>
#include <stdlib.h>
#include <string.h>

#define WORDS (1u << 19)

static uint64_t words[WORDS];
static char text[1 << 20];

static void fill_words(void)
{
	uint64_t x = 88172645463325252ull;

	for (unsigned i = 0; i < WORDS; i++)
		words[i] = bench_random(&x);
}

/* English-like words, so that it compresses and lines end. */
static void fill_text(void)
{
	static const char *const stock[] = {
		"guest", "page", "table", "of ",   "and ", "timer", "reads ", "writes", "the ",
		"error", "42",	 "0x1f",  "block", "jump", ": ",    "cache",  "host ",	"lost"
	};
	uint64_t x = 1234567;
	size_t n = 0;

	while (n < sizeof(text) - 16) {
		const char *w = stock[bench_random(&x) % (sizeof(stock) / sizeof(stock[0]))];

		n += strlen(strcpy(text + n, w));
		text[n++] = x >> 20 & 7 ? ' ' : '\n';
	}
	text[n] = 0;
}

static int compare_words(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t sort(void)
{
	uint64_t sum = 0;

	qsort(words, WORDS, sizeof(words[0]), compare_words);
	for (unsigned i = 1; i < WORDS; i++) {
		if (words[i - 1] > words[i])
			return 0;
		sum = bench_mix(sum, words[i]);
	}
	return sum;
}

/* Open addressing; half full. */
static uint64_t hash(void)
{
	enum { SLOTS = 1 << 16 };
	static struct {
		uint64_t key, count;
	} slots[SLOTS];
	uint64_t x = 42, sum = 0;

	memset(slots, 0, sizeof(slots));
	for (unsigned i = 0; i < 8000000; i++) {
		uint64_t key = bench_random(&x) % (SLOTS / 2) + 1;
		uint64_t at = key * 0x9e3779b97f4a7c15ull >> 48;

		while (slots[at].key && slots[at].key != key)
			at = (at + 1) % SLOTS;
		slots[at].key = key;
		slots[at].count++;
	}
	for (unsigned i = 0; i < SLOTS; i++)
		sum = bench_mix(sum, slots[i].key ^ slots[i].count << 32);
	return sum;
}

static uint64_t sieve(void)
{
	enum { N = 4000000 };
	static uint8_t out[N];
	uint64_t sum = 0;

	for (unsigned round = 0; round < 4; round++) {
		memset(out, 0, sizeof(out));
		for (uint64_t i = 2; i < N; i++) {
			if (out[i])
				continue;
			sum = bench_mix(sum, i);
			for (uint64_t k = i * i; k < N; k += i)
				out[k] = 1;
		}
	}
	return sum;
}

static uint64_t crc32(void)
{
	uint32_t table[256], c = ~0u;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t v = i;

		for (int k = 0; k < 8; k++)
			v = v & 1 ? v >> 1 ^ 0xedb88320 : v >> 1;
		table[i] = v;
	}
	for (unsigned round = 0; round < 30; round++)
		for (size_t i = 0; i < sizeof(text); i++)
			c = table[(c ^ (uint8_t)text[i]) & 0xff] ^ c >> 8;
	return ~c;
}

/* A machine of bytes with a switch: what interpreters of small languages are. It counts primes by
 * trial division.
 */
enum op { LOADI, MOV, ADD, MUL, REM, JLT, JZ, JMP, INC, HALT };

static uint64_t bytecode(void)
{
	enum { N, D, T, COUNT, LIMIT, ZERO };
	static const int32_t program[] = {
		LOADI, LIMIT, 30000,	 /* 0 */
		LOADI, N,     2,	 /* 3 */
		LOADI, COUNT, 0,	 /* 6 */
		LOADI, D,     2,	 /* 9: next N */
		MOV,   T,     D,	 /* 12: next D */
		MUL,   T,     D,	 /* 15 */
		JLT,   N,     T,     33, /* 18: no divisor */
		MOV,   T,     N,	 /* 22 */
		REM,   T,     D,	 /* 25 */
		JZ,    T,     35,	 /* 28 */
		JMP,   39,		 /* 31 */
		INC,   COUNT,		 /* 33 */
		INC,   N,		 /* 35 */
		JMP,   43,		 /* 37 */
		INC,   D,		 /* 39 */
		JMP,   12,		 /* 41 */
		JLT,   N,     LIMIT, 9,	 /* 43 */
		HALT,			 /* 47 */
	};
	int64_t r[8] = { 0 };
	const int32_t *pc;

	for (unsigned round = 0; round < 6; round++) {
		for (pc = program; *pc != HALT;) {
			switch (*pc) {
			case LOADI:
				r[pc[1]] = pc[2];
				pc += 3;
				break;
			case MOV:
				r[pc[1]] = r[pc[2]];
				pc += 3;
				break;
			case ADD:
				r[pc[1]] += r[pc[2]];
				pc += 3;
				break;
			case MUL:
				r[pc[1]] *= r[pc[2]];
				pc += 3;
				break;
			case REM:
				r[pc[1]] %= r[pc[2]];
				pc += 3;
				break;
			case JLT: pc = r[pc[1]] < r[pc[2]] ? program + pc[3] : pc + 4; break;
			case JZ: pc = r[pc[1]] ? pc + 3 : program + pc[2]; break;
			case JMP: pc = program + pc[1]; break;
			case INC:
				r[pc[1]]++;
				pc += 2;
				break;
			}
		}
	}
	return (uint64_t)r[COUNT];
}

__attribute__((noinline)) static uint64_t fib(unsigned n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t calls(void)
{
	volatile unsigned n = 37;

	return fib(n);
}

/* Calls through pointers that change every time, as objects' methods do. */
struct shape {
	uint64_t (*area)(const struct shape *s);
	uint64_t a, b;
};

static uint64_t area_square(const struct shape *s)
{
	return s->a * s->a;
}

static uint64_t area_box(const struct shape *s)
{
	return s->a * s->b;
}

static uint64_t area_ring(const struct shape *s)
{
	return s->a * s->a - s->b;
}

static uint64_t area_line(const struct shape *s)
{
	return s->a + s->b;
}

static uint64_t virtual_calls(void)
{
	static uint64_t (*const kinds[])(const struct shape *) = { area_square, area_box, area_ring,
								   area_line };
	static struct shape shapes[4096];
	uint64_t x = 99, sum = 0;

	for (unsigned i = 0; i < 4096; i++) {
		uint64_t v = bench_random(&x);

		shapes[i] = (struct shape){ kinds[v >> 40 & 3], v & 0xffff, v >> 16 & 0xffff };
	}
	for (unsigned round = 0; round < 2500; round++)
		for (unsigned i = 0; i < 4096; i++)
			sum += shapes[i].area(&shapes[i]);
	return sum;
}

struct node {
	struct node *left, *right;
};

static struct node *tree_new(unsigned depth)
{
	struct node *n = malloc(sizeof(*n));

	if (!n)
		bench_die("malloc");
	n->left = depth ? tree_new(depth - 1) : NULL;
	n->right = depth ? tree_new(depth - 1) : NULL;
	return n;
}

static uint64_t tree_free(struct node *n)
{
	uint64_t count = n ? 1 + tree_free(n->left) + tree_free(n->right) : 0;

	free(n);
	return count;
}

static uint64_t trees(void)
{
	uint64_t count = 0;

	for (unsigned round = 0; round < 40; round++)
		count += tree_free(tree_new(15));
	return count;
}

/* Lempel-Ziv with a table of the last place of each three bytes; unpacked again and compared. */
static uint64_t lz(void)
{
	static uint8_t packed[2 * sizeof(text)], back[sizeof(text)];
	static uint32_t last[1 << 15];
	const uint8_t *in = (const uint8_t *)text;
	size_t n = sizeof(text), out = 0, got = 0;

	memset(last, 0, sizeof(last));
	for (size_t i = 0; i < n;) {
		uint32_t key =
			i + 3 < n ? (in[i] | in[i + 1] << 8 | in[i + 2] << 16) * 2654435761u >> 17
				  : 0;
		size_t at = last[key], len = 0;

		last[key] = (uint32_t)i;
		while (at < i && i - at < 65536 && len < 255 && i + len < n &&
		       in[at + len] == in[i + len])
			len++;
		if (len > 4) {
			packed[out++] = (uint8_t)len;
			packed[out++] = (uint8_t)(i - at);
			packed[out++] = (uint8_t)((i - at) >> 8);
			i += len;
		} else {
			packed[out++] = 0;
			packed[out++] = in[i++];
		}
	}
	for (size_t i = 0; i < out;) {
		size_t len = packed[i++], from;

		if (!len) {
			back[got++] = packed[i++];
			continue;
		}
		from = got - (packed[i] | (size_t)packed[i + 1] << 8);
		i += 2;
		while (len--)
			back[got++] = back[from++];
	}
	return got == n && !memcmp(back, text, n) ? out : 0;
}

static uint64_t lz_rounds(void)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < 12; i++)
		sum = bench_mix(sum, lz());
	return sum;
}

/* Knuth's algorithm M and the like: add with carry and wide multiplication. */
static uint64_t bignum(void)
{
	enum { N = 64 };
	uint64_t a[N], b[N], r[2 * N], x = 7, sum = 0;

	for (unsigned i = 0; i < N; i++) {
		a[i] = bench_random(&x);
		b[i] = bench_random(&x);
	}
	for (unsigned round = 0; round < 20000; round++) {
		memset(r, 0, sizeof(r));
		for (unsigned i = 0; i < N; i++) {
			uint64_t carry = 0;

			for (unsigned k = 0; k < N; k++) {
				unsigned __int128 t =
					(unsigned __int128)a[i] * b[k] + r[i + k] + carry;

				r[i + k] = (uint64_t)t;
				carry = (uint64_t)(t >> 64);
			}
			r[i + N] = carry;
		}
		a[round % N] ^= r[N];
		sum = bench_mix(sum, r[N - 1] ^ r[2 * N - 1]);
	}
	return sum;
}

static uint64_t regex(void)
{
	uint64_t sum = 0;
	regex_t re;
	regmatch_t m;

	if (regcomp(&re, "(error|lost)[ :]+([a-z]+ )*0x[0-9a-f]+", REG_EXTENDED | REG_NEWLINE))
		return 0;
	for (const char *p = text; p < text + 900000 && !regexec(&re, p, 1, &m, 0); p += m.rm_eo)
		sum = bench_mix(sum, (uint64_t)(p - text) + (uint64_t)m.rm_so);
	regfree(&re);
	return sum;
}

/* Dynamic programming over two strings: dependent loads, compares and conditional moves. */
static uint64_t distance(void)
{
	enum { N = 5000 };
	static uint16_t row[N + 1];
	const char *a = text, *b = text + 500000;

	for (unsigned k = 0; k <= N; k++)
		row[k] = (uint16_t)k;
	for (unsigned i = 1; i <= N; i++) {
		uint16_t diagonal = row[0];

		row[0] = (uint16_t)i;
		for (unsigned k = 1; k <= N; k++) {
			uint16_t best = diagonal + (a[i] != b[k]);

			diagonal = row[k];
			if (row[k] + 1 < best)
				best = row[k] + 1;
			if (row[k - 1] + 1 < best)
				best = row[k - 1] + 1;
			row[k] = best;
		}
	}
	return row[N];
}

static const struct bench table[] = {
	{ "int.sort", sort, 0x191c58ffd6485f90, fill_words, NULL },
	{ "int.hash", hash, 0x9dc49ec95fbe0a3a, NULL, NULL },
	{ "int.sieve", sieve, 0x55f5cba6cb32ddea, NULL, NULL },
	{ "int.crc32", crc32, 0x4e69a881, fill_text, NULL },
	{ "int.bytecode", bytecode, 3245, NULL, NULL },
	{ "int.calls", calls, 24157817, NULL, NULL },
	{ "int.virtual", virtual_calls, 0x246f9d78a9f91c, NULL, NULL },
	{ "int.trees", trees, 40 * 65535, NULL, NULL },
	{ "int.lz", lz_rounds, 0xd01f2b0cf279c7ff, fill_text, NULL },
	{ "int.bignum", bignum, 0x8edf6c849deff896, NULL, NULL },
	{ "int.regex", regex, 0xaf063b4a57f0a1bf, fill_text, NULL },
	{ "int.distance", distance, 0xd2e, fill_text, NULL },
	{ NULL, NULL, 0, NULL, NULL },
};

int main(int argc, char **argv)
{
	return bench_main(table, argc, argv);
}
