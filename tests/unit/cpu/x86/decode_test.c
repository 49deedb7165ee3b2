/* The decoder against hand-picked cases, against its own promises, and against Zydis.
 *
 * The comparison with Zydis is seeded: DECODE_SEED and DECODE_COUNT change its start and its
 * length; a failure names the seed and the bytes.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "check.h"

#include "decode_gen.h"
#include "decode_oracle.h"

#define DEFAULT_COUNT 20000000ul
#define DEFAULT_SEED  20240601ul

/* ---- by hand ---- */

struct example {
	uint8_t mode, n;
	uint8_t code[16];
	enum decode_result result;
	uint8_t len;
	uint16_t op;
};

#define CODE(...)                                                                                  \
	sizeof((uint8_t[]){ __VA_ARGS__ }),                                                        \
	{                                                                                          \
		__VA_ARGS__                                                                        \
	}
/* clang-format off */
static const struct example examples[] = {
	/* Prefixes: REX counts only before the opcode, the last of F2 and F3 wins. */
	{ 8, CODE(0x48, 0x66, 0x01, 0xd8), DECODE_OK, 4, OP_ADD },
	{ 8, CODE(0xf2, 0xf3, 0x90), DECODE_OK, 3, OP_PAUSE },
	{ 8, CODE(0xf3, 0xf2, 0x90), DECODE_OK, 3, OP_NOP },
	{ 8, CODE(0xf3, 0x41, 0x90), DECODE_OK, 3, OP_PAUSE },
	{ 8, CODE(0x41, 0x90), DECODE_OK, 2, OP_XCHG },
	{ 8, CODE(0x66, 0x90), DECODE_OK, 2, OP_NOP },
	/* F3 makes BSF TZCNT, F2 nothing; CRC32 has F2 and takes 66 as its size. */
	{ 8, CODE(0xf3, 0x0f, 0xbc, 0xc0), DECODE_OK, 4, OP_TZCNT },
	{ 8, CODE(0xf2, 0x0f, 0xbc, 0xc0), DECODE_OK, 4, OP_BSF },
	{ 8, CODE(0x66, 0xf2, 0x0f, 0x38, 0xf1, 0xc0), DECODE_OK, 6, OP_CRC32 },
	{ 8, CODE(0x66, 0x0f, 0x38, 0xf1, 0x00), DECODE_OK, 5, OP_MOVBE },
	{ 8, CODE(0xf3, 0x0f, 0x38, 0xf1, 0x00), DECODE_UD, 5, 0 },
	/* Prefixes that the processor ignores, seen on hardware. */
	{ 8, CODE(0xf3, 0x0f, 0xc7, 0x0e), DECODE_OK, 4, OP_CMPXCHG8B },
	{ 8, CODE(0x66, 0x0f, 0x01, 0xf9), DECODE_OK, 4, OP_RDTSCP },
	{ 8, CODE(0x66, 0x0f, 0x01, 0xd0), DECODE_UD, 4, 0 },
	/* LOCK wants a memory destination. */
	{ 8, CODE(0xf0, 0x01, 0x00), DECODE_OK, 3, OP_ADD },
	{ 8, CODE(0xf0, 0x01, 0xc0), DECODE_UD, 3, 0 },
	{ 8, CODE(0xf0, 0x03, 0x00), DECODE_UD, 3, 0 },
	{ 8, CODE(0xf0, 0x39, 0x00), DECODE_UD, 3, 0 },
	{ 8, CODE(0xf2, 0xf0, 0x87, 0x00), DECODE_OK, 4, OP_XCHG },
	/* Near branches: 66 is ignored in 64-bit mode, makes rel16 elsewhere. */
	{ 8, CODE(0x66, 0xe8, 1, 2, 3, 4), DECODE_OK, 6, OP_CALL },
	{ 4, CODE(0x66, 0xe8, 1, 2, 3, 4), DECODE_OK, 4, OP_CALL },
	{ 8, CODE(0x66, 0xc7, 0xf8, 1, 2), DECODE_OK, 5, OP_XBEGIN },
	/* Only in one mode or the other. */
	{ 8, CODE(0x27), DECODE_UD, 1, 0 },
	{ 4, CODE(0x27), DECODE_OK, 1, OP_DAA },
	{ 8, CODE(0xea, 0, 0, 0, 0, 0, 0), DECODE_UD, 1, 0 },
	{ 2, CODE(0xea, 1, 2, 3, 4), DECODE_OK, 5, OP_JMP_FAR },
	{ 8, CODE(0x0f, 0x05), DECODE_OK, 2, OP_SYSCALL },
	{ 4, CODE(0x0f, 0x05), DECODE_UD, 2, 0 },
	{ 4, CODE(0x48), DECODE_OK, 1, OP_DEC },
	/* LES, LDS and BOUND are VEX and EVEX when what follows looks like registers. */
	{ 4, CODE(0xc5, 0x00), DECODE_OK, 2, OP_LDS },
	{ 4, CODE(0xc5, 0xf8, 0x77), DECODE_OK, 3, OP_VZERO },
	{ 4, CODE(0x62, 0x00), DECODE_OK, 2, OP_BOUND },
	{ 4, CODE(0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc0), DECODE_OK, 6, OP_VEC },
	{ 8, CODE(0x66, 0xc5, 0xf8, 0x77), DECODE_UD, 3, 0 },
	{ 8, CODE(0x40, 0xc5, 0xf8, 0x77), DECODE_UD, 3, 0 },
	{ 8, CODE(0x40, 0x65, 0xc5, 0xf8, 0x77), DECODE_OK, 5, OP_VZERO },
	/* EVEX: rounding makes any L'L 512 bits; 3 is reserved even for scalars. */
	{ 8, CODE(0x62, 0xf1, 0x7c, 0x78, 0x58, 0xc0), DECODE_OK, 6, OP_VEC },
	{ 8, CODE(0x62, 0xf1, 0x7c, 0x68, 0x58, 0xc0), DECODE_UD, 6, 0 },
	{ 8, CODE(0x62, 0xf1, 0x7e, 0x68, 0x58, 0xc0), DECODE_UD, 6, 0 },
	{ 8, CODE(0x62, 0xf1, 0x7c, 0xc8, 0x58, 0xc0), DECODE_UD, 6, 0 },
	/* Gathers: registers must differ; a VEX gather needs a SIB byte. */
	{ 8, CODE(0xc4, 0xe2, 0x6d, 0x92, 0x0c, 0x01), DECODE_OK, 6, OP_GATHER },
	{ 8, CODE(0xc4, 0xe2, 0x75, 0x92, 0x0c, 0x01), DECODE_UD, 6, 0 },
	{ 8, CODE(0xc4, 0xe2, 0x6d, 0x92, 0x08), DECODE_UD, 5, 0 },
	/* Control registers: any mod is a register; CR1 is none. */
	{ 8, CODE(0x0f, 0x20, 0x00), DECODE_OK, 3, OP_MOV_FROM_CR },
	{ 8, CODE(0x0f, 0x20, 0x08), DECODE_UD, 3, 0 },
	{ 8, CODE(0x44, 0x0f, 0x20, 0xc0), DECODE_OK, 4, OP_MOV_FROM_CR },
	/* Undefined on purpose, with their lengths. */
	{ 8, CODE(0x0f, 0x0b), DECODE_OK, 2, OP_UD },
	{ 8, CODE(0x0f, 0xb9, 0x40, 0x01), DECODE_OK, 4, OP_UD },
	{ 8, CODE(0x0f, 0xff, 0xc0), DECODE_OK, 3, OP_UD },
	/* Hints and what this processor model does not have. */
	{ 8, CODE(0xf3, 0x0f, 0x1e, 0xfa), DECODE_OK, 4, OP_NOP },
	{ 8, CODE(0xf3, 0x48, 0x0f, 0x1e, 0xc8), DECODE_OK, 5, OP_NOP },
	{ 8, CODE(0x66, 0x0f, 0x1a, 0xc0), DECODE_OK, 4, OP_NOP },
	{ 8, CODE(0x0f, 0x0d, 0x08), DECODE_OK, 3, OP_PREFETCH },
	{ 8, CODE(0xf3, 0x0f, 0x09), DECODE_OK, 3, OP_WBINVD },
	{ 8, CODE(0x0f, 0x1c, 0x00), DECODE_OK, 3, OP_NOP },
	{ 8, CODE(0x0f, 0x0f, 0xc0, 0x9e), DECODE_UD, 2, 0 },
};
/* clang-format on */

