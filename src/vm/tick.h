/*
 * A running VCPU's alarm clock, for engines whose guest code runs until somebody kicks: it posts
 * REQ_TICK when the local APIC's timer is due, and often enough for RCU's grace periods to end.
 * A struct tick belongs to its VCPU's thread.
 */
#ifndef VM_TICK_H
#define VM_TICK_H

#include <time.h>

#include "smp/smp.h"

struct tick {
	struct vcpu *v;
	timer_t timer;
	uint64_t armed_ns; /* guest time at which it fires; 0: it has, or it is not armed */
};

/* On the VCPU's thread. -errno if the host has no timer left. */
int tick_init(struct tick *t, struct vcpu *v);
void tick_fini(struct tick *t);
/* Before guest code runs. */
void tick_arm(struct tick *t);

#endif
