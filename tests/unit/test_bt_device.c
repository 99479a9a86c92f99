/*
 * Accesses to devices in compiled code: after a while they are done in place, by the handlers of
 * their instructions, and no longer when they turn out to be accesses to memory. Nothing else is to
 * be seen of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "src/x86/sys.h"
#include "tests/unit/guest_cpu.h"

#define MAX_INSNS  1000000
#define DEVICE_GPA 0x180000u /* there is no RAM */
#define NOWHERE	   0x40000u  /* no page */
#define FAR_GPA	   (CODE_GPA + 0x1000)
#define OFTEN	   1000 /* more than enough to adapt */
#define PLAIN	   256	/* runs after which the first one goes back */

CODE(load, "1: mov (%rdi), %rax; add %rax, %rbx; dec %esi; jnz 1b; hlt")
CODE(store, "1: mov %rsi, (%rdi); inc %ebx; dec %esi; jnz 1b; hlt")
/* The function is in another page. */
CODE(call, "1: call . + 0x1000; dec %esi; jnz 1b; hlt")
CODE(function, "mov (%rdi), %rax; ret")
/* One group of loads and stores, flags that live across them, and memory besides. */
CODE(mixed, "1: mov (%rdi), %rax\n"
	    "add %rax, %rbx\n"
	    "mov 8(%rdi), %edx\n"
	    "adc %edx, %ebx\n"
	    "mov %rbx, 0x10(%rdi)\n"
	    "rcl $1, %rcx\n"
	    "mov %rbx, 0x100(%r8)\n"
	    "xor 0x100(%r8), %rcx\n"
	    "add %cx, 0x18(%rdi)\n"
	    "pushf\n"
	    "pop 0x108(%r8)\n"
	    "dec %esi\n"
	    "jnz 1b\n"
	    "hlt")
/* Data and code in one page; the immediate operand is that of the next round. */
CODE(patch, "1: mov %esi, (%rdi)\n"
	    "add $0x11111111, %ebx\n"
	    "dec %esi\n"
	    "jnz 1b\n"
	    "hlt")
#define PATCH_AT 4 /* of the immediate operand */

/* An access behind so many others that it has no bit of its own. */
CODE(late, "1: .rept 70; inc %rbx; .endr; mov (%rdi), %rax; dec %esi; jnz 1b; hlt")

CODE(both, "1: mov (%rdi), %rax; mov (%r8), %rbx; dec %esi; jnz 1b; hlt")
CODE(pair, "1: mov (%rdi), %rax; mov %rax, 8(%rdi); dec %esi; jnz 1b; hlt")

/* What was written, in one word, and what is read next. */
static uint64_t written, next_read;
static struct guest_cpu *wanted; /* a store wants its CPU */
static unsigned stores;

static void device_read(struct cpu *c, gpa_t gpa, void *data, unsigned len)
{
	next_read = next_read * 0x5851f42d4c957f2dull + gpa;
	memcpy(data, &next_read, len);
}

static void device_write(struct cpu *c, gpa_t gpa, const void *data, unsigned len)
{
	uint64_t v = 0;

	memcpy(&v, data, len);
	written = (written ^ v ^ gpa ^ len) * 0x9e3779b97f4a7c15ull;
	stores++;
	if (!wanted)
		return;
	atomic_store_seq(&wanted->requests, 1);
	cpu_kick(wanted->cpu);
}

static const struct cpu_ops ops = {.mmio_read = device_read, .mmio_write = device_write};

static struct guest_cpu *create(bool translate)
{
	struct guest_cpu *g = guest_cpu_create(true);

	if (translate)
		guest_cpu_translate(g, false);
	g->cpu->ops = &ops;
	g->pt[NOWHERE >> PAGE_SHIFT] = 0;
	return g;
}

static int setup(void **state)
{
	*state = create(true);
	written = next_read = stores = 0;
	wanted = NULL;
	return 0;
}

static int teardown(void **state)
{
	guest_cpu_destroy(*state);
	return 0;
}

static enum interp_exit run(struct guest_cpu *g, gva_t data, unsigned rounds)
{
	g->cpu->gpr[RDI] = data;
	g->cpu->gpr[RSI] = rounds;
	return guest_cpu_run_at(g, CODE_GPA, MAX_INSNS);
}

