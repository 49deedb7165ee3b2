/* Which pages of RAM a guest on engine kvm stores to.
 *
 * The software engines mark page_state.dirty at each store. Guests on KVM store unseen: while
 * logging is on KVM notes the pages, and kvm_dirty_collect() moves what it noted into
 * page_state.dirty, so that who reads the dirty log reads one place. Source: the vCPUs' dirty
 * rings, or the slots' bitmaps where KVM has no rings (KVM API 8.29, 4.8).
 *
 * Any thread. set has a vCPU on engine kvm, which stays on it during the call.
 */
#ifndef CPU_KVM_DIRTY_H
#define CPU_KVM_DIRTY_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct vcpu_set;

/* From the return on, every page that guest code stores to is noted. Costs a fault at the first
 * store to each page. Errors: the host's. */
int kvm_dirty_start(struct vcpu_set *set, struct err *err);

/* Mark what was noted since the last call and note it anew. Exact for stores before the call if the
 * vCPUs are stopped; while they run, a store is in this call's pages or the next one's. *n_pages
 * (may be NULL) gets how many were noted. Errors: the host's; then nothing is lost. */
int kvm_dirty_collect(struct vcpu_set *set, uint64_t *n_pages, struct err *err);

/* Note nothing any more. What was noted and not collected is forgotten. */
void kvm_dirty_stop(struct vcpu_set *set);

/* Do pages come from rings? For tests, and for who wonders what a collection costs. */
bool kvm_dirty_has_ring(const struct vcpu_set *set);

#endif
