/* The CPUID model: names, features against the host's, topology for several shapes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <cpuid.h>

#include "src/x86/cpuid.h"
#include "src/x86/hostisa.h"

static const struct cpuid_topology small = {
	.apic_id = 3, .ncpus = 4, .threads = 1, .cores = 4, .tsc_khz = 2500000};

static uint32_t reg(const struct cpuid_topology *t, uint32_t leaf, uint32_t sub, unsigned r)
{
	uint32_t out[4];

	cpuid_query(t, leaf, sub, out);
	return out[r];
}

static void test_names(void **state)
{
	uint32_t out[4];
	char brand[49] = {0};

	cpuid_query(&small, 0, 0, out);
	assert_memory_equal(&out[1], "Auth", 4);
	assert_memory_equal(&out[3], "enti", 4);
	assert_memory_equal(&out[2], "cAMD", 4);
	assert_true(out[0] >= 0xd);
	for (unsigned n = 0; n < 3; n++)
		cpuid_query(&small, 0x80000002 + n, 0, (uint32_t *)(brand + 16 * n));
	assert_string_equal(brand, "Numavisor Virtual CPU");
	cpuid_query(&small, 0x40000000, 0, out);
	assert_memory_equal(&out[1], "KVMKVMKVM\0\0", 12);
	assert_int_equal(reg(&small, 0x40000010, 0, 0), 2500000);
	assert_int_equal(reg(&small, 0x40000001, 0, 0), CPUID_KVM_FEATURES);
}

/* Never more than the host has, of what the host's instructions do. */
static void test_host_bounds_model(void **state)
{
	const uint32_t borrowed_ecx = 1u | 1u << 1 | 1u << 9 | 1u << 12 | 1u << 19 | 1u << 20 |
				      1u << 25 | 1u << 28 | 1u << 29 | 1u << 30;
	const uint32_t borrowed_ebx7 = 1u << 5 | 1u << 18 | 1u << 29;
	unsigned a, b, c, d;
	struct host_isa isa;

	__cpuid(1, a, b, c, d);
	assert_int_equal(reg(&small, 1, 0, 2) & borrowed_ecx & ~c, 0);
	__cpuid_count(7, 0, a, b, c, d);
	assert_int_equal(reg(&small, 7, 0, 1) & borrowed_ebx7 & ~b, 0);
	host_isa_probe(&isa);
	assert_int_equal(reg(&small, 0xd, 0, 0), isa.avx ? 7 : 3);
	assert_int_equal(reg(&small, 0xd, 0, 2), isa.avx ? 832 : 576);
}

static void test_absent_features(void **state)
{
	uint32_t ecx1 = reg(&small, 1, 0, 2), ext = reg(&small, 0x80000001, 0, 3);

	assert_int_equal(ecx1 & (1u << 3 | 1u << 5), 0);			  /* MONITOR, VMX */
	assert_int_equal(reg(&small, 0x80000001, 0, 2) & (1u << 2 | 1u << 6), 0); /* SVM, SSE4a */
	assert_int_equal(ext & (3u << 30), 0);					  /* 3DNow! */
	assert_int_equal(reg(&small, 7, 0, 1) & 1u << 16, 0);			  /* AVX-512 */
	assert_int_equal(reg(&small, 7, 0, 2) & 1u << 16, 0);			  /* LA57 */
	assert_int_equal(reg(&small, 0xd, 1, 0) & 1u << 3, 0);			  /* XSAVES */
}

static void test_out_of_range(void **state)
{
	static const uint32_t leaves[] = {
		2, 4, 5, 0xe, 0x20, 0x3fffffff, 0x40000011, 0x80000022, 0xc0000000, 0xffffffff};

	for (unsigned n = 0; n < ARRAY_SIZE(leaves); n++)
		for (unsigned r = 0; r < 4; r++)
			assert_int_equal(reg(&small, leaves[n], 0, r), 0);
}

static void check_shape(uint32_t threads, uint32_t cores, uint32_t apic_id, unsigned thread_bits,
			unsigned core_bits)
{
	struct cpuid_topology t = {
		.apic_id = apic_id, .ncpus = 1024, .threads = threads, .cores = cores};
	unsigned shift = thread_bits + core_bits;

	assert_int_equal(reg(&t, 0xb, 0, 0), thread_bits);
	assert_int_equal(reg(&t, 0xb, 0, 1), threads);
	assert_int_equal(reg(&t, 0xb, 0, 2), 0x100);
	assert_int_equal(reg(&t, 0xb, 1, 0), shift);
	assert_int_equal(reg(&t, 0xb, 1, 1), threads * cores);
	assert_int_equal(reg(&t, 0xb, 1, 2), 0x201);
	assert_int_equal(reg(&t, 0xb, 1, 3), apic_id);
	assert_int_equal(reg(&t, 0xb, 2, 1), 0);
	assert_int_equal(reg(&t, 0x8000001e, 0, 0), apic_id);
	assert_int_equal(reg(&t, 0x8000001e, 0, 1) >> 8 & 0xff, threads - 1);
	assert_int_equal(reg(&t, 0x8000001e, 0, 2), apic_id >> shift & 0xff);
	assert_int_equal(reg(&t, 0x80000008, 0, 2) >> 12, shift);
	assert_int_equal(reg(&t, 1, 0, 1) >> 24, apic_id & 0xff);
}

static void test_topology(void **state)
{
	check_shape(1, 1, 5, 0, 0);
	check_shape(1, 4, 6, 0, 2);
	check_shape(2, 3, 13, 1, 2);
	check_shape(2, 64, 1000, 1, 6);
}

static void test_caches(void **state)
{
	uint32_t out[4];

	for (unsigned sub = 0; sub < 4; sub++) {
		cpuid_query(&small, 0x8000001d, sub, out);
		/* ways * line * sets is a power of two of at least 32 KiB. */
		uint32_t size = ((out[1] >> 22) + 1) * ((out[1] & 0xfff) + 1) * (out[2] + 1);

		assert_true(size >= 32768 && !(size & (size - 1)));
		assert_int_equal((out[0] >> 14) + 1, sub == 3 ? 4 : 1);
	}
	assert_int_equal(reg(&small, 0x8000001d, 4, 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),		cmocka_unit_test(test_host_bounds_model),
		cmocka_unit_test(test_absent_features), cmocka_unit_test(test_out_of_range),
		cmocka_unit_test(test_topology),	cmocka_unit_test(test_caches),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
