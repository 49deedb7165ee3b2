/* CPUID leaves. SDM 2A CPUID; the hypervisor's leaves as guests commonly read them. */
#include "cpu/x86/fault.h"
#include "cpu/x86/features.h"
#include "cpu/x86/kvm_para.h"
#include "cpu/x86/system.h"

#define MAX_BASIC      0x16u
#define MAX_HYPERVISOR 0x40000010u
#define MAX_EXTENDED   0x80000008u

#define BIT_OSXSAVE (1u << 27) /* leaf 1, ECX */
#define BIT_APIC    (1u << 9)  /* leaf 1, EDX */
#define BIT_SYSCALL (1u << 11) /* leaf 0x80000001, EDX */

#define MSR_APIC_BASE	 0x1b
#define APIC_BASE_ENABLE BIT(11)

static bool is_amd(const struct cpu_model *m)
{
	return !strcmp(m->vendor, "AuthenticAMD");
}

/* The feature bits of one output register. */
static uint32_t feature_bits(const struct cpu_model *m, uint32_t leaf, uint32_t sub,
			     enum cpuid_reg reg)
{
	uint32_t bits = 0;

#define X(id, text, l, s, r, b)                                                                    \
	if (leaf == (l) && sub == (s) && reg == (r) && cpu_has(m, FEAT_##id))                      \
		bits |= 1u << (b);
	CPU_FEATURES(X)
#undef X
	return bits;
}

static void features(const struct cpu_model *m, uint32_t leaf, uint32_t sub, uint32_t out[4])
{
	for (unsigned r = CPUID_EAX; r <= CPUID_EDX; r++)
		out[r] |= feature_bits(m, leaf, sub, (enum cpuid_reg)r);
}

static unsigned log2_up(unsigned n)
{
	unsigned bits = 0;

	while (1u << bits < n)
		bits++;
	return bits;
}

/* -- Basic leaves ----------------------------------------------------------------------------- */

static void leaf_vendor(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	out[CPUID_EAX] = MAX_BASIC;
	out[CPUID_EBX] = load32(c->model->vendor);
	out[CPUID_EDX] = load32(c->model->vendor + 4);
	out[CPUID_ECX] = load32(c->model->vendor + 8);
}

static bool apic_is_off(const struct vcpu *c)
{
	uint64_t base;

	return c->apic_ops && c->apic_ops->read_msr(c->apic, MSR_APIC_BASE, &base) &&
	       !(base & APIC_BASE_ENABLE);
}

static void leaf_features(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	out[CPUID_EAX] = c->model->signature;
	/* APIC id, logical processors, CLFLUSH line in 8-byte units. */
	out[CPUID_EBX] = c->index << 24 | 1u << log2_up(c->model->n_vcpus) << 16 | 8u << 8;
	features(c->model, 1, 0, out);
	if (c->cr4 & CR4_OSXSAVE)
		out[CPUID_ECX] |= BIT_OSXSAVE;
	if (apic_is_off(c))
		out[CPUID_EDX] &= ~BIT_APIC;
}

static void leaf_descriptors(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	out[CPUID_EAX] = 0x00ff0001; /* ff: see leaf 4 */
}

/* type: 1 data, 2 code, 3 both. */
struct cache {
	uint8_t type, level;
	bool shared; /* by all cores; else each has its own */
	uint16_t ways, sets;
};

static void leaf_caches(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	static const struct cache caches[] = { { 1, 1, false, 12, 64 },
					       { 2, 1, false, 8, 64 },
					       { 3, 2, false, 16, 2048 },
					       { 3, 3, true, 16, 16384 } };
	unsigned cores = 1u << log2_up(c->model->n_vcpus);
	const struct cache *k;

	if (is_amd(c->model) || sub >= ARRAY_SIZE(caches))
		return;
	k = &caches[sub];
	out[CPUID_EAX] = k->type | (uint32_t)k->level << 5 | 1u << 8 |
			 (k->shared ? cores - 1 : 0) << 14 | (cores - 1) << 26;
	out[CPUID_EBX] = 63 | (k->ways - 1u) << 22;
	out[CPUID_ECX] = k->sets - 1u;
}

static void leaf_power(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	features(c->model, 6, 0, out);
}

static void leaf_more_features(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	if (sub == 0)
		out[CPUID_EAX] = 2; /* last subleaf */
	features(c->model, 7, sub, out);
}

/* One package of n cores with one thread each. */
static void leaf_topology(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	out[CPUID_ECX] = sub & 0xff;
	out[CPUID_EDX] = c->index;
	if (sub == 0) {
		out[CPUID_EBX] = 1;
		out[CPUID_ECX] |= 1u << 8; /* thread level */
	} else if (sub == 1) {
		out[CPUID_EAX] = log2_up(c->model->n_vcpus);
		out[CPUID_EBX] = c->model->n_vcpus;
		out[CPUID_ECX] |= 2u << 8; /* core level */
	}
}

static void leaf_xsave(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	const struct cpu_model *m = c->model;

	if (!cpu_has(m, FEAT_XSAVE))
		return;
	if (sub == 0) {
		out[CPUID_EAX] = (uint32_t)m->xcr0_mask;
		out[CPUID_EBX] = xstate_size(c->fpu.xcr0);
		out[CPUID_ECX] = xstate_size(m->xcr0_mask);
		out[CPUID_EDX] = (uint32_t)(m->xcr0_mask >> 32);
	} else if (sub == 1) {
		features(m, 0xd, 1, out);
		if (cpu_has(m, FEAT_XSAVEC))
			out[CPUID_EBX] = xstate_compact_size(c->fpu.xcr0 | c->fpu.xss);
	} else if (sub < 64 && m->xcr0_mask >> sub & 1) {
		out[CPUID_EAX] = xstate_component(sub, &out[CPUID_EBX]);
	}
}

/* The crystal, which is also the APIC timer's input. */
static uint32_t crystal_khz(const struct cpu_model *m)
{
	return 1000000 / m->apic_tick_ns;
}

/* The ratio num/den of TSC to crystal. Guests compute crystal_khz * num / den, some of them in 32
 * bits, so num is bounded; the closest of those is off by 7 kHz at most, some millionths, with a
 * crystal of 25 MHz. False if it is off by more: guests find out otherwise then.
 */
static bool tsc_ratio(uint64_t crystal, uint64_t tsc_khz, uint32_t *num, uint32_t *den)
{
	const uint64_t max_num = UINT32_MAX / crystal;
	uint64_t best = UINT64_MAX; /* distance in kHz / 2^20 */

	*num = 0;
	*den = 1;
	for (uint64_t d = 1; d <= crystal && best; d++) {
		uint64_t n = (tsc_khz * d + crystal / 2) / crystal;
		uint64_t have = n * crystal, want = tsc_khz * d;
		uint64_t off = ((have > want ? have - want : want - have) << 20) / d;

		if (n > max_num)
			break;
		if (off < best) {
			best = off;
			*num = (uint32_t)n;
			*den = (uint32_t)d;
		}
	}
	return best <= 7ull << 20;
}

static void leaf_tsc(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	uint32_t crystal = crystal_khz(c->model), num, den;

	if (is_amd(c->model) || !tsc_ratio(crystal, c->model->tsc_khz, &num, &den))
		return;
	out[CPUID_EAX] = den;
	out[CPUID_EBX] = num;
	out[CPUID_ECX] = crystal * 1000;
}

static void leaf_frequency(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	uint32_t mhz = (uint32_t)((c->model->tsc_khz + 500) / 1000);

	if (is_amd(c->model))
		return;
	out[CPUID_EAX] = mhz & 0xffff;
	out[CPUID_EBX] = mhz & 0xffff;
	out[CPUID_ECX] = 100; /* bus, MHz */
}

/* -- Hypervisor leaves ------------------------------------------------------------------------ */

static void leaf_hypervisor(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	/* Guests go by the signature of the interface that they are offered. */
	const char *signature = c->pv_ops ? KVM_CPUID_SIGNATURE : "CleaveCleave";

	out[CPUID_EAX] = MAX_HYPERVISOR;
	out[CPUID_EBX] = load32(signature);
	out[CPUID_ECX] = load32(signature + 4);
	out[CPUID_EDX] = load32(signature + 8);
}

static void leaf_pv_features(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	if (c->pv_ops)
		out[CPUID_EAX] = c->pv_ops->features(c->pv_arg);
}

static void leaf_hypervisor_timing(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	out[CPUID_EAX] = (uint32_t)c->model->tsc_khz;
	out[CPUID_EBX] = crystal_khz(c->model);
}

/* -- Extended leaves -------------------------------------------------------------------------- */

static void leaf_max_extended(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	out[CPUID_EAX] = MAX_EXTENDED;
	if (is_amd(c->model)) {
		leaf_vendor(c, sub, out);
		out[CPUID_EAX] = MAX_EXTENDED;
	}
}

static void leaf_extended_features(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	/* Bits of leaf 1 that AMD's processors repeat here. APM 3 E.4.2. */
	const uint32_t repeated = 0x0183f3ff;

	features(c->model, 0x80000001, 0, out);
	if (is_amd(c->model))
		out[CPUID_EDX] |= feature_bits(c->model, 1, 0, CPUID_EDX) & repeated;
	else if (!c->code64)
		out[CPUID_EDX] &= ~BIT_SYSCALL; /* Intel's have it in 64-bit mode only */
}

static void brand(const struct vcpu *c, unsigned part, uint32_t out[4])
{
	for (unsigned i = 0; i < 4; i++)
		out[i] = load32(c->model->brand + 16 * part + 4 * i);
}

static void leaf_brand0(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	brand(c, 0, out);
}

static void leaf_brand1(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	brand(c, 1, out);
}

static void leaf_brand2(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	brand(c, 2, out);
}

static void leaf_l2(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	out[CPUID_ECX] = 2048u << 16 | 8u << 12 /* 16 ways */ | 64;
}

static void leaf_invariant_tsc(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	features(c->model, 0x80000007, 0, out);
}

static void leaf_address_sizes(const struct vcpu *c, uint32_t sub, uint32_t out[4])
{
	bool lm = cpu_has(c->model, FEAT_LM);

	out[CPUID_EAX] = c->model->phys_bits | (lm ? 48u : 32u) << 8;
	if (is_amd(c->model))
		out[CPUID_ECX] = (c->model->n_vcpus - 1) | log2_up(c->model->n_vcpus) << 12;
}

/* Leaves that are not here are all 0. */
static const struct leaf {
	uint32_t leaf;
	void (*fill)(const struct vcpu *c, uint32_t sub, uint32_t out[4]);
} leaves[] = {
	{ 0x0, leaf_vendor },
	{ 0x1, leaf_features },
	{ 0x2, leaf_descriptors },
	{ 0x4, leaf_caches },
	{ 0x6, leaf_power },
	{ 0x7, leaf_more_features },
	{ 0xb, leaf_topology },
	{ 0xd, leaf_xsave },
	{ 0x15, leaf_tsc },
	{ 0x16, leaf_frequency },
	{ 0x40000000, leaf_hypervisor },
	{ KVM_CPUID_FEATURES, leaf_pv_features },
	{ 0x40000010, leaf_hypervisor_timing },
	{ 0x80000000, leaf_max_extended },
	{ 0x80000001, leaf_extended_features },
	{ 0x80000002, leaf_brand0 },
	{ 0x80000003, leaf_brand1 },
	{ 0x80000004, leaf_brand2 },
	{ 0x80000006, leaf_l2 },
	{ 0x80000007, leaf_invariant_tsc },
	{ 0x80000008, leaf_address_sizes },
};

/* A leaf beyond the last one answers as the last basic one does on Intel's processors. */
static uint32_t effective_leaf(const struct vcpu *c, uint32_t leaf)
{
	bool hypervisor = cpu_has(c->model, FEAT_HYPERVISOR);

	if (leaf <= MAX_BASIC || (leaf >= 0x80000000 && leaf <= MAX_EXTENDED))
		return leaf;
	if (hypervisor && leaf >= 0x40000000 && leaf <= 0x400000ff)
		return leaf;
	return MAX_BASIC;
}

enum x86_exc sys_cpuid(struct vcpu *c, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	uint32_t l = effective_leaf(c, leaf);

	memset(out, 0, 4 * sizeof(out[0]));
	for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++)
		if (leaves[i].leaf == l)
			leaves[i].fill(c, subleaf, out);
	return EXC_NONE;
}
