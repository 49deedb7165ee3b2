/* struct vcpu to KVM and back. KVM API 4.1x-4.47, 4.80.
 *
 * Push and pull move everything that KVM runs a vCPU by. What only our own tables know (memory
 * type ranges, machine-check banks ...: see vm.c) stays in struct vcpu all the time. The wait for
 * SIPI and the halt go with the local APICs (irqchip.c), or stay too.
 *
 * KVM may have taken an interrupt or exception that it has not delivered yet, when an exit comes in
 * between. struct vcpu knows no such state: pull delivers it in software, which is what the
 * processor would do next.
 */
#include "cpu/kvm/kvm_internal.h"

#include "base/own.h"
#include "cpu/x86/descriptor.h"
#include "cpu/x86/features.h"
#include "cpu/x86/paging.h"
#include "cpu/x86/system.h"
#include "cpu/x86/transfer.h"
#include "cpu/x86/vmem.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>

static bool move(struct kvm_cpu *k, unsigned long request, void *arg, const char *what)
{
	if (kvm_ioctl(k->fd, request, arg) >= 0)
		return true;
	report_errno(k, what, errno);
	return false;
}

/* -- General registers ------------------------------------------------------------------------ */

/* In the order of struct vcpu. */
#define FOR_GPRS(X)                                                                                \
	X(0, rax)                                                                                  \
	X(1, rcx)                                                                                  \
	X(2, rdx)                                                                                  \
	X(3, rbx)                                                                                  \
	X(4, rsp)                                                                                  \
	X(5, rbp)                                                                                  \
	X(6, rsi)                                                                                  \
	X(7, rdi)                                                                                  \
	X(8, r8) X(9, r9) X(10, r10) X(11, r11) X(12, r12) X(13, r13) X(14, r14) X(15, r15)

static bool push_gprs(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;
	struct kvm_regs r = { .rip = c->rip, .rflags = vcpu_rflags(c) };

#define X(n, name) r.name = c->gpr[n];
	FOR_GPRS(X)
#undef X
	return move(k, KVM_SET_REGS, &r, "set the registers");
}

static bool pull_gprs(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;
	struct kvm_regs r;

	if (!move(k, KVM_GET_REGS, &r, "get the registers"))
		return false;
#define X(n, name) c->gpr[n] = r.name;
	FOR_GPRS(X)
#undef X
	c->rip = r.rip;
	vcpu_set_rflags(c, r.rflags);
	return true;
}

/* -- Segments and control registers ----------------------------------------------------------- */

static struct kvm_segment to_segment(const struct seg *s)
{
	uint16_t a = s->attr;

	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->sel,
		.type = a & ATTR_TYPE,
		.s = !!(a & ATTR_S),
		.dpl = ATTR_DPL_OF(a),
		.present = a & ATTR_P && !(a & ATTR_UNUSABLE),
		.avl = !!(a & ATTR_AVL),
		.l = !!(a & ATTR_L),
		.db = !!(a & ATTR_DB),
		.g = !!(a & ATTR_G),
		.unusable = !!(a & ATTR_UNUSABLE),
	};
}

/* A null segment has nothing but its selector, and SS the current privilege; FS and GS a base. */
static struct seg from_segment(const struct kvm_segment *s, unsigned which)
{
	struct seg null = seg_null(s->selector, which == SEG_SS ? s->dpl : 0);

	if (s->unusable || !s->present) {
		null.base = which == SEG_FS || which == SEG_GS ? s->base : 0;
		return null;
	}
	return (struct seg){
		.base = s->base,
		.limit = s->limit,
		.sel = s->selector,
		.attr = (uint16_t)(s->type | s->s << 4 | s->dpl << 5 | s->present << 7 |
				   s->avl << 12 | s->l << 13 | s->db << 14 | s->g << 15),
	};
}

/* Both layouts of the special registers begin alike. */
_Static_assert(offsetof(struct kvm_sregs, apic_base) == offsetof(struct kvm_sregs2, apic_base),
	       "KVM API 4.145");

#define FOR_SEGMENTS(X)                                                                            \
	X(SEG_ES, es)                                                                              \
	X(SEG_CS, cs)                                                                              \
	X(SEG_SS, ss) X(SEG_DS, ds) X(SEG_FS, fs) X(SEG_GS, gs) X(SEG_LDTR, ldt) X(SEG_TR, tr)

static bool uses_pdptes(const struct vcpu *c)
{
	return c->mmu_mode == MMU_PAE;
}

