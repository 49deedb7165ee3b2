#include "dev/chip/uart16550.h"

#include "check.h"

static struct uart16550 fresh(void)
{
	struct uart16550 u = { .modem_in = 0xb0 };

	uart16550_reset(&u);
	return u;
}

TEST(thre_interrupt_clears_when_iir_reports_it)
{
	struct uart16550 u = fresh();

	uart16550_write(&u, 1, 0x02); /* IER.ETBEI, transmitter empty */
	CHECK(uart16550_irq(&u));
	CHECK_EQ(uart16550_read(&u, 2), 0x02);
	CHECK(!uart16550_irq(&u));
}

TEST(thre_stays_pending_while_something_else_is_reported)
{
	struct uart16550 u = fresh();

	uart16550_write(&u, 1, 0x03);
	uart16550_rx(&u, 'x');
	CHECK_EQ(uart16550_read(&u, 2), 0x04);
	CHECK_EQ(uart16550_read(&u, 0), 'x');
	CHECK_EQ(uart16550_read(&u, 2), 0x02);
}

TEST(a_written_character_leaves_and_thre_comes_back)
{
	struct uart16550 u = fresh();
	uint8_t byte;

	uart16550_write(&u, 1, 0x02);
	uart16550_read(&u, 2);
	uart16550_write(&u, 0, 'a');
	CHECK_EQ(uart16550_read(&u, 5) & 0x60, 0);
	CHECK(uart16550_tx(&u, &byte));
	CHECK_EQ(byte, 'a');
	CHECK(!uart16550_tx(&u, &byte));
	CHECK_EQ(uart16550_read(&u, 5) & 0x60, 0x60);
	CHECK(uart16550_irq(&u));
}

TEST(without_fifos_a_second_character_overruns)
{
	struct uart16550 u = fresh();

	uart16550_rx(&u, 'a');
	uart16550_rx(&u, 'b');
	CHECK_EQ(uart16550_read(&u, 5), 0x63); /* OE, DR */
	CHECK_EQ(uart16550_read(&u, 5), 0x61);
	CHECK_EQ(uart16550_read(&u, 0), 'b');
}

TEST(the_receive_fifo_holds_sixteen)
{
	struct uart16550 u = fresh();

	uart16550_write(&u, 2, 0x01);
	CHECK_EQ(uart16550_rx_room(&u), 16);
	for (unsigned i = 0; i < 17; i++)
		uart16550_rx(&u, (uint8_t)i);
	CHECK_EQ(uart16550_read(&u, 5) & 0x03, 0x03);
	for (unsigned i = 0; i < 16; i++)
		CHECK_EQ(uart16550_read(&u, 0), i);
	CHECK_EQ(uart16550_read(&u, 5) & 0x01, 0);
}

TEST(the_fifo_trigger_separates_data_from_time_out)
{
	struct uart16550 u = fresh();

	uart16550_write(&u, 2, 0x81); /* 8 */
	uart16550_write(&u, 1, 0x01);
	uart16550_rx(&u, 'a');
	CHECK_EQ(uart16550_read(&u, 2), 0xcc);
	for (unsigned i = 0; i < 7; i++)
		uart16550_rx(&u, 'b');
	CHECK_EQ(uart16550_read(&u, 2), 0xc4);
}

TEST(clearing_the_receive_fifo_drops_data)
{
	struct uart16550 u = fresh();

	uart16550_write(&u, 2, 0x01);
	uart16550_rx(&u, 'a');
	uart16550_write(&u, 2, 0x03);
	CHECK_EQ(uart16550_read(&u, 5) & 0x01, 0);
}

TEST(loop_back_returns_characters_and_modem_lines)
{
	struct uart16550 u = fresh();
	uint8_t byte;

	uart16550_write(&u, 4, 0x10 | 0x0a); /* RTS and OUT2 */
	CHECK(!uart16550_out2(&u));
	CHECK_EQ(uart16550_read(&u, 6) & 0xf0, 0x90); /* CTS, DCD */
	uart16550_write(&u, 0, 'q');
	CHECK(!uart16550_tx(&u, &byte));
	CHECK_EQ(uart16550_read(&u, 0), 'q');
	uart16550_rx(&u, 'z');
	CHECK_EQ(uart16550_read(&u, 5) & 0x01, 0);
}

TEST(modem_changes_interrupt_until_msr_is_read)
{
	struct uart16550 u = fresh();

	uart16550_write(&u, 1, 0x08);
	uart16550_write(&u, 4, 0x10); /* all lines fall */
	CHECK_EQ(uart16550_read(&u, 2), 0x00);
	CHECK_EQ(uart16550_read(&u, 6), 0x0b);
	CHECK(!uart16550_irq(&u));
}

TEST(a_break_sets_bi_and_fe)
{
	struct uart16550 u = fresh();

	uart16550_write(&u, 1, 0x04);
	uart16550_rx_break(&u);
	CHECK_EQ(uart16550_read(&u, 2), 0x06);
	CHECK_EQ(uart16550_read(&u, 5) & 0x1f, 0x19);
	CHECK(!uart16550_irq(&u));
}

TEST(dlab_switches_the_first_two_registers)
{
	struct uart16550 u = fresh();

	uart16550_write(&u, 3, 0x83);
	uart16550_write(&u, 0, 0x34);
	uart16550_write(&u, 1, 0x12);
	CHECK_EQ(uart16550_read(&u, 0), 0x34);
	CHECK_EQ(uart16550_read(&u, 1), 0x12);
	uart16550_write(&u, 3, 0x03);
	CHECK_EQ(uart16550_read(&u, 1), 0x00);
}

TEST(the_identification_is_a_16550a)
{
	struct uart16550 u = fresh();

	CHECK_EQ(uart16550_read(&u, 2), 0x01);
	uart16550_write(&u, 2, 0x01);
	CHECK_EQ(uart16550_read(&u, 2), 0xc1);
	uart16550_write(&u, 7, 0x5a);
	CHECK_EQ(uart16550_read(&u, 7), 0x5a);
}

TESTS(T(thre_interrupt_clears_when_iir_reports_it),
      T(thre_stays_pending_while_something_else_is_reported),
      T(a_written_character_leaves_and_thre_comes_back),
      T(without_fifos_a_second_character_overruns), T(the_receive_fifo_holds_sixteen),
      T(the_fifo_trigger_separates_data_from_time_out), T(clearing_the_receive_fifo_drops_data),
      T(loop_back_returns_characters_and_modem_lines), T(modem_changes_interrupt_until_msr_is_read),
      T(a_break_sets_bi_and_fe), T(dlab_switches_the_first_two_registers),
      T(the_identification_is_a_16550a))
