/* A VCPU as the scheduler sees it. */
#ifndef SCHED_ENTITY_H
#define SCHED_ENTITY_H

#include "src/base/types.h"

/* Names the calling thread for tools such as ps and perf, "vcpu N". */
void sched_name_vcpu_thread(unsigned index);

#endif
