/* System instructions: operands are fetched here, the work is done in cpu/x86. */
#include "cpu/interp/interp_internal.h"
#include "cpu/interp/operand.h"

#include "base/trace.h"
#include "cpu/x86/features.h"
#include "cpu/x86/kvm_para.h"
#include "cpu/x86/system.h"
#include "cpu/x86/transfer.h"
#include "mem/iospace.h"

/* For instructions that only ring 0 (or real mode) may run. */
static int need_cpl0(struct vcpu *c)
{
	return c->cpl ? raise_gp(c) : 0;
}

/* Protected mode and not virtual-8086: else #UD. */
static int need_protected(struct vcpu *c)
{
	if (!(c->cr0 & CR0_PE) || c->rflags_rest & RFLAGS_VM)
		return raise_ud(c);
	return 0;
}

/* With 32-bit operands only 16 bits are stored, and the upper half of the place is left as it is.
 * SDM 2B PUSH. */
static int push_selector(struct vcpu *c, unsigned size, uint16_t sel)
{
	uint64_t rsp = c->gpr[REG_RSP], top = (rsp - size) & size_mask(c->stack_size);
	gva_t gva;
	int r;

	if (size != 4)
		return push(c, size, sel);
	r = seg_linear(c, SEG_SS, top, 2, true, &gva);
	if (!r)
		r = mem_store(c, gva, 2, sel);
	if (!r)
		reg_write(c, GPR_OFF(REG_RSP), c->stack_size, top);
	return r;
}

static NOINLINE int do_x_mov_sreg(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint64_t v;
	int r;

	switch (i->op) {
	case OP_MOV_FROM_SREG: return opd_write(c, u, 0, c->seg[i->opd[1].reg].sel);
	case OP_PUSH_SREG: return push_selector(c, i->opsize, c->seg[i->opd[0].reg].sel);
	case OP_POP_SREG: {
		uint64_t rsp = c->gpr[REG_RSP];

		r = pop(c, i->opsize, &v);
		if (!r)
			r = seg_load(c, i->opd[0].reg, (uint16_t)v);
		if (r) {
			c->gpr[REG_RSP] = rsp;
			return r;
		}
		break;
	}
	default:
		r = opd_read(c, u, 1, &v);
		if (!r)
			r = seg_load(c, i->opd[0].reg, (uint16_t)v);
		if (r)
			return r;
	}
	if (i->opd[0].reg == SEG_SS)
		c->shadow = SHADOW_MOV_SS;
	return EXEC_SYNC;
}
HANDLER(x_mov_sreg)

/* LDS LES LSS LFS LGS: offset, then selector, from memory. */
static NOINLINE int do_x_far_load(struct vcpu *c, const struct uop *u)
{
	static const uint8_t seg_of[] = {
		[OP_LDS - OP_LDS] = SEG_DS, [OP_LES - OP_LDS] = SEG_ES, [OP_LSS - OP_LDS] = SEG_SS,
		[OP_LFS - OP_LDS] = SEG_FS, [OP_LGS - OP_LDS] = SEG_GS,
	};
	const struct insn *i = u->insn;
	uint64_t off, sel;
	gva_t gva;
	int r = insn_linear(c, u, 0, i->opsize + 2u, false, &gva);

	if (!r)
		r = mem_load(c, gva, i->opsize, &off);
	if (!r)
		r = mem_load(c, gva + i->opsize, 2, &sel);
	if (!r)
		r = seg_load(c, seg_of[i->op - OP_LDS], (uint16_t)sel);
	if (r)
		return r;
	opd_write(c, u, 0, off);
	return EXEC_SYNC;
}
HANDLER(x_far_load)

/* STI and CLI. */
static NOINLINE int do_x_sti(struct vcpu *c, const struct uop *u)
{
	int r = u->insn->op == OP_STI ? sys_sti(c) : sys_cli(c);

	return r ? r : EXEC_SYNC;
}
HANDLER(x_sti)

/* STAC and CLAC: the TLB array changes, the code does not. */
static NOINLINE int do_x_ac(struct vcpu *c, const struct uop *u)
{
	if (c->cpl)
		return raise_ud(c);
	if (u->insn->op == OP_STAC)
		c->rflags_rest |= RFLAGS_AC;
	else
		c->rflags_rest &= ~(uint64_t)RFLAGS_AC;
	tlb_select(c);
	return 0;
}
HANDLER(x_ac)

