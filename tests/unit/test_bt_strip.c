/* Loops whose checks are made once for many rounds: every page boundary and every fault is seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "src/x86/mem.h"
#include "tests/unit/guest_cpu.h"

#define MAX_INSNS 1000000
#define FROM	  0x40000u /* sixteen pages each, neighbours of which are none in memory */
#define TO	  0x50000u
#define PAGES	  16u
#define SIZE	  (PAGES << PAGE_SHIFT)
#define ROUNDS	  1500u

static gpa_t where(gva_t gva)
{
	gva_t region = gva < TO ? FROM : TO, page = gva >> PAGE_SHIFT & (PAGES - 1);

	return region + (page * 5 % PAGES << PAGE_SHIFT) + (gva & ~PAGE_MASK);
}

static void map_page(struct guest_cpu *g, gva_t gva, bool present, bool writable)
{
	g->pt[gva >> PAGE_SHIFT] =
		where(gva & PAGE_MASK) | (present ? PTE_P : 0) | (writable ? PTE_W : 0);
	tlb_flush_page(&g->cpu->tlb, gva);
}

static int setup(void **state)
{
	struct guest_cpu *g = guest_cpu_create(true);

	guest_cpu_translate(g, false);
	/* Supervisor pages and SMAP, or data might lie in either half of addresses. */
	for (unsigned n = 0; n < 512; n++)
		g->pt[n] &= ~PTE_U;
	g->cpu->cr4 |= CR4_SMAP;
	tlb_flush_all(&g->cpu->tlb);
	cpu_update_ctx(g->cpu);
	for (gva_t gva = FROM; gva < TO + SIZE; gva += PAGE_SIZE)
		map_page(g, gva, true, true);
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	guest_cpu_destroy(*state);
	return 0;
}

static void fill_regions(struct guest_cpu *g)
{
	for (gva_t gva = FROM; gva < FROM + SIZE; gva++)
		g->ram[where(gva)] = gva * 37 + (gva >> 8);
	memset(g->ram + TO, 0, SIZE);
}

static uint64_t load(struct guest_cpu *g, gva_t gva)
{
	uint64_t v = 0;

	for (unsigned n = 0; n < 8; n++)
		v |= (uint64_t)g->ram[where(gva + n)] << 8 * n;
	return v;
}

/* Loads go up and stores go down, by distances that are no powers of two. */
CODE(copy,
     "1: mov (%rsi), %rax; mov %rax, (%rdi); add $24, %rsi; sub $40, %rdi; sub $1, %ecx; jnz 1b\n"
     "ud2")

#define NAMED_BY_COPY (1u << RAX | 1u << RSI | 1u << RDI | 1u << RCX)

/* Registers that the code does not name. */
static void mark_others(struct guest_cpu *g, uint32_t named)
{
	for (unsigned r = 0; r < 16; r++)
		if (r != RSP && !(named >> r & 1))
			g->cpu->gpr[r] = 0x1122334455667788ull * (r + 3);
}

static void check_others(struct guest_cpu *g, uint32_t named)
{
	for (unsigned r = 0; r < 16; r++)
		if (r != RSP && !(named >> r & 1))
			assert_int_equal(g->cpu->gpr[r], 0x1122334455667788ull * (r + 3));
}

static void run_copy(struct guest_cpu *g, gva_t from, gva_t to)
{
	struct cpu *c = g->cpu;

	fill_regions(g);
	mark_others(g, NAMED_BY_COPY);
	c->gpr[RSI] = from;
	c->gpr[RDI] = to;
	c->gpr[RCX] = ROUNDS;
	assert_int_equal(guest_cpu_run_at(g, CODE_GPA, MAX_INSNS), INTERP_EXCEPTION);
}

static void check_copied(struct guest_cpu *g, gva_t from, gva_t to, unsigned rounds)
{
	for (unsigned n = 0; n < rounds; n++)
		assert_int_equal(load(g, to - 40ull * n), load(g, from + 24ull * n));
	assert_int_equal(g->cpu->gpr[RSI], from + 24ull * rounds);
	assert_int_equal(g->cpu->gpr[RDI], to - 40ull * rounds);
	assert_int_equal(g->cpu->gpr[RCX], ROUNDS - rounds);
	check_others(g, NAMED_BY_COPY);
}

static void test_pages(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, copy);
	/* Some accesses of the second and third cross pages. */
	for (unsigned off = 0; off < 8; off += 3) {
		gva_t from = FROM + off, to = TO + SIZE - 64 - off;

		for (unsigned n = 0; n < 3; n++) {
			run_copy(g, from, to);
			assert_int_equal(g->cpu->exc.vector, EXC_UD);
			check_copied(g, from, to, ROUNDS);
		}
	}
}