static uint64_t apic_base(const struct vcpu *c)
{
	uint64_t base = 0xfee00800; /* on */

	if (c->apic_ops)
		c->apic_ops->read_msr(c->apic, 0x1b, &base);
	return base;
}

static bool get_sregs(struct kvm_cpu *k, struct kvm_sregs2 *s);

static uint64_t cr8(struct kvm_cpu *k)
{
	const struct vcpu *c = k->c;
	struct kvm_sregs2 s;

	if (atomic_load(&k->vm->lent))
		return get_sregs(k, &s) ? s.cr8 : 0;
	return c->apic_ops ? c->apic_ops->get_cr8(c->apic) : 0;
}

static bool push_sregs(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;
	struct kvm_sregs2 s = {
		.gdt = { .base = c->gdtr.base, .limit = c->gdtr.limit },
		.idt = { .base = c->idtr.base, .limit = c->idtr.limit },
		.cr0 = c->cr0,
		.cr2 = c->cr2,
		.cr3 = c->cr3,
		.cr4 = c->cr4,
		.cr8 = cr8(k),
		.efer = c->msr.efer,
		.apic_base = apic_base(c),
	};
	struct kvm_sregs old;

#define X(n, name) s.name = to_segment(&c->seg[n]);
	FOR_SEGMENTS(X)
#undef X
	if (k->vm->has_sregs2) {
		if (uses_pdptes(c)) {
			s.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
			memcpy(s.pdptrs, c->pdpte, sizeof(s.pdptrs));
		}
		return move(k, KVM_SET_SREGS2, &s, "set the special registers");
	}
	memset(&old, 0, sizeof(old));
	memcpy(&old, &s, offsetof(struct kvm_sregs2, flags));
	return move(k, KVM_SET_SREGS, &old, "set the special registers");
}

static bool get_sregs(struct kvm_cpu *k, struct kvm_sregs2 *s)
{
	struct kvm_sregs old;

	memset(s, 0, sizeof(*s));
	if (k->vm->has_sregs2)
		return move(k, KVM_GET_SREGS2, s, "get the special registers");
	if (!move(k, KVM_GET_SREGS, &old, "get the special registers"))
		return false;
	memcpy(s, &old, offsetof(struct kvm_sregs2, flags));
	return true;
}

static bool pull_sregs(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;
	struct kvm_sregs2 s;

	if (!get_sregs(k, &s))
		return false;
#define X(n, name) c->seg[n] = from_segment(&s.name, n);
	FOR_SEGMENTS(X)
#undef X
	c->gdtr = (struct dtable){ .base = s.gdt.base, .limit = s.gdt.limit };
	c->idtr = (struct dtable){ .base = s.idt.base, .limit = s.idt.limit };
	c->cr0 = s.cr0;
	c->cr2 = s.cr2;
	c->cr3 = s.cr3;
	c->cr4 = s.cr4;
	c->msr.efer = s.efer;
	vcpu_update_mode(c);
	if (s.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)
		memcpy(c->pdpte, s.pdptrs, sizeof(s.pdptrs));
	else if (uses_pdptes(c))
		paging_load_pdptes(c, c->cr3);
	return true;
}

void state_sync_apic_base(struct kvm_cpu *k)
{
	struct kvm_sregs s;

	if (k->vm->has_irqchip) {
		irqchip_sync_base(k);
		return;
	}
	if (kvm_ioctl(k->fd, KVM_GET_SREGS, &s) < 0)
		return;
	s.apic_base = apic_base(k->c);
	kvm_ioctl(k->fd, KVM_SET_SREGS, &s);
}

/* -- x87 and vector registers ------------------------------------------------------------------ */

#define FX_MXCSR     24
#define FX_MASK	     28
#define FX_ST	     32
#define FX_XMM	     160
#define XSTATE_BV    512
#define MXCSR_MASK   0xffffu
#define MXCSR_RESET  0x1f80u
#define AREA_ALIGNED __attribute__((aligned(64)))

/* Registers n of zmm from first, bytes [from, from+len) of each, stand at off of the image. */
struct component {
	uint8_t bit, first, n, from, len;
	uint16_t off;
};

/* Where the processor's own image has component bit, which is where KVM's has it. */
static uint16_t component_offset(unsigned bit)
{
	uint32_t a = 0, b = 0, c, d;

	__get_cpuid_count(0xd, bit, &a, &b, &c, &d);
	return a ? (uint16_t)b : 0;
}

static unsigned list_components(struct component out[5], uint64_t mask)
{
	static const struct component all[] = { { 2, 0, 16, 16, 16, 0 },
						{ 6, 0, 16, 32, 32, 0 },
						{ 7, 16, 16, 0, 64, 0 } };
	unsigned n = 0;

	out[n++] = (struct component){ 1, 0, 16, 0, 16, FX_XMM };
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		if (!(mask >> all[i].bit & 1))
			continue;
		out[n] = all[i];
		out[n++].off = component_offset(all[i].bit);
	}
	return n;
}

static bool push_fpu(struct kvm_cpu *k)
{
	struct vcpu_fpu *f = &k->c->fpu;
	uint64_t mask = k->c->model->xcr0_mask | XCR0_X87 | XCR0_SSE;
	struct component list[5];
	struct kvm_xsave x AREA_ALIGNED;
	uint8_t *image = (uint8_t *)x.region;
	unsigned n = list_components(list, mask);

	memset(&x, 0, sizeof(x));
	memcpy(image, f->fx, FX_MXCSR);
	memcpy(image + FX_ST, f->fx + FX_ST, FX_XMM - FX_ST);
	store32(image + FX_MXCSR, f->mxcsr);
	store32(image + FX_MASK, MXCSR_MASK);
	store64(image + XSTATE_BV, mask);
	for (unsigned i = 0; i < n; i++)
		for (unsigned r = 0; r < list[i].n; r++)
			memcpy(image + list[i].off + r * list[i].len,
			       &f->zmm[list[i].first + r][list[i].from], list[i].len);
	if (mask & XCR0_OPMASK)
		memcpy(image + component_offset(5), f->k, sizeof(f->k));
	return move(k, KVM_SET_XSAVE, &x, "set the vector registers");
}

/* A component that XSTATE_BV leaves out is in its initial state, whatever the image holds. */
static void take_component(struct vcpu_fpu *f, const struct component *l, const uint8_t *image,
			   uint64_t bv)
{
	for (unsigned r = 0; r < l->n; r++) {
		uint8_t *to = &f->zmm[l->first + r][l->from];

		if (bv >> l->bit & 1)
			memcpy(to, image + l->off + r * l->len, l->len);
		else
			memset(to, 0, l->len);
	}
}

static void take_x87(struct vcpu_fpu *f, const uint8_t *image, uint64_t bv)
{
	if (bv & XCR0_X87) {
		memcpy(f->fx, image, FX_MXCSR);
		memcpy(f->fx + FX_ST, image + FX_ST, FX_XMM - FX_ST);
		return;
	}
	memset(f->fx, 0, FX_XMM);
	store16(f->fx, 0x37f);
}

static bool pull_fpu(struct kvm_cpu *k)
{
	struct vcpu_fpu *f = &k->c->fpu;
	uint64_t mask = k->c->model->xcr0_mask | XCR0_X87 | XCR0_SSE, bv;
	struct component list[5];
	struct kvm_xsave x AREA_ALIGNED;
	const uint8_t *image = (const uint8_t *)x.region;
	unsigned n = list_components(list, mask);

	if (!move(k, KVM_GET_XSAVE, &x, "get the vector registers"))
		return false;
	bv = load64(image + XSTATE_BV);
	take_x87(f, image, bv);
	for (unsigned i = 0; i < n; i++)
		take_component(f, &list[i], image, bv);
	if (mask & XCR0_OPMASK && bv & XCR0_OPMASK)
		memcpy(f->k, image + component_offset(5), sizeof(f->k));
	else
		memset(f->k, 0, sizeof(f->k));
	f->mxcsr = bv & (XCR0_SSE | XCR0_AVX) ? load32(image + FX_MXCSR) : MXCSR_RESET;
	f->wide = (uint8_t)bv;
	return true;
}

static bool push_xcr0(struct kvm_cpu *k)
{
	struct kvm_xcrs x = { .nr_xcrs = 1, .xcrs = { { .value = k->c->fpu.xcr0 } } };

	return !k->vm->has_xcrs || !cpu_has(k->c->model, FEAT_XSAVE) ||
	       move(k, KVM_SET_XCRS, &x, "set XCR0");
}

static bool pull_xcr0(struct kvm_cpu *k)
{
	struct kvm_xcrs x;

	if (!k->vm->has_xcrs || !cpu_has(k->c->model, FEAT_XSAVE))
		return true;
	if (!move(k, KVM_GET_XCRS, &x, "get XCR0"))
		return false;
	for (unsigned i = 0; i < x.nr_xcrs; i++)
		if (x.xcrs[i].xcr == 0)
			k->c->fpu.xcr0 = x.xcrs[i].value;
	return true;
}

