/* Control registers and the instructions around them. SDM 3A 2.5 "Control Registers", 2B MOV to
 * control registers, 4.10.4 for what is flushed.
 */
#include "cpu/x86/descriptor.h"
#include "cpu/x86/fault.h"
#include "cpu/x86/features.h"
#include "cpu/x86/paging.h"
#include "cpu/x86/system.h"
#include "cpu/x86/vmem.h"

#define CR0_KNOWN                                                                                  \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
	 CR0_PG)

static bool uses_pdptes(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return cr0 & CR0_PG && cr4 & CR4_PAE && !(efer & EFER_LME);
}

/* -- CR0 ------------------------------------------------------------------------------------ */

/* May paging be switched on with EFER.LME set? */
static bool may_enter_long_mode(const struct vcpu *c)
{
	unsigned tss = c->seg[SEG_TR].attr & ATTR_TYPE & ~SYS_BUSY;

	return c->cr4 & CR4_PAE && !(c->seg[SEG_CS].attr & ATTR_L) && tss != SYS_TSS16;
}

static bool cr0_is_allowed(const struct vcpu *c, uint64_t val)
{
	uint64_t changed = val ^ c->cr0;

	if (val >> 32 || (val & CR0_PG && !(val & CR0_PE)) || (val & CR0_NW && !(val & CR0_CD)))
		return false;
	if (changed & val & CR0_PG && c->msr.efer & EFER_LME && !may_enter_long_mode(c))
		return false;
	if (changed & CR0_PG && !(val & CR0_PG) && (c->code64 || c->cr4 & CR4_PCIDE))
		return false;
	return true;
}

static enum x86_exc cr0_set(struct vcpu *c, uint64_t val)
{
	uint64_t changed;

	if (!cr0_is_allowed(c, val))
		return exc_gp0(c);
	val = (val & CR0_KNOWN) | CR0_ET;
	changed = val ^ c->cr0;
	if (changed & (CR0_PG | CR0_CD | CR0_NW) && uses_pdptes(val, c->cr4, c->msr.efer)) {
		enum x86_exc r = paging_load_pdptes(c, c->cr3);

		if (r)
			return r;
	}
	c->cr0 = val;
	if (changed & CR0_PG) {
		c->msr.efer &= ~(uint64_t)EFER_LMA;
		if (val & CR0_PG && c->msr.efer & EFER_LME)
			c->msr.efer |= EFER_LMA;
	}
	vcpu_update_mode(c);
	if (changed & (CR0_PG | CR0_WP | CR0_PE))
		vmem_flush(c, true);
	return EXC_NONE;
}

enum x86_exc sys_clts(struct vcpu *c)
{
	if (c->cpl)
		return exc_gp0(c);
	c->cr0 &= ~(uint64_t)CR0_TS;
	return EXC_NONE;
}

enum x86_exc sys_lmsw(struct vcpu *c, uint16_t val)
{
	const uint64_t four = CR0_PE | CR0_MP | CR0_EM | CR0_TS;

	if (c->cpl)
		return exc_gp0(c);
	/* PE can be set but not cleared. */
	return cr0_set(c, (c->cr0 & ~four) | (val & four) | (c->cr0 & CR0_PE));
}

/* -- CR3 ------------------------------------------------------------------------------------ */

static enum x86_exc cr3_set_long(struct vcpu *c, uint64_t val)
{
	bool pcide = c->cr4 & CR4_PCIDE;
	bool keep = pcide && val & CR3_NOFLUSH;

	if (pcide)
		val &= ~CR3_NOFLUSH;
	if (val >> c->model->phys_bits)
		return exc_gp0(c);
	c->cr3 = val;
	vmem_switch(c, !keep);
	return EXC_NONE;
}

static enum x86_exc cr3_set(struct vcpu *c, uint64_t val)
{
	if (c->long_mode)
		return cr3_set_long(c, val);
	if (uses_pdptes(c->cr0, c->cr4, c->msr.efer)) {
		enum x86_exc r = paging_load_pdptes(c, val);

		if (r)
			return r;
	}
	c->cr3 = val & 0xffffffff;
	vmem_switch(c, true);
	return EXC_NONE;
}

/* -- CR4 ------------------------------------------------------------------------------------ */

/* Bits that the model has. */
static uint64_t cr4_known(const struct cpu_model *m)
{
	static const struct {
		uint32_t bits;
		enum cpu_feature need;
	} rows[] = {
		{ CR4_VME | CR4_PVI, FEAT_VME },
		{ CR4_TSD, FEAT_TSC },
		{ CR4_DE, FEAT_DE },
		{ CR4_PSE, FEAT_PSE },
		{ CR4_PAE, FEAT_PAE },
		{ CR4_MCE, FEAT_MCE },
		{ CR4_PGE, FEAT_PGE },
		{ CR4_OSFXSR, FEAT_FXSR },
		{ CR4_OSXMMEXCPT, FEAT_SSE },
		{ CR4_UMIP, FEAT_UMIP },
		{ CR4_FSGSBASE, FEAT_FSGSBASE },
		{ CR4_PCIDE, FEAT_PCID },
		{ CR4_OSXSAVE, FEAT_XSAVE },
		{ CR4_SMEP, FEAT_SMEP },
		{ CR4_SMAP, FEAT_SMAP },
	};
	uint64_t known = CR4_PCE;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		if (cpu_has(m, rows[i].need))
			known |= rows[i].bits;
	return known;
}

