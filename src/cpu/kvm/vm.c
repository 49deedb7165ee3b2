/* The VM: memory slots, CPUID, the MSR filter. KVM API 4.35, 4.20, 4.97, 7.13.
 *
 * MSRs that the processor itself acts on, and that a guest writes often, live in KVM while it runs
 * the vCPU. All others are denied to the guest by the filter, so that an access is an exit and the
 * table of cpu/x86/msr.c answers, as on every engine.
 */
#include "cpu/kvm/kvm_internal.h"

#include "base/err.h"
#include "base/own.h"
#include "cpu/engine.h"
#include "cpu/kvm/kvm.h"
#include "cpu/x86/features.h"
#include "cpu/x86/system.h"
#include "mem/iospace.h"
#include "mem/physmap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
	int ret;

	do
		ret = ioctl(fd, request, arg);
	while (ret < 0 && errno == EINTR);
	return ret;
}

static int has_cap(const struct kvm_vm *vm, unsigned cap)
{
	return ioctl(vm->fd, KVM_CHECK_EXTENSION, cap);
}

static int enable_cap(const struct kvm_vm *vm, unsigned cap, uint64_t arg)
{
	struct kvm_enable_cap e = { .cap = cap, .args = { arg } };

	return kvm_ioctl(vm->fd, KVM_ENABLE_CAP, &e);
}

/* -- Memory --------------------------------------------------------------------------------- */

static int set_slot(const struct kvm_vm *vm, unsigned slot, const struct phys_region *r)
{
	struct kvm_userspace_memory_region m = {
		.slot = slot,
		.guest_phys_addr = r->base,
		.memory_size = r->len,
		.userspace_addr = (uintptr_t)r->host,
		.flags = (r->rom ? KVM_MEM_READONLY : 0) |
			 (vm->logging && !r->rom ? KVM_MEM_LOG_DIRTY_PAGES : 0),
	};

	return kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &m);
}

/* A slot that stays where it was only has its flags set; KVM takes no other change. */
int vm_set_slots(struct kvm_vm *vm, struct err *err)
{
	static const struct phys_region none;
	const struct physmap *pm = vm->pm;

	for (unsigned i = 0; i < MAX(pm->n_regions, vm->n_slots); i++) {
		const struct phys_region *r = i < pm->n_regions ? &pm->region[i] : &none;

		if (set_slot(vm, i, r) == 0)
			continue;
		set_slot(vm, i, &none);
		if (set_slot(vm, i, r) < 0)
			return err_set(err, errno, "give KVM the guest's memory at %#llx",
				       (unsigned long long)r->base);
	}
	vm->n_slots = pm->n_regions;
	return 0;
}

/* -- MSRs ----------------------------------------------------------------------------------- */

#define MSR_TSC	     0x10
#define MSR_PRED_CMD 0x49
#define MSR_EFER     0xc0000080
#define MSR_FS_BASE  0xc0000100

/* Moved by state.c, but for EFER, FS and GS bases, which are in the segment registers' set. */
static const uint32_t live_msrs[] = {
	0x48 /* SPEC_CTRL */,
	0x174,
	0x175,
	0x176,
	0x277 /* PAT */,
	0xc0000081,
	0xc0000082,
	0xc0000083,
	0xc0000084,
	0xc0000102,
	0xc0000103 /* TSC_AUX */,
};

#define FILTER_LOW	0x0ull
#define FILTER_LOW_END	0x400u
#define FILTER_HIGH	0xc0000080u
#define FILTER_HIGH_END 0xc0000140u /* bitmaps are whole 64-bit words */
/* The local APIC's, where KVM has one; those of an x2APIC are no filter's. */
#define FILTER_APIC	 0x6c0u
#define FILTER_APIC_BITS 64
#define MSR_TSC_DEADLINE 0x6e0

static void allow(uint8_t *bitmap, uint32_t base, uint32_t msr)
{
	bitmap[(msr - base) / 8] |= (uint8_t)(1u << (msr - base) % 8);
}

