#include "cpu/kvm/probe.h"

#include "check.h"

#include <string.h>

static char why[256];

static bool accepts(struct kvm_probe p)
{
	return kvm_probe_accepts(&p, why, sizeof(why));
}

TEST(hardware_speed_and_a_passed_function_test_are_accepted)
{
	CHECK(accepts((struct kvm_probe){ .ns_per_turn = 0.3 }));
	CHECK(accepts((struct kvm_probe){ .ns_per_turn = 10 }));
	CHECK(accepts((struct kvm_probe){ .ns_per_turn = KVM_PROBE_MAX_NS }));
	CHECK(strstr(why, "100.0 ns"));
}

TEST(an_emulator_is_refused_for_its_speed)
{
	CHECK(!accepts((struct kvm_probe){ .ns_per_turn = 100.1 }));
	CHECK(!accepts((struct kvm_probe){ .ns_per_turn = 1400 }));
	CHECK(strstr(why, "1400.0 ns"));
	CHECK(strstr(why, "more than 100"));
}

TEST(a_loop_that_does_not_end_is_refused)
{
	CHECK(!accepts((struct kvm_probe){ .ns_per_turn = 0 }));
	CHECK(strstr(why, "did not end"));
}

TEST(a_function_that_fails_is_refused_whatever_the_speed)
{
	CHECK(!accepts((struct kvm_probe){
		.ns_per_turn = 1, .failed_at = "SYSCALL", .failed_how = "shutdown" }));
	CHECK(strstr(why, "fails at SYSCALL (shutdown)"));
}

TEST(no_kvm_is_refused_with_the_hosts_reason)
{
	CHECK(!accepts((struct kvm_probe){ .refused = "open /dev/kvm: Permission denied" }));
	CHECK_STR(why, "open /dev/kvm: Permission denied");
}

TEST(a_probe_of_this_host_says_something)
{
	struct kvm_probe p;

	kvm_probe(&p);
	kvm_probe_accepts(&p, why, sizeof(why));
	CHECK(*why);
	/* Far above what it is bound to: this host may be busy. */
	CHECK(p.took_ms < 5000);
	if (*p.refused)
		CHECK(p.ns_per_turn == 0);
}

TESTS(T(hardware_speed_and_a_passed_function_test_are_accepted),
      T(an_emulator_is_refused_for_its_speed), T(a_loop_that_does_not_end_is_refused),
      T(a_function_that_fails_is_refused_whatever_the_speed),
      T(no_kvm_is_refused_with_the_hosts_reason), T(a_probe_of_this_host_says_something))
