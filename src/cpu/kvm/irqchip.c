/* KVM's own local APICs, beside the board's 8259s and I/O APIC (KVM_CAP_SPLIT_IRQCHIP, KVM API
 * 7.5). While the vCPUs run, KVM has the local APICs: their registers, timers and halts, INIT and
 * start-up IPIs. While they stand, the board's chips have all of that, so that whatever happens to
 * a machine that stands (a move, a pause, a reset) knows one form of it only. begin() lends the
 * chips' state and end() gives it back, for all vCPUs at once: a message finds all of them on the
 * same side.
 *
 * What must not get lost on the way back is what KVM keeps where no ioctl shows it: that a timer
 * has run out and its interrupt has not reached the APIC, and that an interrupt has ended and the
 * I/O APIC has not been told. KVM settles both when it goes round its loop. So a vCPU that stops
 * sends it once round with a signal that waits, which keeps it from entering the guest
 * (irqchip_settle). It does so on its own thread: KVM takes milliseconds to get used to another.
 * A timer that runs out between then and end() is told by the clock. The 8259s' interrupts go in as
 * events that were begun, not by KVM_INTERRUPT, whose vector nothing shows.
 *
 * A deadline is read before the registers: a timer that runs out between the two is seen both as
 * waiting and as an interrupt, which come to one. A one-shot timer that has run out is said to have
 * no count, since KVM would start it again.
 */
#include "cpu/kvm/kvm_internal.h"

#include "base/own.h"
#include "cpu/x86/features.h"
#include "cpu/x86/kvm_para.h"
#include "cpu/x86/system.h"
#include "host/kick.h"
#include "mem/lapic_state.h"
#include "mem/platform.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define MSR_APIC_BASE	 0x1b
#define MSR_TSC_DEADLINE 0x6e0

#define REG_SVR		     0x0f
#define REG_LVT_TIMER	     0x32
#define REG_ICOUNT	     0x38
#define REG_CCOUNT	     0x39
#define REG_DIVIDE	     0x3e
#define SVR_NO_EOI_BROADCAST BIT(12)
#define TIMER_MODE(lvt)	     ((lvt) >> 17 & 3)

#define IOAPIC_PINS 24

static uint64_t clock_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static bool set_msr(struct kvm_cpu *k, uint32_t msr, uint64_t val)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} set = { .head.nmsrs = 1, .entry = { .index = msr, .data = val } };

	return kvm_ioctl(k->fd, KVM_SET_MSRS, &set) == 1;
}

static uint64_t get_msr(struct kvm_cpu *k, uint32_t msr)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} set = { .head.nmsrs = 1, .entry.index = msr };

	return kvm_ioctl(k->fd, KVM_GET_MSRS, &set) == 1 ? set.entry.data : 0;
}

static bool refused(struct kvm_cpu *k, const char *what)
{
	report_errno(k, what, errno);
	return false;
}

/* -- Where a vCPU stands: running, halted, waiting for a start-up IPI ---------------------------
 */

static bool put_mp_state(struct kvm_cpu *k)
{
	struct kvm_mp_state s = { .mp_state = KVM_MP_STATE_RUNNABLE };

	if (k->c->mp_state == MP_HALTED)
		s.mp_state = KVM_MP_STATE_HALTED;
	else if (k->c->mp_state == MP_WAIT_SIPI)
		s.mp_state = KVM_MP_STATE_INIT_RECEIVED;
	return kvm_ioctl(k->fd, KVM_SET_MP_STATE, &s) == 0 || refused(k, "start or halt a CPU");
}

/* Also serves INIT and a start-up IPI that wait in KVM. */
static void take_mp_state(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;
	struct kvm_mp_state s;

	if (c->mp_state == MP_SHUTDOWN || k->broken)
		return;
	if (kvm_ioctl(k->fd, KVM_GET_MP_STATE, &s) < 0) {
		refused(k, "learn whether a CPU is halted");
		return;
	}
	switch (s.mp_state) {
	case KVM_MP_STATE_HALTED: c->mp_state = MP_HALTED; break;
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED: c->mp_state = MP_WAIT_SIPI; break;
	default: c->mp_state = MP_RUNNING;
	}
}

/* -- What the board calls -----------------------------------------------------------------------
 */

