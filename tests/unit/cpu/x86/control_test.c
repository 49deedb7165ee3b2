#include "cpu/x86/paging.h"
#include "cpu/x86/system.h"
#include "rig.h"

static enum x86_exc write_cr(struct rig *r, unsigned n, uint64_t val)
{
	return cr_write(&r->c, n, val);
}

TEST(impossible_cr0_values_are_gp)
{
	struct rig *r = rig_real();

	CHECK_EQ(write_cr(r, 0, CR0_PG), EXC_GP);
	CHECK_EQ(write_cr(r, 0, CR0_NW), EXC_GP);
	CHECK_EQ(write_cr(r, 0, CR0_PE | 1ull << 32), EXC_GP);
	CHECK_EQ(write_cr(r, 0, CR0_PE | 1u << 6), 0); /* reserved low bits read as 0 */
	CHECK_EQ(r->c.cr0, CR0_PE | CR0_ET);
	CHECK_EQ(write_cr(r, 1, 0), EXC_UD);
	CHECK_EQ(write_cr(r, 9, 0), EXC_UD);
	rig_free(r);
}

TEST(long_mode_is_entered_by_paging_and_left_outside_64_bit_code)
{
	struct rig *r = rig_protected();

	store64(at(r, PML4), PDPT | 7);
	store64(at(r, PDPT), 0x87);
	r->c.cr3 = PML4;
	CHECK_EQ(msr_write(&r->c, 0xc0000080, EFER_LME), 0);
	CHECK_EQ(write_cr(r, 0, r->c.cr0 | CR0_PG), EXC_GP); /* no PAE */
	CHECK_EQ(write_cr(r, 4, CR4_PAE), 0);
	r->c.seg[SEG_CS].attr |= ATTR_L;
	CHECK_EQ(write_cr(r, 0, r->c.cr0 | CR0_PG), EXC_GP);
	r->c.seg[SEG_CS].attr &= ~ATTR_L;
	r->c.seg[SEG_TR].attr = 0x83;
	CHECK_EQ(write_cr(r, 0, r->c.cr0 | CR0_PG), EXC_GP);
	r->c.seg[SEG_TR].attr = A_TSS32_BUSY;
	CHECK_EQ(write_cr(r, 0, r->c.cr0 | CR0_PG), 0);
	CHECK(r->c.long_mode);
	CHECK_EQ(r->c.msr.efer, EFER_LME | EFER_LMA);
	CHECK_EQ(r->c.mmu_mode, MMU_4LEVEL);
	CHECK_EQ(write_cr(r, 4, 0), EXC_GP);
	CHECK_EQ(msr_write(&r->c, 0xc0000080, 0), EXC_GP);
	CHECK_EQ(write_cr(r, 0, r->c.cr0 & ~(uint64_t)CR0_PG), 0);
	CHECK(!r->c.long_mode);
	CHECK_EQ(r->c.msr.efer, EFER_LME);
	rig_free(r);
	r = rig_long();
	CHECK_EQ(write_cr(r, 0, r->c.cr0 & ~(uint64_t)CR0_PG), EXC_GP); /* 64-bit code */
	rig_free(r);
}

TEST(pae_paging_loads_and_checks_pdptes)
{
	struct rig *r = rig_protected();

	store64(at(r, PDPT), 0x5001);
	store64(at(r, PDPT + 8), 0x5000 | 3); /* reserved bit 1 */
	r->c.cr3 = PDPT;
	CHECK_EQ(write_cr(r, 4, CR4_PAE), 0);
	CHECK_EQ(write_cr(r, 0, r->c.cr0 | CR0_PG), EXC_GP);
	CHECK(!(r->c.cr0 & CR0_PG));
	store64(at(r, PDPT + 8), 0);
	CHECK_EQ(write_cr(r, 0, r->c.cr0 | CR0_PG), 0);
	CHECK_EQ(r->c.pdpte[0], 0x5001);
	CHECK_EQ(r->c.mmu_mode, MMU_PAE);
	store64(at(r, PML4), 3);
	CHECK_EQ(write_cr(r, 3, PML4), EXC_GP);
	CHECK_EQ(r->c.cr3, PDPT);
	rig_free(r);
}

