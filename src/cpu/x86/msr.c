/* Model-specific registers. SDM 4 "Model-Specific Registers", chapter 2.
 *
 * One table says which there are, which feature each needs, and who reads and writes it. What is
 * not in it is #GP, as is a register whose feature the model lacks.
 */
#include "cpu/x86/fault.h"
#include "cpu/x86/features.h"
#include "cpu/x86/kvm_para.h"
#include "cpu/x86/system.h"
#include "cpu/x86/vmem.h"

/* False means #GP. */
typedef bool msr_read_fn(struct vcpu *c, uint32_t msr, uint64_t *val);
typedef bool msr_write_fn(struct vcpu *c, uint32_t msr, uint64_t val);

struct msr_row {
	uint32_t first, last;
	enum cpu_feature need;
	msr_read_fn *read;   /* NULL: cannot be read */
	msr_write_fn *write; /* NULL: cannot be written */
};

/* -- Plain registers: a field of struct vcpu and what may be written to it --------------------- */

struct msr_field {
	uint32_t msr;
	uint16_t offset;
	bool canonical;
	uint64_t writable; /* a 1 elsewhere is #GP */
};

#define FIELD(msr, field, canonical, writable)                                                     \
	{                                                                                          \
		msr, offsetof(struct vcpu, field), canonical, writable                             \
	}

static const struct msr_field fields[] = {
	FIELD(0x174, msr.sysenter_cs, false, ~0ull),
	FIELD(0x175, msr.sysenter_esp, true, ~0ull),
	FIELD(0x176, msr.sysenter_eip, true, ~0ull),
	FIELD(0x17a, msr.mcg_status, false, 7),
	FIELD(0x17b, msr.mcg_ctl, false, ~0ull),
	FIELD(0x1d9, msr.debugctl, false, 3),
	FIELD(0xda0, fpu.xss, false, 0),
	FIELD(0xc0000081, msr.star, false, ~0ull),
	FIELD(0xc0000082, msr.lstar, true, ~0ull),
	FIELD(0xc0000083, msr.cstar, true, ~0ull),
	FIELD(0xc0000084, msr.sfmask, false, 0xffffffff),
	FIELD(0xc0000100, seg[SEG_FS].base, true, ~0ull),
	FIELD(0xc0000101, seg[SEG_GS].base, true, ~0ull),
	FIELD(0xc0000102, msr.kernel_gs_base, true, ~0ull),
	FIELD(0xc0000103, msr.tsc_aux, false, 0xffffffff),
};

static const struct msr_field *field_of(uint32_t msr)
{
	for (unsigned i = 0; i < ARRAY_SIZE(fields); i++)
		if (fields[i].msr == msr)
			return &fields[i];
	return NULL;
}

static bool read_field(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = load64((char *)c + field_of(msr)->offset);
	return true;
}

static bool write_field(struct vcpu *c, uint32_t msr, uint64_t val)
{
	const struct msr_field *f = field_of(msr);

	if (val & ~f->writable || (f->canonical && !is_canonical(val)))
		return false;
	store64((char *)c + f->offset, val);
	return true;
}

static bool read_zero(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = 0;
	return true;
}

static bool ignore_write(struct vcpu *c, uint32_t msr, uint64_t val)
{
	return true;
}

/* Only 0 may be written: registers that report what never happens here. */
static bool write_zero(struct vcpu *c, uint32_t msr, uint64_t val)
{
	return val == 0;
}

/* -- EFER ----------------------------------------------------------------------------------- */

static bool read_efer(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = c->msr.efer;
	return true;
}

static bool write_efer(struct vcpu *c, uint32_t msr, uint64_t val)
{
	uint64_t known = 0, changed;

	if (cpu_has(c->model, FEAT_SYSCALL))
		known |= EFER_SCE;
	if (cpu_has(c->model, FEAT_LM))
		known |= EFER_LME | EFER_LMA;
	if (cpu_has(c->model, FEAT_NX))
		known |= EFER_NXE;
	if (val & ~known)
		return false;
	/* LMA follows CR0.PG and LME; what is written to it does not matter. */
	val = (val & ~(uint64_t)EFER_LMA) | (c->msr.efer & EFER_LMA);
	changed = val ^ c->msr.efer;
	if (changed & EFER_LME && c->cr0 & CR0_PG)
		return false;
	c->msr.efer = val;
	if (changed & EFER_NXE)
		vmem_flush(c, true);
	return true;
}

