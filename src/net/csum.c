#include "net/csum.h"

#include "base/bits.h"

/* Fold a sum of 32-bit words to 32 bits, then to 16. */
uint16_t csum_fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

/* 32-bit words into 64-bit sums: no carry is lost in 2^32 of them, and four chains run side by
 * side.
 */
static uint64_t sum_words(const uint8_t *p, size_t len)
{
	uint64_t a = 0, b = 0, c = 0, d = 0;

	for (; len >= 16; len -= 16, p += 16) {
		a += load32(p);
		b += load32(p + 4);
		c += load32(p + 8);
		d += load32(p + 12);
	}
	for (; len >= 4; len -= 4, p += 4)
		a += load32(p);
	if (len >= 2) {
		b += load16(p);
		p += 2;
		len -= 2;
	}
	if (len)
		c += *p;
	return (uint64_t)csum_fold(a) + csum_fold(b) + csum_fold(c) + csum_fold(d);
}

uint64_t csum_add(uint64_t sum, const void *p, size_t len, int odd)
{
	uint16_t part = csum_fold(sum_words(p, len));

	return sum + (odd ? (uint16_t)(part << 8 | part >> 8) : part);
}
