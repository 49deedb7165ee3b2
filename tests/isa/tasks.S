/* Hardware task switches. SDM 3A chapter 7. */
#include "lib/isa.h"

#define TASK_SEL FREE_SEL
#define GATE_SEL (FREE_SEL + 8)

	.globl test_main
test_main:
	movl $task, %eax
	movl $0x67, gdt + TASK_SEL
	movw %ax, gdt + TASK_SEL + 2
	shrl $16, %eax
	movb %al, gdt + TASK_SEL + 4
	movb %ah, gdt + TASK_SEL + 7
	movb $0x89, gdt + TASK_SEL + 5
	/* CALL, and IRET back. */
	movl $called, task + 0x20
	movl $task_stack, task + 0x38
	movl $0xcafe, task + 0x28
	movl $0x12345678, %ebx
	movl $0xff, %eax
	movl %eax, %dr7
	lcall $TASK_SEL, $0
	CHECK(%ebx, $0x12345678)
	CHECK(seen_eax, $0xcafe)
	CHECK(seen_link, $TSS_SEL)
	CHECK(seen_nt, $0x4000)
	CHECK(seen_busy, $0x8b8b)
	CHECK(seen_cr0_ts, $8)
	CHECK(seen_dr7, $0x4aa)
	movzbl gdt + TASK_SEL + 5, %eax
	CHECK(%eax, $0x89)
	movzbl gdt + TSS_SEL + 5, %eax
	CHECK(%eax, $0x8b)
	pushfl
	popl %eax
	andl $0x4000, %eax
	CHECK(%eax, $0)
	/* The other task's EIP went on behind its IRET: another CALL starts there. */
	lcall $TASK_SEL, $0
	CHECK(seen_second, $1)
	/* A task gate, and an exception through one with its error code. */
	movl $exception_task, task + 0x20
	movl $task_stack, task + 0x38
	movl $TASK_SEL << 16, idt + 13 * 8
	movl $0x8500, idt + 13 * 8 + 4
	movl $0x7777, %ecx
2:	movl $0x1230, %eax
	movl %eax, %fs
	CHECK(seen_error, $0x1230)
	CHECK(seen_eip, $2b + 5)
	CHECK(%ecx, $0x7777)
	movl $catch_gp, %eax
	movw %ax, idt + 13 * 8
	movw $CODE32, idt + 13 * 8 + 2
	movw $0x8e00, idt + 13 * 8 + 4
	shrl $16, %eax
	movw %ax, idt + 13 * 8 + 6
	/* A busy task cannot be called. */
	TRY(1f)
	lcall $TSS_SEL, $0
1:	FAULTS(13, TSS_SEL)
	/* A TSS that is too short. */
	movw $0x66, gdt + TASK_SEL
	TRY(1f)
	lcall $TASK_SEL, $0
1:	FAULTS(10, TASK_SEL)
	movl $0, resume
	ret

catch_gp:
	pushl $13
	jmp catch

called:
	movl %eax, seen_eax
	movl task, %eax
	movl %eax, seen_link
	pushfl
	popl %eax
	andl $0x4000, %eax
	movl %eax, seen_nt
	movb gdt + TASK_SEL + 5, %al
	movb gdt + TSS_SEL + 5, %ah
	movzwl %ax, %eax
	movl %eax, seen_busy
	movl %cr0, %eax
	andl $8, %eax
	movl %eax, seen_cr0_ts
	movl %dr7, %eax
	movl %eax, seen_dr7
	clts
	iretl
	movl $1, seen_second
	iretl

exception_task:
	popl seen_error
	movl tss + 0x20, %eax
	movl %eax, seen_eip
	/* Skip the instruction that faulted (MOV FS, 2 bytes). */
	addl $2, tss + 0x20
	iretl

	.data
	.align 128
task:
	.fill 18, 4, 0
	.long DATA32, CODE32, DATA32, DATA32, DATA32, DATA32, 0
	.word 0, 0x68
seen_eax:
	.long 0
seen_link:
	.long 0
seen_nt:
	.long 0
seen_busy:
	.long 0
seen_cr0_ts:
	.long 0
seen_dr7:
	.long 0
seen_second:
	.long 0
seen_error:
	.long 0
seen_eip:
	.long 0
	.bss
	.skip 4096
task_stack:
