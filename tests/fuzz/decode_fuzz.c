/* Arbitrary bytes through the decoder in its three modes. What it promises whatever the bytes:
 * nothing beyond n is read (the sanitizer's matter), lengths and operands are in range, the same
 * bytes decode the same.
 */
#include <assert.h>
#include <stdlib.h>

#include "cpu/x86/decode.h"
#include "cpu/x86/decode_tables.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct insn *i, size_t n)
{
	assert(i->len >= 1 && i->len <= INSN_MAX_LEN && i->len <= n);
	assert(i->id > INSN_INVALID && i->id < N_INSN && i->n_opds <= INSN_MAX_OPDS);
	assert(i->op == insn_table[i->id].op && i->op < N_INSN_OPS);
	assert(i->base < N_GPR_SLOTS && i->seg <= SEG_GS && i->scale <= 3);
	assert(i->imm_at + i->imm_len <= i->len && i->disp_at + i->disp_len <= i->len);
	for (unsigned k = 0; k < i->n_opds; k++) {
		assert(i->opd[k].kind != OPD_NONE && i->opd[k].kind <= OPD_VSIB);
		assert(i->opd[k].reg < 32);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* A copy of exactly that size, so that a read beyond it is seen. */
	uint8_t *exact = malloc(size ? size : 1);

	assert(exact);
	if (size)
		memcpy(exact, data, size);
	for (unsigned mode = 2; mode <= 8; mode *= 2) {
		struct insn i, again;
		enum decode_result r = decode(exact, size, mode, &i);

		assert(decode(exact, size, mode, &again) == r);
		if (r != DECODE_OK)
			continue;
		check(&i, size);
		assert(!memcmp(&i, &again, sizeof(i)));
	}
	free(exact);
	return 0;
}
