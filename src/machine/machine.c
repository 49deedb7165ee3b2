#include "machine/machine.h"

#include "base/err.h"
#include "base/log.h"
#include "base/trace.h"
#include "cpu/engine.h"
#include "cpu/kvm/kvm.h"
#include "cpu/kvm/probe.h"
#include "dev/acpi/pm.h"
#include "dev/backend/chr.h"
#include "host/evloop.h"
#include "host/timer.h"
#include "machine/boot/boot.h"
#include "machine/gdb/gdb.h"
#include "machine/intc.h"
#include "machine/machine_internal.h"
#include "machine/memmap.h"
#include "machine/pv.h"
#include "machine/vcpu_thread.h"
#include "mem/iospace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define IO_PORTS 0x10000

static bool is_auto(const char *name)
{
	return strcmp(name, "auto") == 0;
}

static const struct engine *find_named(const char *name, struct err *err)
{
	const struct engine *e = engine_find(name);
	char known[100] = "auto";
	size_t len = strlen(known);

	for (unsigned n = 0; !e && engines[n] && len < sizeof(known); n++)
		len += (size_t)snprintf(known + len, sizeof(known) - len, ", %s", engines[n]->name);
	if (!e)
		err_say(err, EINVAL, "there is no engine '%s'; take one of %s", name, known);
	return e;
}

/* A KVM that is no hardware is taken by who names it, and left by auto. Only the software engines
 * count instructions. */
static const struct engine *try_kvm(struct machine *m)
{
	const struct machine_config *cfg = &m->cfg;
	struct kvm_probe probe;
	char why[256];
	bool fit;

	if (is_auto(cfg->engine) && cfg->icount)
		return engine_auto(NULL);
	kvm_probe(&probe);
	m->kvm_stops = probe.stops == KVM_STOPS_ALL;
	fit = kvm_probe_accepts(&probe, why, sizeof(why));
	log_say(LOG_INFO, "KVM: %s", why);
	if (is_auto(cfg->engine))
		return engine_auto(&probe);
	if (!fit && !*probe.refused)
		log_say(LOG_WARN, "--engine kvm: this host's KVM is not hardware: %s", why);
	return &engine_kvm;
}

static const struct engine *find_engine(struct machine *m, struct err *err)
{
	if (is_auto(m->cfg.engine) || engine_find(m->cfg.engine) == &engine_kvm)
		return try_kvm(m);
	return find_named(m->cfg.engine, err);
}

static int check_config(const struct machine_config *cfg, struct err *err)
{
	if (cfg->memory_bytes < MiB || cfg->memory_bytes % PAGE_SIZE)
		return err_say(err, EINVAL,
			       "--memory: at least 1M, and a multiple of 4K, as in --memory 512M");
	if (cfg->memory_bytes - MIN(cfg->memory_bytes, HOLE_BASE) > PCI_MMIO64_BASE - 4 * GiB)
		return err_say(err, EINVAL, "--memory: at most %llu GiB",
			       (PCI_MMIO64_BASE - HOLE_END + HOLE_BASE) / GiB);
	if (cfg->n_cpus < 1 || cfg->n_cpus > PHYSMAP_MAX_VCPUS)
		return err_say(err, EINVAL, "--cpus: from 1 to %u, as in --cpus 2",
			       PHYSMAP_MAX_VCPUS);
	if (cfg->icount && cfg->n_cpus > 1)
		return err_say(err, EINVAL, "--icount: one CPU only, as with --cpus 1");
	if (cfg->icount && cfg->n_disks)
		return err_say(err, EINVAL,
			       "--icount: has no disks, which are not in step with instructions");
	if (cfg->icount && cfg->n_nics)
		return err_say(err, EINVAL,
			       "--icount: a network does not keep to a count of "
			       "instructions; leave out --net");
	if (cfg->icount && engine_find(cfg->engine) == &engine_kvm)
		return err_say(err, EINVAL,
			       "--icount: KVM cannot count instructions; take --engine dbt");
	if (cfg->icount && cfg->gdb)
		return err_say(err, EINVAL, "--icount: has no debugger; leave out --gdb");
	if (cfg->gdb_wait && !cfg->gdb)
		return err_say(err, EINVAL,
			       "--gdb-wait: needs --gdb, as in --gdb tcp:127.0.0.1:1234");
	if (cfg->icount && cfg->dwell_ms)
		return err_say(err, EINVAL,
			       "--icount: keeps to one engine; leave out --engine-dwell");
	if (cfg->icount_hash && !cfg->icount)
		return err_say(err, EINVAL, "--icount-hash: needs --icount");
	return pc_check_virtio(cfg, err);
}

static int make_model(struct machine *m, const struct engine *engine, struct err *err)
{
	uint64_t tsc_khz = m->cfg.icount ? ICOUNT_TSC_KHZ : host_tsc_khz();
	int ret = cpu_model_parse(&m->model, m->cfg.cpu, m->cfg.n_cpus, tsc_khz, err);
	char left_out[400];

	if (ret < 0)
		return err_wrap(err, "--cpu");
	if (engine != &engine_kvm)
		return 0;
	ret = kvm_limit_model(&m->model, left_out, sizeof(left_out), err);
	if (ret == 0 && *left_out)
		log_say(LOG_INFO, "KVM has not, and the guest neither: %s", left_out);
	return ret;
}

static int make_memory(struct machine *m, struct err *err)
{
	int ret = physmap_init(&m->pm, m->cfg.memory_bytes, HOLE_BASE, err);

	if (ret < 0)
		return ret;
	m->pio = iospace_new(IO_PORTS);
	m->mmio = iospace_new(BIT(m->model.phys_bits));
	if (!m->pio || !m->mmio)
		return err_set(err, ENOMEM, "address spaces");
	return 0;
}

static int make_vcpu(struct machine *m, unsigned i, struct err *err)
{
	struct vcpu *c = NULL;

	/* The FPU state is accessed with aligned vector moves. */
	if (posix_memalign((void **)&c, 64, ALIGN_UP(sizeof(*c), 64ul)) != 0)
		return err_set(err, ENOMEM, "CPU %u", i);
	memset(c, 0, sizeof(*c));

	int ret = vcpu_init(c, i, err);

	if (ret < 0) {
		free(c);
		return ret;
	}
	c->index = i;
	c->model = &m->model;
	c->pm = &m->pm;
	c->pio = m->pio;
	c->mmio = m->mmio;
	c->set = &m->set;
	m->set.v[m->set.n++] = c;
	return 0;
}

