#include "cpu/kvm/dirty.h"

#include "cpu/kvm/kvm_internal.h"

#include "base/err.h"
#include "base/log.h"
#include "cpu/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

static struct kvm_vm *vm_of(const struct vcpu_set *set)
{
	for (unsigned i = 0; i < set->n; i++)
		if (kvm_of(set->v[i]))
			return kvm_of(set->v[i])->vm;
	return NULL;
}

/* Page n of slot. False if it is no page of RAM. */
static bool mark(struct kvm_vm *vm, unsigned slot, uint64_t n)
{
	const struct phys_region *r = &vm->pm->region[slot];
	struct page_state *ps;

	if (slot >= vm->n_slots || n >= r->len >> PAGE_SHIFT)
		return false;
	ps = physmap_page(vm->pm, r->host + (n << PAGE_SHIFT));
	if (ps)
		atomic_store_explicit(&ps->dirty, 1, memory_order_relaxed);
	return ps;
}

/* -- Rings ---------------------------------------------------------------------------------- */

#define RING_BYTES (DIRTY_RING_ENTRIES * sizeof(struct kvm_dirty_gfn))

int ring_map(struct kvm_cpu *k, struct err *err)
{
	void *p;

	if (!k->vm->has_ring)
		return 0;
	p = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd,
		 KVM_DIRTY_LOG_PAGE_OFFSET * (long)PAGE_SIZE);
	if (p == MAP_FAILED)
		return err_set(err, errno, "map the dirty ring of CPU %u", k->c->index);
	k->ring = p;
	return 0;
}

void ring_unmap(struct kvm_cpu *k)
{
	if (k->ring)
		munmap(k->ring, RING_BYTES);
	k->ring = NULL;
}

/* Take the entries of one ring. Needs the lock. */
static uint64_t empty_ring(struct kvm_cpu *k)
{
	uint64_t n = 0;

	for (;; k->ring_at++) {
		struct kvm_dirty_gfn *e = &k->ring[k->ring_at % DIRTY_RING_ENTRIES];

		if (!(__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
			return n;
		n += mark(k->vm, e->slot, e->offset);
		__atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
	}
}

/* Needs the lock. */
static uint64_t empty_rings(struct kvm_vm *vm)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < vm->set->n; i++) {
		struct vcpu *c = vm->set->v[i];

		if (kvm_of(c))
			n += empty_ring(kvm_of(c));
	}
	/* The pages are write-protected again. */
	kvm_ioctl(vm->fd, KVM_RESET_DIRTY_RINGS, NULL);
	return n;
}

void ring_full(struct kvm_cpu *k)
{
	k->stats.full_rings++;
	pthread_mutex_lock(&k->vm->dirty_lock);
	empty_rings(k->vm);
	pthread_mutex_unlock(&k->vm->dirty_lock);
}

/* -- Bitmaps -------------------------------------------------------------------------------- */

static uint64_t log_words(const struct phys_region *r)
{
	return ALIGN_UP(r->len >> PAGE_SHIFT, 64ull) / 64;
}

static void free_logs(struct kvm_vm *vm)
{
	for (unsigned i = 0; i < KVM_MAX_SLOTS; i++) {
		free(vm->log[i]);
		vm->log[i] = NULL;
	}
}

static int make_logs(struct kvm_vm *vm, struct err *err)
{
	for (unsigned i = 0; i < vm->n_slots; i++) {
		vm->log[i] = calloc(log_words(&vm->pm->region[i]), 8);
		if (!vm->log[i])
			return err_set(err, ENOMEM, "the log of dirty pages");
	}
	return 0;
}

/* Reads and clears a slot's log. Needs the lock. */
static int read_log(struct kvm_vm *vm, unsigned slot, uint64_t *n, struct err *err)
{
	struct kvm_dirty_log l = { .slot = slot, .dirty_bitmap = vm->log[slot] };
	const struct phys_region *r = &vm->pm->region[slot];

	if (r->rom)
		return 0;
	if (kvm_ioctl(vm->fd, KVM_GET_DIRTY_LOG, &l) < 0)
		return err_set(err, errno, "read KVM's log of dirty pages");
	for (uint64_t w = 0; w < log_words(r); w++)
		for (uint64_t bits = vm->log[slot][w]; bits; bits &= bits - 1)
			*n += mark(vm, slot, w * 64 + (unsigned)__builtin_ctzll(bits));
	return 0;
}

void dirty_fini(struct kvm_vm *vm)
{
	free_logs(vm);
}

/* -- Both ------------------------------------------------------------------------------------ */

/* Needs the lock. */
static int set_logging(struct kvm_vm *vm, bool on, struct err *err)
{
	vm->logging = on;
	return vm_set_slots(vm, err);
}

int kvm_dirty_start(struct vcpu_set *set, struct err *err)
{
	struct kvm_vm *vm = vm_of(set);
	int ret = 0;

	pthread_mutex_lock(&vm->dirty_lock);
	if (!vm->has_ring && !vm->logging)
		ret = make_logs(vm, err);
	if (ret == 0)
		ret = set_logging(vm, true, err);
	if (ret < 0) {
		free_logs(vm);
		vm->logging = false;
	}
	pthread_mutex_unlock(&vm->dirty_lock);
	return ret;
}

int kvm_dirty_collect(struct vcpu_set *set, uint64_t *n_pages, struct err *err)
{
	struct kvm_vm *vm = vm_of(set);
	uint64_t n = 0;
	int ret = 0;

	pthread_mutex_lock(&vm->dirty_lock);
	if (vm->has_ring)
		n = empty_rings(vm);
	for (unsigned i = 0; !vm->has_ring && i < vm->n_slots && ret == 0; i++)
		ret = read_log(vm, i, &n, err);
	pthread_mutex_unlock(&vm->dirty_lock);
	if (n_pages)
		*n_pages = n;
	return ret;
}

void kvm_dirty_stop(struct vcpu_set *set)
{
	struct kvm_vm *vm = vm_of(set);
	struct err err;

	pthread_mutex_lock(&vm->dirty_lock);
	if (set_logging(vm, false, &err) < 0)
		log_say(LOG_ERROR, "%s", err.msg);
	if (vm->has_ring)
		empty_rings(vm);
	free_logs(vm);
	pthread_mutex_unlock(&vm->dirty_lock);
}

bool kvm_dirty_has_ring(const struct vcpu_set *set)
{
	return vm_of(set)->has_ring;
}
