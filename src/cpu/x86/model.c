/* CPU models: which features there are, what each needs, and the named sets of them. */
#include "cpu/x86/features.h"

#include "base/bits.h"
#include "base/err.h"
#include "cpu/x86/regs.h"
#include "mem/platform.h"

#include <cpuid.h>
#include <errno.h>

/* Where a feature comes from. */
enum origin {
	SOFTWARE, /* this system does it, whatever the host */
	NATIVE,	  /* runs on the host's processor, so that must have it */
	TRAIT,	  /* not a choice: how the host's x87 behaves */
	ABSENT,	  /* not implemented */
};

struct feature {
	const char *name;
	uint32_t leaf, sub;
	uint8_t reg, bit;
};

static const struct feature features[N_CPU_FEATURES] = { [FEAT_NONE] = { "base", 0, 0, 0, 0 },
#define X(id, text, leaf, sub, reg, bit) [FEAT_##id] = { text, leaf, sub, reg, bit },
							 CPU_FEATURES(X)
#undef X
};

/* All that is not here is NATIVE. */
static const uint8_t software[] = {
	FEAT_VME,	   FEAT_DE,	   FEAT_PSE,	    FEAT_TSC,	    FEAT_MSR,
	FEAT_PAE,	   FEAT_MCE,	   FEAT_APIC,	    FEAT_SEP,	    FEAT_MTRR,
	FEAT_PGE,	   FEAT_MCA,	   FEAT_PAT,	    FEAT_PSE36,	    FEAT_CLFLUSH,
	FEAT_FXSR,	   FEAT_SS,	   FEAT_HT,	    FEAT_PCID,	    FEAT_X2APIC,
	FEAT_TSC_DEADLINE, FEAT_XSAVE,	   FEAT_HYPERVISOR, FEAT_ARAT,	    FEAT_FSGSBASE,
	FEAT_TSC_ADJUST,   FEAT_SMEP,	   FEAT_ERMS,	    FEAT_INVPCID,   FEAT_SMAP,
	FEAT_CLFLUSHOPT,   FEAT_CLWB,	   FEAT_UMIP,	    FEAT_RDPID,	    FEAT_FSRM,
	FEAT_SERIALIZE,	   FEAT_SPEC_CTRL, FEAT_ARCH_CAPS,  FEAT_SSBD,	    FEAT_XSAVEOPT,
	FEAT_XSAVEC,	   FEAT_XGETBV1,   FEAT_XSAVES,	    FEAT_PREFETCHW, FEAT_SYSCALL,
	FEAT_NX,	   FEAT_PDPE1GB,   FEAT_RDTSCP,	    FEAT_LM,	    FEAT_INVTSC,
	FEAT_BHI_CTRL,
};

static const uint8_t traits[] = { FEAT_FDP_EXCPTN_ONLY, FEAT_ZERO_FCS_FDS };
static const uint8_t absent[] = { FEAT_MONITOR };

