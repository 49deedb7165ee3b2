/* Guest-physical memory: where RAM and ROM are, and what each RAM page is used for.
 *
 * RAM is one memfd, mapped once and contiguous; the hole below 4 GiB is in this map, not in the
 * mapping. Each page of it has a struct page_state that keeps translations and decoded code
 * coherent with stores, whoever makes them: a vCPU, a device, a loader.
 */
#ifndef MEM_PHYSMAP_H
#define MEM_PHYSMAP_H

#include "base/bits.h"

#include <stdatomic.h>

struct err;

#define PAGE_SIZE  4096ull
#define PAGE_SHIFT 12

/* If ram_alone, the host addresses that lie a multiple of RAM_ALIAS from guest RAM have nothing
 * mapped: who finds RAM by a linear address of which it ignores bits 44 and up goes astray to
 * nowhere. It holds but where the process has no such place, under address sanitizers. */
#define RAM_ALIAS	    (1ull << 44)
#define N_RAM_ALIASES	    8 /* in the user half of the host's 47 bits */
#define PHYSMAP_MAX_REGIONS 16
#define PHYSMAP_MAX_VCPUS   64 /* page_state.writers has a bit for each */

/* What engines know of a RAM page. A page holds code when code_lines != 0.
 *
 * Rules. (1) A vCPU that wants to store to a page without calling physmap_stored() sets its bit
 * in writers first and then looks at code_lines (both sequentially consistent): it may only go on
 * if that is 0. (2) Who decodes code from a page sets code_lines first, and must compare the
 * bytes again at every use for as long as writers has another vCPU's bit, since that one may
 * store unseen; it asks that vCPU to drop its shortcut (vcpu.drop_ring). (3) A store that hits
 * code_lines clears those, or all, and counts code_gen up: code decoded from these lines is void,
 * and who does not know of lines takes all code of the page for void. (4) Who leaves writers counts
 * code_gen up first, for what was decoded while it stored unseen.
 */
struct page_state {
	_Atomic uint64_t code_lines; /* bit n: bytes [64n, 64n+64) were decoded as code */
	_Atomic uint64_t writers;    /* bit n: vCPU n may store with no notice */
	_Atomic uint32_t code_gen;   /* counts stores that hit decoded code */
	_Atomic uint8_t dirty;	     /* set by every store since the dirty log last read it */
	_Atomic uint8_t code_hits;   /* stores that hit code since code_lines was cleared whole */
};

/* Stores that hit code of a page clear what they hit; so many of them, and the page is taken for
 * data from then on: all of its lines are cleared. */
#define PAGE_CODE_HITS 16

struct phys_region {
	gpa_t base;
	uint64_t len;  /* bytes, a multiple of PAGE_SIZE */
	uint8_t *host; /* its first byte */
	bool rom;      /* stores are dropped */
};

struct physmap {
	struct phys_region region[PHYSMAP_MAX_REGIONS]; /* by base, not overlapping */
	unsigned n_regions;

	uint8_t *ram; /* the one mapping; owned */
	uint64_t ram_bytes;
	bool ram_alone;		  /* see RAM_ALIAS */
	int ram_fd;		  /* memfd behind it; owned */
	struct page_state *pages; /* one for each page of ram; owned */
	uint64_t a20_mask;	  /* ~0, or ~BIT(20) while the A20 gate is shut */
	/* Called after a store has hit code of the page, with the lines that are cleared, by any
	 * thread; NULL for nobody. Set while no vCPU runs. */
	void (*on_code_hit)(void *arg, struct page_state *ps, uint64_t lines);
	void *on_code_hit_arg;
	_Atomic uint64_t code_drops; /* counts code_gen bumps of all pages, for statistics */
};

/* Make guest RAM of ram_bytes (a multiple of 4 KiB) and map all that fits below hole_base at 0,
 * the rest from 4 GiB up. Errors: the host's. Call physmap_fini when done.
 */
int physmap_init(struct physmap *pm, uint64_t ram_bytes, gpa_t hole_base, struct err *err);
void physmap_fini(struct physmap *pm);

/* Add ROM that host backs; host is borrowed and must outlive the map. Not while vCPUs run.
 * -ENOSPC, -EEXIST.
 */
int physmap_add_rom(struct physmap *pm, gpa_t base, uint64_t len, uint8_t *host, struct err *err);

/* Host address of [gpa, gpa+len) if all of it lies in one region; NULL otherwise (a hole, MMIO,
 * the end). *rom tells whether it may only be read; rom may be NULL. Any thread; valid for the
 * life of the map. A guest can rewrite the bytes at any time: copy once, check, use.
 */
uint8_t *physmap_host(const struct physmap *pm, gpa_t gpa, uint64_t len, bool *rom);

/* Host address of gpa, and *len_bytes (not 0) shortened to what of it lies in the same region; NULL
 * if gpa is in none. Otherwise as physmap_host.
 */
uint8_t *physmap_span(const struct physmap *pm, gpa_t gpa, uint64_t *len_bytes, bool *rom);

/* The state of the RAM page that holds host byte p; NULL if p is not in RAM (ROM). */
static inline struct page_state *physmap_page(const struct physmap *pm, const uint8_t *p)
{
	uint64_t off = (uint64_t)(p - pm->ram);

	return off < pm->ram_bytes ? &pm->pages[off >> PAGE_SHIFT] : NULL;
}

/* Tell the map that [p, p+len), which lies in one page of RAM, has been stored to by somebody
 * who is not in the page's writers. Call it after the store. Returns true if decoded code was hit.
 */
bool physmap_stored(struct physmap *pm, const uint8_t *p, uint64_t len);
/* The same for a range of any length in one region. */
void physmap_stored_range(struct physmap *pm, const uint8_t *p, uint64_t len);

/* Give the whole pages of RAM in [p, p+len), which lies in one region, back to the host: they read
 * as zeros until they are stored to. Counts as a store to them. Returns the bytes given back: 0 for
 * ROM or where the host refuses. Any thread.
 */
uint64_t physmap_discard(struct physmap *pm, uint8_t *p, uint64_t len);

/* Copy between guest memory and a buffer, over region borders. False if a byte of the range is
 * neither RAM nor ROM; then nothing before that byte is undone. Writes drop what falls on ROM and
 * mark pages dirty. Any thread.
 */
bool physmap_read(struct physmap *pm, gpa_t gpa, void *buf, uint64_t len);
bool physmap_write(struct physmap *pm, gpa_t gpa, const void *buf, uint64_t len);

#endif
