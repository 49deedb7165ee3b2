/* A machine's parts. */
#ifndef MACHINE_MACHINE_INTERNAL_H
#define MACHINE_MACHINE_INTERNAL_H

#include "cpu/vcpu.h"
#include "cpu/x86/features.h"
#include "dev/dev.h"
#include "host/clock.h"
#include "host/sandbox_threads.h"
#include "machine/icount.h"
#include "machine/machine.h"
#include "machine/move.h"
#include "mem/physmap.h"

#include <pthread.h>

struct balloon;
struct boot;
struct chr;
struct evloop;
struct gdb;
struct intc;
struct pci_bus;
struct pm;
struct pv;
struct timer_queue;
struct vcpu_crew;
struct virtio_blk;

#define MACHINE_MAX_DEVS 48

struct machine {
	struct machine_config cfg;
	struct cpu_model model;
	bool for_kvm;	     /* no more was promised to the guest than KVM can do */
	bool kvm_stops;	     /* and KVM stops it at a debugger's breakpoints */
	struct vcpu_set set; /* its vCPUs are owned */
	struct vcpu_crew *crew;
	struct icount icount; /* if cfg.icount */
	struct mover mover;
	struct gdb *gdb; /* NULL: none */

	struct physmap pm;
	struct iospace *pio, *mmio;
	struct vclock clock;
	struct timer_queue *timers;
	struct evloop *loop;
	struct boot *boot;

	struct chr *console;
	struct intc *intc;
	struct pv *pv;		 /* NULL: none */
	struct pci_bus *pci;	 /* borrowed from its device */
	struct pm *power;	 /* the same */
	struct balloon *balloon; /* the same; NULL: none */
	struct dev dev[MACHINE_MAX_DEVS];
	unsigned n_devs;
	struct virtio_blk *disk[MACHINE_MAX_DISKS]; /* borrowed from their devices */
	unsigned n_disks;
	const struct net *net[MACHINE_MAX_NICS]; /* borrowed from the cards */
	int vsock_folder;			 /* borrowed; -1: none */
	struct sandbox_report sandbox;

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t asked, called;
	bool end_asked, reset_asked;
	bool pause_asked, continue_asked;
	struct machine_call *call; /* NULL: none; borrowed from who waits for it */
	bool over;		   /* nobody waits any more */
	bool paused;		   /* written by the main thread only */
	int64_t tsc_origin;	   /* what the vCPUs' tsc_offset began with */
	uint64_t paused_tsc; /* the main thread's: the host's, since when the guest's does not count
				if it is paused */
	enum machine_end why;
	uint32_t code;
};

/* Run fn(arg) on the main thread while the vCPUs stand, and wait for it. Not on a vCPU's thread nor
 * the main one. False if the machine has ended, and fn was not called. */
bool machine_call(struct machine *m, void (*fn)(void *arg), void *arg);
/* pc.c: put all chips and devices on the board. */
int pc_build(struct machine *m, struct err *err);
/* Where the next device goes, and count it if it was made (ret is its constructor's, and is
 * returned). */
struct dev *pc_slot(struct machine *m);
int pc_add(struct machine *m, int ret);
/* Where a console of this kind leads, which a person knows as what; made with the machine's loop.
 */
int pc_make_chr(struct machine *m, struct chr **out, enum console_kind kind, const char *path,
		const char *what, struct err *err);
/* pc_virtio.c: whether the configuration's virtio devices can be had, -EINVAL if not; */
int pc_check_virtio(const struct machine_config *cfg, struct err *err);
/* their counters, on stderr; */
void pc_print_virtio(const struct machine *m);
/* the virtio devices that the configuration asks for, and an rng. */
int pc_add_virtio(struct machine *m, struct err *err);
/* pc_disk.c: the disks that the configuration asks for. */
int pc_add_disks(struct machine *m, struct err *err);
/* Try again what stopped the machine. */
void pc_retry_disks(struct machine *m);
/* pc_net.c: the network cards, each with a thread of its own, and what their cables end in. */
int pc_add_nics(struct machine *m, struct err *err);
/* Write the tables that firmware leaves in memory. The vCPUs are stopped. */
int pc_write_tables(struct machine *m, struct err *err);

#endif
