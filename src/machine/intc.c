/* One lock guards all chips: an interrupt crosses several of them, and holding one lock makes the
 * order of a delivery plain. What a vCPU asks between instructions, pending(), takes no lock: the
 * answer is published in an atomic whenever a chip's state has changed.
 *
 * Lock order: a device's lock, then this one, then the timer queue's. Nothing calls back into a
 * device from here.
 */
#include "machine/intc.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "base/trace.h"
#include "cpu/vcpu.h"
#include "dev/chip/i8259.h"
#include "dev/chip/ioapic.h"
#include "dev/chip/lapic.h"
#include "host/clock.h"
#include "host/timer.h"
#include "machine/memmap.h"
#include "machine/pv.h"
#include "mem/iospace.h"
#include "mem/lapic_state.h"
#include "mem/physmap.h"

#include <errno.h>
#include <pthread.h>

#define MSR_APIC_BASE	 0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC	 0x800

/* intc_cpu's ready: a vector, or one of these. */
#define READY_NONE   (-1)
#define READY_EXTINT 0x100
#define READY_EOI    0x101 /* it is to be seen whether the guest has ended its interrupt */

struct intc_cpu {
	struct intc *ic;
	struct vcpu *c;
	struct lapic l;
	bool eoi_offered; /* pv_eoi_offer: the guest may have ended the interrupt in service */
	_Atomic int ready;
	struct timer timer;
	int64_t timer_due; /* guest ns, or INT64_MAX; for the counting modes */
};

struct intc {
	pthread_mutex_t lock; /* guards the chips */
	struct i8259_pair pic;
	struct ioapic ioapic;
	/* Who has the local APICs' state, or NULL: the chips here. */
	const struct lapic_host *host;
	void *host_arg;
	struct lapic_route watched[IOAPIC_PINS]; /* what watched_by was told last */
	const void *watched_by;
	struct intc_cfg cfg;
	unsigned n;
	struct intc_cpu cpu[];
};

/* Does the vCPU's local APIC pass the 8259s' interrupt? One that is lent is asked by who has it. */
static bool may_pass_extint(const struct intc_cpu *p)
{
	return p->ic->host || lapic_passes_extint(&p->l);
}

/* Work out what a vCPU would get now, and tell it. Needs the lock. */
static void publish(struct intc_cpu *p)
{
	int ready = p->ic->host ? READY_NONE : lapic_pending(&p->l);

	if (ready == READY_NONE && p->eoi_offered && lapic_waits(&p->l))
		ready = READY_EOI;
	if (may_pass_extint(p) && i8259_intr(&p->ic->pic))
		ready = READY_EXTINT;
	if (atomic_exchange(&p->ready, ready) != ready && ready != READY_NONE)
		vcpu_kick(p->c, KICK_IRQ);
}

/* The 8259s' INTR changed. Needs the lock. */
static void publish_extint(struct intc *ic)
{
	for (unsigned i = 0; i < ic->n; i++)
		if (may_pass_extint(&ic->cpu[i]))
			publish(&ic->cpu[i]);
}

static bool deliver_to(struct intc_cpu *p, const struct apic_msg *m)
{
	switch (m->mode) {
	case APIC_FIXED:
	case APIC_LOWEST: {
		bool taken = lapic_accept(&p->l, m->vector, m->level);

		publish(p);
		return taken;
	}
	case APIC_NMI: vcpu_kick(p->c, KICK_NMI); return true;
	case APIC_INIT: vcpu_kick(p->c, KICK_INIT); return true;
	case APIC_STARTUP:
		atomic_store(&p->c->sipi_vector, m->vector);
		vcpu_kick(p->c, KICK_SIPI);
		return true;
	default: return false; /* SMI and the like: there is no such mode */
	}
}

/* The chip of lowest priority among those the message names; NULL for none. Needs the lock. */
static struct intc_cpu *lowest(struct intc *ic, const struct apic_msg *m)
{
	struct intc_cpu *best = NULL;

