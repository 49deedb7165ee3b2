#include "dev/chip/uart16550.h"

#define IER_ERBFI 0x01
#define IER_ETBEI 0x02
#define IER_ELSI  0x04
#define IER_EDSSI 0x08

#define IIR_NONE    0x01
#define IIR_MODEM   0x00
#define IIR_THRE    0x02
#define IIR_RX	    0x04
#define IIR_LINE    0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFOS   0xc0

#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04

#define LCR_DLAB 0x80

#define LSR_DR	       0x01
#define LSR_OE	       0x02
#define LSR_FE	       0x08
#define LSR_BI	       0x10
#define LSR_THRE       0x20
#define LSR_TEMT       0x40
#define LSR_FIFO_ERROR 0x80

#define MSR_DCTS 0x01
#define MSR_DDSR 0x02
#define MSR_TERI 0x04
#define MSR_DDCD 0x08
#define MSR_CTS	 0x10
#define MSR_DSR	 0x20
#define MSR_RI	 0x40
#define MSR_DCD	 0x80

void uart16550_reset(struct uart16550 *u)
{
	uint8_t modem_in = u->modem_in, scr = u->scr;

	*u = (struct uart16550){ .modem_in = modem_in, .scr = scr, .divisor = 12 };
}

static bool fifos(const struct uart16550 *u)
{
	return u->fcr & FCR_ENABLE;
}

static unsigned depth(const struct uart16550 *u)
{
	return fifos(u) ? UART16550_FIFO : 1;
}

static unsigned trigger(const struct uart16550 *u)
{
	static const uint8_t level[4] = { 1, 4, 8, 14 };

	return fifos(u) ? level[u->fcr >> 6] : 1;
}

/* The modem lines as MSR shows them: the pins, or in loop-back this chip's own outputs. */
static uint8_t modem_lines(const struct uart16550 *u)
{
	if (!(u->mcr & UART_MCR_LOOP))
		return u->modem_in;
	return (uint8_t)((u->mcr & 0x01 ? MSR_DSR : 0) | (u->mcr & 0x02 ? MSR_CTS : 0) |
			 (u->mcr & 0x04 ? MSR_RI : 0) | (u->mcr & 0x08 ? MSR_DCD : 0));
}

/* Note what changed between two states of the lines; RI counts when it goes off. */
static void modem_changed(struct uart16550 *u, uint8_t was, uint8_t is)
{
	uint8_t changed = was ^ is;

	u->msr_delta |= changed >> 4 & (MSR_DCTS | MSR_DDSR | MSR_DDCD);
	if ((was & MSR_RI) && !(is & MSR_RI))
		u->msr_delta |= MSR_TERI;
}

static uint8_t lsr(const struct uart16550 *u)
{
	uint8_t v = u->lsr_errors;

	if (u->rx_n)
		v |= LSR_DR;
	if (!u->tx_n)
		v |= LSR_THRE | LSR_TEMT;
	if (fifos(u) && (u->lsr_errors & (LSR_FE | LSR_BI)))
		v |= LSR_FIFO_ERROR;
	return v;
}

/* The interrupt of highest priority, as IIR's low bits have it. */
static uint8_t source(const struct uart16550 *u)
{
	if ((u->ier & IER_ELSI) && u->lsr_errors)
		return IIR_LINE;
	if ((u->ier & IER_ERBFI) && u->rx_n)
		return u->rx_n >= trigger(u) ? IIR_RX : IIR_TIMEOUT;
	if ((u->ier & IER_ETBEI) && u->thre_pending)
		return IIR_THRE;
	if ((u->ier & IER_EDSSI) && u->msr_delta)
		return IIR_MODEM;
	return IIR_NONE;
}

bool uart16550_irq(const struct uart16550 *u)
{
	return source(u) != IIR_NONE;
}

bool uart16550_out2(const struct uart16550 *u)
{
	return (u->mcr & UART_MCR_OUT2) && !(u->mcr & UART_MCR_LOOP);
}

unsigned uart16550_rx_room(const struct uart16550 *u)
{
	return u->mcr & UART_MCR_LOOP ? 0 : depth(u) - u->rx_n;
}

static void receive(struct uart16550 *u, uint8_t byte)
{
	if (u->rx_n < depth(u)) {
		u->rx[(u->rx_head + u->rx_n++) % UART16550_FIFO] = byte;
		return;
	}
	u->lsr_errors |= LSR_OE;
	/* Without FIFOs the new character replaces the old; with them it is lost. */
	if (!fifos(u))
		u->rx[u->rx_head] = byte;
}

