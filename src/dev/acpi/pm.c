#include "dev/acpi/pm.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "host/clock.h"
#include "host/timer.h"
#include "mem/iospace.h"

#include <errno.h>
#include <pthread.h>

/* PM1 status and enable. */
#define PM1_TMR		0x0001
#define PM1_GBL		0x0020
#define PM1_PWRBTN	0x0100
#define PM1_SLPBTN	0x0200
#define PM1_RTC		0x0400
#define PM1_WAK		0x8000
#define PM1_STATUS_BITS (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC | PM1_WAK)
#define PM1_ENABLE_BITS (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC)

/* PM1 control. */
#define SCI_EN	   0x0001
#define SLP_EN	   0x2000
#define SLP_TYP(v) ((v) >> 10 & 7)

struct pm {
	pthread_mutex_t lock; /* guards all below but cfg, and orders changes of the SCI */
	uint16_t status, enable, control;
	uint8_t gpe_status[PM_GPE_BYTES / 2], gpe_enable[PM_GPE_BYTES / 2];
	uint64_t timer_seen; /* count up to which the top bit's changes were noted */
	struct timer timer;
	struct pm_cfg cfg;
};

static uint64_t timer_count(const struct pm *pm)
{
	return (uint64_t)((unsigned __int128)(uint64_t)vclock_now(pm->cfg.clock) * PM_TIMER_HZ /
			  1000000000);
}

/* TMR_STS is set whenever the counter's top bit (31) changes. Needs the lock. */
static void note_timer(struct pm *pm)
{
	uint64_t count = timer_count(pm);

	if (count >> 31 != pm->timer_seen >> 31)
		pm->status |= PM1_TMR;
	pm->timer_seen = count;
}

/* Needs the lock. */
static void update_sci(struct pm *pm)
{
	bool gpe = false;
	int64_t due = INT64_MAX;

	for (unsigned i = 0; i < PM_GPE_BYTES / 2; i++)
		gpe |= (pm->gpe_status[i] & pm->gpe_enable[i]) != 0;
	irq_line_set(&pm->cfg.sci, gpe || (pm->status & pm->enable & PM1_ENABLE_BITS));
	if ((pm->enable & PM1_TMR) && !(pm->status & PM1_TMR))
		due = (int64_t)((unsigned __int128)((pm->timer_seen >> 31) + 1) * (1ull << 31) *
					1000000000 / PM_TIMER_HZ +
				1);
	timer_arm(pm->cfg.timers, &pm->timer, due);
}

