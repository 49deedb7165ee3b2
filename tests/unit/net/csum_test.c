#include "net/csum.h"

#include "check.h"

#include <stdlib.h>
#include <string.h>

/* RFC 1071 4.1, in the words of the manual: 16 bits at a time. */
static uint16_t simple(const uint8_t *p, size_t len)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += i & 1 ? (uint32_t)p[i] << 8 : p[i];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

TEST(sums_agree_with_the_rfc_at_all_lengths_and_alignments)
{
	uint8_t buf[600];

	srandom(1);
	for (unsigned i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)random();
	for (unsigned at = 0; at < 9; at++)
		for (unsigned len = 0; len < 500; len++)
			CHECK_EQ(csum_fold(csum_add(0, buf + at, len, 0)), simple(buf + at, len));
}

TEST(a_sum_can_be_made_in_pieces_of_odd_length)
{
	uint8_t buf[301];

	memset(buf, 0xff, sizeof(buf));
	for (unsigned i = 0; i < sizeof(buf); i += 3)
		buf[i] = (uint8_t)i;
	for (unsigned cut = 0; cut <= sizeof(buf); cut++) {
		uint64_t sum = csum_add(0, buf, cut, 0);

		sum = csum_add(sum, buf + cut, sizeof(buf) - cut, cut & 1);
		CHECK_EQ(csum_fold(sum), simple(buf, sizeof(buf)));
	}
}

TEST(replacing_a_word_keeps_the_field_right)
{
	uint8_t buf[20];

	srandom(2);
	for (unsigned n = 0; n < 1000; n++) {
		uint16_t field, old, new = (uint16_t)random();

		for (unsigned i = 0; i < sizeof(buf); i++)
			buf[i] = (uint8_t)random();
		memset(buf + 10, 0, 2);
		field = csum_field(csum_add(0, buf, sizeof(buf), 0));
		memcpy(&old, buf + 4, 2);
		field = csum_replace(field, old, new);
		memcpy(buf + 4, &new, 2);
		memcpy(buf + 10, &field, 2);
		CHECK_EQ(csum_field(csum_add(0, buf, sizeof(buf), 0)), 0);
	}
}

TESTS(T(sums_agree_with_the_rfc_at_all_lengths_and_alignments),
      T(a_sum_can_be_made_in_pieces_of_odd_length), T(replacing_a_word_keeps_the_field_right))
