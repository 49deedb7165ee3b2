#include "dev/virtio/blk.h"

#include "base/err.h"
#include "check.h"
#include "dev/backend/blk.h"
#include "dev/virtio/blk_wire.h"
#include "virtio_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#define RING	 0x10000
#define DATA	 0x800000
#define HEAD	 0x700000
#define STATUS	 0x710000
#define DISK	 (4 * MiB)
#define N_QUEUES 2
#define WANT                                                                                       \
	(BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_MQ) | BIT(VIRTIO_BLK_F_CONFIG_WCE) |           \
	 BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES) | BIT(VIRTIO_BLK_F_RO))

struct rig {
	struct vboard b;
	struct vring r[N_QUEUES];
	struct virtio_blk *disk;
	uint8_t *data, *head, *status;
	uint64_t features;
	char path[40];
	int fd;
	_Atomic int errors;
};

static void on_error(void *arg, struct virtio_blk *disk, int code)
{
	((struct rig *)arg)->errors++;
}

static void rig_up(struct rig *g, bool readonly, bool keep_errors, const struct blk_limits *limits)
{
	struct virtio_blk_cfg cfg = { .serial = "disk-0123",
				      .n_queues = N_QUEUES,
				      .on_error = keep_errors ? on_error : NULL,
				      .arg = g };

	memset(g, 0, sizeof(*g));
	strcpy(g->path, "/tmp/cleave-vblk.XXXXXX");
	g->fd = mkstemp(g->path);
	CHECK(g->fd >= 0);
	CHECK_EQ(ftruncate(g->fd, DISK), 0);
	vboard_up(&g->b, 16 * MiB);
	cfg.at = vboard_place(&g->b);
	CHECK_EQ(evloop_new(&cfg.at.loop, NULL), 0);
	CHECK_EQ(blk_open(&cfg.blk, cfg.at.loop,
			  &(struct blk_open){ .path = g->path, .readonly = readonly }, NULL),
		 0);
	if (limits)
		CHECK_EQ(blk_throttle_new(&cfg.blk, cfg.at.loop, cfg.blk, limits, NULL), 0);
	CHECK_EQ(virtio_blk_new(&g->b.dev, &g->disk, &cfg, NULL), 0);
	g->data = physmap_host(&g->b.pm, DATA, MiB, NULL);
	g->head = physmap_host(&g->b.pm, HEAD, 65536, NULL);
	g->status = physmap_host(&g->b.pm, STATUS, 4096, NULL);
	g->features = vboard_start(&g->b, WANT, g->r, N_QUEUES, RING, 64);
	CHECK(g->features != 0);
}

static void rig_down(struct rig *g)
{
	vboard_down(&g->b);
	close(g->fd);
	unlink(g->path);
}

/* Make a request available whose header is in slot n: data is len bytes at DATA + n * 4096. */
static void begin(struct rig *g, unsigned q, unsigned n, uint32_t type, uint64_t sector,
		  uint32_t len)
{
	struct virtio_blk_header h = { .type = type, .sector = sector };
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	struct vseg seg[3] = { { HEAD + n * 16, sizeof(h) },
			       { DATA + n * 4096, len, in },
			       { STATUS + n, 1, true } };

	memcpy(g->head + n * 16, &h, sizeof(h));
	g->status[n] = 0xff;
	if (!len)
		seg[1] = seg[2];
	vring_add(&g->r[q], seg, len ? 3 : 2);
	vboard_notify(&g->b, q);
}

static uint8_t request(struct rig *g, uint32_t type, uint64_t sector, uint32_t len)
{
	uint16_t id;
	uint32_t used;

	begin(g, 0, 0, type, sector, len);
	CHECK(vboard_wait(&g->r[0], &id, &used));
	return g->status[0];
}

static uint8_t segment(struct rig *g, uint32_t type, uint64_t sector, uint32_t n, uint32_t flags)
{
	struct virtio_blk_segment s = { sector, n, flags };

	memcpy(g->data, &s, sizeof(s));
	return request(g, type, 0, sizeof(s));
}

TEST(what_is_written_is_read_and_on_the_disk)
{
	uint8_t have[1024];
	struct rig g;

	rig_up(&g, false, false, NULL);
	memset(g.data, 0x42, 1024);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_OUT, 7, 1024), VIRTIO_BLK_S_OK);
	CHECK_EQ(pread(g.fd, have, 1024, 7 * 512), 1024);
	CHECK_MEM(have, g.data, 1024);
	memset(g.data, 0, 1024);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_IN, 7, 1024), VIRTIO_BLK_S_OK);
	CHECK_MEM(have, g.data, 1024);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
	CHECK_STR((char *)g.data, "disk-0123");
	CHECK_EQ(segment(&g, VIRTIO_BLK_T_WRITE_ZEROES, 7, 1, VIRTIO_BLK_UNMAP), VIRTIO_BLK_S_OK);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_IN, 7, 1024), VIRTIO_BLK_S_OK);
	CHECK_EQ(g.data[0], 0);
	CHECK_EQ(g.data[512], 0x42);
	CHECK_EQ(segment(&g, VIRTIO_BLK_T_DISCARD, 8, 1, 0), VIRTIO_BLK_S_OK);
	rig_down(&g);
}

