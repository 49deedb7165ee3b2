/* A vCPU with 8 MiB of RAM and no engine, for tests of the system level: it is put into a mode by
 * writing registers and tables, and the function under test is called as an engine would.
 *
 * Memory map: GDT 0x1000, IDT 0x2000, page tables 0x3000-0x4fff, TSSs from 0x6000, stacks end at
 * 0x20000 (ring 0), 0x30000 (ring 3), 0x40000 (IST).
 */
#ifndef TESTS_UNIT_CPU_X86_RIG_H
#define TESTS_UNIT_CPU_X86_RIG_H

#include "base/bits.h"
#include "check.h"
#include "cpu/vcpu.h"
#include "cpu/x86/features.h"
#include "cpu/x86/vmem.h"
#include "mem/physmap.h"

#include <stdlib.h>

enum {
	GDT = 0x1000,
	IDT = 0x2000,
	PML4 = 0x3000,
	PDPT = 0x4000,
	TSS = 0x6000,
	TSS_B = 0x7000,
	STACK0 = 0x20000,
	STACK3 = 0x30000,
	STACK_IST = 0x40000,
};

/* Selectors of the GDT that rig_protected() fills. */
enum {
	CODE32 = 0x08,
	DATA32 = 0x10,
	CODE32_3 = 0x18 | 3,
	DATA32_3 = 0x20 | 3,
	CODE64 = 0x28,
	CODE64_3 = 0x30 | 3,
	CODE16 = 0x38,
	DATA16 = 0x40,
	SEL_TSS = 0x48, /* two entries in long mode */
	SEL_TSS_B = 0x58,
	SEL_LDT = 0x68,
	SEL_FREE = 0x78, /* and up: the test's own */
};

/* Descriptor attributes: struct seg's attr. */
enum {
	A_CODE32 = 0xc09b,
	A_CODE32_3 = 0xc0fb,
	A_DATA32 = 0xc093,
	A_DATA32_3 = 0xc0f3,
	A_CODE64 = 0xa09b,
	A_CODE64_3 = 0xa0fb,
	A_TSS32 = 0x89,
	A_TSS32_BUSY = 0x8b,
	A_TSS16 = 0x81,
	A_LDT = 0x82,
};

struct rig {
	struct vcpu c;
	struct physmap pm;
	struct cpu_model m;
};

static inline uint8_t *at(struct rig *r, uint64_t addr)
{
	return r->pm.ram + addr;
}

/* A vCPU just reset, in real mode. */
static inline struct rig *rig_new(const char *model)
{
	struct rig *r = aligned_alloc(64, ALIGN_UP(sizeof(*r), 64));
	struct err *err = NULL;

	CHECK(r != NULL);
	memset(r, 0, sizeof(*r));
	CHECK_EQ(cpu_model_parse(&r->m, model, 4, 2300000, err), 0);
	CHECK_EQ(physmap_init(&r->pm, 8 * MiB, 8 * MiB, err), 0);
	r->c.model = &r->m;
	r->c.pm = &r->pm;
	CHECK_EQ(vcpu_init(&r->c, 0, err), 0);
	vcpu_reset(&r->c);
	return r;
}

static inline void rig_free(struct rig *r)
{
	vcpu_fini(&r->c);
	physmap_fini(&r->pm);
	free(r);
}

/* Real mode at 0:0x7c00 with a stack that ends at 0x7000. */
static inline struct rig *rig_real(void)
{
	struct rig *r = rig_new("x86-64-v1");

	r->c.seg[SEG_CS].sel = 0;
	r->c.seg[SEG_CS].base = 0;
	r->c.rip = 0x7c00;
	r->c.gpr[REG_RSP] = 0x7000;
	vcpu_update_mode(&r->c);
	return r;
}

