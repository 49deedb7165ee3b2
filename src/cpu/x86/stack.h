/* A stack in the middle of a control transfer: pushed to and popped from with nothing committed.
 */
#ifndef CPU_X86_STACK_H
#define CPU_X86_STACK_H

#include "cpu/vcpu.h"
#include "cpu/x86/vmem.h"

struct stack {
	struct seg ss;
	uint64_t sp;
	uint8_t width; /* 2, 4, 8: how much of sp counts; 8 also means 64-bit mode's checks */
	enum vmem_as as;
	uint32_t error; /* error code of #SS */
};

/* The current stack. */
struct stack stack_now(const struct vcpu *c);

/* Push or pop size bytes (2, 4, 8).
 * EXC_SS, or the exception of the access; then s is unchanged.
 */
enum x86_exc stack_put(struct vcpu *c, struct stack *s, unsigned size, uint64_t val);
enum x86_exc stack_get(struct vcpu *c, struct stack *s, unsigned size, uint64_t *val);

/* Move sp by n bytes as far as the width allows. */
void stack_skip(struct stack *s, uint64_t n);

/* rSP, of which only width bytes change, becomes s->sp. In 32-bit code the upper half is cleared.
 */
void stack_commit(struct vcpu *c, const struct stack *s);

/* What PUSH and POP use of rSP under this SS: 2, 4 or 8. */
uint8_t stack_width(bool code64, const struct seg *ss);

#endif