/* What the guest may access without an exit. The time stamp counter can be read, not written. */
static int set_filter(struct kvm_vm *vm)
{
	uint8_t low[FILTER_LOW_END / 8] = { 0 }, low_read[FILTER_LOW_END / 8];
	uint8_t high[(FILTER_HIGH_END - FILTER_HIGH) / 8] = { 0 };
	uint8_t apic[FILTER_APIC_BITS / 8] = { 0 };
	struct kvm_msr_filter f = {
		.flags = KVM_MSR_FILTER_DEFAULT_DENY,
		.ranges = { { KVM_MSR_FILTER_READ, FILTER_LOW_END, FILTER_LOW, low_read },
			    { KVM_MSR_FILTER_WRITE, FILTER_LOW_END, FILTER_LOW, low },
			    { KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
			      FILTER_HIGH_END - FILTER_HIGH, FILTER_HIGH, high },
			    { KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, FILTER_APIC_BITS,
			      FILTER_APIC, apic } },
	};

	for (unsigned i = 0; i < vm->n_msrs; i++) {
		uint32_t msr = vm->msrs[i];

		if (msr < FILTER_LOW_END)
			allow(low, FILTER_LOW, msr);
		else
			allow(high, FILTER_HIGH, msr);
	}
	allow(low, FILTER_LOW, MSR_PRED_CMD);
	memcpy(low_read, low, sizeof(low));
	allow(low_read, FILTER_LOW, MSR_TSC);
	if (vm->has_irqchip)
		allow(apic, FILTER_APIC, MSR_TSC_DEADLINE);
	allow(high, FILTER_HIGH, MSR_EFER);
	allow(high, FILTER_HIGH, MSR_FS_BASE);
	allow(high, FILTER_HIGH, MSR_FS_BASE + 1);
	return kvm_ioctl(vm->fd, KVM_X86_SET_MSR_FILTER, &f);
}

static bool is_listed(const struct kvm_msr_list *list, uint32_t msr)
{
	for (unsigned i = 0; i < list->nmsrs; i++)
		if (list->indices[i] == msr)
			return true;
	return false;
}

static bool model_has_msr(const struct cpu_model *m, uint32_t msr)
{
	switch (msr) {
	case 0x48: return cpu_has(m, FEAT_SPEC_CTRL);
	case 0x277: return cpu_has(m, FEAT_PAT);
	case 0xc0000103: return cpu_has(m, FEAT_RDTSCP);
	case 0x174:
	case 0x175:
	case 0x176: return cpu_has(m, FEAT_SEP);
	default: return cpu_has(m, FEAT_LM);
	}
}

/* Those of live_msrs that this KVM and the model have. */
static int choose_msrs(struct kvm_vm *vm, const struct cpu_model *m)
{
	struct kvm_msr_list head = { 0 };

	/* Says how many there are. */
	kvm_ioctl(vm->kvm, KVM_GET_MSR_INDEX_LIST, &head);

	AUTO_FREE struct kvm_msr_list *list = calloc(1, sizeof(*list) + head.nmsrs * 4ul);

	if (!list)
		return -1;
	list->nmsrs = head.nmsrs;
	if (kvm_ioctl(vm->kvm, KVM_GET_MSR_INDEX_LIST, list) < 0)
		return -1;
	for (unsigned i = 0; i < ARRAY_SIZE(live_msrs); i++)
		if (is_listed(list, live_msrs[i]) && model_has_msr(m, live_msrs[i]))
			vm->msrs[vm->n_msrs++] = live_msrs[i];
	return 0;
}

/* -- CPUID ---------------------------------------------------------------------------------- */

#define MAX_CPUID 100

struct cpuid_table {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entry[MAX_CPUID];
};

/* Returns where EAX is. */
static const uint32_t *add_leaf(struct cpuid_table *t, struct vcpu *c, uint32_t leaf, int sub)
{
	struct kvm_cpuid_entry2 *e = &t->entry[t->head.nent++];
	uint32_t out[4];

	sys_cpuid(c, leaf, sub < 0 ? 0 : (uint32_t)sub, out);
	/* Intel's processors show SYSCALL in 64-bit mode only; KVM shows one value always. */
	if (leaf == 0x80000001 && cpu_has(c->model, FEAT_SYSCALL))
		out[CPUID_EDX] |= 1u << 11;
	/* KVM takes no other width of linear addresses, also where there is no long mode. */
	if (leaf == 0x80000008)
		out[CPUID_EAX] = (out[CPUID_EAX] & 0xff) | 48 << 8;
	*e = (struct kvm_cpuid_entry2){ .function = leaf,
					.index = sub < 0 ? 0 : (uint32_t)sub,
					.flags = sub < 0 ? 0 : KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
					.eax = out[CPUID_EAX],
					.ebx = out[CPUID_EBX],
					.ecx = out[CPUID_ECX],
					.edx = out[CPUID_EDX] };
	return &e->eax;
}