void uart16550_rx(struct uart16550 *u, uint8_t byte)
{
	/* In loop-back the input pin is disconnected. */
	if (!(u->mcr & UART_MCR_LOOP))
		receive(u, byte);
}

void uart16550_rx_break(struct uart16550 *u)
{
	if (u->mcr & UART_MCR_LOOP)
		return;
	receive(u, 0);
	u->lsr_errors |= LSR_BI | LSR_FE;
}

bool uart16550_tx(struct uart16550 *u, uint8_t *byte)
{
	if (!u->tx_n)
		return false;
	*byte = u->tx[u->tx_head];
	u->tx_head = (uint8_t)((u->tx_head + 1) % UART16550_FIFO);
	if (--u->tx_n == 0)
		u->thre_pending = true;
	return true;
}

static uint8_t read_rx(struct uart16550 *u)
{
	if (!u->rx_n)
		return 0;

	uint8_t byte = u->rx[u->rx_head];

	u->rx_head = (uint8_t)((u->rx_head + 1) % UART16550_FIFO);
	u->rx_n--;
	return byte;
}

static uint8_t read_iir(struct uart16550 *u)
{
	uint8_t v = source(u);

	/* Reading IIR clears THRE only when THRE is what it reports. */
	if (v == IIR_THRE)
		u->thre_pending = false;
	return (uint8_t)(v | (fifos(u) ? IIR_FIFOS : 0));
}

uint8_t uart16550_read(struct uart16550 *u, unsigned reg)
{
	uint8_t v;

	switch (reg) {
	case 0: return u->lcr & LCR_DLAB ? (uint8_t)u->divisor : read_rx(u);
	case 1: return u->lcr & LCR_DLAB ? (uint8_t)(u->divisor >> 8) : u->ier;
	case 2: return read_iir(u);
	case 3: return u->lcr;
	case 4: return u->mcr;
	case 5:
		v = lsr(u);
		u->lsr_errors = 0;
		return v;
	case 6:
		v = (uint8_t)(modem_lines(u) | u->msr_delta);
		u->msr_delta = 0;
		return v;
	default: return u->scr;
	}
}

static void write_thr(struct uart16550 *u, uint8_t byte)
{
	u->thre_pending = false;
	if (u->mcr & UART_MCR_LOOP) {
		receive(u, byte);
		u->thre_pending = true;
		return;
	}
	if (u->tx_n < depth(u))
		u->tx[(u->tx_head + u->tx_n++) % UART16550_FIFO] = byte;
}

static void write_fcr(struct uart16550 *u, uint8_t val)
{
	bool toggled = (u->fcr ^ val) & FCR_ENABLE;

	if (toggled || (val & FCR_CLEAR_RX)) {
		u->rx_n = 0;
		u->lsr_errors &= LSR_OE;
	}
	if ((toggled || (val & FCR_CLEAR_TX)) && u->tx_n) {
		u->tx_n = 0;
		u->thre_pending = true;
	}
	/* The other bits count only while FIFOs are on. */
	u->fcr = val & FCR_ENABLE ? val & (0xc0 | FCR_ENABLE) : 0;
}

static void write_ier(struct uart16550 *u, uint8_t val)
{
	val &= 0x0f;
	/* Turning the THRE interrupt on while the transmitter is empty raises it. */
	if ((val & ~u->ier & IER_ETBEI) && !u->tx_n)
		u->thre_pending = true;
	u->ier = val;
}

void uart16550_write(struct uart16550 *u, unsigned reg, uint8_t val)
{
	uint8_t lines;

	switch (reg) {
	case 0:
		if (u->lcr & LCR_DLAB)
			u->divisor = (uint16_t)((u->divisor & 0xff00) | val);
		else
			write_thr(u, val);
		break;
	case 1:
		if (u->lcr & LCR_DLAB)
			u->divisor = (uint16_t)((u->divisor & 0xff) | val << 8);
		else
			write_ier(u, val);
		break;
	case 2: write_fcr(u, val); break;
	case 3: u->lcr = val; break;
	case 4:
		lines = modem_lines(u);
		u->mcr = val & 0x1f;
		modem_changed(u, lines, modem_lines(u));
		break;
	case 7: u->scr = val; break;
	default: break; /* LSR and MSR are not written in operation */
	}
}
