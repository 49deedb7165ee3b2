/* Byte strings for decoder tests: random prefixes on every opcode of every map, mutations of the
 * string before, and noise. Deterministic from the seed.
 */
#ifndef TESTS_DECODE_GEN_H
#define TESTS_DECODE_GEN_H

#include <stdint.h>
#include <string.h>

#include "base/bits.h"

struct gen {
	uint64_t seed; /* changes; any value */
	uint8_t last[16];
	unsigned last_mode;
};

/* splitmix64 */
static inline uint64_t gen_word(struct gen *g)
{
	uint64_t z = g->seed += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static inline unsigned gen_below(struct gen *g, unsigned n)
{
	return gen_word(g) % n;
}

static inline unsigned gen_prefixes(struct gen *g, uint8_t *p, bool many)
{
	static const uint8_t prefixes[] = { 0x66, 0xf2, 0xf3, 0x67, 0xf0, 0x2e, 0x36, 0x3e,
					    0x26, 0x64, 0x65, 0x48, 0x41, 0x66, 0xf3, 0xf2 };
	unsigned n = gen_below(g, many ? 8 : 3);

	for (unsigned i = 0; i < n; i++)
		p[i] = prefixes[gen_below(g, sizeof(prefixes))];
	return n;
}

static inline unsigned gen_legacy(struct gen *g, uint8_t *p)
{
	unsigned n = gen_prefixes(g, p, gen_below(g, 8) == 0);
	unsigned map = gen_below(g, 4);

	if (gen_below(g, 2))
		p[n++] = 0x40 + gen_below(g, 16);
	if (map)
		p[n++] = 0x0f;
	if (map > 1)
		p[n++] = map == 2 ? 0x38 : 0x3a;
	return n;
}

/* Mostly what is no #UD by itself: few reserved bits, vvvv all ones half of the time. */
static inline unsigned gen_vex(struct gen *g, uint8_t *p)
{
	unsigned n = gen_below(g, 16) ? 0 : gen_prefixes(g, p, false);
	unsigned vvvv = gen_below(g, 2) ? 0x78 : gen_word(g) & 0x78;

	if (gen_below(g, 2)) {
		p[n++] = 0xc5;
		p[n++] = (gen_word(g) & 0x87) | vvvv;
		return n;
	}
	p[n++] = 0xc4;
	p[n++] = (gen_word(g) & 0xe0) | (gen_below(g, 64) ? 1 + gen_below(g, 3) : gen_below(g, 32));
	p[n++] = (gen_word(g) & 0x87) | vvvv;
	return n;
}

static inline unsigned gen_evex(struct gen *g, uint8_t *p)
{
	unsigned n = gen_below(g, 16) ? 0 : gen_prefixes(g, p, false);
	bool v = gen_below(g, 2);

	p[n++] = 0x62;
	p[n++] = (gen_word(g) & 0xf0) | (gen_below(g, 64) ? 1 + gen_below(g, 3) : gen_below(g, 16));
	p[n++] =
		(gen_word(g) & 0x83) | (gen_below(g, 64) ? 4 : 0) | (v ? 0x78 : gen_word(g) & 0x78);
	p[n] = gen_word(g);
	if (gen_below(g, 4))
		p[n] &= 0x7f; /* z */
	if (gen_below(g, 4))
		p[n] &= 0xef; /* b */
	if (gen_below(g, 2))
		p[n] &= 0xf8; /* aaa */
	if (v)
		p[n] |= 8; /* V' */
	return n + 1;
}

/* Fill 15 bytes; returns the mode: 2, 4, 8. */
static inline unsigned gen_bytes(struct gen *g, uint8_t *code)
{
	unsigned kind = gen_below(g, 16), n = 0;
	unsigned mode = gen_below(g, 2) ? 8 : gen_below(g, 3) ? 4 : 2;

	for (unsigned i = 0; i < 16; i += 8)
		store64(code + i, gen_word(g));
	if (kind < 5) {
		n = gen_legacy(g, code);
	} else if (kind < 9) {
		n = gen_vex(g, code);
	} else if (kind < 14) {
		n = gen_evex(g, code);
	} else if (kind < 15) {
		memcpy(code, g->last, 16);
		code[gen_below(g, 8)] ^= 1u << gen_below(g, 8);
		mode = g->last_mode;
	}
	/* Registers or memory, evenly, and small displacements at the place of a ModRM byte. */
	if (n && n < 14 && gen_below(g, 2))
		code[n + 1] |= 0xc0;
	memcpy(g->last, code, 16);
	g->last_mode = mode;
	return mode;
}

#endif
