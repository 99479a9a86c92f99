/*
 * The processor model: x86-64-v3 with the name of AMD, whose CPUID is the simpler of the two and
 * whose vulnerability bits Linux believes. An interpreter does not speculate on the guest's data,
 * so the model says so; then Linux needs no page table isolation, retpolines or return thunks. Leaf
 * numbers and fields: AMD64 Architecture Programmer's Manual volume 3, appendix E.
 */
#include "src/x86/cpuid.h"

#include "src/x86/arch.h"
#include "src/x86/hostisa.h"

#define BIT(n) (1u << (n))

#define MAX_BASIC    0xdu
#define MAX_EXTENDED 0x80000021u
#define MAX_HYPER    0x40000010u

enum { EAX, EBX, ECX, EDX };

#define CACHE_LINE 64u
#define L1_KIB	   32u
#define L1_WAYS	   8u
#define L2_KIB	   512u
#define L2_WAYS	   8u
#define L3_KIB	   32768u
#define L3_WAYS	   16u

static void set_string(uint32_t *out, const char *s, unsigned n)
{
	memcpy(out, s, 4 * n);
}

/* EBX, EDX, ECX: that order spells the name. */
static void set_vendor(uint32_t out[4])
{
	set_string(&out[EBX], "Auth", 1);
	set_string(&out[EDX], "enti", 1);
	set_string(&out[ECX], "cAMD", 1);
}

static unsigned order(uint32_t n)
{
	return n > 1 ? 32 - __builtin_clz(n - 1) : 0;
}

static uint32_t package_threads(const struct cpuid_topology *t)
{
	return t->threads * t->cores;
}

/* Bits of the APIC id below the package number. */
static unsigned package_shift(const struct cpuid_topology *t)
{
	return order(t->threads) + order(t->cores);
}

/* What leaves 1 and 8000_0001 have in common. */
static uint32_t common_edx(void)
{
	return BIT(0) /* FPU */ | BIT(2) /* DE */ | BIT(3) /* PSE */ | BIT(4) /* TSC */ |
	       BIT(5) /* MSR */ | BIT(6) /* PAE */ | BIT(7) /* MCE */ | BIT(8) /* CMPXCHG8B */ |
	       BIT(9) /* APIC */ | BIT(12) /* MTRR */ | BIT(13) /* PGE */ | BIT(14) /* MCA */ |
	       BIT(15) /* CMOV */ | BIT(16) /* PAT */ | BIT(17) /* PSE36 */ | BIT(23) /* MMX */ |
	       BIT(24) /* FXSR */;
}

static void leaf_features(const struct cpuid_topology *t, const struct host_isa *h, uint32_t out[4])
{
	uint32_t n = MIN(package_threads(t), 255u);

	out[EAX] = CPUID_SIGNATURE;
	out[EBX] = (CACHE_LINE / 8) << 8 | n << 16 | t->apic_id << 24;
	out[ECX] = (h->sse3 ? BIT(0) : 0) | (h->pclmul ? BIT(1) : 0) | (h->ssse3 ? BIT(9) : 0) |
		   (h->fma ? BIT(12) : 0) | BIT(13) /* CMPXCHG16B */ | BIT(17) /* PCID */ |
		   (h->sse41 ? BIT(19) : 0) | (h->sse42 ? BIT(20) : 0) | BIT(21) /* x2APIC */ |
		   BIT(22) /* MOVBE */ | BIT(23) /* POPCNT */ | BIT(24) /* TSC deadline */ |
		   (h->aes ? BIT(25) : 0) | BIT(26) /* XSAVE */ | (h->avx ? BIT(28) : 0) |
		   (h->f16c ? BIT(29) : 0) | (h->rdrand ? BIT(30) : 0) | BIT(31) /* hypervisor */;
	out[EDX] = common_edx() | BIT(11) /* SEP */ | BIT(19) /* CLFLUSH */ | BIT(25) /* SSE */ |
		   BIT(26) /* SSE2 */ | (n > 1 ? BIT(28) : 0) /* HTT */;
}

static void leaf_power(uint32_t out[4])
{
	out[EAX] = BIT(2); /* the APIC timer runs always */
}