static NOINLINE int do_x_hlt(struct vcpu *c, const struct uop *u)
{
	int r = need_cpl0(c);

	return r ? r : EXEC_HALT;
}
HANDLER(x_hlt)

static NOINLINE int do_x_io(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	bool in = i->op == OP_IN;
	const struct operand *acc = &i->opd[!in], *where = &i->opd[in];
	uint16_t port = where->kind == OPD_IMM ? (uint8_t)i->imm : (uint16_t)c->gpr[REG_RDX];
	uint64_t v;
	int r = io_check(c, port, acc->size);

	if (r)
		return r;
	if (unlikely(c->no_devices))
		return EXC_ALONE;
	c->stats.port_ios++;
	c->rip = uop_rip(c, u);
	if (in) {
		v = iospace_read(c->pio, port, acc->size);
		reg_write(c, GPR_OFF(REG_RAX), acc->size, v);
	} else {
		v = reg_read(c, GPR_OFF(REG_RAX), acc->size);
		iospace_write(c->pio, port, acc->size, v);
	}
	if (trace_on(TRACE_PIO))
		trace_print(TRACE_PIO, "cpu%u %s %#x size %u = %#llx", c->index, in ? "in" : "out",
			    port, acc->size, (unsigned long long)v);
	if (c->dr[7] & 0xff)
		debug_data_access(c, port, acc->size, !in, true);
	return EXEC_SYNC;
}
HANDLER(x_io)

static NOINLINE int do_x_cpuid(struct vcpu *c, const struct uop *u)
{
	uint32_t out[4];
	int r = sys_cpuid(c, R32(c, GPR_OFF(REG_RAX)), R32(c, GPR_OFF(REG_RCX)), out);

	if (r)
		return r;
	c->gpr[REG_RAX] = out[CPUID_EAX];
	c->gpr[REG_RBX] = out[CPUID_EBX];
	c->gpr[REG_RCX] = out[CPUID_ECX];
	c->gpr[REG_RDX] = out[CPUID_EDX];
	return 0;
}
HANDLER(x_cpuid)

static void write_edx_eax(struct vcpu *c, uint64_t v)
{
	c->gpr[REG_RAX] = (uint32_t)v;
	c->gpr[REG_RDX] = v >> 32;
}

static uint64_t read_edx_eax(const struct vcpu *c)
{
	return (uint64_t)R32(c, GPR_OFF(REG_RDX)) << 32 | R32(c, GPR_OFF(REG_RAX));
}

/* RDTSC, RDTSCP, RDPMC (no counter exists). */
static NOINLINE int do_x_tsc(struct vcpu *c, const struct uop *u)
{
	bool pmc = u->insn->op == OP_RDPMC;

	if (c->cpl && (pmc ? !(c->cr4 & CR4_PCE) : (c->cr4 & CR4_TSD) != 0))
		return raise_gp(c);
	if (pmc)
		return raise_gp(c);
	if (unlikely(c->no_devices))
		return EXC_ALONE;
	/* Unlike RDTSC, RDTSCP waits for the loads before it. */
	if (u->insn->op == OP_RDTSCP)
		__builtin_ia32_lfence();
	write_edx_eax(c, vcpu_tsc(c));
	if (u->insn->op == OP_RDTSCP)
		c->gpr[REG_RCX] = (uint32_t)c->msr.tsc_aux;
	return 0;
}
HANDLER(x_tsc)

static NOINLINE int do_x_msr(struct vcpu *c, const struct uop *u)
{
	uint32_t msr = R32(c, GPR_OFF(REG_RCX));
	bool rd = u->insn->op == OP_RDMSR;
	uint64_t v = 0;
	int r = need_cpl0(c);

	if (r)
		return r;
	if (unlikely(c->no_devices))
		return EXC_ALONE;
	c->rip = uop_rip(c, u);
	if (!rd)
		v = read_edx_eax(c);
	r = rd ? msr_read(c, msr, &v) : msr_write(c, msr, v);
	if (trace_on(TRACE_MSR))
		trace_print(TRACE_MSR, "cpu%u %s %#x = %#llx%s", c->index, rd ? "rdmsr" : "wrmsr",
			    msr, (unsigned long long)v, r ? " #GP" : "");
	if (r)
		return r;
	if (rd)
		write_edx_eax(c, v);
	return rd ? 0 : EXEC_SYNC;
}
HANDLER(x_msr)

