/* Small arithmetic on words, and the types of addresses. */
#ifndef BASE_BITS_H
#define BASE_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint64_t gpa_t; /* guest-physical address */
typedef uint64_t gva_t; /* guest linear ("virtual") address, segment base included */

#define KiB (1ull << 10)
#define MiB (1ull << 20)
#define GiB (1ull << 30)

#define BIT(n)	       (1ull << (n))
#define ARRAY_SIZE(a)  (sizeof(a) / sizeof((a)[0]))
#define ALIGN_UP(x, a) (((x) + ((a)-1)) & ~((__typeof__(x))(a)-1))
#define MIN(a, b)      ((a) < (b) ? (a) : (b))
#define MAX(a, b)      ((a) > (b) ? (a) : (b))

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* len bits of x from bit lo up. */
static inline uint64_t bits_get(uint64_t x, unsigned lo, unsigned len)
{
	return (x >> lo) & (len >= 64 ? ~0ull : BIT(len) - 1);
}

/* x, whose lowest bits (1 to 64) are a two's complement number. */
static inline int64_t sign_extend(uint64_t x, unsigned bits)
{
	return (int64_t)(x << (64 - bits)) >> (64 - bits);
}

/* All ones in the lowest size bytes (1, 2, 4, 8). */
static inline uint64_t size_mask(unsigned size)
{
	return size >= 8 ? ~0ull : BIT(size * 8) - 1;
}

/* True when [a, a+len) lies inside [0, limit); never overflows. */
static inline bool range_fits(uint64_t a, uint64_t len, uint64_t limit)
{
	return a <= limit && len <= limit - a;
}

/* Integers at any address: what guests load and store. Accessed as volatile, each is one load or
 * store of the CPU, which C promises for no misaligned uint32_t.
 */
typedef uint16_t __attribute__((aligned(1), may_alias)) any16;
typedef uint32_t __attribute__((aligned(1), may_alias)) any32;
typedef uint64_t __attribute__((aligned(1), may_alias)) any64;

/* Little-endian words at any alignment. */
static inline uint16_t load16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t load32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t load64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline void store16(void *p, uint16_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void store32(void *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void store64(void *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

#endif