/* -- Time stamp counter ----------------------------------------------------------------------- */

static void tsc_move(struct vcpu *c, uint64_t delta)
{
	c->tsc_offset += (int64_t)delta;
	c->msr.tsc_adjust += delta;
	if (c->apic_ops && c->apic_ops->tsc_moved)
		c->apic_ops->tsc_moved(c->apic);
	if (c->pv_ops)
		c->pv_ops->tsc_moved(c->pv_arg);
}

static bool read_tsc(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = vcpu_tsc(c);
	return true;
}

/* SDM 3B 17.17.3: a write to the TSC moves TSC_ADJUST by as much, and the other way round. */
static bool write_tsc(struct vcpu *c, uint32_t msr, uint64_t val)
{
	tsc_move(c, val - vcpu_tsc(c));
	return true;
}

static bool read_tsc_adjust(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = c->msr.tsc_adjust;
	return true;
}

static bool write_tsc_adjust(struct vcpu *c, uint32_t msr, uint64_t val)
{
	tsc_move(c, val - c->msr.tsc_adjust);
	return true;
}

/* -- The interrupt controller's --------------------------------------------------------------- */

static bool read_apic(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	return c->apic_ops && c->apic_ops->read_msr(c->apic, msr, val);
}

static bool write_apic(struct vcpu *c, uint32_t msr, uint64_t val)
{
	return c->apic_ops && c->apic_ops->write_msr(c->apic, msr, val);
}

/* -- Memory types: they are kept but mean nothing, since guest RAM is cached as the host likes --
 */

#define MTRR_VARIABLE 8
#define MTRR_CAP      (MTRR_VARIABLE | 1u << 8 /* fixed */ | 1u << 10 /* write-combining */)
#define MTRR_E_FE     0xc00ull

static bool is_mtrr_type(uint64_t type)
{
	return type < 8 && 0x73 >> type & 1; /* UC WC WT WP WB */
}

static bool are_mtrr_types(uint64_t types)
{
	for (; types; types >>= 8)
		if (!is_mtrr_type(types & 0xff))
			return false;
	return true;
}

static bool read_mtrr_cap(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = MTRR_CAP;
	return true;
}

static uint64_t *mtrr_variable(struct vcpu *c, uint32_t msr)
{
	unsigned n = (msr - 0x200) / 2;

	return msr & 1 ? &c->msr.mtrr_mask[n] : &c->msr.mtrr_base[n];
}

static bool read_mtrr(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = *mtrr_variable(c, msr);
	return true;
}

static bool write_mtrr(struct vcpu *c, uint32_t msr, uint64_t val)
{
	uint64_t low = msr & 1 ? 0x7ff : 0xf00;

	if (val >> c->model->phys_bits || val & low || (!(msr & 1) && !is_mtrr_type(val & 0xff)))
		return false;
	*mtrr_variable(c, msr) = val;
	return true;
}

static uint64_t *mtrr_fixed(struct vcpu *c, uint32_t msr)
{
	if (msr == 0x250)
		return &c->msr.mtrr_fixed[0];
	if (msr <= 0x259)
		return &c->msr.mtrr_fixed[1 + msr - 0x258];
	return &c->msr.mtrr_fixed[3 + msr - 0x268];
}

static bool read_mtrr_fixed(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = *mtrr_fixed(c, msr);
	return true;
}

static bool write_mtrr_fixed(struct vcpu *c, uint32_t msr, uint64_t val)
{
	if (!are_mtrr_types(val))
		return false;
	*mtrr_fixed(c, msr) = val;
	return true;
}

static bool read_mtrr_def(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = c->msr.mtrr_def_type;
	return true;
}

static bool write_mtrr_def(struct vcpu *c, uint32_t msr, uint64_t val)
{
	if (val & ~(MTRR_E_FE | 0xff) || !is_mtrr_type(val & 0xff))
		return false;
	c->msr.mtrr_def_type = val;
	return true;
}

static bool read_pat(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = c->msr.pat;
	return true;
}

static bool write_pat(struct vcpu *c, uint32_t msr, uint64_t val)
{
	for (unsigned i = 0; i < 8; i++) {
		uint64_t type = val >> 8 * i & 0xff;

		if (type > 7 || !(0xf3 >> type & 1)) /* those of MTRRs and UC- */
			return false;
	}
	c->msr.pat = val;
	return true;
}

