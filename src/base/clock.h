/*
 * Guest time in nanoseconds since the VM started. Everything a guest can observe as time comes from
 * one struct clock per VM, so that a deterministic clock can replace the host's.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include "src/base/types.h"

struct clock {
	uint64_t (*now_ns)(struct clock *clk); /* any thread; monotonic */
	uint64_t start_ns;		       /* host CLOCK_MONOTONIC at VM start */
	uint64_t epoch_ns; /* CLOCK_REALTIME at VM start, for RTC and kvmclock */
};

/* The host's CLOCK_MONOTONIC. */
void clock_init_host(struct clock *clk);

static inline uint64_t clock_now(struct clock *clk)
{
	return clk->now_ns(clk);
}

#endif