static int init_engines(struct machine *m, const struct engine *engine, struct err *err)
{
	for (unsigned i = 0; i < m->set.n; i++) {
		struct vcpu *c = m->set.v[i];
		int ret = engine_take(c, engine, err);

		/* What this host lacks for one engine, another does without. */
		while (ret == -ENOTSUP && is_auto(m->cfg.engine) && engine_after(engine)) {
			log_say(LOG_INFO, "%s", err->msg);
			engine = engine_after(engine);
			ret = engine_take(c, engine, err);
		}
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* The machine may want to move when it can open and map nothing any more. An engine that is not
 * possible here is said to be so then. */
static void prepare_engines(struct machine *m)
{
	for (unsigned n = 0; engines[n]; n++)
		for (unsigned i = 0; i < m->set.n; i++)
			if (engines[n] != &engine_kvm)
				engine_prepare(m->set.v[i], engines[n], NULL);
}

static void on_shutdown(void *arg, struct vcpu *c)
{
	struct machine *m = arg;

	if (trace_on(TRACE_RESET))
		trace_print(TRACE_RESET, "triple fault on CPU %u at %#llx", c->index,
			    (unsigned long long)c->rip);
	if (m->cfg.no_reboot)
		machine_end(m, END_TRIPLE_FAULT, 0);
	else
		machine_reset(m);
}

static void on_broken(void *arg, struct vcpu *c)
{
	machine_end(arg, END_BROKEN, 0);
}

static void on_debug(void *arg, struct vcpu *c)
{
	struct machine *m = arg;

	gdb_stopped(m->gdb, c);
}

static int make_cpus(struct machine *m, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < m->cfg.n_cpus && ret == 0; i++)
		ret = make_vcpu(m, i, err);
	return ret;
}

static int make_timers(struct machine *m, struct err *err)
{
	int ret;

	if (m->cfg.icount)
		icount_init(&m->icount, m->set.v[0], &m->clock, m->cfg.icount_hash);
	ret = timer_queue_new(&m->timers, &m->clock, err);
	if (ret == 0 && m->cfg.icount)
		icount_set_timers(&m->icount, m->timers);
	return ret;
}

static enum run_exit run_counted(void *arg, struct vcpu *c)
{
	struct machine *m = arg;

	return icount_run(&m->icount, ~0ull);
}

static int make_crew(struct machine *m, struct err *err)
{
	struct crew_events events = { .run = m->cfg.icount ? run_counted : NULL,
				      .shutdown = on_shutdown,
				      .broken = on_broken,
				      .debug = on_debug,
				      .arg = m };

	return crew_new(&m->crew, &m->set, events, err);
}

static int load_kernel(struct machine *m, struct err *err)
{
	return boot_load(&m->boot,
			 &(struct boot_cfg){
				 .kernel = m->cfg.kernel,
				 .initrd = m->cfg.initrd,
				 .n_initrd = m->cfg.n_initrd,
				 .append = m->cfg.append,
			 },
			 err);
}

static void set_tsc_origin(struct machine *m, int64_t offset)
{
	m->tsc_origin = offset;
	if (m->pv)
		pv_set_origin(m->pv, offset);
}

/* Everything as after power-on, with the kernel in place. The vCPUs are stopped. */
static int power_on(struct machine *m, struct err *err)
{
	struct boot_board board = { .pm = &m->pm, .rsdp = ACPI_BASE, .fixed = m->cfg.icount };
	struct boot_entry entry;
	int ret;

	for (unsigned i = 0; i < m->n_devs; i++)
		if (m->dev[i].ops->reset)
			m->dev[i].ops->reset(m->dev[i].dev);
	intc_reset(m->intc);
	ret = pc_write_tables(m, err);
	if (ret == 0)
		ret = boot_place(m->boot, &board, &entry, err);
	if (ret < 0)
		return ret;

	m->paused_tsc = vcpu_raw_tsc(m->set.v[0]);

	set_tsc_origin(m, -(int64_t)m->paused_tsc);

	for (unsigned i = 0; i < m->set.n; i++) {
		struct vcpu *c = m->set.v[i];

		atomic_store(&c->kick, 0);
		c->tsc_offset = m->tsc_origin;
		vcpu_reset(c);
		boot_set_mtrrs(c, m->model.phys_bits);
		if (i == 0)
			boot_enter(c, &entry);
		engine_inval(c, 0, 0);
		c->engine->push(c);
	}
	return 0;
}

static int build(struct machine *m, struct err *err)
{
	const struct engine *engine = find_engine(m, err);
	int ret = engine ? check_config(&m->cfg, err) : err_wrap(err, "--engine");

	m->for_kvm = engine == &engine_kvm;
	if (ret == 0)
		ret = make_model(m, engine, err);
	if (ret == 0)
		ret = load_kernel(m, err);
	if (ret == 0)
		ret = make_memory(m, err);
	if (ret == 0)
		ret = evloop_new(&m->loop, err);
	if (ret == 0)
		ret = make_cpus(m, err);
	if (ret == 0)
		ret = make_timers(m, err);
	if (ret == 0)
		ret = pc_build(m, err);
	/* Time is stolen from nobody where it is a count of instructions. */
	if (ret == 0 && !m->cfg.no_pv && !m->cfg.icount)
		ret = pv_new(&m->pv, &m->set, m->intc, m->model.tsc_khz, m->model.pv_calls, err);
	if (ret == 0)
		ret = init_engines(m, engine, err);
	if (ret == 0 && !m->cfg.icount)
		prepare_engines(m);
	if (ret == 0)
		ret = make_crew(m, err);
	if (ret == 0)
		ret = power_on(m, err);
	if (ret == 0 && m->cfg.gdb)
		ret = gdb_new(&m->gdb, m, m->cfg.gdb, err);
	if (ret == 0 && m->cfg.dwell_ms)
		ret = mover_dwell(&m->mover, m->cfg.dwell_ms, m->cfg.dwell_among, m->for_kvm, err);
	return ret;
}

static void init_asked(struct machine *m)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&m->asked, &attr);
	pthread_condattr_destroy(&attr);
}

