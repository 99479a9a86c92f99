/* MSI-X (PCI Local Bus 3.0, 6.8.2): table, pending bits and masks. */
#include <stdlib.h>

#include "src/base/atomic.h"
#include "src/base/log.h"
#include "src/dev/pci_internal.h"

#define MSIX_ENTRY_SIZE	  16
#define MSIX_VECTOR_MASK  1u
#define MSIX_CTRL	  2 /* offset of message control in the capability */
#define MSIX_CTRL_ENABLE  0x8000
#define MSIX_CTRL_MASKALL 0x4000
#define MSIX_MAX	  2048

struct msix_entry {
	uint64_t addr;
	uint32_t data;
	uint32_t control;
};

_Static_assert(sizeof(struct msix_entry) == MSIX_ENTRY_SIZE, "table layout of 6.8.2.7");

/*
 * lock protects everything but n and cap. Messages are sent under it, so that none leaves after a
 * guest's store to a mask bit has returned.
 */
struct pci_msix {
	struct device dev; /* the BAR: table, then pending bits at pba_off */
	struct pci_function *fn;
	pthread_mutex_t lock;
	unsigned cap, n;
	uint64_t pba_off;
	bool enabled; /* written under lock, read also without */
	bool masked;
	struct msix_entry *table;
	uint64_t *pending;
	unsigned npending_words;
};

static void deliver_locked(struct pci_msix *m, unsigned v)
{
	uint64_t bit = 1ull << (v % 64);

	if (m->masked || (m->table[v].control & MSIX_VECTOR_MASK) || !pci_bus_master(m->fn)) {
		m->pending[v / 64] |= bit;
		return;
	}
	m->pending[v / 64] &= ~bit;
	msi_send(&m->fn->host->msi, m->table[v].addr, m->table[v].data);
}

static void deliver_pending_locked(struct pci_msix *m)
{
	for (unsigned w = 0; w < m->npending_words; w++) {
		uint64_t bits = m->pending[w];

		while (bits) {
			deliver_locked(m, w * 64 + __builtin_ctzll(bits));
			bits &= bits - 1;
		}
	}
}

void pci_msix_notify(struct pci_function *fn, unsigned vector)
{
	struct pci_msix *m = fn->msix;

	if (!m || vector >= m->n)
		return;
	pthread_mutex_lock(&m->lock);
	if (m->enabled)
		deliver_locked(m, vector);
	pthread_mutex_unlock(&m->lock);
}

bool pci_msix_enabled(struct pci_function *fn)
{
	/* A guest enables MSI-X before it lets its device interrupt: nothing to pair with. */
	return fn->msix && atomic_load_relaxed(&fn->msix->enabled);
}

void pci_msix_control_changed(struct pci_function *fn)
{
	struct pci_msix *m = fn->msix;
	uint16_t ctrl = pci_get16(&fn->config[m->cap + MSIX_CTRL]);

	pthread_mutex_lock(&m->lock);
	atomic_store_relaxed(&m->enabled, !!(ctrl & MSIX_CTRL_ENABLE));
	m->masked = ctrl & MSIX_CTRL_MASKALL;
	if (m->enabled && !m->masked)
		deliver_pending_locked(m);
	pthread_mutex_unlock(&m->lock);
}

static void reset_locked(struct pci_msix *m)
{
	m->enabled = false;
	m->masked = false;
	memset(m->table, 0, m->n * sizeof(m->table[0]));
	memset(m->pending, 0, m->npending_words * sizeof(m->pending[0]));
	for (unsigned v = 0; v < m->n; v++)
		m->table[v].control = MSIX_VECTOR_MASK;
}

void pci_msix_reset(struct pci_function *fn)
{
	pthread_mutex_lock(&fn->msix->lock);
	reset_locked(fn->msix);
	pthread_mutex_unlock(&fn->msix->lock);
}

/* The bytes at off as the guest sees them, or NULL. Accesses are 4 or 8 bytes, aligned. */
static void *msix_bytes(struct pci_msix *m, uint64_t off, unsigned len)
{
	uint64_t table_len = (uint64_t)m->n * MSIX_ENTRY_SIZE;
	uint64_t pba_len = m->npending_words * sizeof(m->pending[0]);

	if ((len != 4 && len != 8) || off % len)
		return NULL;
	if (off < table_len)
		return (uint8_t *)m->table + off;
	if (off >= m->pba_off && off - m->pba_off < pba_len)
		return (uint8_t *)m->pending + (off - m->pba_off);
	return NULL;
}

static void msix_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct pci_msix *m = container_of(dev, struct pci_msix, dev);
	void *p;

	pthread_mutex_lock(&m->lock);
	p = msix_bytes(m, off, len);
	if (p)
		memcpy(data, p, len);
	else
		memset(data, 0, len);
	pthread_mutex_unlock(&m->lock);
}

static void msix_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct pci_msix *m = container_of(dev, struct pci_msix, dev);
	void *p;

	pthread_mutex_lock(&m->lock);
	p = msix_bytes(m, off, len);
	if (p && off < m->pba_off) {
		unsigned v = off / MSIX_ENTRY_SIZE;

		memcpy(p, data, len);
		m->table[v].control &= MSIX_VECTOR_MASK;
		if (m->enabled && (m->pending[v / 64] & 1ull << (v % 64)))
			deliver_locked(m, v);
	}
	pthread_mutex_unlock(&m->lock);
}

static const struct device_ops msix_ops = {
	.name = "pci-msix",
	.read = msix_read,
	.write = msix_write,
};

int pci_add_msix(struct pci_function *fn, unsigned bar, unsigned n)
{
	struct pci_msix *m = calloc(1, sizeof(*m));
	uint64_t size = PAGE_SIZE;

	BUG_ON(n == 0 || n > MSIX_MAX);
	if (!m)
		return -ENOMEM;
	m->n = n;
	m->fn = fn;
	m->npending_words = (n + 63) / 64;
	m->table = calloc(n, sizeof(m->table[0]));
	m->pending = calloc(m->npending_words, sizeof(m->pending[0]));
	if (!m->table || !m->pending) {
		free(m->table);
		free(m->pending);
		free(m);
		return -ENOMEM;
	}
	pthread_mutex_init(&m->lock, NULL);
	m->dev.ops = &msix_ops;
	m->pba_off = ALIGN_UP((uint64_t)n * MSIX_ENTRY_SIZE, 2048);
	while (size < m->pba_off + m->npending_words * sizeof(m->pending[0]))
		size *= 2;
	m->cap = pci_add_capability(fn, PCI_CAP_MSIX, 12);
	pci_put16(&fn->config[m->cap + MSIX_CTRL], n - 1);
	pci_put16(&fn->wmask[m->cap + MSIX_CTRL], MSIX_CTRL_ENABLE | MSIX_CTRL_MASKALL);
	pci_put32(&fn->config[m->cap + 4], bar);
	pci_put32(&fn->config[m->cap + 8], (uint32_t)m->pba_off | bar);
	pci_add_bar(fn, bar, size, &m->dev);
	fn->msix = m;
	reset_locked(m);
	return 0;
}

void pci_function_fini(struct pci_function *fn)
{
	struct pci_msix *m = fn->msix;

	if (!m)
		return;
	pthread_mutex_destroy(&m->lock);
	free(m->table);
	free(m->pending);
	free(m);
	fn->msix = NULL;
}
