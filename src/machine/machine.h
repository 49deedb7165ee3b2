/* One virtual machine: its configuration, its life, its threads. */
#ifndef MACHINE_MACHINE_H
#define MACHINE_MACHINE_H

#include "base/bits.h"
#include "dev/backend/blk.h"
#include "dev/backend/net.h"

struct control;
struct err;
struct machine;

#define MACHINE_MAX_DISKS 16
#define MACHINE_MAX_NICS  8
#define MACHINE_MAX_PORTS 8

enum console_kind { CONSOLE_STDIO, CONSOLE_NONE, CONSOLE_FILE, CONSOLE_PTY };

struct disk_config {
	struct blk_open open;
	struct blk_limits limits;
	const char *serial; /* NULL: none */
	unsigned n_queues;  /* 0: one a vCPU, at most 8 */
	bool stop_on_error; /* pause the machine where the guest would see an I/O error */
};

enum nic_kind { NIC_USER, NIC_TAP };

struct nic_config {
	enum nic_kind kind;
	const char *tap; /* NIC_TAP: the interface's name */
	struct net_user_cfg user;
	uint8_t mac[6]; /* all zero: made up */
};

/* A port of the virtio console. The first is a console (hvc0), the others are serial ports. */
struct port_config {
	enum console_kind kind;
	const char *path; /* CONSOLE_FILE */
	const char *name; /* that the guest sees; NULL: none */
};

struct balloon_config {
	bool on;
	uint64_t bytes;	  /* what the guest is asked for at its start */
	unsigned stats_s; /* seconds between two looks at the guest's statistics; 0: none */
};

struct vsock_config {
	uint32_t cid;	  /* 0: no device */
	const char *path; /* of the Unix socket */
};

/* Everything that a user chooses. Strings are borrowed for the machine's life. */
struct machine_config {
	const char *name;    /* what people call it; NULL: nothing */
	const char *kernel;  /* path: bzImage, ELF with PVH note, multiboot 1 ELF */
	const char **initrd; /* paths; Linux takes all concatenated, multiboot as modules */
	unsigned n_initrd;
	const char *append;		/* kernel command line; never NULL */
	const char *const *oem_strings; /* SMBIOS texts for the guest, up to a NULL; NULL: none */
	uint64_t memory_bytes;		/* a multiple of 4 KiB, at least 1 MiB */
	unsigned n_cpus;		/* 1 to 64 */
	const char *cpu;		/* cpu_model_parse's text */
	const char *engine;		/* "auto" or an engine's name */
	unsigned dwell_ms;	 /* move between engines at random times, so far apart; 0: do not */
	const char *dwell_among; /* these engines, which commas separate; NULL: all there are */
	enum console_kind console;
	const char *console_path; /* CONSOLE_FILE */
	struct disk_config *disk; /* in the guest's order */
	unsigned n_disks;
	struct nic_config *nic;
	unsigned n_nics;
	struct port_config port[MACHINE_MAX_PORTS];
	unsigned n_ports;
	bool sandbox; /* machine_shut_in does something */
	struct balloon_config balloon;
	struct vsock_config vsock;
	const char *gdb;      /* "tcp:ADDRESS:PORT" or "unix:PATH" for gdb; NULL: none */
	bool gdb_wait;	      /* do not start before gdb says so */
	bool no_pv;	      /* guests are offered no paravirtual interface */
	bool debug_exit;      /* isa-debug-exit at 0xf4 ends the process */
	bool no_reboot;	      /* a reset ends the machine instead */
	bool stats;	      /* print counters at the end */
	bool icount;	      /* deterministic: see machine/icount.h; one CPU only */
	uint64_t icount_hash; /* with icount: instructions between two hashes on stderr; 0: none */
};

/* How a machine ended. */
enum machine_end {
	END_POWEROFF,	  /* the guest switched itself off: exit status 0 */
	END_QUIT,	  /* asked to from outside (Ctrl-A x, signal) */
	END_RESET,	  /* a reset with no_reboot, by keyboard controller, ACPI or port 0xcf9 */
	END_TRIPLE_FAULT, /* with no_reboot: exit status 3 */
	END_DEBUG_EXIT,	  /* exit status (value << 1) | 1 */
	END_BROKEN,	  /* an engine failed */
};

/* Build the board, load the kernel. Nothing runs yet. cfg's strings are borrowed. Errors say what
 * the user can do about them.
 */
int machine_new(struct machine **out, const struct machine_config *cfg, struct err *err);

/* Take from all threads of the process what a machine that is complete does not need: the last step
 * before machine_run, on the thread that calls it. c is the machine's control socket, or NULL. Does
 * nothing without cfg.sandbox. See host/sandbox_threads.h.
 */
int machine_shut_in(struct machine *m, const struct control *c, struct err *err);

/* Start the vCPUs and wait until the machine ends; resets are done inside. *code gets the debug
 * exit value. The calling thread serves as the machine's main thread. */
enum machine_end machine_run(struct machine *m, uint32_t *code);

/* Ask the machine to end with why. Any thread, also from device handlers; returns at once. */
void machine_end(struct machine *m, enum machine_end why, uint32_t code);

/* Ask for a reset of the whole board. Any thread; returns at once. */
void machine_reset(struct machine *m);

/* Stop the vCPUs and the guest's clock until machine_continue. False if that was asked for already.
 * Any thread; return at once.
 */
bool machine_pause(struct machine *m);
void machine_continue(struct machine *m);
bool machine_is_paused(struct machine *m);

/* A move to another engine. */
struct machine_move {
	const char *from, *to;
	uint64_t pause_ns; /* the vCPUs stood for so long */
};

/* Let another engine ("auto" or its name) execute the guest, from where it stands. Waits until that
 * is done. Not on the main thread nor a vCPU's. -EINVAL: there is no such engine; -ECANCELED: the
 * machine ended first; or why that engine does not run it.
 */
int machine_move_engine(struct machine *m, const char *engine, struct machine_move *out,
			struct err *err);

/* Make the guest's disk, by its index in the configuration, larger, and tell the guest. Waits, but
 * not on a vCPU's thread nor the main one. -ENOENT: there is no such disk; what virtio_blk_resize
 * says.
 */
int machine_resize_disk(struct machine *m, unsigned index, uint64_t bytes, struct err *err);
/* How large that disk is now, bytes; 0: there is none. Any thread. */
uint64_t machine_disk_bytes(const struct machine *m, unsigned index);

/* Press the power button (ACPI). Any thread. */
void machine_power_button(struct machine *m);

void machine_free(struct machine *m);

#endif