static const struct {
	uint8_t f, needs;
} needs[] = {
	{ FEAT_SSE, FEAT_FXSR },
	{ FEAT_SSE2, FEAT_SSE },
	{ FEAT_SSE3, FEAT_SSE2 },
	{ FEAT_SSSE3, FEAT_SSE3 },
	{ FEAT_SSE4_1, FEAT_SSSE3 },
	{ FEAT_SSE4_2, FEAT_SSE4_1 },
	{ FEAT_MMX, FEAT_FPU },
	{ FEAT_FXSR, FEAT_FPU },
	{ FEAT_AES, FEAT_SSE2 },
	{ FEAT_PCLMULQDQ, FEAT_SSE2 },
	{ FEAT_SHA_NI, FEAT_SSE2 },
	{ FEAT_GFNI, FEAT_SSE2 },
	{ FEAT_XSAVE, FEAT_FXSR },
	{ FEAT_XSAVEOPT, FEAT_XSAVE },
	{ FEAT_XSAVEC, FEAT_XSAVE },
	{ FEAT_XGETBV1, FEAT_XSAVE },
	{ FEAT_XSAVES, FEAT_XSAVEC },
	{ FEAT_AVX, FEAT_XSAVE },
	{ FEAT_AVX, FEAT_SSE4_2 },
	{ FEAT_FMA, FEAT_AVX },
	{ FEAT_F16C, FEAT_AVX },
	{ FEAT_AVX2, FEAT_AVX },
	{ FEAT_VAES, FEAT_AVX },
	{ FEAT_VAES, FEAT_AES },
	{ FEAT_VPCLMULQDQ, FEAT_AVX },
	{ FEAT_VPCLMULQDQ, FEAT_PCLMULQDQ },
	{ FEAT_AVX_VNNI, FEAT_AVX2 },
	{ FEAT_AVX512F, FEAT_AVX2 },
	{ FEAT_AVX512F, FEAT_FMA },
	{ FEAT_AVX512F, FEAT_F16C },
	{ FEAT_AVX512DQ, FEAT_AVX512F },
	{ FEAT_AVX512IFMA, FEAT_AVX512F },
	{ FEAT_AVX512CD, FEAT_AVX512F },
	{ FEAT_AVX512BW, FEAT_AVX512F },
	{ FEAT_AVX512VL, FEAT_AVX512F },
	{ FEAT_AVX512VBMI, FEAT_AVX512BW },
	{ FEAT_AVX512_VBMI2, FEAT_AVX512BW },
	{ FEAT_AVX512_VNNI, FEAT_AVX512F },
	{ FEAT_AVX512_BITALG, FEAT_AVX512BW },
	{ FEAT_AVX512_VPOPCNTDQ, FEAT_AVX512F },
	{ FEAT_AVX512_BF16, FEAT_AVX512BW },
	{ FEAT_LM, FEAT_PAE },
	{ FEAT_LM, FEAT_MSR },
	{ FEAT_SYSCALL, FEAT_LM },
	{ FEAT_PCID, FEAT_LM },
	{ FEAT_FSGSBASE, FEAT_LM },
	{ FEAT_PDPE1GB, FEAT_LM },
	{ FEAT_LAHF_LM, FEAT_LM },
	{ FEAT_CX16, FEAT_CX8 },
	{ FEAT_NX, FEAT_PAE },
	{ FEAT_PSE36, FEAT_PSE },
	{ FEAT_X2APIC, FEAT_APIC },
	{ FEAT_X2APIC, FEAT_MSR },
	{ FEAT_TSC_DEADLINE, FEAT_APIC },
	{ FEAT_TSC_DEADLINE, FEAT_TSC },
	{ FEAT_ARAT, FEAT_APIC },
	{ FEAT_TSC_ADJUST, FEAT_TSC },
	{ FEAT_TSC_ADJUST, FEAT_MSR },
	{ FEAT_INVTSC, FEAT_TSC },
	{ FEAT_RDTSCP, FEAT_TSC },
	{ FEAT_RDTSCP, FEAT_MSR },
	{ FEAT_RDPID, FEAT_RDTSCP },
	{ FEAT_MTRR, FEAT_MSR },
	{ FEAT_PAT, FEAT_MSR },
	{ FEAT_SEP, FEAT_MSR },
	{ FEAT_MCA, FEAT_MCE },
	{ FEAT_MCA, FEAT_MSR },
	{ FEAT_SPEC_CTRL, FEAT_MSR },
	{ FEAT_ARCH_CAPS, FEAT_MSR },
	{ FEAT_SSBD, FEAT_SPEC_CTRL },
	{ FEAT_BHI_CTRL, FEAT_SPEC_CTRL },
};

/* What every named model has besides its level. */
static const uint8_t level_system[] = {
	FEAT_VME,      FEAT_DE,	      FEAT_PSE,	       FEAT_TSC,	  FEAT_MSR,
	FEAT_PAE,      FEAT_MCE,      FEAT_APIC,       FEAT_SEP,	  FEAT_MTRR,
	FEAT_PGE,      FEAT_MCA,      FEAT_PAT,	       FEAT_PSE36,	  FEAT_CLFLUSH,
	FEAT_SS,       FEAT_PCID,     FEAT_X2APIC,     FEAT_TSC_DEADLINE, FEAT_HYPERVISOR,
	FEAT_ARAT,     FEAT_FSGSBASE, FEAT_TSC_ADJUST, FEAT_SMEP,	  FEAT_ERMS,
	FEAT_INVPCID,  FEAT_SMAP,     FEAT_UMIP,       FEAT_SPEC_CTRL,	  FEAT_ARCH_CAPS,
	FEAT_SSBD,     FEAT_NX,	      FEAT_PDPE1GB,    FEAT_RDTSCP,	  FEAT_INVTSC,
	FEAT_BHI_CTRL,
};

