/* A switch saves the registers that the System V ABI has callees keep and exchanges the stack
 * pointers. The sanitizers are told of each switch, or they would take one stack for another.
 */
#include "host/fiber.h"

#include "base/bits.h"
#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define FIBER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FIBER_TSAN 1
#endif
#endif

#ifdef FIBER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef FIBER_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#define STACK_BYTES (256 * KiB)
#define GUARD_BYTES 4096

/* One side of a switch. */
struct context {
	void *sp;
	const void *stack; /* the lowest address; for ASan */
	size_t stack_bytes;
	void *fake_stack; /* ASan's */
	void *tsan;	  /* TSan's name of it */
};

struct fiber {
	struct fiber_pool *pool;
	struct context ctx;
	void (*fn)(void *arg);
	void *arg;
	struct fiber *next; /* in free, ready or a queue */
	bool done;
};

struct fiber_pool {
	struct context main;
	struct fiber *current; /* NULL: the thread's own stack */
	struct fiber *free;
	struct fiber_queue ready;
	struct fiber *all; /* n; owned */
	uint8_t *stacks;   /* mapped */
	unsigned n, busy;
};

/* fiber_swap(void **save, void *to) */
void fiber_swap(void **save, void *to);
__asm__(".pushsection .text\n"
	".type fiber_swap, @function\n"
	"fiber_swap:\n"
	"	push %rbp\n"
	"	push %rbx\n"
	"	push %r12\n"
	"	push %r13\n"
	"	push %r14\n"
	"	push %r15\n"
	"	mov %rsp, (%rdi)\n"
	"	mov %rsi, %rsp\n"
	"	pop %r15\n"
	"	pop %r14\n"
	"	pop %r13\n"
	"	pop %r12\n"
	"	pop %rbx\n"
	"	pop %rbp\n"
	"	ret\n"
	".size fiber_swap, . - fiber_swap\n"
	".popsection\n");

static void leave_for(struct context *from, const struct context *to, bool for_good)
{
#ifdef FIBER_ASAN
	__sanitizer_start_switch_fiber(for_good ? NULL : &from->fake_stack, to->stack,
				       to->stack_bytes);
#endif
#ifdef FIBER_TSAN
	__tsan_switch_to_fiber(to->tsan, 0);
#endif
}

/* Runs on the new stack first thing. from: where the thread was, whose stack ASan tells. */
static void arrive(struct context *here, struct context *from)
{
#ifdef FIBER_ASAN
	const void *stack;
	size_t bytes;

	__sanitizer_finish_switch_fiber(here->fake_stack, &stack, &bytes);
	if (from) {
		from->stack = stack;
		from->stack_bytes = bytes;
	}
#endif
}

static void fiber_main(struct fiber *f)
{
	struct fiber_pool *p = f->pool;

	arrive(&f->ctx, &p->main);
	f->fn(f->arg);
	f->done = true;
	leave_for(&f->ctx, &p->main, true);
	fiber_swap(&f->ctx.sp, p->main.sp);
	__builtin_unreachable();
}

/* Where a new fiber's first switch returns to: r12 holds the fiber. */
void fiber_entry(void);
__asm__(".pushsection .text\n"
	".type fiber_entry, @function\n"
	"fiber_entry:\n"
	"	mov %r12, %rdi\n"
	"	call *%r13\n"
	"	ud2\n"
	".size fiber_entry, . - fiber_entry\n"
	".popsection\n");

static void enter(struct fiber_pool *p, struct fiber *f)
{
	p->current = f;
#ifdef FIBER_TSAN
	p->main.tsan = __tsan_get_current_fiber();
#endif
	leave_for(&p->main, &f->ctx, false);
	fiber_swap(&p->main.sp, f->ctx.sp);
	arrive(&p->main, NULL);
	p->current = NULL;
	if (f->done) {
		p->busy--;
		f->next = p->free;
		p->free = f;
	}
}

static void prepare(struct fiber *f, void (*fn)(void *arg), void *arg)
{
	void **sp = (void **)((uintptr_t)f->ctx.stack + f->ctx.stack_bytes);

	f->fn = fn;
	f->arg = arg;
	f->done = false;
	f->next = NULL;
	f->ctx.fake_stack = NULL;
	/* At fiber_entry the stack is aligned to 16 bytes, as a call needs it. */
	*--sp = NULL;
	*--sp = NULL;
	*--sp = (void *)fiber_entry;
	*--sp = NULL;		    /* rbp */
	*--sp = NULL;		    /* rbx */
	*--sp = f;		    /* r12 */
	*--sp = (void *)fiber_main; /* r13 */
	*--sp = NULL;		    /* r14 */
	*--sp = NULL;		    /* r15 */
	f->ctx.sp = sp;
}