/* Write a descriptor whose limit is limit_raw (G not applied). */
static inline void gdt_set(struct rig *r, unsigned sel, uint64_t base, uint32_t limit_raw,
			   unsigned attr)
{
	uint64_t d = (limit_raw & 0xffff) | (uint64_t)(limit_raw >> 16 & 0xf) << 48 |
		     (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56 | (uint64_t)attr << 40;

	store64(at(r, GDT + (sel & ~7u)), d);
}

static inline uint64_t gdt_get(struct rig *r, unsigned sel)
{
	return load64(at(r, GDT + (sel & ~7u)));
}

/* A call gate in the GDT or (through at) an IDT entry; type_attr: type, DPL, P. */
static inline uint64_t gate_bits(unsigned sel, uint64_t off, unsigned type_attr, unsigned low)
{
	return (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)low << 32 |
	       (uint64_t)type_attr << 40 | (off >> 16 & 0xffff) << 48;
}

static inline void idt_set(struct rig *r, unsigned vector, unsigned sel, uint32_t off,
			   unsigned type_attr)
{
	store64(at(r, IDT + 8 * vector), gate_bits(sel, off, type_attr, 0));
}

static inline void idt64_set(struct rig *r, unsigned vector, unsigned sel, uint64_t off,
			     unsigned type_attr, unsigned ist)
{
	store64(at(r, IDT + 16 * vector), gate_bits(sel, off, type_attr, ist));
	store64(at(r, IDT + 16 * vector + 8), off >> 32);
}

static inline void seg_force(struct vcpu *c, unsigned seg, unsigned sel, unsigned attr)
{
	c->seg[seg] =
		(struct seg){ .limit = 0xffffffff, .sel = (uint16_t)sel, .attr = (uint16_t)attr };
}

/* Ring 3 or ring 0 of the present mode, flat. */
static inline void rig_ring(struct rig *r, unsigned cpl)
{
	struct vcpu *c = &r->c;
	bool lm = c->long_mode;
	unsigned code = lm ? (cpl ? CODE64_3 : CODE64) : (cpl ? CODE32_3 : CODE32);
	unsigned attr = lm ? (cpl ? A_CODE64_3 : A_CODE64) : (cpl ? A_CODE32_3 : A_CODE32);

	seg_force(c, SEG_CS, code, attr);
	for (unsigned s = SEG_SS; s <= SEG_GS; s++)
		seg_force(c, s, cpl ? DATA32_3 : DATA32, cpl ? A_DATA32_3 : A_DATA32);
	seg_force(c, SEG_ES, cpl ? DATA32_3 : DATA32, cpl ? A_DATA32_3 : A_DATA32);
	c->gpr[REG_RSP] = cpl ? STACK3 : STACK0;
	c->rip = 0x10000;
	vcpu_update_mode(c);
}

/* 32-bit protected mode, ring 0, no paging, flat, with a GDT, an IDT of handlers at 0x50000 +
 * vector, and a TSS whose ring 0 stack ends at STACK0 - 0x1000. */
static inline struct rig *rig_protected(void)
{
	struct rig *r = rig_new("x86-64-v1");
	struct vcpu *c = &r->c;

	c->gdtr = (struct dtable){ GDT, 0xff };
	c->idtr = (struct dtable){ IDT, 256 * 8 - 1 };
	gdt_set(r, CODE32, 0, 0xfffff, A_CODE32);
	gdt_set(r, DATA32, 0, 0xfffff, A_DATA32);
	gdt_set(r, CODE32_3, 0, 0xfffff, A_CODE32_3);
	gdt_set(r, DATA32_3, 0, 0xfffff, A_DATA32_3);
	gdt_set(r, CODE64, 0, 0xfffff, A_CODE64);
	gdt_set(r, CODE64_3, 0, 0xfffff, A_CODE64_3);
	gdt_set(r, CODE16, 0, 0xffff, 0x9b);
	gdt_set(r, DATA16, 0, 0xffff, 0x93);
	gdt_set(r, SEL_TSS, TSS, 0x67, A_TSS32_BUSY);
	gdt_set(r, SEL_TSS_B, TSS_B, 0x67, A_TSS32);
	for (unsigned v = 0; v < 256; v++)
		idt_set(r, v, CODE32, 0x50000 + v, 0x8e);
	store32(at(r, TSS + 4), STACK0 - 0x1000);
	store16(at(r, TSS + 8), DATA32);
	c->seg[SEG_TR] = (struct seg){ TSS, 0x67, SEL_TSS, A_TSS32_BUSY };
	c->cr0 = CR0_PE | CR0_ET | CR0_NE;
	vcpu_update_mode(c);
	rig_ring(r, 0);
	return r;
}

/* 64-bit mode, ring 0, the first GiB mapped one to one for everybody, an IDT and a 64-bit TSS. */
static inline struct rig *rig_long(void)
{
	struct rig *r = rig_protected();
	struct vcpu *c = &r->c;

	store64(at(r, PML4), PDPT | 7);
	store64(at(r, PDPT), 0x87);
	c->cr3 = PML4;
	c->cr4 = CR4_PAE;
	c->msr.efer = EFER_LME | EFER_LMA | EFER_SCE;
	c->cr0 |= CR0_PG | CR0_WP;
	c->idtr.limit = 256 * 16 - 1;
	for (unsigned v = 0; v < 256; v++)
		idt64_set(r, v, CODE64, 0x50000 + v, 0x8e, 0);
	memset(at(r, TSS), 0, 0x68);
	store64(at(r, TSS + 4), STACK0 - 0x1000);
	store64(at(r, TSS + 36), STACK_IST);
	vcpu_update_mode(c);
	vmem_flush(c, true);
	rig_ring(r, 0);
	return r;
}

#endif