/* How often C code looked for a page in so many rounds. */
static unsigned misses(struct guest_cpu *g, gva_t data, unsigned rounds)
{
	uint64_t before = g->stats.tlb_misses;

	assert_int_equal(run(g, data, rounds), INTERP_HALT);
	return g->stats.tlb_misses - before;
}

/*
 * Whether the first access goes to its handler, where the page that is not there is looked for; or
 * there is a check in front of it, which looks for it, too.
 */
static bool by_hand(struct guest_cpu *g)
{
	uint64_t before = g->stats.tlb_misses;

	assert_int_equal(run(g, NOWHERE, 1), INTERP_EXCEPTION);
	assert_int_equal(g->cpu->exc.cr2, NOWHERE);
	assert_in_range(g->stats.tlb_misses - before, 1, 2);
	return g->stats.tlb_misses - before == 1;
}

static void test_adapts(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, load);
	/* Compiled as it is with memory. */
	run(g, DATA_GPA, 100);
	assert_false(by_hand(g));
	run(g, DEVICE_GPA, OFTEN);
	assert_true(by_hand(g));
	assert_int_equal(misses(g, DEVICE_GPA, 100), 100);
}

/* Each access of a group goes to its handler. */
static void test_group(void **state)
{
	struct guest_cpu *g[2] = {*state, create(false)};
	unsigned n[2];

	for (unsigned k = 0; k < 2; k++) {
		guest_cpu_load(g[k], CODE_GPA, mixed);
		g[k]->cpu->gpr[R8] = DATA_GPA;
		run(g[k], DEVICE_GPA, OFTEN);
		n[k] = misses(g[k], DEVICE_GPA, 100);
	}
	assert_in_range(n[1], 400, 1000);
	assert_int_equal(n[0], n[1]);
	guest_cpu_destroy(g[1]);
}

static void test_late(void **state)
{
	struct guest_cpu *g = *state;
	uint64_t compiled;

	/* Both of its blocks are one unit. */
	guest_cpu_translate_after(g, 8, false);
	guest_cpu_load(g, CODE_GPA, late);
	run(g, DEVICE_GPA, 20);
	compiled = g->stats.blocks_compiled;
	run(g, DEVICE_GPA, OFTEN);
	assert_int_equal(g->stats.blocks_compiled, compiled);
}

/* The interpreter takes over for another reason, and then accesses a device. */
static void test_other_access(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, both);
	g->cpu->gpr[R8] = DEVICE_GPA;
	run(g, DATA_GPA + PAGE_SIZE - 4, OFTEN);
	assert_false(by_hand(g));
}

/* ... or accesses none: a dirty bit is to be set. */
static void test_other_reason(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, pair);
	for (unsigned n = 0; n < OFTEN; n++) {
		g->pt[DATA_GPA >> PAGE_SHIFT] &= ~PTE_D;
		tlb_flush_page(&g->cpu->tlb, DATA_GPA);
		assert_in_range(misses(g, DATA_GPA, 1), 2, 4);
	}
	assert_false(by_hand(g));
}

static void test_goes_back(void **state)
{
	struct guest_cpu *g = *state;
	uint64_t compiled;

	guest_cpu_load(g, CODE_GPA, load);
	run(g, DEVICE_GPA, OFTEN);
	assert_true(by_hand(g));
	/* Now and then it is memory: that does not count. */
	for (unsigned n = 0; n < 8; n++) {
		run(g, DATA_GPA, PLAIN - 10);
		run(g, DEVICE_GPA, 1);
	}
	assert_true(by_hand(g));
	run(g, DATA_GPA, PLAIN + 10);
	assert_false(by_hand(g));
	assert_int_equal(misses(g, DATA_GPA, 100), 0);
	/* The next time it takes longer. */
	run(g, DEVICE_GPA, OFTEN);
	assert_true(by_hand(g));
	run(g, DATA_GPA, PLAIN + 10);
	assert_true(by_hand(g));
	run(g, DATA_GPA, PLAIN);
	assert_false(by_hand(g));
	/* From one to the other and back for ever, it is compiled a few times only. */
	compiled = g->stats.blocks_compiled;
	for (unsigned n = 0; n < 1000; n++) {
		run(g, DEVICE_GPA, 200);
		run(g, DATA_GPA, 2 * PLAIN);
	}
	assert_in_range(g->stats.blocks_compiled - compiled, 1, 5);
}

