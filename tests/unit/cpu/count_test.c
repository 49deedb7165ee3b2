/* Counting mode (vcpu.insn_limit) on each engine: what counts, and where run() comes back. */
#include "check.h"
#include "flatcpu.h"
#include "host/clock.h"
#include "host/codetrap.h"

#define CODE(...) (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ })

/* inc eax */
#define INC 0xff, 0xc0

static struct flatcpu f;

static int setup_interp(void **state)
{
	flat_init(&f, &engine_interp, "host");
	f.c.insn_limit = ~0ull;
	return 0;
}

static __attribute__((unused)) int setup_dbt(void **state)
{
	flat_init(&f, &engine_dbt, "host");
	f.c.insn_limit = ~0ull;
	return 0;
}

static int teardown(void **state)
{
	flat_fini(&f);
	return 0;
}

TEST(the_interpreter_stops_exactly_at_the_limit)
{
	f.c.insn_limit = 3;
	CHECK_EQ(flat_run(&f, CODE(INC, INC, INC, INC, INC, 0xf4)), RUN_LIMIT);
	CHECK_EQ(f.c.stats.insns, 3);
	CHECK_EQ((uint32_t)f.c.gpr[REG_RAX], 3);
	CHECK_EQ(f.c.rip, FLAT_CODE + 6);
	CHECK_EQ(f.c.engine->run(&f.c), RUN_LIMIT); /* still there */
	f.c.insn_limit = 4;
	CHECK_EQ(f.c.engine->run(&f.c), RUN_LIMIT);
	CHECK_EQ((uint32_t)f.c.gpr[REG_RAX], 4);
}

TEST(the_limit_is_reached_and_the_count_is_exact)
{
	/* l: inc eax; jmp l */
	f.c.insn_limit = 1001;
	CHECK_EQ(flat_run(&f, CODE(INC, 0xeb, 0xfc)), RUN_LIMIT);
	CHECK(f.c.stats.insns >= 1001);
	CHECK_EQ((uint32_t)f.c.gpr[REG_RAX], (f.c.stats.insns + 1) / 2);
}

TEST(a_halt_counts)
{
	CHECK_EQ(flat_run(&f, CODE(INC, INC, 0xf4)), RUN_HALTED);
	CHECK_EQ(f.c.stats.insns, 3);
}

TEST(a_faulting_instruction_does_not_count)
{
	/* inc eax; inc eax; ud2: no IDT, so a shutdown */
	CHECK_EQ(flat_run(&f, CODE(INC, INC, 0x0f, 0x0b)), RUN_SHUTDOWN);
	CHECK_EQ(f.c.stats.insns, 2);
}

TEST(a_load_that_faults_takes_back_what_follows)
{
	/* inc eax; mov ecx, [rdi], which is not mapped; inc eax; inc eax; hlt */
	codetrap_install(); /* cmocka has taken the signal */
	f.c.gpr[REG_RDI] = 1ull << 40;
	CHECK_EQ(flat_run(&f, CODE(INC, 0x8b, 0x0f, INC, INC, 0xf4)), RUN_SHUTDOWN);
	CHECK_EQ(f.c.stats.insns, 1);
	CHECK_EQ((uint32_t)f.c.gpr[REG_RAX], 1);
}

TEST(a_repeated_string_instruction_counts_one)
{
	/* rep stosb; inc eax; rep stosb with rcx = 0; hlt */
	f.c.gpr[REG_RDI] = FLAT_DATA;
	f.c.gpr[REG_RCX] = 10000;
	CHECK_EQ(flat_run(&f, CODE(0xf3, 0xaa, INC, 0xf3, 0xaa, 0xf4)), RUN_HALTED);
	CHECK_EQ(f.c.stats.insns, 4);
	CHECK_EQ(f.c.gpr[REG_RDI], FLAT_DATA + 10000);
}

TEST(a_clock_that_counts_is_exact_inside_a_block)
{
	struct vclock k;

	vclock_init(&k);
	vclock_count(&k, &f.c.stats.insns);
	f.c.tsc_clock = &k;
	/* inc eax three times; rdtsc; mov ebx, eax; inc eax; rdtsc; hlt */
	CHECK_EQ(flat_run(&f, CODE(INC, INC, INC, 0x0f, 0x31, 0x89, 0xc3, INC, 0x0f, 0x31, 0xf4)),
		 RUN_HALTED);
	CHECK_EQ(f.c.gpr[REG_RBX], 3);
	CHECK_EQ(f.c.gpr[REG_RAX], 6);
	CHECK_EQ(f.c.stats.insns, 8);
}

TEST(stores_to_the_code_that_runs_are_counted_once)
{
	/* mov byte [rip+1], 7 (the immediate behind); mov eax, 1; hlt */
	CHECK_EQ(flat_run(&f, CODE(0xc6, 0x05, 0x01, 0, 0, 0, 0x07, 0xb8, 0x01, 0, 0, 0, 0xf4)),
		 RUN_HALTED);
	CHECK_EQ(f.c.gpr[REG_RAX], 7);
	CHECK_EQ(f.c.stats.insns, 3);
}

#define ON(engine, test)                                                                           \
	{                                                                                          \
#test " on " #engine, test, setup_##engine, teardown, NULL                         \
	}
/* The translator does not start beside a sanitizer's shadow memory. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BOTH(test) ON(interp, test)
#else
#define BOTH(test) ON(interp, test), ON(dbt, test)
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON(interp, the_interpreter_stops_exactly_at_the_limit),
		BOTH(the_limit_is_reached_and_the_count_is_exact),
		BOTH(a_halt_counts),
		BOTH(a_faulting_instruction_does_not_count),
		BOTH(a_load_that_faults_takes_back_what_follows),
		BOTH(a_repeated_string_instruction_counts_one),
		BOTH(a_clock_that_counts_is_exact_inside_a_block),
		BOTH(stores_to_the_code_that_runs_are_counted_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
