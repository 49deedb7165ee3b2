/* Segment loads, limits, types, and the exceptions they raise. SDM 3A chapter 5. */
#include "lib/isa.h"

	.globl test_main
test_main:
	/* Null and out-of-table selectors. */
	TRY(1f)
	xorl %eax, %eax
	movl %eax, %ss
1:	FAULTS(13, 0)
	TRY(1f)
	movl $0x1238, %eax
	movl %eax, %ds
1:	FAULTS(13, 0x1238)
	TRY(1f)
	movl $0x0c, %eax /* LDT, which is null */
	movl %eax, %es
1:	FAULTS(13, 0x0c)
	TRY(1f)
	xorl %eax, %eax
	movl %eax, %fs
	movl %fs:0, %eax
1:	FAULTS(13, 0)
	/* Privilege and presence. */
	TRY(1f)
	movl $DATA32_3, %eax
	movl %eax, %ss
1:	FAULTS(13, 0x20)
	GDT_SET(FREE_SEL, 0x0000ffff, 0x00cf1300)
	TRY(1f)
	movl $FREE_SEL, %eax
	movl %eax, %fs
1:	FAULTS(11, FREE_SEL)
	TRY(1f)
	movl %eax, %ss
1:	FAULTS(12, FREE_SEL)
	/* The accessed bit. */
	GDT_SET(FREE_SEL, 0x0000ffff, 0x00cf9200)
	movl %eax, %fs
	CHECK(gdt + FREE_SEL + 4, $0x00cf9300)
	/* Limits. */
	GDT_SET(FREE_SEL, 0x00000fff, 0x00409310)
	movl %eax, %fs
	TRY(1f)
	movl %fs:0xffc, %ebx
1:	CHECK(got_vector, $NONE)
	TRY(1f)
	movl %fs:0xffd, %ebx
1:	FAULTS(13, 0)
	/* Expand-down: everything above the limit. */
	GDT_SET(FREE_SEL, 0x00000fff, 0x00409710)
	movl %eax, %fs
	TRY(1f)
	movl %fs:0x1000, %ebx
1:	CHECK(got_vector, $NONE)
	TRY(1f)
	movl %fs:0xffc, %ebx
1:	FAULTS(13, 0)
	/* Types: read-only data, execute-only code, writes to code. */
	GDT_SET(FREE_SEL, 0x0000ffff, 0x00cf9100)
	movl %eax, %fs
	TRY(1f)
	movl %ebx, %fs:0x500
1:	FAULTS(13, 0)
	TRY(1f)
	movl %eax, %ss
1:	FAULTS(13, FREE_SEL)
	GDT_SET(FREE_SEL, 0x0000ffff, 0x00cf9900)
	TRY(1f)
	movl %eax, %fs
1:	FAULTS(13, FREE_SEL)
	TRY(1f)
	movl %ebx, %cs:0x500
1:	FAULTS(13, 0)
	/* LAR, LSL, VERR, VERW. */
	movl $CODE32, %ebx
	larl %ebx, %ecx
	setz %dl
	movzbl %dl, %edx
	CHECK(%edx, $1)
	andl $0x00f0ff00, %ecx
	CHECK(%ecx, $0x00c09b00)
	lsll %ebx, %ecx
	CHECK(%ecx, $0xffffffff)
	verw %bx
	setz %dl
	CHECK(%edx, $0)
	verr %bx
	setz %dl
	CHECK(%edx, $1)
	movl $0xfff8, %ebx
	larl %ebx, %ecx
	setz %dl
	CHECK(%edx, $0)
	/* LLDT and LTR. */
	TRY(1f)
	movl $DATA32, %eax
	lldt %ax
1:	FAULTS(13, DATA32)
	TRY(1f)
	movl $TSS_SEL, %eax /* busy */
	ltr %ax
1:	FAULTS(13, TSS_SEL)
	movl $0, resume
	ret
