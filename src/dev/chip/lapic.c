#include "dev/chip/lapic.h"

#include "base/bits.h"
#include "mem/lapic_state.h"
#include "mem/platform.h"

#include <string.h>

#define VERSION 0x01050014u /* integrated, 6 LVT entries, EOI broadcasts can be switched off */

/* Bits of each LVT entry that can be written; SDM 3A "Local Vector Table". */
#define LVT_TIMER_WRITABLE 0x000700ffu
#define LVT_LOCAL_WRITABLE 0x000107ffu
#define LVT_LINT_WRITABLE  0x0001a7ffu
#define LVT_ERROR_WRITABLE 0x000100ffu
#define SVR_WRITABLE	   (0xffu | SVR_ENABLE | 1u << 9 | SVR_NO_EOI_BROADCAST)

static bool test_vector(const uint32_t set[8], unsigned v)
{
	return set[v / 32] >> v % 32 & 1;
}

static void set_vector(uint32_t set[8], unsigned v, bool on)
{
	if (on)
		set[v / 32] |= 1u << v % 32;
	else
		set[v / 32] &= ~(1u << v % 32);
}

static int highest(const uint32_t set[8])
{
	for (int i = 7; i >= 0; i--)
		if (set[i])
			return i * 32 + 31 - __builtin_clz(set[i]);
	return -1;
}

/* The x2APIC's logical id is a function of the id. SDM 3A "Deriving Logical x2APIC ID". */
static uint32_t x2_ldr(uint32_t id)
{
	return (id >> 4) << 16 | 1u << (id & 15);
}

void lapic_init(struct lapic *l)
{
	uint32_t id = l->id;
	uint64_t base = l->base;
	unsigned phys_bits = l->phys_bits, tick_ns = l->tick_ns;

	*l = (struct lapic){
		.id = id,
		.base = base,
		.phys_bits = phys_bits,
		.tick_ns = tick_ns,
		.dfr = 0xffffffff,
		.svr = 0xff,
		.lvt_timer = LVT_MASKED,
		.lvt_thermal = LVT_MASKED,
		.lvt_perf = LVT_MASKED,
		.lvt_lint0 = LVT_MASKED,
		.lvt_lint1 = LVT_MASKED,
		.lvt_error = LVT_MASKED,
	};
	if (lapic_is_x2(l))
		l->ldr = x2_ldr(id);
}

void lapic_reset(struct lapic *l, uint32_t id, bool bsp, unsigned phys_bits, unsigned tick_ns)
{
	*l = (struct lapic){
		.id = id,
		.base = LAPIC_DEFAULT_BASE | APIC_BASE_ENABLE | (bsp ? APIC_BASE_BSP : 0),
		.phys_bits = phys_bits,
		.tick_ns = tick_ns,
	};
	lapic_init(l);
}

/* Note an error; it shows in ESR after the next write to it, and interrupts by LVT error. */
static void error(struct lapic *l, uint32_t bit)
{
	l->esr_new |= bit;
	if (!(l->lvt_error & LVT_MASKED) && (l->lvt_error & 0xff) >= 16)
		set_vector(l->irr, l->lvt_error & 0xff, true);
}

bool lapic_accept(struct lapic *l, uint8_t vector, bool level)
{
	if (!lapic_is_on(l))
		return false;
	if (vector < 16) {
		error(l, ESR_RECEIVE_ILLEGAL);
		return false;
	}
	set_vector(l->irr, vector, true);
	set_vector(l->tmr, vector, level);
	return true;
}

uint8_t lapic_ppr(const struct lapic *l)
{
	int in_service = highest(l->isr);
	unsigned isrv = in_service < 0 ? 0 : (unsigned)in_service & 0xf0;

	return (l->tpr & 0xf0) >= isrv ? (uint8_t)l->tpr : (uint8_t)isrv;
}

int lapic_pending(const struct lapic *l)
{
	int v = highest(l->irr);

	if (v < 0 || !lapic_is_on(l) || (v & 0xf0) <= (lapic_ppr(l) & 0xf0))
		return -1;
	return v;
}

