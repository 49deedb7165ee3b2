/* What a machine and its network helper agree on. The helper finds these descriptors open, and gets
 * a struct net_user_cfg over the first as one message, which it answers with a struct helper_reply.
 * After that the socket only shows that the other side lives.
 */
#ifndef DEV_BACKEND_NET_HELPER_H
#define DEV_BACKEND_NET_HELPER_H

#include "base/err.h"
#include "net/ring.h"

#include <stdint.h>

enum helper_fd {
	HELPER_FD_SOCKET = 3, /* SOCK_SEQPACKET */
	HELPER_FD_RINGS,      /* a memfd of struct helper_rings, sealed */
	HELPER_FD_BELL,	      /* eventfd: the machine rings it, the helper reads it */
	HELPER_FD_PEER_BELL,  /* eventfd: the other way */
	HELPER_FD_END,
};

struct helper_rings {
	struct ring_mem to_helper, to_machine;
};

struct helper_reply {
	int32_t code;	   /* 0: ready; or a positive errno, and why */
	uint8_t sandboxed; /* 1: by seccomp, 2: by Landlock as well */
	char msg[ERR_LEN];
};

#endif
