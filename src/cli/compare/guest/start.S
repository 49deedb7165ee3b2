/* The guest of `cleave compare`: its way from multiboot to C in long mode, its entries, and the start
 * of its second CPU. What the entries do is what an operating system's do: SWAPGS, a stack of the
 * kernel's, all registers saved. */

#define KERNEL_CS 0x08
#define KERNEL_DS 0x10
#define USER_DS	  0x23
#define USER_CS	  0x2b
#define TSS	  0x30
#define AP_CODE	  0x8000

#define MB_MAGIC 0x1badb002
#define MB_FLAGS 0x10000 /* the addresses are valid */

	.section .multiboot, "a"
	.align 4
header:
	.long MB_MAGIC, MB_FLAGS, -(MB_MAGIC + MB_FLAGS)
	.long header, image_begin, image_end, bss_end, start

/* -- To long mode ----------------------------------------------------------------------------- */

	.text
	.code32
	.globl start
start:
	cld
	movl %ebx, %ebp
	/* 4 GiB one to one in global pages of 2 MiB, for ring 0; C has finer wishes. */
	movl $pdpt + 7, pml4
	movl $pd + 7, %eax
	xorl %ecx, %ecx
1:	movl %eax, pdpt(, %ecx, 8)
	addl $0x1000, %eax
	incl %ecx
	cmpl $4, %ecx
	jb 1b
	movl $0x183, %eax
	xorl %ecx, %ecx
2:	movl %eax, pd(, %ecx, 8)
	addl $0x200000, %eax
	incl %ecx
	cmpl $2048, %ecx
	jb 2b
	call to_long_mode
	ljmp $KERNEL_CS, $3f
	.code64
3:	movl $cpu0_stack, %esp
	call set_segments
	movl %ebp, %edi
	call kernel_main
4:	hlt
	jmp 4b

	.code32
/* PAE, PGE; LME, SCE; WP, PG. Leaves 32-bit code of a 64-bit descriptor's table. */
to_long_mode:
	lgdt gdtr
	movl %cr4, %eax
	orl $0xa0, %eax
	movl %eax, %cr4
	movl $pml4, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x101, %eax
	wrmsr
	movl %cr0, %eax
	andl $0x9fffffff, %eax /* CD, NW */
	orl $0x80010001, %eax
	movl %eax, %cr0
	ret

	.code64
set_segments:
	movl $KERNEL_DS, %eax
	movl %eax, %ss
	xorl %eax, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %fs
	movl %eax, %gs
	lidt idtr
	ret

/* -- The second CPU ---------------------------------------------------------------------------- */

/* Copied to AP_CODE, where it starts in real mode. */
	.code16
	.globl ap_code, ap_code_len
ap_code:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	lgdtl ap_gdtr - ap_code + AP_CODE
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $0x40, $ap32 /* the 32-bit code segment */
	.align 4
ap_gdtr:
	.word gdt_end - gdt - 1
	.long gdt
ap_code_end:
ap_code_len:
	.quad ap_code_end - ap_code

	.code32
ap32:
	movl $KERNEL_DS, %eax
	movl %eax, %ds
	movl %eax, %ss
	movl $cpu1_stack, %esp
	call to_long_mode
	ljmp $KERNEL_CS, $5f
	.code64
5:	movl $cpu1_stack, %esp
	call set_segments
	call ap_main
6:	hlt
	jmp 6b

/* -- Ring 3 ------------------------------------------------------------------------------------ */

/* uint64_t user_run(code, buf, n): in ring 3; what code returns. */
	.globl user_run
user_run:
	pushq %rbx
	pushq %rbp
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movq %rsp, user_return
	movq %rdi, %rcx
	movq %rsi, %rdi
	movq %rdx, %rsi
	movl $user_stack_top - 8, %eax
	movq $user_exit, (%rax)
	pushq $USER_DS
	pushq %rax
	pushq $0x202
	pushq $USER_CS
	pushq %rcx
	swapgs
	iretq

/* System call 2 ends here, in ring 0 with the kernel's GS. */
	.globl user_leave
user_leave:
	movq user_return, %rsp
	movq %rdi, %rax
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbp
	popq %rbx
	ret

	.section .user.text, "ax"
user_exit:
	movq %rax, %rdi
	movl $2, %eax
	syscall
	ud2

/* long user_call(nr): a system call. */
	.globl user_call
user_call:
	movq %rdi, %rax
	syscall
	ret

	.text
	.globl syscall_entry
syscall_entry:
	swapgs
	movq %rsp, %gs:8
	movq %gs:0, %rsp
	pushq $USER_DS
	pushq %gs:8
	pushq %r11
	pushq $USER_CS
	pushq %rcx
	pushq %rax
	pushq %rdi
	pushq %rsi
	pushq %rdx
	pushq %rcx
	pushq $-38
	pushq %r8
	pushq %r9
	pushq %r10
	pushq %r11
	pushq %rbx
	pushq %rbp
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	cmpq $3, %rax
	jae 7f
	call *syscalls(, %rax, 8)
	movq %rax, 80(%rsp)
7:	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbp
	popq %rbx
	popq %r11
	popq %r10
	popq %r9
	popq %r8
	popq %rax
	popq %rcx
	popq %rdx
	popq %rsi
	popq %rdi
	movq 32(%rsp), %rsp
	swapgs
	sysretq

/* -- Exceptions and interrupts ----------------------------------------------------------------- */

/* An error code or 0, then the vector; 16 bytes each. */
	.align 16
	.globl stubs
stubs:
	.set n, 0
	.rept 256
	.align 16
	.if (n != 8) && !(n >= 10 && n <= 14) && (n != 17) && (n != 21)
	pushq $0
	.endif
	pushq $n
	jmp enter
	.set n, n + 1
	.endr

enter:
	testb $3, 24(%rsp)
	jz 8f
	swapgs
8:	pushq %rax
	pushq %rcx
	pushq %rdx
	pushq %rsi
	pushq %rdi
	pushq %r8
	pushq %r9
	pushq %r10
	pushq %r11
	cld
	movq 72(%rsp), %rdi
	movq 80(%rsp), %rsi
	movq 88(%rsp), %rdx
	call on_event
	popq %r11
	popq %r10
	popq %r9
	popq %r8
	popq %rdi
	popq %rsi
	popq %rdx
	popq %rcx
	popq %rax
	testb $3, 24(%rsp)
	jz 9f
	swapgs
9:	addq $16, %rsp
	iretq

/* -- Tables ------------------------------------------------------------------------------------ */

	.data
	.align 16
gdt:
	.quad 0
	.quad 0x00af9b000000ffff /* KERNEL_CS */
	.quad 0x00cf93000000ffff /* KERNEL_DS */
	.quad 0
	.quad 0x00cff3000000ffff /* USER_DS */
	.quad 0x00affb000000ffff /* USER_CS */
	.globl gdt_tss
gdt_tss:
	.quad 0, 0
	.quad 0x00cf9b000000ffff /* 0x40 */
gdt_end:
gdtr:
	.word gdt_end - gdt - 1
	.quad gdt
	.globl idtr
idtr:
	.word 4095
	.quad idt
user_return:
	.quad 0

	.section .bss
	.align 4096
	.globl pml4, pdpt, pd, idt
pml4:
	.skip 4096
pdpt:
	.skip 4096
pd:
	.skip 4 * 4096
idt:
	.skip 4096
	.skip 8192
cpu0_stack:
	.skip 8192
cpu1_stack:
	.skip 8192
	.globl entry_stack
entry_stack: /* of what comes from ring 3 */

	.section .user.bss, "aw", @nobits
	.skip 8192
user_stack_top:
