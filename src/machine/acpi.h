/* The ACPI tables of the pc board. ACPI 6.5. */
#ifndef MACHINE_ACPI_H
#define MACHINE_ACPI_H

#include "base/bits.h"

/* Build RSDP and tables as they stand in memory at ACPI_BASE (the RSDP first) for n_cpus processors
 * (1 to 64). Returns how many bytes of buf are used, at most size; 0 if they do not fit.
 */
size_t acpi_build(uint8_t *buf, size_t size, unsigned n_cpus);

#endif