TEST(cr4_has_only_the_models_bits)
{
	struct rig *r = rig_protected();

	CHECK_EQ(write_cr(r, 4, CR4_SMEP | CR4_SMAP | CR4_UMIP), 0);
	CHECK_EQ(write_cr(r, 4, CR4_OSXSAVE), EXC_GP); /* v1 has no xsave */
	CHECK_EQ(write_cr(r, 4, 1u << 12), EXC_GP);    /* LA57 */
	CHECK_EQ(write_cr(r, 4, 1u << 13), EXC_GP);    /* VMXE */
	CHECK_EQ(write_cr(r, 4, 1ull << 40), EXC_GP);
	rig_free(r);
}

TEST(pcid_needs_long_mode_and_a_clear_cr3)
{
	struct rig *r = rig_protected();

	CHECK_EQ(write_cr(r, 4, CR4_PCIDE), EXC_GP);
	rig_free(r);
	r = rig_long();
	CHECK_EQ(write_cr(r, 3, PML4 | CR3_NOFLUSH), EXC_GP);
	r->c.cr3 |= 5;
	CHECK_EQ(write_cr(r, 4, CR4_PAE | CR4_PCIDE), EXC_GP);
	r->c.cr3 = PML4;
	CHECK_EQ(write_cr(r, 4, CR4_PAE | CR4_PCIDE), 0);
	CHECK_EQ(write_cr(r, 3, PML4 | 7 | CR3_NOFLUSH), 0);
	CHECK_EQ(r->c.cr3, PML4 | 7);
	CHECK_EQ(write_cr(r, 3, PML4 | 1ull << r->m.phys_bits), EXC_GP);
	rig_free(r);
}

TEST(a_cr3_load_forgets_translations_unless_bit_63_says_no)
{
	struct rig *r = rig_long();
	uint32_t v;

	CHECK_EQ(write_cr(r, 4, CR4_PAE | CR4_PCIDE), 0);
	CHECK_EQ(vmem_read32(&r->c, 0x1000, &v, AS_SYSTEM), 0);
	store64(at(r, PDPT), 0);
	CHECK_EQ(write_cr(r, 3, PML4 | CR3_NOFLUSH), 0);
	CHECK_EQ(vmem_read32(&r->c, 0x1000, &v, AS_SYSTEM), 0);
	CHECK_EQ(write_cr(r, 3, PML4), 0);
	CHECK_EQ(vmem_read32(&r->c, 0x1000, &v, AS_SYSTEM), EXC_PF);
	rig_free(r);
}

TEST(ring_3_touches_no_control_register)
{
	struct rig *r = rig_protected();
	uint64_t v;

	rig_ring(r, 3);
	CHECK_EQ(cr_read(&r->c, 0, &v), EXC_GP);
	CHECK_EQ(write_cr(r, 3, 0), EXC_GP);
	CHECK_EQ(sys_clts(&r->c), EXC_GP);
	CHECK_EQ(sys_lmsw(&r->c, 0), EXC_GP);
	CHECK_EQ(sys_invlpg(&r->c, 0), EXC_GP);
	CHECK_EQ(sys_umip_check(&r->c), 0);
	r->c.cr4 |= CR4_UMIP;
	CHECK_EQ(sys_umip_check(&r->c), EXC_GP);
	rig_free(r);
}

TEST(lmsw_sets_pe_but_never_clears_it)
{
	struct rig *r = rig_real();

	CHECK_EQ(sys_lmsw(&r->c, CR0_PE | CR0_TS), 0);
	CHECK(r->c.cr0 & CR0_PE);
	CHECK_EQ(sys_lmsw(&r->c, 0), 0);
	CHECK(r->c.cr0 & CR0_PE);
	CHECK(!(r->c.cr0 & CR0_TS));
	rig_free(r);
}

TEST(invpcid_checks_its_descriptor)
{
	struct rig *r = rig_long();

	CHECK_EQ(sys_invpcid(&r->c, 4, 0, 0), EXC_GP);
	CHECK_EQ(sys_invpcid(&r->c, 1, 0x1000, 0), EXC_GP);
	CHECK_EQ(sys_invpcid(&r->c, 1, 5, 0), EXC_GP); /* PCIDE is off */
	CHECK_EQ(sys_invpcid(&r->c, 0, 0, 0x800000000000), EXC_GP);
	CHECK_EQ(sys_invpcid(&r->c, 2, 0, 0), 0);
	r->c.cr4 |= CR4_PCIDE;
	CHECK_EQ(sys_invpcid(&r->c, 1, 5, 0), 0);
	rig_free(r);
}

