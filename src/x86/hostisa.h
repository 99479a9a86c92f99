/*
 * What the host processor can do, of the extensions that the engines run by the host's own
 * instruction. Everything else of the guest's model is computed in C and independent of the host.
 */
#ifndef X86_HOSTISA_H
#define X86_HOSTISA_H

#include "src/base/types.h"

struct host_isa {
	bool sse3, ssse3, sse41, sse42;
	bool aes, pclmul, sha;
	bool avx, avx2, fma, f16c; /* usable: the host's kernel has enabled the YMM state */
	bool rdrand, rdseed;
	bool clflush, clflushopt;
	/* For the translator, which runs integer code as it is. */
	bool popcnt, bmi1, bmi2, lzcnt, movbe, adx, rdtscp;
};

/* Costs a few CPUID instructions, each a VM exit on a virtual host. Any thread. */
void host_isa_probe(struct host_isa *isa);

#endif
