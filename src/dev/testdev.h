/*
 * The test device of QEMU's pc machine, which kvm-unit-tests use: a register that echoes what was
 * written with any width, 24 interrupt lines set by port, and memory that is reached as MMIO.
 */
#ifndef DEV_TESTDEV_H
#define DEV_TESTDEV_H

#include "smp/irq.h"
#include "src/dev/device.h"

#define TESTDEV_ECHO_PORT  0xe0 /* 12 ports: echo, flush (ignored), echo by bytes */
#define TESTDEV_ECHO_PORTS 12
#define TESTDEV_IRQ_PORT   0x2000
#define TESTDEV_LINES	   24
#define TESTDEV_MMIO	   0xff000000u
#define TESTDEV_MMIO_SIZE  KIB(64)

struct testdev_devices {
	struct device *echo; /* owns all three: destroys and resets them */
	struct device *irq;
	struct device *memory;
};

/* line: what port TESTDEV_IRQ_PORT + n sets. 0 or -ENOMEM. */
int testdev_create(struct testdev_devices *devs, const struct irq_line line[TESTDEV_LINES]);

#endif
