/* A 16550A UART. National PC16550D datasheet.
 *
 * Characters take no time: a written one leaves at the next uart16550_tx, and the receiver's
 * character time-out is taken as over whenever data waits below the trigger level, because the
 * host hands over its bytes in bursts.
 */
#ifndef DEV_CHIP_UART16550_H
#define DEV_CHIP_UART16550_H

#include <stdbool.h>
#include <stdint.h>

#define UART16550_FIFO 16
#define UART16550_REGS 8

#define UART_MCR_OUT2 0x08
#define UART_MCR_LOOP 0x10

struct uart16550 {
	uint8_t ier, fcr, lcr, mcr, scr;
	uint8_t lsr_errors; /* OE PE FE BI, until LSR is read */
	uint8_t msr_delta;
	uint8_t modem_in; /* CTS DSR RI DCD pins in MSR's bits 4-7 */
	uint16_t divisor;
	uint8_t rx[UART16550_FIFO], tx[UART16550_FIFO];
	uint8_t rx_head, rx_n, tx_head, tx_n;
	bool thre_pending; /* the THRE interrupt has not been taken back by a read of IIR */
};

/* Master reset. modem_in is kept: DCD, DSR and CTS are the far end's. */
void uart16550_reset(struct uart16550 *u);

/* reg: 0 to 7. */
uint8_t uart16550_read(struct uart16550 *u, unsigned reg);
void uart16550_write(struct uart16550 *u, unsigned reg, uint8_t val);

/* Free places in the receiver; the far end should send no more than that. */
unsigned uart16550_rx_room(const struct uart16550 *u);
/* A character, or a break, arrives; overruns the receiver if there is no room. */
void uart16550_rx(struct uart16550 *u, uint8_t byte);
void uart16550_rx_break(struct uart16550 *u);
/* The next character to leave on the wire; false if there is none. */
bool uart16550_tx(struct uart16550 *u, uint8_t *byte);

/* The INTR pin. PC boards connect it to the bus only while OUT2 is on. */
bool uart16550_irq(const struct uart16550 *u);
/* The OUT2 pin, active = true; forced off in loop-back. */
bool uart16550_out2(const struct uart16550 *u);

#endif
