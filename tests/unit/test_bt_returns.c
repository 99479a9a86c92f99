/*
 * What compiled code expects of returns: it is kept while the run loop has the CPU, if that comes
 * back to the same place, and is looked for further down when a return does not match. Between
 * modes: test_bt_system.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/guest_cpu.h"

#define MAX_INSNS      100000
#define ENTRY	       16u /* bytes on the shadow stack */
#define WARM	       32u
#define CALLER_GPA     (CODE_GPA + 0x2000)
#define ANOTHER_GPA    (CODE_GPA + 0x3000)
#define PRIVILEGED_GPA (CODE_GPA + 0x4000)
#define KERNEL_GPA     (CODE_GPA + 0x1000)
#define SKIPS_GPA      (CODE_GPA + 0x5000)
#define DEEP_GPA       (CODE_GPA + 0x6000)
#define UPPER_BASE     0xffffff8000000000ull
#define PAGE_CALLER    (CALLER_GPA >> PAGE_SHIFT)

/* RBX tells which of them returned. The callee has a page of its own, its address is in RSI. */
CODE(callee, "call 1f; add $2, %rbx; ret; 1: pause; add $1, %rbx; ret")
CODE(caller, "mov $0, %ebx; call *%rsi; add $0x10, %rbx; hlt")
CODE(another, "mov $0, %ebx; call *%rsi; add $0x70, %rbx; hlt")
CODE(user_callee, "syscall; add $1, %rbx; ret")
CODE(kernel_waits, "pause; sysretq")
CODE(privileged, "mov $0, %ebx; call *%rsi; mov %cr0, %rbp; hlt")

static int setup(void **state)
{
	struct guest_cpu *g = guest_cpu_create(true);

	guest_cpu_translate(g, false);
	g->cpu->cr4 |= CR4_PCIDE;
	guest_cpu_load(g, CODE_GPA, callee);
	guest_cpu_load(g, CALLER_GPA, caller);
	guest_cpu_load(g, ANOTHER_GPA, another);
	guest_cpu_load(g, PRIVILEGED_GPA, privileged);
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	guest_cpu_destroy(*state);
	return 0;
}

static void start(struct guest_cpu *g, uint64_t rip)
{
	struct cpu *c = g->cpu;

	c->event = 0;
	c->exc_pending = false;
	c->rip = rip;
	c->gpr[RSP] = STACK_TOP;
	c->gpr[RSI] = CODE_GPA;
}

/* Through all of it some times, then to the PAUSE, two calls deep. */
static void to_pause(struct guest_cpu *g, uint64_t rip)
{
	for (unsigned n = 0; n < WARM; n++) {
		start(g, rip);
		guest_cpu_run(g, MAX_INSNS, false);
	}
	start(g, rip);
	shootdown_drain(&g->queue, &g->sink);
	assert_int_equal(interp_run(g->in, MAX_INSNS, false), INTERP_PAUSE);
	assert_int_equal(g->cpu->bt.kept_bytes, 2 * ENTRY);
}

static void test_kept(void **state)
{
	struct guest_cpu *g = *state;

	to_pause(g, CALLER_GPA);
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_HALT);
	assert_int_equal(g->cpu->gpr[RBX], 0x13);
	assert_int_equal(g->cpu->gpr[RSP], STACK_TOP);
	assert_int_equal(g->cpu->bt.kept_bytes, 0);
}

static void map_another(struct guest_cpu *g)
{
	g->pt[PAGE_CALLER] = ANOTHER_GPA | PTE_P | PTE_W | PTE_U;
}

static void goes_to_another(struct guest_cpu *g)
{
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_HALT);
	assert_int_equal(g->cpu->gpr[RBX], 0x73);
	assert_int_equal(g->cpu->rip >> PAGE_SHIFT, PAGE_CALLER);
}

/* The page that the caller was in has another frame when its callee returns. */
static void test_page_changed(void **state)
{
	struct guest_cpu *g = *state;

	to_pause(g, CALLER_GPA);
	map_another(g);
	tlb_flush_page(&g->cpu->tlb, CALLER_GPA);
	goes_to_another(g);
}

static void test_space_changed(void **state)
{
	struct guest_cpu *g = *state;

	to_pause(g, CALLER_GPA);
	map_another(g);
	tlb_switch(&g->cpu->tlb, 1, false);
	goes_to_another(g);
}

/* ... and this one there and back. */
static void test_space_returns(void **state)
{
	struct guest_cpu *g = *state;

	to_pause(g, CALLER_GPA);
	tlb_switch(&g->cpu->tlb, 1, false);
	tlb_switch(&g->cpu->tlb, 0, true);
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_HALT);
	assert_int_equal(g->cpu->gpr[RBX], 0x13);
}

/*
 * The same while the caller's callee is in a system call: the kernel's code, in global pages of the
 * upper half, is where it was.
 */
static void test_user_space_changed(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;
	uint64_t *top = (uint64_t *)(g->ram + TABLES_GPA);

	top[511] = top[0];
	g->pt[KERNEL_GPA >> PAGE_SHIFT] |= PTE_G;
	allow_syscall(c, UPPER_BASE + KERNEL_GPA);
	guest_cpu_load(g, CODE_GPA, user_callee);
	guest_cpu_load(g, KERNEL_GPA, kernel_waits);
	tlb_flush_all(&c->tlb);
	for (unsigned n = 0; n <= WARM; n++) {
		start(g, CALLER_GPA);
		set_cpl(c, 3);
		assert_int_equal(interp_run(g->in, MAX_INSNS, false), INTERP_PAUSE);
		if (n == WARM)
			break;
		assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_EXCEPTION);
		assert_int_equal(c->gpr[RBX], 0x11);
	}
	assert_int_equal(c->bt.kept_bytes, 2 * ENTRY);
	map_another(g);
	tlb_switch(&c->tlb, 1, false);
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_EXCEPTION);
	assert_int_equal(c->gpr[RBX], 0x71);
}

static void test_code_written(void **state)
{
	struct guest_cpu *g = *state;

	to_pause(g, CALLER_GPA);
	memcpy(g->ram + CALLER_GPA, g->ram + ANOTHER_GPA, PAGE_SIZE);
	gmem_code_written(&g->gm, CALLER_GPA >> PAGE_SHIFT);
	goes_to_another(g);
}

/* Code of the kernel comes back to a caller whose code was compiled for user mode. */
static void test_privilege_changed(void **state)
{
	struct guest_cpu *g = *state;

	set_cpl(g->cpu, 3);
	to_pause(g, PRIVILEGED_GPA);
	set_cpl(g->cpu, 0);
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_HALT);
	assert_int_equal(g->cpu->gpr[RBP], g->cpu->cr0);
	assert_int_equal(g->cpu->gpr[RBX], 3);
}

/* A callee drops its own return address: its caller's is below. */
CODE(skips, "call 2f; pause; hlt; 2: inc %ecx; call 3f; ud2; 3: lea 8(%rsp), %rsp; ret")
/* RCX calls that no return belongs to, and a return to what nobody called. */
CODE(deep, "1: call 2f; 2: pop %rax; dec %ecx; jnz 1b; lea 3f(%rip), %rax; push %rax; ret; "
	   "3: pause; hlt")

static uint64_t kept_at_pause(struct guest_cpu *g, uint64_t rip, uint64_t rcx)
{
	for (unsigned n = 0; n < WARM; n++) {
		start(g, rip);
		g->cpu->gpr[RCX] = rcx;
		assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_HALT);
		assert_int_equal(g->cpu->gpr[RSP], STACK_TOP);
	}
	start(g, rip);
	g->cpu->gpr[RCX] = rcx;
	g->cpu->bt.kept_bytes = 0;
	assert_int_equal(interp_run(g->in, MAX_INSNS, false), INTERP_PAUSE);
	return g->cpu->bt.kept_bytes;
}