static void leaf_structured(const struct host_isa *h, uint32_t subleaf, uint32_t out[4])
{
	if (subleaf)
		return;
	out[EAX] = 1; /* last subleaf */
	out[EBX] = BIT(0) /* FSGSBASE */ | BIT(1) /* TSC_ADJUST */ | BIT(3) /* BMI1 */ |
		   (h->avx2 ? BIT(5) : 0) | BIT(7) /* SMEP */ | BIT(8) /* BMI2 */ |
		   BIT(9) /* fast REP MOVSB */ | BIT(10) /* INVPCID */ |
		   BIT(13) /* no x87 selectors */ | (h->rdseed ? BIT(18) : 0) | BIT(19) /* ADX */ |
		   BIT(20) /* SMAP */ | BIT(23) /* CLFLUSHOPT */ | (h->sha ? BIT(29) : 0);
	out[ECX] = BIT(2) /* UMIP */ | BIT(22) /* RDPID */;
	out[EDX] = BIT(4); /* fast short REP MOV */
}

static void leaf_topology(const struct cpuid_topology *t, uint32_t subleaf, uint32_t out[4])
{
	out[ECX] = subleaf & 0xff;
	out[EDX] = t->apic_id;
	if (subleaf == 0) {
		out[EAX] = order(t->threads);
		out[EBX] = t->threads;
		out[ECX] |= 1u << 8; /* threads */
	} else if (subleaf == 1) {
		out[EAX] = package_shift(t);
		out[EBX] = package_threads(t);
		out[ECX] |= 2u << 8; /* cores */
	}
}

static void leaf_xsave(const struct host_isa *h, uint32_t subleaf, uint32_t out[4])
{
	const uint32_t legacy = 576, avx_offset = 576, avx_size = 256;

	switch (subleaf) {
	case 0:
		out[EAX] = h->avx ? 7 : 3;
		out[EBX] = legacy;
		out[ECX] = h->avx ? avx_offset + avx_size : legacy;
		break;
	case 1:
		out[EAX] = BIT(0) /* XSAVEOPT */ | BIT(1) /* XSAVEC */ | BIT(2) /* XGETBV(1) */;
		out[EBX] = legacy;
		break;
	case 2:
		out[EAX] = h->avx ? avx_size : 0;
		out[EBX] = h->avx ? avx_offset : 0;
		break;
	}
}

static void leaf_hyper(const struct cpuid_topology *t, uint32_t leaf, uint32_t out[4])
{
	switch (leaf) {
	case 0x40000000:
		out[EAX] = MAX_HYPER;
		set_string(&out[EBX], "KVMKVMKVM\0\0", 3);
		break;
	case 0x40000001: out[EAX] = CPUID_KVM_FEATURES; break;
	case 0x40000010:
		out[EAX] = t->tsc_khz;
		out[EBX] = CPUID_LAPIC_KHZ;
		break;
	}
}

static void leaf_ext_features(const struct cpuid_topology *t, uint32_t out[4])
{
	out[EAX] = CPUID_SIGNATURE;
	out[ECX] = BIT(0) /* LAHF in 64-bit mode */ |
		   (package_threads(t) > 1 ? BIT(1) : 0) /* several cores */ | BIT(5) /* LZCNT */ |
		   BIT(8) /* PREFETCHW */ | BIT(22) /* topology extensions */;
	out[EDX] = common_edx() | BIT(11) /* SYSCALL */ | BIT(20) /* NX */ | BIT(22) /* MMX+ */ |
		   BIT(25) /* FFXSR */ | BIT(26) /* 1G pages */ | BIT(27) /* RDTSCP */ |
		   BIT(29) /* long mode */;
}

static void leaf_brand(uint32_t part, uint32_t out[4])
{
	static const char brand[48] = "Numavisor Virtual CPU";

	set_string(out, brand + 16 * part, 4);
}

/* Associativity as leaf 8000_0006 codes it. */
static uint32_t ways_code(uint32_t ways)
{
	return ways == 16 ? 8 : ways == 8 ? 6 : 0xf;
}

static void leaf_l1(uint32_t out[4])
{
	uint32_t l1 = L1_KIB << 24 | L1_WAYS << 16 | 1u << 8 | CACHE_LINE;

	/* TLBs: 64 entries, fully associative, for 4K and for large pages. */
	out[EAX] = out[EBX] = 0xff40ff40u;
	out[ECX] = out[EDX] = l1;
}

static void leaf_l2_l3(uint32_t out[4])
{
	out[EAX] = out[EBX] = 0x64006400u; /* TLBs: 1024 entries, 8 ways */
	out[ECX] = L2_KIB << 16 | ways_code(L2_WAYS) << 12 | 1u << 8 | CACHE_LINE;
	out[EDX] = (L3_KIB / 512) << 18 | ways_code(L3_WAYS) << 12 | 1u << 8 | CACHE_LINE;
}