/* Who comes to the unit by a latch of a branch comes to its new code, too. */
static void test_callers(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, call);
	guest_cpu_load(g, FAR_GPA, function);
	run(g, DATA_GPA, 100);
	run(g, DEVICE_GPA, OFTEN);
	assert_true(by_hand(g));
	run(g, DATA_GPA, 3 * PLAIN);
	assert_false(by_hand(g));
}

/* A device that wants the CPU has it before the next store. */
static void test_request(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, store);
	run(g, DEVICE_GPA, OFTEN);
	assert_true(by_hand(g));
	/* One that does not want it leaves it alone. */
	g->cpu->rip = CODE_GPA;
	g->cpu->event = 0;
	g->cpu->exc_pending = false;
	g->cpu->gpr[RDI] = DEVICE_GPA;
	g->cpu->gpr[RSI] = 100;
	assert_int_equal(interp_run(g->in, MAX_INSNS, false), INTERP_HALT);
	stores = 0;
	wanted = g;
	assert_int_equal(run(g, DEVICE_GPA, 10), INTERP_REQUEST);
	assert_int_equal(stores, 1);
	g->requests = 0;
	wanted = NULL;
}

/* What goes to its handler faults as ever. */
static void test_fault(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	guest_cpu_load(g, CODE_GPA, load);
	run(g, DEVICE_GPA, OFTEN);
	assert_true(by_hand(g));
	c->gpr[RBX] = 5;
	assert_int_equal(run(g, NOWHERE, 10), INTERP_EXCEPTION);
	assert_int_equal(c->exc.vector, EXC_PF);
	assert_int_equal(c->exc.cr2, NOWHERE);
	assert_int_equal(c->rip, CODE_GPA);
	assert_int_equal(c->gpr[RBX], 5);
	assert_int_equal(c->gpr[RSI], 10);
}

/* A store to the code that comes next, by an instruction that goes to its handler. */
static void test_patch(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, patch);
	run(g, DEVICE_GPA, OFTEN);
	assert_true(by_hand(g));
	for (unsigned n = 0; n < 10; n++) {
		g->cpu->gpr[RBX] = 0;
		assert_int_equal(run(g, CODE_GPA + PATCH_AT, 100), INTERP_HALT);
		assert_int_equal(g->cpu->gpr[RBX], 100 * 101 / 2);
		run(g, DEVICE_GPA, OFTEN);
	}
}

static void assert_same(const struct guest_cpu *a, const struct guest_cpu *b)
{
	assert_int_equal(a->cpu->rip, b->cpu->rip);
	assert_memory_equal(a->cpu->gpr, b->cpu->gpr, 16 * 8);
	assert_int_equal(flags_get(a->cpu), flags_get(b->cpu));
	assert_memory_equal(a->ram, b->ram, TABLES_GPA);
}

/* The same accesses to devices and memory by turns, as the interpreter makes them. */
static void test_equal(void **state)
{
	static const unsigned rounds[] = {1, 100, 700, 3, 300, 2000, 50, 1, 1500};
	struct guest_cpu *g[2] = {*state, create(false)};

	for (unsigned n = 0; n < 200; n++) {
		uint64_t was[2] = {written, next_read}, is[2] = {0};

		for (unsigned k = 0; k < 2; k++) {
			written = was[0];
			next_read = was[1];
			if (!n) {
				guest_cpu_load(g[k], CODE_GPA, mixed);
				g[k]->cpu->gpr[R8] = DATA_GPA;
			}
			assert_int_equal(run(g[k], n % 3 ? DEVICE_GPA : DATA_GPA,
					     rounds[n % ARRAY_SIZE(rounds)]),
					 INTERP_HALT);
			if (k)
				assert_int_equal(is[0], written),
					assert_int_equal(is[1], next_read);
			is[0] = written;
			is[1] = next_read;
		}
		assert_same(g[0], g[1]);
	}
	assert_true(g[0]->stats.blocks_compiled > 3);
	guest_cpu_destroy(g[1]);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_adapts),	 TEST(test_group),	  TEST(test_late),
		TEST(test_other_access), TEST(test_other_reason), TEST(test_goes_back),
		TEST(test_callers),	 TEST(test_request),	  TEST(test_fault),
		TEST(test_patch),	 TEST(test_equal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