static void on_timer(void *arg)
{
	struct pm *pm = arg;

	pthread_mutex_lock(&pm->lock);
	note_timer(pm);
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

/* One byte, so that accesses of any width and alignment work alike. Needs the lock. */
static uint8_t read_byte(struct pm *pm, unsigned off)
{
	switch (off) {
	case PM_EVENT:
	case PM_EVENT + 1: return (uint8_t)(pm->status >> (off & 1) * 8);
	case PM_EVENT + 2:
	case PM_EVENT + 3: return (uint8_t)(pm->enable >> (off & 1) * 8);
	case PM_CONTROL:
	case PM_CONTROL + 1: return (uint8_t)(pm->control >> (off & 1) * 8);
	case PM_GPE ... PM_GPE + PM_GPE_BYTES / 2 - 1: return pm->gpe_status[off - PM_GPE];
	case PM_GPE + PM_GPE_BYTES / 2 ... PM_GPE + PM_GPE_BYTES - 1:
		return pm->gpe_enable[off - PM_GPE - PM_GPE_BYTES / 2];
	default: return 0;
	}
}

static uint64_t pm_read(void *dev, uint64_t off, unsigned size)
{
	struct pm *pm = dev;
	uint64_t val = 0;

	pthread_mutex_lock(&pm->lock);
	if (off >= PM_TIMER && off < PM_TIMER + 4) {
		val = (timer_count(pm) & 0xffffffff) >> (off - PM_TIMER) * 8;
	} else {
		note_timer(pm);
		for (unsigned i = 0; i < size; i++)
			val |= (uint64_t)read_byte(pm, (unsigned)off + i) << (i * 8);
	}
	pthread_mutex_unlock(&pm->lock);
	return val;
}

/* Needs the lock. */
static void write_byte(struct pm *pm, unsigned off, uint8_t val)
{
	unsigned shift = (off & 1) * 8;
	uint16_t keep = (uint16_t) ~(0xff << shift);

	switch (off) {
	case PM_EVENT:
	case PM_EVENT + 1: pm->status &= (uint16_t) ~(val << shift); break;
	case PM_EVENT + 2:
	case PM_EVENT + 3:
		pm->enable = ((pm->enable & keep) | (uint16_t)(val << shift)) & PM1_ENABLE_BITS;
		break;
	case PM_CONTROL:
	case PM_CONTROL + 1:
		/* There is no SMI to switch ACPI off with: SCI_EN stays. */
		pm->control =
			(uint16_t)(((pm->control & keep) | (uint16_t)(val << shift)) | SCI_EN);
		break;
	case PM_GPE ... PM_GPE + PM_GPE_BYTES / 2 - 1:
		pm->gpe_status[off - PM_GPE] &= (uint8_t)~val;
		break;
	case PM_GPE + PM_GPE_BYTES / 2 ... PM_GPE + PM_GPE_BYTES - 1:
		pm->gpe_enable[off - PM_GPE - PM_GPE_BYTES / 2] = val;
		break;
	default: break;
	}
}

static void pm_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct pm *pm = dev;
	bool off_asked;

	pthread_mutex_lock(&pm->lock);
	note_timer(pm);
	for (unsigned i = 0; i < size; i++)
		write_byte(pm, (unsigned)off + i, (uint8_t)(val >> (i * 8)));
	/* SLP_EN is write-only: it starts the transition that SLP_TYP names. */
	off_asked = (pm->control & SLP_EN) && SLP_TYP(pm->control) == PM_SLEEP_TYPE_OFF;
	pm->control &= (uint16_t)~SLP_EN;
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
	if (off_asked)
		pm->cfg.power_off(pm->cfg.arg);
}

static const struct io_ops pm_io = { .read = pm_read, .write = pm_write, .max = 4 };

void pm_power_button(struct pm *pm)
{
	pthread_mutex_lock(&pm->lock);
	pm->status |= PM1_PWRBTN;
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

static void pm_reset(void *dev)
{
	struct pm *pm = dev;

	pthread_mutex_lock(&pm->lock);
	pm->status = pm->enable = 0;
	pm->control = SCI_EN;
	memset(pm->gpe_status, 0, sizeof(pm->gpe_status));
	memset(pm->gpe_enable, 0, sizeof(pm->gpe_enable));
	pm->timer_seen = timer_count(pm);
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

static void pm_free(void *dev)
{
	struct pm *pm = dev;

	timer_cancel_sync(pm->cfg.timers, &pm->timer);
	pthread_mutex_destroy(&pm->lock);
	free(pm);
}

static const struct dev_ops pm_ops = { .name = "acpi-pm", .reset = pm_reset, .free = pm_free };

int pm_new(struct dev *out, struct pm **pm, struct iospace *pio, const struct pm_cfg *cfg,
	   struct err *err)
{
	AUTO_FREE struct pm *p = calloc(1, sizeof(*p));

	if (!p)
		return err_set(err, ENOMEM, "ACPI");
	p->cfg = *cfg;
	p->timer = (struct timer){ .fn = on_timer, .arg = p, .deadline_ns = INT64_MAX };
	p->control = SCI_EN;

	int ret = iospace_map(pio, cfg->port, PM_PORTS, &pm_io, p, err);

	if (ret < 0)
		return err_wrap(err, "ACPI at port %#x", cfg->port);
	pthread_mutex_init(&p->lock, NULL);
	*pm = p;
	*out = (struct dev){ &pm_ops, move_ptr(&p) };
	return 0;
}
