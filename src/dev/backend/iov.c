#include "dev/backend/iov.h"

#include "base/bits.h"

unsigned iov_part(struct iovec *out, unsigned max, const struct iovec *iov, unsigned n_iov,
		  uint64_t skip, uint64_t len)
{
	unsigned n = 0;

	for (unsigned i = 0; i < n_iov && len; i++) {
		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		if (n == max)
			return 0;

		uint64_t take = MIN(iov[i].iov_len - skip, len);

		out[n++] = (struct iovec){ (uint8_t *)iov[i].iov_base + skip, take };
		len -= take;
		skip = 0;
	}
	return n;
}

enum move { ZERO, FROM, TO };

static void move(const struct iovec *iov, unsigned n_iov, uint64_t skip, uint8_t *buf, uint64_t len,
		 enum move how)
{
	for (unsigned i = 0; i < n_iov && len; i++) {
		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}

		uint8_t *at = (uint8_t *)iov[i].iov_base + skip;
		uint64_t take = MIN(iov[i].iov_len - skip, len);

		switch (how) {
		case ZERO: memset(at, 0, take); break;
		case FROM: memcpy(at, buf, take); break;
		case TO: memcpy(buf, at, take); break;
		}
		if (buf)
			buf += take;
		len -= take;
		skip = 0;
	}
}

void iov_zero(const struct iovec *iov, unsigned n_iov, uint64_t skip, uint64_t len)
{
	move(iov, n_iov, skip, NULL, len, ZERO);
}

void iov_from(const struct iovec *iov, unsigned n_iov, uint64_t skip, const void *buf, uint64_t len)
{
	move(iov, n_iov, skip, (uint8_t *)(uintptr_t)buf, len, FROM);
}

void iov_to(const struct iovec *iov, unsigned n_iov, uint64_t skip, void *buf, uint64_t len)
{
	move(iov, n_iov, skip, buf, len, TO);
}