int machine_new(struct machine **out, const struct machine_config *cfg, struct err *err)
{
	struct machine *m = calloc(1, sizeof(*m));

	if (!m)
		return err_set(err, ENOMEM, "machine");
	m->cfg = *cfg;
	m->pm.ram_fd = m->vsock_folder = -1;
	if (cfg->sandbox)
		sandbox_prepare();
	vclock_init(&m->clock);
	pthread_mutex_init(&m->lock, NULL);
	init_asked(m);
	pthread_cond_init(&m->called, NULL);
	mover_init(&m->mover, &m->lock, &m->set);

	int ret = build(m, err);

	if (ret < 0)
		machine_free(m);
	else
		*out = m;
	return ret;
}

/* Stop all vCPUs, also one that waits for the console's reader. */
static void stop_cpus(struct machine *m)
{
	crew_ask_stop(m->crew);
	chr_unblock(m->console, true);
	crew_wait_stopped(m->crew);
	chr_unblock(m->console, false);
}

static void reset_board(struct machine *m)
{
	struct err err;

	if (trace_on(TRACE_RESET))
		trace_print(TRACE_RESET, "reset");
	/* What fitted the first time fits again. */
	if (power_on(m, &err) < 0) {
		log_say(LOG_ERROR, "%s", err.msg);
		machine_end(m, END_BROKEN, 0);
	}
}

static void print_stats(const struct machine *m)
{
	for (unsigned i = 0; i < m->set.n; i++) {
		const struct vcpu *c = m->set.v[i];
		const struct vcpu_stats *s = &c->stats;

		fprintf(stderr,
			"cpu %u: insns %llu, blocks %llu (built %llu), tlb misses %llu, "
			"exceptions %llu, interrupts %llu, port I/O %llu, mmio %llu, halts %llu\n",
			i, (unsigned long long)s->insns, (unsigned long long)s->blocks,
			(unsigned long long)s->block_misses, (unsigned long long)s->tlb_misses,
			(unsigned long long)s->exceptions, (unsigned long long)s->irqs,
			(unsigned long long)s->port_ios, (unsigned long long)s->mmios,
			(unsigned long long)s->halts);
		if (c->engine->describe) {
			char text[400];

			c->engine->describe(c, text, sizeof(text));
			fprintf(stderr, "cpu %u: %s: %s\n", i, c->engine->name, text);
		}
	}
	mover_print(&m->mover);
	pc_print_virtio(m);
	if (m->sandbox.on)
		fprintf(stderr, "sandbox: %u threads, Landlock ABI %d, %u calls refused\n",
			m->sandbox.n_threads, m->sandbox.landlock_abi, sandbox_n_refused());
	fprintf(stderr, "guest time %.3f s\n", (double)vclock_now(&m->clock) / 1e9);
}

static void tell_devs(struct machine *m, bool start)
{
	for (unsigned i = 0; i < m->n_devs; i++) {
		const struct dev_ops *ops = m->dev[i].ops;
		void (*fn)(void *dev) = start ? ops->start : ops->pause;

		if (fn)
			fn(m->dev[i].dev);
	}
}

enum wish { WISH_END, WISH_RESET, WISH_PAUSE, WISH_CONTINUE, WISH_CALL, WISH_MOVE };

/* Take what was asked, if it was. */
static bool take(bool *asked)
{
	bool was = *asked;

	*asked = false;
	return was;
}

/* Wait for what the machine is asked next. */
static enum wish next_wish(struct machine *m)
{
	enum wish wish;

