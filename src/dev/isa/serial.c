#include "base/err.h"
#include "base/own.h"
#include "dev/backend/chr.h"
#include "dev/chip/uart16550.h"
#include "dev/isa/isa.h"
#include "mem/iospace.h"

#include <errno.h>
#include <pthread.h>

/* Carrier, data set ready and clear to send: a cable to a terminal that is switched on. */
#define CABLE 0xb0

struct serial {
	pthread_mutex_t lock; /* guards uart, and orders changes of the wire */
	struct uart16550 uart;
	struct serial_cfg cfg;
};

/* Needs the lock. */
static void update_irq(struct serial *s)
{
	irq_line_set(&s->cfg.irq, uart16550_irq(&s->uart) && uart16550_out2(&s->uart));
}

static uint64_t serial_read(void *dev, uint64_t off, unsigned size)
{
	struct serial *s = dev;

	pthread_mutex_lock(&s->lock);
	uint8_t val = uart16550_read(&s->uart, (unsigned)off);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	if (off == 0)
		chr_accept(s->cfg.chr);
	return val;
}

static void serial_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct serial *s = dev;
	uint8_t out[UART16550_FIFO];
	unsigned n = 0;

	pthread_mutex_lock(&s->lock);
	uart16550_write(&s->uart, (unsigned)off, (uint8_t)val);
	while (n < sizeof(out) && uart16550_tx(&s->uart, &out[n]))
		n++;
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	if (n)
		chr_write(s->cfg.chr, out, n);
	else if (off == 2 || off == 4) /* FIFOs cleared, or loop-back left: there may be room */
		chr_accept(s->cfg.chr);
}

static const struct io_ops serial_io = { .read = serial_read, .write = serial_write, .max = 1 };

static unsigned front_room(void *arg)
{
	struct serial *s = arg;

	pthread_mutex_lock(&s->lock);
	unsigned room = uart16550_rx_room(&s->uart);
	pthread_mutex_unlock(&s->lock);
	return room;
}

static void front_rx(void *arg, const uint8_t *buf, unsigned n)
{
	struct serial *s = arg;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < n; i++)
		uart16550_rx(&s->uart, buf[i]);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

static void front_break(void *arg)
{
	struct serial *s = arg;

	pthread_mutex_lock(&s->lock);
	uart16550_rx_break(&s->uart);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

static void serial_start(void *dev)
{
	struct serial *s = dev;

	chr_start(s->cfg.chr,
		  (struct chr_front){
			  .room = front_room, .rx = front_rx, .rx_break = front_break, .arg = s });
}

static void serial_reset(void *dev)
{
	struct serial *s = dev;

	pthread_mutex_lock(&s->lock);
	uart16550_reset(&s->uart);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

static void serial_free(void *dev)
{
	struct serial *s = dev;

	pthread_mutex_destroy(&s->lock);
	free(s);
}

static const struct dev_ops serial_ops = {
	.name = "serial", .start = serial_start, .reset = serial_reset, .free = serial_free
};

int serial_new(struct dev *out, struct iospace *pio, const struct serial_cfg *cfg, struct err *err)
{
	AUTO_FREE struct serial *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(err, ENOMEM, "serial");
	s->cfg = *cfg;
	s->uart.modem_in = CABLE;
	uart16550_reset(&s->uart);

	int ret = iospace_map(pio, cfg->port, UART16550_REGS, &serial_io, s, err);

	if (ret < 0)
		return err_wrap(err, "serial at port %#x", cfg->port);
	pthread_mutex_init(&s->lock, NULL);
	*out = (struct dev){ &serial_ops, move_ptr(&s) };
	return 0;
}