int lapic_ack(struct lapic *l)
{
	int v = lapic_pending(l);

	if (v < 0)
		return -1;
	set_vector(l->irr, (unsigned)v, false);
	set_vector(l->isr, (unsigned)v, true);
	return v;
}

bool lapic_waits(const struct lapic *l)
{
	return highest(l->irr) >= 0 && lapic_is_on(l);
}

bool lapic_ends_quietly(const struct lapic *l)
{
	int v = highest(l->isr);

	return v >= 0 && !test_vector(l->tmr, (unsigned)v) && !lapic_waits(l);
}

void lapic_eoi(struct lapic *l, struct lapic_out *out)
{
	int v = highest(l->isr);

	if (v < 0)
		return;
	set_vector(l->isr, (unsigned)v, false);
	if (test_vector(l->tmr, (unsigned)v) && !(l->svr & SVR_NO_EOI_BROADCAST)) {
		out->eoi = true;
		out->eoi_vector = (uint8_t)v;
	}
}

bool lapic_matches(const struct lapic *l, const struct apic_msg *m)
{
	uint32_t broadcast = m->x2apic_dest ? 0xffffffff : 0xff;

	if (!(l->base & APIC_BASE_ENABLE))
		return false;
	if (m->dest == broadcast)
		return true;
	if (!m->logical)
		return m->dest == l->id;
	if (lapic_is_x2(l)) {
		/* An 8-bit logical destination reaches cluster 0 only. */
		return m->dest >> 16 == l->ldr >> 16 && (m->dest & l->ldr & 0xffff);
	}

	uint8_t mine = (uint8_t)(l->ldr >> 24), dest = (uint8_t)m->dest;

	if (l->dfr >> 28 == 0xf)
		return (mine & dest) != 0;
	return l->dfr >> 28 == 0 && mine >> 4 == dest >> 4 && (mine & dest & 0xf);
}

/* Nanoseconds between decrements: 1 to 128 ticks of the timer's input. */
static unsigned step_ns(const struct lapic *l)
{
	unsigned d = (l->divide & 3) | (l->divide >> 1 & 4);

	return (d == 7 ? 1 : 2u << d) * l->tick_ns;
}

/* Decrements of the count register from its start until now. */
static uint64_t ticks_since_start(const struct lapic *l, int64_t now)
{
	uint64_t ns = now > l->timer_start_ns ? (uint64_t)(now - l->timer_start_ns) : 0;

	return ns / step_ns(l);
}

/* Guest time after n decrements. */
static int64_t ns_of_ticks(const struct lapic *l, uint64_t n)
{
	unsigned __int128 ns = (unsigned __int128)n * step_ns(l);

	if (ns > (unsigned __int128)(INT64_MAX - 1 - l->timer_start_ns))
		return INT64_MAX - 1;
	return l->timer_start_ns + (int64_t)ns;
}

static uint32_t current_count(const struct lapic *l, int64_t now)
{
	if (!l->icount || LVT_TIMER_MODE(l->lvt_timer) == LAPIC_TSC_DEADLINE)
		return 0;

	uint64_t ticks = ticks_since_start(l, now);

	if (LVT_TIMER_MODE(l->lvt_timer) == LAPIC_PERIODIC)
		return l->icount - (uint32_t)(ticks % l->icount);
	return ticks >= l->icount ? 0 : l->icount - (uint32_t)ticks;
}

int64_t lapic_timer_next(const struct lapic *l, int64_t now)
{
	if (!l->icount)
		return INT64_MAX;

	uint64_t ticks = ticks_since_start(l, now);

	switch (LVT_TIMER_MODE(l->lvt_timer)) {
	case LAPIC_ONESHOT: return ticks >= l->icount ? INT64_MAX : ns_of_ticks(l, l->icount);
	case LAPIC_PERIODIC: return ns_of_ticks(l, (ticks / l->icount + 1) * l->icount);
	default: return INT64_MAX;
	}
}

bool lapic_timer_expire(struct lapic *l)
{
	if (LVT_TIMER_MODE(l->lvt_timer) == LAPIC_TSC_DEADLINE)
		l->tsc_deadline = 0;
	if (l->lvt_timer & LVT_MASKED)
		return false;
	return lapic_accept(l, l->lvt_timer & 0xff, false);
}

void lapic_write_deadline(struct lapic *l, uint64_t tsc, struct lapic_out *out)
{
	*out = (struct lapic_out){ 0 };
	if (LVT_TIMER_MODE(l->lvt_timer) != LAPIC_TSC_DEADLINE)
		return;
	l->tsc_deadline = tsc;
	out->timer = true;
}

bool lapic_passes_extint(const struct lapic *l)
{
	if (!(l->base & APIC_BASE_ENABLE))
		return l->base & APIC_BASE_BSP;
	return !(l->lvt_lint0 & LVT_MASKED) && LVT_MODE(l->lvt_lint0) == APIC_EXTINT;
}

static void write_lvt_timer(struct lapic *l, uint32_t val, int64_t now, struct lapic_out *out)
{
	unsigned was = LVT_TIMER_MODE(l->lvt_timer), mode = LVT_TIMER_MODE(val);

	/* A change between deadline mode and the counting modes disarms the timer. */
	if (was != mode && (was == LAPIC_TSC_DEADLINE || mode == LAPIC_TSC_DEADLINE)) {
		l->icount = 0;
		l->tsc_deadline = 0;
	} else if (was != mode) {
		/* A one-shot count that has run out does not start again as a periodic one. */
		if (was == LAPIC_ONESHOT && l->icount && !current_count(l, now))
			l->icount = 0;
	}
	l->lvt_timer = val & LVT_TIMER_WRITABLE;
	out->timer = true;
}

/* Software disable sets the mask of every LVT entry. */
static void write_svr(struct lapic *l, uint32_t val)
{
	l->svr = val & SVR_WRITABLE;
	if (val & SVR_ENABLE)
		return;
	l->lvt_timer |= LVT_MASKED;
	l->lvt_thermal |= LVT_MASKED;
	l->lvt_perf |= LVT_MASKED;
	l->lvt_lint0 |= LVT_MASKED;
	l->lvt_lint1 |= LVT_MASKED;
	l->lvt_error |= LVT_MASKED;
}

static uint32_t lvt_value(const struct lapic *l, uint32_t val, uint32_t writable)
{
	val &= writable;
	return l->svr & SVR_ENABLE ? val : val | LVT_MASKED;
}

/* A write to the command register's low half sends. SDM 3A "Interrupt Command Register". */
static void send_ipi(struct lapic *l, struct lapic_out *out)
{
	uint32_t low = (uint32_t)l->icr;
	unsigned mode = low >> 8 & 7, shorthand = low >> 18 & 3;

	/* INIT level de-assert has no effect on anything this side of a Pentium. */
	if (mode == APIC_INIT && (low & (1u << 15)) && !(low & (1u << 14)))
		return;
	if (mode == APIC_REMRD || mode == APIC_EXTINT || mode == APIC_SMI)
		return;
	if ((mode == APIC_FIXED || mode == APIC_LOWEST) && (low & 0xff) < 16) {
		error(l, ESR_SEND_ILLEGAL);
		return;
	}
	out->ipi = true;
	out->shorthand = (uint8_t)shorthand;
	out->msg = (struct apic_msg){
		.dest = lapic_is_x2(l) ? (uint32_t)(l->icr >> 32) : (uint32_t)(l->icr >> 56),
		.vector = (uint8_t)low,
		.mode = (uint8_t)mode,
		.logical = low >> 11 & 1,
		.x2apic_dest = lapic_is_x2(l),
	};
}

