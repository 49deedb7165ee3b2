#include "dev/chip/i8254.h"

#include "check.h"

/* The ns at which tick n begins, and one well inside it. */
static int64_t at(int64_t n)
{
	return n * 1000000000 / I8254_HZ + 400;
}

static struct i8254 with(unsigned i, uint8_t mode, uint16_t n)
{
	struct i8254 p;

	i8254_reset(&p);
	i8254_write(&p, 3, (uint8_t)(i << 6 | 0x30 | mode << 1), 0);
	i8254_write(&p, i, (uint8_t)n, 0);
	i8254_write(&p, i, (uint8_t)(n >> 8), 0);
	return p;
}

static unsigned read16(struct i8254 *p, unsigned i, int64_t now)
{
	unsigned low = i8254_read(p, i, now);

	return low | (unsigned)i8254_read(p, i, now) << 8;
}

TEST(mode_0_rises_at_terminal_count_and_stays)
{
	struct i8254 p = with(0, 0, 100);

	CHECK(!i8254_out(&p, 0, at(99)));
	CHECK(i8254_out(&p, 0, at(100)));
	CHECK(i8254_out(&p, 0, at(1000)));
	CHECK_EQ(i8254_next_rise(&p, 0, at(101)), INT64_MAX);
}

TEST(mode_0_counts_on_below_zero)
{
	struct i8254 p = with(0, 0, 100);

	CHECK_EQ(read16(&p, 0, at(40)), 60);
	CHECK_EQ(read16(&p, 0, at(101)), 0xffff);
}

TEST(mode_0_waits_while_the_gate_is_low)
{
	struct i8254 p = with(2, 0, 100);

	CHECK(!i8254_out(&p, 2, at(500)));
	i8254_set_gate(&p, 2, true, at(500));
	CHECK(!i8254_out(&p, 2, at(598)));
	CHECK(i8254_out(&p, 2, at(601)));
}

TEST(mode_0_goes_on_where_the_gate_stopped_it)
{
	struct i8254 p = with(2, 0, 100);

	i8254_set_gate(&p, 2, true, at(0));
	i8254_set_gate(&p, 2, false, at(60));
	CHECK_EQ(read16(&p, 2, at(500)), 40);
	i8254_set_gate(&p, 2, true, at(500));
	CHECK(!i8254_out(&p, 2, at(538)));
	CHECK(i8254_out(&p, 2, at(541)));
}

TEST(mode_2_is_low_for_the_last_tick_of_each_period)
{
	struct i8254 p = with(0, 2, 10);

	CHECK(i8254_out(&p, 0, at(8)));
	CHECK(!i8254_out(&p, 0, at(9)));
	CHECK(i8254_out(&p, 0, at(10)));
	CHECK(!i8254_out(&p, 0, at(19)));
	CHECK_EQ(read16(&p, 0, at(13)), 7);
}

TEST(mode_2_rises_once_a_period)
{
	struct i8254 p = with(0, 2, 11932);
	int64_t next = i8254_next_rise(&p, 0, 0);

	/* 100 Hz to within a tick */
	CHECK(next > 10000000 - 1000 && next < 10000000 + 1000);
	next = i8254_next_rise(&p, 0, next);
	CHECK(next > 20000000 - 1000 && next < 20000000 + 1000);
}

TEST(mode_3_is_high_for_half_the_period)
{
	struct i8254 p = with(0, 3, 10);

	CHECK(i8254_out(&p, 0, at(4)));
	CHECK(!i8254_out(&p, 0, at(5)));
	CHECK(i8254_out(&p, 0, at(10)));
	CHECK_EQ(read16(&p, 0, at(1)), 8); /* counts by two */
}

TEST(mode_4_strobes_once)
{
	struct i8254 p = with(0, 4, 10);

	CHECK(i8254_out(&p, 0, at(9)));
	CHECK(!i8254_out(&p, 0, at(10)));
	CHECK(i8254_out(&p, 0, at(11)));
}

TEST(mode_1_is_triggered_by_the_gate_and_again)
{
	struct i8254 p = with(2, 1, 10);

	CHECK(i8254_out(&p, 2, at(5)));
	i8254_set_gate(&p, 2, true, at(20));
	CHECK(!i8254_out(&p, 2, at(25)));
	i8254_set_gate(&p, 2, false, at(26));
	i8254_set_gate(&p, 2, true, at(27));
	CHECK(!i8254_out(&p, 2, at(35)));
	CHECK(i8254_out(&p, 2, at(38)));
}

TEST(a_new_count_in_mode_2_takes_the_next_period)
{
	struct i8254 p = with(0, 2, 10);

	i8254_write(&p, 0, 20, at(3));
	i8254_write(&p, 0, 0, at(3));
	CHECK(!i8254_out(&p, 0, at(9)));
	CHECK(i8254_out(&p, 0, at(19)));
	CHECK(!i8254_out(&p, 0, at(29)));
}

TEST(a_latched_count_stands_still_until_it_is_read)
{
	struct i8254 p = with(0, 2, 1000);

	i8254_write(&p, 3, 0x00, at(100));
	CHECK_EQ(read16(&p, 0, at(500)), 900);
	CHECK_EQ(read16(&p, 0, at(500)), 500);
}

TEST(read_back_latches_status_before_count)
{
	struct i8254 p = with(0, 2, 1000);

	i8254_write(&p, 3, 0xc2, at(100)); /* status and count of counter 0 */
	CHECK_EQ(i8254_read(&p, 0, at(100)), 0x80 | 0x30 | 0x04);
	CHECK_EQ(read16(&p, 0, at(200)), 900);
}

TEST(null_count_is_shown_until_a_whole_count_is_there)
{
	struct i8254 p;

	i8254_reset(&p);
	i8254_write(&p, 3, 0x34, 0);
	i8254_write(&p, 0, 0x10, 0);
	i8254_write(&p, 3, 0xe2, 0);
	CHECK(i8254_read(&p, 0, 0) & 0x40);
	i8254_write(&p, 0, 0x00, 0);
	i8254_write(&p, 3, 0xe2, 0);
	CHECK(!(i8254_read(&p, 0, 0) & 0x40));
}

TEST(bcd_counts_in_decimal)
{
	struct i8254 p;

	i8254_reset(&p);
	i8254_write(&p, 3, 0x31, 0);
	i8254_write(&p, 0, 0x00, 0);
	i8254_write(&p, 0, 0x01, 0); /* one hundred */
	CHECK_EQ(read16(&p, 0, at(1)), 0x99);
	CHECK(i8254_out(&p, 0, at(100)));
}

TEST(a_count_of_zero_is_65536)
{
	struct i8254 p = with(0, 0, 0);

	CHECK(!i8254_out(&p, 0, at(65535)));
	CHECK(i8254_out(&p, 0, at(65536)));
}

TESTS(T(mode_0_rises_at_terminal_count_and_stays), T(mode_0_counts_on_below_zero),
      T(mode_0_waits_while_the_gate_is_low), T(mode_0_goes_on_where_the_gate_stopped_it),
      T(mode_2_is_low_for_the_last_tick_of_each_period), T(mode_2_rises_once_a_period),
      T(mode_3_is_high_for_half_the_period), T(mode_4_strobes_once),
      T(mode_1_is_triggered_by_the_gate_and_again), T(a_new_count_in_mode_2_takes_the_next_period),
      T(a_latched_count_stands_still_until_it_is_read), T(read_back_latches_status_before_count),
      T(null_count_is_shown_until_a_whole_count_is_there), T(bcd_counts_in_decimal),
      T(a_count_of_zero_is_65536))
