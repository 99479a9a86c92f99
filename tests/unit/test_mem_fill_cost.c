/*
 * What a TLB miss of compiled code costs, in host instructions: mem_fill() is run with the trap
 * flag set, and the traps are counted. The bounds hold for the optimised build.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "src/x86/mem.h"
#include "tests/unit/guest_cpu.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
#define BOUND(n) (100 * (n))
#else
#define BOUND(n) (n)
#endif

/* As many pages further on, a page has the same index in the first level. */
#define ALIAS (TLB_SIZE * PAGE_SIZE)

static volatile sig_atomic_t traps;

/* It may come while the thread sanitizer holds a lock of its own: the handler must not call that.
 */
__attribute__((no_sanitize_thread)) static void on_trap(int sig)
{
	traps++;
}

/* Instructions of one fill that must succeed, the ten around the call included. */
static unsigned cost(struct cpu *c, gva_t gva, bool write)
{
	struct sigaction sa = {.sa_handler = on_trap}, old;
	bool ok;

	assert_int_equal(sigaction(SIGTRAP, &sa, &old), 0);
	traps = 0;
	/* Below the red zone. */
	__asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; orl $0x100, (%%rsp); popfq\n"
			 "lea 128(%%rsp), %%rsp" ::
				 : "memory", "cc");
	ok = mem_fill(c, gva, write);
	__asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; andl $~0x100, (%%rsp); popfq\n"
			 "lea 128(%%rsp), %%rsp" ::
				 : "memory", "cc");
	sigaction(SIGTRAP, &old, NULL);
	assert_true(ok);
	return traps;
}

static void report(const char *what, unsigned n, unsigned bound)
{
	printf("%-40s %4u instructions\n", what, n);
	assert_in_range(n, 10, bound);
}

static int setup(void **state)
{
	struct guest_cpu *g = guest_cpu_create(false);
	uint64_t *t = (uint64_t *)(g->ram + TABLES_GPA);

	/* The 2 MiB after the first, by a large page, and ALIAS, by the first page table. */
	t[1025] = PTE_P | PTE_W | PTE_U | PTE_PS;
	t[1024 + ALIAS / MIB(2)] = t[1024];
	for (unsigned n = 0; n < RAM_SIZE / PAGE_SIZE; n++)
		assert_true(gmem_translate(&g->gm, n));
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	guest_cpu_destroy(*state);
	return 0;
}

static void test_cost(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	/* First uses: lazy binding, and accessed bits. */
	cost(c, DATA_GPA, true);
	cost(c, DATA_GPA + ALIAS, true);
	cost(c, DATA_GPA + PAGE_SIZE, true);
	cost(c, MIB(2), false);
	tlb_flush_all(&c->tlb);

	report("all levels walked, load", cost(c, DATA_GPA, false), BOUND(1100));
	report("page table known, load", cost(c, DATA_GPA + PAGE_SIZE, false), BOUND(350));
	cost(c, DATA_GPA + ALIAS, true);
	report("second level, load", cost(c, DATA_GPA, false), BOUND(80));
	report("second level, store", cost(c, DATA_GPA + ALIAS, true), BOUND(80));
	report("large page walked, load", cost(c, MIB(2), false), BOUND(1100));
	report("large page known, load", cost(c, MIB(2) + PAGE_SIZE, false), BOUND(350));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_cost, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
