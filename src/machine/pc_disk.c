/* The pc board's disks: each an image and a virtio-blk on an event loop of its own, so that one
 * slow disk holds up no other.
 */
#include "base/err.h"
#include "base/log.h"
#include "dev/virtio/blk.h"
#include "host/evloop.h"
#include "machine/machine_internal.h"

#include <errno.h>

/* The request waits in the disk; the guest must not run on without it. */
static void on_error(void *arg, struct virtio_blk *disk, int code)
{
	struct machine *m = arg;
	const char *path = "?";
	char why[100];

	for (unsigned i = 0; i < m->n_disks; i++)
		if (m->disk[i] == disk)
			path = m->cfg.disk[i].open.path;
	if (machine_pause(m))
		log_say(LOG_ERROR,
			"disk %s: %s: the machine is stopped; mend that, then go on with Ctrl-A c "
			"or SIGCONT",
			path, strerror_r(code, why, sizeof(why)));
}

/* A header may name a backing file on a network. */
static bool may_be_remote(const struct blk_open *how)
{
	return blk_is_nbd(how->path) || how->backing || how->backing_path;
}

static bool has_limits(const struct blk_limits *l)
{
	return l->iops || l->bytes_per_s;
}

static int open_disk(struct blk **blk, struct evloop *loop, const struct disk_config *cfg,
		     struct err *err)
{
	int ret = blk_open(blk, loop, &cfg->open, err);

	if (ret < 0 || !has_limits(&cfg->limits))
		return ret;
	return blk_throttle_new(blk, loop, *blk, &cfg->limits, err);
}

static int add_disk(struct machine *m, const struct disk_config *cfg, struct err *err)
{
	unsigned queues = cfg->n_queues ? cfg->n_queues : MIN(m->set.n, VIRTIO_BLK_MAX_QUEUES);
	struct virtio_blk_cfg disk = { .at = { .bus = m->pci, .pm = &m->pm },
				       .serial = cfg->serial,
				       .n_queues = queues,
				       .on_error = cfg->stop_on_error ? on_error : NULL,
				       .arg = m };
	int ret = evloop_new(&disk.at.loop, err);

	if (ret < 0)
		return ret;
	evloop_set_kind(disk.at.loop, may_be_remote(&cfg->open) ? SANDBOX_DISK_NET : SANDBOX_DISK);
	ret = open_disk(&disk.blk, disk.at.loop, cfg, err);
	if (ret < 0) {
		evloop_free(disk.at.loop);
		return ret;
	}
	ret = pc_add(m, virtio_blk_new(pc_slot(m), &m->disk[m->n_disks], &disk, err));
	if (ret == 0)
		m->n_disks++;
	return ret;
}

int pc_add_disks(struct machine *m, struct err *err)
{
	if (m->cfg.n_disks > MACHINE_MAX_DISKS)
		return err_say(err, EINVAL, "--disk: at most %u disks", MACHINE_MAX_DISKS);
	for (unsigned i = 0; i < m->cfg.n_disks; i++) {
		int ret = add_disk(m, &m->cfg.disk[i], err);

		if (ret < 0)
			return err_wrap(err, "--disk");
	}
	return 0;
}

uint64_t machine_disk_bytes(const struct machine *m, unsigned index)
{
	return index < m->n_disks ? virtio_blk_bytes(m->disk[index]) : 0;
}

int machine_resize_disk(struct machine *m, unsigned index, uint64_t bytes, struct err *err)
{
	if (index >= m->n_disks)
		return err_say(err, ENOENT, "the machine has no such disk");
	return virtio_blk_resize(m->disk[index], bytes, err);
}

void pc_retry_disks(struct machine *m)
{
	for (unsigned i = 0; i < m->n_disks; i++)
		virtio_blk_retry(m->disk[i]);
}
