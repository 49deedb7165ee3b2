/* A tap interface of the host: frames with a virtio-net header before them. Linux
 * Documentation/networking/tuntap.rst.
 */
#ifndef HOST_TAP_H
#define HOST_TAP_H

#include <stdbool.h>
#include <stdint.h>

struct err;

/* Attach to interface name (made if it is not there and we may); non-blocking, with a header of 10
 * bytes (struct frame_meta) before each frame. *uso: it takes UDP frames to be cut. Errors: the
 * host's, with what to do about them. Returns the descriptor, which the caller owns, or -errno. */
int tap_open(const char *name, bool *uso, struct err *err);
/* The interface's MTU in bytes; 1500 if the host does not say. */
uint16_t tap_mtu(const char *name);

/* What the kernel may hand us: open checksums, and frames to be cut. What it refuses (USO before
 * Linux 6.2) is left out. Any thread. */
struct tap_offload {
	bool csum, tso4, tso6, uso;
};
void tap_set_offload(int fd, const struct tap_offload *o);

#endif
