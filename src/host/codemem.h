/* Memory for code made at run time, never writable and executable at one address. */
#ifndef HOST_CODEMEM_H
#define HOST_CODEMEM_H

#include <stddef.h>
#include <stdint.h>

struct err;

/* Two views of one piece of memory: what is written at rw + n runs at rx + n. */
struct codemem {
	uint8_t *rw;
	const uint8_t *rx;
	size_t len; /* bytes */
};

/* Errors: the host's, for instance where executable mappings are forbidden. */
int codemem_init(struct codemem *m, size_t len, struct err *err);
void codemem_fini(struct codemem *m);

#endif
