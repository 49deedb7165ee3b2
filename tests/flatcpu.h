/* A vCPU in flat 64-bit mode on an engine, without a machine: for tests and benchmarks of engines.
 *
 * Physical memory is FLAT_RAM bytes; page tables at 0x1000 map linear 0 up to it one to one, user
 * accessible. Code goes to FLAT_CODE; it ends by HLT.
 */
#ifndef TESTS_FLATCPU_H
#define TESTS_FLATCPU_H

#include "cpu/engine.h"
#include "cpu/kvm/kvm.h"
#include "cpu/vcpu.h"
#include "cpu/x86/features.h"
#include "cpu/x86/vmem.h"
#include "mem/iospace.h"
#include "mem/physmap.h"

#include <stdio.h>
#include <stdlib.h>

#ifndef FLAT_RAM
#define FLAT_RAM (64 * MiB)
#endif
#define FLAT_CODE 0x100000ull
#define FLAT_DATA 0x200000ull

struct flatcpu {
	struct vcpu c;
	struct physmap pm;
	struct cpu_model model;
	struct vcpu_set set;
};

#define FLAT_MUST(x)                                                                               \
	do {                                                                                       \
		if ((x) < 0) {                                                                     \
			fprintf(stderr, "%s:%d: %s failed\n", __FILE__, __LINE__, #x);             \
			exit(99);                                                                  \
		}                                                                                  \
	} while (0)

static inline void flat_seg(struct vcpu *c, unsigned seg, uint16_t sel, uint16_t attr)
{
	c->seg[seg] = (struct seg){ .limit = 0xffffffff, .sel = sel, .attr = attr };
}

/* Four levels of 2 MiB pages, one to one. */
static inline void flat_page_tables(struct flatcpu *f)
{
	uint64_t *pml4 = (uint64_t *)(f->pm.ram + 0x1000), *pdpt = pml4 + 512, *pd = pdpt + 512;

	pml4[0] = 0x2007;
	pdpt[0] = 0x3007;
	for (unsigned i = 0; i < FLAT_RAM / (2 * MiB); i++)
		pd[i] = i * 2 * MiB | 0x87;
}

/* Registers for 64-bit code at FLAT_CODE at the given CPL (0 or 3). */
static inline void flat_reset(struct flatcpu *f, unsigned cpl)
{
	struct vcpu *c = &f->c;

	vcpu_reset(c);
	c->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_MP | CR0_ET | CR0_WP;
	c->cr3 = 0x1000;
	c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	c->cr4 |= cpu_has(&f->model, FEAT_XSAVE) ? CR4_OSXSAVE : 0;
	c->cr4 |= cpu_has(&f->model, FEAT_FSGSBASE) ? CR4_FSGSBASE : 0;
	c->msr.efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	c->fpu.xcr0 = f->model.xcr0_mask | XCR0_X87;
	flat_seg(c, SEG_CS, cpl ? 0x33 : 0x10, (uint16_t)(0xa09b | cpl << 5));
	for (unsigned s = SEG_ES; s <= SEG_GS; s++)
		if (s != SEG_CS)
			flat_seg(c, s, cpl ? 0x2b : 0x18, (uint16_t)(0xc093 | cpl << 5));
	c->rip = FLAT_CODE;
	c->gpr[REG_RSP] = FLAT_DATA + MiB;
	vcpu_update_mode(c);
	vmem_flush(c, true);
}

static inline void flat_init(struct flatcpu *f, const struct engine *e, const char *model)
{
	struct err *none = NULL;
	char left_out[512];

	memset(f, 0, sizeof(*f));
	FLAT_MUST(physmap_init(&f->pm, FLAT_RAM, 3 * GiB, none));
	FLAT_MUST(cpu_model_parse(&f->model, model, 1, 2000000, none));
	if (e == &engine_kvm)
		FLAT_MUST(kvm_limit_model(&f->model, left_out, sizeof(left_out), none));
	FLAT_MUST(vcpu_init(&f->c, 0, none));
	f->set.n = 1;
	f->set.v[0] = &f->c;
	f->c.model = &f->model;
	f->c.pm = &f->pm;
	f->c.set = &f->set;
	f->c.pio = iospace_new(0x10000);
	f->c.mmio = iospace_new(BIT(52));
	flat_page_tables(f);
	flat_reset(f, 0);
	FLAT_MUST(engine_take(&f->c, e, none));
}

static inline void flat_fini(struct flatcpu *f)
{
	engine_leave(&f->c);
	iospace_free(f->c.pio);
	iospace_free(f->c.mmio);
	vcpu_fini(&f->c);
	physmap_fini(&f->pm);
}

/* Put code at FLAT_CODE and run it at CPL 0 until HLT or shutdown. */
static inline enum run_exit flat_run(struct flatcpu *f, const void *code, size_t n)
{
	physmap_write(&f->pm, FLAT_CODE, code, n);
	return f->c.engine->run(&f->c);
}

#endif
