/* Engine kvm: the run loop and its exits. KVM API 4.10 "KVM_RUN" and 5 "The kvm_run structure".
 *
 * KVM has the local APICs while the vCPUs run, and the board's chips have them while they stand:
 * irqchip.c. Halts are slept in KVM then. Where KVM cannot, the interrupt controllers are the
 * board's chips all the time: an interrupt goes in by KVM_INTERRUPT where the vCPU can take one,
 * else KVM is asked to come back as soon as it can. The APIC's page is in no memory slot and its
 * MSRs are denied by the filter, so that both are exits. CR8 goes with every entry and exit.
 * Either way all there is to move from and to another engine is struct vcpu.
 *
 * Registers stay in KVM between two exits, also between two runs. No exit needs any of them: what a
 * port, MMIO or MSR access is about is in struct kvm_run. Only INIT, a failure and pull() look.
 *
 * Kicks, without a race and without a signal mask: who kicks sets vcpu.kick first, then
 * immediate_exit, and sends the signal of host/kick.h if the thread is inside KVM_RUN by then. The
 * thread clears immediate_exit and only then looks at vcpu.kick; later it says that it is inside,
 * and enters. Whatever the order, either it sees the bit, or KVM sees immediate_exit, or the signal
 * comes while KVM runs.
 *
 * What a filter of the vCPU's thread has to allow for this engine. System calls: ioctl on the
 * descriptors of the VM and the vCPU, tgkill and rt_sigreturn (kicks, from any thread of the
 * process), rt_sigprocmask, futex. ioctls of the vCPU: KVM_RUN, KVM_INTERRUPT, KVM_NMI, KVM_GET_
 * and KVM_SET_ REGS, SREGS, SREGS2, XSAVE, XCRS, MSRS, DEBUGREGS, VCPU_EVENTS, DEVICE_ATTR, LAPIC,
 * MP_STATE, KVM_SET_GUEST_DEBUG, KVM_SET_SIGNAL_MASK. Of the VM: KVM_SIGNAL_MSI by any thread that
 * has an interrupt to send, KVM_SET_GSI_ROUTING, KVM_IOEVENTFD, KVM_RESET_DIRTY_RINGS;
 * KVM_SET_USER_MEMORY_REGION and KVM_GET_DIRTY_LOG by who starts, stops and reads the dirty log,
 * and the first of them by inval(). Before the filter: all that init() does (open of /dev/kvm,
 * KVM_CREATE_VM, KVM_CREATE_VCPU, mmap of the vCPU, rt_sigaction ...) and the probe (timer_create,
 * too). Signals: that of host/kick.h must not be blocked.
 *
 * All vCPUs of a machine are on this engine or none: the guest's stores are not told to the
 * physical map, so a vCPU that comes from here to another engine has to forget all decoded code.
 */
#include "cpu/kvm/kvm_internal.h"

#include "base/err.h"
#include "base/log.h"
#include "base/trace.h"
#include "cpu/engine.h"
#include "cpu/kvm/kvm.h"
#include "cpu/x86/system.h"
#include "host/kick.h"
#include "mem/iospace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define MSR_APIC_BASE 0x1b
#define MSR_X2APIC    0x800u

/* -- Exits ---------------------------------------------------------------------------------- */

/* One element of a port access; a repeated string instruction has many. */
static void port_access(struct vcpu *c, const struct kvm_run *r, uint8_t *data)
{
	uint64_t val = 0;

	if (r->io.direction == KVM_EXIT_IO_IN) {
		val = iospace_read(c->pio, r->io.port, r->io.size);
		memcpy(data, &val, r->io.size);
	} else {
		memcpy(&val, data, r->io.size);
		iospace_write(c->pio, r->io.port, r->io.size, val);
	}
	c->stats.port_ios++;
	if (trace_on(TRACE_PIO))
		trace_print(TRACE_PIO, "%s %#x %s %#llx (%u bytes)",
			    r->io.direction == KVM_EXIT_IO_IN ? "in" : "out", r->io.port,
			    r->io.direction == KVM_EXIT_IO_IN ? "->" : "<-",
			    (unsigned long long)val, r->io.size);
}

static void exit_io(struct kvm_cpu *k)
{
	const struct kvm_run *r = k->run;
	uint8_t *data = (uint8_t *)k->run + r->io.data_offset;

	for (uint32_t i = 0; i < r->io.count; i++)
		port_access(k->c, r, data + (size_t)i * r->io.size);
	k->stats.ports++;
}

