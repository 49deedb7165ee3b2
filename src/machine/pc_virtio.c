/* The pc board's virtio devices. */
#include "base/err.h"
#include "dev/virtio/virtio.h"
#include "machine/machine_internal.h"

/* Their workers are not in step with the count of instructions: a deterministic machine has none.
 */
int pc_add_virtio(struct machine *m, struct err *err)
{
	struct virtio_place at = { .bus = m->pci, .pm = &m->pm, .loop = m->loop };

	if (m->cfg.icount)
		return 0;
	return pc_add(m, virtio_rng_new(pc_slot(m), &at, err));
}
