/* Long mode and back: compatibility code, 64-bit code, interrupts with IST, SYSCALL, and real mode
 * from protected mode. SDM 3A 9.8.5, 9.9, 6.14.
 */
#include "lib/isa.h"

#define PML4 0x200000
#define PDPT 0x201000
#define IDT64 0x202000

	.globl test_main
test_main:
	movl %esp, saved_esp
	call real_mode
	/* One to one, 1 GiB, for everybody, in 2 MiB pages. */
	movl $PDPT + 7, PML4
	movl $0, PML4 + 4
	movl $pd + 7, PDPT
	movl $0, PDPT + 4
	movl $pd, %edi
	movl $0x87, %eax
1:	stosl
	movl $0, (%edi)
	addl $4, %edi
	addl $0x200000, %eax
	cmpl $0x40000087, %eax
	jb 1b
	/* PG without PAE cannot activate long mode. */
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x101, %eax /* LME, SCE */
	wrmsr
	movl $PML4, %eax
	movl %eax, %cr3
	TRY(1f)
	movl %cr0, %eax
	orl $0x80000000, %eax
	movl %eax, %cr0
1:	FAULTS(13, 0)
	movl %cr4, %eax
	orl $0x20, %eax
	movl %eax, %cr4
	movl %cr0, %eax
	orl $0x80000000, %eax
	movl %eax, %cr0
	movl $0xc0000080, %ecx
	rdmsr
	CHECK(%eax, $0x501)
	/* A 64-bit TSS and IDT. */
	movl $stack0_top, tss + 4
	movl $0, tss + 8
	movl $ist_top, tss + 36
	movl $0, tss + 40
	movl $0, resume
	ljmp $CODE64, $long_mode

	.code64
/* As CHECK, for 64-bit values in registers or memory. */
#define CHECK64(got, want)                                                                         \
	pushq %rax;                                                                                \
	movq got, %rax;                                                                            \
	movq %rax, got64;                                                                          \
	movq want, %rax;                                                                           \
	movq %rax, want64;                                                                         \
	movq $__LINE__, %rax;                                                                      \
	call check64;                                                                              \
	popq %rax

check64:
	pushfq
	pushq %rbx
	movq got64, %rbx
	cmpq want64, %rbx
	je 1f
	cmpl $0, first_bad
	jne 1f
	movl %eax, first_bad
	movl %ebx, first_got
1:	popq %rbx
	popfq
	ret

/* An IDT entry: vector, handler, type, IST. */
#define GATE64(n, handler, type, ist)                                                              \
	movq $handler, %rax;                                                                       \
	movw %ax, IDT64 + 16 * n;                                                                  \
	movw $CODE64, IDT64 + 16 * n + 2;                                                          \
	movw $(type << 8 | ist), IDT64 + 16 * n + 4;                                               \
	shrq $16, %rax;                                                                            \
	movw %ax, IDT64 + 16 * n + 6;                                                              \
	shrq $16, %rax;                                                                            \
	movq %rax, IDT64 + 16 * n + 8

long_mode:
	movl $DATA32, %eax
	movl %eax, %ss
	movq $0xffffffff80000000, %rsp
	movl saved_esp, %esp
	lidt idtr64
	GATE64(3, handler, 0xee, 0)
	GATE64(6, handler, 0x8e, 1)
	GATE64(13, handler_error, 0x8e, 0)
	/* INT3: an aligned frame with SS and RSP. */
	movq %rsp, %rbp
	pushq $0
	movq %rsp, %rbx
	movq $1f, resume64
	int3
2:	nop
1:	movq %rbp, %rsp
	CHECK64(frame_rip, $2b)
	CHECK64(frame_rsp, %rbx)
	movq %rbx, %rcx
	andq $-16, %rcx
	subq $40, %rcx
	CHECK64(handler_rsp, %rcx)
	/* IST on #UD. */
	movq $1f, resume64
2:	ud2
1:	movq %rbp, %rsp
	CHECK64(frame_rip, $2b)
	CHECK64(handler_rsp, $ist_top - 40)
	movq frame_rflags, %rcx
	andq $0x10000, %rcx
	CHECK64(%rcx, $0x10000)
	/* Non-canonical addresses. */
	movq $1f, resume64
	movq $0x800000000000, %rsi
