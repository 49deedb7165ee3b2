/* 32-bit paging: error codes, A and D bits, WP, large pages, SMEP. SDM 3A chapter 4. */
#include "lib/isa.h"

#define DIR 0x200000
#define TAB 0x201000
#define VA  0x400000 /* mapped by TAB */

	.globl test_main
test_main:
	/* 4 MiB pages one to one, but 4-8 MiB through a table to 0x300000. */
	movl %cr4, %eax
	orl $0x10, %eax
	movl %eax, %cr4
	movl $DIR, %edi
	movl $0x83, %eax
	movl $1024, %ecx
1:	stosl
	addl $0x400000, %eax
	loop 1b
	movl $TAB + 7, DIR + 4
	movl $TAB, %edi
	movl $0x300003, %eax
	movl $1024, %ecx
1:	stosl
	addl $0x1000, %eax
	loop 1b
	movl $DIR, %eax
	movl %eax, %cr3
	movl %cr0, %eax
	orl $0x80000000, %eax
	movl %eax, %cr0
	/* A on a read, D on a write, and the data is where the table says. */
	movl $0x12345678, 0x300010
	movl VA + 0x10, %ebx
	CHECK(%ebx, $0x12345678)
	CHECK(TAB, $0x300023)
	movl %ebx, VA + 0x14
	CHECK(TAB, $0x300063)
	CHECK(0x300014, $0x12345678)
	CHECK(DIR + 4, $TAB + 0x27)
	/* Not present: read and write. */
	movl $0, TAB + 4
	TRY(1f)
	movl VA + 0x1234, %ebx
1:	FAULTS(14, 0)
	CHECK(got_cr2, $VA + 0x1234)
	TRY(1f)
	movl %ebx, VA + 0x1238
1:	FAULTS(14, 2)
	/* A stale translation until INVLPG. */
	movl VA + 0x2000, %ebx
	movl $0, TAB + 8
	invlpg VA + 0x2000
	TRY(1f)
	movl VA + 0x2000, %ebx
1:	FAULTS(14, 0)
	/* Read-only pages bind ring 0 with WP only. */
	movl $0x303001, TAB + 12
	invlpg VA + 0x3000
	TRY(1f)
	movl %ebx, VA + 0x3000
1:	CHECK(got_vector, $NONE)
	movl %cr0, %eax
	orl $0x10000, %eax
	movl %eax, %cr0
	TRY(1f)
	movl %ebx, VA + 0x3000
1:	FAULTS(14, 3)
	/* A locked or read-modify-write instruction that faults faults as a write. */
	TRY(1f)
	lock incl VA + 0x3000
1:	FAULTS(14, 3)
	TRY(1f)
	addl $1, VA + 0x1000
1:	FAULTS(14, 2)
	/* An access across pages faults at the second one's address. */
	movl $0x300003, TAB
	invlpg VA
	TRY(1f)
	movl VA + 0xffe, %ebx
1:	FAULTS(14, 0)
	CHECK(got_cr2, $VA + 0x1000)
	/* Ring 3 and supervisor pages. */
	TRY(1f)
	pushl $DATA32_3
	pushl $0x80000
	pushl $2
	pushl $CODE32_3
	pushl $VA
	iretl
1:	FAULTS(14, 5)
	CHECK(got_cr2, $VA)
	/* In a user page it runs; its write to the page is allowed or not by W. */
	movl $0x300005, TAB
	invlpg VA
	movb $0xa2, 0x300000 /* movb %al, VA + 0x100 */
	movl $VA + 0x100, 0x300001
	TRY(1f)
	pushl $DATA32_3
	pushl $0x80000
	pushl $2
	pushl $CODE32_3
	pushl $VA
	movl $DATA32_3, %eax
	movl %eax, %ds
	iretl
1:	FAULTS(14, 7)
	CHECK(got_cr2, $VA + 0x100)
	/* The reserved bit of a large page. */
	movl $0x200083, %eax
	movl %eax, DIR + 12
	movl %cr3, %eax
	movl %eax, %cr3
	TRY(1f)
	movl 0xc00000, %ebx
1:	FAULTS(14, 9)
	/* SMEP: ring 0 does not fetch from user pages. */
	movl $7, %eax
	xorl %ecx, %ecx
	cpuid
	testl $0x80, %ebx
	jz 2f
	movb $0xc3, 0x300000
	call *va
	movl %cr4, %eax
	orl $0x100000, %eax
	movl %eax, %cr4
	TRY(1f)
	call *va
1:	FAULTS(14, 0x11)
	CHECK(got_cr2, $VA)
2:	movl $0, resume
	ret

	.data
va:
	.long VA
