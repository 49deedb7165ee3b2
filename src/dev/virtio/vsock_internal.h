/* Connections of a vsock device.
 *
 * vsock.c speaks with the driver, vsock_conn.c with the host's sockets. All of it runs on the
 * device's loop, whose one watch is an epoll instance with all the sockets in it, edge-triggered:
 * what epoll has told is kept in readable and writable until the socket says EAGAIN.
 */
#ifndef DEV_VIRTIO_VSOCK_INTERNAL_H
#define DEV_VIRTIO_VSOCK_INTERNAL_H

#include "dev/virtio/virtio.h"
#include "dev/virtio/vworker.h"

#include <sys/socket.h>
#include <sys/un.h>

#define VSOCK_HOST_CID	 2
#define VSOCK_BUF_BYTES	 65536 /* what a connection takes from the guest before its reader does */
#define VSOCK_MAX_CONNS	 1024
#define VSOCK_BUCKETS	 256
#define VSOCK_MAX_RESETS 256

enum vsock_op {
	VSOCK_OP_REQUEST = 1,
	VSOCK_OP_RESPONSE = 2,
	VSOCK_OP_RST = 3,
	VSOCK_OP_SHUTDOWN = 4,
	VSOCK_OP_RW = 5,
	VSOCK_OP_CREDIT_UPDATE = 6,
	VSOCK_OP_CREDIT_REQUEST = 7,
};

#define VSOCK_SHUTDOWN_RECEIVE 1
#define VSOCK_SHUTDOWN_SEND    2
#define VSOCK_SHUTDOWN_BOTH    3

/* What the guest has yet to be told of a connection, besides data. */
#define NEWS_REQUEST  1u
#define NEWS_RESPONSE 2u
#define NEWS_CREDIT   4u
#define NEWS_SHUTDOWN 8u
#define NEWS_RST      16u

enum conn_state {
	CONN_GREETS, /* a client of our socket has yet to say CONNECT; the guest knows nothing */
	CONN_ASKED,  /* the guest has yet to answer */
	CONN_OPEN,
	CONN_ENDS, /* the socket is closed; only a reset is to be sent */
	CONN_DEAD, /* unlinked; freed by vsock_reap */
};

struct vsock_conn {
	struct vsock *v;
	enum conn_state state;
	int fd; /* owned; -1 once closed */
	uint32_t host_port, guest_port;
	struct vsock_conn *next_in_bucket;
	struct vsock_conn *prev, *next; /* of all, or of the dead ones (next) */
	struct vsock_conn *next_in_queue;
	bool queued;
	unsigned news;
	bool readable, writable; /* as epoll said */
	bool hung_up, eof;	 /* the socket's other end has closed; all was read */
	uint32_t guest_shut;	 /* VSOCK_SHUTDOWN_* that the guest sent */

	/* Credit, virtio 1.2, 5.10.6.3; all modulo 2^32. */
	uint32_t received, forwarded, told;	   /* from the guest; forwarded as last told */
	uint32_t sent, peer_alloc, peer_forwarded; /* to the guest */

	uint32_t out_head, out_n;
	uint8_t *out; /* VSOCK_BUF_BYTES, from when it is first needed; owned */
};

struct vsock_reset {
	uint32_t host_port, guest_port;
};

struct vsock {
	struct vworker w;
	struct evloop *loop; /* owned */
	uint32_t cid;
	struct sockaddr_un path;
	char name[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* path's, in its folder */
	int folder;						/* of path: owned */
	int listen_fd, epoll_fd;				/* owned */
	struct ev_watch watch;

	struct vsock_conn *bucket[VSOCK_BUCKETS];
	struct vsock_conn *first, *dead;
	struct vsock_conn *queue, *queue_tail; /* who has something for the guest */
	unsigned n_conns;
	uint32_t last_port;
	struct vsock_reset reset[VSOCK_MAX_RESETS]; /* for connections that are not there */
	unsigned n_resets;
	struct virtq_chain rx, tx;
};

/* vsock_conn.c */
int vsock_listen(struct vsock *v, struct err *err);
void vsock_close_all(struct vsock *v);
void vsock_fini_conns(struct vsock *v);
void vsock_reap(struct vsock *v);
struct vsock_conn *vsock_find(struct vsock *v, uint32_t host_port, uint32_t guest_port);
/* Connect to the Unix socket of host_port for the guest; NULL if nobody listens. */
struct vsock_conn *vsock_connect(struct vsock *v, uint32_t host_port, uint32_t guest_port);
/* The guest has accepted. */
void vsock_conn_accepted(struct vsock_conn *c);
/* Take n bytes of the guest's chain from off on; false if it sends more than it may. */
bool vsock_conn_take(struct vsock_conn *c, const struct virtq_chain *chain, size_t off, uint32_t n);
void vsock_conn_shut(struct vsock_conn *c, uint32_t flags);
/* Close the socket and have the guest told so. */
void vsock_conn_abort(struct vsock_conn *c);
void vsock_conn_free(struct vsock_conn *c);
/* Read at most what the guest may get into its chain, behind len bytes; the bytes, 0 if none are
 * there (or that was all: then there is news). */
uint32_t vsock_conn_fill(struct vsock_conn *c, const struct virtq_chain *chain, size_t len);
/* Whether there is something for the guest, and put it into the queue if so. */
bool vsock_conn_has_news(const struct vsock_conn *c);
void vsock_conn_queue(struct vsock_conn *c);

/* vsock.c: hand the guest what is queued. */
void vsock_pump(struct vsock *v);

#endif
