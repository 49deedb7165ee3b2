/* CPUID feature flags that this system knows, and CPU models made of them. */
#ifndef CPU_X86_FEATURES_H
#define CPU_X86_FEATURES_H

#include <stdbool.h>
#include <stdint.h>

struct err;

enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/*   id            name as in /proc/cpuinfo  leaf        sub register  bit */
#define CPU_FEATURES(X)                                                                            \
	X(FPU, "fpu", 0x00000001, 0, CPUID_EDX, 0)                                                 \
	X(VME, "vme", 0x00000001, 0, CPUID_EDX, 1)                                                 \
	X(DE, "de", 0x00000001, 0, CPUID_EDX, 2)                                                   \
	X(PSE, "pse", 0x00000001, 0, CPUID_EDX, 3)                                                 \
	X(TSC, "tsc", 0x00000001, 0, CPUID_EDX, 4)                                                 \
	X(MSR, "msr", 0x00000001, 0, CPUID_EDX, 5)                                                 \
	X(PAE, "pae", 0x00000001, 0, CPUID_EDX, 6)                                                 \
	X(MCE, "mce", 0x00000001, 0, CPUID_EDX, 7)                                                 \
	X(CX8, "cx8", 0x00000001, 0, CPUID_EDX, 8)                                                 \
	X(APIC, "apic", 0x00000001, 0, CPUID_EDX, 9)                                               \
	X(SEP, "sep", 0x00000001, 0, CPUID_EDX, 11)                                                \
	X(MTRR, "mtrr", 0x00000001, 0, CPUID_EDX, 12)                                              \
	X(PGE, "pge", 0x00000001, 0, CPUID_EDX, 13)                                                \
	X(MCA, "mca", 0x00000001, 0, CPUID_EDX, 14)                                                \
	X(CMOV, "cmov", 0x00000001, 0, CPUID_EDX, 15)                                              \
	X(PAT, "pat", 0x00000001, 0, CPUID_EDX, 16)                                                \
	X(PSE36, "pse36", 0x00000001, 0, CPUID_EDX, 17)                                            \
	X(CLFLUSH, "clflush", 0x00000001, 0, CPUID_EDX, 19)                                        \
	X(MMX, "mmx", 0x00000001, 0, CPUID_EDX, 23)                                                \
	X(FXSR, "fxsr", 0x00000001, 0, CPUID_EDX, 24)                                              \
	X(SSE, "sse", 0x00000001, 0, CPUID_EDX, 25)                                                \
	X(SSE2, "sse2", 0x00000001, 0, CPUID_EDX, 26)                                              \
	X(SS, "ss", 0x00000001, 0, CPUID_EDX, 27)                                                  \
	X(HT, "ht", 0x00000001, 0, CPUID_EDX, 28)                                                  \
	X(SSE3, "pni", 0x00000001, 0, CPUID_ECX, 0)                                                \
	X(PCLMULQDQ, "pclmulqdq", 0x00000001, 0, CPUID_ECX, 1)                                     \
	X(MONITOR, "monitor", 0x00000001, 0, CPUID_ECX, 3)                                         \
	X(SSSE3, "ssse3", 0x00000001, 0, CPUID_ECX, 9)                                             \
	X(FMA, "fma", 0x00000001, 0, CPUID_ECX, 12)                                                \
	X(CX16, "cx16", 0x00000001, 0, CPUID_ECX, 13)                                              \
	X(PCID, "pcid", 0x00000001, 0, CPUID_ECX, 17)                                              \
	X(SSE4_1, "sse4_1", 0x00000001, 0, CPUID_ECX, 19)                                          \
	X(SSE4_2, "sse4_2", 0x00000001, 0, CPUID_ECX, 20)                                          \
	X(X2APIC, "x2apic", 0x00000001, 0, CPUID_ECX, 21)                                          \
	X(MOVBE, "movbe", 0x00000001, 0, CPUID_ECX, 22)                                            \
	X(POPCNT, "popcnt", 0x00000001, 0, CPUID_ECX, 23)                                          \
	X(TSC_DEADLINE, "tsc_deadline_timer", 0x00000001, 0, CPUID_ECX, 24)                        \
	X(AES, "aes", 0x00000001, 0, CPUID_ECX, 25)                                                \
	X(XSAVE, "xsave", 0x00000001, 0, CPUID_ECX, 26)                                            \
	X(AVX, "avx", 0x00000001, 0, CPUID_ECX, 28)                                                \
	X(F16C, "f16c", 0x00000001, 0, CPUID_ECX, 29)                                              \
	X(RDRAND, "rdrand", 0x00000001, 0, CPUID_ECX, 30)                                          \
	X(HYPERVISOR, "hypervisor", 0x00000001, 0, CPUID_ECX, 31)                                  \
	X(ARAT, "arat", 0x00000006, 0, CPUID_EAX, 2)                                               \
	X(FSGSBASE, "fsgsbase", 0x00000007, 0, CPUID_EBX, 0)                                       \
	X(TSC_ADJUST, "tsc_adjust", 0x00000007, 0, CPUID_EBX, 1)                                   \
	X(BMI1, "bmi1", 0x00000007, 0, CPUID_EBX, 3)                                               \
	X(AVX2, "avx2", 0x00000007, 0, CPUID_EBX, 5)                                               \
	X(FDP_EXCPTN_ONLY, "fdp_excptn_only", 0x00000007, 0, CPUID_EBX, 6)                         \
	X(SMEP, "smep", 0x00000007, 0, CPUID_EBX, 7)                                               \
	X(BMI2, "bmi2", 0x00000007, 0, CPUID_EBX, 8)                                               \
	X(ERMS, "erms", 0x00000007, 0, CPUID_EBX, 9)                                               \
	X(INVPCID, "invpcid", 0x00000007, 0, CPUID_EBX, 10)                                        \
	X(ZERO_FCS_FDS, "zero_fcs_fds", 0x00000007, 0, CPUID_EBX, 13)                              \
	X(AVX512F, "avx512f", 0x00000007, 0, CPUID_EBX, 16)                                        \
	X(AVX512DQ, "avx512dq", 0x00000007, 0, CPUID_EBX, 17)                                      \
	X(RDSEED, "rdseed", 0x00000007, 0, CPUID_EBX, 18)                                          \
	X(ADX, "adx", 0x00000007, 0, CPUID_EBX, 19)                                                \
	X(SMAP, "smap", 0x00000007, 0, CPUID_EBX, 20)                                              \
	X(AVX512IFMA, "avx512ifma", 0x00000007, 0, CPUID_EBX, 21)                                  \
	X(CLFLUSHOPT, "clflushopt", 0x00000007, 0, CPUID_EBX, 23)                                  \
	X(CLWB, "clwb", 0x00000007, 0, CPUID_EBX, 24)                                              \
	X(AVX512CD, "avx512cd", 0x00000007, 0, CPUID_EBX, 28)                                      \
	X(SHA_NI, "sha_ni", 0x00000007, 0, CPUID_EBX, 29)                                          \
	X(AVX512BW, "avx512bw", 0x00000007, 0, CPUID_EBX, 30)                                      \
	X(AVX512VL, "avx512vl", 0x00000007, 0, CPUID_EBX, 31)                                      \
	X(AVX512VBMI, "avx512vbmi", 0x00000007, 0, CPUID_ECX, 1)                                   \
	X(UMIP, "umip", 0x00000007, 0, CPUID_ECX, 2)                                               \
	X(AVX512_VBMI2, "avx512_vbmi2", 0x00000007, 0, CPUID_ECX, 6)                               \
	X(GFNI, "gfni", 0x00000007, 0, CPUID_ECX, 8)                                               \
	X(VAES, "vaes", 0x00000007, 0, CPUID_ECX, 9)                                               \
	X(VPCLMULQDQ, "vpclmulqdq", 0x00000007, 0, CPUID_ECX, 10)                                  \
	X(AVX512_VNNI, "avx512_vnni", 0x00000007, 0, CPUID_ECX, 11)                                \
	X(AVX512_BITALG, "avx512_bitalg", 0x00000007, 0, CPUID_ECX, 12)                            \
	X(AVX512_VPOPCNTDQ, "avx512_vpopcntdq", 0x00000007, 0, CPUID_ECX, 14)                      \
	X(RDPID, "rdpid", 0x00000007, 0, CPUID_ECX, 22)                                            \
	X(MOVDIRI, "movdiri", 0x00000007, 0, CPUID_ECX, 27)                                        \
	X(MOVDIR64B, "movdir64b", 0x00000007, 0, CPUID_ECX, 28)                                    \
	X(FSRM, "fsrm", 0x00000007, 0, CPUID_EDX, 4)                                               \
	X(SERIALIZE, "serialize", 0x00000007, 0, CPUID_EDX, 14)                                    \
	X(SPEC_CTRL, "spec_ctrl", 0x00000007, 0, CPUID_EDX, 26)                                    \
	X(ARCH_CAPS, "arch_capabilities", 0x00000007, 0, CPUID_EDX, 29)                            \
	X(SSBD, "ssbd", 0x00000007, 0, CPUID_EDX, 31)                                              \
	X(AVX_VNNI, "avx_vnni", 0x00000007, 1, CPUID_EAX, 4)                                       \
	X(AVX512_BF16, "avx512_bf16", 0x00000007, 1, CPUID_EAX, 5)                                 \
	X(BHI_CTRL, "bhi_ctrl", 0x00000007, 2, CPUID_EDX, 4)                                       \
	X(XSAVEOPT, "xsaveopt", 0x0000000d, 1, CPUID_EAX, 0)                                       \
	X(XSAVEC, "xsavec", 0x0000000d, 1, CPUID_EAX, 1)                                           \
	X(XGETBV1, "xgetbv1", 0x0000000d, 1, CPUID_EAX, 2)                                         \
	X(XSAVES, "xsaves", 0x0000000d, 1, CPUID_EAX, 3)                                           \
	X(LAHF_LM, "lahf_lm", 0x80000001, 0, CPUID_ECX, 0)                                         \
	X(LZCNT, "abm", 0x80000001, 0, CPUID_ECX, 5)                                               \
	X(PREFETCHW, "3dnowprefetch", 0x80000001, 0, CPUID_ECX, 8)                                 \
	X(SYSCALL, "syscall", 0x80000001, 0, CPUID_EDX, 11)                                        \
	X(NX, "nx", 0x80000001, 0, CPUID_EDX, 20)                                                  \
	X(PDPE1GB, "pdpe1gb", 0x80000001, 0, CPUID_EDX, 26)                                        \
	X(RDTSCP, "rdtscp", 0x80000001, 0, CPUID_EDX, 27)                                          \
	X(LM, "lm", 0x80000001, 0, CPUID_EDX, 29)                                                  \
	X(INVTSC, "nonstop_tsc", 0x80000007, 0, CPUID_EDX, 8)

