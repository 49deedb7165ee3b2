/* The name server that a guest behind user networking sees: an address inside its network stands
 * for the host's real one. Frames are rewritten on their way out and back, so that nobody behind
 * this file needs to know (libslirp would read /etc/resolv.conf each time, which its sandbox
 * forbids).
 */
#ifndef NET_RESOLVER_H
#define NET_RESOLVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct resolver {
	uint8_t seen[4]; /* the address that the guest is told */
	uint8_t real[4]; /* the host's name server; all zero: none, questions are dropped */
	/* The guest's ports from which it asked seen, UDP and TCP: answers to these come from it.
	 */
	uint64_t asked[2][65536 / 64];
};

/* Frames are complete (no open checksum) and hostile; those that are not IPv4 to (from) a name
 * server's port 53 pass as they are.
 *
 * From the guest, in place. False: drop the frame. */
bool resolver_out(struct resolver *r, uint8_t *frame, size_t len);
/* To the guest: returns frame, or copy, which has room for len bytes and got the frame rewritten.
 */
const uint8_t *resolver_back(const struct resolver *r, const uint8_t *frame, size_t len,
			     uint8_t *copy);

/* The first IPv4 name server in a resolv.conf's text. False: none. */
bool resolver_parse(const char *text, uint8_t addr[4]);

#endif
