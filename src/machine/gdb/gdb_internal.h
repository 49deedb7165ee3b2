/* What the stub's files share: gdb.c (sockets and packets), session.c (commands), regs.c (registers
 * and their description), breaks.c (breakpoints). Commands run on the machine's main thread while
 * all vCPUs stand.
 */
#ifndef MACHINE_GDB_GDB_INTERNAL_H
#define MACHINE_GDB_GDB_INTERNAL_H

#include "cpu/vcpu.h"
#include "machine/gdb/gdb.h"

#define GDB_PACKET 16384 /* bytes of a packet, as told to gdb */
#define GDB_BREAKS 256	 /* software breakpoints */

/* A byte of guest memory in whose place an INT3 stands. */
struct soft_break {
	bool used;
	gva_t gva;
	gpa_t gpa;
	uint8_t was;
};

/* What the thread that holds the socket does after a command. */
enum gdb_next { GDB_STAY, GDB_GO, GDB_DETACH, GDB_KILL, GDB_RESET };

struct session {
	struct machine *m; /* borrowed */
	char in[GDB_PACKET + 4];
	size_t n_in;
	char out[GDB_PACKET + 4];
	size_t n_out;
	enum gdb_next next;
	bool no_ack, swbreak, hwbreak;
	bool physical;	 /* memory commands take guest-physical addresses */
	unsigned thread; /* number of the vCPU that registers and memory are of */
	struct soft_break soft[GDB_BREAKS];
	const struct engine *home; /* which the guest goes back to behind us; NULL: it is there */
};

/* session.c. Execute the command in s->in (n_in bytes): fills s->out, n_out and next. */
void session_execute(struct session *s);
/* The reply that says why the machine stands; interrupted: since gdb asked for it. */
void session_say_stop(struct session *s, bool interrupted);
/* Before the vCPUs run again. */
void session_resume(struct session *s);
/* Nobody debugs any more: no breakpoints, no halt at one. */
void session_leave(struct session *s);
/* Append to the reply; what does not fit is lost. */
void session_put(struct session *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void session_put_hex(struct session *s, const void *buf, size_t len);

/* regs.c. Registers are numbered as in the description, an XML document. */
const char *regs_description(void);
unsigned regs_count(void);
/* Bytes of register n, at most 16, into buf; 0: there is no such register. */
unsigned regs_get(const struct vcpu *c, unsigned n, uint8_t buf[16]);
/* False if there is no such register, or it cannot be set to that. */
bool regs_set(struct vcpu *c, unsigned n, const uint8_t buf[16]);

/* breaks.c. kind: as in Z packets, 0 to 4. False if there is no room, or no memory there. */
bool breaks_set(struct session *s, unsigned kind, gva_t gva, unsigned len);
bool breaks_clear(struct session *s, unsigned kind, gva_t gva, unsigned len);
void breaks_clear_all(struct session *s);
/* Put back in buf, read from guest-physical gpa, what stood there before. */
void breaks_hide(const struct session *s, gpa_t gpa, uint8_t *buf, size_t len);
/* What was written there is what stands below the INT3s from now on. */
void breaks_written(struct session *s, gpa_t gpa, size_t len);

#endif
