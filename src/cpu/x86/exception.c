/* Exceptions and interrupts: which event is delivered, and what comes of two at once.
 *
 * Nothing here recurses: an event that cannot be delivered becomes another event, at most until a
 * double fault cannot be delivered either.
 */
#include "cpu/x86/fault.h"
#include "cpu/x86/transfer.h"
#include "cpu/x86/transfer_internal.h"
#include "cpu/x86/tss.h"

#define DEBUGCTL_LBR_BTF 3u
#define MAX_ROUNDS	 8

enum exc_class { BENIGN, CONTRIBUTORY, PAGE_FAULT };

/* SDM 3A 6.15 "Interrupt 8: Double Fault Exception", table of classes. */
static enum exc_class class_of(enum x86_exc exc)
{
	switch (exc) {
	case EXC_DE:
	case EXC_TS:
	case EXC_NP:
	case EXC_SS:
	case EXC_GP:
	case EXC_CP: return CONTRIBUTORY;
	case EXC_PF:
	case EXC_VE: return PAGE_FAULT;
	default: return BENIGN;
	}
}

static bool has_error_code(enum x86_exc exc)
{
	switch (exc) {
	case EXC_DF:
	case EXC_TS:
	case EXC_NP:
	case EXC_SS:
	case EXC_GP:
	case EXC_PF:
	case EXC_AC:
	case EXC_CP: return true;
	default: return false;
	}
}

/* Does the image of RFLAGS that exc pushes have RF set? Faults do, so that an instruction
 * breakpoint on the instruction does not hit again; breakpoints themselves and traps do not. SDM
 * 3B 17.3.1.1 "Instruction-Breakpoint Exception Condition".
 */
static bool sets_rf(const struct vcpu *c, enum x86_exc exc)
{
	switch (exc) {
	case EXC_DB: return c->dr[6] & DR6_BD;
	case EXC_NMI:
	case EXC_BP:
	case EXC_OF:
	case EXC_DF:
	case EXC_MC: return false;
	default: return true;
	}
}

/* What exc does to registers besides the stack. */
static void note(struct vcpu *c, enum x86_exc exc)
{
	if (exc == EXC_PF)
		c->cr2 = c->exc_cr2;
	if (exc != EXC_DB)
		return;
	/* B0 to B3 and BD tell of this exception; BS and BT add up until software clears them. */
	c->dr[6] &= ~(uint64_t)(0xf | DR6_BD);
	c->dr[6] |= c->pending_db;
	c->dr[7] &= ~(uint64_t)DR7_GD;
	c->msr.debugctl &= ~(uint64_t)DEBUGCTL_LBR_BTF;
	c->pending_db = 0;
}

static enum x86_exc deliver_one(struct vcpu *c, enum x86_exc exc)
{
	struct event e = { .vector = EXC_VECTOR(exc),
			   .ext = true,
			   .has_error = has_error_code(exc),
			   .set_rf = sets_rf(c, exc),
			   .error = exc == EXC_DF ? 0 : c->exc_error,
			   .return_rip = c->rip };

	return event_deliver(c, &e);
}

/* The exception to deliver when second came while first was being delivered. */
static enum x86_exc combine(enum x86_exc first, enum x86_exc second)
{
	enum exc_class a = class_of(first), b = class_of(second);

	if (first == EXC_DF)
		return b == BENIGN ? second : EXC_SHUTDOWN;
	if (a == CONTRIBUTORY && b == CONTRIBUTORY)
		return EXC_DF;
	if (a == PAGE_FAULT && b != BENIGN)
		return EXC_DF;
	return second;
}

bool exc_deliver(struct vcpu *c, enum x86_exc exc)
{
	/* Benign events can follow each other for ever (#AC on a misaligned ring 3 stack). Real
	 * processors hang then; here the instruction starts over, which leaves the engine a chance
	 * to be stopped. */
	for (unsigned round = 0; round < MAX_ROUNDS; round++) {
		enum x86_exc second;

		if (exc == EXC_SHUTDOWN)
			return false;
		note(c, exc);
		second = deliver_one(c, exc);
		if (!second)
			return true;
		exc = combine(exc, second);
	}
	return exc != EXC_SHUTDOWN;
}

static bool deliver_external(struct vcpu *c, uint8_t vector)
{
	struct event e = { .vector = vector, .ext = true, .return_rip = c->rip };
	enum x86_exc exc = event_deliver(c, &e);

	return exc ? exc_deliver(c, exc) : true;
}

bool irq_deliver(struct vcpu *c, uint8_t vector)
{
	return deliver_external(c, vector);
}

bool nmi_deliver(struct vcpu *c)
{
	c->nmi_blocked = 1;
	return deliver_external(c, EXC_VECTOR(EXC_NMI));
}

enum x86_exc soft_int(struct vcpu *c, uint8_t vector, enum soft_int kind, gva_t next_rip)
{
	struct event e = { .vector = vector,
			   .soft = kind != SOFT_INT1,
			   .ext = kind == SOFT_INT1,
			   .return_rip = next_rip };

	if (is_v8086(c) && kind == SOFT_INT_N) {
		bool to_8086 = false;
		enum x86_exc r = c->cr4 & CR4_VME ? tss_redirects(c, vector, &to_8086) : EXC_NONE;

		if (r)
			return r;
		if (to_8086)
			return event_redirect_8086(c, vector, next_rip);
		if (iopl(c) < 3)
			return exc_gp0(c);
	}
	return event_deliver(c, &e);
}
