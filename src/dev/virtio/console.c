/* The console's data: bytes between a pair of queues and a chr, for each port. Nothing here waits:
 * output that the chr has no room for stays in the guest's buffer until front.drained.
 */
#include "base/err.h"
#include "dev/backend/chr.h"
#include "dev/virtio/console_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define CLASS_SIMPLE_COMMUNICATION 0x078000
#define QUEUE_SIZE		   64
#define CHUNK			   16384
#define TURN_BYTES		   65536 /* a port's output before others get their turn */

#define CONFIG_MAX_PORTS 4 /* le16 cols, le16 rows, le32 max_nr_ports, le32 emerg_wr */
#define CONFIG_BYTES	 12

static unsigned rx_queue(unsigned port)
{
	return port ? QUEUE_RX1 + 2 * (port - 1) : QUEUE_RX0;
}

static unsigned tx_queue(unsigned port)
{
	return rx_queue(port) + 1;
}

/* Bytes that the guest's next buffer takes. Without MULTIPORT nobody opens the one port. */
static unsigned front_room(void *arg)
{
	struct console_port *p = arg;
	struct console *c = p->console;
	unsigned q = rx_queue(p->id);

	if (!c->w.running || (c->multiport && !p->open))
		return 0;
	for (unsigned i = 0; i < QUEUE_SIZE && !p->rx_held; i++) {
		if (!vworker_pop_or_ask(&c->w, q, &p->rx))
			return 0;
		p->rx_held = p->rx.in_bytes;
		if (!p->rx_held)
			vworker_push(&c->w, q, &p->rx, 0);
	}
	return p->rx_held ? (unsigned)MIN(p->rx.in_bytes, CHUNK) : 0;
}

static void front_rx(void *arg, const uint8_t *buf, unsigned n)
{
	struct console_port *p = arg;

	p->rx_held = false;
	vworker_push(&p->console->w, rx_queue(p->id), &p->rx,
		     (uint32_t)virtq_write(&p->rx, 0, buf, n));
}

static void front_drained(void *arg)
{
	struct console_port *p = arg;

	vworker_kick(&p->console->w, tx_queue(p->id));
}

/* Write a piece of the chain that is held; 0 when the chr has no room. */
static size_t send_piece(struct console_port *p)
{
	uint8_t buf[CHUNK];
	size_t n = MIN(chr_room(p->chr), sizeof(buf));

	n = virtq_read(&p->tx, p->tx_done, buf, n);
	chr_write(p->chr, buf, (unsigned)n);
	p->tx_done += n;
	return n;
}

/* Send what the guest has queued; false to wait for the chr, or for the next turn. */
static bool send(struct console_port *p)
{
	struct console *c = p->console;
	unsigned q = tx_queue(p->id);

	for (size_t sent = 0; sent < TURN_BYTES;) {
		size_t n = 0;

		if (!p->tx_held && !vworker_pop(&c->w, q, &p->tx))
			return true;
		if (!p->tx_held)
			p->tx_done = 0;
		p->tx_held = true;
		if (p->tx_done < p->tx.out_bytes) {
			n = send_piece(p);
			if (!n)
				return false;
		}
		if (p->tx_done == p->tx.out_bytes) {
			p->tx_held = false;
			vworker_push(&c->w, q, &p->tx, 0);
		}
		sent += n + 1; /* an empty chain is work too */
	}
	vworker_kick(&c->w, q);
	return false;
}

static void kick_tx(struct console_port *p)
{
	struct virtq *q = &p->console->w.vq[tx_queue(p->id)];

	virtq_disable_kicks(q);
	while (send(p) && virtq_enable_kicks(q))
		virtq_disable_kicks(q);
}

void console_port_opened(struct console_port *p)
{
	chr_accept(p->chr);
}

