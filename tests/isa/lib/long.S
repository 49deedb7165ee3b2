/* The way of the 64-bit kernels from lib/runtime.S to C, their exception stubs, ring 3, and the
 * start of other CPUs.
 */
#include "isa.h"

	.globl test_main
test_main:
	/* 4 GiB one to one for ring 0; the first 16 MiB at USER_BASE for ring 3. */
	movl $pdpt_low + 7, pml4
	movl $pdpt_user + 7, pml4 + 8
	movl $pd_user + 7, pdpt_user
	movl $pdpt_low, %edi
	movl $pd_low + 7, %eax
	movl $4, %ecx
1:	movl %eax, (%edi)
	addl $8, %edi
	addl $0x1000, %eax
	loop 1b
	movl $pd_low, %edi
	movl $0x83, %eax
	movl $2048, %ecx
1:	movl %eax, (%edi)
	addl $8, %edi
	addl $0x200000, %eax
	loop 1b
	movl $pd_user, %edi
	movl $0x87, %eax
	movl $8, %ecx
1:	movl %eax, (%edi)
	addl $8, %edi
	addl $0x200000, %eax
	loop 1b
	call long_enable
	/* A TSS for long mode, without an I/O bitmap; its descriptor is read anew. */
	andb $0xfd, gdt + TSS_SEL + 5
	movl $stack0_top, tss + 4
	movl $0, tss + 8
	movl $TSS_SEL, %eax
	ltr %ax
	ljmp $CODE64, $2f
	.code64
2:	xorl %eax, %eax
	movl %eax, %ss
	movl $stack_top, %esp
	lidt idtr64
	call idt64_init
	call main64
	jmp end64

	.globl end64
end64:
	xorl %eax, %eax
	cmpl $0, failures
	setne %al
	testl %eax, %eax
	jnz 1f
	pushq %rax
	movl $text_pass64, %edi
	call print
	popq %rax
1:	outb %al, $0xf4
	cli
2:	hlt
	jmp 2b

	.code32
/* PAE, LME, NXE, SCE, PG. Leaves 32-bit code in compatibility mode. */
long_enable:
	movl %cr4, %eax
	orl $0x20, %eax
	movl %eax, %cr4
	movl $pml4, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x901, %eax
	wrmsr
	movl %cr0, %eax
	andl $0x9fffffff, %eax /* CD, NW */
	orl $0x80010000, %eax /* PG, WP */
	movl %eax, %cr0
	ret

	.code64
	.align 16
	.globl stubs64
stubs64:
	.set n, 0
	.rept 256
	.align 16
	.if (n == 8) || (n >= 10 && n <= 14) || (n == 17) || (n == 21)
	nop
	nop
	.else
	pushq $0
	.endif
	pushq $n
	jmp enter64
	.set n, n + 1
	.endr

enter64:
	pushq %rax
	pushq %rbx
	pushq %rcx
	pushq %rdx
	pushq %rsi
	pushq %rdi
	pushq %rbp
	pushq %r8
	pushq %r9
	pushq %r10
	pushq %r11
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	cld
	movq %rsp, %rdi
	movq %rsp, %rbx
	andq $-16, %rsp
	call on_exception
	movq %rbx, %rsp
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %r11
	popq %r10
	popq %r9
	popq %r8
	popq %rbp
	popq %rdi
	popq %rsi
	popq %rdx
	popq %rcx
	popq %rbx
	popq %rax
	addq $16, %rsp
	iretq

/* user_run(code, rflags, arg) */
	.globl user_run
user_run:
	pushq %rbx
	pushq %rbp
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movl $NONE, %eax
	movq %rax, got
	movq $1f, resume_rip
	movq %rsp, resume_rsp
	movabsq $0x8000000000, %rax
	leaq user_stack + 4096(%rax), %rcx
	addq %rax, %rdi
	pushq $DATA32_3
	pushq %rcx
	pushq %rsi
	pushq $CODE64_3
	pushq %rdi
	movq %rdx, %rdi
	iretq
1:	movq $0, resume_rip
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbp
	popq %rbx
	movq got, %rax
	ret

/* What runs on another CPU first, copied to 0x8000: real mode, CS 0x0800. */
	.code16
	.globl ap_code, ap_code_end
ap_code:
	cli
	movw %cs, %ax
	movw %ax, %ds
	lgdtl ap_gdtr - ap_code
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $CODE32, $ap32
ap_gdtr:
	.word 0x9f
	.long gdt
ap_code_end:

	.code32
ap32:
	movl $DATA32, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl ap_stack, %esp
	call long_enable
	ljmp $CODE64, $1f
	.code64
1:	movl ap_stack, %esp
	xorl %eax, %eax
	movl %eax, %ss
	lidt idtr64
	movl ap_id, %edi
	lock incl cpus_up
	call ap_main
2:	cli
	hlt
	jmp 2b

	.section .rodata
text_pass64:
	.asciz "pass\n"
	.data
	.align 16
	.weak ap_main /* kernels of one CPU have none */
	.globl idtr64
idtr64:
	.word 0xfff
	.quad idt64
	.globl ap_stack, ap_id, cpus_up, resume_rip, resume_rsp
ap_stack:
	.quad 0
ap_id:
	.long 0
cpus_up:
	.long 1
resume_rip:
	.quad 0
resume_rsp:
	.quad 0
	.bss
	.align 4096
	.globl pml4, idt64, user_stack
pml4:
	.skip 4096
pdpt_low:
	.skip 4096
pdpt_user:
	.skip 4096
pd_user:
	.skip 4096
pd_low:
	.skip 4 * 4096
idt64:
	.skip 4096
user_stack:
	.skip 4096