static bool is_reserved(const struct lapic *l, unsigned reg)
{
	if (reg < 2 || (reg >= 4 && reg < 8) || reg >= 0x40)
		return true;
	if (reg >= 0x29 && reg < 0x30) /* CMCI among them: there are 6 LVT entries */
		return true;
	if ((reg >= 0x3a && reg < 0x3e))
		return true;
	return reg == LAPIC_SELF_IPI && !lapic_is_x2(l);
}

uint32_t lapic_read(struct lapic *l, unsigned reg, int64_t now)
{
	if (is_reserved(l, reg)) {
		error(l, ESR_REGISTER);
		return 0;
	}
	switch (reg) {
	case LAPIC_ID: return lapic_is_x2(l) ? l->id : l->id << 24;
	case LAPIC_VERSION: return VERSION;
	case LAPIC_TPR: return l->tpr;
	case LAPIC_PPR: return lapic_ppr(l);
	case LAPIC_LDR: return l->ldr;
	case LAPIC_DFR: return l->dfr;
	case LAPIC_SVR: return l->svr;
	case LAPIC_ISR ... LAPIC_ISR + 7: return l->isr[reg - LAPIC_ISR];
	case LAPIC_TMR ... LAPIC_TMR + 7: return l->tmr[reg - LAPIC_TMR];
	case LAPIC_IRR ... LAPIC_IRR + 7: return l->irr[reg - LAPIC_IRR];
	case LAPIC_ESR: return l->esr;
	case LAPIC_ICR: return (uint32_t)l->icr;
	case LAPIC_ICR2: return (uint32_t)(l->icr >> 32);
	case LAPIC_LVT_TIMER: return l->lvt_timer;
	case LAPIC_LVT_THERMAL: return l->lvt_thermal;
	case LAPIC_LVT_PERF: return l->lvt_perf;
	case LAPIC_LVT_LINT0: return l->lvt_lint0;
	case LAPIC_LVT_LINT1: return l->lvt_lint1;
	case LAPIC_LVT_ERROR: return l->lvt_error;
	case LAPIC_ICOUNT: return l->icount;
	case LAPIC_CCOUNT: return current_count(l, now);
	case LAPIC_DIVIDE: return l->divide;
	default: return 0;
	}
}

static void write_timer_reg(struct lapic *l, unsigned reg, uint32_t val, int64_t now,
			    struct lapic_out *out)
{
	if (reg == LAPIC_ICOUNT) {
		if (LVT_TIMER_MODE(l->lvt_timer) == LAPIC_TSC_DEADLINE)
			return;
		l->icount = val;
		l->timer_start_ns = now;
	} else {
		/* What is left of the count goes on at the new rate. */
		uint32_t left = current_count(l, now);
		uint64_t done = l->icount - left;

		l->divide = val & 0xb;
		if (l->icount)
			l->timer_start_ns = now - (int64_t)(done * step_ns(l));
	}
	out->timer = true;
}

void lapic_write(struct lapic *l, unsigned reg, uint32_t val, int64_t now, struct lapic_out *out)
{
	*out = (struct lapic_out){ 0 };
	if (is_reserved(l, reg)) {
		error(l, ESR_REGISTER);
		return;
	}
	switch (reg) {
	case LAPIC_TPR: l->tpr = val & 0xff; break;
	case LAPIC_EOI: lapic_eoi(l, out); break;
	case LAPIC_LDR: l->ldr = val & 0xff000000; break;
	case LAPIC_DFR: l->dfr = val | 0x0fffffff; break;
	case LAPIC_SVR: write_svr(l, val); break;
	case LAPIC_ESR:
		l->esr = l->esr_new;
		l->esr_new = 0;
		break;
	case LAPIC_ICR:
		l->icr = (l->icr & ~0xffffffffull) | (val & 0x000ccfff);
		send_ipi(l, out);
		break;
	case LAPIC_ICR2: l->icr = (l->icr & 0xffffffff) | (uint64_t)(val & 0xff000000) << 32; break;
	case LAPIC_LVT_TIMER: write_lvt_timer(l, lvt_value(l, val, ~0u), now, out); break;
	case LAPIC_LVT_THERMAL: l->lvt_thermal = lvt_value(l, val, LVT_LOCAL_WRITABLE); break;
	case LAPIC_LVT_PERF: l->lvt_perf = lvt_value(l, val, LVT_LOCAL_WRITABLE); break;
	case LAPIC_LVT_LINT0: l->lvt_lint0 = lvt_value(l, val, LVT_LINT_WRITABLE); break;
	case LAPIC_LVT_LINT1: l->lvt_lint1 = lvt_value(l, val, LVT_LINT_WRITABLE); break;
	case LAPIC_LVT_ERROR: l->lvt_error = lvt_value(l, val, LVT_ERROR_WRITABLE); break;
	case LAPIC_ICOUNT:
	case LAPIC_DIVIDE: write_timer_reg(l, reg, val, now, out); break;
	default: break; /* read-only */
	}
}

