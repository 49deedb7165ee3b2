/* Control and debug registers, MSRs, CPUID, extended state: the privileged instructions' work.
 *
 * Privilege (CPL 0 where it applies, UMIP) is checked here, with the priority that the SDM's
 * instruction pages give. All return 0 or the exception.
 */
#ifndef CPU_X86_SYSTEM_H
#define CPU_X86_SYSTEM_H

#include "cpu/vcpu.h"

/* control.c. n: 0 2 3 4 8, others are EXC_UD. */
enum x86_exc cr_read(struct vcpu *c, unsigned n, uint64_t *val);
enum x86_exc cr_write(struct vcpu *c, unsigned n, uint64_t val);
enum x86_exc sys_clts(struct vcpu *c);
enum x86_exc sys_lmsw(struct vcpu *c, uint16_t val);
enum x86_exc sys_invlpg(struct vcpu *c, gva_t gva);
enum x86_exc sys_invpcid(struct vcpu *c, uint64_t type, uint64_t pcid, uint64_t gva);
enum x86_exc sys_swapgs(struct vcpu *c);
/* SGDT, SIDT, SLDT, STR, SMSW: EXC_GP when CR4.UMIP forbids them. */
enum x86_exc sys_umip_check(struct vcpu *c);
/* flags.c. POPF and STI/CLI rules by CPL, IOPL, VM, VME, PVI. opsize 2, 4, 8. */
enum x86_exc sys_popf(struct vcpu *c, unsigned opsize, uint64_t val);
/* The image that PUSHF pushes; EXC_GP where virtual-8086 mode forbids it. */
enum x86_exc sys_pushf(struct vcpu *c, unsigned opsize, uint64_t *val);
enum x86_exc sys_cli(struct vcpu *c);
enum x86_exc sys_sti(struct vcpu *c); /* sets SHADOW_STI where IF goes from 0 to 1 */

/* debug.c. n: 0-7. */
enum x86_exc dr_read(struct vcpu *c, unsigned n, uint64_t *val);
enum x86_exc dr_write(struct vcpu *c, unsigned n, uint64_t val);
/* Is any breakpoint of the guest's or a debugger's armed; of the kind? Engines go slow only then.
 */
bool debug_is_armed(const struct vcpu *c);
bool debug_has_code_bp(const struct vcpu *c);
bool debug_has_data_bp(const struct vcpu *c);
/* DR6 bits of the instruction breakpoints at linear address gva, or 0; RF is the caller's. */
uint32_t debug_code_hit(const struct vcpu *c, gva_t gva);
/* Let run() return for a debugger, at the next instruction boundary. */
void debug_stop(struct vcpu *c, enum debug_stop why);
/* Has a debugger a breakpoint at the instruction at gva, or is the INT3 at c->rip its? Then it is
 * not to be executed: run() is about to return. */
bool debug_stops_at(struct vcpu *c, gva_t gva);
bool debug_owns_int3(struct vcpu *c);
/* Note data (or I/O, if io) breakpoints that [addr, addr+len) hits: in c->pending_db the guest's,
 * and let run() return for a debugger's. */
void debug_data_access(struct vcpu *c, uint64_t addr, unsigned len, bool write, bool io);

/* msr.c. */
enum x86_exc msr_read(struct vcpu *c, uint32_t msr, uint64_t *val);
enum x86_exc msr_write(struct vcpu *c, uint32_t msr, uint64_t val);

/* cpuid.c. Fills EAX EBX ECX EDX for the vCPU's model, with what depends on its state (APIC id,
 * OSXSAVE, XSAVE sizes). EXC_NONE always, but for CPUID faulting. */
enum x86_exc sys_cpuid(struct vcpu *c, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);

/* xstate.c. Linear addresses; modes and #NM, #UD were checked by the caller unless said. */
enum x86_exc sys_xgetbv(struct vcpu *c, uint32_t index, uint64_t *val);
enum x86_exc sys_xsetbv(struct vcpu *c, uint32_t index, uint64_t val);
enum x86_exc sys_fxsave(struct vcpu *c, gva_t gva, bool rex_w);
enum x86_exc sys_fxrstor(struct vcpu *c, gva_t gva, bool rex_w);
enum xsave_form { XSAVE_PLAIN, XSAVE_OPT, XSAVE_COMPACT, XSAVE_SUPERVISOR };
enum x86_exc sys_xsave(struct vcpu *c, gva_t gva, uint64_t rfbm, enum xsave_form form, bool rex_w);
enum x86_exc sys_xrstor(struct vcpu *c, gva_t gva, uint64_t rfbm, bool supervisor, bool rex_w);
/* Size in bytes of the standard-format XSAVE area for the components of xcr0. */
uint32_t xstate_size(uint64_t xcr0);
/* The same of the compacted form, for the components of mask. */
uint32_t xstate_compact_size(uint64_t mask);
/* Size in bytes of component i (2 and up) and its offset in the standard form; 0 if there is no
 * such component. */
uint32_t xstate_component(unsigned i, uint32_t *offset);

#endif
