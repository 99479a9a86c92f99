#include "src/base/clock.h"

#include <time.h>

static uint64_t read_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

static uint64_t host_now(struct clock *clk)
{
	return read_ns(CLOCK_MONOTONIC) - clk->start_ns;
}

void clock_init_host(struct clock *clk)
{
	clk->now_ns = host_now;
	clk->start_ns = read_ns(CLOCK_MONOTONIC);
	clk->epoch_ns = read_ns(CLOCK_REALTIME);
}
