/* An interrupt message as it travels between I/O APICs, MSI writers and local APICs. */
#ifndef DEV_CHIP_APIC_MSG_H
#define DEV_CHIP_APIC_MSG_H

#include <stdbool.h>
#include <stdint.h>

/* SDM 3A "Local APIC", ICR delivery mode field. */
enum apic_mode {
	APIC_FIXED,
	APIC_LOWEST,
	APIC_SMI,
	APIC_REMRD,
	APIC_NMI,
	APIC_INIT,
	APIC_STARTUP,
	APIC_EXTINT,
};

struct apic_msg {
	uint32_t dest; /* APIC id or logical destination; 8 bits unless x2apic_dest */
	uint8_t vector;
	uint8_t mode;	  /* enum apic_mode */
	bool logical;	  /* dest is logical */
	bool level;	  /* level-triggered: the EOI is broadcast to the I/O APIC */
	bool x2apic_dest; /* dest is 32 bits wide */
};

#endif