/* -- What the processor is and can do ---------------------------------------------------------- */

#define MISC_ENABLE_FAST_STRINGS 1ull

static bool read_misc_enable(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = c->msr.misc_enable;
	return true;
}

/* Bits for what the model has not (MONITOR, SpeedStep, XD disable ...) stay as they are. */
static bool write_misc_enable(struct vcpu *c, uint32_t msr, uint64_t val)
{
	c->msr.misc_enable =
		(c->msr.misc_enable & ~MISC_ENABLE_FAST_STRINGS) | (val & MISC_ENABLE_FAST_STRINGS);
	return true;
}

static bool read_feature_control(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = c->msr.feature_control; /* locked: there is no write */
	return true;
}

static bool read_ucode_rev(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = 1ull << 32;
	return true;
}

static bool read_platform_info(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = (c->model->tsc_khz / 100000 & 0xff) << 8; /* base ratio to 100 MHz */
	return true;
}

static bool read_arch_caps(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = c->model->arch_caps;
	return true;
}

static bool read_spec_ctrl(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = c->msr.spec_ctrl;
	return true;
}

static bool write_spec_ctrl(struct vcpu *c, uint32_t msr, uint64_t val)
{
	uint64_t known = 3; /* IBRS, STIBP */

	if (cpu_has(c->model, FEAT_SSBD))
		known |= 4;
	if (cpu_has(c->model, FEAT_BHI_CTRL))
		known |= 1 << 10; /* BHI_DIS_S */
	if (val & ~known)
		return false;
	c->msr.spec_ctrl = val;
	return true;
}

static bool write_pred_cmd(struct vcpu *c, uint32_t msr, uint64_t val)
{
	return val <= 1;
}

/* -- Machine check ---------------------------------------------------------------------------- */

static bool read_mcg_cap(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = N_MC_BANKS | 1u << 8 /* MCG_CTL */ | 1u << 24 /* SER */;
	return true;
}

/* Four registers a bank: CTL, STATUS, ADDR, MISC. */
static bool read_mc(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	*val = msr & 3 ? 0 : c->msr.mc_ctl[(msr - 0x400) / 4];
	return true;
}

static bool write_mc(struct vcpu *c, uint32_t msr, uint64_t val)
{
	if (msr & 3)
		return val == 0;
	c->msr.mc_ctl[(msr - 0x400) / 4] = val;
	return true;
}

/* -- What guests ask of AMD's processors --------------------------------------------------------
 */

#define AMD_HWCR_TSC_FREQ_SEL (1ull << 24)
#define AMD_DE_CFG_LFENCE     (1ull << 1)

static bool read_amd(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	switch (msr) {
	case 0xc0010015: *val = AMD_HWCR_TSC_FREQ_SEL; break;
	case 0xc0011029: *val = AMD_DE_CFG_LFENCE; break;
	default: *val = 0;
	}
	return true;
}

/* -- The paravirtual interface ---------------------------------------------------------------- */

static bool read_pv(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	return c->pv_ops && c->pv_ops->read_msr(c->pv_arg, msr, val);
}

static bool write_pv(struct vcpu *c, uint32_t msr, uint64_t val)
{
	return c->pv_ops && c->pv_ops->write_msr(c->pv_arg, msr, val);
}

/* -- The table -------------------------------------------------------------------------------- */

