#include "machine/acpi.h"

#include "dev/acpi/pm.h"
#include "machine/memmap.h"
#include "mem/platform.h"

/* dsdt_aml_code: dsdt.asl, compiled by iasl at build time. */
#include "dsdt.hex"

struct acpi_header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_header) == 36, "ACPI 6.5 5.2.6");

/* Generic Address Structure. ACPI 6.5 5.2.3.2. */
struct gas {
	uint8_t space, bit_width, bit_offset, access_size;
	uint64_t address;
} __attribute__((packed));
_Static_assert(sizeof(struct gas) == 12, "ACPI 6.5 5.2.3.2");
#define GAS_IO 1

struct rsdp {
	char signature[8];
	uint8_t checksum;
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t extended_checksum, reserved[3];
} __attribute__((packed));
_Static_assert(sizeof(struct rsdp) == 36, "ACPI 6.5 5.2.5.3");

struct fadt {
	struct acpi_header h;
	uint32_t firmware_ctrl, dsdt;
	uint8_t reserved0, preferred_pm_profile;
	uint16_t sci_int;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	uint32_t pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base,
		cst_cnt;
	uint16_t p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alrm, mon_alrm, century;
	uint16_t iapc_boot_arch;
	uint8_t reserved1;
	uint32_t flags;
	struct gas reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_version;
	uint64_t x_firmware_ctrl, x_dsdt;
	struct gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr, x_gpe0,
		x_gpe1, sleep_control, sleep_status;
	uint64_t hypervisor_id;
} __attribute__((packed));
_Static_assert(sizeof(struct fadt) == 276, "ACPI 6.5 5.2.9");

#define FADT_WBINVD	   (1u << 0)
#define FADT_PROC_C1	   (1u << 2)
#define FADT_SLP_BUTTON	   (1u << 5) /* no fixed sleep button */
#define FADT_TMR_VAL_EXT   (1u << 8) /* the PM timer has 32 bits */
#define FADT_RESET_REG_SUP (1u << 10)
#define BOOT_ARCH_LEGACY   (1u << 0)
#define BOOT_ARCH_8042	   (1u << 1)
#define BOOT_ARCH_NO_VGA   (1u << 2)

struct facs {
	char signature[4];
	uint32_t length, hardware_signature, waking_vector, global_lock, flags;
	uint64_t x_waking_vector;
	uint8_t version, reserved0[3];
	uint32_t ospm_flags;
	uint8_t reserved1[24];
} __attribute__((packed));
_Static_assert(sizeof(struct facs) == 64, "ACPI 6.5 5.2.10");

struct builder {
	uint8_t *buf;
	size_t size, used;
	bool overflow;
};

static void *place(struct builder *b, const void *data, size_t len, size_t align)
{
	size_t at = ALIGN_UP(b->used, align);

	if (!range_fits(at, len, b->size)) {
		b->overflow = true;
		return NULL;
	}
	if (data)
		memcpy(b->buf + at, data, len);
	else
		memset(b->buf + at, 0, len);
	b->used = at + len;
	return b->buf + at;
}

static gpa_t gpa_of(const struct builder *b, const void *p)
{
	return p ? ACPI_BASE + (uint64_t)((const uint8_t *)p - b->buf) : 0;
}

static uint8_t checksum(const void *p, size_t len)
{
	const uint8_t *byte = p;
	uint8_t sum = 0;

	while (len--)
		sum += *byte++;
	return (uint8_t)-sum;
}

static struct acpi_header header(const char *signature, size_t len, uint8_t revision)
{
	struct acpi_header h = {
		.length = (uint32_t)len,
		.revision = revision,
		.oem_revision = 1,
		.creator_revision = 1,
	};

	memcpy(h.signature, signature, 4);
	memcpy(h.oem_id, "CLEAVE", 6);
	memcpy(h.oem_table_id, "PC      ", 8);
	memcpy(h.creator_id, "CLVE", 4);
	return h;
}

static void finish(void *table)
{
	struct acpi_header *h = table;

	if (!h)
		return;
	h->checksum = 0;
	h->checksum = checksum(h, h->length);
}

static struct gas io(uint64_t port, uint8_t bits)
{
	/* Access size: 1 byte, 2 word, 3 dword. Events and GPEs are reached by bytes or words. */
	return (struct gas){ .space = GAS_IO,
			     .bit_width = bits,
			     .access_size = bits == 8	 ? 1
					    : bits == 16 ? 2
					    : bits == 32 ? 3
							 : 0,
			     .address = port };
}

