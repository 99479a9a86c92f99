#include "src/x86/hostisa.h"

#include <cpuid.h>

#include "src/x86/arch.h"

#define XCR0_SSE_AVX 6u

static bool ymm_enabled(void)
{
	uint32_t lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (lo & XCR0_SSE_AVX) == XCR0_SSE_AVX;
}

void host_isa_probe(struct host_isa *isa)
{
	unsigned a, b = 0, c = 0, d = 0;
	bool ymm;

	*isa = (struct host_isa){0};
	if (!__get_cpuid(1, &a, &b, &c, &d))
		return;
	isa->sse3 = c & bit_SSE3;
	isa->pclmul = c & bit_PCLMUL;
	isa->ssse3 = c & bit_SSSE3;
	isa->sse41 = c & bit_SSE4_1;
	isa->sse42 = c & bit_SSE4_2;
	isa->aes = c & bit_AES;
	isa->rdrand = c & bit_RDRND;
	isa->movbe = c & bit_MOVBE;
	isa->popcnt = c & bit_POPCNT;
	isa->clflush = d & (1u << 19);
	ymm = (c & bit_OSXSAVE) && ymm_enabled();
	isa->avx = ymm && (c & bit_AVX);
	isa->fma = isa->avx && (c & bit_FMA);
	isa->f16c = isa->avx && (c & bit_F16C);
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
		return;
	isa->bmi1 = b & bit_BMI;
	isa->bmi2 = b & bit_BMI2;
	isa->adx = b & bit_ADX;
	isa->avx2 = isa->avx && (b & bit_AVX2);
	isa->rdseed = b & bit_RDSEED;
	isa->clflushopt = b & bit_CLFLUSHOPT;
	isa->sha = b & bit_SHA;
	if (!__get_cpuid(0x80000001, &a, &b, &c, &d))
		return;
	isa->lzcnt = c & bit_LZCNT;
	isa->rdtscp = d & (1u << 27);
}