	for (unsigned i = 0; i < ic->n; i++) {
		struct intc_cpu *p = &ic->cpu[i];

		if (!lapic_is_on(&p->l) || !lapic_matches(&p->l, m))
			continue;
		if (!best || lapic_ppr(&p->l) < lapic_ppr(&best->l))
			best = p;
	}
	return best;
}

/* As a device would write it. SDM 3A "Message Signalled Interrupts". */
static struct lapic_route as_route(const struct apic_msg *m)
{
	return (struct lapic_route){
		.addr = MSI_BASE | (m->dest & 0xff) << 12 |
			(uint64_t)(m->logical && m->mode == APIC_LOWEST) << 3 |
			(uint64_t)m->logical << 2,
		.data = m->vector | (uint32_t)m->mode << 8 | (uint32_t)m->level << 15,
	};
}

/* Needs the lock. */
static bool send_to_host(struct intc *ic, const struct apic_msg *m)
{
	struct lapic_route r = as_route(m);

	/* There are no other modes. */
	if (m->mode == APIC_SMI || m->mode == APIC_REMRD || m->mode == APIC_EXTINT)
		return false;
	return ic->host->send(ic->host_arg, r.addr, r.data);
}

/* Send a message to whom it names. True if somebody took it. Needs the lock. */
static bool deliver(struct intc *ic, const struct apic_msg *m)
{
	bool taken = false;

	if (trace_on(TRACE_IRQ))
		trace_print(TRACE_IRQ, "message: vector %#x mode %u dest %#x%s%s", m->vector,
			    m->mode, m->dest, m->logical ? " logical" : "",
			    m->level ? " level" : "");
	if (ic->host)
		return send_to_host(ic, m);
	if (m->mode == APIC_LOWEST) {
		struct intc_cpu *p = lowest(ic, m);

		return p && deliver_to(p, m);
	}
	for (unsigned i = 0; i < ic->n; i++)
		if (lapic_matches(&ic->cpu[i].l, m))
			taken |= deliver_to(&ic->cpu[i], m);
	return taken;
}

static void service_pin(struct intc *ic, unsigned pin)
{
	struct apic_msg m;

	if (ioapic_service(&ic->ioapic, pin, &m) && !deliver(ic, &m))
		ioapic_refused(&ic->ioapic, pin);
}

static void service_pins(struct intc *ic)
{
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		service_pin(ic, i);
}

static void set_isa(void *to, unsigned irq, bool level)
{
	struct intc *ic = to;
	unsigned pin = irq == IRQ_PIT ? GSI_PIT : irq;

	pthread_mutex_lock(&ic->lock);
	if (trace_on(TRACE_IRQ))
		trace_print(TRACE_IRQ, "isa line %u is %u", irq, level);
	i8259_set_irq(&ic->pic, irq, level);
	publish_extint(ic);
	ioapic_set_pin(&ic->ioapic, pin, level);
	service_pin(ic, pin);
	pthread_mutex_unlock(&ic->lock);
}

static void set_gsi(void *to, unsigned pin, bool level)
{
	struct intc *ic = to;

	pthread_mutex_lock(&ic->lock);
	ioapic_set_pin(&ic->ioapic, pin, level);
	service_pin(ic, pin);
	pthread_mutex_unlock(&ic->lock);
}

/* SDM 3A "Message Signalled Interrupts": address and data formats. */
static void send_msi(void *to, uint64_t addr, uint32_t data)
{
	struct intc *ic = to;
	struct apic_msg m = {
		.dest = addr >> 12 & 0xff,
		.vector = (uint8_t)data,
		.mode = data >> 8 & 7,
		.logical = addr >> 2 & 1,
		.level = data >> 15 & 1,
	};

	if (addr >> 20 != MSI_BASE >> 20)
		return;
	/* The redirection hint lets one of a group take it. */
	if (m.logical && (addr >> 3 & 1) && m.mode == APIC_FIXED)
		m.mode = APIC_LOWEST;
	pthread_mutex_lock(&ic->lock);
	deliver(ic, &m);
	pthread_mutex_unlock(&ic->lock);
}

