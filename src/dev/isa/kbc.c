#include "base/err.h"
#include "base/own.h"
#include "dev/chip/i8042.h"
#include "dev/isa/isa.h"
#include "mem/iospace.h"

#include <errno.h>
#include <pthread.h>

/* System control port A. IBM PS/2 Hardware Interface Technical Reference. */
#define CONTROL_RESET 0x01
#define CONTROL_A20   0x02

struct kbc {
	pthread_mutex_t lock; /* guards chip and control, and orders changes of the wires */
	struct i8042 chip;
	uint8_t control;
	bool a20; /* as the board was told last */
	struct kbc_cfg cfg;
};

/* What an access asked of the board, done once the lock is dropped. */
struct wish {
	bool reset, a20_changed, a20;
};

/* An 8042 drops its line when the byte is read, also if the next one is there already: the PIC
 * needs the edge. Needs the lock.
 */
static void update_irqs(struct kbc *k, bool new_byte)
{
	if (new_byte) {
		irq_line_set(&k->cfg.irq_kbd, false);
		irq_line_set(&k->cfg.irq_aux, false);
	}
	irq_line_set(&k->cfg.irq_kbd, i8042_irq_kbd(&k->chip));
	irq_line_set(&k->cfg.irq_aux, i8042_irq_aux(&k->chip));
}

/* Needs the lock. Either source may hold the gate open. */
static struct wish wishes(struct kbc *k)
{
	bool a20 = i8042_a20(&k->chip) || (k->control & CONTROL_A20);
	struct wish w = { .reset = k->chip.reset_asked, .a20_changed = a20 != k->a20, .a20 = a20 };

	k->chip.reset_asked = false;
	k->a20 = a20;
	return w;
}

static void grant(struct kbc *k, struct wish w)
{
	if (w.a20_changed)
		k->cfg.set_a20(k->cfg.arg, w.a20);
	if (w.reset)
		k->cfg.reset(k->cfg.arg);
}

static uint64_t read_reg(struct kbc *k, unsigned reg)
{
	pthread_mutex_lock(&k->lock);
	uint8_t val = i8042_read(&k->chip, reg);
	if (reg == 0)
		update_irqs(k, true);
	pthread_mutex_unlock(&k->lock);
	return val;
}

static void write_reg(struct kbc *k, unsigned reg, uint8_t val)
{
	pthread_mutex_lock(&k->lock);
	i8042_write(&k->chip, reg, val);
	update_irqs(k, false);
	struct wish w = wishes(k);
	pthread_mutex_unlock(&k->lock);
	grant(k, w);
}

static uint64_t data_read(void *dev, uint64_t off, unsigned size)
{
	return read_reg(dev, 0);
}

static void data_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	write_reg(dev, 0, (uint8_t)val);
}

static uint64_t command_read(void *dev, uint64_t off, unsigned size)
{
	return read_reg(dev, 1);
}

static void command_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	write_reg(dev, 1, (uint8_t)val);
}

static uint64_t control_read(void *dev, uint64_t off, unsigned size)
{
	struct kbc *k = dev;

	pthread_mutex_lock(&k->lock);
	uint8_t val = k->control;
	pthread_mutex_unlock(&k->lock);
	return val;
}

static void control_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct kbc *k = dev;

	pthread_mutex_lock(&k->lock);
	bool reset = val & ~(uint64_t)k->control & CONTROL_RESET;
	k->control = val & (CONTROL_RESET | CONTROL_A20);
	/* A guest that shuts the gate here means the gate, not one of its two sources. */
	if (!(val & CONTROL_A20))
		k->chip.outport &= (uint8_t)~CONTROL_A20;
	struct wish w = wishes(k);
	pthread_mutex_unlock(&k->lock);
	w.reset |= reset;
	grant(k, w);
}

static const struct io_ops data_io = { .read = data_read, .write = data_write, .max = 1 };
static const struct io_ops command_io = { .read = command_read, .write = command_write, .max = 1 };
static const struct io_ops control_io = { .read = control_read, .write = control_write, .max = 1 };

static void kbc_reset(void *dev)
{
	struct kbc *k = dev;

	pthread_mutex_lock(&k->lock);
	i8042_reset(&k->chip);
	k->control = CONTROL_A20;
	update_irqs(k, true);
	struct wish w = wishes(k);
	pthread_mutex_unlock(&k->lock);
	grant(k, w);
}

static void kbc_free(void *dev)
{
	struct kbc *k = dev;

	pthread_mutex_destroy(&k->lock);
	free(k);
}

static const struct dev_ops kbc_ops = { .name = "kbc", .reset = kbc_reset, .free = kbc_free };

int kbc_new(struct dev *out, struct iospace *pio, const struct kbc_cfg *cfg, struct err *err)
{
	AUTO_FREE struct kbc *k = calloc(1, sizeof(*k));

	if (!k)
		return err_set(err, ENOMEM, "kbc");
	k->cfg = *cfg;
	k->control = CONTROL_A20;
	k->a20 = true;
	i8042_reset(&k->chip);
	if (iospace_map(pio, cfg->data_port, 1, &data_io, k, err) < 0 ||
	    iospace_map(pio, cfg->data_port + 4u, 1, &command_io, k, err) < 0 ||
	    iospace_map(pio, cfg->control_port, 1, &control_io, k, err) < 0)
		return err_wrap(err, "keyboard controller");
	pthread_mutex_init(&k->lock, NULL);
	*out = (struct dev){ &kbc_ops, move_ptr(&k) };
	return 0;
}