/* By first, not overlapping. */
static const struct msr_row rows[] = {
	{ 0x000, 0x001, FEAT_MCE, read_zero, write_zero },
	{ 0x010, 0x010, FEAT_TSC, read_tsc, write_tsc },
	{ MSR_KVM_WALL_CLOCK_OLD, MSR_KVM_SYSTEM_TIME_OLD, FEAT_NONE, read_pv, write_pv },
	{ 0x017, 0x017, FEAT_NONE, read_zero, NULL },
	{ 0x01b, 0x01b, FEAT_APIC, read_apic, write_apic },
	{ 0x03a, 0x03a, FEAT_NONE, read_feature_control, NULL },
	{ 0x03b, 0x03b, FEAT_TSC_ADJUST, read_tsc_adjust, write_tsc_adjust },
	{ 0x048, 0x048, FEAT_SPEC_CTRL, read_spec_ctrl, write_spec_ctrl },
	{ 0x049, 0x049, FEAT_SPEC_CTRL, NULL, write_pred_cmd },
	{ 0x079, 0x079, FEAT_NONE, NULL, ignore_write },
	{ 0x08b, 0x08b, FEAT_NONE, read_ucode_rev, ignore_write },
	{ 0x0ce, 0x0ce, FEAT_NONE, read_platform_info, NULL },
	{ 0x0fe, 0x0fe, FEAT_MTRR, read_mtrr_cap, NULL },
	{ 0x10a, 0x10a, FEAT_ARCH_CAPS, read_arch_caps, NULL },
	{ 0x174, 0x176, FEAT_SEP, read_field, write_field },
	{ 0x179, 0x179, FEAT_MCA, read_mcg_cap, NULL },
	{ 0x17a, 0x17b, FEAT_MCA, read_field, write_field },
	{ 0x1a0, 0x1a0, FEAT_NONE, read_misc_enable, write_misc_enable },
	{ 0x1d9, 0x1d9, FEAT_NONE, read_field, write_field },
	{ 0x200, 0x20f, FEAT_MTRR, read_mtrr, write_mtrr },
	{ 0x250, 0x250, FEAT_MTRR, read_mtrr_fixed, write_mtrr_fixed },
	{ 0x258, 0x259, FEAT_MTRR, read_mtrr_fixed, write_mtrr_fixed },
	{ 0x268, 0x26f, FEAT_MTRR, read_mtrr_fixed, write_mtrr_fixed },
	{ 0x277, 0x277, FEAT_PAT, read_pat, write_pat },
	{ 0x2ff, 0x2ff, FEAT_MTRR, read_mtrr_def, write_mtrr_def },
	{ 0x400, 0x400 + 4 * N_MC_BANKS - 1, FEAT_MCA, read_mc, write_mc },
	{ 0x6e0, 0x6e0, FEAT_TSC_DEADLINE, read_apic, write_apic },
	{ 0x800, 0x8ff, FEAT_X2APIC, read_apic, write_apic },
	{ 0xda0, 0xda0, FEAT_XSAVES, read_field, write_field },
	{ MSR_KVM_WALL_CLOCK, MSR_KVM_POLL_CONTROL, FEAT_NONE, read_pv, write_pv },
	{ 0xc0000080, 0xc0000080, FEAT_NONE, read_efer, write_efer },
	{ 0xc0000081, 0xc0000084, FEAT_LM, read_field, write_field },
	{ 0xc0000100, 0xc0000102, FEAT_LM, read_field, write_field },
	{ 0xc0000103, 0xc0000103, FEAT_RDTSCP, read_field, write_field },
	{ 0xc0010010, 0xc0010010, FEAT_NONE, read_amd, ignore_write }, /* SYSCFG */
	{ 0xc0010015, 0xc0010015, FEAT_NONE, read_amd, ignore_write }, /* HWCR */
	{ 0xc001001f, 0xc001001f, FEAT_NONE, read_amd, ignore_write }, /* NB_CFG */
	{ 0xc0011029, 0xc0011029, FEAT_NONE, read_amd, ignore_write }, /* DE_CFG */
};

static bool exists(const struct vcpu *c, const struct msr_row *row)
{
	if (row->need != FEAT_NONE && !cpu_has(c->model, row->need))
		return false;
	return row->first >> 16 != 0xc001 || !strcmp(c->model->vendor, "AuthenticAMD");
}

static const struct msr_row *find(const struct vcpu *c, uint32_t msr)
{
	unsigned lo = 0, hi = ARRAY_SIZE(rows);

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (msr > rows[mid].last)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == ARRAY_SIZE(rows) || msr < rows[lo].first || !exists(c, &rows[lo]))
		return NULL;
	return &rows[lo];
}

enum x86_exc msr_read(struct vcpu *c, uint32_t msr, uint64_t *val)
{
	const struct msr_row *row = find(c, msr);

	if (c->cpl || !row || !row->read || !row->read(c, msr, val))
		return exc_gp0(c);
	return EXC_NONE;
}

enum x86_exc msr_write(struct vcpu *c, uint32_t msr, uint64_t val)
{
	const struct msr_row *row = find(c, msr);

	if (c->cpl || !row || !row->write || !row->write(c, msr, val))
		return exc_gp0(c);
	return EXC_NONE;
}