bool intc_send(struct intc *ic, const struct apic_msg *m)
{
	bool taken;

	pthread_mutex_lock(&ic->lock);
	taken = deliver(ic, m);
	pthread_mutex_unlock(&ic->lock);
	return taken;
}

struct irq_line intc_isa_line(struct intc *ic, unsigned irq)
{
	return (struct irq_line){ .set = set_isa, .to = ic, .pin = irq };
}

struct irq_line intc_gsi_line(struct intc *ic, unsigned gsi)
{
	return (struct irq_line){ .set = set_gsi, .to = ic, .pin = gsi };
}

struct msi_sink intc_msi(struct intc *ic)
{
	return (struct msi_sink){ .send = send_msi, .to = ic };
}

/* --- timers --- */

/* Guest ns in which the guest's TSC gets from now to the deadline; 0 if it is there. */
static int64_t ns_until_tsc(const struct intc_cpu *p, uint64_t deadline)
{
	uint64_t now = vcpu_tsc(p->c);

	if ((int64_t)(deadline - now) <= 0)
		return 0;

	unsigned __int128 ns =
		(unsigned __int128)(deadline - now) * 1000000 / p->ic->cfg.tsc_khz + 1;

	return ns > INT64_MAX / 4 ? INT64_MAX / 4 : (int64_t)ns;
}

/* A timer may be due that the timers' thread has not come to yet: it expires before anything else
 * happens to the chip, or it never would. Needs the lock. */
static void catch_up(struct intc_cpu *p, int64_t now)
{
	uint64_t deadline = p->l.tsc_deadline;

	if (deadline ? ns_until_tsc(p, deadline) > 0 : now < p->timer_due)
		return;
	p->timer_due = INT64_MAX;
	lapic_timer_expire(&p->l);
}

/* Set the host's timer to what the chip waits for, or let it expire at once. now is the moment for
 * which the chip was written or caught up, however long ago: a short count may be over since. Needs
 * the lock. */
static void arm_timer(struct intc_cpu *p, int64_t now)
{
	int64_t due = INT64_MAX;

	if (p->l.tsc_deadline) {
		int64_t wait = ns_until_tsc(p, p->l.tsc_deadline);

		if (wait == 0)
			lapic_timer_expire(&p->l);
		else
			due = now + wait;
	} else {
		due = lapic_timer_next(&p->l, now);
	}
	p->timer_due = due;
	timer_arm(p->ic->cfg.timers, &p->timer, due);
}

static void on_timer(void *arg)
{
	struct intc_cpu *p = arg;
	int64_t now;

	pthread_mutex_lock(&p->ic->lock);
	if (p->ic->host) {
		pthread_mutex_unlock(&p->ic->lock);
		return;
	}
	/* It may have been set anew since it was due; deadlines look at the TSC again. */
	now = vclock_now(p->ic->cfg.clock);
	catch_up(p, now);
	arm_timer(p, now);
	if (trace_on(TRACE_TIMER))
		trace_print(TRACE_TIMER, "cpu %u apic timer", p->c->index);
	publish(p);
	pthread_mutex_unlock(&p->ic->lock);
}

/* --- what a vCPU sees --- */

/* The moment of an access to p's chip, which has caught up with it. Needs the lock. */
static int64_t begin_access(struct intc_cpu *p)
{
	int64_t now = vclock_now(p->ic->cfg.clock);

	catch_up(p, now);
	return now;
}

/* Carry out what an access to p's chip at that moment sent. Needs the lock. */
static void act(struct intc_cpu *p, const struct lapic_out *out, int64_t now)
{
	struct intc *ic = p->ic;

	if (out->timer)
		arm_timer(p, now);
	if (out->eoi) {
		ioapic_eoi(&ic->ioapic, out->eoi_vector);
		service_pins(ic);
	}
	if (out->ipi && out->shorthand == 0)
		deliver(ic, &out->msg);
	for (unsigned i = 0; out->ipi && out->shorthand && i < ic->n; i++) {
		bool self = &ic->cpu[i] == p;

		if (out->shorthand == 2 || self == (out->shorthand == 1))
			deliver_to(&ic->cpu[i], &out->msg);
	}
	publish(p);
}

