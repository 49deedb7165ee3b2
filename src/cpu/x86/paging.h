/* The guest's page tables. SDM 3A chapter "Paging". */
#ifndef CPU_X86_PAGING_H
#define CPU_X86_PAGING_H

#include "cpu/vcpu.h"

enum mmu_mode { MMU_OFF, MMU_32BIT, MMU_PAE, MMU_4LEVEL };

/* What an access is; bits 1, 2 and 4 are also those of the page-fault error code. */
#define PF_P	 0x01u /* error code only: protection, not absence */
#define PF_WRITE 0x02u
#define PF_USER	 0x04u /* CPL 3 and not implicit */
#define PF_RSVD	 0x08u /* error code only */
#define PF_FETCH 0x10u
#define PF_AC	 0x100u /* explicit supervisor access with EFLAGS.AC = 1: SMAP does not bite */
#define PF_PEEK	 0x200u /* look only: set no A or D bit, raise nothing (debuggers) */

/* Walk the guest's page tables for gva. access: PF_WRITE, PF_USER, PF_FETCH, PF_AC, PF_PEEK. *gpa
 * gets the whole address, *size the page size in bytes (4 KiB, 2 MiB, 4 MiB, 1 GiB), *perm what
 * else the translation allows (PERM_ bits of tlb.h). Sets A and D as hardware would. Returns 0, or
 * EXC_PF with c->exc_cr2 and c->exc_error set. gva is canonical. Any thread that holds c.
 */
enum x86_exc paging_walk(struct vcpu *c, gva_t gva, unsigned access, gpa_t *gpa, uint64_t *size,
			 unsigned *perm);

/* Load PDPTEs from CR3 for PAE paging. EXC_GP if one has a reserved bit set (nothing loaded). */
enum x86_exc paging_load_pdptes(struct vcpu *c, uint64_t cr3);

#endif
