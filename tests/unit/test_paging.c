/* What the TLBs and the code cache must forget, and faults that meet other faults. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "src/x86/sys.h"
#include "tests/unit/guest_cpu.h"

#define MAX_INSNS 100000
#define CODE_PAGE (CODE_GPA >> PAGE_SHIFT)

static int setup(void **state)
{
	*state = guest_cpu_create(true);
	return 0;
}

static int setup_delivering(void **state)
{
	*state = guest_cpu_create(false);
	return 0;
}

static int teardown(void **state)
{
	guest_cpu_destroy(*state);
	return 0;
}

static void run_to_halt(struct guest_cpu *g)
{
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_HALT);
}

/* --- code that is mapped elsewhere ---------------------------------------------------------- */

CODE(call_next, "call .+0x1000; hlt")
CODE(give_1, "mov $1, %eax; ret")
CODE(give_2, "mov $2, %eax; ret")

/* Code in the second page is called through the first; frames 1 and 2 hold the alternatives. */
static void load_alternatives(struct guest_cpu *g)
{
	guest_cpu_load(g, CODE_GPA, call_next);
	guest_cpu_load(g, CODE_GPA + 0x1000, give_1);
	guest_cpu_load(g, CODE_GPA + 0x2000, give_2);
}

static uint64_t call(struct guest_cpu *g)
{
	/* Often enough for the code to be cached. */
	for (unsigned n = 0; n < 8; n++) {
		g->cpu->rip = CODE_GPA;
		run_to_halt(g);
	}
	return g->cpu->gpr[RAX];
}

static void map_alternative(struct guest_cpu *g, unsigned n)
{
	g->pt[CODE_PAGE + 1] = (uint64_t)(CODE_PAGE + n) << PAGE_SHIFT | PTE_P | PTE_W | PTE_U;
}

static void test_invlpg_of_code(void **state)
{
	struct guest_cpu *g = *state;

	load_alternatives(g);
	assert_int_equal(call(g), 1);
	map_alternative(g, 2);
	tlb_flush_page(&g->cpu->tlb, CODE_GPA + 0x1000);
	assert_int_equal(call(g), 2);
}

/* The flush of one page of code must not make others immune to theirs. */
static void test_invlpg_of_other_code_first(void **state)
{
	struct guest_cpu *g = *state;

	load_alternatives(g);
	assert_int_equal(call(g), 1);
	tlb_flush_page(&g->cpu->tlb, CODE_GPA);
	assert_int_equal(call(g), 1);
	map_alternative(g, 2);
	tlb_flush_page(&g->cpu->tlb, CODE_GPA + 0x1000);
	assert_int_equal(call(g), 2);
}

/* --- address spaces ------------------------------------------------------------------------- */

#define OTHER_PML4   (TABLES_GPA + 0x10000)
#define OTHER_TABLES (TABLES_GPA + 0x11000)
#define HIGH	     0xffffff8000000000ull

CODE(load, "mov (%rdi), %rax; hlt")

static uint64_t load_at(struct guest_cpu *g, gva_t gva)
{
	g->cpu->rip = CODE_GPA;
	g->cpu->gpr[RDI] = gva;
	run_to_halt(g);
	return g->cpu->gpr[RAX];
}

/* Maps HIGH to a page by tables of its own under a PML4. */
static void map_high(struct guest_cpu *g, gpa_t pml4, gpa_t tables, gpa_t page)
{
	uint64_t *top = (uint64_t *)(g->ram + pml4), *t = (uint64_t *)(g->ram + tables);

	top[511] = tables | PTE_P | PTE_W;
	t[0] = (tables + 0x1000) | PTE_P | PTE_W;
	t[512] = (tables + 0x2000) | PTE_P | PTE_W;
	t[1024] = page | PTE_P | PTE_W;
}

/* The upper half of an address space stays its own, also where no page is global. */
static void test_pcid_without_global_pages(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;
	uint64_t *t = (uint64_t *)(g->ram + TABLES_GPA), *other;

	guest_cpu_load(g, CODE_GPA, load);
	other = (uint64_t *)(g->ram + OTHER_PML4);
	other[0] = t[0];
	map_high(g, TABLES_GPA, OTHER_TABLES, DATA_GPA);
	map_high(g, OTHER_PML4, OTHER_TABLES + 0x4000, DATA_GPA + 0x1000);
	g->ram[DATA_GPA] = 1;
	g->ram[DATA_GPA + 0x1000] = 2;
	sys_write_cr(c, 4, (c->cr4 & ~(uint64_t)CR4_PGE) | CR4_PCIDE);
	assert_int_equal(load_at(g, HIGH), 1);
	sys_write_cr(c, 3, OTHER_PML4 | 1 | CR3_NOFLUSH);
	assert_int_equal(load_at(g, HIGH), 2);
	sys_write_cr(c, 3, TABLES_GPA | CR3_NOFLUSH);
	assert_int_equal(load_at(g, HIGH), 1);
}

static void test_cr3_without_global_pages(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	guest_cpu_load(g, CODE_GPA, load);
	sys_write_cr(c, 4, c->cr4 & ~(uint64_t)CR4_PGE);
	map_high(g, TABLES_GPA, OTHER_TABLES, DATA_GPA | PTE_G);
	g->ram[DATA_GPA] = 1;
	g->ram[DATA_GPA + 0x1000] = 2;
	assert_int_equal(load_at(g, HIGH), 1);
	map_high(g, TABLES_GPA, OTHER_TABLES, (DATA_GPA + 0x1000) | PTE_G);
	sys_write_cr(c, 3, TABLES_GPA);
	assert_int_equal(load_at(g, HIGH), 2);
}

/* --- stores that need bookkeeping ----------------------------------------------------------- */

