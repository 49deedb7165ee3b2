/* The SMBIOS tables of the pc board: what firmware tells of the hardware to whoever asks, Linux's
 * DMI among them. DMTF DSP0134 3.0.
 */
#ifndef MACHINE_SMBIOS_H
#define MACHINE_SMBIOS_H

#include "base/bits.h"

struct cpu_model;

/* Build entry points and structures as they stand in memory at SMBIOS_BASE, for one processor
 * package with cpu->n_vcpus cores, and RAM of low_bytes from 0 and high_bytes from 4 GiB. oem:
 * texts for the guest's programs (type 11), at most 255 up to a NULL; NULL: none. Returns how many
 * bytes of buf are used, at most size; 0 if they do not fit.
 */
size_t smbios_build(uint8_t *buf, size_t size, const struct cpu_model *cpu, uint64_t low_bytes,
		    uint64_t high_bytes, const char *const *oem);

#endif
