/* The Internet checksum, RFC 1071: the ones' complement sum of 16-bit words. */
#ifndef NET_CSUM_H
#define NET_CSUM_H

#include <stddef.h>
#include <stdint.h>

/* Add len bytes at p to a sum; odd says that an odd number of bytes went before. Any alignment. The
 * sum's words are as they lie in memory, so it is stored back as it is. */
uint64_t csum_add(uint64_t sum, const void *p, size_t len, int odd);
/* The sum folded to 16 bits, not complemented. */
uint16_t csum_fold(uint64_t sum);

/* What a header field has to hold: the complement of the folded sum, in memory order. */
static inline uint16_t csum_field(uint64_t sum)
{
	return (uint16_t)~csum_fold(sum);
}

/* The field after a word that it covers changed from old to new (RFC 1624, eqn. 3); all three in
 * memory order. */
static inline uint16_t csum_replace(uint16_t field, uint16_t old, uint16_t new)
{
	return csum_field((uint64_t)(uint16_t)~field + (uint16_t)~old + new);
}

#endif
