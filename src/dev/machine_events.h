/*
 * What the guest does to the machine as a whole. Called by VCPU threads from inside a port access,
 * without any device's lock; must not block, and may be called several times.
 */
#ifndef DEV_MACHINE_EVENTS_H
#define DEV_MACHINE_EVENTS_H

#include "src/base/types.h"

struct machine_events {
	void (*power_off)(void *opaque);
	void (*reset)(void *opaque);
	void (*debug_exit)(void *opaque, uint32_t value);
	void (*crashed)(void *opaque); /* the guest's kernel panicked */
	void *opaque;
};

#endif
