/*
 * 16550A serial port: 8 byte registers. The back end's speed is not limited by the baud rate;
 * only the receive timeout follows it.
 */
#ifndef DEV_UART_H
#define DEV_UART_H

#include "smp/irq.h"
#include "src/base/evloop.h"
#include "src/dev/chardev.h"
#include "src/dev/device.h"

#define UART_PORTS 8

/*
 * Attaches itself to the character device; cd may be NULL (output is dropped). cd and loop must
 * outlive it; destroy it after the loop has stopped. 0 or -ENOMEM.
 */
int uart_create(struct device **dev, struct chardev *cd, struct evloop *loop, struct clock *clk,
		const struct irq_line *irq);

#endif