TEST(swapgs_is_for_64_bit_kernels)
{
	struct rig *r = rig_long();

	r->c.seg[SEG_GS].base = 1;
	r->c.msr.kernel_gs_base = 2;
	CHECK_EQ(sys_swapgs(&r->c), 0);
	CHECK_EQ(r->c.seg[SEG_GS].base, 2);
	CHECK_EQ(r->c.msr.kernel_gs_base, 1);
	rig_ring(r, 3);
	CHECK_EQ(sys_swapgs(&r->c), EXC_GP);
	rig_free(r);
	r = rig_protected();
	CHECK_EQ(sys_swapgs(&r->c), EXC_UD);
	rig_free(r);
}

TEST(popf_changes_what_privilege_allows)
{
	struct rig *r = rig_protected();

	CHECK_EQ(sys_popf(&r->c, 4, 0xffffffff), 0);
	CHECK_EQ(vcpu_rflags(&r->c), 0x247fd7);
	vcpu_set_rflags(&r->c, 0);
	rig_ring(r, 3);
	CHECK_EQ(sys_popf(&r->c, 4, 0xffffffff), 0);
	CHECK_EQ(vcpu_rflags(&r->c), 0x244dd7); /* no IF, no IOPL */
	vcpu_set_rflags(&r->c, RFLAGS_IOPL);
	CHECK_EQ(sys_popf(&r->c, 2, RFLAGS_IF), 0);
	CHECK_EQ(vcpu_rflags(&r->c), RFLAGS_IOPL | RFLAGS_IF | 2);
	rig_free(r);
}

TEST(cli_and_sti_follow_iopl_and_the_virtual_if)
{
	struct rig *r = rig_protected();

	CHECK_EQ(sys_sti(&r->c), 0);
	CHECK_EQ(r->c.shadow, SHADOW_STI);
	r->c.shadow = 0;
	CHECK_EQ(sys_sti(&r->c), 0);
	CHECK_EQ(r->c.shadow, 0);
	rig_ring(r, 3);
	CHECK_EQ(sys_cli(&r->c), EXC_GP);
	r->c.cr4 |= CR4_PVI;
	CHECK_EQ(sys_sti(&r->c), 0);
	CHECK(r->c.rflags_rest & RFLAGS_VIF);
	CHECK_EQ(sys_cli(&r->c), 0);
	CHECK(!(r->c.rflags_rest & RFLAGS_VIF));
	CHECK(r->c.rflags_rest & RFLAGS_IF);
	r->c.rflags_rest |= RFLAGS_VIP;
	CHECK_EQ(sys_sti(&r->c), EXC_GP);
	rig_free(r);
}

TEST(virtual_8086_pushf_shows_the_virtual_if)
{
	struct rig *r = rig_protected();
	uint64_t v;

	vcpu_set_rflags(&r->c, RFLAGS_VM | RFLAGS_IF);
	vcpu_update_mode(&r->c);
	CHECK_EQ(sys_pushf(&r->c, 2, &v), EXC_GP);
	r->c.cr4 |= CR4_VME;
	CHECK_EQ(sys_pushf(&r->c, 2, &v), 0);
	CHECK_EQ(v & 0xffff, RFLAGS_IOPL | 2);
	CHECK_EQ(sys_pushf(&r->c, 4, &v), EXC_GP);
	CHECK_EQ(sys_popf(&r->c, 2, RFLAGS_IF), 0);
	CHECK_EQ(vcpu_rflags(&r->c), RFLAGS_VM | RFLAGS_VIF | RFLAGS_IF | 2);
	CHECK_EQ(sys_popf(&r->c, 2, RFLAGS_TF), EXC_GP);
	rig_free(r);
}

TESTS(T(impossible_cr0_values_are_gp),
      T(long_mode_is_entered_by_paging_and_left_outside_64_bit_code),
      T(pae_paging_loads_and_checks_pdptes), T(cr4_has_only_the_models_bits),
      T(pcid_needs_long_mode_and_a_clear_cr3),
      T(a_cr3_load_forgets_translations_unless_bit_63_says_no),
      T(ring_3_touches_no_control_register), T(lmsw_sets_pe_but_never_clears_it),
      T(invpcid_checks_its_descriptor), T(swapgs_is_for_64_bit_kernels),
      T(popf_changes_what_privilege_allows), T(cli_and_sti_follow_iopl_and_the_virtual_if),
      T(virtual_8086_pushf_shows_the_virtual_if))
