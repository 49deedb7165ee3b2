#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "dev/chip/mc146818.h"
#include "dev/isa/isa.h"
#include "host/clock.h"
#include "host/timer.h"
#include "mem/iospace.h"

#include <errno.h>
#include <pthread.h>

/* CMOS bytes by the custom of PC firmware. */
#define CMOS_BASE_KIB	   0x15 /* 2 bytes: below 1 MiB */
#define CMOS_EXTENDED_KIB  0x17 /* 2 bytes: from 1 MiB, at most 63 MiB; again at 0x30 */
#define CMOS_EXTENDED2_KIB 0x30
#define CMOS_ABOVE_16M	   0x34 /* 2 bytes: in 64 KiB, from 16 MiB to the hole */
#define CMOS_ABOVE_4G	   0x5b /* 3 bytes: in 64 KiB */

struct rtc {
	pthread_mutex_t lock; /* guards chip, and orders changes of the wire */
	struct mc146818 chip;
	struct rtc_cfg cfg;
	struct timer timer;
};

/* Needs the lock. */
static void update(struct rtc *r, int64_t now)
{
	irq_line_set(&r->cfg.irq, mc146818_irq(&r->chip));
	timer_arm(r->cfg.time.timers, &r->timer, mc146818_next(&r->chip, now));
}

static void on_time(void *arg)
{
	struct rtc *r = arg;

	pthread_mutex_lock(&r->lock);

	int64_t now = vclock_now(r->cfg.time.clock);

	mc146818_run(&r->chip, now);
	update(r, now);
	pthread_mutex_unlock(&r->lock);
}

static uint64_t rtc_read(void *dev, uint64_t off, unsigned size)
{
	struct rtc *r = dev;
	uint8_t val = 0xff;

	if (off == 0) /* the index is write-only */
		return val;
	pthread_mutex_lock(&r->lock);

	int64_t now = vclock_now(r->cfg.time.clock);

	val = mc146818_read(&r->chip, r->chip.index, now);
	if (r->chip.index == 0x0c) /* flags: the pin goes back */
		update(r, now);
	pthread_mutex_unlock(&r->lock);
	return val;
}

static void rtc_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct rtc *r = dev;

	pthread_mutex_lock(&r->lock);
	if (off == 0) {
		/* The top bit masks NMI, which nothing here raises through the board. */
		r->chip.index = val & 0x7f;
	} else {
		int64_t now = vclock_now(r->cfg.time.clock);

		mc146818_write(&r->chip, r->chip.index, (uint8_t)val, now);
		update(r, now);
	}
	pthread_mutex_unlock(&r->lock);
}

static const struct io_ops rtc_io = { .read = rtc_read, .write = rtc_write, .max = 1 };

static void set16(struct rtc *r, unsigned at, uint64_t val)
{
	val = MIN(val, 0xffff);
	r->chip.ram[at] = (uint8_t)val;
	r->chip.ram[at + 1] = (uint8_t)(val >> 8);
}

static void tell_memory(struct rtc *r)
{
	uint64_t low = r->cfg.low_bytes, high = r->cfg.high_bytes / (64 * KiB);

	set16(r, CMOS_BASE_KIB, MIN(low / KiB, 640));
	set16(r, CMOS_EXTENDED_KIB, low > MiB ? MIN((low - MiB) / KiB, 63 * 1024) : 0);
	set16(r, CMOS_EXTENDED2_KIB, low > MiB ? MIN((low - MiB) / KiB, 63 * 1024) : 0);
	set16(r, CMOS_ABOVE_16M, low > 16 * MiB ? (low - 16 * MiB) / (64 * KiB) : 0);
	for (unsigned i = 0; i < 3; i++)
		r->chip.ram[CMOS_ABOVE_4G + i] = (uint8_t)(high >> (8 * i));
}

static void rtc_reset(void *dev)
{
	struct rtc *r = dev;

	pthread_mutex_lock(&r->lock);
	mc146818_reset(&r->chip);
	update(r, vclock_now(r->cfg.time.clock));
	pthread_mutex_unlock(&r->lock);
}

static void rtc_free(void *dev)
{
	struct rtc *r = dev;

	timer_cancel_sync(r->cfg.time.timers, &r->timer);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static const struct dev_ops rtc_ops = { .name = "rtc", .reset = rtc_reset, .free = rtc_free };

int rtc_new(struct dev *out, struct iospace *pio, const struct rtc_cfg *cfg, struct err *err)
{
	AUTO_FREE struct rtc *r = calloc(1, sizeof(*r));

	if (!r)
		return err_set(err, ENOMEM, "rtc");
	r->cfg = *cfg;
	r->timer = (struct timer){ .fn = on_time, .arg = r, .deadline_ns = INT64_MAX };
	mc146818_init(&r->chip, cfg->wall_ns);
	tell_memory(r);

	int ret = iospace_map(pio, cfg->port, 2, &rtc_io, r, err);

	if (ret < 0)
		return err_wrap(err, "rtc at port %#x", cfg->port);
	pthread_mutex_init(&r->lock, NULL);
	*out = (struct dev){ &rtc_ops, move_ptr(&r) };
	return 0;
}
