/* The IOAPIC (smp/ioapic.h) as a device on the bus: one page of MMIO. */
#ifndef DEV_IOAPIC_DEV_H
#define DEV_IOAPIC_DEV_H

#include "smp/ioapic.h"
#include "src/dev/device.h"

/* Does not own the ioapic. 0 or -ENOMEM. */
int ioapic_dev_create(struct device **dev, struct ioapic *io);

#endif
