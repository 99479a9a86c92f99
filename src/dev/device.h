/*
 * What every device is. A device knows no guest address: it sees offsets into its own register
 * space, and reaches guest memory through mmu/gmem.h only. It raises interrupts through a
 * struct irq_line (smp/irq.h) or an MSI, and knows nothing of engines.
 *
 * Threads: read and write are called by VCPU threads, any of them, at the same time as callbacks on
 * the I/O thread: each device has a lock of its own and takes it in every entry point. reset is
 * called while no VCPU runs. A device never blocks a VCPU on the host.
 */
#ifndef DEV_DEVICE_H
#define DEV_DEVICE_H

#include "src/base/types.h"

struct device;

struct device_ops {
	const char *name;
	/* len is 1, 2, 4 or 8 (1, 2 or 4 for ports); fills all len bytes. */
	void (*read)(struct device *dev, uint64_t off, void *data, unsigned len);
	void (*write)(struct device *dev, uint64_t off, const void *data, unsigned len);
	void (*reset)(struct device *dev);   /* may be NULL */
	void (*destroy)(struct device *dev); /* frees the device; the bus no longer reaches it */
};

/* The first member of every device's own struct. */
struct device {
	const struct device_ops *ops;
};

#endif
