#include "mem/physmap.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Where RAM is tried to be mapped: steps of this. */
#define RAM_AT 0x010000000000ull

static int add_region(struct physmap *pm, struct phys_region r, struct err *err)
{
	unsigned at = 0;

	if (pm->n_regions == PHYSMAP_MAX_REGIONS)
		return err_say(err, ENOSPC, "the physical map has no room for another region");
	while (at < pm->n_regions && pm->region[at].base < r.base)
		at++;
	if ((at > 0 && pm->region[at - 1].base + pm->region[at - 1].len > r.base) ||
	    (at < pm->n_regions && r.base + r.len > pm->region[at].base))
		return err_say(err, EEXIST, "memory at %#llx overlaps another region",
			       (unsigned long long)r.base);
	memmove(&pm->region[at + 1], &pm->region[at], (pm->n_regions - at) * sizeof(r));
	pm->region[at] = r;
	pm->n_regions++;
	return 0;
}

static void *map_anon(uint64_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* Take [at, at+len) for nothing, so that nothing else is mapped there. */
static bool reserve(uintptr_t at, uint64_t len)
{
	void *want = (void *)at;
	void *p = mmap(want, len, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

	if (p != MAP_FAILED && p != want)
		munmap(p, len);
	return p == want;
}

static void unreserve(uintptr_t at, uint64_t len, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		munmap((void *)(at + k * RAM_ALIAS), len);
}

/* Map the RAM where its address modulo RAM_ALIAS is free in all of the process (physmap.h). */
static void *map_ram(struct physmap *pm)
{
#ifdef __SANITIZE_THREAD__
	/* Its shadow leaves no such room; and it makes address 0 of one that it does not like. */
	return NULL;
#endif
	for (uintptr_t at = RAM_AT; at + pm->ram_bytes < RAM_ALIAS; at += RAM_AT) {
		unsigned k = 0;

		while (k < N_RAM_ALIASES && reserve(at + k * RAM_ALIAS, pm->ram_bytes))
			k++;
		if (k == N_RAM_ALIASES) {
			void *ram = mmap((void *)at, pm->ram_bytes, PROT_READ | PROT_WRITE,
					 MAP_SHARED | MAP_NORESERVE | MAP_FIXED, pm->ram_fd, 0);

			if (ram != MAP_FAILED)
				return ram;
		}
		unreserve(at, pm->ram_bytes, k);
		if (errno != EEXIST)
			break;
	}
	return NULL;
}

int physmap_init(struct physmap *pm, uint64_t ram_bytes, gpa_t hole_base, struct err *err)
{
	uint64_t low = MIN(ram_bytes, hole_base);
	void *ram;

	*pm = (struct physmap){ .ram_fd = -1, .a20_mask = ~0ull, .ram_bytes = ram_bytes };
	pm->ram_fd = memfd_create("guest-ram", MFD_CLOEXEC);
	if (pm->ram_fd < 0)
		return err_set(err, errno, "memory for the guest");
	if (ftruncate(pm->ram_fd, (off_t)ram_bytes) < 0) {
		int ret = err_set(err, errno, "%llu MiB of memory for the guest",
				  (unsigned long long)(ram_bytes / MiB));

		physmap_fini(pm);
		return ret;
	}
	ram = map_ram(pm);
	pm->ram_alone = ram;
	if (!ram)
		ram = mmap(NULL, ram_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
			   pm->ram_fd, 0);
	if (ram == MAP_FAILED)
		goto no_memory;
	pm->ram = ram;
	pm->pages = map_anon((ram_bytes >> PAGE_SHIFT) * sizeof(*pm->pages));
	if (!pm->pages)
		goto no_memory;
	madvise(ram, ram_bytes, MADV_HUGEPAGE);
	add_region(pm, (struct phys_region){ .base = 0, .len = low, .host = pm->ram }, NULL);
	if (ram_bytes > low)
		add_region(pm,
			   (struct phys_region){
				   .base = 4 * GiB, .len = ram_bytes - low, .host = pm->ram + low },
			   NULL);
	return 0;

no_memory:;
	int ret = err_set(err, errno, "map %llu MiB of memory for the guest",
			  (unsigned long long)(ram_bytes / MiB));
	physmap_fini(pm);
	return ret;
}

void physmap_fini(struct physmap *pm)
{
	if (pm->pages)
		munmap(pm->pages, (pm->ram_bytes >> PAGE_SHIFT) * sizeof(*pm->pages));
	if (pm->ram)
		unreserve((uintptr_t)pm->ram, pm->ram_bytes, pm->ram_alone ? N_RAM_ALIASES : 1);
	if (pm->ram_fd >= 0)
		close(pm->ram_fd);
	*pm = (struct physmap){ .ram_fd = -1 };
}

int physmap_add_rom(struct physmap *pm, gpa_t base, uint64_t len, uint8_t *host, struct err *err)
{
	return add_region(
		pm, (struct phys_region){ .base = base, .len = len, .host = host, .rom = true },
		err);
}

uint8_t *physmap_host(const struct physmap *pm, gpa_t gpa, uint64_t len, bool *rom)
{
	gpa &= pm->a20_mask;
	for (unsigned i = 0; i < pm->n_regions; i++) {
		const struct phys_region *r = &pm->region[i];

		if (gpa >= r->base && range_fits(gpa - r->base, len, r->len)) {
			if (rom)
				*rom = r->rom;
			return r->host + (gpa - r->base);
		}
	}
	return NULL;
}

uint8_t *physmap_span(const struct physmap *pm, gpa_t gpa, uint64_t *len_bytes, bool *rom)
{
	gpa &= pm->a20_mask;
	for (unsigned i = 0; i < pm->n_regions; i++) {
		const struct phys_region *r = &pm->region[i];

		if (gpa >= r->base && gpa - r->base < r->len) {
			*len_bytes = MIN(*len_bytes, r->len - (gpa - r->base));
			*rom = r->rom;
			return r->host + (gpa - r->base);
		}
	}
	return NULL;
}

bool physmap_stored(struct physmap *pm, const uint8_t *p, uint64_t len)
{
	struct page_state *ps = physmap_page(pm, p);
	uint64_t off = (uint64_t)(p - pm->ram) & (PAGE_SIZE - 1);
	uint64_t first = off / 64, last = (off + len - 1) / 64;
	uint64_t lines = (~0ull << first) & (~0ull >> (63 - last));

	if (!ps)
		return false;
	atomic_store_explicit(&ps->dirty, 1, memory_order_relaxed);
	/* The store must be visible before we look whether somebody decodes this page. */
	atomic_thread_fence(memory_order_seq_cst);
	if (likely(!(atomic_load_explicit(&ps->code_lines, memory_order_relaxed) & lines)))
		return false;
	/* In this order: who decodes reads code_gen first and sets its lines after, so either its
	 * lines survive this or its generation is already the old one. */
	if (atomic_fetch_add(&ps->code_hits, 1) >= PAGE_CODE_HITS) {
		atomic_store(&ps->code_hits, 0);
		lines = ~0ull;
	}
	atomic_fetch_and(&ps->code_lines, ~lines);
	atomic_fetch_add(&ps->code_gen, 1);
	atomic_fetch_add_explicit(&pm->code_drops, 1, memory_order_relaxed);
	if (pm->on_code_hit)
		pm->on_code_hit(pm->on_code_hit_arg, ps, lines);
	return true;
}

void physmap_stored_range(struct physmap *pm, const uint8_t *p, uint64_t len)
{
	while (len) {
		uint64_t n = MIN(len, PAGE_SIZE - ((uintptr_t)p & (PAGE_SIZE - 1)));

		physmap_stored(pm, p, n);
		p += n;
		len -= n;
	}
}

uint64_t physmap_discard(struct physmap *pm, uint8_t *p, uint64_t len)
{
	uint64_t off = (uint64_t)(p - pm->ram), from = ALIGN_UP(off, PAGE_SIZE);
	uint64_t to = (off + len) & ~(PAGE_SIZE - 1);

	if (off >= pm->ram_bytes || from >= to)
		return 0;
	if (fallocate(pm->ram_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
		      (off_t)(to - from)) < 0)
		return 0;
	physmap_stored_range(pm, pm->ram + from, to - from);
	return to - from;
}

/* The longest piece of [gpa, gpa+len) that lies in one page. */
static uint64_t piece(gpa_t gpa, uint64_t len)
{
	return MIN(len, PAGE_SIZE - (gpa & (PAGE_SIZE - 1)));
}

bool physmap_read(struct physmap *pm, gpa_t gpa, void *buf, uint64_t len)
{
	while (len) {
		uint64_t n = piece(gpa, len);
		const uint8_t *host = physmap_host(pm, gpa, n, NULL);

		if (!host)
			return false;
		memcpy(buf, host, n);
		gpa += n;
		buf = (uint8_t *)buf + n;
		len -= n;
	}
	return true;
}

bool physmap_write(struct physmap *pm, gpa_t gpa, const void *buf, uint64_t len)
{
	while (len) {
		uint64_t n = piece(gpa, len);
		bool rom;
		uint8_t *host = physmap_host(pm, gpa, n, &rom);

		if (!host)
			return false;
		if (!rom) {
			memcpy(host, buf, n);
			physmap_stored(pm, host, n);
		}
		gpa += n;
		buf = (const uint8_t *)buf + n;
		len -= n;
	}
	return true;
}
