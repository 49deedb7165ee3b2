#include "cli/cli.h"

#include "base/bits.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

static int parse_scaled(const char *text, unsigned shift, uint64_t *bytes)
{
	char *end;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;

	uint64_t n = strtoull(text, &end, 10);

	switch (toupper((unsigned char)*end)) {
	case 'K': shift = 10; break;
	case 'M': shift = 20; break;
	case 0: break;
	case 'G': shift = 30; break;
	case 'T': shift = 40; break;
	default: return -EINVAL;
	}
	if (errno || (*end && end[1]) || n > UINT64_MAX >> shift)
		return -EINVAL;
	*bytes = n << shift;
	return 0;
}

int parse_size(const char *text, uint64_t *bytes)
{
	return parse_scaled(text, 20, bytes);
}

int parse_bytes(const char *text, uint64_t *bytes)
{
	return parse_scaled(text, 0, bytes);
}

int parse_number(const char *text, unsigned min, unsigned max, unsigned *n)
{
	char *end;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;

	unsigned long v = strtoul(text, &end, 10);

	if (errno || *end || v < min || v > max)
		return -EINVAL;
	*n = (unsigned)v;
	return 0;
}