/* System V ABI, AMD64 supplement, table 3.1 "Micro-Architecture Levels". */
static const uint8_t level1[] = { FEAT_FPU, FEAT_CX8,  FEAT_CMOV, FEAT_MMX,    FEAT_FXSR,
				  FEAT_SSE, FEAT_SSE2, FEAT_LM,	  FEAT_SYSCALL };
static const uint8_t level2[] = { FEAT_CX16,  FEAT_LAHF_LM, FEAT_POPCNT, FEAT_SSE3,
				  FEAT_SSSE3, FEAT_SSE4_1,  FEAT_SSE4_2 };
static const uint8_t level3[] = { FEAT_XSAVE,  FEAT_AVX,     FEAT_AVX2,	 FEAT_BMI1,  FEAT_BMI2,
				  FEAT_F16C,   FEAT_FMA,     FEAT_LZCNT, FEAT_MOVBE, FEAT_XSAVEOPT,
				  FEAT_XSAVEC, FEAT_XGETBV1, FEAT_XSAVES };
static const uint8_t level4[] = { FEAT_AVX512F, FEAT_AVX512BW, FEAT_AVX512CD, FEAT_AVX512DQ,
				  FEAT_AVX512VL };

static const struct level {
	const uint8_t *f;
	size_t n;
} levels[] = {
	{ level1, ARRAY_SIZE(level1) },
	{ level2, ARRAY_SIZE(level2) },
	{ level3, ARRAY_SIZE(level3) },
	{ level4, ARRAY_SIZE(level4) },
};

/* -- The host ------------------------------------------------------------------------------- */

static bool cpuid_bit(uint32_t leaf, uint32_t sub, enum cpuid_reg reg, unsigned bit)
{
	uint32_t r[4];

	if (!__get_cpuid_count(leaf, sub, &r[CPUID_EAX], &r[CPUID_EBX], &r[CPUID_ECX],
			       &r[CPUID_EDX]))
		return false;
	return r[reg] >> bit & 1;
}

/* Which vector state the host's kernel lets programs use. */
static uint64_t host_xcr0(void)
{
	uint32_t lo, hi;

	if (!cpuid_bit(1, 0, CPUID_ECX, 27)) /* OSXSAVE */
		return XCR0_X87 | XCR0_SSE;
	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return lo | (uint64_t)hi << 32;
}

static uint64_t state_needed(enum cpu_feature f);

bool host_has(enum cpu_feature f)
{
	const struct feature *d = &features[f];

	if (f == FEAT_NONE)
		return true;
	if (!cpuid_bit(d->leaf, d->sub, (enum cpuid_reg)d->reg, d->bit))
		return false;
	return !(state_needed(f) & ~host_xcr0());
}

static bool host_is_amd(void)
{
	uint32_t a, b, c, d;

	__cpuid(0, a, b, c, d);
	return b == signature_AMD_ebx && c == signature_AMD_ecx && d == signature_AMD_edx;
}

static void host_brand(char brand[49])
{
	uint32_t r[4];

	for (unsigned i = 0; i < 3; i++) {
		if (!__get_cpuid(0x80000002 + i, &r[0], &r[1], &r[2], &r[3]))
			return;
		memcpy(brand + 16 * i, r, 16);
	}
}

/* -- Features and what they need --------------------------------------------------------------- */

static bool is_in(enum cpu_feature f, const uint8_t *set, size_t n)
{
	return memchr(set, (int)f, n) != NULL;
}

static enum origin origin_of(enum cpu_feature f)
{
	if (is_in(f, software, ARRAY_SIZE(software)))
		return SOFTWARE;
	if (is_in(f, traits, ARRAY_SIZE(traits)))
		return TRAIT;
	return is_in(f, absent, ARRAY_SIZE(absent)) ? ABSENT : NATIVE;
}