/* Before the vCPU's chip is used by its own thread: see what the guest ended in memory. Needs the
 * lock. */
static void settle_eoi(struct intc_cpu *p)
{
	struct lapic_out out = { 0 };

	if (!p->eoi_offered)
		return;
	p->eoi_offered = false;
	/* Nobody is to be told: out stays as it is. */
	if (pv_eoi_taken(p->c))
		lapic_eoi(&p->l, &out);
}

void intc_settle_eoi(struct vcpu *c)
{
	struct intc_cpu *p = c->apic;

	pthread_mutex_lock(&p->ic->lock);
	settle_eoi(p);
	publish(p);
	pthread_mutex_unlock(&p->ic->lock);
}

static int apic_ack(void *apic)
{
	struct intc_cpu *p = apic;
	struct intc *ic = p->ic;
	int vector;

	pv_look(p->c);
	pthread_mutex_lock(&ic->lock);
	settle_eoi(p);
	if (may_pass_extint(p) && i8259_intr(&ic->pic)) {
		vector = i8259_ack(&ic->pic);
		publish_extint(ic);
	} else if (ic->host) {
		vector = -1;
	} else {
		vector = lapic_ack(&p->l);
		p->eoi_offered = vector >= 0 && lapic_ends_quietly(&p->l) && pv_eoi_offer(p->c);
	}
	publish(p);
	pthread_mutex_unlock(&ic->lock);
	return vector;
}

static bool apic_pending(void *apic)
{
	struct intc_cpu *p = apic;

	return atomic_load_explicit(&p->ready, memory_order_acquire) != READY_NONE;
}

static uint64_t apic_get_cr8(void *apic)
{
	struct intc_cpu *p = apic;

	return p->l.tpr >> 4; /* only this thread writes it */
}

static void apic_set_cr8(void *apic, uint64_t val)
{
	struct intc_cpu *p = apic;

	pthread_mutex_lock(&p->ic->lock);
	settle_eoi(p);
	p->l.tpr = (uint32_t)(val & 15) << 4;
	publish(p);
	pthread_mutex_unlock(&p->ic->lock);
}

static bool apic_read_msr(void *apic, uint32_t msr, uint64_t *val)
{
	struct intc_cpu *p = apic;
	bool ok = true;

	pthread_mutex_lock(&p->ic->lock);
	settle_eoi(p);
	if (msr == MSR_APIC_BASE)
		*val = p->l.base;
	else if (msr == MSR_TSC_DEADLINE)
		*val = p->l.tsc_deadline;
	else
		ok = lapic_read_x2(&p->l, msr - MSR_X2APIC, vclock_now(p->ic->cfg.clock), val);
	publish(p);
	pthread_mutex_unlock(&p->ic->lock);
	return ok;
}

/* Who has the chip follows the base register by itself, but keeps the others where they are lost.
 * Needs the lock. */
static bool write_lent_base(struct intc_cpu *p, uint64_t val)
{
	uint64_t modes = APIC_BASE_ENABLE | APIC_BASE_X2APIC;
	uint64_t changed = (p->l.base ^ val) & modes;
	struct lapic l = p->l;
	struct lapic_state s;
	struct lapic_out out;

	if (!lapic_write_base(&l, val, &out))
		return false;
	if (!changed || lapic_is_x2(&l)) {
		p->l.base = l.base;
		return true;
	}
	p->l = l;
	lapic_save(&p->l, 0, &s);
	p->ic->host->load(p->ic->host_arg, p->c->index, &s);
	return true;
}

static bool apic_write_msr(void *apic, uint32_t msr, uint64_t val)
{
	struct intc_cpu *p = apic;
	struct lapic_out out = { 0 };
	bool ok = true;
	int64_t now;

	pthread_mutex_lock(&p->ic->lock);
	if (p->ic->host) {
		ok = msr == MSR_APIC_BASE && write_lent_base(p, val);
		pthread_mutex_unlock(&p->ic->lock);
		return ok;
	}
	settle_eoi(p);
	now = begin_access(p);
	if (msr == MSR_APIC_BASE)
		ok = lapic_write_base(&p->l, val, &out);
	else if (msr == MSR_TSC_DEADLINE)
		lapic_write_deadline(&p->l, val, &out);
	else
		ok = lapic_write_x2(&p->l, msr - MSR_X2APIC, val, now, &out);
	if (ok)
		act(p, &out, now);
	pthread_mutex_unlock(&p->ic->lock);
	return ok;
}