TEST(examples_decode_as_the_manual_says)
{
	for (size_t k = 0; k < ARRAY_SIZE(examples); k++) {
		const struct example *e = &examples[k];
		struct insn i;
		enum decode_result r = decode(e->code, e->n, e->mode, &i);

		if (r != e->result || i.len != e->len || (r == DECODE_OK && i.op != e->op))
			fail_msg("example %zu: result %d, length %u, op %u", k, r, i.len, i.op);
		if (r == DECODE_OK) {
			CHECK_MEM(i.bytes, e->code, i.len);
			CHECK_EQ(i.bytes[i.len], 0);
		}
	}
}

static struct insn must(unsigned mode, const char *code, size_t n)
{
	struct insn i;

	CHECK_EQ(decode((const uint8_t *)code, n, mode, &i), DECODE_OK);
	CHECK_EQ(i.len, n);
	return i;
}
#define MUST(mode, code) must(mode, code, sizeof(code) - 1)

TEST(addresses_of_every_form)
{
	struct insn i = MUST(8, "\x48\x8b\x05\x10\x00\x00\x00");

	CHECK(i.has_mem && i.base == REG_BLOCK && i.index == REG_ZERO && i.disp == 0x10);
	CHECK(i.seg == SEG_DS && i.disp_at == 3 && i.disp_len == 4 && i.opd[1].size == 8);
	i = MUST(4, "\x8b\x05\x10\x00\x00\x00");
	CHECK(i.base == REG_ZERO && i.disp == 0x10 && i.adsize == 4);
	i = MUST(2, "\x8b\x42\xfe");
	CHECK(i.base == REG_RBP && i.index == REG_RSI && i.disp == -2 && i.seg == SEG_SS);
	i = MUST(8, "\x64\x42\x8b\x44\xa5\x08");
	CHECK(i.base == REG_RBP && i.index == REG_R12 && i.scale == 2 && i.seg == SEG_FS);
	CHECK(i.prefix == PFX_SEG);
	/* ES is no override in 64-bit mode, and does not undo FS. */
	i = MUST(8, "\x64\x26\x8b\x00");
	CHECK(i.seg == SEG_FS);
	i = MUST(8, "\x26\x8b\x00");
	CHECK(i.seg == SEG_DS && i.prefix == 0);
	/* R12 needs a SIB byte as RSP does and is no stack; R13 none. */
	i = MUST(8, "\x41\x8b\x04\x24");
	CHECK(i.base == REG_R12 && i.index == REG_ZERO && i.seg == SEG_DS);
	i = MUST(8, "\x67\x41\x8b\x04\x25\x00\x00\x00\x00");
	CHECK(i.base == REG_ZERO && i.adsize == 4);
	i = MUST(8, "\x48\xa1\x88\x77\x66\x55\x44\x33\x22\x91");
	CHECK((uint64_t)i.disp == 0x9122334455667788 && i.base == REG_ZERO && i.disp_len == 8);
	CHECK(i.opd[0].kind == OPD_GPR && i.opd[1].kind == OPD_MEM && i.opd[1].size == 8);
}

