#include "base/err.h"
#include "check.h"
#include "cpu/x86/features.h"
#include "cpu/x86/regs.h"

#include <errno.h>
#include <string.h>

static int parse(struct cpu_model *m, const char *text)
{
	return cpu_model_parse(m, text, 2, 2000000, NULL);
}

TEST(named_levels_grow)
{
	struct cpu_model v1, v2;

	CHECK_EQ(parse(&v1, "x86-64"), 0);
	CHECK(cpu_has(&v1, FEAT_SSE2) && cpu_has(&v1, FEAT_LM) && cpu_has(&v1, FEAT_SMAP));
	CHECK(!cpu_has(&v1, FEAT_SSE3) && !cpu_has(&v1, FEAT_XSAVE));
	CHECK_EQ(v1.xcr0_mask, 0);
	CHECK_EQ(parse(&v2, "x86-64-v2"), 0);
	CHECK(cpu_has(&v2, FEAT_SSE4_2) && cpu_has(&v2, FEAT_POPCNT) && cpu_has(&v2, FEAT_CX16));
	CHECK(!cpu_has(&v2, FEAT_AVX));
}

TEST(level_3_has_avx_state)
{
	struct cpu_model m;

	if (!host_has(FEAT_AVX2) || !host_has(FEAT_FMA))
		skip();
	CHECK_EQ(parse(&m, "x86-64-v3"), 0);
	CHECK(cpu_has(&m, FEAT_AVX2) && cpu_has(&m, FEAT_BMI2) && cpu_has(&m, FEAT_XSAVES));
	CHECK_EQ(m.xcr0_mask, 7);
	CHECK_EQ(parse(&m, "x86-64-v3,-avx"), 0);
	CHECK(!cpu_has(&m, FEAT_AVX2) && !cpu_has(&m, FEAT_FMA) && cpu_has(&m, FEAT_BMI2));
	CHECK_EQ(m.xcr0_mask, 3);
}

TEST(removing_takes_along_what_needs_it)
{
	struct cpu_model m;

	CHECK_EQ(parse(&m, "host,-xsave"), 0);
	CHECK(!cpu_has(&m, FEAT_AVX) && !cpu_has(&m, FEAT_AVX512VBMI) && !cpu_has(&m, FEAT_XSAVES));
	CHECK_EQ(m.xcr0_mask, 0);
	CHECK_EQ(parse(&m, "host,-lm"), 0);
	CHECK(!cpu_has(&m, FEAT_PCID) && !cpu_has(&m, FEAT_SYSCALL));
	CHECK_EQ(parse(&m, "host,-apic"), 0);
	CHECK(!cpu_has(&m, FEAT_X2APIC) && !cpu_has(&m, FEAT_TSC_DEADLINE));
}

TEST(adding_takes_along_what_it_needs)
{
	struct cpu_model m;

	if (!host_has(FEAT_AVX2))
		skip();
	CHECK_EQ(parse(&m, "x86-64-v1,+avx2"), 0);
	CHECK(cpu_has(&m, FEAT_AVX) && cpu_has(&m, FEAT_XSAVE) && cpu_has(&m, FEAT_SSE4_2));
	CHECK_EQ(m.xcr0_mask, 7);
}

TEST(host_lacks_what_is_not_implemented)
{
	struct cpu_model m;

	CHECK_EQ(parse(&m, "max"), 0);
	CHECK(!cpu_has(&m, FEAT_MONITOR));
	CHECK(cpu_has(&m, FEAT_X2APIC) && cpu_has(&m, FEAT_HYPERVISOR));
	for (unsigned f = 1; f < N_CPU_FEATURES; f++)
		CHECK(cpu_feature_name((enum cpu_feature)f) != NULL);
}

TEST(mistakes_are_named)
{
	struct cpu_model m;
	struct err err;

	CHECK_EQ(cpu_model_parse(&m, "i486", 1, 1, &err), -EINVAL);
	CHECK(strstr(err.msg, "i486") != NULL);
	CHECK_EQ(cpu_model_parse(&m, "x86-64-v5", 1, 1, &err), -EINVAL);
	CHECK_EQ(cpu_model_parse(&m, "host,+turbo", 1, 1, &err), -EINVAL);
	CHECK(strstr(err.msg, "turbo") != NULL);
	CHECK_EQ(cpu_model_parse(&m, "host,avx", 1, 1, &err), -EINVAL);
	CHECK_EQ(cpu_model_parse(&m, "host,", 1, 1, &err), -EINVAL);
	CHECK_EQ(cpu_model_parse(&m, "", 1, 1, &err), -EINVAL);
	CHECK_EQ(cpu_model_parse(&m, "host,+monitor", 1, 1, &err), -EINVAL);
	CHECK(strstr(err.msg, "monitor") != NULL);
}

TEST(one_cpu_has_no_ht_bit)
{
	struct cpu_model m;

	CHECK_EQ(cpu_model_parse(&m, "host", 1, 1, NULL), 0);
	CHECK(!cpu_has(&m, FEAT_HT));
	CHECK_EQ(cpu_model_parse(&m, "host", 2, 1, NULL), 0);
	CHECK(cpu_has(&m, FEAT_HT));
}

TESTS(T(named_levels_grow), T(level_3_has_avx_state), T(removing_takes_along_what_needs_it),
      T(adding_takes_along_what_it_needs), T(host_lacks_what_is_not_implemented),
      T(mistakes_are_named), T(one_cpu_has_no_ht_bit))
