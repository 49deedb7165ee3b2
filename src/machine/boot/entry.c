/* The processor's state at a kernel's entry, and the tables in memory that it rests on. */
#include "cpu/vcpu.h"
#include "machine/boot/boot_internal.h"
#include "machine/memmap.h"
#include "mem/physmap.h"

/* Selectors as Linux's boot protocols want them (__BOOT_CS, __BOOT_DS); the others take any. */
#define SEL_CODE 0x10
#define SEL_DATA 0x18

#define DESC_CODE64 0x00af9b000000ffffull
#define DESC_CODE32 0x00cf9b000000ffffull
#define DESC_DATA   0x00cf93000000ffffull

int boot_write_gdt(struct physmap *pm, struct boot_entry *entry, struct err *err)
{
	const uint64_t gdt[] = { 0, 0, entry->mode == BOOT_LONG64 ? DESC_CODE64 : DESC_CODE32,
				 DESC_DATA };

	entry->gdt = BOOT_GDT;
	entry->gdt_limit = sizeof(gdt) - 1;
	entry->cs = SEL_CODE;
	entry->ds = SEL_DATA;
	return boot_write(pm, BOOT_GDT, gdt, sizeof(gdt), "the GDT", err);
}

#define PTE_P  0x01ull
#define PTE_RW 0x02ull
#define PTE_PS 0x80ull

int boot_write_page_tables(struct physmap *pm, struct boot_entry *entry, struct err *err)
{
	uint64_t table[512] = { BOOT_PAGE_TABLES + PAGE_SIZE + PTE_P + PTE_RW };
	int ret = boot_write(pm, BOOT_PAGE_TABLES, table, PAGE_SIZE, "the page tables", err);

	for (unsigned i = 0; i < 4; i++)
		table[i] = BOOT_PAGE_TABLES + (2 + i) * PAGE_SIZE + PTE_P + PTE_RW;
	if (ret == 0)
		ret = boot_write(pm, BOOT_PAGE_TABLES + PAGE_SIZE, table, PAGE_SIZE,
				 "the page tables", err);
	for (unsigned i = 0; i < 4 && ret == 0; i++) {
		for (unsigned k = 0; k < 512; k++)
			table[k] = i * GiB + k * 2 * MiB + PTE_P + PTE_RW + PTE_PS;
		ret = boot_write(pm, BOOT_PAGE_TABLES + (2 + i) * PAGE_SIZE, table, PAGE_SIZE,
				 "the page tables", err);
	}
	entry->cr3 = BOOT_PAGE_TABLES;
	return ret;
}

static void set_segments(struct vcpu *c, const struct boot_entry *e)
{
	struct seg data = { .limit = 0xffffffff,
			    .sel = e->ds,
			    .attr = ATTR_G | ATTR_DB | ATTR_P | ATTR_S | ATTR_WRITE |
				    ATTR_ACCESSED };
	struct seg code = data;

	code.sel = e->cs;
	code.attr = (uint16_t)(ATTR_G | ATTR_P | ATTR_S | ATTR_CODE | ATTR_WRITE | ATTR_ACCESSED |
			       (e->mode == BOOT_LONG64 ? ATTR_L : ATTR_DB));
	c->seg[SEG_CS] = code;
	for (unsigned i = 0; i < 5; i++) {
		static const uint8_t segs[] = { SEG_DS, SEG_ES, SEG_SS, SEG_FS, SEG_GS };

		c->seg[segs[i]] = data;
	}
}

void boot_enter(struct vcpu *c, const struct boot_entry *e)
{
	set_segments(c, e);
	c->gdtr = (struct dtable){ .base = e->gdt, .limit = e->gdt_limit };
	c->idtr = (struct dtable){ 0 };
	c->cr0 = CR0_PE | CR0_ET;
	if (e->mode == BOOT_LONG64) {
		c->cr0 |= CR0_PG;
		c->cr4 = CR4_PAE;
		c->cr3 = e->cr3;
		c->msr.efer = EFER_LME | EFER_LMA;
	}
	c->gpr[REG_RAX] = e->rax;
	c->gpr[REG_RBX] = e->rbx;
	c->gpr[REG_RSI] = e->rsi;
	c->gpr[REG_RSP] = e->rsp;
	c->rip = e->rip;
	vcpu_set_rflags(c, 0);
	vcpu_update_mode(c);
}

/* SDM 3A "Memory Type Range Registers". */
#define MTRR_UC		  0ull
#define MTRR_WB		  6ull
#define MTRR_ENABLE	  (1ull << 11)
#define MTRR_FIXED_ENABLE (1ull << 10)
#define MTRR_VALID	  (1ull << 11)
#define FIXED_A0000	  2 /* index of the 16 KiB ranges of the frame buffer in mtrr_fixed */

void boot_set_mtrrs(struct vcpu *c, unsigned phys_bits)
{
	struct vcpu_msrs *m = &c->msr;

	memset(m->mtrr_fixed, MTRR_WB, sizeof(m->mtrr_fixed));
	m->mtrr_fixed[FIXED_A0000] = MTRR_UC;
	m->mtrr_base[0] = HOLE_BASE | MTRR_UC;
	m->mtrr_mask[0] = ((BIT(phys_bits) - 1) & ~(HOLE_END - HOLE_BASE - 1)) | MTRR_VALID;
	m->mtrr_def_type = MTRR_ENABLE | MTRR_FIXED_ENABLE | MTRR_WB;
}
