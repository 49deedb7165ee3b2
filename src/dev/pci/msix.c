#include "dev/pci/msix.h"

#include "base/bits.h"
#include "base/err.h"
#include "dev/pci/pci.h"

#include <errno.h>
#include <stdlib.h>

#define CAP_ID_MSIX	    0x11
#define CAP_BYTES	    12
#define MSG_CONTROL	    2
#define MSG_CONTROL_MASKED  0x4000
#define MSG_CONTROL_ENABLE  0x8000
#define VECTOR_CONTROL	    12 /* of a table entry */
#define VECTOR_CONTROL_MASK 1u

static uint8_t *entry(const struct msix *m, unsigned vector)
{
	return m->table + (size_t)vector * MSIX_ENTRY_BYTES;
}

static unsigned pba_words(const struct msix *m)
{
	return (m->n + 63) / 64;
}

/* Needs the lock. */
static void power_on(struct msix *m)
{
	memset(m->table, 0, (size_t)m->n * MSIX_ENTRY_BYTES);
	memset(m->pending, 0, pba_words(m) * sizeof(*m->pending));
	for (unsigned i = 0; i < m->n; i++)
		store32(entry(m, i) + VECTOR_CONTROL, VECTOR_CONTROL_MASK);
	m->enabled = m->masked = false;
}

int msix_init(struct msix *m, struct pci_func *f, const struct msix_cfg *cfg, struct err *err)
{
	*m = (struct msix){ .func = f, .n = cfg->n };
	m->table = calloc(m->n, MSIX_ENTRY_BYTES);
	m->pending = calloc(pba_words(m), sizeof(*m->pending));
	if (!m->table || !m->pending) {
		free(m->table);
		free(m->pending);
		return err_set(err, ENOMEM, "MSI-X");
	}
	pthread_mutex_init(&m->lock, NULL);
	power_on(m);
	m->cap = pci_func_cap(f, CAP_ID_MSIX, CAP_BYTES);
	store16(f->cfg + m->cap + MSG_CONTROL, (uint16_t)(m->n - 1));
	store16(f->writable + m->cap + MSG_CONTROL, MSG_CONTROL_MASKED | MSG_CONTROL_ENABLE);
	store32(f->cfg + m->cap + 4, cfg->table | cfg->bar);
	store32(f->cfg + m->cap + 8, cfg->pba | cfg->bar);
	return 0;
}

void msix_fini(struct msix *m)
{
	pthread_mutex_destroy(&m->lock);
	free(m->table);
	free(m->pending);
}

/* Needs the lock. */
static bool is_masked(const struct msix *m, unsigned vector)
{
	return m->masked || (load32(entry(m, vector) + VECTOR_CONTROL) & VECTOR_CONTROL_MASK);
}

/* Send vector's message if it is pending and nothing masks it. Needs the lock. */
static void send_pending(struct msix *m, unsigned vector)
{
	uint64_t bit = BIT(vector % 64);

	if (!(m->pending[vector / 64] & bit) || !m->enabled || is_masked(m, vector))
		return;
	m->pending[vector / 64] &= ~bit;
	pci_msi(m->func, load64(entry(m, vector)), load32(entry(m, vector) + 8));
}

uint32_t msix_table_read(struct msix *m, uint32_t off, unsigned size)
{
	uint32_t val = 0;

	pthread_mutex_lock(&m->lock);
	if (range_fits(off, size, (uint64_t)m->n * MSIX_ENTRY_BYTES))
		memcpy(&val, m->table + off, size);
	pthread_mutex_unlock(&m->lock);
	return val;
}

/* Software must use whole double words (6.8.2); other writes do nothing. */
void msix_table_write(struct msix *m, uint32_t off, unsigned size, uint32_t val)
{
	unsigned vector = off / MSIX_ENTRY_BYTES, field = off % MSIX_ENTRY_BYTES;

	if (size != 4 || off % 4 || vector >= m->n)
		return;
	pthread_mutex_lock(&m->lock);
	store32(m->table + off, field == VECTOR_CONTROL ? val & VECTOR_CONTROL_MASK : val);
	send_pending(m, vector);
	pthread_mutex_unlock(&m->lock);
}

uint32_t msix_pba_read(struct msix *m, uint32_t off, unsigned size)
{
	uint32_t val = 0;

	pthread_mutex_lock(&m->lock);
	if (range_fits(off, size, pba_words(m) * sizeof(*m->pending)))
		memcpy(&val, (uint8_t *)m->pending + off, size);
	pthread_mutex_unlock(&m->lock);
	return val;
}

void msix_cfg_written(struct msix *m, unsigned off, unsigned size)
{
	if (off + size <= m->cap + MSG_CONTROL || off >= m->cap + MSG_CONTROL + 2)
		return;
	pthread_mutex_lock(&m->lock);
	/* Read under the lock: of two writers, the later one's value is the one that stays. */
	uint32_t control = pci_cfg_get(m->func, m->cap + MSG_CONTROL, 2);

	m->enabled = control & MSG_CONTROL_ENABLE;
	m->masked = control & MSG_CONTROL_MASKED;
	for (unsigned i = 0; i < m->n; i++)
		send_pending(m, i);
	pthread_mutex_unlock(&m->lock);
}

bool msix_enabled(struct msix *m)
{
	pthread_mutex_lock(&m->lock);
	bool enabled = m->enabled;
	pthread_mutex_unlock(&m->lock);
	return enabled;
}

void msix_send(struct msix *m, unsigned vector)
{
	pthread_mutex_lock(&m->lock);
	if (m->enabled && vector < m->n) {
		m->pending[vector / 64] |= BIT(vector % 64);
		send_pending(m, vector);
	}
	pthread_mutex_unlock(&m->lock);
}

void msix_reset(struct msix *m)
{
	pthread_mutex_lock(&m->lock);
	power_on(m);
	pthread_mutex_unlock(&m->lock);
}
