/* Between pci.c and pci_msix.c only. */
#ifndef DEV_PCI_INTERNAL_H
#define DEV_PCI_INTERNAL_H

#include "src/dev/pci.h"

struct pci_host {
	struct bus *bus;
	struct msi_sink msi;
	struct irq_line intx[4];
	struct pci_layout layout;
	uint64_t next32, next64; /* first free address of each window */
	struct device *reset_port;
	struct device ports; /* 0xcf8 - 0xcff */
	struct device ecam;
	struct pci_function bridge;
	struct pci_function *slot[PCI_SLOTS]; /* fixed before VCPUs run */
	uint32_t address;		      /* port 0xcf8; atomic */
	pthread_mutex_t lock;		      /* configuration space and BARs of all functions */
	pthread_mutex_t intx_lock;	      /* inside lock: levels and counts */
	unsigned intx_count[4];		      /* functions that drive the line */
};

/* Called under host->lock after the capability's control word may have changed. */
void pci_msix_control_changed(struct pci_function *fn);
void pci_msix_reset(struct pci_function *fn);

static inline uint16_t pci_get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t pci_get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline void pci_put16(uint8_t *p, uint16_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void pci_put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

#endif
