#include "host/clock.h"

#include <linux/perf_event.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* paused_ns while the clock runs, and while pause or resume are at work on it. */
#define RUNNING	 (-1)
#define CHANGING (-2)

static int64_t monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

void vclock_init(struct vclock *k)
{
	atomic_init(&k->offset_ns, monotonic_ns());
	atomic_init(&k->paused_ns, RUNNING);
	k->count = NULL;
	k->skipped_ns = 0;
}

void vclock_count(struct vclock *k, const uint64_t *count)
{
	k->count = count;
	k->skipped_ns = -(int64_t)*count;
}

int64_t vclock_now(const struct vclock *k)
{
	if (k->count)
		return (int64_t)*k->count + k->skipped_ns;
	for (;;) {
		int64_t paused = atomic_load(&k->paused_ns);

		if (paused >= 0)
			return paused;
		if (paused == CHANGING)
			continue;

		int64_t offset = atomic_load(&k->offset_ns);
		int64_t now = monotonic_ns() - offset;

		/* A pause that began meanwhile may have taken an earlier moment than ours. */
		if (atomic_load(&k->paused_ns) == RUNNING && atomic_load(&k->offset_ns) == offset)
			return now;
	}
}

void vclock_pause(struct vclock *k)
{
	if (k->count || atomic_load(&k->paused_ns) >= 0)
		return;
	atomic_store(&k->paused_ns, CHANGING);
	atomic_store(&k->paused_ns, monotonic_ns() - atomic_load(&k->offset_ns));
}

void vclock_resume(struct vclock *k)
{
	int64_t stood_at = atomic_load(&k->paused_ns);

	if (stood_at < 0)
		return;
	atomic_store(&k->paused_ns, CHANGING);
	atomic_store(&k->offset_ns, monotonic_ns() - stood_at);
	atomic_store(&k->paused_ns, RUNNING);
}

/* The kernel's calibration: ns = tsc * time_mult >> time_shift, see perf_event_open(2). 0 if it
 * does not tell.
 */
static uint64_t khz_by_perf(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_DUMMY,
		.exclude_kernel = 1,
		.exclude_hv = 1,
	};
	int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	uint64_t khz = 0;

	if (fd < 0)
		return 0;
	size_t len = (size_t)sysconf(_SC_PAGESIZE);
	const volatile struct perf_event_mmap_page *p =
		mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);

	if (p != MAP_FAILED) {
		if (p->cap_user_time && p->time_mult)
			khz = (uint64_t)(((unsigned __int128)1000000 << p->time_shift) /
					 p->time_mult);
		munmap((void *)p, len);
	}
	close(fd);
	return khz;
}

struct moment {
	int64_t ns;
	uint64_t tsc;
};

/* Read both clocks close together: the tightest of some tries. */
static struct moment moment_now(void)
{
	struct moment best = { 0 };
	uint64_t best_cost = UINT64_MAX;

	for (int i = 0; i < 16; i++) {
		uint64_t before = __builtin_ia32_rdtsc();
		int64_t ns = monotonic_ns();
		uint64_t cost = __builtin_ia32_rdtsc() - before;

		if (cost < best_cost) {
			best_cost = cost;
			best = (struct moment){ .ns = ns, .tsc = before + cost / 2 };
		}
	}
	return best;
}

static uint64_t khz_by_measuring(void)
{
	struct moment a = moment_now();

	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);

	struct moment b = moment_now();

	return (uint64_t)((unsigned __int128)(b.tsc - a.tsc) * 1000000 / (uint64_t)(b.ns - a.ns));
}

uint64_t host_tsc_khz(void)
{
	uint64_t khz = khz_by_perf();

	return khz ? khz : khz_by_measuring();
}
