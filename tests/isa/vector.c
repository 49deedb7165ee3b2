/* Vector registers over whatever makes an engine leave translated code: whole at every width, also
 * where only their lower halves were in use shortly before. Blocks run for the first time here.
 */
#include "lib/long.h"

#define CR4_OSFXSR_XMMEXCPT 0x600
#define CR4_OSXSAVE_BIT	    0x40000
#define N_BLOCKS	    8

u8 seen[N_BLOCKS][32] __attribute__((aligned(64)));
u64 run_blocks(void);

/* Each: narrow registers, a way out (a port nobody decodes), a wide value, a jump to code that has
 * not run yet, and the value as that sees it. */
__asm__("	.balign 64\n"
	"run_blocks:\n"
	"	mov $seen, %rdi\n"
	"	xor %eax, %eax\n"
	"	.rept 8\n"
	"	vzeroupper\n"
	"	in $0xed, %al\n"
	"	xor %eax, %eax\n"
	"	nop\n"
	"	vpcmpeqd %ymm3, %ymm3, %ymm3\n"
	"	test %eax, %eax\n"
	"	jz 1f\n"
	"	ud2\n"
	"	.balign 64\n"
	"1:	vmovdqu %ymm3, (%rdi)\n"
	"	add $32, %rdi\n"
	"	.endr\n"
	"	vzeroupper\n"
	"	ret\n");

static u64 has_avx(void)
{
	u32 a = 1, b, c = 0, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	a = 7;
	u32 features = c;
	c = 0;
	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return (features >> 28 & 1) && (b >> 5 & 1);
}

static void enable(void)
{
	u64 cr4;

	__asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
	cr4 |= CR4_OSFXSR_XMMEXCPT | CR4_OSXSAVE_BIT;
	__asm__ volatile("mov %0, %%cr4" : : "r"(cr4));
	__asm__ volatile("xsetbv" : : "c"(0), "a"(7), "d"(0));
}

void main64(void)
{
	if (!has_avx())
		return;
	enable();
	for (unsigned round = 0; round < 3; round++) {
		memset(seen, 0, sizeof(seen));
		run_blocks();
		for (unsigned n = 0; n < N_BLOCKS; n++)
			for (unsigned i = 0; i < 32; i++)
				CHECK(seen[n][i], 0xff);
	}
}
