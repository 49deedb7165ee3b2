/* The architectural state of one virtual CPU: the one form that all engines share.
 *
 * While an engine's run() is inside guest code the engine may hold parts of this elsewhere; its
 * pull() makes this struct whole again, its push() takes changes of it. Between two run() calls,
 * after pull(), everything here is exact at an instruction boundary.
 *
 * Only the thread that holds the vCPU touches it, but for the fields named _Atomic.
 */
#ifndef CPU_VCPU_H
#define CPU_VCPU_H

#include "base/bits.h"
#include "cpu/x86/regs.h"
#include "host/clock.h"

#include <stdatomic.h>

struct cpu_model;
struct engine;
struct err;
struct interp;
struct iospace;
struct lapic_host;
struct physmap;
struct tlb;
struct tlb_watch;
struct vcpu;

/* Hidden parts are as in the descriptor: attr has its bits 40-47 in 0-7 (type, S, DPL, P) and
 * 52-55 in 12-15 (AVL, L, D/B, G). limit is in bytes, G already applied. A null segment has
 * ATTR_UNUSABLE.
 */
struct seg {
	uint64_t base;
	uint32_t limit;
	uint16_t sel;
	uint16_t attr;
};

struct dtable {
	uint64_t base;
	uint16_t limit;
};

/* x87, MMX and vector state. Full registers stand side by side, so that an instruction can be run
 * on them without gathering; XSAVE and friends pack and unpack. fx is a 64-bit FXSAVE image of
 * which only the x87 part (bytes 0-23 and 32-159) is used; mxcsr stands below.
 */
struct vcpu_fpu {
	uint8_t fx[512] __attribute__((aligned(64)));
	uint8_t xsave_header[64]; /* behind fx, for engines that XSAVE and XRSTOR it */
	uint8_t zmm[32][64] __attribute__((aligned(64)));
	uint64_t k[8];
	uint32_t mxcsr;
	uint64_t xcr0;
	uint64_t xss;
	/* XCR0 bits of the components of zmm and k that may be other than zero, for who wants to
	 * move less; who stores there sets all. */
	uint8_t wide;
};

#define N_MC_BANKS 4 /* machine-check banks */

struct vcpu_msrs {
	uint64_t efer, star, lstar, cstar, sfmask;
	uint64_t kernel_gs_base; /* FS and GS bases are in seg[] */
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, tsc_aux, tsc_adjust, misc_enable, spec_ctrl, debugctl, feature_control;
	uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
	uint64_t mcg_status, mcg_ctl, mc_ctl[N_MC_BANKS];
};

/* Reasons to look up from guest code; bits of vcpu.kick, set by any thread (vcpu_kick). */
enum {
	KICK_IRQ = 1 << 0,    /* the interrupt controller may have something */
	KICK_NMI = 1 << 1,    /* an NMI waits (edge; remembered until delivered) */
	KICK_INIT = 1 << 2,   /* INIT: reset to wait-for-SIPI */
	KICK_SIPI = 1 << 3,   /* start-up IPI; vector in sipi_vector */
	KICK_STOP = 1 << 4,   /* leave run() with RUN_KICKED */
	KICK_DROP = 1 << 5,   /* pages in drop_ring lose their write shortcut */
	KICK_TLB = 1 << 6,    /* forget all translations (A20, physical map changed) */
	KICK_STEP = 1 << 7,   /* an engine's own: stop after this instruction */
	KICK_UNHALT = 1 << 8, /* pv.unhalted */
};

enum mp_state { MP_RUNNING, MP_HALTED, MP_WAIT_SIPI, MP_SHUTDOWN };