TEST(immediates_extend_as_the_instruction_wants)
{
	struct insn i = MUST(8, "\x48\x83\xc0\xff");

	CHECK(i.imm == -1 && i.imm_at == 3 && i.imm_len == 1 && i.opd[1].size == 8);
	i = MUST(8, "\x48\xb8\x88\x77\x66\x55\x44\x33\x22\x11");
	CHECK(i.imm == 0x1122334455667788 && i.imm_len == 8);
	i = MUST(8, "\xc1\xe0\xff");
	CHECK(i.imm == 0xff && i.opd[1].size == 1);
	i = MUST(8, "\xc8\x34\xf2\x05");
	CHECK(i.imm == 0xf234 && i.imm2 == 5 && i.opsize == 8);
	i = MUST(4, "\x9a\x01\x02\x03\x84\x08\x00");
	CHECK(i.imm == 0x84030201 && i.imm2 == 8 && i.opd[0].kind == OPD_FAR);
	i = MUST(8, "\xeb\xfe");
	CHECK(i.imm == -2 && i.opd[0].kind == OPD_REL);
}

TEST(byte_registers_depend_on_rex)
{
	struct insn i = MUST(8, "\x88\xe0");

	CHECK(i.opd[0].kind == OPD_GPR && i.opd[0].reg == REG_RAX);
	CHECK(i.opd[1].kind == OPD_GPRH && i.opd[1].reg == 0);
	i = MUST(8, "\x40\x88\xe0");
	CHECK(i.opd[1].kind == OPD_GPR && i.opd[1].reg == REG_RSP);
}

