/* Rings: interrupts, IRET, call gates, far returns, v8086 mode in 32-bit protected mode. */
#include "lib/isa.h"

#define USER_STACK 0x80000

/* Go to label in ring 3 with the given EFLAGS. */
#define TO_RING3(label, eflags)                                                                    \
	pushl $DATA32_3;                                                                           \
	pushl $USER_STACK;                                                                         \
	pushl $eflags;                                                                             \
	pushl $CODE32_3;                                                                           \
	pushl $label;                                                                              \
	iretl

	.globl test_main
test_main:
	/* INT through a gate of DPL 0 from ring 3 is #GP with the IDT bit. */
	TRY(1f)
	TO_RING3(2f, 2)
2:	int $0x40
1:	FAULTS(13, 0x40 * 8 + 2)
	CHECK(got_cs, $CODE32_3)
	CHECK(got_eip, $2b)
	/* The frame is on the stack of the TSS. */
	CHECK(got_esp, $stack0_top - 32)
	/* With DPL 3 it is taken, and the saved EIP is behind it. */
	movb $0xee, idt + 0x40 * 8 + 5
	TRY(1f)
	TO_RING3(2f, 2)
2:	int $0x40
3:	nop
1:	FAULTS(0x40, 0)
	CHECK(got_eip, $3b)
	CHECK(got_eflags, $2)
	/* Privileged instructions in ring 3. */
	TRY(1f)
	TO_RING3(2f, 2)
2:	hlt
1:	FAULTS(13, 0)
	/* Faults push RF. */
	CHECK(got_eflags, $0x10002)
	TRY(1f)
	TO_RING3(2f, 2)
2:	cli
1:	FAULTS(13, 0)
	TRY(1f)
	TO_RING3(2f, 2)
2:	inb $0x60, %al
1:	FAULTS(13, 0)
	/* IOPL 3 allows both. */
	TRY(1f)
	TO_RING3(2f, 0x3002)
2:	cli
	inb $0x80, %al
	ud2
1:	FAULTS(6, 0)
	CHECK(got_eflags, $0x13002)
	/* The I/O bitmap. */
	movw $0x2069, gdt + TSS_SEL
	andb $0xfd, gdt + TSS_SEL + 5
	movl $TSS_SEL, %eax
	ltr %ax
	movl $0xffffffff, tss + 0x68 + 0x2000
	movb $0xff, tss + 0x68 + 0x61 / 8
	TRY(1f)
	TO_RING3(2f, 2)
2:	inb $0x80, %al
	inb $0x61, %al
1:	FAULTS(13, 0)
	CHECK(got_eip, $2b + 2)
	/* Ring 3 cannot load inner data segments, and IRET drops those that it would keep. */
	TRY(1f)
	TO_RING3(2f, 2)
2:	movl %ds, %eax
	movl $DATA32, %ebx
	movl %ebx, %fs
1:	FAULTS(13, DATA32)
	CHECK(%eax, $0)
	/* A call gate with two parameters, and RET 8 from it. */
	movl $gate_target, %eax
	movw %ax, gdt + FREE_SEL
	movw $CODE32, gdt + FREE_SEL + 2
	movw $0xec02, gdt + FREE_SEL + 4
	shrl $16, %eax
	movw %ax, gdt + FREE_SEL + 6
	TRY(1f)
	TO_RING3(2f, 2)
2:	movl $DATA32_3, %eax
	movl %eax, %ds
	pushl $0x2222
	pushl $0x1111
	lcall $FREE_SEL + 3, $0
3:	movl %esp, %edi
	ud2
1:	FAULTS(6, 0)
	CHECK(%edi, $USER_STACK)
	CHECK(%esi, $0x1111)
	CHECK(%ebx, $0x2222)
	CHECK(%ecx, $3b)
	CHECK(%ebp, $CODE32_3)
	/* A JMP through the same gate would go inwards. */
	TRY(1f)
	TO_RING3(2f, 2)
2:	ljmp $FREE_SEL + 3, $0
1:	FAULTS(13, CODE32)
	/* A gate of DPL 0 is not for ring 3. */
	movb $0x8c, gdt + FREE_SEL + 5
	TRY(1f)
	TO_RING3(2f, 2)
2:	lcall $FREE_SEL, $0
1:	FAULTS(13, FREE_SEL)
	call v8086
	movl $0, resume
	ret

gate_target:
	movl (%esp), %ecx
	movl 4(%esp), %ebp
	movl 8(%esp), %esi
	movl 12(%esp), %ebx
	lret $8

/* Virtual-8086 mode at 0x1000:0; what it runs is copied to 0x10000. */
#define TO_V8086(eflags)                                                                           \
	pushl $0x5000;                                                                             \
	pushl $0x4000;                                                                             \
	pushl $0x3000;                                                                             \
	pushl $0x2000;                                                                             \
	pushl $0x1800;                                                                             \
	pushl $0x0800;                                                                             \
	pushl $(0x20002 | (eflags));                                                               \
	pushl $0x1000;                                                                             \
	pushl $0;                                                                                  \
	iretl

#define V8086_CODE(from, to)                                                                       \
	movl $from, %esi;                                                                          \
	movl $0x10000, %edi;                                                                       \
	movl $(to - from), %ecx;                                                                   \
	rep movsb

v8086:
	V8086_CODE(code_a, code_a_end)
	TRY(1f)
	TO_V8086(0)
1:	FAULTS(6, 0)
	CHECK(%eax, $0x11223000) /* segment arithmetic, 16-bit registers */
	CHECK(%ebx, $0x3000)
	CHECK(got_cs, $0x1000)
	CHECK(got_eip, $code_a_ud - code_a)
	CHECK(got_eflags, $0x30002)
	CHECK(0x18000 + 0x7fe, $0x3000)
	/* INT n with IOPL 0 is #GP(0); with 3 it goes to the protected-mode gate. */
	V8086_CODE(code_b, code_b_end)
	TRY(1f)
	TO_V8086(0)
1:	FAULTS(13, 0)
	TRY(1f)
	TO_V8086(0x3000)
1:	FAULTS(0x40, 0)
	CHECK(got_eip, $2)
	CHECK(got_eflags, $0x23002)
	/* A limit of 64 KiB. */
	V8086_CODE(code_c, code_c_end)
	TRY(1f)
	TO_V8086(0)
1:	FAULTS(13, 0)
	ret

	.code16
code_a:
	movl $0x11220000, %eax
	movw %ds, %ax
	movzwl %ax, %ebx
	pushw %ax
code_a_ud:
	ud2
code_a_end:
code_b:
	int $0x40
code_b_end:
code_c:
	movl $0xffff, %ebx
	movw (%bx), %ax
code_c_end:
	.code32