enum cpu_feature {
	FEAT_NONE, /* the base instruction set */
#define X(id, name, leaf, sub, reg, bit) FEAT_##id,
	CPU_FEATURES(X)
#undef X
		N_CPU_FEATURES
};

/* What a guest's CPU can do: what CPUID says, and what the engines enforce. Constant while a
 * machine lives; shared by its vCPUs.
 */
struct cpu_model {
	bool has[N_CPU_FEATURES];
	char vendor[13];
	char brand[49];
	uint32_t signature;    /* CPUID.1:EAX: family, model, stepping */
	uint64_t xcr0_mask;    /* components XSETBV accepts */
	uint64_t tsc_khz;      /* the guest's TSC, told in CPUID leaves 0x15 and 0x16 */
	uint64_t arch_caps;    /* IA32_ARCH_CAPABILITIES */
	unsigned apic_tick_ns; /* mem/platform.h */
	uint32_t pv_calls;     /* KVM_FEATURE_ bits: what hypercalls may do here */
	unsigned n_vcpus;
	uint8_t phys_bits;
};

static inline bool cpu_has(const struct cpu_model *m, enum cpu_feature f)
{
	return m->has[f];
}

/* Build a model from text: "host", "max" (the same), or "x86-64-v1" ... "v4" ("x86-64" is v1),
 * then ",+feature" or ",-feature" by the names above, any number. What this system does not
 * implement or the host's CPU lacks where it is needed natively is refused with a sentence that
 * names it (for "host": left out). A feature that another one needs takes that one along when
 * removed. tsc_khz is host_tsc_khz()'s. -EINVAL.
 */
int cpu_model_parse(struct cpu_model *m, const char *text, unsigned n_vcpus, uint64_t tsc_khz,
		    struct err *err);

/* Take f from the model, and what needs it. */
void cpu_model_remove(struct cpu_model *m, enum cpu_feature f);

/* Does the host's CPU report the feature? */
bool host_has(enum cpu_feature f);
const char *cpu_feature_name(enum cpu_feature f);

#endif