TEST(compressed_displacements_and_broadcast)
{
	/* vaddps zmm0, zmm0, [rax+64]; {1to16} [rax+4]; vaddss [rax+4] */
	struct insn i = MUST(8, "\x62\xf1\x7c\x48\x58\x40\x01");

	CHECK(i.disp == 64 && i.opd[2].size == 64 && i.vl == 64 && !i.bcast);
	i = MUST(8, "\x62\xf1\x7c\x59\x58\x40\x01");
	CHECK(i.disp == 4 && i.opd[2].size == 4 && i.bcast && i.mask == 1);
	i = MUST(8, "\x62\xf1\x7e\x08\x58\x40\x01");
	CHECK(i.disp == 4 && i.opd[2].size == 4);
	/* vpcompressd [rax+4], zmm0: the element counts. vpgatherdq zmm0{k1}, [rax+ymm17+8] */
	i = MUST(8, "\x62\xf2\x7d\x48\x8b\x40\x01");
	CHECK(i.disp == 4 && i.opd[0].size == 64);
	i = MUST(8, "\x62\xf2\xfd\x41\x90\x44\x08\x01");
	CHECK(i.disp == 8 && i.index == 17 && i.vsib_len == 32 && i.opd[1].kind == OPD_VSIB);
	CHECK(i.opd[1].size == 8 && i.opd[0].kind == OPD_ZMM);
	/* vaddps zmm0, zmm1, zmm2, {rz-sae} */
	i = MUST(8, "\x62\xf1\x74\x78\x58\xc2");
	CHECK(i.rc == 0x83 && i.vl == 64 && i.opd[1].reg == 1);
}

/* ---- promises ---- */

/* Bytes that end where unmapped memory begins. */
static uint8_t *cliff(void)
{
	uint8_t *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	CHECK_EQ(mprotect(p + 4096, 4096, PROT_NONE), 0);
	return p + 4096;
}

TEST(part_of_an_instruction_asks_for_more_and_reads_no_further)
{
	struct gen g = { .seed = DEFAULT_SEED };
	uint8_t *end = cliff(), code[16];

	for (unsigned k = 0; k < 200000; k++) {
		unsigned mode = gen_bytes(&g, code);
		struct insn whole, part;
		enum decode_result r = decode(code, INSN_MAX_LEN, mode, &whole);

		for (unsigned n = 0; n <= INSN_MAX_LEN; n++) {
			enum decode_result q;

			memcpy(end - n, code, n);
			q = decode(end - n, n, mode, &part);
			if (r == DECODE_LONG || n < whole.len)
				CHECK_EQ(q, n < INSN_MAX_LEN ? DECODE_MORE : DECODE_LONG);
			else
				CHECK_EQ(q, r);
			if (q == DECODE_OK)
				CHECK_MEM(&part, &whole, sizeof(part));
		}
	}
	munmap(end - 4096, 8192);
}

TEST(bytes_after_the_instruction_do_not_count)
{
	struct gen g = { .seed = DEFAULT_SEED + 1 };
	uint8_t code[16], longer[64];

	for (unsigned k = 0; k < 200000; k++) {
		unsigned mode = gen_bytes(&g, code);
		struct insn a, b;

		if (decode(code, INSN_MAX_LEN, mode, &a) != DECODE_OK)
			continue;
		memset(longer, (int)k, sizeof(longer));
		memcpy(longer, code, a.len);
		CHECK_EQ(decode(longer, sizeof(longer), mode, &b), DECODE_OK);
		CHECK_MEM(&a, &b, sizeof(a));
	}
}

