/* The translator where it differs in kind from the interpreter: leaving compiled code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/guest_cpu.h"

#define MAX_INSNS 100000

static int setup(void **state)
{
	struct interp_config cfg = {.self = 0,
				    .cache_bytes = MIB(1),
				    .stop_on_exception = true,
				    .translate = true,
				    .translate_after = 1};
	struct guest_cpu *g = guest_cpu_create(true);

	interp_destroy(g->in);
	cfg.requests = &g->requests;
	assert_int_equal(interp_create(&g->in, g->cpu, &cfg), 0);
	interp_enter_thread(g->in);
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	guest_cpu_destroy(*state);
	return 0;
}

#define NOWHERE 0x800000000000ull

CODE(sysret_far, "lea 1f(%rip), %rax; jmp *%rax; 1: mov $0x800000000000, %rcx; mov $2, %r11d\n"
		 "inc %ebx; sysretq")

/* The fault of a SYSRET to nowhere is not that of the last indirect branch. */
static void test_sysret_to_nowhere(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	guest_cpu_load(g, CODE_GPA, sysret_far);
	c->efer |= EFER_SCE;
	c->star = 0x0018000800000000ull;
	/* Often enough for all of it to be compiled. */
	for (unsigned n = 1; n < 10; n++) {
		assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_EXCEPTION);
		assert_int_equal(c->exc.vector, EXC_GP);
		assert_int_equal(c->rip, NOWHERE);
		assert_int_equal(c->cpl, 3);
		assert_int_equal(c->gpr[RBX], n);
		c->exc_pending = false;
		c->event = 0;
		c->seg[SEG_CS].attr &= ~SEG_DPL;
		c->cpl = 0;
		c->rip = CODE_GPA;
		cpu_update_ctx(c);
	}
	assert_true(g->stats.blocks_compiled > 0);
}

CODE(jump_far, "mov $0x800000000000, %rax; inc %ebx; jmp *%rax")

static void test_jump_to_nowhere(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	guest_cpu_load(g, CODE_GPA, jump_far);
	for (unsigned n = 1; n < 10; n++) {
		c->rip = CODE_GPA;
		assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_EXCEPTION);
		assert_int_equal(c->exc.vector, EXC_GP);
		assert_int_equal(c->rip, CODE_GPA + (jump_far_end - jump_far_code) - 2);
		assert_int_equal(c->gpr[RBX], n);
		c->exc_pending = false;
		c->event = 0;
	}
	assert_true(g->stats.blocks_compiled > 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_sysret_to_nowhere),
		TEST(test_jump_to_nowhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
