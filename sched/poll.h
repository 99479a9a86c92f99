/*
 * Waiting without sleeping: to wake a thread takes the host tens of microseconds, most of them if
 * its processor sleeps, too. So a VCPU that halts first polls for a while, if that keeps no other
 * VCPU from a processor and if it was of use lately.
 */
#ifndef SCHED_POLL_H
#define SCHED_POLL_H

#include "src/base/types.h"

/* Of a VM. */
struct sched_host {
	unsigned processors; /* of the host; constant */
	unsigned awake;	     /* VCPUs that do not sleep; changed atomically by each of them */
};

/* Of a VCPU; its thread's. */
struct sched_poll {
	uint64_t window_ns; /* polls so long */
	uint64_t start_ns;  /* of the wait, by CLOCK_MONOTONIC */
};

/* Before VCPU threads run. */
void sched_host_init(struct sched_host *host);
/* The calling VCPU's thread begins; it ends, or is about to sleep. */
void sched_host_join(struct sched_host *host);
void sched_host_leave(struct sched_host *host);

/*
 * VCPU's thread. Polls until *word, which any thread sets atomically, has one of the bits: then
 * true. False: it is time to sleep, behind sched_host_leave(). deadline_ns: by CLOCK_MONOTONIC,
 * when the wait is over anyway; 0: none.
 */
bool sched_poll(struct sched_poll *poll, struct sched_host *host, const uint32_t *word,
		uint32_t bits, uint64_t deadline_ns);
/* Behind that sleep: joins again. */
void sched_poll_woken(struct sched_poll *poll, struct sched_host *host);

#endif
