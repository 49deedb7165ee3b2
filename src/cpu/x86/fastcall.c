/* SYSCALL, SYSRET, SYSENTER, SYSEXIT: fixed flat segments, no memory. SDM 2B, SDM 3A 5.8.7, 5.8.8.
 */
#include "cpu/x86/fault.h"
#include "cpu/x86/features.h"
#include "cpu/x86/transfer.h"
#include "cpu/x86/transfer_internal.h"
#include "cpu/x86/vmem.h"

#define FLAT_CODE64 (ATTR_G | ATTR_L | ATTR_P | ATTR_S | ATTR_CODE | ATTR_WRITE | ATTR_ACCESSED)
#define FLAT_CODE32 (ATTR_G | ATTR_DB | ATTR_P | ATTR_S | ATTR_CODE | ATTR_WRITE | ATTR_ACCESSED)
#define FLAT_DATA   (ATTR_G | ATTR_DB | ATTR_P | ATTR_S | ATTR_WRITE | ATTR_ACCESSED)

static void set_flat(struct vcpu *c, unsigned seg, unsigned sel, unsigned attr, unsigned cpl)
{
	c->seg[seg] = (struct seg){ .limit = 0xffffffff,
				    .sel = (uint16_t)((sel & ~3u) | cpl),
				    .attr = (uint16_t)(attr | cpl << 5) };
}

static bool is_amd(const struct vcpu *c)
{
	return c->model && !memcmp(c->model->vendor, "AuthenticAMD", 12);
}

/* AMD's processors have SYSCALL in legacy mode too, with EIP from STAR. APM 3 SYSCALL. */
static void syscall_legacy(struct vcpu *c, gva_t next_rip)
{
	unsigned sel = (unsigned)bits_get(c->msr.star, 32, 16);

	c->gpr[REG_RCX] = next_rip & 0xffffffff;
	c->rip = c->msr.star & 0xffffffff;
	set_flat(c, SEG_CS, sel, FLAT_CODE32, 0);
	set_flat(c, SEG_SS, (sel & ~3u) + 8, FLAT_DATA, 0);
	rflags_change(c, 0, RFLAGS_IF | RFLAGS_RF | RFLAGS_VM);
	vcpu_update_mode(c);
}

enum x86_exc sys_syscall(struct vcpu *c, gva_t next_rip)
{
	unsigned sel = (unsigned)bits_get(c->msr.star, 32, 16);

	if (!(c->msr.efer & EFER_SCE) || (!c->code64 && !is_amd(c)) || !is_protected(c))
		return exc_ud(c);
	if (!c->long_mode) {
		syscall_legacy(c, next_rip);
		return EXC_NONE;
	}
	c->gpr[REG_RCX] = next_rip;
	c->gpr[REG_R11] = vcpu_rflags(c) & ~(uint64_t)RFLAGS_RF;
	c->rip = c->code64 ? c->msr.lstar : c->msr.cstar;
	set_flat(c, SEG_CS, sel, FLAT_CODE64, 0);
	set_flat(c, SEG_SS, (sel & ~3u) + 8, FLAT_DATA, 0);
	rflags_change(c, 0, c->msr.sfmask | RFLAGS_RF);
	vcpu_update_mode(c);
	return EXC_NONE;
}

static void sysret_legacy(struct vcpu *c)
{
	unsigned sel = (unsigned)bits_get(c->msr.star, 48, 16);

	c->rip = c->gpr[REG_RCX] & 0xffffffff;
	set_flat(c, SEG_CS, sel, FLAT_CODE32, 3);
	set_flat(c, SEG_SS, (sel & ~3u) + 8, FLAT_DATA, 3);
	rflags_change(c, RFLAGS_IF, RFLAGS_IF);
	vcpu_update_mode(c);
}

enum x86_exc sys_sysret(struct vcpu *c, unsigned opsize)
{
	unsigned sel = (unsigned)bits_get(c->msr.star, 48, 16) & ~3u;

	if (!(c->msr.efer & EFER_SCE) || (!c->code64 && !is_amd(c)) || !is_protected(c))
		return exc_ud(c);
	if (c->cpl)
		return exc_gp0(c);
	if (!c->long_mode) {
		sysret_legacy(c);
		return EXC_NONE;
	}
	/* Raised in ring 0, with the user's RSP perhaps already loaded: as Intel's do. */
	if (opsize == 8 && !is_canonical(c->gpr[REG_RCX]))
		return exc_gp0(c);
	c->rip = opsize == 8 ? c->gpr[REG_RCX] : c->gpr[REG_RCX] & 0xffffffff;
	set_flat(c, SEG_CS, opsize == 8 ? sel + 16 : sel, opsize == 8 ? FLAT_CODE64 : FLAT_CODE32,
		 3);
	set_flat(c, SEG_SS, sel + 8, FLAT_DATA, 3);
	vcpu_set_rflags(c, c->gpr[REG_R11] & 0x3c7fd7);
	/* Unlike IRET's, the TF it loads traps before the first instruction there: Linux comes back
	 * from a single-stepped SYSCALL in this way. */
	if (c->rflags_rest & RFLAGS_TF)
		c->pending_db |= DR6_BS;
	vcpu_update_mode(c);
	return EXC_NONE;
}

enum x86_exc sys_sysenter(struct vcpu *c)
{
	unsigned sel = c->msr.sysenter_cs & 0xfffc;

	if (!(c->cr0 & CR0_PE) || !sel)
		return exc_gp0(c);
	rflags_change(c, 0, RFLAGS_VM | RFLAGS_IF | RFLAGS_RF);
	c->rip = c->msr.sysenter_eip & size_mask(c->long_mode ? 8 : 4);
	c->gpr[REG_RSP] = c->msr.sysenter_esp & size_mask(c->long_mode ? 8 : 4);
	set_flat(c, SEG_CS, sel, c->long_mode ? FLAT_CODE64 : FLAT_CODE32, 0);
	set_flat(c, SEG_SS, sel + 8, FLAT_DATA, 0);
	vcpu_update_mode(c);
	return EXC_NONE;
}

enum x86_exc sys_sysexit(struct vcpu *c, unsigned opsize)
{
	unsigned sel = c->msr.sysenter_cs & 0xfffc;
	uint64_t rip = c->gpr[REG_RDX], rsp = c->gpr[REG_RCX];

	if (!is_protected(c) || c->cpl || !sel)
		return exc_gp0(c);
	if (opsize == 8 && (!is_canonical(rip) || !is_canonical(rsp)))
		return exc_gp0(c);
	c->rip = opsize == 8 ? rip : rip & 0xffffffff;
	c->gpr[REG_RSP] = opsize == 8 ? rsp : rsp & 0xffffffff;
	set_flat(c, SEG_CS, sel + (opsize == 8 ? 32 : 16), opsize == 8 ? FLAT_CODE64 : FLAT_CODE32,
		 3);
	set_flat(c, SEG_SS, sel + (opsize == 8 ? 40 : 24), FLAT_DATA, 3);
	vcpu_update_mode(c);
	return EXC_NONE;
}