/* A page that is missing, or must not be stored to, stops the loop at the very access. */
static void test_faults(void **state)
{
	struct guest_cpu *g = *state;
	gva_t from = FROM + 8, to = TO + SIZE - 64;
	unsigned loads = (FROM + 0x4000 - from + 23) / 24, stores = (to - TO - 0x8000) / 40 + 1;

	guest_cpu_load(g, CODE_GPA, copy);
	run_copy(g, from, to);
	for (unsigned n = 0; n < 3; n++) {
		map_page(g, FROM + 0x4000, false, true);
		run_copy(g, from, to);
		assert_int_equal(g->cpu->exc.vector, EXC_PF);
		assert_int_equal(g->cpu->exc.cr2, from + 24ull * loads);
		assert_int_equal(g->cpu->rip, CODE_GPA);
		check_copied(g, from, to, loads);
		map_page(g, FROM + 0x4000, true, true);
		map_page(g, TO + 0x7000, true, false);
		run_copy(g, from, to);
		assert_int_equal(g->cpu->exc.vector, EXC_PF);
		assert_int_equal(g->cpu->exc.cr2, to - 40ull * stores);
		assert_int_equal(g->cpu->rip, CODE_GPA + 3);
		check_copied(g, from, to, stores);
		map_page(g, TO + 0x7000, true, true);
	}
}

/* A fault of an instruction that accesses nothing. */
CODE(divides, "1: mov (%rsi), %ebx; mov %ecx, %eax; xor %edx, %edx; div %ebx; add $4, %rsi\n"
	      "sub $1, %ecx; jnz 1b; ud2")

static void test_divide(void **state)
{
	const uint32_t named = 1u << RAX | 1u << RBX | 1u << RCX | 1u << RDX | 1u << RSI;
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	guest_cpu_load(g, CODE_GPA, divides);
	for (unsigned n = 0; n < 4; n++) {
		gva_t zero = FROM + 4 * (1000 + 77 * n);

		memset(g->ram + FROM, 3, SIZE);
		memset(g->ram + where(zero), 0, 4);
		mark_others(g, named);
		c->gpr[RSI] = FROM;
		c->gpr[RCX] = 2000;
		assert_int_equal(guest_cpu_run_at(g, CODE_GPA, MAX_INSNS), INTERP_EXCEPTION);
		assert_int_equal(c->exc.vector, EXC_DE);
		assert_int_equal(c->gpr[RSI], zero);
		assert_int_equal(c->gpr[RBX], 0);
		assert_int_equal(c->gpr[RAX], c->gpr[RCX]);
		check_others(g, named);
	}
}

/* Rounds of no certain length, and one access by an index that jumps about. */
CODE(gather, "xor %ebx, %ebx; xor %edx, %edx\n"
	     "1: movzbl (%rsi,%rdx), %eax; add (%r8,%rax,8), %rbx; mov %rbx, (%rdi,%rdx,8)\n"
	     "inc %rdx; cmp %rcx, %rdx; jne 1b; ud2")

static void test_indices(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	guest_cpu_load(g, CODE_GPA, gather);
	for (unsigned run = 0; run < 4; run++) {
		gva_t from = FROM + 4000 + run, table = FROM + 0x7ff0 - 256 * run;
		unsigned rounds = 5000 + 700 * run;
		uint64_t sum = 0;

		fill_regions(g);
		c->gpr[RSI] = from;
		c->gpr[R8] = table;
		c->gpr[RDI] = TO + 16;
		c->gpr[RCX] = rounds;
		assert_int_equal(guest_cpu_run_at(g, CODE_GPA, MAX_INSNS), INTERP_EXCEPTION);
		assert_int_equal(c->exc.vector, EXC_UD);
		assert_int_equal(c->gpr[RDX], rounds);
		for (unsigned n = 0; n < rounds; n++) {
			sum += load(g, table + 8ull * g->ram[where(from + n)]);
			assert_int_equal(load(g, TO + 16 + 8ull * n), sum);
		}
		assert_int_equal(c->gpr[RBX], sum);
	}
}

/* A table of 128 elements, in two pages. */
CODE(table, "1: mov (%rsi), %eax; and $0x7f, %eax; add 8(%rdi,%rax,8), %rbx; add $1, %rsi\n"
	    "sub $1, %ecx; jnz 1b; ud2")

static void run_table(struct guest_cpu *g, gva_t from, gva_t table)
{
	struct cpu *c = g->cpu;

	c->gpr[RSI] = from;
	c->gpr[RDI] = table - 8;
	c->gpr[RBX] = 0;
	c->gpr[RCX] = ROUNDS;
	assert_int_equal(guest_cpu_run_at(g, CODE_GPA, MAX_INSNS), INTERP_EXCEPTION);
}

