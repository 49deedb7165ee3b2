#include "dev/chip/i8259.h"

#include "check.h"

/* Initialised as Linux does it: vectors 0x30 and 0x38, all inputs open. */
static struct i8259_pair fresh(uint8_t icw4)
{
	struct i8259_pair p = { 0 };

	i8259_reset(&p);
	for (unsigned i = 0; i < 2; i++) {
		i8259_write(&p, i, 0, 0x11);
		i8259_write(&p, i, 1, i ? 0x38 : 0x30);
		i8259_write(&p, i, 1, i ? 0x02 : 0x04);
		i8259_write(&p, i, 1, icw4);
		i8259_write(&p, i, 1, 0x00);
	}
	return p;
}

static void eoi(struct i8259_pair *p, unsigned which)
{
	i8259_write(p, which, 0, 0x20);
}

TEST(an_edge_interrupts_once)
{
	struct i8259_pair p = fresh(0x01);

	i8259_set_irq(&p, 1, true);
	CHECK(i8259_intr(&p));
	CHECK_EQ(i8259_ack(&p), 0x31);
	eoi(&p, 0);
	CHECK(!i8259_intr(&p));
	i8259_set_irq(&p, 1, true); /* no edge */
	CHECK(!i8259_intr(&p));
	i8259_set_irq(&p, 1, false);
	i8259_set_irq(&p, 1, true);
	CHECK(i8259_intr(&p));
}

TEST(a_level_interrupts_until_it_falls)
{
	struct i8259_pair p = fresh(0x01);

	i8259_write_elcr(&p, 1, 0x02); /* IRQ 9 */
	i8259_set_irq(&p, 9, true);
	CHECK_EQ(i8259_ack(&p), 0x39);
	eoi(&p, 1);
	eoi(&p, 0);
	CHECK(i8259_intr(&p));
	i8259_set_irq(&p, 9, false);
	CHECK(!i8259_intr(&p));
}

TEST(elcr_keeps_the_fixed_inputs_edge_triggered)
{
	struct i8259_pair p = fresh(0x01);

	i8259_write_elcr(&p, 0, 0xff);
	i8259_write_elcr(&p, 1, 0xff);
	CHECK_EQ(i8259_read_elcr(&p, 0), 0xf8);
	CHECK_EQ(i8259_read_elcr(&p, 1), 0xde);
}

TEST(a_lower_input_waits_for_the_higher_ones_eoi)
{
	struct i8259_pair p = fresh(0x01);

	i8259_set_irq(&p, 3, true);
	CHECK_EQ(i8259_ack(&p), 0x33);
	i8259_set_irq(&p, 4, true);
	CHECK(!i8259_intr(&p));
	i8259_set_irq(&p, 1, true);
	CHECK_EQ(i8259_ack(&p), 0x31);
	eoi(&p, 0);
	CHECK(!i8259_intr(&p));
	eoi(&p, 0);
	CHECK_EQ(i8259_ack(&p), 0x34);
}

TEST(an_input_waits_for_its_own_eoi)
{
	struct i8259_pair p = fresh(0x01);

	i8259_set_irq(&p, 3, true);
	i8259_ack(&p);
	i8259_set_irq(&p, 3, false);
	i8259_set_irq(&p, 3, true);
	CHECK(!i8259_intr(&p));
	eoi(&p, 0);
	CHECK_EQ(i8259_ack(&p), 0x33);
}

TEST(the_slave_interrupts_through_the_master)
{
	struct i8259_pair p = fresh(0x01);

	i8259_set_irq(&p, 12, true);
	CHECK_EQ(i8259_ack(&p), 0x3c);
	i8259_write(&p, 0, 0, 0x0b);
	i8259_write(&p, 1, 0, 0x0b);
	CHECK_EQ(i8259_read(&p, 0, 0), 0x04); /* in service: the cascade */
	CHECK_EQ(i8259_read(&p, 1, 0), 0x10);
}

TEST(masked_inputs_stay_in_irr)
{
	struct i8259_pair p = fresh(0x01);

	i8259_write(&p, 0, 1, 0x10);
	i8259_set_irq(&p, 4, true);
	CHECK(!i8259_intr(&p));
	i8259_write(&p, 0, 0, 0x0a);
	CHECK_EQ(i8259_read(&p, 0, 0) & 0x10, 0x10);
	i8259_write(&p, 0, 1, 0x00);
	CHECK(i8259_intr(&p));
}

