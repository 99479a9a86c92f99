/* Memory in huge pages: what was there stays, in every mapping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/mman.h>

#include "src/base/huge.h"

#define SIZE	(3 * HUGE_PAGE)
#define RW	(PROT_READ | PROT_WRITE)
#define BYTE(n) ((uint8_t)((n)*7 + ((n) >> 12)))

static void test_map(void **state)
{
	uint8_t *p = huge_map(SIZE, RW, 0);

	assert_non_null(p);
	assert_int_equal((uintptr_t)p % HUGE_PAGE, 0);
	for (size_t n = 0; n < SIZE; n += PAGE_SIZE)
		assert_int_equal(p[n], 0);
	/* There is nothing of it beside it. */
	assert_int_equal(munmap(p, SIZE), 0);
	p = huge_map(SIZE, PROT_NONE, MAP_32BIT);
	assert_non_null(p);
	assert_true((uintptr_t)p + SIZE <= INT32_MAX + 1ul);
	munmap(p, SIZE);
}

static void test_collapse(void **state)
{
	uint8_t *a = huge_map(SIZE, PROT_NONE, 0), *b = huge_map(SIZE, PROT_NONE, 0);

	assert_ptr_not_equal(mmap(a, SIZE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			     MAP_FAILED);
	assert_ptr_equal(mremap(a, 0, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, b), b);
	for (size_t n = 0; n < SIZE; n += 64)
		a[n] = BYTE(n);
	/* Only the page in the middle is wholly in there. */
	huge_collapse(a + PAGE_SIZE, SIZE - 2 * PAGE_SIZE);
	huge_collapse(b, HUGE_PAGE - 1);
	for (size_t n = 0; n < SIZE; n += 64) {
		assert_int_equal(a[n], BYTE(n));
		assert_int_equal(b[n], BYTE(n));
	}
	a[HUGE_PAGE + 5] = 1;
	assert_int_equal(b[HUGE_PAGE + 5], 1);
	munmap(a, SIZE);
	munmap(b, SIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_map),
		cmocka_unit_test(test_collapse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