static void apic_tsc_moved(void *apic)
{
	struct intc_cpu *p = apic;

	pthread_mutex_lock(&p->ic->lock);
	if (!p->ic->host) {
		arm_timer(p, begin_access(p));
		publish(p);
	}
	pthread_mutex_unlock(&p->ic->lock);
}

static bool apic_owns_gpa(void *apic, gpa_t gpa)
{
	struct intc_cpu *p = apic;

	/* Only this thread writes the base. */
	return lapic_is_xapic(&p->l) && gpa >> 12 == p->l.base >> 12;
}

/* SDM 3A "Local APIC Register Address Map": 32-bit registers at multiples of 16. Other accesses
 * are undefined there; narrow reads get the register's bytes, narrow writes do nothing.
 */
static uint64_t apic_read(void *apic, uint64_t off, unsigned size)
{
	struct intc_cpu *p = apic;
	uint64_t val;

	off &= 0xfff;
	if ((off & 15) >= 4)
		return 0;
	pthread_mutex_lock(&p->ic->lock);
	settle_eoi(p);
	val = lapic_read(&p->l, (unsigned)off >> 4, vclock_now(p->ic->cfg.clock));
	publish(p);
	pthread_mutex_unlock(&p->ic->lock);
	return val >> (off & 3) * 8 & size_mask(size);
}

static void apic_write(void *apic, uint64_t off, unsigned size, uint64_t val)
{
	struct intc_cpu *p = apic;
	struct lapic_out out;
	int64_t now;

	off &= 0xfff;
	if ((off & 15) || size < 4)
		return;
	pthread_mutex_lock(&p->ic->lock);
	settle_eoi(p);
	now = begin_access(p);
	lapic_write(&p->l, (unsigned)off >> 4, (uint32_t)val, now, &out);
	act(p, &out, now);
	pthread_mutex_unlock(&p->ic->lock);
}

static void apic_init_reset(void *apic)
{
	struct intc_cpu *p = apic;

	pthread_mutex_lock(&p->ic->lock);
	p->eoi_offered = false;
	lapic_init(&p->l);
	arm_timer(p, vclock_now(p->ic->cfg.clock));
	publish(p);
	pthread_mutex_unlock(&p->ic->lock);
}

/* --- local APICs that an engine has --- */

/* Tell who has them which level-triggered messages the I/O APIC sends. A masked entry is one of
 * them: its interrupt may be in service. Needs the lock. */
static void update_watched(struct intc *ic)
{
	struct lapic_route now[IOAPIC_PINS] = { 0 };

	if (!ic->host)
		return;
	for (unsigned i = 0; i < IOAPIC_PINS; i++) {
		struct apic_msg m;

		ioapic_message(&ic->ioapic, i, &m);
		if (m.level)
			now[i] = as_route(&m);
	}
	if (ic->watched_by == ic->host_arg && memcmp(now, ic->watched, sizeof(now)) == 0)
		return;
	memcpy(ic->watched, now, sizeof(now));
	ic->watched_by = ic->host_arg;
	ic->host->watch(ic->host_arg, now, IOAPIC_PINS);
}

/* Needs the lock. */
static bool has_start_up(const struct intc *ic)
{
	for (unsigned i = 0; i < ic->n; i++)
		if (atomic_load(&ic->cpu[i].c->kick) & (KICK_INIT | KICK_SIPI))
			return true;
	return false;
}

