/* The interpreter on small pieces of 64-bit code, without a machine. */
#include "check.h"
#include "flatcpu.h"
#include "host/codetrap.h"

#define CODE(...) (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ })

static struct flatcpu f;

static int setup(void **state)
{
	flat_init(&f, &engine_interp, "host");
	return 0;
}

static int teardown(void **state)
{
	flat_fini(&f);
	return 0;
}

TEST(adds_registers_and_halts)
{
	f.c.gpr[REG_RBX] = 40;
	CHECK_EQ(flat_run(&f, CODE(0x48, 0x8d, 0x43, 0x02, 0xf4)), RUN_HALTED);
	CHECK_EQ(f.c.gpr[REG_RAX], 42);
	CHECK_EQ(f.c.rip, FLAT_CODE + 5);
}

TEST(loops_through_memory)
{
	/* mov ecx, 1000; l: add [rdi], rcx; dec ecx; jnz l; hlt */
	f.c.gpr[REG_RDI] = FLAT_DATA;
	CHECK_EQ(flat_run(&f, CODE(0xb9, 0xe8, 0x03, 0, 0, 0x48, 0x01, 0x0f, 0xff, 0xc9, 0x75, 0xf9,
				   0xf4)),
		 RUN_HALTED);
	CHECK_EQ(load64(f.pm.ram + FLAT_DATA), 500500);
	CHECK_EQ(f.c.gpr[REG_RCX], 0);
}

TEST(code_that_rewrites_its_next_instruction_runs_the_new_one)
{
	/* mov byte [rip+1], 7 (the immediate behind); mov eax, 1; hlt */
	CHECK_EQ(flat_run(&f, CODE(0xc6, 0x05, 0x01, 0, 0, 0, 0x07, 0xb8, 0x01, 0, 0, 0, 0xf4)),
		 RUN_HALTED);
	CHECK_EQ(f.c.gpr[REG_RAX], 7);
}

TEST(a_loop_that_rewrites_itself_is_followed_each_time)
{
	/* l: mov eax, 0 (immediate bumped by 1 each time); inc byte [l+1]; add ebx, eax;
	 * dec ecx; jnz l; hlt */
	f.c.gpr[REG_RCX] = 10;
	CHECK_EQ(flat_run(&f, CODE(0xb8, 0, 0, 0, 0, 0xfe, 0x05, 0xf6, 0xff, 0xff, 0xff, 0x01, 0xc3,
				   0xff, 0xc9, 0x75, 0xef, 0xf4)),
		 RUN_HALTED);
	CHECK_EQ(f.c.gpr[REG_RBX], 45);
}

TEST(vector_instructions_run_on_the_guests_registers)
{
	for (unsigned n = 0; n < 4; n++)
		store32(f.c.fpu.zmm[9] + n * 4, n + 1);
	store32(f.pm.ram + FLAT_DATA, 100);
	f.c.gpr[REG_RSI] = FLAT_DATA;
	/* paddd xmm9, [rsi]; movd r11d, xmm9; hlt */
	CHECK_EQ(flat_run(&f,
			  CODE(0x66, 0x44, 0x0f, 0xfe, 0x0e, 0x66, 0x45, 0x0f, 0x7e, 0xcb, 0xf4)),
		 RUN_HALTED);
	CHECK_EQ(load32(f.c.fpu.zmm[9]), 101);
	CHECK_EQ(load32(f.c.fpu.zmm[9] + 12), 4);
	CHECK_EQ(f.c.gpr[REG_R11], 101);
}

TEST(x87_keeps_its_stack)
{
	/* fninit; fld1; fldpi; fmulp; fstp qword [rdi]; hlt */
	f.c.gpr[REG_RDI] = FLAT_DATA;
	CHECK_EQ(flat_run(&f,
			  CODE(0xdb, 0xe3, 0xd9, 0xe8, 0xd9, 0xeb, 0xde, 0xc9, 0xdd, 0x1f, 0xf4)),
		 RUN_HALTED);
	CHECK_EQ(load64(f.pm.ram + FLAT_DATA), 0x400921fb54442d18ull);
}

TEST(x87_never_shows_the_guest_a_host_address)
{
	f.c.gpr[REG_RDI] = FLAT_DATA;
	/* fld dword [rdi]; hlt */
	flat_run(&f, CODE(0xd9, 0x07, 0xf4));
	CHECK_EQ(load64(f.c.fpu.fx + 8), FLAT_CODE);
	CHECK(load64(f.c.fpu.fx + 16) == FLAT_DATA || load64(f.c.fpu.fx + 16) == 0);
}

TEST(division_by_zero_without_handlers_is_a_shutdown)
{
	CHECK_EQ(flat_run(&f, CODE(0x31, 0xc9, 0xf7, 0xf1)), RUN_SHUTDOWN);
}

TEST(unmasked_sse_exceptions_do_not_kill_the_host)
{
	/* No IDT: the guest's #XM ends in a shutdown of the guest. ldmxcsr [rdi]; divss xmm0, xmm1
	 */
	codetrap_install(); /* cmocka has taken the signal */
	store32(f.pm.ram + FLAT_DATA, 0);
	f.c.gpr[REG_RDI] = FLAT_DATA;
	store32(f.c.fpu.zmm[0], 0x3f800000);
	CHECK_EQ(flat_run(&f, CODE(0x0f, 0xae, 0x17, 0xf3, 0x0f, 0x5e, 0xc1, 0xf4)), RUN_SHUTDOWN);
	CHECK_EQ(f.c.fpu.mxcsr & 4, 4);
}

#define IT(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IT(adds_registers_and_halts),
		IT(loops_through_memory),
		IT(code_that_rewrites_its_next_instruction_runs_the_new_one),
		IT(a_loop_that_rewrites_itself_is_followed_each_time),
		IT(vector_instructions_run_on_the_guests_registers),
		IT(x87_keeps_its_stack),
		IT(x87_never_shows_the_guest_a_host_address),
		IT(division_by_zero_without_handlers_is_a_shutdown),
		IT(unmasked_sse_exceptions_do_not_kill_the_host),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