/* Is the vCPU's local APIC the board's chip now? */
static bool board_has_apic(const struct vcpu *c)
{
	return c->apic_ops && !kvm_of(c)->vm->has_irqchip;
}

static uint64_t mmio_read(struct vcpu *c, gpa_t gpa, unsigned size)
{
	if (board_has_apic(c) && c->apic_ops->owns_gpa(c->apic, gpa))
		return c->apic_ops->read(c->apic, gpa & (PAGE_SIZE - 1), size);
	return iospace_read(c->mmio, gpa, size);
}

static void mmio_write(struct vcpu *c, gpa_t gpa, unsigned size, uint64_t val)
{
	/* A store to ROM comes here too, and is dropped. */
	if (physmap_host(c->pm, gpa, size, NULL))
		return;
	if (board_has_apic(c) && c->apic_ops->owns_gpa(c->apic, gpa))
		c->apic_ops->write(c->apic, gpa & (PAGE_SIZE - 1), size, val);
	else
		iospace_write(c->mmio, gpa, size, val);
}

/* An access across pages comes in parts of any length; a bus has 1, 2, 4 and 8 bytes. */
static unsigned bus_size(unsigned len)
{
	return len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;
}

static void exit_mmio(struct kvm_cpu *k)
{
	struct kvm_run *r = k->run;
	struct vcpu *c = k->c;

	for (unsigned done = 0, n; done < r->mmio.len; done += n) {
		gpa_t gpa = r->mmio.phys_addr + done;
		uint64_t val = 0;

		n = bus_size(r->mmio.len - done);
		if (r->mmio.is_write) {
			memcpy(&val, r->mmio.data + done, n);
			mmio_write(c, gpa, n, val);
		} else {
			val = mmio_read(c, gpa, n);
			memcpy(r->mmio.data + done, &val, n);
		}
		c->stats.mmios++;
		if (trace_on(TRACE_MMIO))
			trace_print(TRACE_MMIO, "%s %#llx %s %#llx (%u bytes)",
				    r->mmio.is_write ? "write" : "read", (unsigned long long)gpa,
				    r->mmio.is_write ? "<-" : "->", (unsigned long long)val, n);
	}
	k->stats.mmios++;
}

/* The filter keeps it from KVM, or KVM without its own APIC knows nothing of it. What else comes
 * is an access that KVM refuses. */
static bool is_our_msr(const struct vcpu *c, const struct kvm_run *r)
{
	return r->msr.reason == KVM_MSR_EXIT_REASON_FILTER ||
	       (board_has_apic(c) && r->msr.index >= MSR_X2APIC &&
		r->msr.index < MSR_X2APIC + 0x100);
}

static enum x86_exc access_msr(struct vcpu *c, const struct kvm_run *r, bool write, uint64_t *val)
{
	if (!is_our_msr(c, r))
		return EXC_GP;
	return write ? msr_write(c, r->msr.index, *val) : msr_read(c, r->msr.index, val);
}

static void exit_msr(struct kvm_cpu *k, bool write)
{
	struct kvm_run *r = k->run;
	struct vcpu *c = k->c;
	uint64_t val = r->msr.data;
	enum x86_exc exc = access_msr(c, r, write, &val);

	r->msr.data = val;
	r->msr.error = exc != EXC_NONE;
	if (write && !exc) {
		state_sync_tsc(k);
		if (r->msr.index == MSR_APIC_BASE)
			state_sync_apic_base(k);
		if (k->vm->has_irqchip)
			irqchip_pv_written(k, r->msr.index);
	}
	k->stats.msrs++;
	if (trace_on(TRACE_MSR))
		trace_print(TRACE_MSR, "%s %#x: %#llx%s", write ? "wrmsr" : "rdmsr", r->msr.index,
			    (unsigned long long)val, exc ? ", #GP" : "");
}

/* What is left to do when KVM has come back. */
enum outcome {
	GO_ON,
	HALT,
	SHUTDOWN,
	BROKEN,
};

static enum outcome handle_exit(struct kvm_cpu *k)
{
	struct kvm_run *r = k->run;

	switch (r->exit_reason) {
	case KVM_EXIT_IO: exit_io(k); break;
	case KVM_EXIT_MMIO: exit_mmio(k); break;
	case KVM_EXIT_X86_RDMSR: exit_msr(k, false); break;
	case KVM_EXIT_X86_WRMSR: exit_msr(k, true); break;
	case KVM_EXIT_HLT: return HALT;
	case KVM_EXIT_IRQ_WINDOW_OPEN: k->stats.windows++; return GO_ON;
	case KVM_EXIT_IOAPIC_EOI: irqchip_ended(k, r->eoi.vector); return GO_ON;
	case KVM_EXIT_DIRTY_RING_FULL: ring_full(k); return GO_ON;
	case KVM_EXIT_SET_TPR:
	case KVM_EXIT_INTR: return GO_ON;
	case KVM_EXIT_SHUTDOWN: return SHUTDOWN;
	case KVM_EXIT_DEBUG: return debug_exit(k) ? GO_ON : k->broken ? BROKEN : SHUTDOWN;
	default: report_exit(k); return BROKEN;
	}
	k->io_pending = true;
	return GO_ON;
}

/* Enter KVM once and do what the exit asks for. */
static enum outcome enter(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;
	struct kvm_run *r = k->run;
	int ret;

	if (board_has_apic(c))
		r->cr8 = c->apic_ops->get_cr8(c->apic);
	k->stats.runs++;
	atomic_store(&k->inside, true);
	ret = ioctl(k->fd, KVM_RUN, 0);
	atomic_store_explicit(&k->inside, false, memory_order_release);
	k->interrupted = ret < 0 && errno == EINTR;
	if (ret < 0 && errno != EINTR && errno != EAGAIN) {
		report_errno(k, "run the vCPU", errno);
		return BROKEN;
	}
	k->io_pending = false;
	/* Before what the exit is about, which may depend on it. */
	if (board_has_apic(c) && r->cr8 != c->apic_ops->get_cr8(c->apic))
		c->apic_ops->set_cr8(c->apic, r->cr8);
	return ret < 0 ? GO_ON : handle_exit(k);
}

/* -- Kicks ---------------------------------------------------------------------------------- */

static void set_immediate_exit(struct kvm_cpu *k, uint8_t val)
{
	__atomic_store_n(&k->run->immediate_exit, val, __ATOMIC_SEQ_CST);
}

static void kvm_kick(struct vcpu *c)
{
	struct kvm_cpu *k = kvm_of(c);

	if (!k)
		return;
	set_immediate_exit(k, 1);
	if (atomic_load(&k->inside))
		kick_thread(k->thread);
}

/* With immediate_exit KVM finishes what an exit had begun, and does not enter the guest. Finishing
 * a string instruction may be another exit. */
bool run_settle(struct kvm_cpu *k)
{
	while (k->io_pending) {
		set_immediate_exit(k, 1);
		switch (enter(k)) {
		case GO_ON: break;
		case HALT: k->c->mp_state = MP_HALTED; return true;
		case SHUTDOWN: k->c->mp_state = MP_SHUTDOWN; return false;
		case BROKEN: return false;
		}
	}
	return true;
}

void run_until_signal(struct kvm_cpu *k)
{
	/* Who kicks meanwhile may make KVM come back before it has looked at anything. */
	for (unsigned n = 0; n < 100; n++) {
		set_immediate_exit(k, 0);
		switch (enter(k)) {
		case SHUTDOWN: k->c->mp_state = MP_SHUTDOWN; return;
		case BROKEN: return;
		default: break;
		}
		if (k->interrupted && !__atomic_load_n(&k->run->immediate_exit, __ATOMIC_SEQ_CST))
			return;
	}
}

/* The controller, the TLB and the registers of a vCPU that INIT has reached. */
static bool serve_init(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;

	state_pull(k);
	if (k->broken)
		return false;
	vcpu_init_ipi(c);
	if (c->apic_ops)
		c->apic_ops->init_reset(c->apic);
	k->must_push = true;
	return true;
}

static void serve_sipi(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;

	if (c->mp_state != MP_WAIT_SIPI || !(k->must_push || state_pull(k)))
		return;
	vcpu_sipi(c, atomic_load(&c->sipi_vector));
	k->must_push = true;
}

void run_serve_start_up(struct kvm_cpu *k)
{
	uint32_t bits = atomic_fetch_and(&k->c->kick, ~(uint32_t)(KICK_INIT | KICK_SIPI));

	if (bits & KICK_INIT && !serve_init(k))
		return;
	if (bits & KICK_SIPI)
		serve_sipi(k);
}

enum served { SERVED, SERVED_STOP, SERVED_BROKEN };

static enum served serve_kicks(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;
	uint32_t bits;

	set_immediate_exit(k, 0);
	bits = atomic_exchange(&c->kick, 0);
	if (!bits)
		return SERVED;
	k->stats.kicks++;
	if (bits & KICK_INIT && !serve_init(k))
		return SERVED_BROKEN;
	if (bits & KICK_SIPI)
		serve_sipi(k);
	if (bits & KICK_NMI)
		c->nmi_pending = 1;
	return bits & KICK_STOP ? SERVED_STOP : SERVED;
}

/* -- Interrupts ------------------------------------------------------------------------------- */

static bool nmi_is_blocked(struct kvm_cpu *k)
{
	struct kvm_vcpu_events e;

	return kvm_ioctl(k->fd, KVM_GET_VCPU_EVENTS, &e) == 0 && e.nmi.masked;
}

/* KVM keeps it until the guest can take it. A halt ends only if that is now. */
static void give_nmi(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;

	if (!c->nmi_pending || (c->mp_state == MP_HALTED && nmi_is_blocked(k)))
		return;
	c->nmi_pending = 0;
	c->mp_state = MP_RUNNING;
	c->stats.irqs++;
	kvm_ioctl(k->fd, KVM_NMI, NULL);
}

/* Let KVM say whether the guest can take an interrupt. */
static void ask(struct kvm_cpu *k)
{
	k->unsure = false;
	if (k->io_pending)
		return;
	set_immediate_exit(k, 1);
	enter(k);
	/* Who has kicked meanwhile is not forgotten. */
	set_immediate_exit(k, atomic_load(&k->c->kick) != 0);
}

/* Hand over an interrupt that the guest can take now, or ask to be told when it can. */
static void give_interrupt(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;
	struct kvm_run *r = k->run;
	int vector;

	r->request_interrupt_window = 0;
	if (!c->apic_ops || !c->apic_ops->pending(c->apic))
		return;
	if (k->unsure)
		ask(k);
	if (!r->ready_for_interrupt_injection || !r->if_flag || k->io_pending) {
		/* With pending I/O KVM is first to finish the instruction. */
		r->request_interrupt_window = 1;
		return;
	}
	vector = c->apic_ops->ack(c->apic);
	if (vector < 0)
		return;
	c->mp_state = MP_RUNNING;
	c->stats.irqs++;
	r->ready_for_interrupt_injection = 0;
	if (k->vm->has_irqchip)
		irqchip_inject(k, (uint8_t)vector);
	else
		kvm_ioctl(k->fd, KVM_INTERRUPT, &(struct kvm_interrupt){ .irq = (uint32_t)vector });
	if (trace_on(TRACE_INT))
		trace_print(TRACE_INT, "cpu%u irq %#x", c->index, (unsigned)vector);
	r->request_interrupt_window = c->apic_ops->pending(c->apic);
}

/* -- The loop ------------------------------------------------------------------------------- */

/* Everything before an entry. False: run() returns *why. */
static bool prepare(struct kvm_cpu *k, enum run_exit *why)
{
	struct vcpu *c = k->c;

	switch (serve_kicks(k)) {
	case SERVED: break;
	case SERVED_STOP: *why = RUN_KICKED; return false;
	case SERVED_BROKEN: *why = RUN_BROKEN; return false;
	}
	*why = RUN_HALTED;
	if (c->mp_state == MP_WAIT_SIPI)
		return false;
	if (k->must_push && c->mp_state != MP_SHUTDOWN)
		state_push(k);
	*why = k->broken ? RUN_BROKEN : RUN_SHUTDOWN;
	if (k->broken || c->mp_state == MP_SHUTDOWN)
		return false;
	give_nmi(k);
	give_interrupt(k);
	*why = RUN_HALTED;
	return c->mp_state != MP_HALTED;
}

static enum run_exit run_loop(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;
	enum run_exit why;

	while (prepare(k, &why)) {
		switch (enter(k)) {
		case GO_ON: break;
		case HALT:
			c->mp_state = MP_HALTED;
			c->stats.halts++;
			break;
		case SHUTDOWN:
			/* On AMD's processors these are not the registers it happened with. */
			state_pull(k);
			c->mp_state = MP_SHUTDOWN;
			return RUN_SHUTDOWN;
		case BROKEN: return RUN_BROKEN;
		}
	}
	return why;
}

static enum run_exit kvm_run(struct vcpu *c)
{
	struct kvm_cpu *k = kvm_of(c);
	enum run_exit why;