/* MOV to and from control and debug registers: always whole registers of the code's width. */
static NOINLINE int do_x_cr(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	bool cr = i->op == OP_MOV_TO_CR || i->op == OP_MOV_FROM_CR;
	uint64_t v;
	int r;

	if (unlikely(c->no_devices))
		return EXC_ALONE;
	c->rip = uop_rip(c, u);
	if (i->op == OP_MOV_FROM_CR || i->op == OP_MOV_FROM_DR) {
		r = cr ? cr_read(c, i->opd[1].reg, &v) : dr_read(c, i->opd[1].reg, &v);
		return r ? r : opd_write(c, u, 0, v);
	}
	opd_read(c, u, 1, &v);
	r = cr ? cr_write(c, i->opd[0].reg, v) : dr_write(c, i->opd[0].reg, v);
	return r ? r : EXEC_SYNC;
}
HANDLER(x_cr)

static int store_dtable(struct vcpu *c, const struct uop *u, const struct dtable *t)
{
	uint8_t buf[10];
	unsigned len = c->code64 ? 10 : 6;
	gva_t gva;
	int r = sys_umip_check(c);

	if (!r)
		r = insn_linear(c, u, 0, len, true, &gva);
	if (r)
		return r;
	store16(buf, t->limit);
	store64(buf + 2, t->base);
	return vmem_write(c, gva, buf, len, AS_CPL);
}

static int load_dtable(struct vcpu *c, const struct uop *u, struct dtable *t)
{
	uint8_t buf[10] = { 0 };
	unsigned len = c->code64 ? 10 : 6;
	uint64_t base;
	gva_t gva;
	int r = need_cpl0(c);

	if (!r)
		r = insn_linear(c, u, 0, len, false, &gva);
	if (!r)
		r = vmem_read(c, gva, buf, len, AS_CPL);
	if (r)
		return r;
	base = load64(buf + 2);
	if (c->code64 && !is_canonical(base))
		return raise_gp(c);
	/* A 16-bit operand size takes 24 bits of base. */
	if (!c->code64 && u->insn->opsize == 2)
		base &= 0xffffff;
	*t = (struct dtable){ .base = base, .limit = load16(buf) };
	return EXEC_SYNC;
}

static NOINLINE int do_x_dtable(struct vcpu *c, const struct uop *u)
{
	switch (u->insn->op) {
	case OP_SGDT: return store_dtable(c, u, &c->gdtr);
	case OP_SIDT: return store_dtable(c, u, &c->idtr);
	case OP_LGDT: return load_dtable(c, u, &c->gdtr);
	default: return load_dtable(c, u, &c->idtr);
	}
}
HANDLER(x_dtable)

/* The operand of LLDT, LTR and LMSW, whose address is checked after privilege. */
static int read_selector(struct vcpu *c, const struct uop *u, uint64_t *v)
{
	gva_t gva;
	int r;

	if (u->insn->opd[0].kind != OPD_MEM)
		return opd_read(c, u, 0, v);
	r = insn_linear(c, u, 0, 2, false, &gva);
	return r ? r : mem_load(c, gva, 2, v);
}

/* SLDT STR SMSW and LLDT LTR LMSW. A store to memory is always 16 bits. */
static NOINLINE int do_x_selector(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint64_t v;
	int r = 0;

	c->rip = uop_rip(c, u);
	if (i->op != OP_SMSW && i->op != OP_LMSW)
		r = need_protected(c);
	if (r)
		return r;
	if (i->op == OP_SLDT || i->op == OP_STR || i->op == OP_SMSW) {
		r = sys_umip_check(c);
		if (r)
			return r;
		v = i->op == OP_SMSW ? c->cr0 : c->seg[i->op == OP_STR ? SEG_TR : SEG_LDTR].sel;
		if (i->opd[0].kind == OPD_MEM)
			return mem_store(c, uop_ea(c, u), 2, v);
		return opd_write(c, u, 0, v);
	}
	r = need_cpl0(c);
	if (!r)
		r = read_selector(c, u, &v);
	if (r)
		return r;
	if (i->op == OP_LMSW)
		r = sys_lmsw(c, (uint16_t)v);
	else
		r = i->op == OP_LLDT ? seg_load_ldtr(c, (uint16_t)v) : seg_load_tr(c, (uint16_t)v);
	return r ? r : EXEC_SYNC;
}
HANDLER(x_selector)