TEST(requests_beyond_the_end_fail)
{
	struct rig g;

	rig_up(&g, false, false, NULL);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_IN, DISK / 512, 512), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_OUT, DISK / 512 - 1, 1024), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_IN, UINT64_MAX, 512), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_IN, UINT64_MAX / 512, 512), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_IN, 0, 100), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(segment(&g, VIRTIO_BLK_T_DISCARD, DISK / 512, 1, 0), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(segment(&g, VIRTIO_BLK_T_DISCARD, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(segment(&g, VIRTIO_BLK_T_DISCARD, 0, 1, VIRTIO_BLK_UNMAP), VIRTIO_BLK_S_UNSUPP);
	CHECK_EQ(segment(&g, VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 2), VIRTIO_BLK_S_UNSUPP);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_WRITE_ZEROES, 0, 15), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(&g, 99, 0, 512), VIRTIO_BLK_S_UNSUPP);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	rig_down(&g);
}

TEST(a_read_only_disk_says_so_and_refuses_writes)
{
	struct rig g;

	rig_up(&g, true, false, NULL);
	CHECK(g.features & BIT(VIRTIO_BLK_F_RO));
	CHECK(!(g.features & BIT(VIRTIO_BLK_F_DISCARD)));
	CHECK_EQ(request(&g, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(segment(&g, VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 0), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	rig_down(&g);
}

TEST(a_chain_without_header_breaks_the_device_until_reset)
{
	struct vseg seg = { STATUS, 1, true };
	struct rig g;

	rig_up(&g, false, false, NULL);
	vring_add(&g.r[0], &seg, 1);
	vboard_notify(&g.b, 0);
	for (unsigned i = 0; i < 5000 && !(vboard_status(&g.b) & 0x40); i++)
		vboard_pause();
	CHECK(vboard_status(&g.b) & 0x40);
	CHECK(vboard_start(&g.b, WANT, g.r, N_QUEUES, RING, 64) != 0);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	rig_down(&g);
}

TEST(all_queues_work_at_once)
{
	struct rig g;
	uint16_t id;
	uint32_t len;

	rig_up(&g, false, false, NULL);
	for (unsigned n = 0; n < 20; n++)
		memset(g.data + n * 4096, (int)n + 1, 4096);
	for (unsigned n = 0; n < 20; n++)
		begin(&g, n % 2, n, VIRTIO_BLK_T_OUT, n * 8, 4096);
	for (unsigned n = 0; n < 20; n++)
		CHECK(vboard_wait(&g.r[n % 2], &id, &len));
	for (unsigned n = 0; n < 20; n++) {
		uint8_t byte = 0;

		CHECK_EQ(g.status[n], VIRTIO_BLK_S_OK);
		CHECK_EQ(pread(g.fd, &byte, 1, n * 4096 + 77), 1);
		CHECK_EQ(byte, n + 1);
	}
	CHECK(g.b.msis[1] > 0 && g.b.msis[2] > 0);
	rig_down(&g);
}

TEST(a_reset_waits_for_what_is_under_way)
{
	struct rig g;

	/* One request passes, the others would take minutes. */
	rig_up(&g, false, false, &(struct blk_limits){ .iops = 1, .iops_burst = 1 });
	for (unsigned n = 0; n < 20; n++)
		begin(&g, n % 2, n, VIRTIO_BLK_T_IN, n * 8, 4096);
	CHECK(vboard_reset(&g.b));
	/* Nothing comes after it. */
	memset(g.data, 0x11, 20 * 4096);
	for (unsigned i = 0; i < 50; i++)
		vboard_pause();
	for (unsigned n = 0; n < 20; n++)
		CHECK_EQ(g.data[n * 4096], 0x11);
	rig_down(&g);
}

TEST(the_driver_may_turn_write_back_off)
{
	uint64_t at = VBOARD_CONFIG + offsetof(struct virtio_blk_config, writeback);
	struct rig g;

	rig_up(&g, false, false, NULL);
	CHECK_EQ(vboard_read(&g.b, at, 1), 1);
	vboard_write(&g.b, at, 1, 0);
	CHECK_EQ(vboard_read(&g.b, at, 1), 0);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
	CHECK(vboard_start(&g.b, 0, g.r, N_QUEUES, RING, 64) != 0);
	for (unsigned i = 0; i < 1000 && vboard_read(&g.b, at, 1); i++)
		vboard_pause();
	CHECK_EQ(vboard_read(&g.b, at, 1), 0); /* it cannot flush */
	CHECK_EQ(request(&g, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
	rig_down(&g);
}

TEST(a_failed_request_is_kept_until_it_is_tried_again)
{
	struct rlimit was, low;
	struct rig g;
	uint16_t id;
	uint32_t len;

	signal(SIGXFSZ, SIG_IGN);
	rig_up(&g, false, true, NULL);
	getrlimit(RLIMIT_FSIZE, &was);
	low = (struct rlimit){ MiB, was.rlim_max };
	setrlimit(RLIMIT_FSIZE, &low);
	begin(&g, 0, 0, VIRTIO_BLK_T_OUT, 2 * MiB / 512, 512);
	for (unsigned i = 0; i < 5000 && !g.errors; i++)
		vboard_pause();
	CHECK_EQ(g.errors, 1);
	CHECK(!vring_used(&g.r[0], &id, &len));
	setrlimit(RLIMIT_FSIZE, &was);
	virtio_blk_retry(g.disk);
	CHECK(vboard_wait(&g.r[0], &id, &len));
	CHECK_EQ(g.status[0], VIRTIO_BLK_S_OK);

	/* The end comes with one that is still kept. */
	setrlimit(RLIMIT_FSIZE, &low);
	begin(&g, 0, 0, VIRTIO_BLK_T_OUT, 2 * MiB / 512, 512);
	for (unsigned i = 0; i < 5000 && g.errors < 2; i++)
		vboard_pause();
	setrlimit(RLIMIT_FSIZE, &was);
	CHECK(vboard_reset(&g.b));
	rig_down(&g);
}

TEST(a_disk_grows_while_it_is_used_and_the_driver_is_told)
{
	struct rig g;
	struct err err;
	uint16_t id;
	uint32_t len;

	rig_up(&g, false, false, NULL);
	CHECK_EQ(vboard_read(&g.b, VBOARD_CONFIG, 8), DISK / 512);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_OUT, DISK / 512, 512), VIRTIO_BLK_S_IOERR);

	uint64_t generation = vboard_read(&g.b, VBOARD_COMMON + 21, 1);
	unsigned msis = g.b.msis[0];

	for (unsigned n = 0; n < 16; n++)
		begin(&g, 0, n, VIRTIO_BLK_T_OUT, n * 8, 4096);
	CHECK_EQ(virtio_blk_resize(g.disk, 2 * DISK, &err), 0);
	for (unsigned n = 0; n < 16; n++)
		CHECK(vboard_wait(&g.r[0], &id, &len));
	CHECK_EQ(virtio_blk_bytes(g.disk), 2 * DISK);
	CHECK_EQ(vboard_read(&g.b, VBOARD_CONFIG, 8), 2 * DISK / 512);
	CHECK(vboard_read(&g.b, VBOARD_COMMON + 21, 1) != generation);
	CHECK_EQ(g.b.msis[0], msis + 1);
	CHECK_EQ(request(&g, VIRTIO_BLK_T_OUT, DISK / 512, 512), VIRTIO_BLK_S_OK);

	CHECK_EQ(virtio_blk_resize(g.disk, DISK, &err), -EINVAL);
	CHECK_EQ(virtio_blk_resize(g.disk, 2 * DISK + 1, &err), -EINVAL);
	CHECK_EQ(virtio_blk_bytes(g.disk), 2 * DISK);
	rig_down(&g);
}

TEST(a_disk_with_limits_grows_and_a_read_only_one_does_not)
{
	struct blk_limits slow = { .iops = 10 };
	struct rig g;
	struct err err;

	rig_up(&g, false, false, &slow);
	for (unsigned n = 0; n < 20; n++)
		begin(&g, 0, n, VIRTIO_BLK_T_OUT, n * 8, 4096);
	CHECK_EQ(virtio_blk_resize(g.disk, 2 * DISK, &err), 0);
	rig_down(&g);
	rig_up(&g, true, false, NULL);
	CHECK_EQ(virtio_blk_resize(g.disk, 2 * DISK, &err), -EROFS);
	CHECK_EQ(virtio_blk_bytes(g.disk), DISK);
	rig_down(&g);
}

TESTS(T(what_is_written_is_read_and_on_the_disk), T(requests_beyond_the_end_fail),
      T(a_read_only_disk_says_so_and_refuses_writes),
      T(a_chain_without_header_breaks_the_device_until_reset), T(all_queues_work_at_once),
      T(a_reset_waits_for_what_is_under_way), T(the_driver_may_turn_write_back_off),
      T(a_failed_request_is_kept_until_it_is_tried_again),
      T(a_disk_grows_while_it_is_used_and_the_driver_is_told),
      T(a_disk_with_limits_grows_and_a_read_only_one_does_not))
