/* A console's ports, and the conversation about them. */
#ifndef DEV_VIRTIO_CONSOLE_INTERNAL_H
#define DEV_VIRTIO_CONSOLE_INTERNAL_H

#include "dev/virtio/virtio.h"
#include "dev/virtio/vworker.h"

#define VIRTIO_CONSOLE_F_MULTIPORT 1

#define CONSOLE_NAME_BYTES 64

enum console_queue { QUEUE_RX0, QUEUE_TX0, QUEUE_CONTROL_RX, QUEUE_CONTROL_TX, QUEUE_RX1 };

/* What the driver has yet to be told of a port, in this order. */
enum port_news { NEWS_ADD, NEWS_CONSOLE, NEWS_NAME, NEWS_OPEN, N_NEWS };

struct console_port {
	struct console *console;
	unsigned id;
	struct chr *chr; /* owned */
	char name[CONSOLE_NAME_BYTES];
	bool open;     /* the guest reads it */
	unsigned news; /* a bit each */
	bool rx_held, tx_held;
	size_t tx_done; /* bytes of tx that are written */
	struct virtq_chain rx, tx;
};

/* All but w's own is the loop's thread's. */
struct console {
	struct vworker w;
	bool multiport;
	unsigned n_ports;
	struct console_port port[VIRTIO_CONSOLE_PORTS];
	struct virtq_chain control;
};

/* console_control.c: take the driver's messages; tell it the news, as far as it has buffers. */
void console_control_tx(struct console *c);
void console_control_rx(struct console *c);
/* console.c: port p began to be read. */
void console_port_opened(struct console_port *p);

#endif