static void test_skips(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, SKIPS_GPA, skips);
	assert_int_equal(kept_at_pause(g, SKIPS_GPA, 0), 0);
}

/* Some entries that nothing matches stay, but not for ever. */
static void test_deep(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, DEEP_GPA, deep);
	assert_int_equal(kept_at_pause(g, DEEP_GPA, 10), 10 * ENTRY);
	assert_int_equal(kept_at_pause(g, DEEP_GPA, 100), CPU_BT_KEPT * ENTRY);
	assert_int_equal(kept_at_pause(g, DEEP_GPA, 300), 0);
}

/*
 * CR3 is written between call and return, by a handler behind which compiled code goes on: the
 * caller's page is another one by then.
 */
#define SWITCHER_GPA (CODE_GPA + 0x7000)
#define DRIVER_GPA   (CODE_GPA + 0x8000)
#define TABLES2_GPA  (TABLES_GPA + 0x8000)
#define KEEP	     (1ull << 63) /* what the TLB has of that PCID */

CODE(switcher, "mov %rdi, %cr3; ret")
CODE(driver, "mov %rdx, %cr3; jmp *%rbp")

static void second_tables(struct guest_cpu *g)
{
	uint64_t *t = (uint64_t *)(g->ram + TABLES2_GPA);

	memcpy(t, g->ram + TABLES_GPA, 4 * PAGE_SIZE);
	for (unsigned level = 0; level < 3; level++)
		t[512 * level] += TABLES2_GPA - TABLES_GPA;
	t[512 * 3 + PAGE_CALLER] = ANOTHER_GPA | PTE_P | PTE_W | PTE_U;
}

static uint64_t switch_between(struct guest_cpu *g, uint64_t cr3)
{
	start(g, DRIVER_GPA);
	g->cpu->gpr[RBP] = CALLER_GPA;
	g->cpu->gpr[RSI] = SWITCHER_GPA;
	g->cpu->gpr[RDX] = TABLES_GPA | KEEP;
	g->cpu->gpr[RDI] = cr3 | KEEP;
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_HALT);
	assert_int_equal(g->cpu->gpr[RSP], STACK_TOP);
	return g->cpu->gpr[RBX];
}

static void test_space_written(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_translate_as(g,
			       (struct interp_config){.translate_after = 1, .until_kicked = true});
	guest_cpu_load(g, SWITCHER_GPA, switcher);
	guest_cpu_load(g, DRIVER_GPA, driver);
	second_tables(g);
	for (unsigned n = 0; n < WARM; n++) {
		assert_int_equal(switch_between(g, TABLES_GPA), 0x10);
		assert_int_equal(switch_between(g, TABLES2_GPA | 1), 0x70);
	}
}

/* A return to address 0 matches the base of the shadow stack, or a barrier: nothing is expected. */
CODE(to_zero, "push $0; ret")
CODE(calls_out, "call 1f; 1: pop %rax; syscall")
CODE(at_zero, "call 1f; hlt; 1: pause; ret")

static void test_return_to_zero(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, SKIPS_GPA, to_zero);
	guest_cpu_load(g, 0, at_zero);
	assert_int_equal(kept_at_pause(g, SKIPS_GPA, 0), ENTRY);
	guest_cpu_load(g, DEEP_GPA, calls_out);
	allow_syscall(g->cpu, SKIPS_GPA);
	assert_int_equal(kept_at_pause(g, DEEP_GPA, 0), ENTRY);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define EACH(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
		EACH(test_kept),
		EACH(test_page_changed),
		EACH(test_space_changed),
		EACH(test_space_returns),
		EACH(test_user_space_changed),
		EACH(test_code_written),
		EACH(test_privilege_changed),
		EACH(test_skips),
		EACH(test_deep),
		EACH(test_space_written),
		EACH(test_return_to_zero),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
