#include "machine/machine.h"

#include "base/err.h"
#include "base/log.h"
#include "base/trace.h"
#include "cpu/engine.h"
#include "dev/acpi/pm.h"
#include "dev/backend/chr.h"
#include "host/evloop.h"
#include "host/timer.h"
#include "machine/boot/boot.h"
#include "machine/intc.h"
#include "machine/machine_internal.h"
#include "machine/memmap.h"
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

static const struct engine *find_engine(const char *name, struct err *err)
{
	const struct engine *e = is_auto(name) ? &engine_dbt : engine_find(name);
	char known[100] = "auto";
	size_t len = strlen(known);

	if (e)
		return e;
	for (unsigned n = 0; engines[n] && len < sizeof(known); n++)
		len += (size_t)snprintf(known + len, sizeof(known) - len, ", %s", engines[n]->name);
	err_say(err, EINVAL, "--engine: there is no engine '%s'; take one of %s", name, known);
	return NULL;
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
	if (cfg->icount_hash && !cfg->icount)
		return err_say(err, EINVAL, "--icount-hash: needs --icount");
	return pc_check_virtio(cfg, err);
}

static int make_model(struct machine *m, struct err *err)
{
	uint64_t tsc_khz = m->cfg.icount ? ICOUNT_TSC_KHZ : host_tsc_khz();
	int ret = cpu_model_parse(&m->model, m->cfg.cpu, m->cfg.n_cpus, tsc_khz, err);

	return ret < 0 ? err_wrap(err, "--cpu") : 0;
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

static int make_vcpu(struct machine *m, unsigned i, const struct engine *engine, struct err *err)
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
	c->engine = engine;
	m->set.v[m->set.n++] = c;
	return 0;
}

static int init_engines(struct machine *m, struct err *err)
{
	for (unsigned i = 0; i < m->set.n; i++) {
		struct vcpu *c = m->set.v[i];
		int ret = c->engine->init(c, err);

		/* What this host lacks for the translator, the interpreter does without. */
		if (ret == -ENOTSUP && is_auto(m->cfg.engine)) {
			log_say(LOG_INFO, "%s", err->msg);
			c->engine = &engine_interp;
			ret = c->engine->init(c, err);
		}
		if (ret < 0)
			return ret;
		m->n_engines++;
	}
	return 0;
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

static int make_cpus(struct machine *m, const struct engine *engine, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < m->cfg.n_cpus && ret == 0; i++)
		ret = make_vcpu(m, i, engine, err);
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

	int64_t tsc_offset = -(int64_t)vcpu_raw_tsc(m->set.v[0]);

	for (unsigned i = 0; i < m->set.n; i++) {
		struct vcpu *c = m->set.v[i];

		atomic_store(&c->kick, 0);
		c->tsc_offset = tsc_offset;
		vcpu_reset(c);
		boot_set_mtrrs(c, m->model.phys_bits);
		if (i == 0)
			boot_enter(c, &entry);
		c->engine->inval(c, 0, 0);
		c->engine->push(c);
	}
	return 0;
}

static int build(struct machine *m, struct err *err)
{
	const struct engine *engine = find_engine(m->cfg.engine, err);
	int ret = engine ? check_config(&m->cfg, err) : -EINVAL;

	if (ret == 0)
		ret = make_model(m, err);
	if (ret == 0)
		ret = load_kernel(m, err);
	if (ret == 0)
		ret = make_memory(m, err);
	if (ret == 0)
		ret = evloop_new(&m->loop, err);
	if (ret == 0)
		ret = make_cpus(m, engine, err);
	if (ret == 0)
		ret = make_timers(m, err);
	if (ret == 0)
		ret = pc_build(m, err);
	if (ret == 0)
		ret = init_engines(m, err);
	if (ret == 0)
		ret = make_crew(m, err);
	if (ret == 0)
		ret = power_on(m, err);
	return ret;
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
	pthread_cond_init(&m->asked, NULL);

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

enum wish { WISH_END, WISH_RESET, WISH_PAUSE, WISH_CONTINUE };

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
	while (!m->end_asked && !m->reset_asked && !m->pause_asked && !m->continue_asked)
		pthread_cond_wait(&m->asked, &m->lock);
	if (m->end_asked)
		wish = WISH_END;
	else if (take(&m->reset_asked))
		wish = WISH_RESET;
	else if (take(&m->pause_asked))
		wish = WISH_PAUSE;
	else
		wish = WISH_CONTINUE;
	if (wish == WISH_CONTINUE)
		m->continue_asked = false;
	pthread_mutex_unlock(&m->lock);
	return wish;
}

static void set_paused(struct machine *m, bool paused)
{
	pthread_mutex_lock(&m->lock);
	m->paused = paused;
	pthread_mutex_unlock(&m->lock);
	/* A clock that counts instructions stands by itself. */
	if (m->cfg.icount)
		return;
	if (paused)
		vclock_pause(&m->clock);
	else
		vclock_resume(&m->clock);
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

static void fulfil(struct machine *m, enum wish wish)
{
	if (wish == WISH_CONTINUE) {
		go_on(m);
		return;
	}
	if (!m->paused)
		stop_cpus(m);
	if (wish == WISH_PAUSE)
		set_paused(m, true);
	else
		reset_board(m);
	if (!m->paused)
		crew_start(m->crew);
}

enum machine_end machine_run(struct machine *m, uint32_t *code)
{
	tell_devs(m, true);
	crew_start(m->crew);
	for (enum wish wish; (wish = next_wish(m)) != WISH_END;)
		fulfil(m, wish);
	if (!m->paused)
		stop_cpus(m);
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

void machine_continue(struct machine *m)
{
	pthread_mutex_lock(&m->lock);
	m->continue_asked = true;
	pthread_cond_signal(&m->asked);
	pthread_mutex_unlock(&m->lock);
}

void machine_power_button(struct machine *m)
{
	pm_power_button(m->power);
}

static void free_cpus(struct machine *m)
{
	for (unsigned i = 0; i < m->n_engines; i++)
		m->set.v[i]->engine->fini(m->set.v[i]);
	for (unsigned i = 0; i < m->set.n; i++) {
		vcpu_fini(m->set.v[i]);
		free(m->set.v[i]);
	}
}

void machine_free(struct machine *m)
{
	if (!m)
		return;
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
	free_cpus(m);
	boot_free(m->boot);
	iospace_free(m->pio);
	iospace_free(m->mmio);
	physmap_fini(&m->pm);
	pthread_mutex_destroy(&m->lock);
	pthread_cond_destroy(&m->asked);
	free(m);
}