static bool apic_lend(void *apic, const struct lapic_host *ops, void *host)
{
	struct intc *ic = ((struct intc_cpu *)apic)->ic;
	bool ok;

	pthread_mutex_lock(&ic->lock);
	ok = !has_start_up(ic);
	for (unsigned i = 0; ok && i < ic->n; i++) {
		struct intc_cpu *p = &ic->cpu[i];
		struct lapic_state s;

		settle_eoi(p);
		lapic_save(&p->l, begin_access(p), &s);
		timer_arm(ic->cfg.timers, &p->timer, INT64_MAX);
		ops->load(host, i, &s);
	}
	if (ok) {
		ic->host = ops;
		ic->host_arg = host;
		update_watched(ic);
		for (unsigned i = 0; i < ic->n; i++)
			publish(&ic->cpu[i]);
	}
	pthread_mutex_unlock(&ic->lock);
	return ok;
}

static void apic_take_back(void *apic)
{
	struct intc *ic = ((struct intc_cpu *)apic)->ic;

	pthread_mutex_lock(&ic->lock);
	for (unsigned i = 0; ic->host && i < ic->n; i++) {
		struct intc_cpu *p = &ic->cpu[i];
		struct lapic_state s;
		int64_t now;

		ic->host->save(ic->host_arg, i, &s);
		now = vclock_now(ic->cfg.clock);
		lapic_load(&p->l, now, &s);
		arm_timer(p, now);
	}
	ic->host = NULL;
	for (unsigned i = 0; i < ic->n; i++)
		publish(&ic->cpu[i]);
	pthread_mutex_unlock(&ic->lock);
}

static void apic_ended(void *apic, uint8_t vector)
{
	struct intc *ic = ((struct intc_cpu *)apic)->ic;

	pthread_mutex_lock(&ic->lock);
	ioapic_eoi(&ic->ioapic, vector);
	service_pins(ic);
	pthread_mutex_unlock(&ic->lock);
}

static const struct vcpu_apic_ops apic_ops = {
	.ack = apic_ack,
	.pending = apic_pending,
	.get_cr8 = apic_get_cr8,
	.set_cr8 = apic_set_cr8,
	.read_msr = apic_read_msr,
	.write_msr = apic_write_msr,
	.tsc_moved = apic_tsc_moved,
	.owns_gpa = apic_owns_gpa,
	.read = apic_read,
	.write = apic_write,
	.init_reset = apic_init_reset,
	.lend = apic_lend,
	.take_back = apic_take_back,
	.ended = apic_ended,
};

/* --- registers on the bus --- */

static uint64_t pic_io_read(struct intc *ic, unsigned which, uint64_t off)
{
	pthread_mutex_lock(&ic->lock);
	uint8_t val = i8259_read(&ic->pic, which, (unsigned)off);
	publish_extint(ic);
	pthread_mutex_unlock(&ic->lock);
	return val;
}

static void pic_io_write(struct intc *ic, unsigned which, uint64_t off, uint64_t val)
{
	pthread_mutex_lock(&ic->lock);
	i8259_write(&ic->pic, which, (unsigned)off, (uint8_t)val);
	publish_extint(ic);
	pthread_mutex_unlock(&ic->lock);
}

static uint64_t master_read(void *dev, uint64_t off, unsigned size)
{
	return pic_io_read(dev, 0, off);
}

static void master_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	pic_io_write(dev, 0, off, val);
}

static uint64_t slave_read(void *dev, uint64_t off, unsigned size)
{
	return pic_io_read(dev, 1, off);
}

static void slave_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	pic_io_write(dev, 1, off, val);
}

static uint64_t elcr_read(void *dev, uint64_t off, unsigned size)
{
	struct intc *ic = dev;

	pthread_mutex_lock(&ic->lock);
	uint8_t val = i8259_read_elcr(&ic->pic, (unsigned)off);
	pthread_mutex_unlock(&ic->lock);
	return val;
}

static void elcr_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct intc *ic = dev;

	pthread_mutex_lock(&ic->lock);
	i8259_write_elcr(&ic->pic, (unsigned)off, (uint8_t)val);
	pthread_mutex_unlock(&ic->lock);
}

static uint64_t ioapic_io_read(void *dev, uint64_t off, unsigned size)
{
	struct intc *ic = dev;

	pthread_mutex_lock(&ic->lock);
	uint32_t val = ioapic_read(&ic->ioapic, (unsigned)off);
	pthread_mutex_unlock(&ic->lock);
	return val;
}