static void set_zf(struct vcpu *c, bool on)
{
	c->cc = on ? c->cc | CC_ZF : c->cc & ~CC_ZF;
}

/* LAR LSL VERR VERW. */
static NOINLINE int do_x_lar(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	bool two = i->op == OP_LAR || i->op == OP_LSL, ok = false;
	uint32_t out = 0;
	uint64_t sel;
	int r = need_protected(c);

	if (!r)
		r = opd_read(c, u, two, &sel);
	if (r)
		return r;
	switch (i->op) {
	case OP_LAR: r = seg_lar(c, (uint16_t)sel, &out, &ok); break;
	case OP_LSL: r = seg_lsl(c, (uint16_t)sel, &out, &ok); break;
	default: r = seg_verify(c, (uint16_t)sel, i->op == OP_VERW, &ok);
	}
	if (r)
		return r;
	if (two && ok)
		opd_write(c, u, 0, out);
	set_zf(c, ok);
	return 0;
}
HANDLER(x_lar)

/* It writes only what it changes, and does not ask for more. */
static int arpl_operand(struct vcpu *c, const struct uop *u, uint64_t *v, bool write)
{
	gva_t gva;
	int r;

	if (u->insn->opd[0].kind != OPD_MEM)
		return write ? opd_write(c, u, 0, *v) : opd_read(c, u, 0, v);
	r = insn_linear(c, u, 0, 2, write, &gva);
	if (r)
		return r;
	return write ? mem_store(c, gva, 2, *v) : mem_load(c, gva, 2, v);
}

static NOINLINE int do_x_arpl(struct vcpu *c, const struct uop *u)
{
	uint64_t dst, src;
	bool adjust;
	int r = need_protected(c);

	if (!r)
		r = arpl_operand(c, u, &dst, false);
	if (r)
		return r;
	opd_read(c, u, 1, &src);
	adjust = (dst & 3) < (src & 3);
	dst = (dst & ~3ull) | (src & 3);
	if (adjust)
		r = arpl_operand(c, u, &dst, true);
	if (!r)
		set_zf(c, adjust);
	return r;
}
HANDLER(x_arpl)

/* INVD WBINVD CLTS SWAPGS and what else only privilege decides. */
static NOINLINE int do_x_cache(struct vcpu *c, const struct uop *u)
{
	int r = need_cpl0(c);

	/* Outside of SMM, at any privilege. */
	if (u->insn->op == OP_RSM)
		return raise_ud(c);
	if (r)
		return r;
	switch (u->insn->op) {
	case OP_CLTS: r = sys_clts(c); break;
	case OP_SWAPGS: return sys_swapgs(c);
	case OP_MONITOR:
	case OP_MWAIT: return raise_ud(c);
	default: return 0;
	}
	return r ? r : EXEC_SYNC;
}
HANDLER(x_cache)

static NOINLINE int do_x_invlpg(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	uint64_t type, off = insn_offset(c, u, i);
	uint8_t desc[16];
	gva_t gva;
	int r;

	if (i->op == OP_INVLPG) {
		r = need_cpl0(c);
		/* No limit is checked, and a non-canonical address does nothing. */
		gva = c->seg[i->seg].base + off;
		if (c->code64)
			gva = off + (i->seg >= SEG_FS ? c->seg[i->seg].base : 0);
		if (!r)
			r = sys_invlpg(c, gva);
		return r ? r : EXEC_SYNC;
	}
	r = need_cpl0(c);
	opd_read(c, u, 0, &type);
	if (!r)
		r = insn_linear(c, u, 0, sizeof(desc), false, &gva);
	if (!r)
		r = vmem_read(c, gva, desc, sizeof(desc), AS_CPL);
	if (!r)
		r = sys_invpcid(c, type, load64(desc), load64(desc + 8));
	return r ? r : EXEC_SYNC;
}
HANDLER(x_invlpg)

