/*
 * Devices of one register. Each constructor returns 0 or -ENOMEM; events are copied.
 */
#ifndef DEV_MISC_PORTS_H
#define DEV_MISC_PORTS_H

#include "src/dev/device.h"
#include "src/dev/machine_events.h"

#define RESET_CONTROL_PORT 0xcf9 /* one byte inside PCI's 0xcf8-0xcff */
#define SYSTEM_PORT_A	   0x92
#define PVPANIC_PORT	   0x505
#define DEBUG_EXIT_PORT	   0xf4
#define DEBUG_EXIT_PORTS   4
#define POST_PORT	   0x80 /* written as a delay or a progress code */
#define DELAY_PORT	   0xed

/* Reset control register: a rising bit 2 resets. */
int reset_control_create(struct device **dev, const struct machine_events *events);
/* System control port A: bit 0 resets, bit 1 gates A20 (which is always open). */
int system_port_create(struct device **dev, const struct machine_events *events);
/* The guest's kernel tells of its panic. */
int pvpanic_create(struct device **dev, const struct machine_events *events);
/* Every write ends the run with its value. */
int debug_exit_create(struct device **dev, const struct machine_events *events);
/* A byte that keeps what was written: for the POST and delay ports. One device, mapped several
 * times if wanted. */
int scratch_port_create(struct device **dev);

#endif
