/* The compressed kernel inside a bzImage, unpacked on the host. */
#ifndef MACHINE_BOOT_UNPACK_H
#define MACHINE_BOOT_UNPACK_H

#include "base/bits.h"

/* Unpack data, whose first bytes tell the format (LZ4 legacy frames and XZ, which Debian's kernels
 * have). *out gets out_len bytes that the caller frees. False for another format, for damage, for
 * more or less than out_len bytes, or without memory: then the guest can still unpack it itself.
 */
bool unpack(const uint8_t *data, uint64_t len, uint8_t **out, uint64_t out_len);

#endif
