/* Entry, descriptor tables, exception catcher, serial output and exit of the test kernels. */
#include "isa.h"

	.section .multiboot, "a"
	.align 4
	.long 0x1badb002, 0, -0x1badb002

	.text
	.code32
	.globl _start
_start:
	cld
	movl $stack_top, %esp
	lgdt gdtr
	ljmp $CODE32, $1f
1:	movl $DATA32, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl %eax, %fs
	movl %eax, %gs
	call serial_init
	call idt_init
	call tss_init
	call test_main
	movl failures, %eax
	testl %eax, %eax
	jnz 2f
	movl $text_pass, %esi
	call puts
2:	xorl %eax, %eax
	cmpl $0, failures
	setne %al
	jmp exit

/* End with status al. */
	.globl exit
exit:
	outb %al, $0xf4
	cli
3:	hlt
	jmp 3b

/* -- Descriptor tables ------------------------------------------------------------------------ */

idt_init:
	movl $stubs, %eax
	xorl %ecx, %ecx
4:	movl %eax, %edx
	movw %dx, idt(, %ecx, 8)
	movw $CODE32, idt + 2(, %ecx, 8)
	movw $0x8e00, idt + 4(, %ecx, 8)
	shrl $16, %edx
	movw %dx, idt + 6(, %ecx, 8)
	addl $STUB_LEN, %eax
	incl %ecx
	cmpl $256, %ecx
	jb 4b
	lidt idtr
	ret

tss_init:
	movl $tss, %eax
	movw %ax, gdt + TSS_SEL + 2
	shrl $16, %eax
	movb %al, gdt + TSS_SEL + 4
	movb %ah, gdt + TSS_SEL + 7
	movl $stack0_top, tss + 4
	movl $DATA32, tss + 8
	movw $0x68, tss + 102
	movl $TSS_SEL, %eax
	ltr %ax
	ret

/* One stub a vector, all of one length: error code or 0, vector. */
	.set STUB_LEN, 16
	.align 16
stubs:
	.set n, 0
	.rept 256
	.align 16
	.if (n == 8) || (n >= 10 && n <= 14) || (n == 17) || (n == 21)
	nop
	nop
	.else
	pushl $0
	.endif
	pushl $n
	jmp catch
	.set n, n + 1
	.endr

/* Note what happened and go on, in ring 0, where TRY said. */
	.globl catch
catch:
	cld
	pushl %eax
	movl $DATA32, %eax
	movl %eax, %ds
	movl %eax, %es
	movl 4(%esp), %eax
	movl %eax, got_vector
	movl 8(%esp), %eax
	movl %eax, got_error
	movl 12(%esp), %eax
	movl %eax, got_eip
	movl 16(%esp), %eax
	movl %eax, got_cs
	movl 20(%esp), %eax
	movl %eax, got_eflags
	movl %cr2, %eax
	movl %eax, got_cr2
	movl %esp, got_esp
	popl %eax
	cmpl $0, resume
	je unexpected
	movl $DATA32, %esp
	movl %esp, %ss
	movl resume_esp, %esp
	pushl $2
	popfl
	jmp *resume

unexpected:
	movl $text_unexpected, %esi
	call puts
	movl got_vector, %eax
	call put_hex
	movl got_error, %eax
	call put_hex
	movl got_eip, %eax
	call put_hex
	movb $1, %al
	jmp exit

/* -- Checks ----------------------------------------------------------------------------------- */

/* check32(line, got, want); takes its arguments off the stack. */
	.globl check32
check32:
	pushfl
	pushal
	movl 44(%esp), %eax
	cmpl 48(%esp), %eax
	je 5f
	incl failures
	movl $text_line, %esi
	call puts
	movl 40(%esp), %eax
	call put_dec
	movl $text_got, %esi
	call puts
	movl 44(%esp), %eax
	call put_hex
	movl $text_want, %esi
	call puts
	movl 48(%esp), %eax
	call put_hex
	movb $10, %al
	call putc
5:	popal
	popfl
	ret $12

/* -- Serial port COM1 -------------------------------------------------------------------------- */

serial_init:
	movw $0x3f9, %dx
	xorb %al, %al
	outb %al, %dx
	movw $0x3fb, %dx
	movb $3, %al
	outb %al, %dx
	ret

	.globl putc
putc:
	pushl %edx
	pushl %eax
	movw $0x3fd, %dx
6:	inb %dx, %al
	testb $0x20, %al
	jz 6b
	popl %eax
	movw $0x3f8, %dx
	outb %al, %dx
	popl %edx
	ret

/* Print the text at esi. */
	.globl puts
puts:
	lodsb
	testb %al, %al
	jz 7f
	call putc
	jmp puts
7:	ret

	.globl put_hex
put_hex:
	movl $8, %ecx
8:	roll $4, %eax
	pushl %eax
	andb $15, %al
	addb $'0', %al
	cmpb $'9', %al
	jbe 9f
	addb $39, %al
9:	call putc
	popl %eax
	loop 8b
	movb $' ', %al
	jmp putc

put_dec:
	movl $10, %ebx
	xorl %ecx, %ecx
10:	xorl %edx, %edx
	divl %ebx
	pushl %edx
	incl %ecx
	testl %eax, %eax
	jnz 10b
11:	popl %eax
	addb $'0', %al
	call putc
	loop 11b
	ret

	.section .rodata
text_pass:
	.asciz "pass\n"
text_line:
	.asciz "line "
text_got:
	.asciz ": got "
text_want:
	.asciz "want "
text_unexpected:
	.asciz "unexpected exception, error, eip: "

	.data
	.align 16
	.globl gdt, gdtr, idt, idtr, tss
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff /* CODE32 */
	.quad 0x00cf93000000ffff /* DATA32 */
	.quad 0x00cffb000000ffff /* CODE32_3 */
	.quad 0x00cff3000000ffff /* DATA32_3 */
	.quad 0x00009b000000ffff /* CODE16 */
	.quad 0x000093000000ffff /* DATA16 */
	.quad 0x00af9b000000ffff /* CODE64 */
	.quad 0x00affb000000ffff /* CODE64_3 */
	.quad 0x0000890000000067 /* TSS_SEL; the base is filled in */
	.quad 0
	.fill 8, 8, 0 /* FREE_SEL */
gdt_end:
gdtr:
	.word gdt_end - gdt - 1
	.long gdt
	.long 0
idtr:
	.word 256 * 8 - 1
	.long idt
	.long 0
	.globl got_vector, got_error, got_eip, got_cs, got_eflags, got_cr2, got_esp
	.globl resume, resume_esp, failures
got_vector:
	.long 0
got_error:
	.long 0
got_eip:
	.long 0
got_cs:
	.long 0
got_eflags:
	.long 0
got_cr2:
	.long 0
got_esp:
	.long 0
resume:
	.long 0
resume_esp:
	.long 0
failures:
	.long 0

	.bss
	.align 4096
idt:
	.skip 256 * 8
	.align 128
tss:
	.skip 0x68 + 0x2100
	.align 16
	.skip 16384
stack_top:
	.skip 4096
	.globl stack0_top, stack_top
stack0_top:
