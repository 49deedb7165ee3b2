/* The pc board: which chips there are, at which ports, on which wires. */
#include "base/err.h"
#include "dev/acpi/pm.h"
#include "dev/backend/chr.h"
#include "dev/backend/chr_tee.h"
#include "dev/isa/isa.h"
#include "dev/pci/pci.h"
#include "machine/acpi.h"
#include "machine/intc.h"
#include "machine/machine_internal.h"
#include "machine/memmap.h"
#include "machine/smbios.h"
#include "mem/iospace.h"

#include <assert.h>
#include <errno.h>
#include <time.h>

static void on_reset(void *arg)
{
	machine_reset(arg);
}

static void on_power_off(void *arg)
{
	machine_end(arg, END_POWEROFF, 0);
}

static void on_debug_exit(void *arg, uint32_t val)
{
	machine_end(arg, END_DEBUG_EXIT, val);
}

static void on_a20(void *arg, bool open)
{
	struct machine *m = arg;

	m->pm.a20_mask = open ? ~0ull : ~BIT(20);
	for (unsigned i = 0; i < m->set.n; i++)
		vcpu_kick(m->set.v[i], KICK_TLB);
}

static void on_escape(void *arg, enum chr_escape what)
{
	switch (what) {
	case CHR_QUIT: machine_end(arg, END_QUIT, 0); break;
	case CHR_POWER_BUTTON: machine_power_button(arg); break;
	case CHR_RESET: machine_reset(arg); break;
	case CHR_CONTINUE: machine_continue(arg); break;
	}
}

int pc_make_chr(struct machine *m, struct chr **out, enum console_kind kind, const char *path,
		const char *what, struct err *err)
{
	struct chr_escape_fn escape = { .fn = on_escape, .arg = m };

	switch (kind) {
	case CONSOLE_STDIO: return chr_stdio_new(out, m->loop, escape, err);
	case CONSOLE_FILE: return chr_file_new(out, m->loop, path, err);
	case CONSOLE_PTY: return chr_pty_new(out, m->loop, what, err);
	default: return chr_null_new(out, err);
	}
}

static int make_console(struct machine *m, struct err *err)
{
	struct chr *terminal;
	int ret = pc_make_chr(m, &terminal, m->cfg.console, m->cfg.console_path,
			      "the serial console", err);

	return ret < 0 ? ret : chr_tee_new(&m->console, m->loop, terminal, err);
}

struct dev *pc_slot(struct machine *m)
{
	/* The board has fewer devices than that, whatever the configuration. */
	assert(m->n_devs < MACHINE_MAX_DEVS);
	return &m->dev[m->n_devs];
}

int pc_add(struct machine *m, int ret)
{
	if (ret == 0)
		m->n_devs++;
	return ret;
}

static int add_pci(struct machine *m, struct err *err)
{
	struct pci_bus_cfg cfg = {
		.address_port = PORT_PCI_ADDRESS,
		.ecam_base = ECAM_BASE,
		.ecam_buses = ECAM_BUSES,
		.pio = m->pio,
		.mmio = m->mmio,
		.msi = intc_msi(m->intc),
		.reset = on_reset,
		.arg = m,
	};

	for (unsigned i = 0; i < 4; i++)
		cfg.intx[i] = intc_gsi_line(m->intc, GSI_INTX + i);
	return pc_add(m, pci_bus_new(pc_slot(m), &m->pci, &cfg, err));
}

static int64_t host_wall_ns(void)
{
	struct timespec wall;

	clock_gettime(CLOCK_REALTIME, &wall);
	return (int64_t)wall.tv_sec * 1000000000 + wall.tv_nsec;
}

static int add_rtc(struct machine *m, struct isa_time time, struct err *err)
{
	uint64_t low = MIN(m->pm.ram_bytes, HOLE_BASE);
	int64_t wall_ns = m->cfg.icount ? ICOUNT_WALL_NS : host_wall_ns() - vclock_now(&m->clock);

	return pc_add(m, rtc_new(pc_slot(m), m->pio,
				 &(struct rtc_cfg){
					 .port = PORT_RTC,
					 .irq = intc_isa_line(m->intc, IRQ_RTC),
					 .time = time,
					 .wall_ns = wall_ns,
					 .low_bytes = low,
					 .high_bytes = m->pm.ram_bytes - low,
				 },
				 err));
}

static int add_debug_exit(struct machine *m, struct err *err)
{
	struct debug_exit_cfg cfg = { .port = PORT_DEBUG_EXIT, .fn = on_debug_exit, .arg = m };

	return m->cfg.debug_exit ? pc_add(m, debug_exit_new(pc_slot(m), m->pio, &cfg, err)) : 0;
}

static int make_intc(struct machine *m, struct err *err)
{
	return intc_new(&m->intc,
			&(struct intc_cfg){
				.set = &m->set,
				.clock = &m->clock,
				.timers = m->timers,
				.pio = m->pio,
				.mmio = m->mmio,
				.phys_bits = m->model.phys_bits,
				.apic_tick_ns = m->model.apic_tick_ns,
				.tsc_khz = m->model.tsc_khz,
			},
			err);
}

int pc_build(struct machine *m, struct err *err)
{
	struct isa_time time = { .clock = &m->clock, .timers = m->timers };
	int ret = make_intc(m, err);

	if (ret < 0)
		return ret;
	ret = make_console(m, err);
	if (ret < 0)
		return err_wrap(err, "--console");

	struct pit_cfg pit = { .port = PORT_PIT,
			       .control_port = PORT_CONTROL_B,
			       .irq = intc_isa_line(m->intc, IRQ_PIT),
			       .time = time };
	struct kbc_cfg kbc = { .data_port = PORT_KBC,
			       .control_port = PORT_CONTROL_A,
			       .irq_kbd = intc_isa_line(m->intc, IRQ_KBD),
			       .irq_aux = intc_isa_line(m->intc, IRQ_AUX),
			       .set_a20 = on_a20,
			       .reset = on_reset,
			       .arg = m };
	struct serial_cfg com1 = { .port = PORT_COM1,
				   .irq = intc_isa_line(m->intc, IRQ_COM1),
				   .chr = m->console };
	struct pm_cfg power = { .port = PORT_PM,
				.sci = intc_isa_line(m->intc, IRQ_SCI),
				.clock = &m->clock,
				.timers = m->timers,
				.power_off = on_power_off,
				.arg = m };

	if ((ret = add_pci(m, err)) < 0 ||
	    (ret = pc_add(m, pit_new(pc_slot(m), m->pio, &pit, err))) < 0 ||
	    (ret = add_rtc(m, time, err)) < 0 ||
	    (ret = pc_add(m, kbc_new(pc_slot(m), m->pio, &kbc, err))) < 0 ||
	    (ret = pc_add(m, serial_new(pc_slot(m), m->pio, &com1, err))) < 0 ||
	    (ret = pc_add(m, pm_new(pc_slot(m), &m->power, m->pio, &power, err))) < 0 ||
	    (ret = pc_add(m, post_new(pc_slot(m), m->pio, PORT_POST, err))) < 0 ||
	    (ret = add_debug_exit(m, err)) < 0 || (ret = pc_add_virtio(m, err)) < 0 ||
	    (ret = pc_add_nics(m, err)) < 0)
		return ret;
	return 0;
}

int pc_write_tables(struct machine *m, struct err *err)
{
	/* Gaps between tables are the guest's to read. */
	uint8_t buf[MAX(ACPI_END - ACPI_BASE, SMBIOS_END - SMBIOS_BASE)] = { 0 };
	uint64_t low = MIN(m->pm.ram_bytes, HOLE_BASE);
	size_t len = acpi_build(buf, ACPI_END - ACPI_BASE, m->set.n);

	if (!len || !physmap_write(&m->pm, ACPI_BASE, buf, len))
		return err_say(err, ENOMEM, "the ACPI tables do not fit into the guest's memory");
	len = smbios_build(buf, SMBIOS_END - SMBIOS_BASE, &m->model, low, m->pm.ram_bytes - low,
			   m->cfg.oem_strings);
	if (!len || !physmap_write(&m->pm, SMBIOS_BASE, buf, len))
		return err_say(err, ENOMEM, "the SMBIOS tables do not fit into the guest's memory");
	return 0;
}