static void kick(void *dev, unsigned q)
{
	struct console *c = dev;

	if (q == QUEUE_CONTROL_TX) {
		console_control_tx(c);
		return;
	}
	if (q == QUEUE_CONTROL_RX) {
		console_control_rx(c);
		return;
	}

	struct console_port *p = &c->port[q < QUEUE_CONTROL_RX ? 0 : (q - QUEUE_RX1) / 2 + 1];

	if (q % 2)
		kick_tx(p);
	else
		chr_accept(p->chr);
}

static void started(void *dev, uint64_t features)
{
	struct console *c = dev;

	c->multiport = features & BIT(VIRTIO_CONSOLE_F_MULTIPORT);
}

static void stopped(void *dev)
{
	struct console *c = dev;

	for (unsigned i = 0; i < c->n_ports; i++) {
		struct console_port *p = &c->port[i];

		p->open = p->rx_held = p->tx_held = false;
		p->news = 0;
	}
}

static void queue_stopped(void *dev, unsigned q)
{
	struct console *c = dev;

	for (unsigned i = 0; i < c->n_ports; i++) {
		struct console_port *p = &c->port[i];

		if (q == rx_queue(i))
			p->rx_held = false;
		if (q == tx_queue(i))
			p->tx_held = false;
	}
}

/* n_ports never changes, so no lock. */
static void config_read(void *dev, unsigned off, void *buf, unsigned len)
{
	const struct console *c = dev;
	uint8_t config[CONFIG_BYTES] = { 0 };

	store32(config + CONFIG_MAX_PORTS, c->n_ports);
	if (range_fits(off, len, sizeof(config)))
		memcpy(buf, config + off, len);
}

static void console_start(void *dev)
{
	struct console *c = dev;

	for (unsigned i = 0; i < c->n_ports; i++)
		chr_start(c->port[i].chr, (struct chr_front){ .room = front_room,
							      .rx = front_rx,
							      .drained = front_drained,
							      .arg = &c->port[i] });
}

static void console_reset(void *dev)
{
	struct console *c = dev;

	vdev_power_on(c->w.vdev);
}

static void console_free(void *dev)
{
	struct console *c = dev;

	for (unsigned i = 0; i < c->n_ports; i++)
		chr_free(c->port[i].chr);
	vworker_fini(&c->w);
	free(c);
}

static const struct vworker_ops worker_ops = {
	.started = started, .stopped = stopped, .queue_stopped = queue_stopped, .kick = kick
};
static const struct dev_ops console_ops = { .name = "virtio-console",
					    .start = console_start,
					    .reset = console_reset,
					    .free = console_free };

static int make_worker(struct console *c, const struct virtio_place *at, struct err *err)
{
	uint16_t sizes[2 * (VIRTIO_CONSOLE_PORTS + 1)];

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
		sizes[i] = QUEUE_SIZE;
	return vworker_init(&c->w,
			    &(struct vworker_cfg){
				    .id = VIRTIO_ID_CONSOLE,
				    .class_code = CLASS_SIMPLE_COMMUNICATION,
				    .features = BIT(VIRTIO_CONSOLE_F_MULTIPORT),
				    .n_queues = 2 * (c->n_ports + 1),
				    .max_size = sizes,
				    .ops = &worker_ops,
				    .config_read = config_read,
				    .dev = c,
				    .bus = at->bus,
				    .pm = at->pm,
				    .loop = at->loop,
			    },
			    err);
}

int virtio_console_new(struct dev *out, const struct virtio_place *at,
		       const struct virtio_console_cfg *cfg, struct err *err)
{
	struct console *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		return err_set(err, ENOMEM, "virtio-console");
	c->n_ports = cfg->n_ports;
	for (unsigned i = 0; i < c->n_ports; i++) {
		struct console_port *p = &c->port[i];

		p->console = c;
		p->id = i;
		p->chr = cfg->chr[i];
		snprintf(p->name, sizeof(p->name), "%s", cfg->name[i] ? cfg->name[i] : "");
	}
	ret = make_worker(c, at, err);
	if (ret < 0) {
		free(c);
		return err_wrap(err, "virtio-console");
	}
	*out = (struct dev){ &console_ops, c };
	return 0;
}
