/* Where everything is in the pc board's physical address space and port space. */
#ifndef MACHINE_MEMMAP_H
#define MACHINE_MEMMAP_H

#include "base/bits.h"
#include "mem/platform.h"

/* RAM below the hole; the rest of it follows from 4 GiB. Below 1 MiB, as PC firmware leaves it:
 *
 *	00000-00fff  real-mode vectors and BIOS data      70000-9fbff  free
 *	01000-0ffff  boot information, GDT, page tables    9fc00-9ffff  extended BIOS data
 *	10000-2ffff  kernel command line and modules list  a0000-bffff  frame buffer (not decoded)
 *	30000-6ffff  free                                  e0000-effff  ACPI tables
 *	                                                   f0000-fffff  SMBIOS tables
 */
#define LOW_RAM_END   0x0009fc00ull /* what the memory map calls usable */
#define EBDA_BASE     0x0009fc00ull
#define VGA_BASE      0x000a0000ull
#define ACPI_BASE     0x000e0000ull /* RSDP first */
#define ACPI_END      0x000f0000ull
#define SMBIOS_BASE   0x000f0000ull /* guests look for its entry points from here to 1 MiB */
#define SMBIOS_END    0x00100000ull
#define HIGH_RAM_BASE 0x00100000ull

#define BOOT_GDT	 0x00001000ull /* one page each */
#define BOOT_INFO	 0x00002000ull
#define BOOT_INFO_BYTES	 0x00001000ull
#define BOOT_PAGE_TABLES 0x00003000ull /* PML4, PDPT, 4 PDs: maps 0 to 4 GiB */
#define BOOT_STACK	 0x00010000ull /* grows down */
#define BOOT_CMDLINE	 0x00010000ull
#define BOOT_CMDLINE_END 0x00020000ull
#define BOOT_MODULES	 0x00020000ull /* their list and strings */
#define BOOT_MODULES_END 0x00030000ull

#define HOLE_BASE	0xc0000000ull
#define HOLE_END	0x100000000ull
#define PCI_MMIO32_BASE 0xc0000000ull
#define PCI_MMIO32_END	0xe0000000ull
#define ECAM_BASE	0xe0000000ull
#define ECAM_BUSES	256u
#define IOAPIC_BASE	0xfec00000ull
#define MSI_BASE	0xfee00000ull /* device stores to here are interrupts */

/* 64-bit BARs; fits processors with 39 physical address bits. RAM must end below it. */
#define PCI_MMIO64_BASE 0x4000000000ull
#define PCI_MMIO64_END	0x6000000000ull

#define PORT_PIC_MASTER	 0x20
#define PORT_PIC_SLAVE	 0xa0
#define PORT_ELCR	 0x4d0
#define PORT_PIT	 0x40
#define PORT_KBC	 0x60
#define PORT_CONTROL_B	 0x61
#define PORT_RTC	 0x70
#define PORT_POST	 0x80
#define PORT_CONTROL_A	 0x92
#define PORT_DEBUG_EXIT	 0xf4
#define PORT_COM1	 0x3f8
#define PORT_PM		 0x600
#define PORT_PCI_ADDRESS 0xcf8
#define PORT_RESET	 0xcf9

#define IRQ_PIT	 0
#define IRQ_KBD	 1
#define IRQ_COM1 4
#define IRQ_RTC	 8
#define IRQ_SCI	 9
#define IRQ_AUX	 12
#define GSI_PIT	 2  /* IRQ 0 is on the I/O APIC's pin 2 */
#define GSI_INTX 16 /* PCI's four wires */

#endif