TEST(fifteen_bytes_are_the_most)
{
	uint8_t code[64];
	struct insn i;

	memset(code, 0x66, sizeof(code));
	code[14] = 0x90;
	CHECK_EQ(decode(code, sizeof(code), 8, &i), DECODE_OK);
	CHECK_EQ(i.len, 15);
	code[14] = 0x66;
	code[15] = 0x90;
	CHECK_EQ(decode(code, sizeof(code), 8, &i), DECODE_LONG);
	CHECK_EQ(decode(code, 15, 8, &i), DECODE_LONG);
	CHECK_EQ(decode(code, 14, 8, &i), DECODE_MORE);
	/* The displacement's last byte is the 16th. */
	code[9] = 0x8b;
	code[10] = 0x80;
	CHECK_EQ(decode(code, 14, 8, &i), DECODE_MORE);
	CHECK_EQ(decode(code, 15, 8, &i), DECODE_OK);
	memset(code, 0x66, 10);
	code[10] = 0x8b;
	code[11] = 0x80;
	CHECK_EQ(decode(code, 15, 8, &i), DECODE_LONG);
}

/* ---- the table ---- */

TEST(rows_are_consistent)
{
	for (unsigned id = 1; id < N_INSN; id++) {
		const struct insn_desc *row = &insn_table[id];
		bool bad = !row->text || !*row->text || row->op == OP_INVALID ||
			   row->op >= N_INSN_OPS || row->feature >= N_CPU_FEATURES;

		bad |= (row->fl_read || row->attr & INSN_READS_FL) &&
		       !(row->fl_read && row->attr & INSN_READS_FL);
		bad |= (row->attr & INSN_LOCKABLE) && !(row->attr & INSN_MEM_DST);
		bad |= (row->attr & INSN_NO_DST) && row->attr & (INSN_SRC_DST | INSN_MEM_DST);
		bad |= (row->fl_write & row->fl_undef) != 0;
		if (bad)
			fail_msg("row %u, %s", id, row->text);
	}
}

/* ---- Zydis ---- */

static unsigned long setting(const char *name, unsigned long otherwise)
{
	const char *text = getenv(name);

	return text ? strtoul(text, NULL, 0) : otherwise;
}

static const char *hex(const uint8_t *code)
{
	static char text[3 * INSN_MAX_LEN + 1];

	for (unsigned k = 0; k < INSN_MAX_LEN; k++)
		snprintf(text + 3 * k, 4, "%02x ", code[k]);
	return text;
}

TEST(random_bytes_decode_as_zydis_decodes_them)
{
	unsigned long seed = setting("DECODE_SEED", DEFAULT_SEED);
	unsigned long count = setting("DECODE_COUNT", DEFAULT_COUNT);
	struct gen g = { .seed = seed };
	static unsigned seen[N_INSN];
	struct difference d;
	struct oracle o;
	uint8_t code[16];

	oracle_init(&o);
	for (unsigned long k = 0; k < count; k++) {
		unsigned mode = gen_bytes(&g, code);
		struct insn i;

		if (oracle_differs(&o, code, INSN_MAX_LEN, mode, &d))
			fail_msg("seed %lu, string %lu, %u-bit: %s: %s %s", seed, k, mode * 8,
				 hex(code), d.what, d.detail);
		if (decode(code, INSN_MAX_LEN, mode, &i) == DECODE_OK)
			seen[i.id]++;
	}
	/* Every row was compared, so none is unreachable. */
	for (unsigned id = 1; count >= DEFAULT_COUNT && id < N_INSN; id++)
		if (!seen[id])
			fail_msg("seed %lu: no string decoded to row %u, %s", seed, id,
				 insn_table[id].text);
}

TESTS(T(examples_decode_as_the_manual_says), T(addresses_of_every_form),
      T(immediates_extend_as_the_instruction_wants), T(byte_registers_depend_on_rex),
      T(compressed_displacements_and_broadcast),
      T(part_of_an_instruction_asks_for_more_and_reads_no_further),
      T(bytes_after_the_instruction_do_not_count), T(fifteen_bytes_are_the_most),
      T(rows_are_consistent), T(random_bytes_decode_as_zydis_decodes_them))
