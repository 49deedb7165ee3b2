#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "base/trace.h"
#include "dev/chip/i8254.h"
#include "dev/isa/isa.h"
#include "host/clock.h"
#include "host/timer.h"
#include "mem/iospace.h"

#include <errno.h>
#include <pthread.h>

/* The control port. IBM PC/AT Technical Reference, "Port B". */
#define CONTROL_GATE2	0x01
#define CONTROL_SPEAKER 0x02
#define CONTROL_REFRESH 0x10 /* toggles with each refresh of the RAM, every 15.085 us */
#define CONTROL_OUT2	0x20
#define REFRESH_NS	15085

struct pit {
	pthread_mutex_t lock; /* guards chip and control, and orders changes of the wire */
	struct i8254 chip;
	uint8_t control;
	struct pit_cfg cfg;
	struct timer timer; /* the next rise of OUT0 */
};

/* Wait for the next rise of OUT0. Needs the lock. */
static void arm(struct pit *p, int64_t now)
{
	timer_arm(p->cfg.time.timers, &p->timer, i8254_next_rise(&p->chip, 0, now));
}

/* OUT0 has risen. In mode 2 it is low for one tick only, too short to be seen by anybody but the
 * edge detector behind it: make the edge and keep it high until the next.
 */
static void on_rise(void *arg)
{
	struct pit *p = arg;

	pthread_mutex_lock(&p->lock);
	if (trace_on(TRACE_TIMER))
		trace_print(TRACE_TIMER, "pit counter 0");
	irq_line_set(&p->cfg.irq, false);
	irq_line_set(&p->cfg.irq, true);
	arm(p, vclock_now(p->cfg.time.clock));
	pthread_mutex_unlock(&p->lock);
}

static uint64_t pit_read(void *dev, uint64_t off, unsigned size)
{
	struct pit *p = dev;

	pthread_mutex_lock(&p->lock);
	uint8_t val = i8254_read(&p->chip, (unsigned)off, vclock_now(p->cfg.time.clock));
	pthread_mutex_unlock(&p->lock);
	return val;
}

static void pit_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct pit *p = dev;

	pthread_mutex_lock(&p->lock);

	int64_t now = vclock_now(p->cfg.time.clock);

	i8254_write(&p->chip, (unsigned)off, (uint8_t)val, now);
	if (off == 0 || off == 3) {
		irq_line_set(&p->cfg.irq, i8254_out(&p->chip, 0, now));
		arm(p, now);
	}
	pthread_mutex_unlock(&p->lock);
}

static const struct io_ops pit_io = { .read = pit_read, .write = pit_write, .max = 1 };

static uint64_t control_read(void *dev, uint64_t off, unsigned size)
{
	struct pit *p = dev;

	pthread_mutex_lock(&p->lock);

	int64_t now = vclock_now(p->cfg.time.clock);
	uint8_t val = p->control;

	if (now / REFRESH_NS % 2)
		val |= CONTROL_REFRESH;
	if (i8254_out(&p->chip, 2, now))
		val |= CONTROL_OUT2;
	pthread_mutex_unlock(&p->lock);
	return val;
}

static void control_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct pit *p = dev;

	pthread_mutex_lock(&p->lock);
	p->control = val & 0x0f;
	i8254_set_gate(&p->chip, 2, val & CONTROL_GATE2, vclock_now(p->cfg.time.clock));
	pthread_mutex_unlock(&p->lock);
}

static const struct io_ops control_io = { .read = control_read, .write = control_write, .max = 1 };

static void pit_reset(void *dev)
{
	struct pit *p = dev;

	timer_cancel_sync(p->cfg.time.timers, &p->timer);
	pthread_mutex_lock(&p->lock);
	i8254_reset(&p->chip);
	p->control = 0;
	irq_line_set(&p->cfg.irq, false);
	pthread_mutex_unlock(&p->lock);
}

static void pit_free(void *dev)
{
	struct pit *p = dev;

	timer_cancel_sync(p->cfg.time.timers, &p->timer);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static const struct dev_ops pit_ops = { .name = "pit", .reset = pit_reset, .free = pit_free };

int pit_new(struct dev *out, struct iospace *pio, const struct pit_cfg *cfg, struct err *err)
{
	AUTO_FREE struct pit *p = calloc(1, sizeof(*p));

	if (!p)
		return err_set(err, ENOMEM, "pit");
	p->cfg = *cfg;
	p->timer = (struct timer){ .fn = on_rise, .arg = p, .deadline_ns = INT64_MAX };
	i8254_reset(&p->chip);
	if (iospace_map(pio, cfg->port, 4, &pit_io, p, err) < 0 ||
	    iospace_map(pio, cfg->control_port, 1, &control_io, p, err) < 0)
		return err_wrap(err, "pit");
	pthread_mutex_init(&p->lock, NULL);
	*out = (struct dev){ &pit_ops, move_ptr(&p) };
	return 0;
}
