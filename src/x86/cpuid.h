/* The processor model that guests see. Pure functions of the host's abilities and the topology. */
#ifndef X86_CPUID_H
#define X86_CPUID_H

#include "src/base/types.h"

/* Family 19h model 1. */
#define CPUID_SIGNATURE 0x00a00f10u

/* KVM's paravirtual features, leaf 4000_0001 EAX. */
#define KVM_FEATURE_CLOCKSOURCE	 (1u << 0)
#define KVM_FEATURE_NOP_IO_DELAY (1u << 1)
#define KVM_FEATURE_CLOCKSOURCE2 (1u << 3)
/* MSIs and IOAPIC entries carry 15-bit destinations, so x2APIC ids above 255 can be reached. */
#define KVM_FEATURE_MSI_EXT_DEST_ID    (1u << 15)
#define KVM_FEATURE_CLOCKSOURCE_STABLE (1u << 24)
#define CPUID_KVM_FEATURES                                                               \
	(KVM_FEATURE_CLOCKSOURCE | KVM_FEATURE_NOP_IO_DELAY | KVM_FEATURE_CLOCKSOURCE2 | \
	 KVM_FEATURE_MSI_EXT_DEST_ID | KVM_FEATURE_CLOCKSOURCE_STABLE)

/* Frequency of the local APIC timer's input, leaf 4000_0010 EBX. */
#define CPUID_LAPIC_KHZ 1000000u

/*
 * The APIC id is made of the thread, core and package numbers, each in as many bits as its count
 * needs: package << (core bits + thread bits) | core << thread bits | thread.
 */
struct cpuid_topology {
	uint32_t apic_id;
	uint32_t ncpus;	  /* in the machine */
	uint32_t threads; /* per core, at least 1 */
	uint32_t cores;	  /* per socket, at least 1 */
	uint32_t tsc_khz;
};

/*
 * Leaves that depend on processor state are completed by the caller: leaf 1 ECX bit 27 (OSXSAVE)
 * and EDX bit 9 (APIC enabled), leaf 0dh subleaves 0 and 1 EBX (XSAVE size for the current XCR0;
 * here it is that of x87 and SSE alone). Unknown leaves give zeros. Any thread; costs host CPUID
 * instructions.
 */
void cpuid_query(const struct cpuid_topology *topo, uint32_t leaf, uint32_t subleaf,
		 uint32_t out[4]);

#endif
