/* virtio over PCI: capabilities, the BAR with the registers, interrupts. virtio 1.2, 4.1. */
#include "base/err.h"
#include "base/trace.h"
#include "dev/virtio/vdev_internal.h"
#include "mem/iospace.h"

#include <errno.h>
#include <stdlib.h>

#define VIRTIO_VENDOR	   0x1af4
#define VIRTIO_DEVICE_BASE 0x1040

/* BAR 0: a page for each part, so that a guest may map them with rights of their own. */
#define BAR	     0
#define PART_COMMON  0x0000
#define PART_ISR     0x1000
#define PART_DEVICE  0x2000
#define PART_NOTIFY  0x3000
#define PART_TABLE   0x4000
#define PART_PENDING 0x5000
#define BAR_BYTES    0x8000
#define PART(off)    ((off) & ~0xfffull)

#define NOTIFY_MULTIPLIER 4

#define CAP_ID_VENDOR	 0x09
#define CAP_COMMON_CFG	 1
#define CAP_NOTIFY_CFG	 2
#define CAP_ISR_CFG	 3
#define CAP_DEVICE_CFG	 4
#define CAP_PCI_CFG	 5
#define CAP_BYTES	 16
#define CAP_ACCESS_BAR	 4 /* fields of the configuration access capability */
#define CAP_ACCESS_OFF	 8
#define CAP_ACCESS_LEN	 12
#define CAP_ACCESS_DATA	 16
#define CAP_ACCESS_BYTES 20

/* struct virtio_pci_common_cfg, 4.1.4.3 */
enum common {
	FEATURE_SELECT = 0,
	FEATURE = 4,
	DRIVER_FEATURE_SELECT = 8,
	DRIVER_FEATURE = 12,
	CONFIG_VECTOR = 16,
	NUM_QUEUES = 18,
	STATUS = 20,
	GENERATION = 21,
	QUEUE_SELECT = 22,
	QUEUE_SIZE = 24,
	QUEUE_VECTOR = 26,
	QUEUE_ENABLE = 28,
	QUEUE_NOTIFY_OFF = 30,
	QUEUE_DESC = 32,
	QUEUE_DRIVER = 40,
	QUEUE_DEVICE = 48,
	QUEUE_NOTIFY_DATA = 56,
	QUEUE_RESET = 58,
	COMMON_BYTES = 60,
};

void vdev_update_pin(struct vdev *v)
{
	pci_intx(&v->func, v->isr && !msix_enabled(&v->msix));
}

/* Needs the lock. */
static void interrupt(struct vdev *v, uint8_t isr, uint16_t vector)
{
	if (msix_enabled(&v->msix)) {
		msix_send(&v->msix, vector);
	} else {
		v->isr |= isr;
		vdev_update_pin(v);
	}
}

void vdev_config_irq(struct vdev *v)
{
	v->isr |= VIRTIO_ISR_CONFIG;
	interrupt(v, VIRTIO_ISR_CONFIG, v->config_vector);
}

void vdev_irq(struct vdev *v, unsigned q)
{
	pthread_mutex_lock(&v->lock);
	if (v->active && v->queue[q].enabled)
		interrupt(v, VIRTIO_ISR_QUEUE, v->queue[q].vector);
	pthread_mutex_unlock(&v->lock);
}

/* The selected queue, or NULL. */
static struct vdev_queue *selected(struct vdev *v)
{
	return v->queue_select < v->cfg.n_queues ? &v->queue[v->queue_select] : NULL;
}

/* The registers as they read now. A queue that is not there has size 0. */
static void fill_common(struct vdev *v, uint8_t *r)
{
	const struct vdev_queue *q = selected(v);

	memset(r, 0, COMMON_BYTES);
	store32(r + FEATURE_SELECT, v->feature_select);
	if (v->feature_select <= 1)
		store32(r + FEATURE, (uint32_t)(v->offered >> (32 * v->feature_select)));
	store32(r + DRIVER_FEATURE_SELECT, v->driver_feature_select);
	if (v->driver_feature_select <= 1)
		store32(r + DRIVER_FEATURE,
			(uint32_t)(v->accepted >> (32 * v->driver_feature_select)));
	store16(r + CONFIG_VECTOR, v->config_vector);
	store16(r + NUM_QUEUES, (uint16_t)v->cfg.n_queues);
	r[STATUS] = v->status;
	r[GENERATION] = v->generation;
	store16(r + QUEUE_SELECT, v->queue_select);
	store16(r + QUEUE_VECTOR, VIRTIO_NO_VECTOR);
	if (!q)
		return;
	store16(r + QUEUE_SIZE, q->setup.size);
	store16(r + QUEUE_VECTOR, q->vector);
	store16(r + QUEUE_ENABLE, q->enabled);
	store16(r + QUEUE_NOTIFY_OFF, v->queue_select);
	store64(r + QUEUE_DESC, q->setup.desc);
	store64(r + QUEUE_DRIVER, q->setup.driver);
	store64(r + QUEUE_DEVICE, q->setup.device);
	store16(r + QUEUE_NOTIFY_DATA, v->queue_select);
	store16(r + QUEUE_RESET, q->resetting);
}

