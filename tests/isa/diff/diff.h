/* The whole-instruction differential test: what a test is, and the linear memory it runs in.
 *
 * The same short piece of user-mode code runs on the host's CPU (native.h) and on the interpreter
 * (guest.h), from the same registers, flags and memory, until it reaches an INT3 or faults. Then
 * everything that the code can see must be equal (compare.h).
 *
 * Both sides have one window of 16 pages below 4 GiB with nothing beside it. Its linear addresses
 * are the same in every mode; 16-bit code sees it through segments that begin at its base.
 */
#ifndef TESTS_ISA_DIFF_H
#define TESTS_ISA_DIFF_H

#include "base/bits.h"

#define WIN_BASE  0x10000ull
#define WIN_PAGES 16
#define WIN_PAGE  4096ull
#define WIN_SIZE  (WIN_PAGES * WIN_PAGE)

/* What each page of the window is: '-' not mapped, 'x' code, 'w' data, 'r' data that may only be
 * read. Every kind has a border with an unmapped page. */
#define WIN_MAP "-xx-wwwr-w------"

#define CODE_PAGE 1
#define N_CODE	  2
#define N_DATA	  4 /* pages of kind 'w' */
#define RO_PAGE	  7
/* Page of the window that the nth data page is. */
static const uint8_t data_page[N_DATA] = { 4, 5, 6, 9 };

/* Segments that a test can have. The flat ones are Linux's own, the others are in the LDT. */
enum seg_kind {
	KIND_NULL,
	KIND_CODE64,
	KIND_CODE32,
	KIND_FLAT,     /* data */
	KIND_BASED16,  /* 16-bit code at the window */
	KIND_BASED32,  /* 32-bit code at the window */
	KIND_DATA16,   /* the window, 16-bit stack pointer */
	KIND_DATA32,   /* the window, 32-bit stack pointer */
	KIND_LIMITED,  /* the window's first 9.5 pages */
	KIND_DOWN,     /* expand-down: the window from 0x5000 on */
	KIND_READONLY, /* the window */
	N_KINDS
};

struct seg_row {
	uint16_t sel;
	bool ldt, code, db, writable, down;
	uint32_t base, limit; /* limit: highest offset, for expand-down the highest one outside */
};
extern const struct seg_row seg_rows[N_KINDS];

/* Everything that user code can see in registers. */
struct state {
	uint64_t gpr[16], rip, rflags; /* rip: offset in CS */
	uint64_t fs_base, gs_base;
	uint64_t k[8];
	uint32_t mxcsr;
	uint8_t fx[160]; /* bytes 0-23 and 32-159 of a 64-bit FXSAVE image */
	uint8_t zmm[32][64];
};

#define MAX_INSNS  8
#define INSN_BYTES 15 /* the longest instruction */

struct test_insn {
	uint8_t bytes[INSN_BYTES];
	uint8_t len;
	uint16_t id; /* row of insn_table */
};

struct test {
	uint64_t seed, index; /* where it came from */
	uint8_t mode;	      /* 2, 4, 8 */
	uint8_t n;
	uint8_t cs, ss, ds, es; /* enum seg_kind */
	uint8_t image;		/* which memory image */
	uint16_t code_off;	/* of the first instruction in the window */
	struct test_insn insn[MAX_INSNS];
	/* Code that changes itself: instruction writer stores so that written becomes altered,
	 * which is of the same row and length. */
	bool smc;
	uint8_t writer, written;
	uint8_t altered[INSN_BYTES];
	struct state in;
};

/* How a test ended: at an exception, or one of: */
#define END_SYSCALL 0xfd /* the code made a system call */
#define END_HUNG    0xfe
#define END_LOST    0xff /* triple fault */

/* Room for a test's code with the INT3 behind it. */
#define TEST_CODE (MAX_INSNS * INSN_BYTES + 1)

struct result {
	uint8_t vector;
	uint32_t error;
	uint64_t cr2;
	struct state out;
	uint8_t code[TEST_CODE]; /* as the test left it; 0 where it is outside of the code pages */
	uint8_t mem[N_DATA][WIN_PAGE];
};

#define N_IMAGES  16
#define MAX_BATCH 64

/* What the parent and the native child share. */
struct shared {
	volatile uint32_t n;	   /* tests in this batch */
	volatile uint32_t current; /* the one that the child runs */
	bool smc;		   /* tests may write to the code pages; constant */
	struct test test[MAX_BATCH];
	struct result native[MAX_BATCH];
	uint8_t image[N_IMAGES][N_DATA][WIN_PAGE]; /* number 0 is all zero */
	uint8_t ro_page[WIN_PAGE];
};

/* The code's bytes, INT3 behind them; at most TEST_CODE of them. */
unsigned test_code(const struct test *t, uint8_t *code);

/* Arithmetic flags (bits of RFLAGS) that are undefined where execution stopped at offset rip of CS.
 * A test that can branch over an instruction has all that are undefined anywhere. */
uint16_t test_undefined_flags(const struct test *t, uint64_t rip);

/* Linear address of offset 0 in CS. */
static inline uint64_t code_base(const struct test *t)
{
	return seg_rows[t->cs].base;
}

/* Offset in CS of the first instruction. */
static inline uint64_t code_start(const struct test *t)
{
	return WIN_BASE + t->code_off - code_base(t);
}

#endif