/* How the board's interrupt controller looks to its vCPU. Called on the vCPU's thread. */
struct vcpu_apic_ops {
	/* Acknowledge the interrupt to deliver now and return its vector, or -1 for none. */
	int (*ack)(void *apic);
	/* True if ack() would return one. */
	bool (*pending)(void *apic);
	/* Bits 4-7 of the task priority register, as CR8 has them. */
	uint64_t (*get_cr8)(void *apic);
	void (*set_cr8)(void *apic, uint64_t val);
	/* IA32_APIC_BASE, IA32_TSC_DEADLINE and 0x800-0x8ff. False is #GP. tsc is the guest's. */
	bool (*read_msr)(void *apic, uint32_t msr, uint64_t *val);
	bool (*write_msr)(void *apic, uint32_t msr, uint64_t val);
	/* The guest's TSC was set: what waits for it is due at another time. */
	void (*tsc_moved)(void *apic);
	/* True if gpa is in this vCPU's APIC page: the access below serves it. */
	bool (*owns_gpa)(void *apic, gpa_t gpa);
	uint64_t (*read)(void *apic, uint64_t off, unsigned size);
	void (*write)(void *apic, uint64_t off, unsigned size, uint64_t val);
	/* INIT arrived: set the controller back as INIT does. */
	void (*init_reset)(void *apic);

	/* For engines with local APICs of their own; lend is NULL where the board keeps its chips.
	 * All vCPUs of the set stand, and the call is for all of them. From lend() to take_back()
	 * messages go to host, and of the above only what the I/O APIC and the 8259s have to do
	 * with happens here: ack and pending know the 8259s' interrupt alone, and write_msr writes
	 * the base register alone. False if INIT or a start-up IPI came meanwhile (vcpu.kick):
	 * serve it first. */
	bool (*lend)(void *apic, const struct lapic_host *ops, void *host);
	void (*take_back)(void *apic);
	/* A level-triggered interrupt that ops->watch() named was ended. */
	void (*ended)(void *apic, uint8_t vector);
};

/* How the machine's paravirtual interface looks to its vCPU (x86/kvm_para.h). On the vCPU's thread,
 * with struct vcpu whole. */
struct vcpu_pv_ops {
	/* KVM_FEATURE_ bits that guests are told. */
	uint32_t (*features)(void *pv);
	/* False is #GP. */
	bool (*read_msr)(void *pv, uint32_t msr, uint64_t *val);
	bool (*write_msr)(void *pv, uint32_t msr, uint64_t val);
	/* Of a guest at CPL 0; nr and arg are 32 bits wide outside 64-bit mode. What RAX gets. */
	uint64_t (*hypercall)(void *pv, uint64_t nr, const uint64_t arg[4]);
	/* The TSC was set. */
	void (*tsc_moved)(void *pv);
	/* INIT arrived, or a reset. */
	void (*reset)(void *pv);
	/* Guest code is about to run on this thread; it does not any more. */
	void (*enter)(void *pv);
	void (*leave)(void *pv);
};

/* What the guest has set up of it. */
struct vcpu_pv {
	uint64_t wall_clock, system_time, steal_time, eoi, poll_control;
	bool unhalted;	/* KVM_HC_KICK_CPU: the next HLT, or this one, ends at once */
	bool by_engine; /* the engine itself serves steal_time and eoi, while it runs the vCPU */
};

/* Why run() came back to a debugger, besides being asked to. */
enum debug_stop {
	DEBUG_NONE,
	DEBUG_SOFT,  /* an INT3 that is the debugger's is next */
	DEBUG_HARD,  /* the instruction at a breakpoint is next */
	DEBUG_WATCH, /* the last instruction accessed data at debug.addr */
};

/* A debugger beside the guest. Changed while the vCPU stands; vcpu_update_mode() follows. */
struct vcpu_debug {
	uint64_t dr[8]; /* its breakpoints, 0-3 and 7, as the guest's own are written */
	bool (*owns_int3)(void *arg, struct vcpu *c); /* is the INT3 at c->rip its? NULL: none */
	void *arg;
	uint8_t stop; /* enum debug_stop; run() has returned RUN_KICKED */
	uint64_t addr;
};

#define VCPU_DROP_RING 64

/* Places in vcpu.engine_state. */
enum engine_slot { ENGINE_INTERP, ENGINE_DBT, ENGINE_KVM, N_ENGINES };

