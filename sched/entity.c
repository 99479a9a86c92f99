#include "sched/entity.h"

#include <pthread.h>
#include <stdio.h>

void sched_name_vcpu_thread(unsigned index)
{
	char name[16];

	snprintf(name, sizeof(name), "vcpu %u", index);
	pthread_setname_np(pthread_self(), name);
}
