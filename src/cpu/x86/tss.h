/* What the task-state segment holds besides a task: inner stacks and bitmaps. */
#ifndef CPU_X86_TSS_H
#define CPU_X86_TSS_H

#include "cpu/vcpu.h"
#include "cpu/x86/stack.h"

/* The stack for privilege level dpl (0 to 2) from a 16- or 32-bit TSS, its SS checked and marked
 * accessed. EXC_TS, EXC_SS, EXC_PF. SDM 3A 5.8.5 "Stack Switching".
 */
enum x86_exc tss_inner_stack(struct vcpu *c, unsigned dpl, struct stack *s);

/* The same from a 64-bit TSS: ist 1 to 7, or 0 for the stack of level dpl. SS is null, or the
 * present one when the level stays. EXC_TS, EXC_PF. SDM 3A 6.14.4 and 6.14.5.
 */
enum x86_exc tss_stack64(struct vcpu *c, unsigned dpl, unsigned ist, struct stack *s);

/* Does a 32-bit TSS's redirection bitmap send INT vector to the 8086 program's own handler?
 * EXC_GP, EXC_PF. SDM 3A 20.3.3.
 */
enum x86_exc tss_redirects(struct vcpu *c, uint8_t vector, bool *to_8086);

#endif