	if (c->insn_limit) {
		log_say(LOG_ERROR, "KVM cannot count instructions");
		return RUN_BROKEN;
	}
	if (!k->must_push)
		c->cpl = 0; /* see state_push() */
	k->thread = pthread_self();
	irqchip_begin(k->vm);
	why = debug_arm(k) ? run_loop(k) : RUN_BROKEN;
	/* Between two runs, registers may be replaced: nothing may be left to be done to them. */
	if (why == RUN_KICKED && run_settle(k))
		irqchip_settle(k);
	if (why == RUN_KICKED && (k->broken || c->mp_state == MP_SHUTDOWN))
		why = k->broken ? RUN_BROKEN : RUN_SHUTDOWN;
	return why;
}

/* -- The engine table ------------------------------------------------------------------------- */

static void kvm_fini(struct vcpu *c)
{
	struct kvm_cpu *k = kvm_of(c);

	if (!k)
		return;
	ring_unmap(k);
	if (k->run)
		munmap(k->run, k->vm->run_bytes);
	if (k->fd >= 0)
		close(k->fd);
	vm_leave(k);
	c->engine_state[ENGINE_KVM] = NULL;
	free(k);
}

static bool has_tsc_offset(const struct kvm_cpu *k)
{
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET };

	return ioctl(k->fd, KVM_HAS_DEVICE_ATTR, &attr) == 0;
}

static int make_cpu(struct kvm_cpu *k, struct err *err)
{
	void *run;

	k->fd = ioctl(k->vm->fd, KVM_CREATE_VCPU, (unsigned long)k->c->index);
	if (k->fd < 0)
		return err_set(err, errno, "make CPU %u in KVM", k->c->index);
	run = mmap(NULL, k->vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, 0);
	if (run == MAP_FAILED)
		return err_set(err, errno, "map CPU %u of KVM", k->c->index);
	k->run = run;
	k->vm->has_tsc_offset = has_tsc_offset(k);
	return ring_map(k, err);
}

static int kvm_init(struct vcpu *c, struct err *err)
{
	struct kvm_cpu *k = calloc(1, sizeof(*k));
	int ret;

	if (!k)
		return err_set(err, ENOMEM, "CPU %u", c->index);
	k->c = c;
	k->fd = -1;
	k->must_push = true;
	k->tsc_offset = INT64_MIN; /* never asked for: the first push sets it */
	c->engine_state[ENGINE_KVM] = k;
	ret = kick_install(err);
	if (ret == 0)
		ret = vm_join(k, err);
	if (ret == 0)
		ret = make_cpu(k, err);
	if (ret == 0)
		ret = vm_set_model(k, err);
	if (ret < 0)
		kvm_fini(c);
	return ret;
}

static void kvm_begin(struct vcpu_set *set)
{
	irqchip_begin(kvm_of(set->v[0])->vm);
}

static void kvm_end(struct vcpu_set *set)
{
	irqchip_end(kvm_of(set->v[0])->vm);
}

static void kvm_pull(struct vcpu *c)
{
	state_pull(kvm_of(c));
}

/* Done when it runs next, by its own thread. */
static void kvm_push(struct vcpu *c)
{
	kvm_of(c)->must_push = true;
}

/* KVM derives everything from the slots, and follows the host's page tables by itself. */
static void kvm_inval(struct vcpu *c, gpa_t gpa, uint64_t len)
{
	struct err err;

	if (vm_set_slots(kvm_of(c)->vm, &err) < 0)
		log_say(LOG_ERROR, "%s", err.msg);
}

static void kvm_describe(const struct vcpu *c, char *buf, size_t len)
{
	const struct kvm_cpu *k = kvm_of(c);

	snprintf(
		buf, len,
		"entries %llu, port exits %llu, mmio exits %llu, msr exits %llu, interrupt windows "
		"%llu, kicks %llu, pulls %llu, pushes %llu, full dirty rings %llu",
		(unsigned long long)k->stats.runs, (unsigned long long)k->stats.ports,
		(unsigned long long)k->stats.mmios, (unsigned long long)k->stats.msrs,
		(unsigned long long)k->stats.windows, (unsigned long long)k->stats.kicks,
		(unsigned long long)k->stats.pulls, (unsigned long long)k->stats.pushes,
		(unsigned long long)k->stats.full_rings);
}

const struct engine engine_kvm = {
	.name = "kvm",
	.slot = ENGINE_KVM,
	.stores_unseen = true,
	.init = kvm_init,
	.fini = kvm_fini,
	.run = kvm_run,
	.pull = kvm_pull,
	.push = kvm_push,
	.begin = kvm_begin,
	.end = kvm_end,
	.kick = kvm_kick,
	.inval = kvm_inval,
	.describe = kvm_describe,
};