/* SDM 3A "x2APIC Register Address Space": which registers have no MSR, and which access. */
static bool x2_readable(const struct lapic *l, unsigned reg)
{
	return !is_reserved(l, reg) && reg != LAPIC_EOI && reg != LAPIC_SELF_IPI &&
	       reg != LAPIC_DFR && reg != LAPIC_ICR2 && reg != LAPIC_APR && reg != LAPIC_RRD;
}

bool lapic_read_x2(struct lapic *l, unsigned reg, int64_t now, uint64_t *val)
{
	if (!lapic_is_x2(l) || !x2_readable(l, reg))
		return false;
	*val = reg == LAPIC_ICR ? l->icr : lapic_read(l, reg, now);
	return true;
}

/* Bits that a write may set; anything else is #GP. 0: no write at all but of 0 where noted. */
static bool x2_writable(unsigned reg, uint64_t *mask)
{
	switch (reg) {
	case LAPIC_TPR: *mask = 0xff; return true;
	case LAPIC_EOI: *mask = 0; return true;
	case LAPIC_SVR: *mask = SVR_WRITABLE; return true;
	case LAPIC_ESR: *mask = 0; return true;
	case LAPIC_ICR: *mask = 0xffffffff000ccfff; return true;
	case LAPIC_LVT_TIMER: *mask = LVT_TIMER_WRITABLE | 1u << 12; return true;
	case LAPIC_LVT_THERMAL:
	case LAPIC_LVT_PERF: *mask = LVT_LOCAL_WRITABLE | 1u << 12; return true;
	case LAPIC_LVT_LINT0:
	case LAPIC_LVT_LINT1: *mask = LVT_LINT_WRITABLE | 1u << 12 | LVT_REMOTE_IRR; return true;
	case LAPIC_LVT_ERROR: *mask = LVT_ERROR_WRITABLE | 1u << 12; return true;
	case LAPIC_ICOUNT: *mask = 0xffffffff; return true;
	case LAPIC_DIVIDE: *mask = 0xb; return true;
	case LAPIC_SELF_IPI: *mask = 0xff; return true;
	default: return false;
	}
}

bool lapic_write_x2(struct lapic *l, unsigned reg, uint64_t val, int64_t now, struct lapic_out *out)
{
	uint64_t mask;

	*out = (struct lapic_out){ 0 };
	if (!lapic_is_x2(l) || !x2_writable(reg, &mask) || (val & ~mask))
		return false;
	switch (reg) {
	case LAPIC_ICR:
		l->icr = val;
		send_ipi(l, out);
		return true;
	case LAPIC_SELF_IPI:
		if (val < 16)
			error(l, ESR_SEND_ILLEGAL);
		else
			lapic_accept(l, (uint8_t)val, false);
		return true;
	default: lapic_write(l, reg, (uint32_t)val, now, out); return true;
	}
}