static bool depends_on(enum cpu_feature f, enum cpu_feature on)
{
	if (f == on)
		return true;
	for (unsigned i = 0; i < ARRAY_SIZE(needs); i++)
		if (needs[i].f == f && depends_on(needs[i].needs, on))
			return true;
	return false;
}

static uint64_t state_needed(enum cpu_feature f)
{
	if (depends_on(f, FEAT_AVX512F))
		return XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512;
	return depends_on(f, FEAT_AVX) ? XCR0_X87 | XCR0_SSE | XCR0_AVX : 0;
}

static uint64_t xcr0_of(const struct cpu_model *m)
{
	if (!cpu_has(m, FEAT_XSAVE))
		return 0;
	if (cpu_has(m, FEAT_AVX512F))
		return XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512;
	return cpu_has(m, FEAT_AVX) ? XCR0_X87 | XCR0_SSE | XCR0_AVX : XCR0_X87 | XCR0_SSE;
}

void cpu_model_remove(struct cpu_model *m, enum cpu_feature f)
{
	for (unsigned i = 1; i < N_CPU_FEATURES; i++)
		if (depends_on((enum cpu_feature)i, f))
			m->has[i] = false;
	m->xcr0_mask = xcr0_of(m);
}

static int can_have(enum cpu_feature f, struct err *err)
{
	enum origin o = origin_of(f);

	if (o == ABSENT)
		return err_say(err, EINVAL, "CPU feature %s is not implemented",
			       cpu_feature_name(f));
	if (o != SOFTWARE && !host_has(f))
		return err_say(err, EINVAL, "CPU feature %s is not in this host's processor",
			       cpu_feature_name(f));
	return 0;
}

/* f and all that it needs. */
static int add_feature(struct cpu_model *m, enum cpu_feature f, struct err *err)
{
	for (unsigned i = 1; i < N_CPU_FEATURES; i++) {
		if (m->has[i] || !depends_on(f, (enum cpu_feature)i))
			continue;
		int ret = can_have((enum cpu_feature)i, err);

		if (ret < 0)
			return ret;
		m->has[i] = true;
	}
	return 0;
}

const char *cpu_feature_name(enum cpu_feature f)
{
	return features[f].name;
}

/* -- Models --------------------------------------------------------------------------------- */

static void add_traits(struct cpu_model *m)
{
	for (unsigned i = 0; i < ARRAY_SIZE(traits); i++)
		m->has[traits[i]] = host_has((enum cpu_feature)traits[i]);
}

static void base_host(struct cpu_model *m)
{
	uint32_t b, c, d;

	for (unsigned i = 1; i < N_CPU_FEATURES; i++)
		m->has[i] = can_have((enum cpu_feature)i, NULL) == 0;
	/* Something may lack here what something else needs. */
	for (unsigned i = 1; i < N_CPU_FEATURES; i++)
		if (!m->has[i])
			cpu_model_remove(m, (enum cpu_feature)i);
	__cpuid(1, m->signature, b, c, d);
	host_brand(m->brand);
}

static int base_level(struct cpu_model *m, unsigned n, struct err *err)
{
	for (unsigned i = 0; i < ARRAY_SIZE(level_system); i++)
		m->has[level_system[i]] = true;
	for (unsigned l = 0; l < n; l++) {
		for (unsigned i = 0; i < levels[l].n; i++) {
			int ret = add_feature(m, (enum cpu_feature)levels[l].f[i], err);

			if (ret < 0)
				return err_wrap(err, "x86-64-v%u", n);
		}
	}
	add_traits(m);
	/* Family, model and stepping of a processor that has all levels and few errata. */
	m->signature = host_is_amd() ? 0x00a10f11 : 0x000806f8;
	memcpy(m->brand, "Cleave x86-64-v", 15);
	m->brand[15] = (char)('0' + n);
	return 0;
}

static bool word_is(const char *word, size_t len, const char *text)
{
	return strlen(text) == len && !memcmp(word, text, len);
}