struct vcpu {
	/* REG_RAX ... REG_R15, then two slots that make address computation uniform: REG_BLOCK
	 * holds what an engine adds to RIP-relative displacements, REG_ZERO is always 0. */
	uint64_t gpr[N_GPR_SLOTS];
	uint64_t rip;	      /* of the instruction that runs next, or that is faulting */
	uint32_t cc;	      /* CF PF AF ZF SF in bits 8-15 as LAHF gives them, OF in bit 0 */
	uint64_t rflags_rest; /* RFLAGS without the six of cc; see vcpu_rflags() */
	_Atomic uint32_t kick;

	/* Derived by vcpu_update_mode() from what follows. */
	uint8_t cpl;
	uint8_t code_size;  /* 2, 4, 8: default operand size class of the code segment */
	uint8_t stack_size; /* 2, 4, 8: width of rSP that pushes use */
	uint8_t tlb_mode;   /* which TLB: enum tlb_mode */
	uint8_t mmu_mode;   /* enum mmu_mode */
	uint8_t long_mode;  /* EFER.LMA */
	uint8_t code64;	    /* 64-bit mode proper */
	uint8_t flat_segs;  /* outside 64-bit mode: CS DS ES SS cover 0-4 GiB with base 0, rw */
	struct tlb *tlb;    /* owned; tlb.h */
	struct tlb_entry *tlb_now; /* entries of tlb_mode: tlb.h; follows tlb_select() */
	uint64_t tlb_asid;	   /* low bits of every tag that is valid now */
	uint64_t code_key;	   /* names the mapping rip -> code; changes when it may differ */

	/* Index SEG_ES ... SEG_GS, SEG_FLAT (base 0, for engines), SEG_LDTR, SEG_TR. */
	struct seg seg[N_SEGS];
	struct dtable gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4; /* CR8 is in the APIC */
	uint64_t pdpte[4];	     /* PAE mode's cached PDPTEs */
	uint64_t dr[8];		     /* 0-3, 6, 7 used */

	struct vcpu_fpu fpu;
	struct vcpu_msrs msr;
	struct vcpu_pv pv;
	struct vcpu_debug debug;
	_Atomic int64_t tsc_offset; /* guest TSC minus the host's; timers read it */
	/* If not NULL, the TSC follows this clock's nanoseconds, and random numbers the count of
	 * instructions. Borrowed; only in counting mode. */
	const struct vclock *tsc_clock;

	uint8_t shadow;	     /* SHADOW_STI, SHADOW_MOV_SS: what the last instruction blocked */
	uint8_t nmi_blocked; /* until IRET */
	uint8_t nmi_pending; /* one NMI waits */
	uint8_t mp_state;    /* enum mp_state */
	uint32_t pending_db; /* DR6 bits of a debug trap due before the next instruction */
	_Atomic uint8_t sipi_vector;

	/* What a function that returns an enum x86_exc leaves for delivery. */
	uint32_t exc_error;
	uint64_t exc_cr2;

	/* Borrowed from the machine. */
	unsigned index; /* also the initial APIC id */
	const struct cpu_model *model;
	struct physmap *pm;
	struct iospace *pio, *mmio;
	const struct vcpu_apic_ops *apic_ops;
	void *apic;
	const struct vcpu_pv_ops *pv_ops; /* NULL: there is no such interface */
	void *pv_arg;
	struct vcpu_set *set;
	void (*wake)(struct vcpu *c); /* ends the thread's sleep after HLT; any thread */
	void *owner;		      /* the machine's, for wake */

	/* The engine that holds the vCPU (engine_take), or NULL. */
	const struct engine *_Atomic engine;
	void *engine_state[N_ENGINES]; /* of all that ever did, by struct engine's slot */
	struct interp *interp; /* the interpreter's, which other engines lean on; interp.h */
	const struct tlb_watch *tlb_watch; /* the engine's, or NULL; tlb.h */
	/* Called after a store of this vCPU hit decoded code at host byte p; NULL for nobody. */
	void (*on_code_store)(struct vcpu *c, const uint8_t *p);

	/* RAM page numbers whose write shortcut others ask this vCPU to drop (KICK_DROP). */
	_Atomic uint64_t drop_ring[VCPU_DROP_RING]; /* page + 1, or 0 for free */

