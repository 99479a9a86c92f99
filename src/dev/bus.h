/*
 * The device bus: two address spaces, ports and memory, looked up without a lock under RCU.
 * Ranges are mapped while the VM is built and when a guest moves a PCI BAR.
 */
#ifndef DEV_BUS_H
#define DEV_BUS_H

#include "src/dev/device.h"

struct bus;

enum bus_space { BUS_PIO, BUS_MMIO };

int bus_create(struct bus **bus);
/* After all threads that use it have stopped. Does not destroy the devices. */
void bus_destroy(struct bus *bus);

/*
 * Maps [base, base + len) of a space to offsets [off, off + len) of a device. -EEXIST if it
 * overlaps a mapping. Any thread; a PCI BAR that overlaps is simply not decoded by the caller.
 */
int bus_map(struct bus *bus, enum bus_space space, uint64_t base, uint64_t len, struct device *dev,
	    uint64_t off);
/* Any thread, also from a device's own write callback. No new access reaches it afterwards. */
void bus_unmap(struct bus *bus, enum bus_space space, uint64_t base);

/*
 * VCPU threads. An access that no device claims, or that runs over the end of a mapping, reads all
 * ones and drops writes. Returns false if nobody claimed it.
 */
bool bus_read(struct bus *bus, enum bus_space space, uint64_t addr, void *data, unsigned len);
bool bus_write(struct bus *bus, enum bus_space space, uint64_t addr, const void *data,
	       unsigned len);

#endif
