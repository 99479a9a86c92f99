#include "sched/spin.h"

#include <sched.h>
#include <unistd.h>

/* Enough for a lock that is about to be released by a VCPU that runs. */
#define SPIN_LIMIT 32

void sched_spin_init(struct sched_spin *spin, unsigned nvcpus)
{
	long host = sysconf(_SC_NPROCESSORS_ONLN);

	*spin = (struct sched_spin){.overcommitted = host > 0 && nvcpus > (unsigned long)host};
}

void sched_spin_pause(struct sched_spin *spin)
{
	if (!spin->overcommitted || ++spin->pauses < SPIN_LIMIT)
		return;
	spin->pauses = 0;
	sched_yield();
}