static void load(void *host, unsigned index, const struct lapic_state *s)
{
	struct kvm_vm *vm = host;
	struct kvm_cpu *k = kvm_of(vm->set->v[index]);
	struct kvm_lapic_state regs = { 0 };

	if (k->broken)
		return;
	k->count = s->reg[REG_CCOUNT];
	k->count_at_ns = clock_now_ns();
	for (unsigned reg = 0; reg < LAPIC_REGS; reg++)
		memcpy(regs.regs + reg * 16, &s->reg[reg], 4);
	/* The base before the registers: it says what they look like. One that KVM refuses is the
	 * guest's doing. */
	set_msr(k, MSR_APIC_BASE, s->base);
	if (kvm_ioctl(k->fd, KVM_SET_LAPIC, &regs) < 0 ||
	    (cpu_has(k->c->model, FEAT_TSC_DEADLINE) &&
	     !set_msr(k, MSR_TSC_DEADLINE, s->tsc_deadline)))
		refused(k, "set the local APIC");
}

static bool get_lapic(struct kvm_cpu *k, uint32_t reg[LAPIC_REGS])
{
	struct kvm_lapic_state regs;

	if (kvm_ioctl(k->fd, KVM_GET_LAPIC, &regs) < 0)
		return refused(k, "get the local APIC");
	for (unsigned n = 0; n < LAPIC_REGS; n++)
		memcpy(&reg[n], regs.regs + n * 16, 4);
	return true;
}

static bool counts(const uint32_t reg[LAPIC_REGS])
{
	return reg[REG_ICOUNT] && TIMER_MODE(reg[REG_LVT_TIMER]) < 2;
}

/* The current count by what it was when the timer was flushed: if it has run out since, KVM's count
 * says nothing of it any more, and its interrupt is hidden. So it runs out again, at once. */
static uint32_t left_now(const struct kvm_cpu *k, const uint32_t reg[LAPIC_REGS])
{
	unsigned d = (reg[REG_DIVIDE] & 3) | (reg[REG_DIVIDE] >> 1 & 4);
	uint64_t step_ns = (d == 7 ? 1 : 2u << d) * k->c->model->apic_tick_ns;
	uint64_t gone = (clock_now_ns() - k->count_at_ns) / step_ns;

	if (!k->count)
		return 0;
	return gone < k->count ? k->count - (uint32_t)gone : 1;
}

static void save(void *host, unsigned index, struct lapic_state *s)
{
	struct kvm_vm *vm = host;
	struct kvm_cpu *k = kvm_of(vm->set->v[index]);

	memset(s, 0, sizeof(*s));
	s->tsc_deadline = get_msr(k, MSR_TSC_DEADLINE);
	if (get_lapic(k, s->reg) && counts(s->reg))
		s->reg[REG_CCOUNT] = left_now(k, s->reg);
}

static bool send(void *host, uint64_t addr, uint32_t data)
{
	const struct kvm_vm *vm = host;
	struct kvm_msi msi = { .address_lo = (uint32_t)addr, .data = data };

	return kvm_ioctl(vm->fd, KVM_SIGNAL_MSI, &msi) > 0;
}

struct routing {
	struct kvm_irq_routing head;
	struct kvm_irq_routing_entry entry[IOAPIC_PINS];
};

static void watch(void *host, const struct lapic_route *route, unsigned n)
{
	const struct kvm_vm *vm = host;
	struct routing r = { 0 };

	for (unsigned pin = 0; pin < n && pin < IOAPIC_PINS; pin++)
		if (route[pin].addr)
			r.entry[r.head.nr++] = (struct kvm_irq_routing_entry){
				.gsi = pin,
				.type = KVM_IRQ_ROUTING_MSI,
				.u.msi = { .address_lo = (uint32_t)route[pin].addr,
					   .data = route[pin].data },
			};
	kvm_ioctl(vm->fd, KVM_SET_GSI_ROUTING, &r);
}

static const struct lapic_host host_ops = {
	.load = load,
	.save = save,
	.send = send,
	.watch = watch,
};

/* -- A kick of a paravirtual spinlock ------------------------------------------------------------
 */

#define REMOTE_READ 3 /* the delivery mode by which KVM itself sends such a kick */

/* The next HLT ends at once, or this one. KVM tells only of a kick that has come to a halt, so any
 * vCPU whose guest may send them has had one when it comes back. */
static void take_unhalted(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;

	if (c->pv_ops && c->pv.steal_time && c->pv_ops->features(c->pv_arg) & KVM_FEATURE_PV_UNHALT)
		c->pv.unhalted = true;
}

