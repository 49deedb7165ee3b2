/* MOVS and STOS for translated code: page by page on host addresses. */
#include "cpu/dbt/dbt_internal.h"

#include "cpu/x86/tlb.h"

/* Host address of what is at gva, NULL if a plain access does not get there. */
static uint8_t *host_of(struct vcpu *c, gva_t gva, bool write)
{
	const uint8_t *r;
	uint8_t *p;

	if (write ? tlb_hit_write(c, gva, 1, &p) : tlb_hit_read(c, gva, 1, &r))
		return write ? p : (uint8_t *)(uintptr_t)r;
	if (!tlb_plain(c, gva, write, &p))
		return NULL;
	return p + (gva & (PAGE_SIZE - 1));
}

/* Elements of size bytes from gva on, or downwards from it, that lie in its page. */
static uint64_t in_page(gva_t gva, unsigned size, bool down)
{
	uint64_t off = gva & (PAGE_SIZE - 1);

	if (!down)
		return (PAGE_SIZE - off) / size;
	return off + size > PAGE_SIZE ? 0 : off / size + 1;
}

static void store(uint8_t *dst, uint64_t val, unsigned size, uint64_t n)
{
	switch (size) {
	case 1: __asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(val) : "memory"); break;
	case 2: __asm__ volatile("rep stosw" : "+D"(dst), "+c"(n) : "a"(val) : "memory"); break;
	case 4: __asm__ volatile("rep stosl" : "+D"(dst), "+c"(n) : "a"(val) : "memory"); break;
	default: __asm__ volatile("rep stosq" : "+D"(dst), "+c"(n) : "a"(val) : "memory");
	}
}

static void move(uint8_t *dst, const uint8_t *src, unsigned size, uint64_t n)
{
	switch (size) {
	case 1: __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); break;
	case 2: __asm__ volatile("rep movsw" : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); break;
	case 4: __asm__ volatile("rep movsl" : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); break;
	default: __asm__ volatile("rep movsq" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
	}
}

#define MOVE_DOWN(suffix)                                                                          \
	__asm__ volatile("std\n\trep movs" suffix "\n\tcld"                                        \
			 : "+D"(dst), "+S"(src), "+c"(n)                                           \
			 :                                                                         \
			 : "memory", "cc")

static void move_down(uint8_t *dst, const uint8_t *src, unsigned size, uint64_t n)
{
	switch (size) {
	case 1: MOVE_DOWN("b"); break;
	case 2: MOVE_DOWN("w"); break;
	case 4: MOVE_DOWN("l"); break;
	default: MOVE_DOWN("q");
	}
}

uint64_t string_run(struct dbt *d, uint64_t what)
{
	struct dbt_ctx *x = d->ctx;
	unsigned size = what & STRING_SIZE;
	bool down = x->dflag;
	uint64_t mask = what & STRING_32 ? 0xffffffff : ~0ull;
	uint64_t left = what & STRING_REP ? x->gpr[REG_RCX] & mask : 1;

	while (left) {
		gva_t to = x->gpr[REG_RDI] & mask, from = x->gpr[REG_RSI] & mask;
		uint64_t n = MIN(left, in_page(to, size, down));
		uint8_t *dst, *src = NULL;
		uint64_t by;

		if (what & STRING_MOVS)
			n = MIN(n, in_page(from, size, down));
		if (!n)
			return 0; /* one that crosses into the next page */
		if (what & STRING_MOVS && !(src = host_of(d->c, from, false)))
			return 0;
		dst = host_of(d->c, to, true);
		if (!dst)
			return 0;
		if (src && down)
			move_down(dst, src, size, n);
		else if (src)
			move(dst, src, size, n);
		else
			store(down ? dst - (n - 1) * size : dst, x->gpr[REG_RAX], size, n);
		by = down ? -(n * size) : n * size;
		x->gpr[REG_RDI] = (to + by) & mask;
		if (src)
			x->gpr[REG_RSI] = (from + by) & mask;
		left -= n;
		if (what & STRING_REP)
			x->gpr[REG_RCX] = left;
		if (left && atomic_load_explicit(&x->poll, memory_order_relaxed))
			return 0;
	}
	return 1;
}