/* Elements may cross the boundary between the pages, and the second page be missing. */
static void test_table(void **state)
{
	const gva_t second = TO + 0x4000, from = FROM + 0x123;
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	guest_cpu_load(g, CODE_GPA, table);
	for (unsigned run = 0; run < 32; run++) {
		gva_t table = second - 8 * 127 + 21 * run;
		uint64_t sum = 0;

		fill_regions(g);
		for (gva_t gva = TO; gva < TO + SIZE; gva++)
			g->ram[where(gva)] = gva * 29 + (gva >> 7);
		for (unsigned n = 0; n < ROUNDS; n++)
			sum += load(g, table + 8 * (load(g, from + n) & 0x7f));
		run_table(g, from, table);
		assert_int_equal(c->exc.vector, EXC_UD);
		assert_int_equal(c->gpr[RBX], sum);

		/* Then only the element that is in it is not found. */
		memset(g->ram + FROM, 1, SIZE);
		g->ram[where(from + 700)] = 127;
		sum = 700 * load(g, table + 8);
		map_page(g, second, false, true);
		run_table(g, from, table);
		assert_int_equal(c->exc.vector, EXC_PF);
		assert_int_equal(c->exc.cr2, table + 8 * 127);
		assert_int_equal(c->gpr[RSI], from + 700);
		assert_int_equal(c->gpr[RBX], sum);
		map_page(g, second, true, true);
	}
}

/* An address that each round finds anew, beside one that moves evenly. */
CODE(chase, "1: mov (%rsi), %rsi; mov %rsi, (%rdi); add $8, %rdi; cmp %rcx, %rdi; jne 1b; ud2")

#define NODES	1000u
#define NODE(n) (FROM + ((n) % NODES * 389 % NODES) * 64)

static void test_chase(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	guest_cpu_load(g, CODE_GPA, chase);
	for (unsigned run = 0; run < 3; run++) {
		fill_regions(g);
		for (unsigned n = 0; n < NODES; n++)
			memcpy(g->ram + where(NODE(n)), &(uint64_t){NODE(n + 1)}, 8);
		c->gpr[RSI] = NODE(0);
		c->gpr[RDI] = TO;
		c->gpr[RCX] = TO + 8 * NODES;
		assert_int_equal(guest_cpu_run_at(g, CODE_GPA, MAX_INSNS), INTERP_EXCEPTION);
		assert_int_equal(c->exc.vector, EXC_UD);
		for (unsigned n = 0; n < NODES; n++)
			assert_int_equal(load(g, TO + 8 * n), NODE(n + 1));
	}
}

/* What is pushed is found where RSP says, which has moved by then. */
CODE(stack,
     "1: mov (%rsi), %rax; push %rax; push %rcx; mov 8(%rsp), %rbx; add %rbx, %rbp\n"
     "lea 16(%rsp), %rdx; xor %rdx, %rdi; sub $8, %rsp; mov 8(%rsp), %rbx; add %rbx, %r8\n"
     "add $8, %rsp; pop %rbx; pop %rax; add %rax, %r9; add $8, %rsi; sub $1, %ecx; jnz 1b; ud2")

static void test_stack(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;
	uint64_t sum = 0;

	guest_cpu_load(g, CODE_GPA, stack);
	fill_regions(g);
	for (unsigned n = 0; n < ROUNDS; n++)
		sum += load(g, FROM + 8 * n);
	for (unsigned run = 0; run < 3; run++) {
		c->gpr[RSI] = FROM;
		c->gpr[RSP] = TO + 0x800;
		c->gpr[RCX] = ROUNDS;
		c->gpr[RBP] = c->gpr[R8] = c->gpr[R9] = 0;
		c->gpr[RDI] = 5;
		assert_int_equal(guest_cpu_run_at(g, CODE_GPA, MAX_INSNS), INTERP_EXCEPTION);
		assert_int_equal(c->exc.vector, EXC_UD);
		assert_int_equal(c->gpr[RSP], TO + 0x800);
		assert_int_equal(c->gpr[RBP], sum);
		assert_int_equal(c->gpr[R9], sum);
		assert_int_equal(c->gpr[R8], (uint64_t)ROUNDS * (ROUNDS + 1) / 2);
		/* The stack pointer before the pushes, an even number of times. */
		assert_int_equal(c->gpr[RDI], 5);
	}
}

/* The loop stores over its own instructions, the next of which is then the new one. */
CODE(overwrite, "1: mov %eax, (%rdi); add $4, %rdi; add $3, %rbx; sub $1, %ecx; jnz 1b; ud2")

static void test_code_in_the_way(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;
	const gva_t code = CODE_GPA + 0x800;

	for (unsigned run = 0; run < 3; run++) {
		guest_cpu_load(g, code, overwrite);
		assert_int_equal(gmem_write(&g->gm, code, overwrite_code, 8), 0);
		c->gpr[RAX] = 0x0b0f0b0f; /* ud2 twice */
		c->gpr[RDI] = code - 4 * 500;
		c->gpr[RBX] = 0;
		c->gpr[RCX] = 10000;
		assert_int_equal(guest_cpu_run_at(g, code, MAX_INSNS), INTERP_EXCEPTION);
		assert_int_equal(c->exc.vector, EXC_UD);
		assert_int_equal(c->rip, code + 2);
		assert_int_equal(c->gpr[RDI], code);
		assert_int_equal(c->gpr[RBX], 3 * 500);
	}
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_pages), TEST(test_faults), TEST(test_divide), TEST(test_indices),
		TEST(test_table), TEST(test_chase),  TEST(test_stack),	TEST(test_code_in_the_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
