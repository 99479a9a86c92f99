/*
 * Spin detection: a guest CPU that executes PAUSE again and again waits for another, which on a
 * host with fewer processors than VCPUs may need this very processor.
 *
 * A struct sched_spin belongs to one VCPU's thread.
 */
#ifndef SCHED_SPIN_H
#define SCHED_SPIN_H

#include "src/base/types.h"

struct sched_spin {
	bool overcommitted; /* more VCPUs than host processors */
	unsigned pauses;    /* in a row */
};

void sched_spin_init(struct sched_spin *spin, unsigned nvcpus);
/* The guest executed PAUSE; gives up the host processor after a number of them in a row. */
void sched_spin_pause(struct sched_spin *spin);
/* The guest ran a whole slice without one. */
static inline void sched_spin_progress(struct sched_spin *spin)
{
	spin->pauses = 0;
}

#endif