static void put_unhalted(struct kvm_vm *vm, struct vcpu *c)
{
	if (atomic_fetch_and(&c->kick, ~(uint32_t)KICK_UNHALT) & KICK_UNHALT || c->pv.unhalted)
		send(vm, LAPIC_DEFAULT_BASE | (uint64_t)c->index << 12, REMOTE_READ << 8);
	c->pv.unhalted = false;
}

/* -- Lending and giving back --------------------------------------------------------------------
 */

/* Everything is in place for KVM but the local APICs. */
static void prepare(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;

	run_serve_start_up(k);
	if (k->must_push && c->mp_state != MP_SHUTDOWN && !state_push(k))
		return;
	state_sync_tsc(k); /* deadlines go by it */
	if (c->mp_state == MP_SHUTDOWN || !put_mp_state(k))
		return;
	k->unsure = true;
	if (!c->pv_ops)
		return;
	c->pv.by_engine = true;
	irqchip_pv_written(k, MSR_KVM_STEAL_TIME);
	irqchip_pv_written(k, MSR_KVM_PV_EOI);
}

void irqchip_begin(struct kvm_vm *vm)
{
	struct vcpu_set *set = vm->set;

	if (!vm->has_irqchip || atomic_load(&vm->lent))
		return;
	while (!atomic_load(&vm->lent)) {
		for (unsigned i = 0; i < set->n; i++)
			prepare(kvm_of(set->v[i]));
		if (set->v[0]->apic_ops->lend(set->v[0]->apic, &host_ops, vm))
			atomic_store(&vm->lent, true);
	}
	/* From now on KVM knows. */
	for (unsigned i = 0; i < set->n; i++) {
		put_unhalted(vm, set->v[i]);
		if (set->v[i]->mp_state != MP_SHUTDOWN)
			set->v[i]->mp_state = MP_RUNNING;
	}
}

/* Let KVM go round its loop without entering the guest. */
static void flush(struct kvm_cpu *k)
{
	struct {
		struct kvm_signal_mask head;
		uint64_t mask;
	} __attribute__((packed)) m = { .head.len = sizeof(m.mask) };
	uint64_t mask;

	if (k->broken || k->c->mp_state == MP_SHUTDOWN || !run_settle(k))
		return;
	kick_hold(&mask);
	m.mask = mask;
	if (kvm_ioctl(k->fd, KVM_SET_SIGNAL_MASK, &m) == 0)
		run_until_signal(k);
	ioctl(k->fd, KVM_SET_SIGNAL_MASK, NULL);
	kick_let_come(mask);
}

/* A timer that counts may have run out since the flush, so that its interrupt is still hidden. If
 * so it is flushed again; a periodic one that is faster than that goes on as it likes. */
static void flush_timer(struct kvm_cpu *k)
{
	uint32_t before[LAPIC_REGS], after[LAPIC_REGS];

	for (unsigned n = 0; n < 8 && !k->broken; n++) {
		if (!get_lapic(k, before) || !counts(before))
			return;
		flush(k);
		k->count_at_ns = clock_now_ns();
		if (k->broken || !get_lapic(k, after))
			return;
		k->count = after[REG_CCOUNT];
		/* Nothing left of either: it ran out before the flush. */
		if (after[REG_CCOUNT] ? after[REG_CCOUNT] <= before[REG_CCOUNT]
				      : !before[REG_CCOUNT])
			return;
	}
}

void irqchip_settle(struct kvm_cpu *k)
{
	if (!atomic_load(&k->vm->lent))
		return;
	flush(k);
	flush_timer(k);
}

static void give_back(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;

	take_mp_state(k);
	take_unhalted(k);
	if (!c->pv.by_engine)
		return;
	/* INIT switches it off. */
	c->pv.eoi = get_msr(k, MSR_KVM_PV_EOI);
	/* KVM shall not write there while others run the vCPU. */
	set_msr(k, MSR_KVM_STEAL_TIME, 0);
	c->pv.by_engine = false;
}

void irqchip_end(struct kvm_vm *vm)
{
	struct vcpu_set *set = vm->set;

	if (!atomic_load(&vm->lent))
		return;
	for (unsigned i = 0; i < set->n; i++)
		give_back(kvm_of(set->v[i]));
	set->v[0]->apic_ops->take_back(set->v[0]->apic);
	atomic_store(&vm->lent, false);
}

/* -- While it runs -------------------------------------------------------------------------- */