2:	movq (%rsi), %rax
1:	movq %rbp, %rsp
	CHECK64(frame_rip, $2b)
	/* SYSCALL and SYSRET: STAR with ring 3 selectors behind 0x2b. */
	movl $0xc0000081, %ecx
	xorl %eax, %eax
	movl $0x00330038, %edx
	wrmsr
	movl $0xc0000082, %ecx
	movl $syscall_entry, %eax
	xorl %edx, %edx
	wrmsr
	movl $0xc0000084, %ecx
	movl $0x200, %eax
	xorl %edx, %edx
	wrmsr
	movq %rsp, saved_rsp
	pushq $DATA32_3
	pushq $0x80000
	pushq $0x3202
	pushq $CODE64_3
	pushq $user64
	iretq

user64:
	movl $0x1234, %edi
	syscall
after_syscall:
	ud2

syscall_entry:
	CHECK64(%rcx, $after_syscall)
	CHECK64(%r11, $0x3202)
	CHECK64(%rdi, $0x1234)
	pushfq
	popq %rdx
	CHECK64(%rdx, $0x3002)
	movl %cs, %eax
	CHECK64(%rax, $0x38)
	movl %ss, %eax
	CHECK64(%rax, $0x40)
	movq saved_rsp, %rsp
	/* Back to 32-bit code: through compatibility mode. */
	pushq $CODE32
	pushq $compat
	lretq

handler_error:
	addq $8, %rsp
handler:
	movq %rsp, handler_rsp
	movq (%rsp), %rax
	movq %rax, frame_rip
	movq 16(%rsp), %rax
	movq %rax, frame_rflags
	movq 24(%rsp), %rax
	movq %rax, frame_rsp
	movq resume64, %rax
	jmp *%rax

	.code32
compat:
	movl $DATA32, %eax
	movl %eax, %ds
	movl %eax, %ss
	/* Leaving long mode. */
	movl %cr0, %eax
	andl $0x7fffffff, %eax
	movl %eax, %cr0
	movl $0xc0000080, %ecx
	rdmsr
	CHECK(%eax, $0x101)
	lidt idtr
	/* The line of the first 64-bit check that failed, and what it got. */
	CHECK(first_bad, $0)
	CHECK(first_got, $0)
	ret

/* Real mode with 64 KiB segments, an INT, and back. The switch itself runs below 64 KiB. */
real_mode:
	movl $real_code, %esi
	movl $0x8000, %edi
	movl $(real_code_end - real_code), %ecx
	rep movsb
	movl $0x08000000 + int_handler - real_code, 0x21 * 4
	movl %esp, real_esp
	ljmp $CODE16, $0x8000
	.code16
real_code:
	movl $DATA16, %eax
	movl %eax, %ds
	movl %eax, %ss
	movl %cr0, %eax
	andb $0xfe, %al
	movl %eax, %cr0
	ljmp $0x0800, $(1f - real_code)
1:	movw $0x2000, %ax
	movw %ax, %ds
	movw %ax, %ss
	movw $0x100, %sp
	movl $0x5a5a5a5a, 0x10
	lidtl %cs:ivt - real_code
	stc
	int $0x21
	pushfw
	popw %ax
	movw %ax, 0x20
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	ljmpl $CODE32, $real_done
int_handler:
	movw %sp, 0x14
	iretw
ivt:
	.word 0x3ff
	.long 0
real_code_end:
	.code32
real_done:
	movl $DATA32, %eax
	movl %eax, %ds
	movl %eax, %ss
	movl real_esp, %esp
	lidt idtr
	CHECK(0x20010, $0x5a5a5a5a)
	movzwl 0x20014, %eax
	CHECK(%eax, $0xfa)
	movzwl 0x20020, %eax
	CHECK(%eax, $3)
	ret

	.data
idtr64:
	.word 0xfff
	.quad IDT64
saved_esp:
	.long 0
real_esp:
	.long 0
resume64:
	.quad 0
frame_rip:
	.quad 0
frame_rsp:
	.quad 0
frame_rflags:
	.quad 0
handler_rsp:
	.quad 0
saved_rsp:
	.quad 0
got64:
	.quad 0
want64:
	.quad 0
first_bad:
	.long 0
first_got:
	.long 0
	.bss
	.align 4096
pd:
	.skip 4096
	.skip 4096
ist_top:
