#include "machine/pv.h"

#include "base/err.h"
#include "cpu/vcpu.h"
#include "cpu/x86/kvm_para.h"
#include "cpu/x86/vmem.h"
#include "dev/chip/apic_msg.h"
#include "machine/intc.h"
#include "mem/physmap.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#define BY_MEMORY                                                                                  \
	(KVM_FEATURE_CLOCKSOURCE | KVM_FEATURE_NOP_IO_DELAY | KVM_FEATURE_CLOCKSOURCE2 |           \
	 KVM_FEATURE_STEAL_TIME | KVM_FEATURE_PV_EOI | KVM_FEATURE_POLL_CONTROL |                  \
	 KVM_FEATURE_CLOCKSOURCE_STABLE)
/* And what is done by a TLB that is ours. */
#define BY_HYPERCALL                                                                               \
	(KVM_FEATURE_PV_UNHALT | KVM_FEATURE_PV_TLB_FLUSH | KVM_FEATURE_PV_SEND_IPI |              \
	 KVM_FEATURE_PV_SCHED_YIELD)
#define STEAL_EVERY_NS 4000000 /* between two looks at what was stolen */

struct pv_cpu {
	struct pv *pv;
	struct vcpu *c;
	uint64_t looked_ns, entered_ns;
	uint64_t
		inside_ns; /* for so long the thread had guest code to run, since the guest asked */
	uint64_t cpu_ns;   /* processor time of the thread when it asked */
	uint64_t stolen_ns; /* so much of inside_ns it did not run */
	bool not_ours;	    /* the engine wrote what was stolen since */
};

struct pv {
	struct vcpu_set *set;
	struct intc *ic;
	uint32_t mul; /* TSC to ns */
	int8_t shift;
	_Atomic int64_t origin;
	uint32_t features;
	struct pv_cpu cpu[];
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* RAM that the guest named; NULL if there is none. */
static void *ram(const struct vcpu *c, gpa_t gpa, uint64_t len)
{
	bool rom = false; /* it is not said of what is not there */
	void *p = physmap_host(c->pm, gpa, len, &rom);

	return rom ? NULL : p;
}

/* -- Clocks ----------------------------------------------------------------------------------- */

/* ns = (ticks shifted by shift) * mul / 2^32 */
static void set_scale(struct pv *pv, uint64_t tsc_khz)
{
	uint64_t mul = (1000000ull << 32) / tsc_khz;

	for (; mul >> 32; mul >>= 1)
		pv->shift++;
	/* As precise as 32 bits can say it. */
	for (; !(mul & BIT(31)); pv->shift--)
		mul = (unsigned __int128)1000000 * ((unsigned __int128)1 << (33 - pv->shift)) /
		      tsc_khz;
	pv->mul = (uint32_t)mul;
}

static uint64_t system_time(const struct pv *pv, const struct vcpu *c)
{
	uint64_t ticks = vcpu_raw_tsc(c) + (uint64_t)atomic_load(&pv->origin);

	ticks = pv->shift < 0 ? ticks >> -pv->shift : ticks << pv->shift;
	return (uint64_t)((unsigned __int128)ticks * pv->mul >> 32);
}

/* The place is a multiple of 4 (KVM API, MSR_KVM_SYSTEM_TIME_NEW); nothing is written to another.
 */
static void write_system_time(struct pv_cpu *p)
{
	const struct vcpu *c = p->c;
	gpa_t gpa = c->pv.system_time & ~(uint64_t)KVM_MSR_ENABLED;
	/* A vCPU whose TSC the guest has set has the same time by another count. */
	uint64_t zero = (uint64_t)(atomic_load(&c->tsc_offset) - atomic_load(&p->pv->origin));
	struct pvclock_vcpu_time_info t = { .tsc_timestamp = zero,
					    .tsc_to_system_mul = p->pv->mul,
					    .tsc_shift = p->pv->shift,
					    .flags = zero ? 0 : PVCLOCK_TSC_STABLE };
	size_t body = offsetof(struct pvclock_vcpu_time_info, tsc_timestamp);
	uint8_t *to = gpa % 4 ? NULL : ram(c, gpa, sizeof(t));
	uint32_t *version = (uint32_t *)(void *)to, count;

	if (!(c->pv.system_time & KVM_MSR_ENABLED) || !to)
		return;
	count = (__atomic_load_n(version, __ATOMIC_RELAXED) | 1) + 2;
	__atomic_store_n(version, count, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	memcpy(to + body, (const uint8_t *)&t + body, sizeof(t) - body);
	__atomic_store_n(version, count + 1, __ATOMIC_RELEASE);
	physmap_stored_range(c->pm, to, sizeof(t));
}

static void write_wall_clock(struct pv_cpu *p)
{
	uint64_t boot = clock_ns(CLOCK_REALTIME) - system_time(p->pv, p->c);
	struct pvclock_wall_clock w = { .version = 2,
					.sec = (uint32_t)(boot / 1000000000),
					.nsec = (uint32_t)(boot % 1000000000) };

	physmap_write(p->c->pm, p->c->pv.wall_clock, &w, sizeof(w));
}

/* -- Stolen time, and what waits for a vCPU that does not run ---------------------------------- */

static struct kvm_steal_time *steal_place(const struct vcpu *c)
{
	return c->pv.steal_time & KVM_MSR_ENABLED && !c->pv.by_engine
		       ? ram(c, c->pv.steal_time & ~(uint64_t)63, sizeof(struct kvm_steal_time))
		       : NULL;
}

static void write_steal(struct pv_cpu *p, struct kvm_steal_time *to)
{
	uint32_t version = __atomic_load_n(&to->version, __ATOMIC_RELAXED) | 1;
	uint64_t ran = clock_ns(CLOCK_THREAD_CPUTIME_ID) - p->cpu_ns;

	/* The thread's own work between two runs counts as running, so it may seem less than
	 * before. */
	if (p->inside_ns > ran && p->inside_ns - ran > p->stolen_ns)
		p->stolen_ns = p->inside_ns - ran;
	__atomic_store_n(&to->version, version, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	to->steal = p->stolen_ns;
	__atomic_store_n(&to->version, version + 1, __ATOMIC_RELEASE);
}

/* Say whether the vCPU runs, and what was said until now. Its guest's other vCPUs read and write
 * this byte meanwhile; that race is the guest's (tests/tsan.supp). */
static uint8_t set_preempted(struct kvm_steal_time *to, uint8_t value)
{
	return __atomic_exchange_n(&to->preempted, value, __ATOMIC_SEQ_CST);
}

static void on_enter(void *arg)
{
	struct pv_cpu *p = arg;
	struct kvm_steal_time *to = steal_place(p->c);

	p->not_ours |= p->c->pv.by_engine;
	if (!to)
		return;
	if (set_preempted(to, 0) & KVM_VCPU_FLUSH_TLB)
		vmem_flush(p->c, true);
	p->entered_ns = clock_ns(CLOCK_MONOTONIC);
	if (p->not_ours) {
		/* Go on from there. */
		p->not_ours = false;
		p->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
		p->inside_ns = p->stolen_ns = to->steal;
	}
	if (p->entered_ns - p->looked_ns > STEAL_EVERY_NS) {
		p->looked_ns = p->entered_ns;
		write_steal(p, to);
	}
	physmap_stored_range(p->c->pm, (uint8_t *)to, sizeof(*to));
}

/* Time since the last look, in which there was guest code to run. */
static void count_inside(struct pv_cpu *p)
{
	uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);

	p->inside_ns += now_ns - p->entered_ns;
	p->entered_ns = now_ns;
}

void pv_look(struct vcpu *c)
{
	struct kvm_steal_time *to = c->pv_ops ? steal_place(c) : NULL;
	struct pv_cpu *p = c->pv_arg;

	if (!to || clock_ns(CLOCK_MONOTONIC) - p->looked_ns <= STEAL_EVERY_NS)
		return;
	count_inside(p);
	p->looked_ns = p->entered_ns;
	write_steal(p, to);
	physmap_stored_range(c->pm, (uint8_t *)to, sizeof(*to));
}

static void on_leave(void *arg)
{
	struct pv_cpu *p = arg;
	struct kvm_steal_time *to = steal_place(p->c);

	if (!to)
		return;
	count_inside(p);
	set_preempted(to, KVM_VCPU_PREEMPTED);
	physmap_stored_range(p->c->pm, &to->preempted, 1);
}

/* From now on time may be stolen. */
static void begin_steal(struct pv_cpu *p)
{
	p->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	p->inside_ns = p->looked_ns = 0;
	on_enter(p);
}

/* -- EOI by memory ---------------------------------------------------------------------------- */

static uint8_t *eoi_place(const struct vcpu *c)
{
	return c->pv_ops && c->pv.eoi & KVM_MSR_ENABLED && !c->pv.by_engine
		       ? ram(c, c->pv.eoi & ~(uint64_t)KVM_MSR_ENABLED, 4)
		       : NULL;
}

bool pv_eoi_offer(struct vcpu *c)
{
	uint8_t *to = eoi_place(c);

	if (!to)
		return false;
	__atomic_fetch_or(to, 1, __ATOMIC_SEQ_CST);
	physmap_stored_range(c->pm, to, 1);
	return true;
}

bool pv_eoi_taken(struct vcpu *c)
{
	uint8_t *to = eoi_place(c);

	return to && !(__atomic_fetch_and(to, (uint8_t)~1, __ATOMIC_SEQ_CST) & 1);
}

/* -- Registers -------------------------------------------------------------------------------- */

static uint32_t features(void *arg)
{
	const struct pv_cpu *p = arg;

	return p->pv->features;
}

static uint64_t *field(struct vcpu *c, uint32_t msr)
{
	switch (msr) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_OLD: return &c->pv.wall_clock;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_OLD: return &c->pv.system_time;
	case MSR_KVM_STEAL_TIME: return &c->pv.steal_time;
	case MSR_KVM_PV_EOI: return &c->pv.eoi;
	case MSR_KVM_POLL_CONTROL: return &c->pv.poll_control;
	default: return NULL;
	}
}

/* Bits that must be 0. */
static uint64_t reserved(uint32_t msr)
{
	switch (msr) {
	case MSR_KVM_STEAL_TIME: return 0x3e;
	case MSR_KVM_PV_EOI: return 2;
	case MSR_KVM_POLL_CONTROL: return ~1ull;
	default: return 0;
	}
}

static bool read_msr(void *arg, uint32_t msr, uint64_t *val)
{
	const struct pv_cpu *p = arg;
	const uint64_t *at = field(p->c, msr);

	if (at)
		*val = *at;
	return at != NULL;
}

static bool write_msr(void *arg, uint32_t msr, uint64_t val)
{
	struct pv_cpu *p = arg;
	uint64_t *at = field(p->c, msr);

	if (!at || val & reserved(msr))
		return false;
	if (msr == MSR_KVM_PV_EOI)
		intc_settle_eoi(p->c);
	*at = val;
	switch (msr) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_OLD: write_wall_clock(p); break;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_OLD: write_system_time(p); break;
	case MSR_KVM_STEAL_TIME: begin_steal(p); break;
	}
	return true;
}

static void on_reset(void *arg)
{
	struct pv_cpu *p = arg;

	p->c->pv = (struct vcpu_pv){ .poll_control = 1 };
}

static void on_tsc_moved(void *arg)
{
	write_system_time(arg);
}

/* -- Hypercalls ------------------------------------------------------------------------------- */

static struct vcpu *with_apic_id(struct pv *pv, uint64_t id)
{
	return id < pv->set->n ? pv->set->v[id] : NULL;
}

/* Documentation: KVM_HC_SEND_IPI. A bitmap of APIC ids, from the third argument on; what would be
 * written to the ICR is the fourth. */
static uint64_t send_ipi(struct pv_cpu *p, const uint64_t arg[4], bool wide)
{
	unsigned n_bits = wide ? 64 : 32;
	struct apic_msg m = { .vector = (uint8_t)arg[3],
			      .mode = arg[3] >> 8 & 7,
			      .x2apic_dest = true };
	uint64_t n = 0;

	if (m.mode != APIC_FIXED && m.mode != APIC_NMI)
		return -(uint64_t)EINVAL;
	for (unsigned bit = 0; bit < 2 * n_bits; bit++) {
		uint64_t id = arg[2] + bit;

		if (!(arg[bit / n_bits] >> (bit % n_bits) & 1) || !with_apic_id(p->pv, id))
			continue;
		m.dest = (uint32_t)id;
		n += intc_send(p->pv->ic, &m);
	}
	return n;
}

static uint64_t hypercall(void *opaque, uint64_t nr, const uint64_t arg[4])
{
	struct pv_cpu *p = opaque;
	struct vcpu *to;

	switch (nr) {
	case KVM_HC_VAPIC_POLL_IRQ: return 0;
	case KVM_HC_KICK_CPU:
		to = with_apic_id(p->pv, arg[1]);
		if (to)
			vcpu_kick(to, KICK_UNHALT);
		return 0;
	case KVM_HC_SEND_IPI: return send_ipi(p, arg, p->c->code64);
	case KVM_HC_SCHED_YIELD: sched_yield(); return 0;
	default: return -(uint64_t)KVM_ENOSYS;
	}
}

static const struct vcpu_pv_ops pv_ops = {
	.features = features,
	.read_msr = read_msr,
	.write_msr = write_msr,
	.hypercall = hypercall,
	.tsc_moved = on_tsc_moved,
	.reset = on_reset,
	.enter = on_enter,
	.leave = on_leave,
};

/* -- Coming and going ------------------------------------------------------------------------- */

int pv_new(struct pv **out, struct vcpu_set *set, struct intc *ic, uint64_t tsc_khz, uint32_t calls,
	   struct err *err)
{
	struct pv *pv = calloc(1, sizeof(*pv) + set->n * sizeof(pv->cpu[0]));

	if (!pv)
		return err_set(err, ENOMEM, "the paravirtual interface");
	pv->set = set;
	pv->ic = ic;
	set_scale(pv, tsc_khz);
	pv->features = BY_MEMORY | (BY_HYPERCALL & calls);
	for (unsigned i = 0; i < set->n; i++) {
		pv->cpu[i] = (struct pv_cpu){ .pv = pv, .c = set->v[i] };
		set->v[i]->pv_ops = &pv_ops;
		set->v[i]->pv_arg = &pv->cpu[i];
	}
	*out = pv;
	return 0;
}

void pv_free(struct pv *pv)
{
	if (!pv)
		return;
	for (unsigned i = 0; i < pv->set->n; i++)
		pv->set->v[i]->pv_ops = NULL;
	free(pv);
}

void pv_set_origin(struct pv *pv, int64_t offset)
{
	atomic_store(&pv->origin, offset);
}
