/* ACPI's fixed hardware: PM1 events and control, the PM timer, general-purpose events, the SCI.
 * ACPI 6.5 section "ACPI Hardware Specification".
 */
#ifndef DEV_ACPI_PM_H
#define DEV_ACPI_PM_H

#include "dev/dev.h"
#include "mem/irq_line.h"

#include <stdbool.h>
#include <stdint.h>

struct err;
struct iospace;
struct pm;
struct timer_queue;
struct vclock;

/* Offsets from the base port; the FADT tells them. */
#define PM_EVENT     0x00 /* 4 bytes: status, enable */
#define PM_CONTROL   0x04 /* 2 bytes */
#define PM_TIMER     0x08 /* 4 bytes */
#define PM_GPE	     0x20 /* 16 bytes: 8 status, 8 enable */
#define PM_PORTS     0x30
#define PM_GPE_BYTES 16
#define PM_TIMER_HZ  3579545

/* The sleep type that \_S5 in the DSDT gives for "off". */
#define PM_SLEEP_TYPE_OFF 5

struct pm_cfg {
	uint16_t port;
	struct irq_line sci;
	const struct vclock *clock;   /* borrowed */
	struct timer_queue *timers;   /* borrowed */
	void (*power_off)(void *arg); /* on a vCPU's thread, no lock held */
	void *arg;
};

/* *pm is for pm_power_button, and lives as long as the device. */
int pm_new(struct dev *out, struct pm **pm, struct iospace *pio, const struct pm_cfg *cfg,
	   struct err *err);

/* Press the fixed power button. Any thread. */
void pm_power_button(struct pm *pm);

#endif
