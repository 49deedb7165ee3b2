/* What the files of this engine share: the VM of a machine and a vCPU on it. */
#ifndef CPU_KVM_KVM_INTERNAL_H
#define CPU_KVM_KVM_INTERNAL_H

#include "cpu/vcpu.h"
#include "mem/physmap.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <sys/ioctl.h>

struct err;

/* Entries of a vCPU's dirty ring, 16 bytes each, in locked memory of the kernel. */
#define DIRTY_RING_ENTRIES 4096u
#define KVM_MAX_SLOTS	   PHYSMAP_MAX_REGIONS

/* One KVM VM for all vCPUs of a set; made by the first that joins, gone with the last. */
struct kvm_vm {
	int kvm, fd; /* /dev/kvm; the VM's */
	unsigned n_users;
	struct physmap *pm; /* borrowed */
	unsigned n_slots;   /* memory slots in use: slot n is region n of pm */
	size_t run_bytes;   /* of struct kvm_run and what follows it */
	bool has_sregs2, has_xcrs, has_tsc_offset, has_smm;
	bool has_irqchip;  /* KVM has the local APICs while the vCPUs run (irqchip.c) */
	_Atomic bool lent; /* that is now */
	bool has_ring;	   /* dirty pages come from the vCPUs' rings, else from the slots' logs */
	pthread_mutex_t dirty_lock;   /* guards the rings, logging and logs */
	bool logging;		      /* slots log dirty pages */
	uint64_t *log[KVM_MAX_SLOTS]; /* without rings: a bit a page; owned */
	struct vcpu_set *set;	      /* borrowed */
	struct iospace *mmio;	      /* borrowed; NULL: its doorbells are exits */
	uint32_t msrs[16], n_msrs;    /* those that live in KVM while it runs the vCPU */
};

struct kvm_cpu {
	struct vcpu *c; /* borrowed */
	struct kvm_vm *vm;
	int fd;
	struct kvm_run *run; /* shared with the kernel; owned */
	struct kvm_dirty_gfn *ring;
	uint32_t ring_at;   /* next entry to look at */
	bool must_push;	    /* struct vcpu is newer than KVM's registers */
	bool broken;	    /* it was said why */
	bool io_pending;    /* the kernel has to finish the instruction that left with I/O */
	int64_t tsc_offset; /* as KVM has it */
	struct kvm_guest_debug debug; /* too */

	bool interrupted; /* a signal ended KVM_RUN */

	/* irqchip.c. */
	bool unsure;	/* whether the guest can take an interrupt: KVM has not said yet */
	uint32_t count; /* the APIC timer's current count, at count_at_ns of the host */
	uint64_t count_at_ns;

	_Atomic bool inside; /* its thread is about to enter the kernel's run, or in it */
	pthread_t thread;    /* whose; valid while inside */

	struct {
		uint64_t runs, ports, mmios, msrs, windows, kicks, pulls, pushes, full_rings;
	} stats;
};

static inline struct kvm_cpu *kvm_of(const struct vcpu *c)
{
	return c->engine_state[ENGINE_KVM];
}

/* ioctl that tries again when a signal came. -1 with errno. */
int kvm_ioctl(int fd, unsigned long request, void *arg);

/* vm.c. Join the VM of c->set, making it if c is the first. Errors: the host's. */
int vm_join(struct kvm_cpu *k, struct err *err);
void vm_leave(struct kvm_cpu *k);
/* Make the memory slots what the physical map has now. -errno. */
int vm_set_slots(struct kvm_vm *vm, struct err *err);
/* Tell KVM what CPUID says and which MSRs are its own. Before the first run. */
int vm_set_model(struct kvm_cpu *k, struct err *err);

/* state.c. Load KVM with struct vcpu; false if KVM refuses (k->broken), or if a trap that was due
 * is a triple fault (c->mp_state says so). */
bool state_push(struct kvm_cpu *k);
/* Make struct vcpu whole, at an instruction boundary: what KVM had begun to deliver is delivered in
 * software. False as above. */
bool state_pull(struct kvm_cpu *k);
/* Give KVM the TSC offset or the APIC base of struct vcpu if a guest's MSR write changed them. */
void state_sync_tsc(struct kvm_cpu *k);
void state_sync_apic_base(struct kvm_cpu *k);

/* irqchip.c. Give the VM local APICs if KVM can and the board lets it; -1 with errno. Before vCPUs.
 */
int irqchip_init(struct kvm_vm *vm, const struct vcpu *c);
/* What a machine for KVM has between two ticks of its APIC timers; wanted_ns if KVM does not mind.
 */
unsigned irqchip_tick_ns(int kvm, unsigned wanted_ns);
/* Which KVM_FEATURE_ bits of hypercalls KVM serves there, of those that it says it has. */
uint32_t irqchip_pv_calls(int kvm, uint32_t has);
/* The vCPUs are about to run; all stand. Nothing where there is no irqchip. */
void irqchip_begin(struct kvm_vm *vm);
void irqchip_end(struct kvm_vm *vm);
/* On the vCPU's thread, which stops: let KVM finish what it has begun. */
void irqchip_settle(struct kvm_cpu *k);
/* On the vCPU's thread, while they run. The guest has written the base register; its TSC was set;
 * a register was written, perhaps of the paravirtual interface; KVM says that vector was ended. */
void irqchip_sync_base(struct kvm_cpu *k);
void irqchip_tsc_moved(struct kvm_cpu *k);
void irqchip_pv_written(struct kvm_cpu *k, uint32_t msr);
void irqchip_ended(struct kvm_cpu *k, uint8_t vector);
/* Give the guest an interrupt of the 8259s, which it can take now. */
bool irqchip_inject(struct kvm_cpu *k, uint8_t vector);

/* run.c. Serve INIT and a start-up IPI that wait in vcpu.kick. */
void run_serve_start_up(struct kvm_cpu *k);
/* Enter KVM until the signal that waits (kick_hold) ends it; no guest code is run. */
void run_until_signal(struct kvm_cpu *k);
/* Finish the instruction that left with I/O; false as above. */
bool run_settle(struct kvm_cpu *k);

/* debug.c. Before a run: let KVM have the breakpoints that c->debug has. Behind KVM_EXIT_DEBUG:
 * stop for the debugger, or let the guest have it. False as above. */
bool debug_arm(struct kvm_cpu *k);
bool debug_exit(struct kvm_cpu *k);

/* report.c. Say in one sentence why KVM gave up, and the registers; set k->broken. */
void report_exit(struct kvm_cpu *k);
void report_errno(struct kvm_cpu *k, const char *what, int code);

/* dirty.c. The ring of k: mapped and unmapped with the vCPU; emptied when it is full. */
int ring_map(struct kvm_cpu *k, struct err *err);
void ring_unmap(struct kvm_cpu *k);
void ring_full(struct kvm_cpu *k);
void dirty_fini(struct kvm_vm *vm);

#endif
