/* Guest time: nanoseconds that stand still while the machine is paused, or that a count of
 * instructions makes go on. */
#ifndef HOST_CLOCK_H
#define HOST_CLOCK_H

#include <stdint.h>

struct vclock {
	_Atomic int64_t offset_ns; /* CLOCK_MONOTONIC minus guest time */
	_Atomic int64_t paused_ns; /* guest time at which it stands, or -1 while it runs */
	/* If not NULL, guest time is *count + skipped_ns, whatever the host's clock says. Borrowed;
	 * both belong to the thread that counts. */
	const uint64_t *count;
	int64_t skipped_ns;
};

/* The clock starts at 0 and runs. */
void vclock_init(struct vclock *k);
/* From now on time is counted by *count, a nanosecond each, and goes on from 0. It is not paused.
 */
void vclock_count(struct vclock *k, const uint64_t *count);
/* Guest nanoseconds, never decreasing. Any thread. */
int64_t vclock_now(const struct vclock *k);
/* Stand still and go on where it stood. Idempotent. One thread at a time. */
void vclock_pause(struct vclock *k);
void vclock_resume(struct vclock *k);

/* The host's time stamp counter in kHz, from the kernel's own calibration where it tells
 * (perf_event_open's user page) and else measured over some 20 ms. Costs that only once a call.
 */
uint64_t host_tsc_khz(void);

#endif