static void ioapic_io_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct intc *ic = dev;

	pthread_mutex_lock(&ic->lock);
	/* The index may be written as a byte; the window and EOI are 32-bit registers. */
	if (size == 4 || off == 0) {
		ioapic_write(&ic->ioapic, (unsigned)off, (uint32_t)val);
		update_watched(ic);
		service_pins(ic);
	}
	pthread_mutex_unlock(&ic->lock);
}

static const struct io_ops master_io = { .read = master_read, .write = master_write, .max = 1 };
static const struct io_ops slave_io = { .read = slave_read, .write = slave_write, .max = 1 };
static const struct io_ops elcr_io = { .read = elcr_read, .write = elcr_write, .max = 1 };
static const struct io_ops ioapic_io = { .read = ioapic_io_read,
					 .write = ioapic_io_write,
					 .max = 4 };

static int map_all(struct intc *ic, struct err *err)
{
	const struct intc_cfg *cfg = &ic->cfg;

	if (iospace_map(cfg->pio, PORT_PIC_MASTER, 2, &master_io, ic, err) < 0 ||
	    iospace_map(cfg->pio, PORT_PIC_SLAVE, 2, &slave_io, ic, err) < 0 ||
	    iospace_map(cfg->pio, PORT_ELCR, 2, &elcr_io, ic, err) < 0 ||
	    iospace_map(cfg->mmio, IOAPIC_BASE, PAGE_SIZE, &ioapic_io, ic, err) < 0)
		return err_wrap(err, "interrupt controllers");
	return 0;
}

static void set_virtual_wire(struct lapic *l)
{
	struct lapic_out out;

	lapic_write(l, LAPIC_SVR, SVR_ENABLE | 0xff, 0, &out);
	lapic_write(l, LAPIC_LVT_LINT0, APIC_EXTINT << 8, 0, &out);
	lapic_write(l, LAPIC_LVT_LINT1, APIC_NMI << 8, 0, &out);
}

void intc_reset(struct intc *ic)
{
	pthread_mutex_lock(&ic->lock);
	i8259_reset(&ic->pic);
	ic->pic.chip[0].imr = ic->pic.chip[1].imr = 0xff;
	ioapic_reset(&ic->ioapic);
	for (unsigned i = 0; i < ic->n; i++) {
		struct intc_cpu *p = &ic->cpu[i];

		lapic_reset(&p->l, i, i == 0, ic->cfg.phys_bits, ic->cfg.apic_tick_ns);
		if (i == 0)
			set_virtual_wire(&p->l);
		p->eoi_offered = false;
		arm_timer(p, vclock_now(ic->cfg.clock));
		atomic_store(&p->ready, READY_NONE);
	}
	pthread_mutex_unlock(&ic->lock);
}

int intc_new(struct intc **out, const struct intc_cfg *cfg, struct err *err)
{
	unsigned n = cfg->set->n;
	AUTO_FREE struct intc *ic = calloc(1, sizeof(*ic) + n * sizeof(ic->cpu[0]));

	if (!ic)
		return err_set(err, ENOMEM, "interrupt controllers");
	ic->cfg = *cfg;
	ic->n = n;

	int ret = map_all(ic, err);

	if (ret < 0)
		return ret;
	pthread_mutex_init(&ic->lock, NULL);
	for (unsigned i = 0; i < n; i++) {
		struct intc_cpu *p = &ic->cpu[i];

		p->ic = ic;
		p->c = cfg->set->v[i];
		p->timer = (struct timer){ .fn = on_timer, .arg = p, .deadline_ns = INT64_MAX };
		p->c->apic = p;
		p->c->apic_ops = &apic_ops;
	}
	intc_reset(ic);
	*out = move_ptr(&ic);
	return 0;
}

void intc_free(struct intc *ic)
{
	if (!ic)
		return;
	for (unsigned i = 0; i < ic->n; i++)
		timer_cancel_sync(ic->cfg.timers, &ic->cpu[i].timer);
	pthread_mutex_destroy(&ic->lock);
	free(ic);
}
