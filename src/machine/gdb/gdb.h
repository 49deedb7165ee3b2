/* A debugger's way into a machine: gdb's remote serial protocol (gdb manual, appendix E) over a
 * socket, the vCPUs as threads. Works on every engine; one debugger at a time.
 */
#ifndef MACHINE_GDB_GDB_H
#define MACHINE_GDB_GDB_H

struct err;
struct gdb;
struct machine;
struct vcpu;

/* Listen at where: "tcp:ADDRESS:PORT" with a loopback address, or "unix:PATH". Its thread starts. m
 * is borrowed. -EINVAL with what is wrong with where, or what the host says.
 */
int gdb_new(struct gdb **out, struct machine *m, const char *where, struct err *err);
/* Tell the debugger that the machine is gone, and stop listening. The vCPUs stand. NULL is fine. */
void gdb_free(struct gdb *g);

/* The folder of a Unix socket, which gdb_free() removes; borrowed. -1: there is none. */
int gdb_folder(const struct gdb *g);

/* On c's thread: run() came back with c->debug.stop set. */
void gdb_stopped(struct gdb *g, struct vcpu *c);

#endif
