/* `cleave compare`: what its files share. compare.c: options, rounds. loads.c, guest/: the work.
 * machine.c: one load in a machine of its own; native.c: without one. report.c, chart.c: what came
 * of it.
 */
#ifndef CLI_COMPARE_COMPARE_H
#define CLI_COMPARE_COMPARE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct err;

#define COMPARE_ROUNDS 3u

/* Native is the first: all others are measured by it. */
enum method_id {
	METHOD_NATIVE,
	METHOD_INTERP,
	METHOD_DBT,
	METHOD_DBT_PV,
	METHOD_KVM,
	METHOD_KVM_PV,
	N_METHODS
};

/* A way to run code. */
struct method {
	const char *id;
	const char *engine; /* NULL: none */
	bool pv;	    /* the guest has the paravirtual interface */
	const char *technique;
	const char *changed;   /* in the guest */
	const char *count;     /* what is counted on it, per operation; NULL: nothing */
	const char *count_key; /* the same, in JSON */
};

extern const struct method compare_methods[N_METHODS];

/* Rows of the table. */
struct load {
	const char *id;	   /* the guest knows it by that */
	const char *group; /* "user code" ... */
	const char *name;
	const char *what;   /* is one operation, in the guest */
	const char *native; /* is one natively; NULL: there is no such thing */
	unsigned ops;	    /* in one measurement */
	unsigned n_cpus;
	bool same_sum; /* what it computes is the same natively */
	bool elapsed;  /* timed by a clock, since it waits; else by processor time */
};

enum {
	LOAD_INTEGER,
	LOAD_SORT,
	LOAD_HASH,
	LOAD_SYSCALL,
	LOAD_FAULT,
	LOAD_SWITCH,
	LOAD_INTERRUPT,
	LOAD_TIMER,
	LOAD_IPI,
	LOAD_CLOCK,
	LOAD_PORT,
	LOAD_MMIO,
	N_LOADS,
	LOAD_BOOT = N_LOADS, /* of the kernel that the user named */
	N_ROWS
};

extern const struct load compare_loads[N_ROWS];

/* The engine's own counters of one machine, all its CPUs together. */
struct counts {
	uint64_t insns;	       /* executed by the interpreter, the engine interp */
	uint64_t by_interp;    /* instructions that dbt left to the interpreter */
	uint64_t translations; /* that dbt made */
	uint64_t entries;      /* of KVM_RUN: exits to user space, and kicks */
	uint64_t ports, mmios, interrupts;
};

struct sample {
	double ns; /* see the head of machine.c */
	uint64_t sum;
	struct counts counts;
	char uses[80]; /* what the guest has found, as words */
};

/* A row on one method. */
struct cell {
	unsigned n;
	double ns[COMPARE_ROUNDS]; /* per operation */
	struct counts counts; /* of the last round, less those of a machine that does nothing */
	char failure[200];    /* empty: there was none */
};

struct comparison {
	bool quick;
	const char *kernel, *initrd, *append,
		*until; /* of the boot; kernel may be NULL. borrowed */
	int guest_fd;	/* the guest's image */
	struct {
		bool on;
		bool gone;	   /* it took too long for something, and is left alone since */
		char why_not[300]; /* one sentence; empty: nobody asked for it */
		struct counts idle;
		char uses[80];
	} method[N_METHODS];
	struct cell cell[N_ROWS][N_METHODS];
};

/* Operations of one measurement. */
unsigned compare_ops(const struct comparison *c, unsigned row);
/* The medians of the rounds: nanoseconds of an operation, and how many times those of native; 0
 * where it was not measured. */
double compare_ns(const struct comparison *c, unsigned row, unsigned method);
double compare_ratio(const struct comparison *c, unsigned row, unsigned method);
/* The geometric mean of the ratios of a group; 0: there are none. */
double compare_group_ratio(const struct comparison *c, const char *group, unsigned method);
/* What the method counts, per operation. */
double compare_count(const struct comparison *c, unsigned row, unsigned method);
/* Was anything of the row measured? */
bool compare_has_row(const struct comparison *c, unsigned row);

/* machine.c. Start ourselves as `cleave run`, and wait for the end; at most a minute for a load,
 * two for a boot. Errors: -errno with what went wrong, what the guest says of it, too. */
int machine_load(const struct comparison *c, const struct method *m, const struct load *load,
		 unsigned ops, struct sample *out, struct err *err);
/* From the start of the process to the first line of the console with c->until in it. */
int machine_boot(const struct comparison *c, const struct method *m, struct sample *out,
		 struct err *err);

/* native.c. False if load has nothing native, or the host has not what it needs. */
bool native_load(unsigned load, unsigned ops, struct sample *out);

/* report.c, chart.c */
void report_text(const struct comparison *c);
void report_json(const struct comparison *c);
/* An SVG picture. Errors: the stream's. */
void chart_write(const struct comparison *c, FILE *f);
/* 12.3 ns, 4.5 us ... into buf; returns it. */
const char *report_time(char buf[32], double ns);

#endif
