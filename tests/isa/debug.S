/* Single steps, breakpoints, DR6 and DR7. SDM 3B chapter 17. */
#include "lib/isa.h"

	.globl test_main
test_main:
	/* TF: a trap behind the next instruction. */
	TRY(1f)
	pushfl
	orl $0x100, (%esp)
	popfl
2:	nop
3:	nop
1:	FAULTS(1, 0)
	CHECK(got_eip, $3b)
	movl %dr6, %eax
	CHECK(%eax, $0xffff4ff0)
	movl $0, %eax
	movl %eax, %dr6
	/* MOV SS holds the trap back for one instruction more. */
	TRY(1f)
	movl %ss, %ebx
	pushfl
	orl $0x100, (%esp)
	popfl
	movl %ebx, %ss
	nop
3:	nop
1:	FAULTS(1, 0)
	CHECK(got_eip, $3b)
	/* An instruction breakpoint is a fault; RF steps over it. */
	movl $0, %eax
	movl %eax, %dr6
	movl $bp_target, %eax
	movl %eax, %dr0
	movl $0x402, %eax
	movl %eax, %dr7
	TRY(1f)
	call bp_target
1:	FAULTS(1, 0)
	CHECK(got_eip, $bp_target)
	movl %dr6, %eax
	CHECK(%eax, $0xffff0ff1)
	TRY(1f)
	pushl $1f
	pushl $0x10002
	pushl $CODE32
	pushl $bp_target
	iretl
1:	CHECK(got_vector, $NONE)
	/* A data breakpoint is a trap: 4 bytes, writes. */
	movl $0, %eax
	movl %eax, %dr6
	movl $0x6000, %eax
	movl %eax, %dr1
	movl $0xd00408, %eax
	movl %eax, %dr7
	TRY(1f)
	movl 0x6000, %ebx
	movb %bl, 0x5fff
	movb %bl, 0x6003
3:	nop
1:	FAULTS(1, 0)
	CHECK(got_eip, $3b)
	movl %dr6, %eax
	CHECK(%eax, $0xffff0ff2)
	/* General detect. */
	movl $0, %eax
	movl %eax, %dr6
	movl $0x2400, %eax
	movl %eax, %dr7
	TRY(1f)
2:	movl %dr0, %eax
1:	FAULTS(1, 0)
	CHECK(got_eip, $2b)
	movl %dr6, %eax
	CHECK(%eax, $0xffff2ff0)
	movl %dr7, %eax
	CHECK(%eax, $0x400)
	/* DR4 is DR6 until CR4.DE. */
	movl $0, %eax
	movl %eax, %dr6
	movl %dr4, %eax
	CHECK(%eax, $0xffff0ff0)
	movl %cr4, %eax
	orl $8, %eax
	movl %eax, %cr4
	TRY(1f)
	movl %dr4, %eax
1:	FAULTS(6, 0)
	/* INT3 and INT1 are traps. */
	TRY(1f)
	int3
3:	nop
1:	FAULTS(3, 0)
	CHECK(got_eip, $3b)
	movl $0, resume
	ret

bp_target:
	nop
	ret