	pthread_mutex_lock(&m->lock);
	while (!m->end_asked && !m->reset_asked && !m->pause_asked && !m->continue_asked &&
	       !m->call && !mover_is_due(&m->mover))
		mover_wait(&m->mover, &m->asked);
	if (m->end_asked)
		wish = WISH_END;
	else if (take(&m->reset_asked))
		wish = WISH_RESET;
	else if (take(&m->pause_asked))
		wish = WISH_PAUSE;
	else if (take(&m->continue_asked))
		wish = WISH_CONTINUE;
	else if (m->call)
		wish = WISH_CALL;
	else
		wish = WISH_MOVE;
	pthread_mutex_unlock(&m->lock);
	return wish;
}

/* Time stamps go with the clock. */
static void set_tscs_back(struct machine *m, uint64_t ticks)
{
	for (unsigned i = 0; i < m->set.n; i++)
		atomic_fetch_sub(&m->set.v[i]->tsc_offset, (int64_t)ticks);
	set_tsc_origin(m, m->tsc_origin - (int64_t)ticks);
}

static void set_paused(struct machine *m, bool paused)
{
	if (m->paused == paused)
		return;
	pthread_mutex_lock(&m->lock);
	m->paused = paused;
	pthread_mutex_unlock(&m->lock);
	/* A clock that counts instructions stands by itself. */
	if (m->cfg.icount)
		return;
	if (paused) {
		vclock_pause(&m->clock);
		m->paused_tsc = vcpu_raw_tsc(m->set.v[0]);
	} else {
		set_tscs_back(m, vcpu_raw_tsc(m->set.v[0]) - m->paused_tsc);
		vclock_resume(&m->clock);
	}
	timer_queue_kick(m->timers);
}

static void go_on(struct machine *m)
{
	if (!m->paused)
		return;
	set_paused(m, false);
	pc_retry_disks(m);
	crew_start(m->crew);
}

/* A paused machine moves too, and stays paused. */
static void move(struct machine *m)
{
	mover_begin(&m->mover);
	if (!m->paused)
		stop_cpus(m);
	mover_move(&m->mover);
	if (!m->paused)
		crew_start(m->crew);
	mover_settle(&m->mover);
}

struct machine_call {
	void (*fn)(void *arg);
	void *arg;
	bool done;
};

static void serve_call(struct machine *m)
{
	m->call->fn(m->call->arg);
	pthread_mutex_lock(&m->lock);
	m->call->done = true;
	m->call = NULL;
	pthread_cond_broadcast(&m->called);
	pthread_mutex_unlock(&m->lock);
}

static void fulfil(struct machine *m, enum wish wish)
{
	if (wish == WISH_CONTINUE || wish == WISH_MOVE) {
		wish == WISH_MOVE ? move(m) : go_on(m);
		return;
	}
	if (!m->paused)
		stop_cpus(m);
	if (wish == WISH_CALL)
		serve_call(m);
	else if (wish == WISH_PAUSE)
		set_paused(m, true);
	else
		reset_board(m);
	if (!m->paused)
		crew_start(m->crew);
}

static void refuse_calls(struct machine *m)
{
	pthread_mutex_lock(&m->lock);
	m->over = true;
	m->call = NULL;
	pthread_cond_broadcast(&m->called);
	pthread_mutex_unlock(&m->lock);
	mover_end(&m->mover);
}

bool machine_call(struct machine *m, void (*fn)(void *arg), void *arg)
{
	struct machine_call call = { .fn = fn, .arg = arg };

	pthread_mutex_lock(&m->lock);
	while (m->call && !m->over)
		pthread_cond_wait(&m->called, &m->lock);
	/* cppcheck-suppress autoVariables: until it is done, or nobody calls any more */
	m->call = m->over ? NULL : &call;
	pthread_cond_signal(&m->asked);
	while (!call.done && !m->over)
		pthread_cond_wait(&m->called, &m->lock);
	pthread_mutex_unlock(&m->lock);
	return call.done;
}

