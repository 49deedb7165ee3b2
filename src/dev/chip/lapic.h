/* A local APIC: xAPIC and x2APIC. SDM 3A chapter "Advanced Programmable Interrupt Controller".
 *
 * Registers and priorities only. What leaves the chip (IPIs, EOI broadcasts, a changed timer) is
 * handed to the caller in struct lapic_out; interrupts come in by lapic_accept(). Times are guest
 * nanoseconds; the deadline MSR is in guest TSC ticks and the caller watches the TSC.
 */
#ifndef DEV_CHIP_LAPIC_H
#define DEV_CHIP_LAPIC_H

#include "dev/chip/apic_msg.h"

struct lapic_state;

/* Register numbers: the MMIO offset divided by 16, or the MSR minus 0x800. */
enum {
	LAPIC_ID = 0x02,
	LAPIC_VERSION = 0x03,
	LAPIC_TPR = 0x08,
	LAPIC_APR = 0x09,
	LAPIC_PPR = 0x0a,
	LAPIC_EOI = 0x0b,
	LAPIC_RRD = 0x0c,
	LAPIC_LDR = 0x0d,
	LAPIC_DFR = 0x0e,
	LAPIC_SVR = 0x0f,
	LAPIC_ISR = 0x10,
	LAPIC_TMR = 0x18,
	LAPIC_IRR = 0x20,
	LAPIC_ESR = 0x28,
	LAPIC_LVT_CMCI = 0x2f,
	LAPIC_ICR = 0x30,
	LAPIC_ICR2 = 0x31,
	LAPIC_LVT_TIMER = 0x32,
	LAPIC_LVT_THERMAL = 0x33,
	LAPIC_LVT_PERF = 0x34,
	LAPIC_LVT_LINT0 = 0x35,
	LAPIC_LVT_LINT1 = 0x36,
	LAPIC_LVT_ERROR = 0x37,
	LAPIC_ICOUNT = 0x38,
	LAPIC_CCOUNT = 0x39,
	LAPIC_DIVIDE = 0x3e,
	LAPIC_SELF_IPI = 0x3f,
};

#define APIC_BASE_BSP	 (1u << 8)
#define APIC_BASE_X2APIC (1u << 10)
#define APIC_BASE_ENABLE (1u << 11)

#define LVT_MASKED	     (1u << 16)
#define LVT_LEVEL	     (1u << 15)
#define LVT_REMOTE_IRR	     (1u << 14)
#define LVT_MODE(lvt)	     ((lvt) >> 8 & 7)
#define LVT_TIMER_MODE(lvt)  ((lvt) >> 17 & 3)
#define SVR_ENABLE	     (1u << 8)
#define SVR_NO_EOI_BROADCAST (1u << 12)
#define ESR_SEND_ILLEGAL     (1u << 5)
#define ESR_RECEIVE_ILLEGAL  (1u << 6)
#define ESR_REGISTER	     (1u << 7)

enum lapic_timer_mode { LAPIC_ONESHOT, LAPIC_PERIODIC, LAPIC_TSC_DEADLINE };

struct lapic {
	uint32_t id;   /* 8 bits wide as an xAPIC, all 32 as an x2APIC */
	uint64_t base; /* IA32_APIC_BASE */
	unsigned phys_bits, tick_ns;
	uint32_t tpr, ldr, dfr, svr;
	uint32_t isr[8], irr[8], tmr[8];
	uint32_t esr, esr_new; /* what a read shows, what the next write to ESR latches */
	uint64_t icr;
	uint32_t lvt_timer, lvt_thermal, lvt_perf, lvt_lint0, lvt_lint1, lvt_error;
	uint32_t icount, divide;
	int64_t timer_start_ns; /* when icount was written */
	uint64_t tsc_deadline;	/* guest TSC; 0 is disarmed */
};

/* What an access sends out. */
struct lapic_out {
	bool ipi;	   /* send msg by shorthand */
	bool eoi;	   /* tell the I/O APICs that eoi_vector, level-triggered, is done */
	bool timer;	   /* look at lapic_timer_next again */
	uint8_t shorthand; /* 0 dest, 1 self, 2 all, 3 all but self */
	uint8_t eoi_vector;
	struct apic_msg msg;
};