static NOINLINE int do_x_fsgs(struct vcpu *c, const struct uop *u)
{
	const struct insn *i = u->insn;
	unsigned seg = i->op == OP_RDFSBASE || i->op == OP_WRFSBASE ? SEG_FS : SEG_GS;
	uint64_t v;

	if (!(c->cr4 & CR4_FSGSBASE))
		return raise_ud(c);
	if (i->op == OP_RDFSBASE || i->op == OP_RDGSBASE)
		return opd_write(c, u, 0, c->seg[seg].base);
	opd_read(c, u, 0, &v);
	if (!is_canonical(v))
		return raise_gp(c);
	c->seg[seg].base = v;
	return 0;
}
HANDLER(x_fsgs)

static NOINLINE int do_x_rdpid(struct vcpu *c, const struct uop *u)
{
	return opd_write(c, u, 0, c->msr.tsc_aux);
}
HANDLER(x_rdpid)

/* A number that depends on the count of instructions only. SplitMix64. */
static uint64_t random_by_count(const struct vcpu *c)
{
	uint64_t z = (c->stats.insns + 1) * 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* RDRAND, RDSEED: the host's, tried as the guest would. */
static NOINLINE int do_x_rdrand(struct vcpu *c, const struct uop *u)
{
	bool seed = u->insn->op == OP_RDSEED;
	uint64_t v = 0;
	uint8_t ok = 1;

	if (unlikely(c->no_devices))
		return EXC_ALONE;
	if (c->tsc_clock)
		v = random_by_count(c);
	else if (seed)
		__asm__ volatile("rdseed %0\n\tsetc %1" : "=r"(v), "=qm"(ok) : : "cc");
	else
		__asm__ volatile("rdrand %0\n\tsetc %1" : "=r"(v), "=qm"(ok) : : "cc");
	c->cc = ok ? CC_CF : 0;
	return opd_write(c, u, 0, ok ? v : 0);
}
HANDLER(x_rdrand)

static NOINLINE int do_x_fence(struct vcpu *c, const struct uop *u)
{
	switch (u->insn->op) {
	case OP_CLFLUSH: {
		uint64_t v;

		/* Faults like a load of one byte. */
		return mem_load(c, uop_ea(c, u), 1, &v);
	}
	case OP_SERIALIZE: return EXEC_SYNC;
	case OP_PAUSE: __builtin_ia32_pause(); return 0;
	default:
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		/* RDTSC may follow. */
		__builtin_ia32_lfence();
		return 0;
	}
}
HANDLER(x_fence)

/* No transactional memory. */
static NOINLINE int do_x_tsx(struct vcpu *c, const struct uop *u)
{
	return raise_ud(c);
}
HANDLER(x_tsx)

/* VMCALL and VMMCALL, where the machine has hypercalls. */
static NOINLINE int do_x_vmcall(struct vcpu *c, const struct uop *u)
{
	uint64_t mask = c->code64 ? ~0ull : 0xffffffff;
	const uint64_t arg[4] = { c->gpr[REG_RBX] & mask, c->gpr[REG_RCX] & mask,
				  c->gpr[REG_RDX] & mask, c->gpr[REG_RSI] & mask };
	uint64_t nr = c->gpr[REG_RAX] & mask;

	if (!c->pv_ops)
		return raise_ud(c);
	if (unlikely(c->no_devices))
		return EXC_ALONE;
	c->gpr[REG_RAX] =
		(c->cpl ? -(uint64_t)KVM_EPERM : c->pv_ops->hypercall(c->pv_arg, nr, arg)) & mask;
	return EXEC_SYNC;
}
HANDLER(x_vmcall)

static NOINLINE int do_x_syscall(struct vcpu *c, const struct uop *u)
{
	uint64_t next = uop_next_rip(c, u);
	unsigned opsize = u->insn->opsize;
	int r;

	c->rip = uop_rip(c, u);
	switch (u->insn->op) {
	case OP_SYSCALL: r = sys_syscall(c, next); break;
	case OP_SYSRET: r = sys_sysret(c, opsize); break;
	case OP_SYSENTER: r = sys_sysenter(c); break;
	default: r = sys_sysexit(c, opsize);
	}
	return r ? r : EXEC_END;
}
HANDLER(x_syscall)
