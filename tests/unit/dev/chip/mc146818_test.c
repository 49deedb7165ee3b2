#include "dev/chip/mc146818.h"

#include "check.h"

#define NS   1000000000ll
#define NOON (1709294400 * NS) /* 2024-03-01 12:00:00 UTC, a Friday */

static struct mc146818 at_noon(void)
{
	struct mc146818 r;

	mc146818_init(&r, NOON);
	return r;
}

TEST(time_is_bcd_and_24_hours_after_power_on)
{
	struct mc146818 r = at_noon();

	CHECK_EQ(mc146818_read(&r, 0, 59 * NS), 0x59);
	CHECK_EQ(mc146818_read(&r, 4, 0), 0x12);
	CHECK_EQ(mc146818_read(&r, 6, 0), 6);
	CHECK_EQ(mc146818_read(&r, 7, 0), 0x01);
	CHECK_EQ(mc146818_read(&r, 8, 0), 0x03);
	CHECK_EQ(mc146818_read(&r, 9, 0), 0x24);
	CHECK_EQ(mc146818_read(&r, RTC_CENTURY, 0), 0x20);
	CHECK_EQ(mc146818_read(&r, 0x0d, 0), 0x80);
}

TEST(binary_and_12_hour_modes_change_what_is_read)
{
	struct mc146818 r = at_noon();

	mc146818_write(&r, 0x0b, 0x04, 0); /* binary, 12 hours */
	CHECK_EQ(mc146818_read(&r, 0, 45 * NS), 45);
	CHECK_EQ(mc146818_read(&r, 4, 0), 0x80 | 12);
	CHECK_EQ(mc146818_read(&r, 4, 3600 * NS), 0x80 | 1);
	CHECK_EQ(mc146818_read(&r, 4, 12 * 3600 * NS), 12); /* midnight */
}

TEST(set_holds_the_time_and_takes_what_was_written)
{
	struct mc146818 r = at_noon();

	mc146818_write(&r, 0x0b, 0x82, 0);
	CHECK_EQ(mc146818_read(&r, 0, 10 * NS), 0x00);
	mc146818_write(&r, 0, 0x30, 10 * NS);
	mc146818_write(&r, 2, 0x15, 10 * NS);
	mc146818_write(&r, 0x0b, 0x02, 10 * NS);
	CHECK_EQ(mc146818_read(&r, 0, 12 * NS), 0x32);
	CHECK_EQ(mc146818_read(&r, 2, 12 * NS), 0x15);
}

TEST(the_divider_in_reset_starts_half_a_second_before_the_next_second)
{
	struct mc146818 r = at_noon();

	mc146818_write(&r, 0x0a, 0x76, 0);
	mc146818_write(&r, 0x0a, 0x26, 5 * NS);
	CHECK_EQ(mc146818_read(&r, 0, 5 * NS + NS / 2 - 1), 0x00);
	CHECK_EQ(mc146818_read(&r, 0, 5 * NS + NS / 2 + 1), 0x01);
}

TEST(update_in_progress_shows_before_the_second_changes)
{
	struct mc146818 r = at_noon();

	CHECK(!(mc146818_read(&r, 0x0a, NS / 2) & 0x80));
	CHECK(mc146818_read(&r, 0x0a, NS - 1000) & 0x80);
	CHECK(!(mc146818_read(&r, 0x0a, NS + 1000) & 0x80));
}

TEST(the_periodic_flag_comes_at_its_rate)
{
	struct mc146818 r = at_noon();

	mc146818_write(&r, 0x0b, 0x42, 0); /* 1024 Hz */
	CHECK_EQ(mc146818_next(&r, 0), 976563);
	mc146818_run(&r, 976000);
	CHECK(!mc146818_irq(&r));
	mc146818_run(&r, 976563);
	CHECK(mc146818_irq(&r));
	CHECK_EQ(mc146818_read(&r, 0x0c, 976563), 0xc0);
	CHECK(!mc146818_irq(&r));
}

TEST(the_update_interrupt_comes_each_second)
{
	struct mc146818 r = at_noon();

	mc146818_write(&r, 0x0b, 0x12, NS / 4);
	CHECK_EQ(mc146818_next(&r, NS / 4), NS);
	mc146818_run(&r, NS);
	CHECK(mc146818_irq(&r));
	CHECK(mc146818_read(&r, 0x0c, NS) & 0x10);
}

TEST(the_alarm_matches_its_time_and_wildcards)
{
	struct mc146818 r = at_noon();

	mc146818_write(&r, 1, 0x30, 0);
	mc146818_write(&r, 3, 0xc0, 0);
	mc146818_write(&r, 5, 0xff, 0);
	mc146818_write(&r, 0x0b, 0x22, 0);
	CHECK_EQ(mc146818_next(&r, 0), 30 * NS);
	mc146818_run(&r, 29 * NS);
	CHECK(!mc146818_irq(&r));
	mc146818_run(&r, 30 * NS);
	CHECK(mc146818_irq(&r));
	mc146818_read(&r, 0x0c, 30 * NS);
	CHECK_EQ(mc146818_next(&r, 30 * NS), 90 * NS);
}

TEST(an_alarm_that_matches_nothing_never_comes)
{
	struct mc146818 r = at_noon();

	mc146818_write(&r, 1, 0x75, 0);
	mc146818_write(&r, 0x0b, 0x22, 0);
	CHECK_EQ(mc146818_next(&r, 0), INT64_MAX);
}

TEST(reset_disables_interrupts_and_keeps_the_time)
{
	struct mc146818 r = at_noon();

	mc146818_write(&r, 0x0b, 0x72, 0);
	mc146818_reset(&r);
	CHECK_EQ(mc146818_read(&r, 0x0b, NS), 0x02);
	CHECK_EQ(mc146818_read(&r, 0, 5 * NS), 0x05);
}

TEST(memory_keeps_what_was_written)
{
	struct mc146818 r = at_noon();

	mc146818_write(&r, 0x40, 0xa5, 0);
	CHECK_EQ(mc146818_read(&r, 0x40, 0), 0xa5);
}

TESTS(T(time_is_bcd_and_24_hours_after_power_on), T(binary_and_12_hour_modes_change_what_is_read),
      T(set_holds_the_time_and_takes_what_was_written),
      T(the_divider_in_reset_starts_half_a_second_before_the_next_second),
      T(update_in_progress_shows_before_the_second_changes), T(the_periodic_flag_comes_at_its_rate),
      T(the_update_interrupt_comes_each_second), T(the_alarm_matches_its_time_and_wildcards),
      T(an_alarm_that_matches_nothing_never_comes), T(reset_disables_interrupts_and_keeps_the_time),
      T(memory_keeps_what_was_written))
