/* What a network card's cable ends in on the host: user-mode NAT in a helper process, or a tap
 * interface.
 */
#ifndef DEV_BACKEND_NET_H
#define DEV_BACKEND_NET_H

#include "net/link.h"

#include <stdbool.h>
#include <stdint.h>

struct err;
struct evloop;
struct net;

struct net_ops {
	void (*start)(struct net *n);
	void (*free)(struct net *n);
};

/* Embedded in its kind. Join end with the card's, then net_start. */
struct net {
	const struct net_ops *ops;
	struct link_end end;
};

/* Begin to pass frames: to the peer on the loop's thread. */
void net_start(struct net *n);
/* End, with the loop's work for it. The cable must be parted and the loop still there. NULL is
 * fine.
 */
void net_free(struct net *n);

#define NET_MAX_FORWARDS  32
#define NET_USER_MAX_MTU  65520 /* libslirp's limit is one more than this multiple of 16 */
#define NET_USER_MIN_MTU  1280	/* RFC 8200: what IPv6 needs */
#define NET_HOSTNAME_SIZE 64

/* A port of the host that leads to one of the guest. */
struct net_forward {
	uint32_t host_addr; /* IPv4, host byte order */
	uint16_t host_port, guest_port;
	uint8_t udp;
	uint8_t pad[3];
};

/* Also the message that the helper process gets. */
struct net_user_cfg {
	uint32_t mtu; /* what the guest is told; 0: NET_DEFAULT_MTU */
	uint8_t restricted;
	char hostname[NET_HOSTNAME_SIZE]; /* what DHCP says; empty: nothing */
	uint8_t pad[3];
	uint32_t n_forwards;
	struct net_forward forward[NET_MAX_FORWARDS];
};

/* User-mode networking: libslirp in a process of its own, which is this program started with the
 * one argument NET_HELPER_COMMAND. What main has to do then is net_helper_main. loop is borrowed.
 * Waits up to 10 s for the helper. Errors: the host's, and what the helper says (a port that is in
 * use).
 *
 * When the helper dies the link goes down, which is logged, and the machine goes on.
 */
#define NET_HELPER_COMMAND "net-helper"
int net_user_new(struct net **out, struct evloop *loop, const struct net_user_cfg *cfg,
		 struct err *err);
/* The helper's process, for those who watch it; 0 once it is gone. */
int net_user_helper(const struct net *n);
/* Returns the exit status, when the virtual machine is gone. */
int net_helper_main(void);

/* A tap interface that is there, or may be made, by its name; it need not be up. loop is borrowed.
 */
int net_tap_new(struct net **out, struct evloop *loop, const char *name, struct err *err);

#endif