/* Subleaves that leaf has: what is not in KVM's table reads as 0. */
static int n_subleaves(uint32_t leaf)
{
	switch (leaf) {
	case 0x4: return 5;
	case 0x7: return 3;
	case 0xb: return 3;
	case 0xd: return 9;
	default: return 0;
	}
}

static void add_range(struct cpuid_table *t, struct vcpu *c, uint32_t first)
{
	uint32_t last = *add_leaf(t, c, first, -1);

	for (uint32_t leaf = first + 1; leaf <= last; leaf++) {
		int n = n_subleaves(leaf);

		for (int sub = 0; sub < n; sub++)
			add_leaf(t, c, leaf, sub);
		if (n == 0)
			add_leaf(t, c, leaf, -1);
	}
}

static int set_cpuid(struct kvm_cpu *k)
{
	AUTO_FREE struct cpuid_table *t = calloc(1, sizeof(*t));

	if (!t)
		return -1;
	add_range(t, k->c, 0);
	if (cpu_has(k->c->model, FEAT_HYPERVISOR))
		add_range(t, k->c, 0x40000000);
	add_range(t, k->c, 0x80000000);
	return kvm_ioctl(k->fd, KVM_SET_CPUID2, t);
}

int vm_set_model(struct kvm_cpu *k, struct err *err)
{
	if (set_cpuid(k) < 0)
		return err_set(err, errno, "give KVM the CPU model");
	return 0;
}

/* -- Doorbells ------------------------------------------------------------------------------ */

/* A store to one of them is no exit then: KVM rings. What KVM refuses stays an exit. */
static void on_bells(void *arg, const struct io_bells *b, bool here)
{
	const struct kvm_vm *vm = arg;
	struct kvm_ioeventfd e = { .fd = b->fd, .flags = here ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN };

	for (unsigned i = 0; i < b->n; i++) {
		e.addr = b->base + (uint64_t)i * b->step;
		kvm_ioctl(vm->fd, KVM_IOEVENTFD, &e);
	}
}

static void watch_bells(struct kvm_vm *vm, struct iospace *mmio)
{
	if (has_cap(vm, KVM_CAP_IOEVENTFD) <= 0 || has_cap(vm, KVM_CAP_IOEVENTFD_ANY_LENGTH) <= 0 ||
	    getenv("CLEAVE_KVM_NO_IRQCHIP"))
		return;
	vm->mmio = mmio;
	iospace_watch_bells(mmio, on_bells, vm);
}

/* -- The VM --------------------------------------------------------------------------------- */

/* Without these the engine cannot do what it promises. All are in Linux 5.10. */
static const struct {
	unsigned cap;
	const char *name;
} needed[] = {
	{ KVM_CAP_IMMEDIATE_EXIT, "immediate exits" },
	{ KVM_CAP_XSAVE, "XSAVE" },
	{ KVM_CAP_VCPU_EVENTS, "vCPU events" },
	{ KVM_CAP_DEBUGREGS, "debug registers" },
	{ KVM_CAP_X86_USER_SPACE_MSR, "MSR exits" },
	{ KVM_CAP_X86_MSR_FILTER, "MSR filters" },
	{ KVM_CAP_USER_NMI, "NMIs" },
	{ KVM_CAP_READONLY_MEM, "ROM" },
};

static int check_caps(struct kvm_vm *vm, struct err *err)
{
	for (unsigned i = 0; i < ARRAY_SIZE(needed); i++)
		if (has_cap(vm, needed[i].cap) <= 0)
			return err_say(err, ENOTSUP, "this host's KVM is too old: it lacks %s",
				       needed[i].name);
	vm->has_sregs2 = has_cap(vm, KVM_CAP_SREGS2) > 0;
	vm->has_xcrs = has_cap(vm, KVM_CAP_XCRS) > 0;
	vm->has_smm = has_cap(vm, KVM_CAP_X86_SMM) > 0;
	return 0;
}

/* What KVM does for old user spaces, unless told not to: patch hypercalls into the guest's code,
 * ignore MWAIT, leave RIP behind OUT 0x7e. KVM API 7.31. */
#define UNWANTED_QUIRKS                                                                            \
	(KVM_X86_QUIRK_OUT_7E_INC_RIP | KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT |                       \
	 KVM_X86_QUIRK_FIX_HYPERCALL_INSN | KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS)

