/* What the flat test kernels stand on. A kernel includes this first, then defines test_main (32-bit
 * protected mode, ring 0, flat segments, no paging, interrupts off). It returns, and the kernel
 * ends with status 0 through port 0xf4 if all its CHECKs held. Needs lib/runtime.S linked in.
 *
 * Memory: kernel from 1 MiB, low memory free for tests. Faults: TRY runs what follows up to its
 * label with all exceptions caught; then got_vector, got_error, got_cr2, got_eip tell.
 */
#define CODE32	 0x08
#define DATA32	 0x10
#define CODE32_3 0x1b
#define DATA32_3 0x23
#define CODE16	 0x28
#define DATA16	 0x30
#define CODE64	 0x38
#define CODE64_3 0x43
#define TSS_SEL	 0x48 /* two entries */
#define FREE_SEL 0x58 /* and seven more: the test's own */

#define NONE 0xffffffff /* got_vector when nothing happened */

/* Compare two 32-bit values (immediates, registers, memory). Keeps all registers and flags. */
#define CHECK(got, want)                                                                           \
	pushl want;                                                                                \
	pushl got;                                                                                 \
	pushl $__LINE__;                                                                           \
	call check32

#define TRY(label)                                                                                 \
	movl $NONE, got_vector;                                                                    \
	movl $label, resume;                                                                       \
	movl % esp, resume_esp

#define FAULTS(vector, error)                                                                      \
	CHECK(got_vector, $vector);                                                                \
	CHECK(got_error, $error)

/* Set GDT entry sel from two 32-bit halves. */
#define GDT_SET(sel, low, high)                                                                    \
	movl $low, gdt + sel;                                                                      \
	movl $high, gdt + sel + 4

/* Kernels are assembled as 64-bit objects and start in 32-bit code. */
.code32
