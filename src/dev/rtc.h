/*
 * MC146818 real-time clock with 128 bytes of CMOS memory, ports 0x70-0x71. Its time is the host's
 * UTC when the VM started plus guest time, until the guest sets it.
 */
#ifndef DEV_RTC_H
#define DEV_RTC_H

#include "smp/irq.h"
#include "src/base/evloop.h"
#include "src/dev/device.h"

#define RTC_BASE  0x70
#define RTC_PORTS 2

struct rtc_config {
	uint64_t low_ram;  /* bytes below 4 GiB, from 0 */
	uint64_t high_ram; /* bytes from 4 GiB */
	unsigned ncpus;
};

/* irq: IRQ 8. loop must outlive it; destroy it after the loop has stopped. 0 or -ENOMEM. */
int rtc_create(struct device **dev, const struct rtc_config *cfg, struct evloop *loop,
	       struct clock *clk, const struct irq_line *irq);

#endif
