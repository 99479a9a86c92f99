/*
 * 8254 interval timer: ports 0x40-0x43, and port 0x61 with the gate and the output of channel 2.
 * Channel 0's output drives IRQ 0: one pulse for each rising edge.
 */
#ifndef DEV_PIT_H
#define DEV_PIT_H

#include "smp/irq.h"
#include "src/base/evloop.h"
#include "src/dev/device.h"

#define PIT_BASE  0x40
#define PIT_PORTS 4
#define PIT_HZ	  1193182

#define PIT_CONTROL_PORT 0x61 /* system control port B */

struct pit_devices {
	struct device *timer;	/* PIT_BASE; owns both: destroys and resets both */
	struct device *control; /* PIT_CONTROL_PORT, one byte; its destroy does nothing */
};

/* loop must outlive it; destroy it after the loop has stopped. 0 or -ENOMEM. */
int pit_create(struct pit_devices *devs, struct evloop *loop, struct clock *clk,
	       const struct irq_line *irq0);

#endif
