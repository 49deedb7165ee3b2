/* One interrupt wire from a device to whatever the board bound it to. */
#ifndef MEM_IRQ_LINE_H
#define MEM_IRQ_LINE_H

#include <stdbool.h>
#include <stddef.h>

/* set is called with the wire's level on any thread, also when the level has not changed; it
 * takes the receiver's lock, so the caller must not hold a lock that the receiver's side takes
 * before calling back into the device.
 */
struct irq_line {
	void (*set)(void *to, unsigned pin, bool level);
	void *to; /* borrowed from the board */
	unsigned pin;
};

/* An unbound wire (set == NULL) drops the level. */
static inline void irq_line_set(const struct irq_line *l, bool level)
{
	if (l->set)
		l->set(l->to, l->pin, level);
}

#endif
