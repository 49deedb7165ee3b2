#include "cpu/x86/system.h"
#include "rig.h"

static void ask(struct rig *r, uint32_t leaf, uint32_t sub, uint32_t out[4])
{
	CHECK_EQ(sys_cpuid(&r->c, leaf, sub, out), 0);
}

TEST(every_feature_shows_in_its_bit_and_no_other)
{
	struct rig *r = rig_long();
	uint32_t o[4];

#define X(id, name, leaf, sub, reg, bit)                                                           \
	r->m.has[FEAT_##id] = true;                                                                \
	ask(r, leaf, sub, o);                                                                      \
	CHECK_EQ(o[reg] >> (bit)&1, 1);                                                            \
	r->m.has[FEAT_##id] = false;                                                               \
	ask(r, leaf, sub, o);                                                                      \
	if ((leaf) != 0xd && (leaf) != 0x80000001) /* XSAVE hides its own; AMD repeats */          \
		CHECK_EQ(o[reg] >> (bit)&1, 0);                                                    \
	r->m.has[FEAT_##id] = (leaf) == 1 && (bit) == 26;
	CPU_FEATURES(X)
#undef X
	rig_free(r);
}

TEST(osxsave_and_sizes_follow_the_state)
{
	struct rig *r = rig_long();
	uint32_t o[4];

	r->m.has[FEAT_XSAVE] = r->m.has[FEAT_XSAVEC] = true;
	r->m.xcr0_mask = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512;
	ask(r, 1, 0, o);
	CHECK_EQ(o[CPUID_ECX] >> 27 & 1, 0);
	r->c.cr4 |= CR4_OSXSAVE;
	ask(r, 1, 0, o);
	CHECK_EQ(o[CPUID_ECX] >> 27 & 1, 1);
	ask(r, 0xd, 0, o);
	CHECK_EQ(o[CPUID_EAX], 0xe7);
	CHECK_EQ(o[CPUID_EBX], 576);
	CHECK_EQ(o[CPUID_ECX], 2688);
	r->c.fpu.xcr0 = 7;
	ask(r, 0xd, 0, o);
	CHECK_EQ(o[CPUID_EBX], 832);
	ask(r, 0xd, 2, o);
	CHECK_EQ(o[CPUID_EAX], 256);
	CHECK_EQ(o[CPUID_EBX], 576);
	ask(r, 0xd, 3, o);
	CHECK_EQ(o[CPUID_EAX], 0);
	ask(r, 0xd, 63, o);
	CHECK_EQ(o[CPUID_EAX], 0);
	ask(r, 0xd, 0xffffffff, o);
	CHECK_EQ(o[CPUID_EAX], 0);
	rig_free(r);
}

TEST(topology_is_one_package_of_single_threaded_cores)
{
	struct rig *r = rig_long();
	uint32_t o[4];

	r->m.n_vcpus = 6;
	r->c.index = 5;
	ask(r, 1, 0, o);
	CHECK_EQ(o[CPUID_EBX] >> 24, 5);
	CHECK_EQ(o[CPUID_EBX] >> 16 & 0xff, 8);
	ask(r, 0xb, 0, o);
	CHECK_EQ(o[CPUID_EAX], 0);
	CHECK_EQ(o[CPUID_EBX], 1);
	CHECK_EQ(o[CPUID_ECX], 0x100);
	CHECK_EQ(o[CPUID_EDX], 5);
	ask(r, 0xb, 1, o);
	CHECK_EQ(o[CPUID_EAX], 3);
	CHECK_EQ(o[CPUID_EBX], 6);
	CHECK_EQ(o[CPUID_ECX], 0x201);
	ask(r, 0xb, 2, o);
	CHECK_EQ(o[CPUID_EBX], 0);
	CHECK_EQ(o[CPUID_ECX], 2);
	CHECK_EQ(o[CPUID_EDX], 5);
	rig_free(r);
}

TEST(guests_compute_the_tsc_frequency_from_the_crystal)
{
	static const uint64_t khz[] = {
		2300000, 2299998, 2100001, 3999999, 999999, 2893437, 5000000
	};
	struct rig *r = rig_long();
	uint32_t o[4];

	if (r->m.vendor[0] != 'G')
		skip();
	for (unsigned i = 0; i < ARRAY_SIZE(khz); i++) {
		r->m.tsc_khz = khz[i];
		ask(r, 0x15, 0, o);
		CHECK_EQ(o[CPUID_ECX], 25000000);
		/* As Linux does, in 32 bits. */
		int64_t got = o[CPUID_ECX] / 1000 * o[CPUID_EBX] / o[CPUID_EAX];

		CHECK(llabs(got - (int64_t)khz[i]) <= (khz[i] % 25000 ? 7 : 0));
		CHECK((uint64_t)o[CPUID_EBX] * 25000 <= UINT32_MAX);
		ask(r, 0x40000010, 0, o);
		CHECK_EQ(o[CPUID_EAX], khz[i]);
		CHECK_EQ(o[CPUID_EBX], 25000);
	}
	rig_free(r);
}

TEST(leaves_beyond_the_last_are_the_last)
{
	struct rig *r = rig_long();
	uint32_t last[4], o[4];

	ask(r, 0, 0, o);
	ask(r, o[CPUID_EAX], 0, last);
	ask(r, o[CPUID_EAX] + 1, 0, o);
	CHECK_MEM(o, last, sizeof(o));
	ask(r, 0x80000009, 0, o);
	CHECK_MEM(o, last, sizeof(o));
	ask(r, 0x40000000, 0, o);
	CHECK_MEM(&o[CPUID_EBX], "Clea", 4);
	CHECK_EQ(o[CPUID_EAX], 0x40000010);
	rig_free(r);
}

TESTS(T(every_feature_shows_in_its_bit_and_no_other), T(osxsave_and_sizes_follow_the_state),
      T(topology_is_one_package_of_single_threaded_cores),
      T(guests_compute_the_tsc_frequency_from_the_crystal), T(leaves_beyond_the_last_are_the_last))
