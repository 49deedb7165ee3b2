/* The control queues: the driver and the device tell each other what ports there are and who has
 * them open. What is to be told is kept as bits, so no driver can make it pile up. virtio 1.2,
 * 5.3.6.2.
 */
#include "dev/virtio/console_internal.h"

enum event {
	DEVICE_READY = 0,
	PORT_ADD = 1,
	PORT_READY = 3,
	CONSOLE_PORT = 4,
	PORT_OPEN = 6,
	PORT_NAME = 7,
};

#define CONTROL_BYTES 8 /* le32 id, le16 event, le16 value */

static unsigned make_message(const struct console_port *p, enum port_news news, uint8_t *buf)
{
	static const enum event event[N_NEWS] = { [NEWS_ADD] = PORT_ADD,
						  [NEWS_CONSOLE] = CONSOLE_PORT,
						  [NEWS_NAME] = PORT_NAME,
						  [NEWS_OPEN] = PORT_OPEN };
	size_t len = news == NEWS_NAME ? strlen(p->name) : 0;

	store32(buf, p->id);
	store16(buf + 4, (uint16_t)event[news]);
	store16(buf + 6, 1);
	memcpy(buf + CONTROL_BYTES, p->name, len);
	return CONTROL_BYTES + (unsigned)len;
}

void console_control_rx(struct console *c)
{
	uint8_t buf[CONTROL_BYTES + CONSOLE_NAME_BYTES];

	for (unsigned i = 0; i < c->n_ports; i++) {
		struct console_port *p = &c->port[i];

		while (p->news) {
			enum port_news news = (enum port_news)__builtin_ctz(p->news);
			unsigned len = make_message(p, news, buf);

			if (!vworker_pop_or_ask(&c->w, QUEUE_CONTROL_RX, &c->control))
				return;
			p->news &= p->news - 1;
			len = (unsigned)virtq_write(&c->control, 0, buf, len);
			vworker_push(&c->w, QUEUE_CONTROL_RX, &c->control, len);
		}
	}
}

static void port_ready(struct console_port *p)
{
	if (p->id == 0)
		p->news |= BIT(NEWS_CONSOLE);
	if (p->name[0])
		p->news |= BIT(NEWS_NAME);
	p->news |= BIT(NEWS_OPEN);
}

static void take_message(void *dev, unsigned q, struct virtq_chain *chain)
{
	struct console *c = dev;
	uint8_t buf[CONTROL_BYTES];
	size_t len = virtq_read(chain, 0, buf, sizeof(buf));
	uint32_t id = load32(buf);
	uint16_t value = load16(buf + 6);

	vworker_push(&c->w, q, chain, 0);
	if (len < sizeof(buf))
		return;
	switch (load16(buf + 4)) {
	case DEVICE_READY:
		for (unsigned i = 0; value && i < c->n_ports; i++)
			c->port[i].news |= BIT(NEWS_ADD);
		break;
	case PORT_READY:
		if (id < c->n_ports && value)
			port_ready(&c->port[id]);
		break;
	case PORT_OPEN:
		if (id >= c->n_ports)
			break;
		c->port[id].open = value;
		if (value)
			console_port_opened(&c->port[id]);
		break;
	}
}

void console_control_tx(struct console *c)
{
	vworker_serve(&c->w, QUEUE_CONTROL_TX, &c->control, VIRTIO_CONSOLE_PORTS, take_message);
	console_control_rx(c);
}
