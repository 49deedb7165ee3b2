/* What of a CPU model KVM can show. KVM API 4.46 "KVM_GET_SUPPORTED_CPUID". */
#include "cpu/kvm/kvm.h"

#include "cpu/kvm/kvm_internal.h"

#include "base/err.h"
#include "base/own.h"
#include "cpu/x86/features.h"
#include "cpu/x86/kvm_para.h"
#include "cpu/x86/system.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_SUPPORTED 256

struct supported {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entry[MAX_SUPPORTED];
};

static uint32_t reg_of(const struct supported *s, uint32_t leaf, uint32_t sub, enum cpuid_reg reg)
{
	for (unsigned i = 0; i < s->head.nent; i++) {
		const struct kvm_cpuid_entry2 *e = &s->entry[i];
		const uint32_t out[] = { e->eax, e->ebx, e->ecx, e->edx };

		if (e->function == leaf && e->index == sub)
			return out[reg];
	}
	return 0;
}

/* Is it ours whatever KVM says? Interrupt controllers are the board's; how x87 behaves and how many
 * CPUs there are is not KVM's choice. */
static bool needs_no_kvm(enum cpu_feature f)
{
	switch (f) {
	case FEAT_X2APIC:
	case FEAT_TSC_DEADLINE:
	case FEAT_ARAT:
	case FEAT_HYPERVISOR:
	case FEAT_HT:
	case FEAT_FDP_EXCPTN_ONLY:
	case FEAT_ZERO_FCS_FDS: return true;
	default: return false;
	}
}

static bool supports(const struct supported *s, enum cpu_feature f)
{
	switch (f) {
#define X(id, text, leaf, sub, reg, bit)                                                           \
	case FEAT_##id: return reg_of(s, leaf, sub, reg) >> (bit)&1;
		CPU_FEATURES(X)
#undef X
	default: return true;
	}
}

/* Guests save vector registers where the processor has them in its image, which must be where the
 * other engines have them: AMD's processors have AVX-512's elsewhere. */
static bool same_layout(unsigned component)
{
	uint32_t a = 0, b = 0, c, d, offset = 0;

	xstate_component(component, &offset);
	__get_cpuid_count(0xd, component, &a, &b, &c, &d);
	return a == 0 || b == offset;
}

static void take(struct cpu_model *m, enum cpu_feature f, char *left_out, size_t len)
{
	size_t at = strlen(left_out);

	cpu_model_remove(m, f);
	snprintf(left_out + at, len - at, "%s%s", at ? " " : "", cpu_feature_name(f));
}

#define ARCH_CAPS_RSBA BIT(2)

/* The promises hold for the software engines; here the processor runs the guest itself. */
static void limit_arch_caps(struct cpu_model *m, int kvm)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} set = { .head.nmsrs = 1, .entry.index = 0x10a };

	if (kvm_ioctl(kvm, KVM_GET_MSRS, &set) != 1)
		set.entry.data = 0;
	m->arch_caps = (m->arch_caps & set.entry.data) | (set.entry.data & ARCH_CAPS_RSBA);
}

static void limit(struct cpu_model *m, const struct supported *s, char *left_out, size_t len)
{
	for (unsigned f = 1; f < N_CPU_FEATURES; f++)
		if (m->has[f] && !needs_no_kvm((enum cpu_feature)f) &&
		    !supports(s, (enum cpu_feature)f))
			take(m, (enum cpu_feature)f, left_out, len);
	if (cpu_has(m, FEAT_AVX) && !same_layout(2))
		take(m, FEAT_AVX, left_out, len);
	if (cpu_has(m, FEAT_AVX512F) && (!same_layout(5) || !same_layout(6) || !same_layout(7)))
		take(m, FEAT_AVX512F, left_out, len);
}

int kvm_limit_model(struct cpu_model *m, char *left_out, size_t len, struct err *err)
{
	AUTO_FREE struct supported *s = NULL;
	AUTO_FD int kvm = kvm_open(err);

	*left_out = 0;
	if (kvm < 0)
		return kvm;
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(err, ENOMEM, "KVM's CPU features");
	s->head.nent = MAX_SUPPORTED;
	if (kvm_ioctl(kvm, KVM_GET_SUPPORTED_CPUID, s) < 0)
		return err_set(err, errno, "learn which CPU features KVM has");
	limit(m, s, left_out, len);
	limit_arch_caps(m, kvm);
	m->apic_tick_ns = irqchip_tick_ns(kvm, m->apic_tick_ns);
	m->pv_calls = irqchip_pv_calls(kvm, reg_of(s, KVM_CPUID_FEATURES, 0, CPUID_EAX));
	return 0;
}
