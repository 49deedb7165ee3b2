#include "host/codemem.h"

#include "base/err.h"

#include <errno.h>
#include <sys/mman.h>

int codemem_init(struct codemem *m, size_t len, struct err *err)
{
	void *rw, *rx;

	/* Shared and anonymous, not a memfd, so that perf takes it for code made at run time. */
	rw = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (rw == MAP_FAILED)
		return err_set(err, errno, "memory for generated code");
	/* An old size of 0 asks for a second view of shared memory: mremap(2). */
	rx = mremap(rw, 0, len, MREMAP_MAYMOVE);
	if (rx == MAP_FAILED || mprotect(rx, len, PROT_READ | PROT_EXEC) < 0) {
		int ret = err_set(err, errno, "executable memory for generated code");

		if (rx != MAP_FAILED)
			munmap(rx, len);
		munmap(rw, len);
		return ret;
	}
	*m = (struct codemem){ .rw = rw, .rx = rx, .len = len };
	return 0;
}

void codemem_fini(struct codemem *m)
{
	munmap(m->rw, m->len);
	munmap((void *)(uintptr_t)m->rx, m->len);
	*m = (struct codemem){ 0 };
}