static uint16_t usable_vector(const struct vdev *v, uint32_t val)
{
	return val < v->msix.n ? (uint16_t)val : VIRTIO_NO_VECTOR;
}

static void set_half(uint64_t *reg, bool high, uint32_t val)
{
	*reg = high ? (*reg & 0xffffffffull) | (uint64_t)val << 32 : (*reg & ~0xffffffffull) | val;
}

/* Registers of the selected queue q, which is at rest. */
static void write_setup(struct vdev *v, struct vdev_queue *q, unsigned off, uint32_t val)
{
	switch (off) {
	case QUEUE_SIZE:
		if (val && val <= v->max_size[v->queue_select])
			q->setup.size = (uint16_t)val;
		break;
	case QUEUE_DESC:
	case QUEUE_DESC + 4: set_half(&q->setup.desc, off != QUEUE_DESC, val); break;
	case QUEUE_DRIVER:
	case QUEUE_DRIVER + 4: set_half(&q->setup.driver, off != QUEUE_DRIVER, val); break;
	case QUEUE_DEVICE:
	case QUEUE_DEVICE + 4: set_half(&q->setup.device, off != QUEUE_DEVICE, val); break;
	}
}

static void write_queue(struct vdev *v, unsigned off, uint32_t val)
{
	struct vdev_queue *q = selected(v);

	if (!q || v->halt != VDEV_RUNS)
		return;
	switch (off) {
	case QUEUE_VECTOR: q->vector = usable_vector(v, val); break;
	case QUEUE_ENABLE:
		if (val == 1)
			vdev_enable_queue(v, v->queue_select);
		break;
	case QUEUE_RESET:
		if (val == 1)
			vdev_reset_queue(v, v->queue_select);
		break;
	default:
		if (!q->enabled && !q->resetting)
			write_setup(v, q, off, val);
	}
}

/* Bytes of the register at off: the driver must use its whole width (4.1.3.1). */
static unsigned width(unsigned off)
{
	switch (off) {
	case STATUS: return 1;
	case CONFIG_VECTOR:
	case QUEUE_SELECT:
	case QUEUE_SIZE:
	case QUEUE_VECTOR:
	case QUEUE_ENABLE:
	case QUEUE_RESET: return 2;
	default: return 4;
	}
}

static void write_common(struct vdev *v, unsigned off, unsigned size, uint32_t val)
{
	if (size != width(off))
		return;
	switch (off) {
	case FEATURE_SELECT: v->feature_select = val; break;
	case DRIVER_FEATURE_SELECT: v->driver_feature_select = val; break;
	case DRIVER_FEATURE: vdev_write_features(v, val); break;
	case CONFIG_VECTOR: v->config_vector = usable_vector(v, val); break;
	case STATUS: vdev_write_status(v, (uint8_t)val); break;
	case QUEUE_SELECT: v->queue_select = (uint16_t)val; break;
	default: write_queue(v, off, val);
	}
}

/* Needs the lock, as do the other two. */
static uint32_t read_common(struct vdev *v, unsigned off, unsigned size)
{
	uint8_t r[COMMON_BYTES];
	uint32_t val = 0;

	fill_common(v, r);
	if (range_fits(off, size, sizeof(r)))
		memcpy(&val, r + off, size);
	return val;
}

static uint32_t read_isr(struct vdev *v)
{
	uint8_t isr = v->isr;

	v->isr = 0;
	vdev_update_pin(v);
	return isr;
}

static uint32_t read_config(struct vdev *v, unsigned off, unsigned size)
{
	uint32_t val = 0;

	if (v->cfg.ops->config_read && range_fits(off, size, VDEV_CONFIG_BYTES))
		v->cfg.ops->config_read(v->cfg.dev, off, &val, size);
	return val;
}