enum machine_end machine_run(struct machine *m, uint32_t *code)
{
	tell_devs(m, true);
	if (m->cfg.gdb_wait)
		set_paused(m, true);
	else
		crew_start(m->crew);
	for (enum wish wish; (wish = next_wish(m)) != WISH_END;)
		fulfil(m, wish);
	if (!m->paused)
		stop_cpus(m);
	refuse_calls(m);
	tell_devs(m, false);
	if (m->cfg.stats)
		print_stats(m);
	*code = m->code;
	return m->why;
}

void machine_end(struct machine *m, enum machine_end why, uint32_t code)
{
	pthread_mutex_lock(&m->lock);
	if (!m->end_asked) {
		m->end_asked = true;
		m->why = why;
		m->code = code;
	}
	pthread_cond_signal(&m->asked);
	pthread_mutex_unlock(&m->lock);
	crew_ask_stop(m->crew);
}

void machine_reset(struct machine *m)
{
	if (m->cfg.no_reboot) {
		machine_end(m, END_RESET, 0);
		return;
	}
	pthread_mutex_lock(&m->lock);
	m->reset_asked = true;
	pthread_cond_signal(&m->asked);
	pthread_mutex_unlock(&m->lock);
	crew_ask_stop(m->crew);
}

bool machine_pause(struct machine *m)
{
	bool was;

	pthread_mutex_lock(&m->lock);
	was = m->paused || m->pause_asked;
	m->pause_asked = true;
	pthread_cond_signal(&m->asked);
	pthread_mutex_unlock(&m->lock);
	crew_ask_stop(m->crew);
	return !was;
}

bool machine_is_paused(struct machine *m)
{
	bool paused;

	pthread_mutex_lock(&m->lock);
	paused = m->paused;
	pthread_mutex_unlock(&m->lock);
	return paused;
}

void machine_continue(struct machine *m)
{
	pthread_mutex_lock(&m->lock);
	m->continue_asked = true;
	pthread_cond_signal(&m->asked);
	pthread_mutex_unlock(&m->lock);
}

int machine_move_engine(struct machine *m, const char *engine, struct machine_move *out,
			struct err *err)
{
	const struct engine *e;

	if (is_auto(engine))
		e = m->for_kvm ? &engine_kvm : engine_auto(NULL);
	else
		e = find_named(engine, err);
	if (!e)
		return -EINVAL;
	if (m->cfg.icount)
		return err_say(err, EINVAL, "a machine with --icount keeps to one engine");
	/* What the guest was told of its processor and hypercalls may be more than KVM can do. */
	if (e == &engine_kvm && !m->for_kvm)
		return err_say(err, EINVAL,
			       "this machine was not made for KVM; start it with --engine kvm");

	int ret = mover_ask(&m->mover, e, &m->asked, out, err);

	/* As at the start: what this host lacks for one engine, another does without. */
	while (ret == -ENOTSUP && is_auto(engine) && (e = engine_after(e)))
		ret = mover_ask(&m->mover, e, &m->asked, out, err);
	return ret;
}

void machine_power_button(struct machine *m)
{
	pm_power_button(m->power);
}

static void free_cpus(struct machine *m)
{
	for (unsigned i = 0; i < m->set.n; i++)
		engine_leave(m->set.v[i]);
	for (unsigned i = 0; i < m->set.n; i++) {
		vcpu_fini(m->set.v[i]);
		free(m->set.v[i]);
	}
}

void machine_free(struct machine *m)
{
	if (!m)
		return;
	refuse_calls(m);
	gdb_free(m->gdb);
	/* The vCPUs are parked. Who could still kick one goes first: console, devices, timers. */
	chr_free(m->console);
	while (m->n_devs) {
		const struct dev *d = &m->dev[--m->n_devs];

		if (d->ops->free)
			d->ops->free(d->dev);
	}
	intc_free(m->intc);
	timer_queue_free(m->timers);
	evloop_free(m->loop);
	crew_free(m->crew);
	pv_free(m->pv);
	free_cpus(m);
	boot_free(m->boot);
	iospace_free(m->pio);
	iospace_free(m->mmio);
	physmap_fini(&m->pm);
	pthread_mutex_destroy(&m->lock);
	pthread_cond_destroy(&m->asked);
	pthread_cond_destroy(&m->called);
	mover_fini(&m->mover);
	free(m);
}
