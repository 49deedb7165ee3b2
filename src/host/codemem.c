#include "host/codemem.h"

#include "base/err.h"
#include "base/own.h"

#include <errno.h>
#include <sys/mman.h>

int codemem_init(struct codemem *m, size_t len, struct err *err)
{
	AUTO_FD int fd = memfd_create("code", MFD_CLOEXEC);
	void *rw, *rx;

	if (fd < 0 || ftruncate(fd, (off_t)len) < 0)
		return err_set(err, errno, "memory for generated code");
	rw = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (rw == MAP_FAILED)
		return err_set(err, errno, "memory for generated code");
	rx = mmap(NULL, len, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (rx == MAP_FAILED) {
		int ret = err_set(err, errno, "executable memory for generated code");

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