CODE(locked_add, "lock addq $1, 0x800(%rdi); hlt")

/*
 * A locked operation on a frame that holds code: between the store and the bookkeeping the tables
 * may change, so they must not be walked again.
 */
static void test_locked_on_code(void **state)
{
	struct guest_cpu *g = *state;
	uint64_t walks;

	load_alternatives(g);
	assert_int_equal(call(g), 1);
	guest_cpu_load(g, CODE_GPA + 0x3000, locked_add);
	g->cpu->gpr[RDI] = CODE_GPA + 0x1000;
	for (unsigned n = 0; n < 2; n++) {
		assert_int_equal(call(g), 1);
		tlb_flush_all(&g->cpu->tlb);
		g->cpu->rip = CODE_GPA + 0x3000;
		walks = g->stats.walks;
		run_to_halt(g);
		/* One for the code of the instruction, one for its operand. */
		assert_int_equal(g->stats.walks - walks, 2);
		assert_int_equal(g->ram[CODE_GPA + 0x1800], n + 1);
		assert_int_equal(g->stats.code_writes, n + 1);
	}
}

/* --- faults --------------------------------------------------------------------------------- */

CODE(bad_int, "nop; nop; int $0x80; hlt")

/* An INT whose gate does not exist is not counted, what came before it is. */
static void test_fault_of_int(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, bad_int);
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_EXCEPTION);
	assert_int_equal(g->cpu->exc.vector, EXC_GP);
	assert_int_equal(g->cpu->exc.error, 0x80 * 8 + 2);
	assert_int_equal(g->cpu->rip, CODE_GPA + 2);
	assert_int_equal(g->stats.instructions, 2);
}

#define TSS_GPA	 0x8000u
#define IST_TOP	 0x31000u
#define HANDLER	 (CODE_GPA + 0x4000)
#define NO_STACK 0x40002000ull

CODE(bad_load, "mov 0x40000000, %rax; hlt")
CODE(just_halt, "hlt")

static void set_gate(struct guest_cpu *g, unsigned vector, unsigned ist)
{
	uint64_t *gate = (uint64_t *)(g->ram + IDT_GPA + 16 * vector);

	gate[0] = (HANDLER & 0xffff) | 8u << 16 | (uint64_t)ist << 32 | 0x8e00ull << 32 |
		  (uint64_t)(HANDLER >> 16) << 48;
	gate[1] = 0;
}

/* The stack of a page fault's handler is missing, too: CR2 tells of the stack. */
static void test_double_page_fault(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;
	uint64_t *gdt = (uint64_t *)(g->ram + GDT_GPA), ist = IST_TOP;

	gdt[1] = 0x00209a0000000000ull;
	c->gdtr = (struct dtable){.base = GDT_GPA, .limit = 0x1f};
	c->idtr.limit = 0xfff;
	set_gate(g, EXC_PF, 0);
	set_gate(g, EXC_DF, 1);
	c->seg[SEG_TR] =
		(struct seg){.sel = 16, .base = TSS_GPA, .limit = 0x67, .attr = SEG_P | 0xb};
	memcpy(g->ram + TSS_GPA + 0x24, &ist, 8);
	guest_cpu_load(g, CODE_GPA, bad_load);
	guest_cpu_load(g, HANDLER, just_halt);
	c->gpr[RSP] = NO_STACK;
	run_to_halt(g);
	assert_int_equal(c->rip, HANDLER + 1);
	assert_int_equal(c->gpr[RSP], IST_TOP - 48);
	assert_int_equal(c->cr2, NO_STACK - 8);
}

#define CODE32_SEL 0x0bu /* entry 1, privilege level 3 */

CODE(misaligned, ".code32\npush %eax; hlt")

/*
 * The handler of #AC runs at level 3 on a stack that is misaligned: its delivery raises the next
 * #AC, for ever. The processor must still be stopped, and give up its time slice.
 */
static void test_endless_exceptions(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;
	uint64_t *gdt = (uint64_t *)(g->ram + GDT_GPA), *idt = (uint64_t *)(g->ram + IDT_GPA);

	cpu_reset(c, true);
	gdt[1] = 0x00cffb000000ffffull;
	idt[EXC_AC] = CODE_GPA % 0x10000 | CODE32_SEL << 16 | 0xee00ull << 32 |
		      (uint64_t)(CODE_GPA >> 16) << 48;
	c->gdtr = (struct dtable){.base = GDT_GPA, .limit = 0xf};
	c->idtr = (struct dtable){.base = IDT_GPA, .limit = 0xff};
	c->cr0 |= CR0_PE | CR0_AM;
	c->rflags = FLAG_AC;
	c->cpl = 3;
	for (unsigned s = SEG_ES; s <= SEG_GS; s++)
		c->seg[s] = (struct seg){.limit = ~0u,
					 .attr = SEG_P | SEG_S | SEG_RW | SEG_A | SEG_DB | SEG_DPL |
						 (s == SEG_CS ? SEG_CODE : 0)};
	c->rip = CODE_GPA;
	c->gpr[RSP] = STACK_TOP - 2;
	cpu_update_ctx(c);
	guest_cpu_load(g, CODE_GPA, misaligned);
	alarm(20);
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_BUDGET);
	assert_int_equal(c->exc.vector, EXC_AC);
	g->requests = 1;
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_BUDGET);
	alarm(0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_invlpg_of_code),
		TEST(test_invlpg_of_other_code_first),
		TEST(test_pcid_without_global_pages),
		TEST(test_cr3_without_global_pages),
		TEST(test_locked_on_code),
		TEST(test_fault_of_int),
		cmocka_unit_test_setup_teardown(test_double_page_fault, setup_delivering, teardown),
		cmocka_unit_test_setup_teardown(test_endless_exceptions, setup_delivering,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
