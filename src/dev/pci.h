/*
 * PCI: one host bridge, segment 0, bus 0, type-0 functions with 64-bit memory BARs, INTx and MSI-X.
 * Configuration space is reached by ports 0xcf8-0xcff and by ECAM.
 *
 * The monitor stands in for firmware: every BAR has its address, and memory decoding is enabled,
 * when the guest starts. A guest may move BARs; one that overlaps something else is not decoded.
 *
 * Locks, outer to inner: the device's own, then those of the host bridge and of MSI-X inside.
 * The operations of a function are called without any lock of this module.
 */
#ifndef DEV_PCI_H
#define DEV_PCI_H

#include <pthread.h>

#include "smp/irq.h"
#include "src/dev/bus.h"
#include "src/dev/device.h"

#define PCI_SLOTS	32
#define PCI_BARS	6
#define PCI_CONFIG_SIZE 256

/* Offsets in configuration space (PCI Local Bus 3.0, 6.1). */
#define PCI_VENDOR_ID	  0x00
#define PCI_DEVICE_ID	  0x02
#define PCI_COMMAND	  0x04
#define PCI_STATUS	  0x06
#define PCI_REVISION	  0x08
#define PCI_CLASS	  0x09 /* programming interface, subclass, class */
#define PCI_HEADER_TYPE	  0x0e
#define PCI_BAR0	  0x10
#define PCI_SUBSYS_VENDOR 0x2c
#define PCI_SUBSYS_ID	  0x2e
#define PCI_CAP_POINTER	  0x34
#define PCI_IRQ_LINE	  0x3c
#define PCI_IRQ_PIN	  0x3d

#define PCI_COMMAND_MEMORY	 0x0002
#define PCI_COMMAND_MASTER	 0x0004
#define PCI_COMMAND_INTX_DISABLE 0x0400
#define PCI_STATUS_INTX		 0x0008
#define PCI_STATUS_CAPS		 0x0010

#define PCI_CAP_VENDOR 0x09
#define PCI_CAP_MSIX   0x11

struct pci_host;
struct pci_function;

struct pci_layout {
	uint64_t ecam_base;   /* of bus 0, which takes 1 MiB; 0: no ECAM */
	uint64_t mmio32_base; /* BARs are placed here first ... */
	uint64_t mmio32_size;
	uint64_t mmio64_base; /* ... and here when that window is full; size 0: none */
	uint64_t mmio64_size;
};

#define PCI_ECAM_SIZE MIB(1)

struct pci_function_ops {
	/*
	 * Capabilities with a meaning of their own. Return true if the access was handled; else it
	 * goes to the stored configuration space. May be NULL. VCPU threads, several at a time.
	 */
	bool (*config_read)(struct pci_function *fn, unsigned off, void *data, unsigned len);
	bool (*config_write)(struct pci_function *fn, unsigned off, const void *data, unsigned len);
	void (*reset)(struct pci_function *fn);	  /* no VCPU runs; may be NULL */
	void (*destroy)(struct pci_function *fn); /* frees the function; may be NULL */
};

struct pci_bar {
	uint64_t size;
	struct device *dev;   /* gets the accesses, offset 0 at the BAR's base */
	uint64_t assigned;    /* address given by the monitor */
	uint64_t mapped_base; /* where the bus maps it now, if mapped */
	bool mapped;
};

struct pci_msix;

/* Embedded in every PCI device; private to pci*.c after pci_function_init(). */
struct pci_function {
	const struct pci_function_ops *ops;
	struct pci_host *host; /* NULL until pci_host_add() */
	unsigned slot;
	uint8_t config[PCI_CONFIG_SIZE];  /* under the host's config lock once added */
	uint8_t wmask[PCI_CONFIG_SIZE];	  /* bits the guest may change */
	uint8_t initial[PCI_CONFIG_SIZE]; /* config after a reset */
	unsigned cap_last, cap_next;
	struct pci_bar bar[PCI_BARS];
	struct pci_msix *msix;
	bool intx_level;   /* what the device asks for; under the host's intx lock */
	bool intx_driven;  /* what it contributes to the line */
	bool intx_disable; /* command register bit */
	bool bus_master;   /* command register bit; atomic */
};

struct pci_id {
	uint16_t vendor, device, subsys_vendor, subsys;
	uint8_t revision;
	uint32_t class_code; /* class << 16 | subclass << 8 | interface */
};

/*
 * The bridge itself answers as 00:00.0. intx[i] is the level-triggered line of interrupt i of the
 * host; pin p (0: INTA) of slot s drives line pci_intx_index(s, p), and its .n is what the guest
 * finds in the interrupt line register. 0, or -errno after one log line.
 */
int pci_host_create(struct pci_host **host, struct bus *bus, const struct pci_layout *layout,
		    const struct irq_line intx[4], const struct msi_sink *msi);
/* Destroys every function too. No VCPU and no I/O thread runs. */
void pci_host_destroy(struct pci_host *host);
/* Back to the state before boot, BARs included. No VCPU runs. */
void pci_host_reset(struct pci_host *host);

/*
 * Port 0xcf9 (reset control) lies inside the configuration address register: a one-byte access to
 * it goes to this device, offset 0. Before VCPUs run. The host bridge does not own it.
 */
void pci_host_set_reset_port(struct pci_host *host, struct device *dev);

/* Index of the line that a pin of a slot drives, for the ACPI routing table. */
static inline unsigned pci_intx_index(unsigned slot, unsigned pin)
{
	return (slot + pin) % 4;
}

/* Building a function: init, then BARs and capabilities, then add. */
void pci_function_init(struct pci_function *fn, const struct pci_function_ops *ops,
		       const struct pci_id *id);
/*
 * 64-bit memory BAR: takes index and index + 1. size is a power of two, 4 KiB or more. The device
 * stays the caller's.
 */
void pci_add_bar(struct pci_function *fn, unsigned index, uint64_t size, struct device *dev);
/* Offset of the new capability: len bytes, of which the first two are filled in. */
unsigned pci_add_capability(struct pci_function *fn, uint8_t id, unsigned len);
/* MSI-X table and pending bits in a BAR of their own. 1 to 2048 vectors. 0 or -ENOMEM. */
int pci_add_msix(struct pci_function *fn, unsigned bar, unsigned nvectors);
/* What pci_add_msix() allocated; for the function's destroy operation. */
void pci_function_fini(struct pci_function *fn);

/* -EEXIST if the slot (1 to 31) is taken, -ENOSPC if the BARs do not fit. Then the host owns it. */
int pci_host_add(struct pci_host *host, unsigned slot, struct pci_function *fn);

/* Any thread. */
void pci_set_intx(struct pci_function *fn, bool level);
bool pci_msix_enabled(struct pci_function *fn);
/*
 * Whether the guest lets the function access memory by itself; messages count as such accesses
 * (PCI Local Bus 3.0, 6.2.2). Systems clear it to be sure of their memory, before kexec say.
 */
bool pci_bus_master(const struct pci_function *fn);
/*
 * Sends the vector's message, or sets its pending bit if it is masked or the function is not bus
 * master. Ignores a vector too big.
 */
void pci_msix_notify(struct pci_function *fn, unsigned vector);

/* The stored configuration space, for config_read and config_write operations. */
void pci_config_load(struct pci_function *fn, unsigned off, void *data, unsigned len);
void pci_config_store(struct pci_function *fn, unsigned off, const void *data, unsigned len);

/* An access to a BAR, as if from the bus; false if there is no such range. */
bool pci_bar_access(struct pci_function *fn, unsigned bar, uint64_t off, void *data, unsigned len,
		    bool write);

#endif
