/* Trace points: what the machine does, told step by step to who asks for it.
 *
 * A point costs one relaxed load and a branch that is predicted away while it is off:
 *
 *	if (trace_on(TRACE_PIO))
 *		trace_print(TRACE_PIO, "out %#x <- %#llx (%u bytes)", port, val, size);
 *
 * The mask is process-wide on purpose: it is set once from the command line before any machine
 * exists and only read after that, and a pointer to it in every struct would cost each hot path a
 * register.
 */
#ifndef BASE_TRACE_H
#define BASE_TRACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct err;

/*   id       name       what it shows */
#define TRACE_POINTS(X)                                                                            \
	X(EXC, "exc", "exceptions that guest code raises")                                         \
	X(INT, "int", "interrupts, NMIs and software interrupts delivered to a CPU")               \
	X(PIO, "pio", "port I/O")                                                                  \
	X(MMIO, "mmio", "memory-mapped I/O")                                                       \
	X(IRQ, "irq", "interrupt wires and messages between devices and controllers")              \
	X(TIMER, "timer", "timers armed and fired")                                                \
	X(MSR, "msr", "RDMSR and WRMSR")                                                           \
	X(CPUID, "cpuid", "CPUID")                                                                 \
	X(MMU, "mmu", "page walks, control register loads and TLB flushes")                        \
	X(MODE, "mode", "changes of the CPU's mode")                                               \
	X(BLOCK, "block", "entries into blocks of guest code")                                     \
	X(DISAS, "disas", "every guest instruction")                                               \
	X(REGS, "regs", "registers with every guest instruction")                                  \
	X(DBT, "dbt", "blocks as they are translated, with the code on both sides")                \
	X(PERF, "perf", "names for translated code, to /tmp/perf-PID.map, where perf looks")       \
	X(BOOT, "boot", "what the loader places where")                                            \
	X(RESET, "reset", "resets, start and end")                                                 \
	X(GUEST, "guest", "odd things the guest asked of a device")

enum trace_point {
#define X(id, name, what) TRACE_##id,
	TRACE_POINTS(X)
#undef X
		N_TRACE_POINTS
};

extern _Atomic uint32_t trace_mask;

static inline bool trace_on(enum trace_point p)
{
	return __builtin_expect(atomic_load_explicit(&trace_mask, memory_order_relaxed) >> p & 1,
				0);
}

/* Write one line "<name> <text>"; no newline in fmt. Call it only under trace_on(p). Any thread;
 * lines of two threads do not mix.
 */
void trace_print(enum trace_point p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Choose points from text: names separated by commas, "all", and file=PATH for where to write
 * (stderr if absent). Once, before threads start. -EINVAL for an unknown name, or the host's
 * refusal to open the file.
 */
int trace_setup(const char *text, struct err *err);

/* Print the names and what they show, one a line, to stdout. */
void trace_list(void);

#endif