/* Power-on values. id: 0-based APIC id; bsp: the boot processor. phys_bits: 36 to 52. tick_ns:
 * between two ticks of the timer's input. */
void lapic_reset(struct lapic *l, uint32_t id, bool bsp, unsigned phys_bits, unsigned tick_ns);
/* As an INIT IPI leaves it: all but the id and the base register. */
void lapic_init(struct lapic *l);

/* 32-bit register reg at MMIO offset reg * 16. Reserved registers set ESR; what cannot be read
 * reads 0. now: guest ns. *out is filled whole.
 */
uint32_t lapic_read(struct lapic *l, unsigned reg, int64_t now);
void lapic_write(struct lapic *l, unsigned reg, uint32_t val, int64_t now, struct lapic_out *out);

/* MSR 0x800 + reg in x2APIC mode; false is #GP. */
bool lapic_read_x2(struct lapic *l, unsigned reg, int64_t now, uint64_t *val);
bool lapic_write_x2(struct lapic *l, unsigned reg, uint64_t val, int64_t now,
		    struct lapic_out *out);

/* Write IA32_APIC_BASE; false is #GP (reserved bits, or a change of mode that is not allowed). */
bool lapic_write_base(struct lapic *l, uint64_t val, struct lapic_out *out);
static inline bool lapic_is_x2(const struct lapic *l)
{
	return (l->base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) ==
	       (APIC_BASE_ENABLE | APIC_BASE_X2APIC);
}
static inline bool lapic_is_xapic(const struct lapic *l)
{
	return (l->base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) == APIC_BASE_ENABLE;
}
/* Enabled by the base register and the spurious vector register. */
static inline bool lapic_is_on(const struct lapic *l)
{
	return (l->base & APIC_BASE_ENABLE) && (l->svr & SVR_ENABLE);
}

/* IA32_TSC_DEADLINE; ignored unless the timer is in that mode. */
void lapic_write_deadline(struct lapic *l, uint64_t tsc, struct lapic_out *out);

/* Take a fixed or lowest-priority interrupt. Vectors below 16 only set ESR. True if the chip took
 * it (it is on).
 */
bool lapic_accept(struct lapic *l, uint8_t vector, bool level);

/* Is the message for this chip? Shorthands are the caller's. */
bool lapic_matches(const struct lapic *l, const struct apic_msg *m);
/* Processor priority, bits 7-0; lowest-priority arbitration takes the smallest. */
uint8_t lapic_ppr(const struct lapic *l);

/* Vector that may be delivered now, or -1. ack also moves it from IRR to ISR. */
int lapic_pending(const struct lapic *l);
int lapic_ack(struct lapic *l);

/* Does an interrupt wait, whether it may be delivered now or not? */
bool lapic_waits(const struct lapic *l);
/* May the interrupt in service be ended without anybody being told: nothing waits for that, neither
 * an interrupt nor an I/O APIC? */
bool lapic_ends_quietly(const struct lapic *l);
/* End the interrupt in service, as a write to EOI. */
void lapic_eoi(struct lapic *l, struct lapic_out *out);

/* The timer. next: guest ns when it expires next after now, INT64_MAX for never or for
 * TSC-deadline mode. expire: it did (in deadline mode: the TSC reached the deadline); true if it
 * made an interrupt pending.
 */
int64_t lapic_timer_next(const struct lapic *l, int64_t now);
bool lapic_timer_expire(struct lapic *l);

/* Hand the chip's state over, and take it back later: nothing may happen to the chip between but to
 * its base register, which stays here, as the error registers do. now: guest ns. */
void lapic_save(struct lapic *l, int64_t now, struct lapic_state *s);
void lapic_load(struct lapic *l, int64_t now, const struct lapic_state *s);

/* Does LINT0 pass an 8259's interrupt (ExtINT) to the processor? A chip that is off in the base
 * register lets it through as if it were not there.
 */
bool lapic_passes_extint(const struct lapic *l);

#endif
