#include "cpu/vcpu.h"

#include "base/err.h"
#include "cpu/engine.h"
#include "cpu/x86/features.h"
#include "cpu/x86/paging.h"
#include "cpu/x86/stack.h"
#include "cpu/x86/system.h"
#include "cpu/x86/tlb.h"
#include "cpu/x86/vmem.h"

#include <errno.h>

#define DATA_REAL (ATTR_P | ATTR_S | ATTR_WRITE | ATTR_ACCESSED)

#define PAT_RESET	  0x0007040600070406ull
#define MISC_ENABLE_RESET 0x1801ull /* fast strings; no BTS, no PEBS */
#define MXCSR_RESET	  0x1f80u

int vcpu_init(struct vcpu *c, unsigned index, struct err *err)
{
	int ret = tlb_new(&c->tlb);

	if (ret < 0)
		return err_set(err, -ret, "vCPU %u", index);
	c->index = index;
	return 0;
}

void vcpu_fini(struct vcpu *c)
{
	tlb_free(c->tlb);
	c->tlb = NULL;
}

/* -- Mode ----------------------------------------------------------------------------------- */

static uint8_t mmu_mode_of(const struct vcpu *c)
{
	if (!(c->cr0 & CR0_PG))
		return MMU_OFF;
	if (c->msr.efer & EFER_LMA)
		return MMU_4LEVEL;
	return c->cr4 & CR4_PAE ? MMU_PAE : MMU_32BIT;
}

static uint8_t cpl_of(const struct vcpu *c)
{
	if (!(c->cr0 & CR0_PE))
		return 0;
	return c->rflags_rest & RFLAGS_VM ? 3 : ATTR_DPL_OF(c->seg[SEG_SS].attr);
}

static bool is_flat(const struct seg *s)
{
	/* Writable data that does not grow down, or readable code. */
	bool type = s->attr & ATTR_WRITE && (s->attr & ATTR_CODE || !(s->attr & ATTR_DOWN));

	return type && !(s->attr & ATTR_UNUSABLE) && s->base == 0 && s->limit == 0xffffffff;
}

static bool has_flat_segs(const struct vcpu *c)
{
	if (!(c->cr0 & CR0_PE) || c->code64)
		return false;
	for (unsigned i = SEG_ES; i <= SEG_DS; i++) {
		const struct seg *s = &c->seg[i];

		if (!is_flat(s) || (i != SEG_CS && s->attr & ATTR_CODE))
			return false;
	}
	return true;
}

void vcpu_update_mode(struct vcpu *c)
{
	const struct seg *cs = &c->seg[SEG_CS];

	c->mmu_mode = mmu_mode_of(c);
	c->long_mode = !!(c->msr.efer & EFER_LMA);
	c->code64 = c->long_mode && cs->attr & ATTR_L;
	c->cpl = cpl_of(c);
	c->code_size = c->code64 ? 8 : cs->attr & ATTR_DB ? 4 : 2;
	c->stack_size = stack_width(c->code64, &c->seg[SEG_SS]);
	c->flat_segs = has_flat_segs(c);
	tlb_select(c);
}

/* -- Reset ---------------------------------------------------------------------------------- */

/* What RESET and INIT have in common. SDM 3A table 9-1. */
static void reset_common(struct vcpu *c)
{
	memset(c->gpr, 0, sizeof(c->gpr));
	c->gpr[REG_RDX] = c->model->signature;
	c->rip = 0xfff0;
	vcpu_set_rflags(c, RFLAGS_FIXED1);

	memset(c->seg, 0, sizeof(c->seg));
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		c->seg[i] = (struct seg){ .limit = 0xffff, .attr = DATA_REAL };
	c->seg[SEG_CS].sel = 0xf000;
	c->seg[SEG_CS].base = 0xffff0000;
	c->seg[SEG_FLAT] =
		(struct seg){ .limit = 0xffffffff, .attr = DATA_REAL | ATTR_DB | ATTR_G };
	c->seg[SEG_LDTR] = (struct seg){ .limit = 0xffff, .attr = ATTR_P | 2 };
	/* A busy 32-bit TSS, as processors have it: IA-32e mode can be entered without LTR. */
	c->seg[SEG_TR] = (struct seg){ .limit = 0xffff, .attr = ATTR_P | 11 };
	c->gdtr = (struct dtable){ .limit = 0xffff };
	c->idtr = (struct dtable){ .limit = 0xffff };

	c->cr2 = c->cr3 = c->cr4 = 0;
	memset(c->pdpte, 0, sizeof(c->pdpte));
	memset(c->dr, 0, sizeof(c->dr));
	c->dr[6] = DR6_FIXED1;
	c->dr[7] = DR7_FIXED1;
	c->msr.efer = 0;

	if (c->pv_ops)
		c->pv_ops->reset(c->pv_arg);
	c->shadow = 0;
	c->nmi_blocked = 0;
	c->nmi_pending = 0;
	c->pending_db = 0;
	c->exc_error = 0;
	c->exc_cr2 = 0;
	c->mp_state = c->index ? MP_WAIT_SIPI : MP_RUNNING;
	atomic_fetch_and(&c->kick, ~(uint32_t)(KICK_NMI | KICK_INIT | KICK_SIPI));
}

static void reset_fpu(struct vcpu_fpu *f)
{
	memset(f, 0, sizeof(*f));
	store16(f->fx, 0x40); /* FCW; all registers hold +0.0 and are tagged so */
	f->fx[4] = 0xff;
	f->mxcsr = MXCSR_RESET;
	f->xcr0 = XCR0_X87;
}

static void reset_msrs(struct vcpu_msrs *m)
{
	*m = (struct vcpu_msrs){ .pat = PAT_RESET,
				 .misc_enable = MISC_ENABLE_RESET,
				 .feature_control = 1 };
}

void vcpu_reset(struct vcpu *c)
{
	reset_msrs(&c->msr);
	reset_fpu(&c->fpu);
	c->cr0 = CR0_CD | CR0_NW | CR0_ET;
	reset_common(c);
	atomic_fetch_and(&c->kick, ~(uint32_t)KICK_IRQ);
	vcpu_update_mode(c);
	vmem_flush(c, true);
}

void vcpu_init_ipi(struct vcpu *c)
{
	/* Caches are not touched: CD and NW stay. */
	c->cr0 = (c->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
	reset_common(c);
	vcpu_update_mode(c);
	vmem_flush(c, true);
}

void vcpu_sipi(struct vcpu *c, uint8_t vector)
{
	if (c->mp_state != MP_WAIT_SIPI)
		return;
	c->seg[SEG_CS].sel = (uint16_t)(vector << 8);
	c->seg[SEG_CS].base = (uint64_t)vector << 12;
	c->rip = 0;
	c->mp_state = MP_RUNNING;
	vcpu_update_mode(c);
}

void vcpu_kick(struct vcpu *c, uint32_t bits)
{
	const struct engine *e;

	atomic_fetch_or(&c->kick, bits);
	e = c->engine;
	if (e)
		e->kick(c);
	if (c->wake)
		c->wake(c);
}