static void leaf_sizes(const struct cpuid_topology *t, uint32_t out[4])
{
	out[EAX] = GUEST_PHYS_BITS | 48u << 8;
	out[EBX] = BIT(2) /* error pointers always saved */ | BIT(26) /* no store bypass */ |
		   BIT(29) /* no branch type confusion */;
	out[ECX] = MIN(package_threads(t) - 1, 255u) | package_shift(t) << 12;
}

static void set_cache(uint32_t out[4], uint32_t type, uint32_t level, uint32_t kib, uint32_t ways,
		      uint32_t sharing)
{
	out[EAX] = type | level << 5 | BIT(8) /* self-initialising */ | (sharing - 1) << 14;
	out[EBX] = (ways - 1) << 22 | (CACHE_LINE - 1);
	out[ECX] = kib * 1024 / ways / CACHE_LINE - 1;
	out[EDX] = 0;
}

static void leaf_cache(const struct cpuid_topology *t, uint32_t subleaf, uint32_t out[4])
{
	enum { DATA = 1, CODE = 2, UNIFIED = 3 };

	switch (subleaf) {
	case 0: set_cache(out, DATA, 1, L1_KIB, L1_WAYS, t->threads); break;
	case 1: set_cache(out, CODE, 1, L1_KIB, L1_WAYS, t->threads); break;
	case 2: set_cache(out, UNIFIED, 2, L2_KIB, L2_WAYS, t->threads); break;
	case 3: set_cache(out, UNIFIED, 3, L3_KIB, L3_WAYS, package_threads(t)); break;
	}
}

/* One NUMA node per package. */
static void leaf_ext_topology(const struct cpuid_topology *t, uint32_t out[4])
{
	uint32_t package = t->apic_id >> package_shift(t);
	uint32_t core = t->apic_id >> order(t->threads) & ((1u << order(t->cores)) - 1);

	out[EAX] = t->apic_id;
	out[EBX] = (core & 0xff) | (t->threads - 1) << 8;
	out[ECX] = package & 0xff;
}

static void leaf_ext_features2(uint32_t out[4])
{
	out[EAX] = BIT(0) /* no nested data breakpoints */ | BIT(2) /* LFENCE serialises */ |
		   BIT(6) /* null selector clears base */ | BIT(8) /* automatic IBRS */ |
		   BIT(29) /* no speculative return stack overflow */ | BIT(30);
	out[ECX] = BIT(1) | BIT(2); /* no transient scheduler attacks */
}

static void query_extended(const struct cpuid_topology *t, uint32_t leaf, uint32_t subleaf,
			   uint32_t out[4])
{
	switch (leaf) {
	case 0x80000000:
		out[EAX] = MAX_EXTENDED;
		set_vendor(out);
		break;
	case 0x80000001: leaf_ext_features(t, out); break;
	case 0x80000002:
	case 0x80000003:
	case 0x80000004: leaf_brand(leaf - 0x80000002, out); break;
	case 0x80000005: leaf_l1(out); break;
	case 0x80000006: leaf_l2_l3(out); break;
	case 0x80000007: out[EDX] = BIT(8); break; /* invariant TSC */
	case 0x80000008: leaf_sizes(t, out); break;
	case 0x8000001d: leaf_cache(t, subleaf, out); break;
	case 0x8000001e: leaf_ext_topology(t, out); break;
	case 0x80000021: leaf_ext_features2(out); break;
	}
}

static void query_basic(const struct cpuid_topology *t, uint32_t leaf, uint32_t subleaf,
			uint32_t out[4])
{
	struct host_isa h;

	host_isa_probe(&h);
	switch (leaf) {
	case 0:
		out[EAX] = MAX_BASIC;
		set_vendor(out);
		break;
	case 1: leaf_features(t, &h, out); break;
	case 6: leaf_power(out); break;
	case 7: leaf_structured(&h, subleaf, out); break;
	case 0xb: leaf_topology(t, subleaf, out); break;
	case 0xd: leaf_xsave(&h, subleaf, out); break;
	}
}

void cpuid_query(const struct cpuid_topology *topo, uint32_t leaf, uint32_t subleaf,
		 uint32_t out[4])
{
	memset(out, 0, 4 * sizeof(out[0]));
	if (leaf <= MAX_BASIC)
		query_basic(topo, leaf, subleaf, out);
	else if (leaf >= 0x40000000 && leaf <= MAX_HYPER)
		leaf_hyper(topo, leaf, out);
	else if (leaf >= 0x80000000 && leaf <= MAX_EXTENDED)
		query_extended(topo, leaf, subleaf, out);
}