/* Where Intel's processors that cannot run real mode themselves get four pages of KVM's, in the
 * hole below 4 GiB between the APICs and firmware. KVM API 4.40, 4.41. */
#define IDENTITY_MAP 0xfeffc000ull
#define KVM_TSS	     (IDENTITY_MAP + PAGE_SIZE)

static int set_caps(struct kvm_vm *vm)
{
	int quirks = has_cap(vm, KVM_CAP_DISABLE_QUIRKS2);
	uint64_t identity_map = IDENTITY_MAP;
	uint64_t ring_bytes = DIRTY_RING_ENTRIES * sizeof(struct kvm_dirty_gfn);

	kvm_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
	ioctl(vm->fd, KVM_SET_TSS_ADDR, (unsigned long)KVM_TSS);
	if (quirks > 0)
		enable_cap(vm, KVM_CAP_DISABLE_QUIRKS2, (uint64_t)quirks & UNWANTED_QUIRKS);
	/* Linux 6.1 has the second name; on x86 both promise the same order of memory accesses. The
	 * variable lets tests see what older kernels have. */
	if (!getenv("CLEAVE_KVM_NO_RING"))
		vm->has_ring = enable_cap(vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, ring_bytes) == 0 ||
			       enable_cap(vm, KVM_CAP_DIRTY_LOG_RING, ring_bytes) == 0;
	return enable_cap(vm, KVM_CAP_X86_USER_SPACE_MSR,
			  KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN |
				  KVM_MSR_EXIT_REASON_FILTER);
}

int kvm_open(struct err *err)
{
	AUTO_FD int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return err_set(err, errno, "open /dev/kvm");
	if (ioctl(fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		return err_say(err, ENOTSUP, "/dev/kvm speaks another version of its API");
	return move_fd(&fd);
}

static int set_up(struct kvm_vm *vm, const struct vcpu *c, struct err *err)
{
	int ret;

	vm->kvm = kvm_open(err);
	if (vm->kvm < 0)
		return vm->kvm;
	vm->fd = kvm_ioctl(vm->kvm, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		return err_set(err, errno, "make a KVM VM");
	ret = check_caps(vm, err);
	if (ret < 0)
		return ret;
	ret = ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (ret < (int)sizeof(struct kvm_run))
		return err_set(err, errno, "learn the size of KVM's vCPUs");
	vm->run_bytes = (size_t)ret;
	if (irqchip_init(vm, c) < 0)
		return err_set(err, errno, "make KVM's interrupt controllers");
	if (set_caps(vm) < 0 || choose_msrs(vm, c->model) < 0 || set_filter(vm) < 0)
		return err_set(err, errno, "set KVM's MSR filter");
	watch_bells(vm, c->mmio);
	return vm_set_slots(vm, err);
}

static void vm_free(struct kvm_vm *vm)
{
	dirty_fini(vm);
	if (vm->mmio)
		iospace_watch_bells(vm->mmio, NULL, NULL);
	if (vm->fd >= 0)
		close(vm->fd);
	if (vm->kvm >= 0)
		close(vm->kvm);
	pthread_mutex_destroy(&vm->dirty_lock);
	free(vm);
}

static int vm_new(struct kvm_vm **out, struct vcpu *c, struct err *err)
{
	struct kvm_vm *vm = calloc(1, sizeof(*vm));
	int ret;

	if (!vm)
		return err_set(err, ENOMEM, "KVM VM");
	vm->kvm = vm->fd = -1;
	vm->pm = c->pm;
	vm->set = c->set;
	pthread_mutex_init(&vm->dirty_lock, NULL);
	ret = set_up(vm, c, err);
	if (ret < 0)
		vm_free(vm);
	else
		*out = vm;
	return ret;
}

int vm_join(struct kvm_cpu *k, struct err *err)
{
	struct vcpu_set *set = k->c->set;
	struct kvm_vm *vm = NULL;

	for (unsigned i = 0; i < set->n && !vm; i++)
		if (set->v[i] != k->c && kvm_of(set->v[i]))
			vm = kvm_of(set->v[i])->vm;
	if (!vm) {
		int ret = vm_new(&vm, k->c, err);

		if (ret < 0)
			return ret;
	}
	vm->n_users++;
	k->vm = vm;
	return 0;
}

void vm_leave(struct kvm_cpu *k)
{
	if (k->vm && --k->vm->n_users == 0)
		vm_free(k->vm);
	k->vm = NULL;
}
