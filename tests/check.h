/* What unit tests say: a thin dress over cmocka. A test is a function named by a sentence. */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define CHECK(x)	   assert_true(x)
#define CHECK_EQ(a, b)	   assert_int_equal(a, b)
#define CHECK_STR(a, b)	   assert_string_equal(a, b)
#define CHECK_MEM(a, b, n) assert_memory_equal(a, b, n)

/* static void thre_interrupt_clears_when_iir_reports_it(void **state); */
#define TEST(name) static void name(void **state __attribute__((unused)))
#define T(name)	   cmocka_unit_test(name)

#define TESTS(...)                                                                                 \
	int main(void)                                                                             \
	{                                                                                          \
		const struct CMUnitTest tests[] = { __VA_ARGS__ };                                 \
		return cmocka_run_group_tests(tests, NULL, NULL);                                  \
	}

#endif