static uint64_t bar_read(void *dev, uint64_t off, unsigned size)
{
	struct vdev *v = dev;
	unsigned in_part = off & 0xfff;
	uint32_t val = 0;

	if (PART(off) == PART_TABLE)
		return msix_table_read(&v->msix, in_part, size);
	if (PART(off) == PART_PENDING)
		return msix_pba_read(&v->msix, in_part, size);
	pthread_mutex_lock(&v->lock);
	if (PART(off) == PART_COMMON)
		val = read_common(v, in_part, size);
	else if (PART(off) == PART_ISR && in_part == 0)
		val = read_isr(v);
	else if (PART(off) == PART_DEVICE)
		val = read_config(v, in_part, size);
	pthread_mutex_unlock(&v->lock);
	return val;
}

/* No lock: this is what a vCPU does all day. */
static void notify(struct vdev *v, unsigned q)
{
	if (q < v->cfg.n_queues && atomic_load(&v->notify_on))
		v->cfg.ops->notify(v->cfg.dev, q);
}

static void bar_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct vdev *v = dev;
	unsigned in_part = off & 0xfff;

	if (PART(off) == PART_NOTIFY) {
		notify(v, in_part / NOTIFY_MULTIPLIER);
		return;
	}
	if (PART(off) == PART_TABLE) {
		msix_table_write(&v->msix, in_part, size, (uint32_t)val);
		return;
	}
	pthread_mutex_lock(&v->lock);
	if (PART(off) == PART_COMMON)
		write_common(v, in_part, size, (uint32_t)val);
	else if (PART(off) == PART_DEVICE && v->cfg.ops->config_write &&
		 range_fits(in_part, size, VDEV_CONFIG_BYTES))
		v->cfg.ops->config_write(v->cfg.dev, in_part, &val, size);
	pthread_mutex_unlock(&v->lock);
}

static const struct io_ops bar_ops = { .read = bar_read, .write = bar_write, .max = 4 };

/* The window into the BAR that the configuration access capability opens (4.1.4.9). False if it
 * makes no sense now, or if what the guest accesses is not its data.
 */
static bool access_window(struct vdev *v, unsigned off, unsigned size, uint32_t *at, unsigned *len)
{
	unsigned data = v->access_cap + CAP_ACCESS_DATA;

	if (off + size <= data || off >= data + 4)
		return false;
	*at = pci_cfg_get(&v->func, v->access_cap + CAP_ACCESS_OFF, 4);
	*len = pci_cfg_get(&v->func, v->access_cap + CAP_ACCESS_LEN, 4);
	return pci_cfg_get(&v->func, v->access_cap + CAP_ACCESS_BAR, 1) == BAR &&
	       (*len == 1 || *len == 2 || *len == 4) && *at % *len == 0 && *at < BAR_BYTES;
}

static void on_cfg_reading(void *dev, unsigned off, unsigned size)
{
	struct vdev *v = dev;
	uint32_t at;
	unsigned len;

	if (access_window(v, off, size, &at, &len))
		pci_cfg_set(&v->func, v->access_cap + CAP_ACCESS_DATA, 4,
			    (uint32_t)bar_read(v, at, len));
}

static void on_cfg_written(void *dev, unsigned off, unsigned size)
{
	struct vdev *v = dev;
	uint32_t at, data = v->access_cap + CAP_ACCESS_DATA;
	unsigned len;

	msix_cfg_written(&v->msix, off, size);
	if (access_window(v, off, size, &at, &len))
		bar_write(v, at, len, pci_cfg_get(&v->func, data, 4) & (uint32_t)size_mask(len));
	pthread_mutex_lock(&v->lock);
	vdev_update_pin(v); /* MSI-X went on or off */
	if (off < PCI_COMMAND + 2 && off + size > PCI_COMMAND && v->active &&
	    !(pci_cfg_get(&v->func, PCI_COMMAND, 2) & PCI_COMMAND_MASTER))
		vdev_halt(v, VDEV_STOPS);
	pthread_mutex_unlock(&v->lock);
}

static unsigned add_cap(struct vdev *v, unsigned type, unsigned len, uint32_t off, uint32_t bytes)
{
	unsigned cap = pci_func_cap(&v->func, CAP_ID_VENDOR, len);
	uint8_t *p = v->func.cfg + cap;

	p[2] = (uint8_t)len;
	p[3] = (uint8_t)type;
	p[CAP_ACCESS_BAR] = BAR;
	store32(p + CAP_ACCESS_OFF, off);
	store32(p + CAP_ACCESS_LEN, bytes);
	return cap;
}

