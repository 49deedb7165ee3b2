/* PAE paging and the large pages of 32-bit paging, with PSE-36. SDM 3A 4.3, 4.4. */
#include "lib/isa.h"

#define PDPT 0x200020 /* aligned to 32 bytes */
#define PD   0x201000
#define TAB  0x205000
#define DIR  0x206000

	.globl test_main
test_main:
	/* One to one in 2 MiB pages, but the last 2 MiB below 1 GiB through a table. */
	movl $PD, %edi
	movl $0x83, %eax
	movl $2048, %ecx
1:	movl %eax, (%edi)
	movl $0, 4(%edi)
	addl $8, %edi
	addl $0x200000, %eax
	loop 1b
	movl $TAB + 3, PD + 511 * 8
	movl $0x300003, TAB
	movl $0, TAB + 4
	movl $PDPT, %edi
	movl $PD + 1, %eax
	movl $4, %ecx
1:	movl %eax, (%edi)
	movl $0, 4(%edi)
	addl $8, %edi
	addl $0x1000, %eax
	loop 1b
	movl %cr4, %eax
	orl $0x20, %eax
	movl %eax, %cr4
	movl $PDPT, %eax
	movl %eax, %cr3
	/* Reserved bits in a PDPTE: #GP from what loads them. Absent ones may have any. */
	movl $PD + 3, PDPT
	TRY(1f)
	movl %cr0, %eax
	orl $0x80010000, %eax
	movl %eax, %cr0
1:	FAULTS(13, 0)
	movl $PD + 1, PDPT
	movl $0xfffffffe, PDPT + 24
	movl %cr0, %eax
	orl $0x80010000, %eax
	movl %eax, %cr0
	movl $0x12345678, 0x300010
	CHECK(0x3fe00010, $0x12345678)
	CHECK(TAB, $0x300023)
	movl %eax, 0x3fe00014
	CHECK(TAB, $0x300063)
	/* The PDPTEs stay as they were loaded until CR3 is. */
	TRY(1f)
	movl 0xc0000000, %eax
1:	FAULTS(14, 0)
	movl $PD + 0x3000 + 1, PDPT + 24
	TRY(1f)
	movl 0xc0000000, %eax
1:	FAULTS(14, 0)
	movl %cr3, %eax
	movl %eax, %cr3
	TRY(1f)
	movl 0xc0000000, %eax
1:	CHECK(got_vector, $NONE)
	/* A bad one: #GP, and CR3 keeps its value. */
	movl $0x80000000, PDPT + 28
	TRY(1f)
	movl $PDPT, %eax
	orl $8, %eax
	movl %eax, %cr3
1:	FAULTS(13, 0)
	movl %cr3, %eax
	CHECK(%eax, $PDPT)
	TRY(1f)
	movl 0xc0000000, %eax
1:	CHECK(got_vector, $NONE)
	movl $0, PDPT + 28
	/* Bits of entries beyond the physical width; NX before NXE. */
	movl $0x80000000, TAB + 4
	invlpg 0x3fe00000
	TRY(1f)
	movl 0x3fe00000, %eax
1:	FAULTS(14, 9)
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x800, %eax
	wrmsr
	movb $0xc3, 0x300000
	TRY(1f)
	movl 0x3fe00000, %eax
	movl $0x3fe00000, %eax
	call *%eax
1:	FAULTS(14, 0x11)
	CHECK(got_cr2, $0x3fe00000)
	movl $0x00100000, TAB + 4
	invlpg 0x3fe00000
	TRY(1f)
	movl 0x3fe00000, %eax
1:	FAULTS(14, 9)
	movl $0, TAB + 4
	invlpg 0x3fe00000
	/* A 2 MiB page's reserved bits. */
	movl $0x00602083, PD + 8 * 8
	invlpg 0x1000000
	TRY(1f)
	movl 0x1000000, %eax
1:	FAULTS(14, 9)
	movl $0x01000083, PD + 8 * 8
	invlpg 0x1000000
	/* LME cannot change under paging; PAE can: back to 32-bit paging through PG = 0. */
	TRY(1f)
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x100, %eax
	wrmsr
1:	FAULTS(13, 0)
	movl %cr0, %eax
	andl $0x7fffffff, %eax
	movl %eax, %cr0
	movl %cr4, %eax
	andl $~0x20, %eax
	orl $0x10, %eax /* PSE */
	movl %eax, %cr4
	call pse
	movl $0, resume
	ret

pse:
	movl $DIR, %edi
	movl $0x83, %eax
	movl $1024, %ecx
1:	stosl
	addl $0x400000, %eax
	loop 1b
	movl $DIR, %eax
	movl %eax, %cr3
	movl %cr0, %eax
	orl $0x80000000, %eax
	movl %eax, %cr0
	/* 4 MiB at 0x1400000 of what lies at 0x800000; A and D. */
	movl $0x800083, DIR + 5 * 4
	movl $0xcafe, 0x800100
	CHECK(0x1400100, $0xcafe)
	CHECK(DIR + 5 * 4, $0x8000a3)
	movl %eax, 0x17ffffc
	CHECK(DIR + 5 * 4, $0x8000e3)
	/* INVLPG of any address in it. */
	movl $0xc00083, DIR + 5 * 4
	movl $0xbabe, 0xc00100
	movl $0xf00d, 0xfffffc
	invlpg 0x1654321
	CHECK(0x1400100, $0xbabe)
	CHECK(0x17ffffc, $0xf00d)
	/* Bit 21 is reserved; bits 13 and up are address bits 32 and up, where no RAM is. */
	movl $0xe00083, DIR + 5 * 4
	invlpg 0x1400000
	TRY(1f)
	movl 0x1400000, %eax
1:	FAULTS(14, 9)
	movl $0xc02083, DIR + 5 * 4
	invlpg 0x1400000
	TRY(1f)
	movl 0x1400100, %eax
1:	CHECK(got_vector, $NONE)
	CHECK(%eax, $0xffffffff)
	/* Without PSE it is a table. */
	movl %cr4, %eax
	andl $~0x10, %eax
	movl $0x20b083, DIR + 5 * 4
	movl $0xc00003, 0x20b000
	movl $0x20c000, %edi
	movl $3, %ebx
	movl $1024, %ecx
1:	movl %ebx, (%edi)
	addl $4, %edi
	addl $0x1000, %ebx
	loop 1b
	movl $0x20c003, DIR /* the kernel's 4 MiB need one then */
	movl %eax, %cr4
	CHECK(0x1400100, $0xbabe)
	ret
