/* A debugger's breakpoints. KVM API 4.87 "KVM_SET_GUEST_DEBUG" and KVM_EXIT_DEBUG in 5.
 *
 * Hardware breakpoints and watchpoints are the processor's own: KVM loads the debugger's debug
 * registers in place of the guest's while any is armed, and so the guest's do not trap meanwhile.
 * KVM gives us every #DB then, and every #BP while the debugger has an INT3 in memory. What is not
 * the debugger's goes on to the guest.
 *
 * Steps need nothing of KVM: they are the interpreter's (machine/gdb).
 */
#include "cpu/kvm/kvm_internal.h"

#include "cpu/x86/system.h"

#include <errno.h>

#define VECTOR_BP 3
#define DR6_HITS  0xfu

static void want(const struct vcpu *c, struct kvm_guest_debug *d)
{
	memset(d, 0, sizeof(*d));
	if (c->debug.owns_int3)
		d->control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
	if (!(c->debug.dr[7] & 0xff))
		return;
	d->control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
	memcpy(d->arch.debugreg, c->debug.dr, 4 * sizeof(c->debug.dr[0]));
	d->arch.debugreg[7] = c->debug.dr[7] | DR7_FIXED1;
}

bool debug_arm(struct kvm_cpu *k)
{
	struct kvm_guest_debug d;

	want(k->c, &d);
	if (memcmp(&d, &k->debug, sizeof(d)) == 0)
		return true;
	if (kvm_ioctl(k->fd, KVM_SET_GUEST_DEBUG, &d) < 0) {
		report_errno(k, "set a breakpoint", errno);
		return false;
	}
	k->debug = d;
	return true;
}

/* It is the guest's own. */
static bool pass_on(struct kvm_cpu *k, uint32_t inject)
{
	struct kvm_guest_debug d = k->debug;

	d.control |= inject;
	if (kvm_ioctl(k->fd, KVM_SET_GUEST_DEBUG, &d) == 0)
		return true;
	report_errno(k, "give the guest its debug exception", errno);
	return false;
}

/* KVM delivers no DR6 with it. */
static bool pass_on_db(struct kvm_cpu *k, uint64_t dr6)
{
	struct kvm_debugregs d;

	if (kvm_ioctl(k->fd, KVM_GET_DEBUGREGS, &d) < 0) {
		report_errno(k, "get the debug registers", errno);
		return false;
	}
	d.dr6 |= dr6 & (DR6_BD | DR6_BS | DR6_BT);
	if (kvm_ioctl(k->fd, KVM_SET_DEBUGREGS, &d) < 0) {
		report_errno(k, "set the debug registers", errno);
		return false;
	}
	return pass_on(k, KVM_GUESTDBG_INJECT_DB);
}

/* A watchpoint that dr6 tells of? */
static bool stops_behind(struct vcpu *c, uint64_t dr6)
{
	for (unsigned n = 0; n < 4; n++) {
		if (!(dr6 >> n & 1) || !(c->debug.dr[7] >> 2 * n & 3) ||
		    !(c->debug.dr[7] >> (16 + 4 * n) & 3))
			continue;
		c->debug.addr = c->debug.dr[n];
		debug_stop(c, DEBUG_WATCH);
		return true;
	}
	return false;
}

bool debug_exit(struct kvm_cpu *k)
{
	/* KVM's next exit overwrites it. */
	const struct kvm_debug_exit_arch e = k->run->debug.arch;
	struct vcpu *c = k->c;
	bool ok = true;

	if (!state_pull(k))
		return false;
	if (e.exception == VECTOR_BP) {
		if (!debug_owns_int3(c))
			ok = pass_on(k, KVM_GUESTDBG_INJECT_BP);
	} else if (!stops_behind(c, e.dr6) && !debug_stops_at(c, e.pc)) {
		ok = pass_on_db(k, e.dr6);
	}
	c->cpl = 0; /* as state_push() leaves it */
	return ok;
}
