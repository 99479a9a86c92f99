/*
 * A pair of 8259A interrupt controllers, cascaded through input 2 of the first, with the edge/level
 * control registers of the PC. Its INTR output goes to LINT0 of the processors.
 *
 * Any thread may raise lines and call pic_ack(). INTR is driven with the controller's lock held.
 */
#ifndef DEV_PIC_H
#define DEV_PIC_H

#include "smp/irq.h"
#include "src/dev/device.h"

#define PIC_MASTER_BASE 0x20
#define PIC_SLAVE_BASE	0xa0
#define PIC_PORTS	2
#define PIC_ELCR_BASE	0x4d0 /* 2 ports */
#define PIC_LINES	16

struct pic;

struct pic_devices {
	struct device *master; /* owns all three: destroys and resets them */
	struct device *slave;
	struct device *elcr;
};

/* 0 or -ENOMEM. */
int pic_create(struct pic **pic, struct pic_devices *devs, const struct irq_line *intr);
/* Input n < PIC_LINES except 2. Valid until the master is destroyed. */
struct irq_line pic_line(struct pic *pic, unsigned n);
/*
 * The processor acknowledges INTR: returns the vector of the highest-priority request, or a
 * spurious one (input 7) if the request has gone.
 */
uint8_t pic_ack(struct pic *pic);
/* Whether INTR is asserted. */
bool pic_pending(struct pic *pic);

#endif