TEST(a_request_that_has_gone_is_acknowledged_as_spurious)
{
	struct i8259_pair p = fresh(0x01);

	i8259_set_irq(&p, 5, true);
	i8259_set_irq(&p, 5, false);
	CHECK(!i8259_intr(&p));
	CHECK_EQ(i8259_ack(&p), 0x37);
	i8259_write(&p, 0, 0, 0x0b);
	CHECK_EQ(i8259_read(&p, 0, 0), 0x00); /* and is not in service */
}

TEST(automatic_eoi_leaves_nothing_in_service)
{
	struct i8259_pair p = fresh(0x03);

	i8259_set_irq(&p, 3, true);
	CHECK_EQ(i8259_ack(&p), 0x33);
	i8259_write(&p, 0, 0, 0x0b);
	CHECK_EQ(i8259_read(&p, 0, 0), 0x00);
}

TEST(rotation_on_eoi_makes_the_served_input_the_last)
{
	struct i8259_pair p = fresh(0x01);

	i8259_set_irq(&p, 3, true);
	i8259_ack(&p);
	i8259_write(&p, 0, 0, 0xa0); /* rotate on non-specific EOI */
	i8259_set_irq(&p, 3, false);
	i8259_set_irq(&p, 3, true);
	i8259_set_irq(&p, 4, true);
	CHECK_EQ(i8259_ack(&p), 0x34);
}

TEST(special_mask_mode_lets_lower_inputs_through)
{
	struct i8259_pair p = fresh(0x01);

	i8259_set_irq(&p, 3, true);
	i8259_ack(&p);
	i8259_set_irq(&p, 6, true);
	CHECK(!i8259_intr(&p));
	i8259_write(&p, 0, 0, 0x68);
	i8259_write(&p, 0, 1, 0x08);
	CHECK(i8259_intr(&p));
	CHECK_EQ(i8259_ack(&p), 0x36);
}

TEST(specific_eoi_names_the_input)
{
	struct i8259_pair p = fresh(0x01);

	i8259_set_irq(&p, 5, true);
	i8259_ack(&p);
	i8259_set_irq(&p, 3, true);
	i8259_ack(&p);
	i8259_write(&p, 0, 0, 0x65);
	i8259_write(&p, 0, 0, 0x0b);
	CHECK_EQ(i8259_read(&p, 0, 0), 0x08);
}

TEST(poll_acknowledges_by_reading)
{
	struct i8259_pair p = fresh(0x01);

	i8259_write(&p, 0, 0, 0x0c);
	CHECK_EQ(i8259_read(&p, 0, 0), 0x00);
	i8259_set_irq(&p, 4, true);
	i8259_write(&p, 0, 0, 0x0c);
	CHECK_EQ(i8259_read(&p, 0, 0), 0x84);
	CHECK(!i8259_intr(&p));
}

TEST(initialisation_clears_mask_and_service)
{
	struct i8259_pair p = fresh(0x01);

	i8259_write(&p, 0, 1, 0xff);
	i8259_write(&p, 0, 0, 0x11);
	i8259_write(&p, 0, 1, 0x50);
	i8259_write(&p, 0, 1, 0x04);
	i8259_write(&p, 0, 1, 0x01);
	CHECK_EQ(i8259_read(&p, 0, 1), 0x00);
	i8259_set_irq(&p, 7, true);
	CHECK_EQ(i8259_ack(&p), 0x57);
}

TESTS(T(an_edge_interrupts_once), T(a_level_interrupts_until_it_falls),
      T(elcr_keeps_the_fixed_inputs_edge_triggered), T(a_lower_input_waits_for_the_higher_ones_eoi),
      T(an_input_waits_for_its_own_eoi), T(the_slave_interrupts_through_the_master),
      T(masked_inputs_stay_in_irr), T(a_request_that_has_gone_is_acknowledged_as_spurious),
      T(automatic_eoi_leaves_nothing_in_service),
      T(rotation_on_eoi_makes_the_served_input_the_last),
      T(special_mask_mode_lets_lower_inputs_through), T(specific_eoi_names_the_input),
      T(poll_acknowledges_by_reading), T(initialisation_clears_mask_and_service))
