/*
 * Guest time in nanoseconds since the VM started. Everything a guest can observe as time comes from
 * one struct clock per VM, so that a deterministic clock can replace the host's.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include "src/base/types.h"

/* Guest time by the host's time stamp counter: ((tsc - tsc0) * mult >> 32) + ns0. */
struct clock_scale {
	uint64_t mult, tsc0, ns0;
};

struct clock {
	uint64_t (*now_ns)(struct clock *clk); /* any thread; monotonic */
	uint64_t start_ns;		       /* host CLOCK_MONOTONIC at VM start */
	uint64_t epoch_ns; /* CLOCK_REALTIME at VM start, for RTC and kvmclock */
	/* Of the host's clock only. */
	uint32_t following; /* a thread is in clock_follow() */
	uint32_t seq;	    /* of scale: odd while it changes, 0: not known */
	struct clock_scale scale;
	uint64_t seen_tsc, seen_ns; /* when last looked; 0: the counter is no clock */
};

/*
 * The host's CLOCK_MONOTONIC. Where the host's kernel keeps time by the time stamp counter as well,
 * it is soon computed from that, as compiled guest code can do in place.
 */
void clock_init_host(struct clock *clk);
/*
 * Any thread, at least every few milliseconds: finds the counter's rate, and keeps guest time with
 * CLOCK_MONOTONIC. The scale changes once a second, by at most 4 millionths.
 */
void clock_follow(struct clock *clk);
/* The number of the scale in use, which is then in *scale; 0: there is none. Any thread. */
uint32_t clock_scale(const struct clock *clk, struct clock_scale *scale);
/* The host's CLOCK_MONOTONIC. Any thread. */
uint64_t clock_monotonic_ns(void);
/* The same when guest time will be ns. */
uint64_t clock_host_ns(struct clock *clk, uint64_t ns);

static inline uint64_t clock_now(struct clock *clk)
{
	return clk->now_ns(clk);
}

static inline uint64_t clock_scaled(const struct clock_scale *s, uint64_t tsc)
{
	return (uint64_t)((unsigned __int128)(tsc - s->tsc0) * s->mult >> 32) + s->ns0;
}

#endif
