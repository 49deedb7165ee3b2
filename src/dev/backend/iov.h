/* Scatter lists: pieces of memory that make up one run of bytes. A run's bytes are counted by skip
 * and len, which stay inside of it. The memory may be a guest's and change at any time.
 */
#ifndef DEV_BACKEND_IOV_H
#define DEV_BACKEND_IOV_H

#include <stdint.h>
#include <sys/uio.h>

/* [skip, skip+len) of iov as out[], at most max entries. Returns how many, or 0 if it has more. */
unsigned iov_part(struct iovec *out, unsigned max, const struct iovec *iov, unsigned n_iov,
		  uint64_t skip, uint64_t len);
/* Make len bytes from skip on zeros, copy them from buf, or copy them to buf. */
void iov_zero(const struct iovec *iov, unsigned n_iov, uint64_t skip, uint64_t len);
void iov_from(const struct iovec *iov, unsigned n_iov, uint64_t skip, const void *buf,
	      uint64_t len);
void iov_to(const struct iovec *iov, unsigned n_iov, uint64_t skip, void *buf, uint64_t len);

#endif