static void add_caps(struct vdev *v)
{
	unsigned cap;

	add_cap(v, CAP_COMMON_CFG, CAP_BYTES, PART_COMMON, COMMON_BYTES);
	add_cap(v, CAP_ISR_CFG, CAP_BYTES, PART_ISR, 1);
	add_cap(v, CAP_DEVICE_CFG, CAP_BYTES, PART_DEVICE, VDEV_CONFIG_BYTES);
	cap = add_cap(v, CAP_NOTIFY_CFG, CAP_BYTES + 4, PART_NOTIFY,
		      v->cfg.n_queues * NOTIFY_MULTIPLIER);
	store32(v->func.cfg + cap + CAP_BYTES, NOTIFY_MULTIPLIER);
	v->access_cap = add_cap(v, CAP_PCI_CFG, CAP_ACCESS_BYTES, 0, 0);
	v->func.writable[v->access_cap + CAP_ACCESS_BAR] = 0xff;
	memset(v->func.writable + v->access_cap + CAP_ACCESS_OFF, 0xff,
	       CAP_ACCESS_BYTES - CAP_ACCESS_OFF);
}

static int make_func(struct vdev *v, struct err *err)
{
	const struct vdev_ops *ops = v->cfg.ops;
	struct pci_ids ids = {
		.vendor = VIRTIO_VENDOR,
		.device = (uint16_t)(VIRTIO_DEVICE_BASE + ops->id),
		.subvendor = VIRTIO_VENDOR,
		.subdevice = (uint16_t)(VIRTIO_DEVICE_BASE + ops->id),
		.class_code = ops->class_code,
		.revision = 1,
		.pin = 1,
	};
	struct msix_cfg msix = {
		.n = v->cfg.n_queues + 1, .bar = BAR, .table = PART_TABLE, .pba = PART_PENDING
	};

	struct pci_bar bar = { .len = BAR_BYTES, .is64 = true, .ops = &bar_ops, .dev = v };

	if (v->cfg.bell_fd >= 0)
		bar.bells = (struct io_bells){ .base = PART_NOTIFY,
					       .step = NOTIFY_MULTIPLIER,
					       .n = v->cfg.n_queues,
					       .fd = v->cfg.bell_fd };
	pci_func_init(&v->func, &ids);
	pci_func_bar(&v->func, BAR, &bar);
	v->func.reading = on_cfg_reading;
	v->func.written = on_cfg_written;
	v->func.dev = v;
	add_caps(v);
	return msix_init(&v->msix, &v->func, &msix, err);
}

static int plug_in(struct vdev *v, struct pci_bus *bus, struct err *err)
{
	for (unsigned dev = 1; dev < 32; dev++)
		if (pci_bus_add(bus, &v->func, PCI_DEVFN(dev, 0), NULL) == 0)
			return 0;
	return err_say(err, ENOSPC, "the PCI bus has no free slot for another device");
}

static void destroy(struct vdev *v)
{
	pthread_cond_destroy(&v->halted);
	pthread_mutex_destroy(&v->lock);
	free(v);
}

int vdev_new_pci(struct vdev **out, struct pci_bus *bus, const struct vdev_cfg *cfg,
		 struct err *err)
{
	struct vdev *v = calloc(1, sizeof(*v));
	pthread_mutexattr_t attr;
	int ret;

	if (!v)
		return err_set(err, ENOMEM, "virtio device");
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&v->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	pthread_cond_init(&v->halted, NULL);
	v->cfg = *cfg;
	memcpy(v->max_size, cfg->max_size, cfg->n_queues * sizeof(*v->max_size));
	v->offered = cfg->features | BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_PACKED) |
		     BIT(VIRTIO_F_RING_INDIRECT_DESC) | BIT(VIRTIO_F_RING_EVENT_IDX);
	if (cfg->ops->queue_reset)
		v->offered |= BIT(VIRTIO_F_RING_RESET);
	ret = make_func(v, err);
	if (ret < 0) {
		destroy(v);
		return ret;
	}
	ret = plug_in(v, bus, err);
	if (ret < 0) {
		msix_fini(&v->msix);
		destroy(v);
		return ret;
	}
	vdev_init_registers(v);
	*out = v;
	return 0;
}

void vdev_free(struct vdev *v)
{
	if (!v)
		return;
	pci_bus_remove(&v->func);
	msix_fini(&v->msix);
	destroy(v);
}
