#include "sched/poll.h"

#include <sched.h>

#include "src/base/atomic.h"
#include "src/base/clock.h"

/* A longer wait is no use to poll for. */
#define MAX_WINDOW_NS	200000u
#define FIRST_WINDOW_NS 25000u

void sched_host_init(struct sched_host *host)
{
	cpu_set_t set;

	*host = (struct sched_host){.processors = 1};
	if (!sched_getaffinity(0, sizeof(set), &set))
		host->processors = CPU_COUNT(&set);
}

void sched_host_join(struct sched_host *host)
{
	atomic_fetch_add_relaxed(&host->awake, 1);
}

void sched_host_leave(struct sched_host *host)
{
	atomic_fetch_add_relaxed(&host->awake, -1);
}

bool sched_poll(struct sched_poll *poll, struct sched_host *host, const uint32_t *word,
		uint32_t bits, uint64_t deadline_ns)
{
	uint64_t now = clock_monotonic_ns(), end = now + poll->window_ns;

	poll->start_ns = now;
	if (deadline_ns)
		end = MIN(end, deadline_ns);
	for (; now < end && atomic_load_relaxed(&host->awake) <= host->processors;
	     now = clock_monotonic_ns()) {
		if (atomic_load_seq(word) & bits)
			return true;
		__builtin_ia32_pause();
	}
	return false;
}

/* A window twice as long might have been enough; or none would, but one long wait is not all. */
void sched_poll_woken(struct sched_poll *poll, struct sched_host *host)
{
	uint64_t took = clock_monotonic_ns() - poll->start_ns;

	sched_host_join(host);
	if (took <= MAX_WINDOW_NS)
		poll->window_ns = MIN(MAX(2 * poll->window_ns, FIRST_WINDOW_NS), MAX_WINDOW_NS);
	else
		poll->window_ns = poll->window_ns > FIRST_WINDOW_NS ? poll->window_ns / 2 : 0;
}
