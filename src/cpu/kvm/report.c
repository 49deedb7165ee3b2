/* Why KVM gave up, told to a person. */
#include "cpu/kvm/kvm_internal.h"

#include "base/log.h"

#include <stdio.h>
#include <string.h>

/* KVM API 5, "KVM_EXIT_INTERNAL_ERROR". */
static const char *suberror(unsigned n)
{
	switch (n) {
	case KVM_INTERNAL_ERROR_EMULATION: return "it cannot emulate an instruction";
	case KVM_INTERNAL_ERROR_SIMUL_EX: return "two exceptions met";
	case KVM_INTERNAL_ERROR_DELIVERY_EV: return "an exit came while an event was delivered";
	case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: return "an exit it does not know";
	default: return "an internal error of its own";
	}
}

/* The instruction, if KVM tells it. */
static void say_instruction(const struct kvm_run *r, char *buf, size_t len)
{
	size_t at = 0;

	*buf = 0;
	if (r->internal.suberror != KVM_INTERNAL_ERROR_EMULATION ||
	    r->emulation_failure.ndata < 3 ||
	    !(r->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
		return;
	at = (size_t)snprintf(buf, len, ", bytes");
	for (unsigned i = 0; i < r->emulation_failure.insn_size && i < 15 && at < len; i++)
		at += (size_t)snprintf(buf + at, len - at, " %02x",
				       r->emulation_failure.insn_bytes[i]);
}

static void describe(const struct kvm_run *r, char *buf, size_t len)
{
	char insn[80];

	switch (r->exit_reason) {
	case KVM_EXIT_INTERNAL_ERROR:
		say_instruction(r, insn, sizeof(insn));
		snprintf(buf, len, "%s%s", suberror(r->internal.suberror), insn);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		snprintf(buf, len, "the processor refused to enter the guest, reason %#llx",
			 (unsigned long long)r->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_UNKNOWN:
		snprintf(buf, len, "an unknown exit of the processor, reason %#llx",
			 (unsigned long long)r->hw.hardware_exit_reason);
		break;
	default: snprintf(buf, len, "exit reason %u, which is never asked for", r->exit_reason);
	}
}

static void dump_registers(struct kvm_cpu *k)
{
	struct kvm_regs g;
	struct kvm_sregs s;

	if (kvm_ioctl(k->fd, KVM_GET_REGS, &g) < 0 || kvm_ioctl(k->fd, KVM_GET_SREGS, &s) < 0)
		return;
	log_say(LOG_ERROR, "rip %016llx rflags %08llx cs %04x base %llx ss %04x", g.rip, g.rflags,
		s.cs.selector, s.cs.base, s.ss.selector);
	log_say(LOG_ERROR, "rax %016llx rcx %016llx rdx %016llx rbx %016llx", g.rax, g.rcx, g.rdx,
		g.rbx);
	log_say(LOG_ERROR, "rsp %016llx rbp %016llx rsi %016llx rdi %016llx", g.rsp, g.rbp, g.rsi,
		g.rdi);
	log_say(LOG_ERROR, "r8  %016llx r9  %016llx r10 %016llx r11 %016llx", g.r8, g.r9, g.r10,
		g.r11);
	log_say(LOG_ERROR, "r12 %016llx r13 %016llx r14 %016llx r15 %016llx", g.r12, g.r13, g.r14,
		g.r15);
	log_say(LOG_ERROR, "cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx efer %llx", s.cr0, s.cr2,
		s.cr3, s.cr4, s.efer);
}

static void report(struct kvm_cpu *k, const char *why)
{
	if (k->broken)
		return;
	k->broken = true;
	log_say(LOG_ERROR, "KVM gave up on CPU %u: %s", k->c->index, why);
	dump_registers(k);
}

void report_exit(struct kvm_cpu *k)
{
	char why[200];

	describe(k->run, why, sizeof(why));
	report(k, why);
}

void report_errno(struct kvm_cpu *k, const char *what, int code)
{
	char why[200];

	snprintf(why, sizeof(why), "cannot %s: %s", what, strerror(code));
	report(k, why);
}
