/* The pc board's virtio devices. */
#include "base/err.h"
#include "dev/backend/chr.h"
#include "dev/virtio/balloon.h"
#include "dev/virtio/virtio.h"
#include "machine/machine_internal.h"

#include <errno.h>
#include <stdio.h>

_Static_assert(MACHINE_MAX_PORTS == VIRTIO_CONSOLE_PORTS, "a port for each chr");

/* Their workers are not in step with the count of instructions: a deterministic machine has none.
 */
static int check_icount(const struct machine_config *cfg, struct err *err)
{
	if (cfg->icount && (cfg->n_ports || cfg->balloon.on || cfg->vsock.cid))
		return err_say(err, EINVAL,
			       "--icount: not with --virtio-console, --balloon or --vsock, whose "
			       "work takes time that no instruction counts");
	return 0;
}

int pc_check_virtio(const struct machine_config *cfg, struct err *err)
{
	unsigned stdio = cfg->console == CONSOLE_STDIO;

	for (unsigned i = 0; i < cfg->n_ports; i++)
		stdio += cfg->port[i].kind == CONSOLE_STDIO;
	if (cfg->n_ports && stdio > 1)
		return err_say(err, EINVAL,
			       "--virtio-console: stdio serves one console only; give the serial "
			       "line another, as with --console none");
	if (cfg->balloon.bytes > cfg->memory_bytes)
		return err_say(err, EINVAL, "--balloon: more than the guest's memory");
	return check_icount(cfg, err);
}

static int add_console(struct machine *m, const struct virtio_place *at, struct err *err)
{
	struct virtio_console_cfg cfg = { 0 };
	char what[64];
	int ret = 0;

	if (!m->cfg.n_ports)
		return 0;
	for (unsigned i = 0; i < m->cfg.n_ports && ret == 0; i++) {
		const struct port_config *p = &m->cfg.port[i];

		snprintf(what, sizeof(what), "virtio console port %u", i);
		ret = pc_make_chr(m, &cfg.chr[i], p->kind, p->path, what, err);
		cfg.name[i] = p->name;
		cfg.n_ports++;
	}
	if (ret == 0)
		ret = pc_add(m, virtio_console_new(pc_slot(m), at, &cfg, err));
	for (unsigned i = 0; i < cfg.n_ports && ret < 0; i++)
		chr_free(cfg.chr[i]);
	return ret < 0 ? err_wrap(err, "--virtio-console") : 0;
}

static int add_balloon(struct machine *m, const struct virtio_place *at, struct err *err)
{
	int ret;

	if (!m->cfg.balloon.on)
		return 0;
	ret = pc_add(m,
		     virtio_balloon_new(pc_slot(m), &m->balloon, at, m->cfg.balloon.stats_s, err));
	if (ret == 0)
		balloon_set(m->balloon, m->cfg.balloon.bytes);
	return ret;
}

static int add_vsock(struct machine *m, const struct virtio_place *at, struct err *err)
{
	struct virtio_vsock_cfg cfg = { .cid = m->cfg.vsock.cid, .path = m->cfg.vsock.path };
	int ret;

	if (!cfg.cid)
		return 0;
	ret = pc_add(m, virtio_vsock_new(pc_slot(m), at, &cfg, err));
	if (ret == 0)
		m->vsock_folder = virtio_vsock_folder(&m->dev[m->n_devs - 1]);
	return ret < 0 ? err_wrap(err, "--vsock") : 0;
}

int pc_add_virtio(struct machine *m, struct err *err)
{
	struct virtio_place at = { .bus = m->pci, .pm = &m->pm, .loop = m->loop };
	int ret;

	if (m->cfg.icount)
		return 0;
	if ((ret = pc_add_disks(m, err)) < 0 ||
	    (ret = pc_add(m, virtio_rng_new(pc_slot(m), &at, err))) < 0 ||
	    (ret = add_console(m, &at, err)) < 0 || (ret = add_balloon(m, &at, err)) < 0 ||
	    (ret = add_vsock(m, &at, err)) < 0)
		return ret;
	return 0;
}

static void print_stat(const char *name, uint64_t bytes)
{
	if (bytes != UINT64_MAX)
		fprintf(stderr, ", %s %llu KiB", name, (unsigned long long)(bytes / KiB));
}

void pc_print_virtio(const struct machine *m)
{
	struct balloon_info info;

	if (!m->balloon)
		return;
	balloon_look(m->balloon, &info);
	fprintf(stderr,
		"balloon: target %llu KiB, actual %llu KiB, inflated %llu KiB, reported "
		"%llu KiB",
		(unsigned long long)(info.target / KiB), (unsigned long long)(info.actual / KiB),
		(unsigned long long)(info.inflated / KiB),
		(unsigned long long)(info.reported / KiB));
	print_stat("guest free", info.stat[BALLOON_FREE]);
	print_stat("guest available", info.stat[BALLOON_AVAILABLE]);
	print_stat("guest total", info.stat[BALLOON_TOTAL]);
	fprintf(stderr, "\n");
}
