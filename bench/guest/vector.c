/* SIMD: memory functions in hand-written AVX2, so that every host runs the same instructions, and
 * those of the C library, which picks by CPU.
 */
#include "bench.h"

#include <immintrin.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2")))
#define SIZE (256u << 10)

static _Alignas(64) uint8_t a[SIZE + 64], b[SIZE + 64];

static void fill(void)
{
	uint64_t x = 5;

	for (unsigned i = 0; i < SIZE; i++)
		a[i] = (uint8_t)(bench_random(&x) % 255 + 1);
	a[SIZE] = 0;
	memset(b, 0, sizeof(b));
}

/* Keeps the compiler from knowing what memory holds. */
static void forget(void *p)
{
	__asm__ volatile("" : : "r"(p) : "memory");
}

static uint64_t sum_of(const uint8_t *p)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < SIZE; i++)
		sum = bench_mix(sum, p[i]);
	return sum;
}

AVX2 static uint64_t copy_avx2(void)
{
	for (unsigned round = 0; round < 10000; round++) {
		for (unsigned i = 0; i < SIZE; i += 64) {
			__m256i x = _mm256_loadu_si256((const __m256i *)(a + i));
			__m256i y = _mm256_loadu_si256((const __m256i *)(a + i + 32));

			_mm256_storeu_si256((__m256i *)(b + i), x);
			_mm256_storeu_si256((__m256i *)(b + i + 32), y);
		}
		forget(b);
	}
	return sum_of(b);
}

AVX2 static uint64_t strlen_avx2(void)
{
	const __m256i zero = _mm256_setzero_si256();
	uint64_t sum = 0;

	for (unsigned round = 0; round < 20000; round++) {
		const uint8_t *p = a;
		uint32_t hit;

		forget(a);
		while (!(hit = (uint32_t)_mm256_movemask_epi8(
				 _mm256_cmpeq_epi8(_mm256_load_si256((const __m256i *)p), zero))))
			p += 32;
		sum += (uint64_t)(p - a) + (unsigned)__builtin_ctz(hit);
	}
	return sum;
}

/* Sum of absolute differences between shifted pictures, as video encoders do. */
AVX2 static uint64_t sad_avx2(void)
{
	__m256i total = _mm256_setzero_si256();

	for (unsigned round = 0; round < 8000; round++) {
		forget(a);
		for (unsigned i = 0; i < SIZE - 64; i += 32) {
			__m256i x = _mm256_load_si256((const __m256i *)(a + i));
			__m256i y = _mm256_loadu_si256((const __m256i *)(a + i + round % 31));

			total = _mm256_add_epi64(total, _mm256_sad_epu8(x, y));
		}
	}
	return (uint64_t)(_mm256_extract_epi64(total, 0) + _mm256_extract_epi64(total, 1) +
			  _mm256_extract_epi64(total, 2) + _mm256_extract_epi64(total, 3));
}

/* Bytes through PSHUFB, 16 bits at a time: base64's first step, in SSSE3. */
__attribute__((target("ssse3"))) static uint64_t shuffle_ssse3(void)
{
	const __m128i order = _mm_set_epi8(10, 11, 9, 10, 7, 8, 6, 7, 4, 5, 3, 4, 1, 2, 0, 1);

	for (unsigned round = 0; round < 5000; round++) {
		for (unsigned i = 0, o = 0; o < SIZE; i += 12, o += 16) {
			__m128i x =
				_mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(a + i)), order);

			x = _mm_or_si128(_mm_slli_epi16(x, 2), _mm_srli_epi16(x, 6));
			_mm_store_si128((__m128i *)(b + o), x);
		}
		forget(b);
	}
	return sum_of(b);
}

static uint64_t libc_memcpy(void)
{
	for (unsigned round = 0; round < 10000; round++) {
		memcpy(b, a, SIZE);
		forget(b);
	}
	return sum_of(b);
}

/* Short ones, where what counts is the call. */
static uint64_t libc_short(void)
{
	uint64_t x = 11;

	for (unsigned round = 0; round < 4000000; round++) {
		uint64_t r = bench_random(&x);
		size_t from = r & 0xffff, to = r >> 16 & 0xffff, len = r >> 32 & 63;

		memcpy(b + to, a + from, len);
		forget(b);
	}
	return sum_of(b);
}

static uint64_t libc_strings(void)
{
	uint64_t sum = 0;

	for (unsigned round = 0; round < 8000; round++) {
		forget(a);
		sum += strlen((char *)a);
		sum += !memchr(a, 0, SIZE);
		sum += memcmp(a, b, SIZE) > 0;
		b[0] = (uint8_t)(round & 1);
		memset(b + 1, (int)(round & 0xff), SIZE / 4);
	}
	return sum;
}

static const struct bench table[] = {
	{ "simd.copy-avx2", copy_avx2, 0xcd3710f13fdecfcd, fill, "avx2" },
	{ "simd.strlen-avx2", strlen_avx2, 20000ull * SIZE, fill, "avx2" },
	{ "simd.sad-avx2", sad_avx2, 0x2828c0ffbb, fill, "avx2" },
	{ "simd.shuffle-ssse3", shuffle_ssse3, 0x667616076ea6d5a9, fill, "ssse3" },
	{ "simd.memcpy", libc_memcpy, 0xcd3710f13fdecfcd, fill, NULL },
	{ "simd.memcpy-short", libc_short, 0x883c4bb247a220e1, fill, NULL },
	{ "simd.strings", libc_strings, 0x7d003e80, fill, NULL },
	{ NULL, NULL, 0, NULL, NULL },
};

int main(int argc, char **argv)
{
	return bench_main(table, argc, argv);
}