static enum x86_exc cr4_set(struct vcpu *c, uint64_t val)
{
	const uint64_t pdpte_bits = CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP;
	const uint64_t flush_bits = CR4_PAE | CR4_PGE | CR4_PSE | CR4_PCIDE | CR4_SMEP | CR4_SMAP;
	uint64_t changed = val ^ c->cr4;

	if (val & ~cr4_known(c->model) || (c->long_mode && !(val & CR4_PAE)))
		return exc_gp0(c);
	if (changed & val & CR4_PCIDE && (!c->long_mode || c->cr3 & CR3_PCID_MASK))
		return exc_gp0(c);
	if (changed & pdpte_bits && uses_pdptes(c->cr0, val, c->msr.efer)) {
		enum x86_exc r = paging_load_pdptes(c, c->cr3);

		if (r)
			return r;
	}
	c->cr4 = val;
	vcpu_update_mode(c);
	if (changed & flush_bits)
		vmem_flush(c, true);
	return EXC_NONE;
}

/* -- CR8, and the instructions --------------------------------------------------------------- */

static enum x86_exc cr8_set(struct vcpu *c, uint64_t val)
{
	if (val > 15)
		return exc_gp0(c);
	if (c->apic_ops)
		c->apic_ops->set_cr8(c->apic, val);
	return EXC_NONE;
}

enum x86_exc cr_read(struct vcpu *c, unsigned n, uint64_t *val)
{
	if (n > 8 || !(1u << n & 0x11d))
		return exc_ud(c);
	if (c->cpl)
		return exc_gp0(c);
	switch (n) {
	case 0: *val = c->cr0; break;
	case 2: *val = c->cr2; break;
	case 3: *val = c->cr3; break;
	case 4: *val = c->cr4; break;
	default: *val = c->apic_ops ? c->apic_ops->get_cr8(c->apic) : 0;
	}
	return EXC_NONE;
}

enum x86_exc cr_write(struct vcpu *c, unsigned n, uint64_t val)
{
	if (n > 8 || !(1u << n & 0x11d))
		return exc_ud(c);
	if (c->cpl)
		return exc_gp0(c);
	switch (n) {
	case 0: return cr0_set(c, val);
	case 2: c->cr2 = val; return EXC_NONE;
	case 3: return cr3_set(c, val);
	case 4: return cr4_set(c, val);
	default: return cr8_set(c, val);
	}
}

enum x86_exc sys_invlpg(struct vcpu *c, gva_t gva)
{
	if (c->cpl)
		return exc_gp0(c);
	/* For a non-canonical address it is a no-operation. */
	if (!c->long_mode || is_canonical(gva))
		vmem_invlpg(c, c->long_mode ? gva : gva & 0xffffffff);
	return EXC_NONE;
}

enum { INVPCID_ADDRESS, INVPCID_ONE, INVPCID_ALL, INVPCID_ALL_BUT_GLOBAL };

enum x86_exc sys_invpcid(struct vcpu *c, uint64_t type, uint64_t pcid, uint64_t gva)
{
	bool uses_pcid = type == INVPCID_ADDRESS || type == INVPCID_ONE;

	if (c->cpl || type > INVPCID_ALL_BUT_GLOBAL || pcid & ~CR3_PCID_MASK)
		return exc_gp0(c);
	if (uses_pcid && pcid && !(c->cr4 & CR4_PCIDE))
		return exc_gp0(c);
	if (type == INVPCID_ADDRESS && c->long_mode && !is_canonical(gva))
		return exc_gp0(c);
	switch (type) {
	case INVPCID_ADDRESS: vmem_invlpg(c, c->long_mode ? gva : gva & 0xffffffff); break;
	case INVPCID_ONE: vmem_flush_pcid(c, (uint16_t)pcid); break;
	default: vmem_flush(c, type == INVPCID_ALL);
	}
	return EXC_NONE;
}

enum x86_exc sys_swapgs(struct vcpu *c)
{
	uint64_t base = c->seg[SEG_GS].base;

	if (!c->code64)
		return exc_ud(c);
	if (c->cpl)
		return exc_gp0(c);
	c->seg[SEG_GS].base = c->msr.kernel_gs_base;
	c->msr.kernel_gs_base = base;
	return EXC_NONE;
}

enum x86_exc sys_umip_check(struct vcpu *c)
{
	return c->cr4 & CR4_UMIP && c->cpl ? exc_gp0(c) : EXC_NONE;
}