static int base_model(struct cpu_model *m, const char *word, size_t len, struct err *err)
{
	static const char prefix[] = "x86-64-v";

	if (word_is(word, len, "host") || word_is(word, len, "max")) {
		base_host(m);
		return 0;
	}
	if (word_is(word, len, "x86-64"))
		return base_level(m, 1, err);
	if (len == sizeof(prefix) && !memcmp(word, prefix, len - 1) && word[len - 1] >= '1' &&
	    word[len - 1] <= '4')
		return base_level(m, (unsigned)(word[len - 1] - '0'), err);
	return err_say(
		err, EINVAL,
		"CPU model %.*s is unknown; there are host, max, x86-64-v1 to x86-64-v4, as in "
		"x86-64-v3,-avx2",
		(int)len, word);
}

static int apply_change(struct cpu_model *m, const char *word, size_t len, struct err *err)
{
	if (len < 2 || (*word != '+' && *word != '-'))
		return err_say(err, EINVAL, "CPU feature %.*s must begin with + or -", (int)len,
			       word);
	for (unsigned i = 1; i < N_CPU_FEATURES; i++) {
		if (!word_is(word + 1, len - 1, features[i].name))
			continue;
		if (*word == '+')
			return add_feature(m, (enum cpu_feature)i, err);
		cpu_model_remove(m, (enum cpu_feature)i);
		return 0;
	}
	return err_say(
		err, EINVAL,
		"CPU feature %.*s is unknown; /proc/cpuinfo has their names, as in max,-avx2",
		(int)len - 1, word + 1);
}

static uint8_t phys_bits_of(void)
{
	uint32_t a, b, c, d;

	if (!__get_cpuid(0x80000008, &a, &b, &c, &d))
		return 36;
	/* More would be of no use; an engine that shows the host's page tables has no more. */
	return (uint8_t)MIN(a & 0xff, 46u);
}

static uint64_t arch_caps_of_software(void)
{
	/* Of each of these it holds that the guest's remedy would be of no use here: instructions
	 * are checked one by one in software, so none reads past a fault (RDCL, L1TF, MDS, TAA,
	 * MMIO data, GDS, RFDS), and none runs at a target that the guest's own branches taught
	 * the host (IBRS_ALL, BHI, PBRSB). What leaks from the host's processor to the host's
	 * ring 3 is for the host to stop.
	 */
	enum {
		RDCL_NO = 1 << 0,
		IBRS_ALL = 1 << 1,
		SKIP_L1DFL_VMENTRY = 1 << 3,
		SSB_NO = 1 << 4,
		MDS_NO = 1 << 5,
		IF_PSCHANGE_MC_NO = 1 << 6,
		TAA_NO = 1 << 8,
		SBDR_SSDP_NO = 1 << 13,
		FBSDP_NO = 1 << 14,
		PSDP_NO = 1 << 15,
		BHI_NO = 1 << 20,
		PBRSB_NO = 1 << 24,
		GDS_NO = 1 << 26,
		RFDS_NO = 1 << 27,
	};
	const uint64_t its_no = BIT(62);

	return RDCL_NO | IBRS_ALL | SKIP_L1DFL_VMENTRY | SSB_NO | MDS_NO | IF_PSCHANGE_MC_NO |
	       TAA_NO | SBDR_SSDP_NO | FBSDP_NO | PSDP_NO | BHI_NO | PBRSB_NO | GDS_NO | RFDS_NO |
	       its_no;
}

int cpu_model_parse(struct cpu_model *m, const char *text, unsigned n_vcpus, uint64_t tsc_khz,
		    struct err *err)
{
	size_t len = strcspn(text, ",");
	int ret;

	*m = (struct cpu_model){ .n_vcpus = n_vcpus,
				 .tsc_khz = tsc_khz,
				 .apic_tick_ns = LAPIC_TICK_NS,
				 .pv_calls = UINT32_MAX };
	ret = base_model(m, text, len, err);
	m->has[FEAT_HT] = n_vcpus > 1;
	for (text += len; ret == 0 && *text; text += len) {
		text++;
		len = strcspn(text, ",");
		ret = apply_change(m, text, len, err);
	}
	if (ret < 0)
		return ret;
	memcpy(m->vendor, host_is_amd() ? "AuthenticAMD" : "GenuineIntel", 13);
	m->xcr0_mask = xcr0_of(m);
	m->phys_bits = phys_bits_of();
	m->arch_caps = arch_caps_of_software();
	return 0;
}