	/* Counting mode, while this is not 0; changed between two run() calls only. run() comes
	 * back with RUN_LIMIT at the first instruction boundary where stats.insns >= insn_limit,
	 * before anything is delivered there: the interpreter exactly, the translator at the end of
	 * a translation. stats.insns is exact at every return from run(), and whenever an
	 * instruction reads a clock or reaches a device (it does not count itself yet). What such
	 * an instruction makes pending is delivered behind it. All flags are exact in what an event
	 * saves.
	 *
	 * What counts: an instruction that completes counts one, when it completes. So does one
	 * that traps behind itself (INT n, INTO, single steps, data breakpoints) and HLT. One that
	 * faults does not count, nor does delivering an exception or an interrupt. A REP string
	 * instruction counts one, with its last iteration, however often it was interrupted before;
	 * with rCX = 0 too. Prefixes count nothing. */
	uint64_t insn_limit;
	bool lazy_flags; /* for tests: in counting mode, flags are exact where run() returns only */
	bool no_devices; /* an engine's own: what would reach one ends with EXC_ALONE, undone */

	/* Counters, shown by statistics. Written by the vCPU's thread only. */
	struct vcpu_stats {
		uint64_t insns, blocks, block_misses, tlb_misses, exceptions, irqs, port_ios, mmios,
			halts;
	} stats;
};

/* All vCPUs of a machine. */
struct vcpu_set {
	unsigned n;
	struct vcpu *v[64];
	_Atomic bool split; /* held for a locked access to two pages, as a bus lock is */
};

#define CC_OF	0x0001u
#define CC_CF	0x0100u
#define CC_PF	0x0400u
#define CC_AF	0x1000u
#define CC_ZF	0x4000u
#define CC_SF	0x8000u
#define CC_MASK (CC_OF | CC_CF | CC_PF | CC_AF | CC_ZF | CC_SF)

/* RFLAGS whole. */
static inline uint64_t vcpu_rflags(const struct vcpu *c)
{
	return c->rflags_rest | (c->cc >> 8 & 0xd5) | (uint64_t)(c->cc & CC_OF) << 11;
}

/* Store all of RFLAGS; reserved bits are forced (bit 1 set, 3, 5, 15, 22-63 clear). Whoever may
 * change VM, AC or IOPL calls vcpu_update_mode() afterwards.
 */
static inline void vcpu_set_rflags(struct vcpu *c, uint64_t fl)
{
	c->cc = (uint32_t)((fl & 0xd5) << 8 | (fl >> 11 & 1));
	c->rflags_rest = (fl & RFLAGS_REST_MASK) | RFLAGS_FIXED1;
}

/* Derive mode fields from CR0, CR4, EFER, RFLAGS and segments. Call after changing any of them.
 * It also switches or flushes the TLB where the change demands it.
 */
void vcpu_update_mode(struct vcpu *c);

/* Make bits pending and wake the vCPU. Any thread. */
void vcpu_kick(struct vcpu *c, uint32_t bits);

/* What the guest's time stamp counter follows. */
static inline uint64_t vcpu_raw_tsc(const struct vcpu *c)
{
	return c->tsc_clock ? (uint64_t)vclock_now(c->tsc_clock) : __builtin_ia32_rdtsc();
}

/* The guest's time stamp counter now. */
static inline uint64_t vcpu_tsc(const struct vcpu *c)
{
	return vcpu_raw_tsc(c) + (uint64_t)c->tsc_offset;
}

/* Allocate state that reset does not touch (the TLB). The caller fills the borrowed fields and
 * calls vcpu_reset. -ENOMEM. vcpu_fini undoes it.
 */
int vcpu_init(struct vcpu *c, unsigned index, struct err *err);
void vcpu_fini(struct vcpu *c);

/* Power-on state: SDM 3A "Processor Initialization", table of register values after reset. APs
 * (index > 0) wait for SIPI. tsc_offset is left to the machine.
 */
void vcpu_reset(struct vcpu *c);
/* What an INIT IPI does (FPU, MSRs and MTRRs are kept), and a start-up IPI with vector. */
void vcpu_init_ipi(struct vcpu *c);
void vcpu_sipi(struct vcpu *c, uint8_t vector);

#endif