bool lapic_write_base(struct lapic *l, uint64_t val, struct lapic_out *out)
{
	uint64_t page = (BIT(l->phys_bits) - 1) & ~0xfffull;
	uint64_t mode = APIC_BASE_ENABLE | APIC_BASE_X2APIC;
	uint64_t was = l->base & mode, is = val & mode;

	*out = (struct lapic_out){ 0 };
	if (val & ~(page | mode | APIC_BASE_BSP))
		return false;
	/* SDM 3A "x2APIC State Transitions": x2 without enable never; from x2 only to off; from off
	 * never straight to x2. */
	if (is == APIC_BASE_X2APIC || (was == mode && is == APIC_BASE_ENABLE) ||
	    (was == 0 && is == mode))
		return false;
	l->base = val;
	if (was == is)
		return true;
	if (is == mode) {
		l->ldr = x2_ldr(l->id);
		l->icr &= 0xffffffff;
	} else {
		lapic_init(l);
	}
	out->timer = true;
	return true;
}

/* -- Handing over ---------------------------------------------------------------------------- */

/* Registers that are just a word. */
static uint32_t *plain(struct lapic *l, unsigned reg)
{
	switch (reg) {
	case LAPIC_TPR: return &l->tpr;
	case LAPIC_LDR: return &l->ldr;
	case LAPIC_DFR: return &l->dfr;
	case LAPIC_SVR: return &l->svr;
	case LAPIC_ISR ... LAPIC_ISR + 7: return &l->isr[reg - LAPIC_ISR];
	case LAPIC_TMR ... LAPIC_TMR + 7: return &l->tmr[reg - LAPIC_TMR];
	case LAPIC_IRR ... LAPIC_IRR + 7: return &l->irr[reg - LAPIC_IRR];
	case LAPIC_LVT_TIMER: return &l->lvt_timer;
	case LAPIC_LVT_THERMAL: return &l->lvt_thermal;
	case LAPIC_LVT_PERF: return &l->lvt_perf;
	case LAPIC_LVT_LINT0: return &l->lvt_lint0;
	case LAPIC_LVT_LINT1: return &l->lvt_lint1;
	case LAPIC_LVT_ERROR: return &l->lvt_error;
	case LAPIC_DIVIDE: return &l->divide;
	default: return NULL;
	}
}

void lapic_save(struct lapic *l, int64_t now, struct lapic_state *s)
{
	memset(s, 0, sizeof(*s));
	s->base = l->base;
	s->reg[LAPIC_ID] = l->id << 24;
	s->reg[LAPIC_VERSION] = VERSION;
	s->reg[LAPIC_ICR] = (uint32_t)l->icr;
	s->reg[LAPIC_ICR2] = (uint32_t)(l->icr >> 32);
	for (unsigned reg = 0; reg < LAPIC_REGS; reg++)
		if (plain(l, reg))
			s->reg[reg] = *plain(l, reg);
	s->tsc_deadline = l->tsc_deadline;
	s->reg[LAPIC_CCOUNT] = current_count(l, now);
	/* What stays in icount tells lapic_load of a one-shot timer that has run out. */
	if (s->reg[LAPIC_CCOUNT]) {
		s->reg[LAPIC_ICOUNT] = l->icount;
		l->icount = 0;
	}
}

static void load_timer(struct lapic *l, int64_t now, const struct lapic_state *s)
{
	uint32_t count = s->reg[LAPIC_ICOUNT], left = s->reg[LAPIC_CCOUNT];

	l->tsc_deadline = s->tsc_deadline;
	/* Nobody has set it since: it may still be the one that has run out. */
	if (!count && LVT_TIMER_MODE(l->lvt_timer) == LAPIC_ONESHOT)
		return;
	l->icount = count;
	l->timer_start_ns = now - (int64_t)(count - MIN(left, count)) * step_ns(l);
}

void lapic_load(struct lapic *l, int64_t now, const struct lapic_state *s)
{
	l->icr = s->reg[LAPIC_ICR] | (uint64_t)s->reg[LAPIC_ICR2] << 32;
	for (unsigned reg = 0; reg < LAPIC_REGS; reg++)
		if (plain(l, reg))
			*plain(l, reg) = s->reg[reg];
	l->svr &= SVR_WRITABLE;
	load_timer(l, now, s);
}