/* -- MSRs ----------------------------------------------------------------------------------- */

struct msr_set {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[16];
};

static uint64_t *msr_field(struct vcpu *c, uint32_t msr)
{
	switch (msr) {
	case 0x48: return &c->msr.spec_ctrl;
	case 0x174: return &c->msr.sysenter_cs;
	case 0x175: return &c->msr.sysenter_esp;
	case 0x176: return &c->msr.sysenter_eip;
	case 0x277: return &c->msr.pat;
	case 0xc0000081: return &c->msr.star;
	case 0xc0000082: return &c->msr.lstar;
	case 0xc0000083: return &c->msr.cstar;
	case 0xc0000084: return &c->msr.sfmask;
	case 0xc0000102: return &c->msr.kernel_gs_base;
	default: return &c->msr.tsc_aux;
	}
}

static bool push_msrs(struct kvm_cpu *k)
{
	struct msr_set set = { .head.nmsrs = k->vm->n_msrs };
	int done;

	for (unsigned i = 0; i < set.head.nmsrs; i++) {
		set.entry[i].index = k->vm->msrs[i];
		set.entry[i].data = *msr_field(k->c, k->vm->msrs[i]);
	}
	done = kvm_ioctl(k->fd, KVM_SET_MSRS, &set);
	if (done == (int)set.head.nmsrs)
		return true;
	report_errno(k, "set the model-specific registers", done < 0 ? errno : EINVAL);
	return false;
}

static bool pull_msrs(struct kvm_cpu *k)
{
	struct msr_set set = { .head.nmsrs = k->vm->n_msrs };
	int done;

	for (unsigned i = 0; i < set.head.nmsrs; i++)
		set.entry[i].index = k->vm->msrs[i];
	done = kvm_ioctl(k->fd, KVM_GET_MSRS, &set);
	if (done != (int)set.head.nmsrs) {
		report_errno(k, "get the model-specific registers", done < 0 ? errno : EINVAL);
		return false;
	}
	for (unsigned i = 0; i < set.head.nmsrs; i++)
		*msr_field(k->c, set.entry[i].index) = set.entry[i].data;
	return true;
}

/* -- Time stamp counter ------------------------------------------------------------------------ */

static int tsc_attr(struct kvm_cpu *k, unsigned long request, int64_t *offset)
{
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL,
					.attr = KVM_VCPU_TSC_OFFSET,
					.addr = (uintptr_t)offset };

	return kvm_ioctl(k->fd, request, &attr);
}

void state_sync_tsc(struct kvm_cpu *k)
{
	struct msr_set set = { .head.nmsrs = 1, .entry = { { .index = 0x10 } } };
	int64_t offset = atomic_load(&k->c->tsc_offset);

	if (offset == k->tsc_offset)
		return;
	k->tsc_offset = offset;
	if (!k->vm->has_tsc_offset || tsc_attr(k, KVM_SET_DEVICE_ATTR, &offset) < 0) {
		set.entry[0].data = vcpu_tsc(k->c);
		kvm_ioctl(k->fd, KVM_SET_MSRS, &set);
	}
	if (atomic_load(&k->vm->lent))
		irqchip_tsc_moved(k);
}

/* KVM moves the offset itself where the host's counter is not steady. */
static void pull_tsc(struct kvm_cpu *k)
{
	int64_t offset;

	if (!k->vm->has_tsc_offset || tsc_attr(k, KVM_GET_DEVICE_ATTR, &offset) < 0)
		return;
	k->tsc_offset = offset;
	atomic_store(&k->c->tsc_offset, offset);
}

/* -- Debug registers --------------------------------------------------------------------------- */

static bool push_debug(struct kvm_cpu *k)
{
	const struct vcpu *c = k->c;
	struct kvm_debugregs d = { .db = { c->dr[0], c->dr[1], c->dr[2], c->dr[3] },
				   .dr6 = c->dr[6],
				   .dr7 = c->dr[7] };

	return move(k, KVM_SET_DEBUGREGS, &d, "set the debug registers");
}

static bool pull_debug(struct kvm_cpu *k)
{
	struct kvm_debugregs d;

	if (!move(k, KVM_GET_DEBUGREGS, &d, "get the debug registers"))
		return false;
	memcpy(k->c->dr, d.db, sizeof(d.db));
	k->c->dr[6] = d.dr6;
	k->c->dr[7] = d.dr7;
	return true;
}

/* -- Events --------------------------------------------------------------------------------- */

