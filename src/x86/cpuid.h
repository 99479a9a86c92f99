/* The processor model that guests see. Pure functions of the host's abilities and the topology. */
#ifndef X86_CPUID_H
#define X86_CPUID_H

#include "src/base/types.h"

struct cpuid_topology {
	uint32_t apic_id;
	uint32_t ncpus;
	uint32_t threads; /* per core */
	uint32_t cores;	  /* per socket */
	uint32_t tsc_khz;
};

/* Leaves that depend on processor state (OSXSAVE, XSAVE sizes, APIC bit) are completed by the caller. */
void cpuid_query(const struct cpuid_topology *topo, uint32_t leaf, uint32_t subleaf,
		 uint32_t out[4]);

#endif
