#include "dev/chip/i8042.h"

#include "check.h"

static struct i8042 fresh(void)
{
	struct i8042 k;

	i8042_reset(&k);
	return k;
}

/* What the data port gives next, or -1 if the status says there is nothing. */
static int next(struct i8042 *k)
{
	return i8042_read(k, 1) & 1 ? i8042_read(k, 0) : -1;
}

TEST(self_test_answers_55)
{
	struct i8042 k = fresh();

	i8042_write(&k, 1, 0xaa);
	CHECK_EQ(next(&k), 0x55);
	CHECK_EQ(next(&k), -1);
	i8042_write(&k, 1, 0xab);
	CHECK_EQ(next(&k), 0x00);
}

TEST(the_command_byte_is_read_and_written)
{
	struct i8042 k = fresh();

	i8042_write(&k, 1, 0x60);
	i8042_write(&k, 0, 0x03);
	i8042_write(&k, 1, 0x20);
	CHECK_EQ(next(&k), 0x03);
}

TEST(fe_asks_for_reset)
{
	struct i8042 k = fresh();

	CHECK(!k.reset_asked);
	i8042_write(&k, 1, 0xfe);
	CHECK(k.reset_asked);
}

TEST(the_output_port_drives_reset_and_a20)
{
	struct i8042 k = fresh();

	CHECK(i8042_a20(&k));
	i8042_write(&k, 1, 0xd1);
	i8042_write(&k, 0, 0x01);
	CHECK(!i8042_a20(&k));
	CHECK(!k.reset_asked);
	i8042_write(&k, 1, 0xdf);
	CHECK(i8042_a20(&k));
	i8042_write(&k, 1, 0xd1);
	i8042_write(&k, 0, 0x02);
	CHECK(k.reset_asked);
}

TEST(the_keyboard_identifies_itself_in_both_translations)
{
	struct i8042 k = fresh();

	i8042_write(&k, 0, 0xf2);
	CHECK_EQ(next(&k), 0xfa);
	CHECK_EQ(next(&k), 0xab);
	CHECK_EQ(next(&k), 0x41); /* 0x83 translated */
	i8042_write(&k, 1, 0x60);
	i8042_write(&k, 0, 0x01);
	i8042_write(&k, 0, 0xf2);
	CHECK_EQ(next(&k), 0xfa);
	CHECK_EQ(next(&k), 0xab);
	CHECK_EQ(next(&k), 0x83);
}

TEST(keyboard_reset_answers_acknowledge_and_aa)
{
	struct i8042 k = fresh();

	i8042_write(&k, 0, 0xff);
	CHECK(i8042_irq_kbd(&k));
	CHECK_EQ(next(&k), 0xfa);
	CHECK_EQ(next(&k), 0xaa);
	CHECK_EQ(next(&k), -1);
	CHECK(!i8042_irq_kbd(&k));
}

TEST(aux_loop_comes_back_as_aux_data)
{
	struct i8042 k = fresh();

	i8042_write(&k, 1, 0xd3);
	i8042_write(&k, 0, 0x5a);
	CHECK_EQ(i8042_read(&k, 1) & 0x21, 0x21);
	CHECK_EQ(next(&k), 0x5a);
}

TEST(the_mouse_answers_through_d4)
{
	struct i8042 k = fresh();

	i8042_write(&k, 1, 0x60);
	i8042_write(&k, 0, 0x03);
	i8042_write(&k, 1, 0xd4);
	i8042_write(&k, 0, 0xff);
	CHECK(i8042_irq_aux(&k));
	CHECK_EQ(next(&k), 0xfa);
	CHECK_EQ(next(&k), 0xaa);
	CHECK_EQ(next(&k), 0x00);
	CHECK(!i8042_irq_aux(&k));
}

TEST(keys_are_translated_to_set_1)
{
	static const uint8_t a_down_and_up[] = { 0x1c, 0xf0, 0x1c };
	struct i8042 k = fresh();

	ps2_send(&k.kbd, a_down_and_up, sizeof(a_down_and_up));
	i8042_write(&k, 1, 0xae);
	CHECK_EQ(next(&k), 0x1e);
	CHECK_EQ(next(&k), 0x9e);
	CHECK_EQ(next(&k), -1);
}

TEST(a_disabled_keyboard_keeps_its_bytes)
{
	static const uint8_t key[] = { 0x1c };
	struct i8042 k = fresh();

	i8042_write(&k, 1, 0xad);
	ps2_send(&k.kbd, key, sizeof(key));
	CHECK_EQ(next(&k), -1);
	i8042_write(&k, 1, 0xae);
	CHECK_EQ(next(&k), 0x1e);
}

TEST(unknown_keyboard_commands_are_asked_again)
{
	struct i8042 k = fresh();

	i8042_write(&k, 0, 0x01);
	CHECK_EQ(next(&k), 0xfe);
}

TEST(no_sequence_of_bytes_overruns_a_queue)
{
	struct i8042 k = fresh();
	uint32_t x = 1;

	for (unsigned i = 0; i < 200000; i++) {
		x = x * 1664525 + 1013904223;
		if (x >> 28 < 3)
			i8042_read(&k, x >> 20 & 1);
		else
			i8042_write(&k, x >> 20 & 1, (uint8_t)(x >> 8));
		CHECK(k.kbd.n <= PS2_QUEUE && k.aux.n <= PS2_QUEUE);
	}
}

TESTS(T(self_test_answers_55), T(the_command_byte_is_read_and_written), T(fe_asks_for_reset),
      T(the_output_port_drives_reset_and_a20),
      T(the_keyboard_identifies_itself_in_both_translations),
      T(keyboard_reset_answers_acknowledge_and_aa), T(aux_loop_comes_back_as_aux_data),
      T(the_mouse_answers_through_d4), T(keys_are_translated_to_set_1),
      T(a_disabled_keyboard_keeps_its_bytes), T(unknown_keyboard_commands_are_asked_again),
      T(no_sequence_of_bytes_overruns_a_queue))