static gpa_t add_fadt(struct builder *b, gpa_t dsdt, gpa_t facs)
{
	struct fadt f = {
		.h = header("FACP", sizeof(f), 6),
		.firmware_ctrl = (uint32_t)facs,
		.dsdt = (uint32_t)dsdt,
		.preferred_pm_profile = 4, /* enterprise server */
		.sci_int = IRQ_SCI,
		.pm1a_evt = PORT_PM + PM_EVENT,
		.pm1a_cnt = PORT_PM + PM_CONTROL,
		.pm_tmr = PORT_PM + PM_TIMER,
		.gpe0 = PORT_PM + PM_GPE,
		.pm1_evt_len = 4,
		.pm1_cnt_len = 2,
		.pm_tmr_len = 4,
		.gpe0_len = PM_GPE_BYTES,
		.p_lvl2_lat = 0xffff, /* no C2, C3 */
		.p_lvl3_lat = 0xffff,
		.century = 0x32,
		.iapc_boot_arch = BOOT_ARCH_LEGACY | BOOT_ARCH_8042 | BOOT_ARCH_NO_VGA,
		.flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_TMR_VAL_EXT |
			 FADT_RESET_REG_SUP,
		.reset_reg = io(PORT_RESET, 8),
		.reset_value = 0x06,
		.minor_version = 5,
		.x_dsdt = dsdt,
		.x_pm1a_evt = io(PORT_PM + PM_EVENT, 32),
		.x_pm1a_cnt = io(PORT_PM + PM_CONTROL, 16),
		.x_pm_tmr = io(PORT_PM + PM_TIMER, 32),
		.x_gpe0 = io(PORT_PM + PM_GPE, PM_GPE_BYTES * 8),
	};

	memcpy(&f.hypervisor_id, "Cleave\0\0", 8);
	f.x_pm1a_evt.access_size = 2;
	f.x_gpe0.access_size = 1;

	void *p = place(b, &f, sizeof(f), 16);

	finish(p);
	return gpa_of(b, p);
}

/* Multiple APIC Description Table. ACPI 6.5 5.2.12. */
static gpa_t add_madt(struct builder *b, unsigned n_cpus)
{
	struct __attribute__((packed)) {
		struct acpi_header h;
		uint32_t lapic_base, flags;
	} m = { .lapic_base = LAPIC_DEFAULT_BASE, .flags = 1 /* 8259s too */ };
	size_t start;

	m.h = header("APIC", sizeof(m), 5);

	uint8_t *p = place(b, &m, sizeof(m), 16);

	if (!p)
		return 0;
	start = (size_t)(p - b->buf);
	for (unsigned i = 0; i < n_cpus; i++) {
		struct __attribute__((packed)) {
			uint8_t type, len, uid, id;
			uint32_t flags;
		} cpu = { 0, 8, (uint8_t)i, (uint8_t)i, 1 };

		place(b, &cpu, sizeof(cpu), 1);
	}

	struct __attribute__((packed)) {
		uint8_t type, len, id, reserved;
		uint32_t base, gsi_base;
	} ioapic = { 1, 12, 0, 0, (uint32_t)IOAPIC_BASE, 0 };

	place(b, &ioapic, sizeof(ioapic), 1);

	/* The PIT's wire, and the SCI, which is level-triggered and active high. */
	struct __attribute__((packed)) {
		uint8_t type, len, bus, source;
		uint32_t gsi;
		uint16_t flags;
	} override[] = { { 2, 10, 0, IRQ_PIT, GSI_PIT, 0 },
			 { 2, 10, 0, IRQ_SCI, IRQ_SCI, 0x000d } };

	place(b, override, sizeof(override), 1);

	struct __attribute__((packed)) {
		uint8_t type, len, uid;
		uint16_t flags;
		uint8_t lint;
	} nmi = { 4, 6, 0xff, 0, 1 };

	place(b, &nmi, sizeof(nmi), 1);
	((struct acpi_header *)p)->length = (uint32_t)(b->used - start);
	if (!b->overflow)
		finish(p);
	return gpa_of(b, p);
}

/* Where ECAM is. PCI Firmware Specification 3.2, 4.1.2. */
static gpa_t add_mcfg(struct builder *b)
{
	struct __attribute__((packed)) {
		struct acpi_header h;
		uint64_t reserved0, base;
		uint16_t segment;
		uint8_t first_bus, last_bus;
		uint32_t reserved1;
	} m = { .base = ECAM_BASE, .last_bus = ECAM_BUSES - 1 };

	m.h = header("MCFG", sizeof(m), 1);

	void *p = place(b, &m, sizeof(m), 16);

	finish(p);
	return gpa_of(b, p);
}

static gpa_t add_xsdt(struct builder *b, const gpa_t *tables, unsigned n)
{
	struct acpi_header h = header("XSDT", sizeof(h) + n * 8, 1);
	uint8_t *p = place(b, &h, sizeof(h), 16);

	place(b, tables, n * 8, 1);
	if (!b->overflow)
		finish(p);
	return gpa_of(b, p);
}

size_t acpi_build(uint8_t *buf, size_t size, unsigned n_cpus)
{
	struct builder b = { .buf = buf, .size = size };
	struct rsdp r = { .revision = 2, .length = sizeof(r) };
	struct facs facs = { .signature = "FACS", .length = sizeof(facs), .version = 2 };
	struct rsdp *rsdp = place(&b, NULL, sizeof(r), 16);
	gpa_t facs_gpa = gpa_of(&b, place(&b, &facs, sizeof(facs), 64));
	gpa_t dsdt_gpa = gpa_of(&b, place(&b, dsdt_aml_code, sizeof(dsdt_aml_code), 16));
	gpa_t tables[3];

	tables[0] = add_fadt(&b, dsdt_gpa, facs_gpa);
	tables[1] = add_madt(&b, n_cpus);
	tables[2] = add_mcfg(&b);
	memcpy(r.signature, "RSD PTR ", 8);
	memcpy(r.oem_id, "CLEAVE", 6);
	r.xsdt = add_xsdt(&b, tables, ARRAY_SIZE(tables));
	if (b.overflow)
		return 0;
	r.checksum = checksum(&r, 20); /* the part that ACPI 1.0 knew */
	r.extended_checksum = checksum(&r, sizeof(r));
	memcpy(rsdp, &r, sizeof(r));
	return b.used;
}