void irqchip_sync_base(struct kvm_cpu *k)
{
	uint64_t base;

	if (k->c->apic_ops->read_msr(k->c->apic, MSR_APIC_BASE, &base))
		set_msr(k, MSR_APIC_BASE, base);
}

/* The timer waits for a time of the host's, and is set again for the guest's new one. */
void irqchip_tsc_moved(struct kvm_cpu *k)
{
	uint64_t deadline = get_msr(k, MSR_TSC_DEADLINE);

	if (deadline)
		set_msr(k, MSR_TSC_DEADLINE, deadline);
}

void irqchip_pv_written(struct kvm_cpu *k, uint32_t msr)
{
	const struct vcpu_pv *pv = &k->c->pv;

	/* What KVM does not take does nothing. */
	if (msr == MSR_KVM_STEAL_TIME)
		set_msr(k, msr, pv->steal_time);
	else if (msr == MSR_KVM_PV_EOI)
		set_msr(k, msr, pv->eoi);
}

void irqchip_ended(struct kvm_cpu *k, uint8_t vector)
{
	struct vcpu *c = k->c;
	uint32_t reg[LAPIC_REGS];

	/* KVM tells of it also where the guest has switched broadcasts off. */
	if (get_lapic(k, reg) && !(reg[REG_SVR] & SVR_NO_EOI_BROADCAST))
		c->apic_ops->ended(c->apic, vector);
}

bool irqchip_inject(struct kvm_cpu *k, uint8_t vector)
{
	struct kvm_mp_state running = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_vcpu_events e;

	if (kvm_ioctl(k->fd, KVM_GET_VCPU_EVENTS, &e) < 0)
		return refused(k, "get the pending events");
	e.interrupt.injected = 1;
	e.interrupt.nr = vector;
	e.interrupt.soft = 0;
	e.flags = 0; /* all else, also an NMI that comes meanwhile, stays as it is */
	if (kvm_ioctl(k->fd, KVM_SET_VCPU_EVENTS, &e) < 0 ||
	    kvm_ioctl(k->fd, KVM_SET_MP_STATE, &running) < 0)
		return refused(k, "give the guest an interrupt");
	return true;
}

/* -- Making the VM ------------------------------------------------------------------------------
 */

#ifndef KVM_CAP_X86_APIC_BUS_CYCLES_NS /* Linux 6.11 */
#define KVM_CAP_X86_APIC_BUS_CYCLES_NS 237
#endif

static bool has_all(int fd)
{
	static const unsigned caps[] = { KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_SIGNAL_MSI,
					 KVM_CAP_MP_STATE, KVM_CAP_IRQ_ROUTING,
					 KVM_CAP_TSC_DEADLINE_TIMER };

	if (getenv("CLEAVE_KVM_NO_IRQCHIP"))
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(caps); i++)
		if (ioctl(fd, KVM_CHECK_EXTENSION, caps[i]) <= 0)
			return false;
	return true;
}

unsigned irqchip_tick_ns(int kvm, unsigned wanted_ns)
{
	if (has_all(kvm) && ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_X86_APIC_BUS_CYCLES_NS) <= 0)
		return 1;
	return wanted_ns;
}

/* KVM executes hypercalls itself. It finds a call's target by its own local APICs, and what is to
 * be flushed where it writes the time that was stolen. */
uint32_t irqchip_pv_calls(int kvm, uint32_t has)
{
	uint32_t memory = KVM_FEATURE_STEAL_TIME | KVM_FEATURE_PV_EOI;

	return has_all(kvm) && (has & memory) == memory ? has : 0;
}

static bool enable(struct kvm_vm *vm, unsigned cap, uint64_t arg)
{
	struct kvm_enable_cap e = { .cap = cap, .args = { arg } };

	return kvm_ioctl(vm->fd, KVM_ENABLE_CAP, &e) == 0;
}

int irqchip_init(struct kvm_vm *vm, const struct vcpu *c)
{
	unsigned tick_ns = c->model->apic_tick_ns;

	if (!c->apic_ops || !c->apic_ops->lend || !has_all(vm->fd))
		return 0;
	/* The guest was told how fast its timers count. */
	if (tick_ns != 1 && ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_X86_APIC_BUS_CYCLES_NS) <= 0)
		return 0;
	if (!enable(vm, KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS))
		return 0;
	vm->has_irqchip = true;
	return tick_ns == 1 || enable(vm, KVM_CAP_X86_APIC_BUS_CYCLES_NS, tick_ns) ? 0 : -1;
}
