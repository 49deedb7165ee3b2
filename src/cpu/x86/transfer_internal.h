/* What the files of control transfer share. */
#ifndef CPU_X86_TRANSFER_INTERNAL_H
#define CPU_X86_TRANSFER_INTERNAL_H

#include "cpu/vcpu.h"
#include "cpu/x86/descriptor.h"

/* A far JMP or CALL as the instruction has it; off is cut to opsize. */
struct far_target {
	uint16_t sel;
	uint64_t off;
	unsigned opsize;
	gva_t next_rip;
	bool call;
};

/* May rip be executed in code segment d? EXC_GP with error code 0. */
enum x86_exc code_check_rip(struct vcpu *c, const struct desc *d, uint64_t rip);

/* CS becomes d with privilege level cpl, RIP rip. The caller calls vcpu_update_mode. */
void code_enter(struct vcpu *c, const struct desc *d, unsigned cpl, uint64_t rip);

/* callgate.c: a far CALL or JMP whose selector names the call gate, of which DPL was checked. */
enum x86_exc call_gate(struct vcpu *c, struct desc *gate, const struct far_target *f);

/* The code segment that sel returns to (RET, IRET), checked and marked accessed. */
enum x86_exc return_check_cs(struct vcpu *c, uint16_t sel, struct desc *d);

/* The stack segment that goes with it. to64: the code is 64-bit, which may have a null SS. */
enum x86_exc return_check_ss(struct vcpu *c, uint16_t sel, unsigned cpl, bool to64, struct seg *ss);

/* Commit a return that switches stacks: CS, SS, rSP, and data segments that the outer level may
 * not see become null. */
void return_outer(struct vcpu *c, const struct desc *cs, uint64_t rip, const struct seg *ss,
		  uint64_t rsp);

/* task.c. Switch to the task whose TSS sel names. next_rip and rflags are what the old task's TSS
 * remembers. An exception from the old task leaves all as it was (EXC_GP, EXC_NP, EXC_TS, EXC_PF);
 * one that comes after the switch belongs to the new task, and c is in it. SDM 3A 7.3.
 */
enum task_why { TASK_JMP, TASK_CALL, TASK_EVENT, TASK_IRET };
enum x86_exc task_switch(struct vcpu *c, uint16_t sel, enum task_why why, gva_t next_rip,
			 uint64_t rflags);

/* IRET with NT set: back to the task that the present TSS links to. */
enum x86_exc task_return(struct vcpu *c, gva_t next_rip);

/* gate.c: what is delivered through the IDT. */
struct event {
	uint8_t vector;
	bool soft; /* INT n, INT3, INTO: the gate's DPL counts */
	bool ext;  /* not caused by such an instruction: EXT in error codes of what fails */
	bool has_error;
	bool set_rf; /* in the image of RFLAGS that is pushed */
	uint32_t error;
	gva_t return_rip;
};
enum x86_exc event_deliver(struct vcpu *c, const struct event *e);

/* INT n in virtual-8086 mode by way of the 8086 program's interrupt table. */
enum x86_exc event_redirect_8086(struct vcpu *c, uint8_t vector, gva_t next_rip);

/* RFLAGS bits in mask become those of val. The caller calls vcpu_update_mode. */
static inline void rflags_change(struct vcpu *c, uint64_t val, uint64_t mask)
{
	vcpu_set_rflags(c, (vcpu_rflags(c) & ~mask) | (val & mask));
}

#endif
