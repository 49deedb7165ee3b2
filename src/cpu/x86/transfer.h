/* Control transfers that change more than RIP: far jumps, gates, interrupts, fast system calls,
 * task switches.
 *
 * On entry c->rip is the instruction's own address and next_rip the one behind it (cut to the
 * code's width). On success c->rip is the target and all mode fields are up to date; on an
 * exception nothing architectural has changed, as the SDM's pseudo-code of each instruction has
 * it, but for what a task switch has already committed. opsize: 2, 4, 8.
 */
#ifndef CPU_X86_TRANSFER_H
#define CPU_X86_TRANSFER_H

#include "cpu/vcpu.h"

enum x86_exc far_jmp(struct vcpu *c, uint16_t sel, uint64_t off, unsigned opsize, gva_t next_rip);
enum x86_exc far_call(struct vcpu *c, uint16_t sel, uint64_t off, unsigned opsize, gva_t next_rip);
enum x86_exc far_ret(struct vcpu *c, unsigned opsize, unsigned pop_bytes);
enum x86_exc iret(struct vcpu *c, unsigned opsize, gva_t next_rip);

enum x86_exc sys_syscall(struct vcpu *c, gva_t next_rip);
enum x86_exc sys_sysret(struct vcpu *c, unsigned opsize);
enum x86_exc sys_sysenter(struct vcpu *c);
enum x86_exc sys_sysexit(struct vcpu *c, unsigned opsize);

/* INT n, INT3, INTO, INT1 (soft): deliver vector with the return address next_rip. Virtual-8086
 * mode's IOPL and VME rules included. Returns the exception that delivery itself raised. */
enum soft_int { SOFT_INT_N, SOFT_INT3, SOFT_INTO, SOFT_INT1 };
enum x86_exc soft_int(struct vcpu *c, uint8_t vector, enum soft_int kind, gva_t next_rip);

/* Deliver the exception exc (with c->exc_error, c->exc_cr2 where it has them) that the instruction
 * at c->rip raised (traps: RIP has already moved on). Sorts out double faults; DR6 is updated for
 * EXC_DB from c->pending_db. False on triple fault. Afterwards c->rip is the handler's.
 */
bool exc_deliver(struct vcpu *c, enum x86_exc exc);

/* Deliver an external interrupt or an NMI between two instructions. False on triple fault. */
bool irq_deliver(struct vcpu *c, uint8_t vector);
bool nmi_deliver(struct vcpu *c);

#endif