static bool push_events(struct kvm_cpu *k)
{
	const struct vcpu *c = k->c;
	struct kvm_vcpu_events e = {
		.interrupt.shadow = (c->shadow & SHADOW_MOV_SS ? KVM_X86_SHADOW_INT_MOV_SS : 0) |
				    (c->shadow & SHADOW_STI ? KVM_X86_SHADOW_INT_STI : 0),
		.nmi.masked = c->nmi_blocked, /* the run loop gives one that waits */
		.flags =
			KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
			/* There is no system management mode: a guest may have sent itself there */
			(k->vm->has_smm ? KVM_VCPUEVENT_VALID_SMM : 0),
	};

	return move(k, KVM_SET_VCPU_EVENTS, &e, "set the pending events");
}

#define DR6_TRAPS (0xfu | DR6_BD | DR6_BS | DR6_BT)

/* What KVM has begun to deliver. False on triple fault. A software interrupt is executed again:
 * RIP is at its instruction. */
static bool deliver(struct vcpu *c, const struct kvm_vcpu_events *e)
{
	if (e->exception.injected || e->exception.pending) {
		enum x86_exc exc = (enum x86_exc)(EXC_DE + e->exception.nr);

		c->exc_error = e->exception.has_error_code ? e->exception.error_code : 0;
		c->exc_cr2 = c->cr2; /* KVM has them up to date already */
		if (exc == EXC_DB)
			c->pending_db = (uint32_t)c->dr[6] & DR6_TRAPS;
		return exc_deliver(c, exc);
	}
	if (e->nmi.injected)
		return nmi_deliver(c);
	return !e->interrupt.injected || e->interrupt.soft || irq_deliver(c, e->interrupt.nr);
}

/* AMD's processors have one interrupt shadow; KVM then reports both kinds. */
static uint8_t shadow_of(unsigned bits)
{
	if (bits & KVM_X86_SHADOW_INT_STI)
		return SHADOW_STI;
	return bits & KVM_X86_SHADOW_INT_MOV_SS ? SHADOW_MOV_SS : 0;
}

static bool pull_events(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;
	struct kvm_vcpu_events e;

	if (!move(k, KVM_GET_VCPU_EVENTS, &e, "get the pending events"))
		return false;
	c->shadow = shadow_of(e.interrupt.shadow);
	c->nmi_blocked = e.nmi.masked;
	c->nmi_pending |= !!e.nmi.pending;
	c->pending_db = 0;
	if (!e.exception.injected && !e.exception.pending && !e.nmi.injected &&
	    !e.interrupt.injected)
		return true;
	k->must_push = true;
	if (deliver(c, &e))
		return true;
	c->mp_state = MP_SHUTDOWN;
	return false;
}

/* -- All ------------------------------------------------------------------------------------- */

/* A debug trap is due at this boundary. KVM could not be told of one that waits for the end of a
 * MOV SS shadow; it comes without the wait. */
static bool deliver_trap(struct vcpu *c)
{
	if (!c->pending_db || exc_deliver(c, EXC_DB))
		return true;
	c->mp_state = MP_SHUTDOWN;
	return false;
}

bool state_push(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;
	bool can_take = !c->shadow;

	vcpu_update_mode(c);
	vmem_flush(c, true);
	if (!deliver_trap(c))
		return false;
	/* In this order: what CR4 and EFER may hold depends on nothing before them, XCR0 and the
	 * vector registers on CR4; the TSC goes last, being in motion. */
	if (!push_sregs(k) || !push_gprs(k) || !push_xcr0(k) || !push_fpu(k) || !push_msrs(k) ||
	    !push_debug(k) || !push_events(k))
		return false;
	state_sync_tsc(k);
	/* As after an exit from here: the run loop reads them. */
	k->run->if_flag = !!(c->rflags_rest & RFLAGS_IF);
	k->run->ready_for_interrupt_injection = can_take && k->run->if_flag;
	k->run->cr8 = cr8(k);
	/* While KVM has the registers, this field serves MSR exits, which come from CPL 0. */
	c->cpl = 0;
	k->must_push = false;
	k->stats.pushes++;
	return true;
}

bool state_pull(struct kvm_cpu *k)
{
	struct vcpu *c = k->c;

	if (k->must_push)
		return true;
	if (!run_settle(k))
		return false;
	k->stats.pulls++;
	if (!pull_gprs(k) || !pull_xcr0(k) || !pull_fpu(k) || !pull_msrs(k) || !pull_debug(k) ||
	    !pull_sregs(k))
		return false;
	pull_tsc(k);
	vcpu_update_mode(c);
	vmem_flush(c, true);
	return pull_events(k);
}