bool fiber_start(struct fiber_pool *p, void (*fn)(void *arg), void *arg)
{
	struct fiber *f = p->free;

	assert(!p->current); /* said in fiber.h */
	if (!f)
		return false;
	p->free = f->next;
	p->busy++;
#ifdef FIBER_ASAN
	__asan_unpoison_memory_region(f->ctx.stack, f->ctx.stack_bytes);
#endif
	prepare(f, fn, arg);
	enter(p, f);
	return true;
}

unsigned fiber_busy(const struct fiber_pool *p)
{
	return p->busy;
}

static struct fiber *take(struct fiber_queue *q)
{
	struct fiber *f = q->head;

	if (f) {
		q->head = f->next;
		f->next = NULL;
	}
	return f;
}

static void put(struct fiber_queue *q, struct fiber *f)
{
	f->next = NULL;
	if (q->head)
		q->tail->next = f;
	else
		q->head = f;
	q->tail = f;
}

void fiber_run(struct fiber_pool *p)
{
	struct fiber *f;

	assert(!p->current); /* said in fiber.h */
	while ((f = take(&p->ready)))
		enter(p, f);
}

struct fiber *fiber_self(struct fiber_pool *p)
{
	return p->current;
}

void fiber_pause(struct fiber_pool *p)
{
	struct fiber *f = p->current;

	assert(f); /* said in fiber.h */
	leave_for(&f->ctx, &p->main, false);
	fiber_swap(&f->ctx.sp, p->main.sp);
	arrive(&f->ctx, &p->main);
}

void fiber_wake(struct fiber *f)
{
	put(&f->pool->ready, f);
}

void fiber_queue_wait(struct fiber_pool *p, struct fiber_queue *q)
{
	put(q, p->current);
	fiber_pause(p);
}

bool fiber_queue_wake_one(struct fiber_queue *q)
{
	struct fiber *f = take(q);

	if (f)
		fiber_wake(f);
	return f != NULL;
}

void fiber_queue_wake_all(struct fiber_queue *q)
{
	while (fiber_queue_wake_one(q))
		;
}

void fiber_lock(struct fiber_pool *p, struct fiber_mutex *m)
{
	if (m->held)
		fiber_queue_wait(p, &m->waiters); /* comes back with it */
	m->held = true;
}

void fiber_unlock(struct fiber_mutex *m)
{
	if (!fiber_queue_wake_one(&m->waiters))
		m->held = false;
}

static void init_fiber(struct fiber_pool *p, unsigned i)
{
	struct fiber *f = &p->all[i];

	f->pool = p;
	f->ctx.stack = p->stacks + i * (STACK_BYTES + GUARD_BYTES) + GUARD_BYTES;
	f->ctx.stack_bytes = STACK_BYTES;
#ifdef FIBER_TSAN
	f->ctx.tsan = __tsan_create_fiber(0);
#endif
	f->next = p->free;
	p->free = f;
}

int fiber_pool_new(struct fiber_pool **out, unsigned n, struct err *err)
{
	size_t one = STACK_BYTES + GUARD_BYTES;
	struct fiber_pool *p = calloc(1, sizeof(*p));

	if (!p || !(p->all = calloc(n, sizeof(*p->all)))) {
		free(p);
		return err_set(err, ENOMEM, "fibers");
	}
	p->stacks = mmap(NULL, n * one, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p->stacks == MAP_FAILED) {
		int code = errno;

		free(p->all);
		free(p);
		return err_set(err, code, "map the stacks of fibers");
	}
	p->n = n;
	for (unsigned i = n; i-- > 0;) {
		/* Without a guard an overflow would only be found later; not worth refusing. */
		(void)!mprotect(p->stacks + i * one, GUARD_BYTES, PROT_NONE);
		init_fiber(p, i);
	}
	*out = p;
	return 0;
}

void fiber_pool_free(struct fiber_pool *p)
{
	if (!p)
		return;
#ifdef FIBER_TSAN
	for (unsigned i = 0; i < p->n; i++)
		__tsan_destroy_fiber(p->all[i].ctx.tsan);
#endif
	munmap(p->stacks, p->n * (STACK_BYTES + GUARD_BYTES));
	free(p->all);
	free(p);
}
