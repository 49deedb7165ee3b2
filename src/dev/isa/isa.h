/* The chips and small registers that stand on the ISA bus of a PC.
 *
 * Each constructor makes the device, puts it on the ports its cfg names and hands it over in *out.
 * Everything a cfg points to is borrowed. Errors: out of memory, or a port that is taken.
 */
#ifndef DEV_ISA_ISA_H
#define DEV_ISA_ISA_H

#include "dev/dev.h"
#include "mem/irq_line.h"

#include <stdint.h>

struct chr;
struct err;
struct iospace;
struct timer_queue;
struct vclock;

/* What time-keeping devices need. */
struct isa_time {
	const struct vclock *clock;
	struct timer_queue *timers;
};

/* A 16550A at port ... port+7. */
struct serial_cfg {
	uint16_t port;
	struct irq_line irq;
	struct chr *chr;
};
int serial_new(struct dev *out, struct iospace *pio, const struct serial_cfg *cfg, struct err *err);

/* An 8254 at port ... port+3; counter 0 drives irq, counter 2 is behind the control port (0x61 in
 * a PC): gate, speaker, OUT2 and the refresh toggle.
 */
struct pit_cfg {
	uint16_t port, control_port;
	struct irq_line irq;
	struct isa_time time;
};
int pit_new(struct dev *out, struct iospace *pio, const struct pit_cfg *cfg, struct err *err);

/* An MC146818 at port (index) and port+1 (data). CMOS bytes that tell the memory's size are set as
 * PC firmware does. wall_ns: ns since 1970 at guest time 0.
 */
struct rtc_cfg {
	uint16_t port;
	struct irq_line irq;
	struct isa_time time;
	int64_t wall_ns;
	uint64_t low_bytes, high_bytes; /* RAM below and above 4 GiB */
};
int rtc_new(struct dev *out, struct iospace *pio, const struct rtc_cfg *cfg, struct err *err);

/* An 8042 at data_port and data_port+4, and the PS/2 system control port (0x92 in a PC) with fast
 * A20 and reset. set_a20 and reset are called on a vCPU's thread with no lock held.
 */
struct kbc_cfg {
	uint16_t data_port, control_port;
	struct irq_line irq_kbd, irq_aux;
	void (*set_a20)(void *arg, bool open);
	void (*reset)(void *arg);
	void *arg;
};
int kbc_new(struct dev *out, struct iospace *pio, const struct kbc_cfg *cfg, struct err *err);

/* Four bytes at port; a write calls fn with its value, on the vCPU's thread. */
struct debug_exit_cfg {
	uint16_t port;
	void (*fn)(void *arg, uint32_t val);
	void *arg;
};
int debug_exit_new(struct dev *out, struct iospace *pio, const struct debug_exit_cfg *cfg,
		   struct err *err);

/* The diagnostic port: keeps the last byte. Software also writes it to wait for a microsecond. */
int post_new(struct dev *out, struct iospace *pio, uint16_t port, struct err *err);

#endif
