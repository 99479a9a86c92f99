/* The interpreter's run loop: counts, faults in the middle of blocks, code that changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "src/x86/seg.h"
#include "tests/unit/guest_cpu.h"

#define MAX_INSNS 100000

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

static void expect_fault(struct guest_cpu *g, uint8_t vector, uint32_t error, uint64_t off)
{
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_EXCEPTION);
	assert_int_equal(g->cpu->exc.vector, vector);
	assert_int_equal(g->cpu->exc.error, error);
	assert_int_equal(g->cpu->rip, CODE_GPA + off);
}

/* --- flags and results --------------------------------------------------------------------- */

CODE(flags, "mov $0x7fffffff, %eax; add $1, %eax; pushfq; pop %rbx\n" /* OF SF AF PF */
	    "xor %ecx, %ecx; stc; inc %ecx; pushfq; pop %rdx\n"	      /* INC keeps CF */
	    "mov $0x80, %sil; add %sil, %sil; adc $0, %edi; pushfq; pop %r8\n"
	    "shl $1, %eax; setc %r9b; bt $3, %rbx; hlt")

static void test_flags(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	guest_cpu_load(g, CODE_GPA, flags);
	run_to_halt(g);
	assert_int_equal(c->gpr[RAX], 0);
	assert_int_equal(c->gpr[RBX] & FLAGS_ARITH, FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF);
	assert_int_equal(c->gpr[RDX] & FLAGS_ARITH, FLAG_CF);
	assert_int_equal(c->gpr[RDI], 1);
	assert_int_equal(c->gpr[R8] & FLAGS_ARITH, 0);
	assert_int_equal(c->gpr[R9] & 0xff, 1);
	assert_int_equal(flags_get(c) & FLAG_CF, 0);
	assert_int_equal(flags_get(c) & ~(uint64_t)FLAGS_ARITH, FLAG_ONE);
	assert_int_equal(c->rip, CODE_GPA + (flags_end - flags_code));
}

/* --- counting ------------------------------------------------------------------------------ */

/* Blocks of different length, a vector instruction (two slots) and a loop: 2 + 5 * 7 + 1. */
CODE(count, "xor %eax, %eax; mov $5, %ecx\n"
	    "1: inc %rax; movq %rax, %xmm0; nop; jmp 2f; 2: movq %xmm0, %rdx; dec %ecx; jnz 1b\n"
	    "hlt")
#define COUNT_TOTAL (2 + 5 * 7 + 1)

static void count_setup(struct guest_cpu *g)
{
	g->cpu->rip = CODE_GPA;
	g->cpu->cr4 |= CR4_OSFXSR;
	guest_cpu_load(g, CODE_GPA, count);
	g->stats.instructions = 0;
}

/* Stopping after every possible number of instructions gives the states of single-stepping. */
static void test_exact_stops(void **state)
{
	struct guest_cpu *g = *state;
	uint64_t rip[COUNT_TOTAL + 1], rax[COUNT_TOTAL + 1];

	count_setup(g);
	for (unsigned n = 0; n < COUNT_TOTAL; n++) {
		rip[n] = g->cpu->rip;
		rax[n] = g->cpu->gpr[RAX];
		assert_int_equal(guest_cpu_run(g, 1, true),
				 n + 1 < COUNT_TOTAL ? INTERP_BUDGET : INTERP_HALT);
		assert_int_equal(g->stats.instructions, n + 1);
	}
	for (unsigned n = 1; n < COUNT_TOTAL; n++) {
		count_setup(g);
		assert_int_equal(guest_cpu_run(g, n, true), INTERP_BUDGET);
		assert_int_equal(g->stats.instructions, n);
		assert_int_equal(g->cpu->rip, rip[n]);
		if (n > 1)
			assert_int_equal(g->cpu->gpr[RAX], rax[n]);
	}
	count_setup(g);
	run_to_halt(g);
	assert_int_equal(g->stats.instructions, COUNT_TOTAL);
	assert_int_equal(g->cpu->gpr[RDX], 5);
}

CODE(spin, "1: inc %rax; jmp 1b")

static void test_budget_and_requests(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, spin);
	assert_int_equal(guest_cpu_run(g, 1001, false), INTERP_BUDGET);
	assert_in_range(g->stats.instructions, 1001, 1048);
	assert_int_equal(g->cpu->gpr[RAX], (g->stats.instructions + 1) / 2);
	g->requests = 1;
	assert_int_equal(guest_cpu_run(g, 1000, false), INTERP_REQUEST);
	g->requests = 0;
	assert_int_equal(guest_cpu_run(g, 0, true), INTERP_BUDGET);
}

CODE(rep_stos, "rep stosb; hlt")

static void test_rep_leaves_between_iterations(void **state)
{
	struct guest_cpu *g = *state;
	unsigned left = 200000, turns = 0;

	guest_cpu_load(g, CODE_GPA, rep_stos);
	g->cpu->gpr[RCX] = left;
	g->cpu->gpr[RDI] = DATA_GPA;
	g->cpu->gpr[RAX] = 0xa5;
	while (g->cpu->gpr[RCX]) {
		enum interp_exit e = guest_cpu_run(g, 1, false);

		/* Progress at each chance for an interrupt, in a state to restart from. */
		assert_int_equal(e, g->cpu->gpr[RCX] ? INTERP_BUDGET : INTERP_HALT);
		assert_int_equal(g->cpu->gpr[RDI], DATA_GPA + 200000 - g->cpu->gpr[RCX]);
		assert_true(g->cpu->gpr[RCX] < left);
		left = g->cpu->gpr[RCX];
		turns++;
	}
	assert_true(turns > 10);
	assert_int_equal(g->ram[DATA_GPA + 199999], 0xa5);
	assert_int_equal(g->ram[DATA_GPA + 200000], 0);
}

/* --- faults ---------------------------------------------------------------------------------- */

CODE(fault_load, "mov $1, %eax; mov $2, %ebx; mov (%rdi), %rax; mov $3, %ebx; hlt")

static void test_load_fault(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, fault_load);
	g->cpu->gpr[RDI] = 0x40123456;
	expect_fault(g, EXC_PF, 0, 10);
	assert_int_equal(g->cpu->exc.cr2, 0x40123456);
	assert_int_equal(g->cpu->gpr[RAX], 1);
	assert_int_equal(g->cpu->gpr[RBX], 2);
	/* The instruction that faulted is not counted, nor those behind it. */
	assert_int_equal(g->stats.instructions, 2);
}

CODE(fault_gp, "inc %eax; mov (%rdi), %rbx; hlt")

static void test_non_canonical(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, fault_gp);
	g->cpu->gpr[RDI] = 1ull << 47;
	expect_fault(g, EXC_GP, 0, 2);
}

CODE(fault_stack, "inc %eax; mov (%rsp), %rbx; hlt")

/* By the stack it is #SS. */
static void test_non_canonical_stack(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, fault_stack);
	g->cpu->gpr[RSP] = 1ull << 47;
	expect_fault(g, EXC_SS, 0, 2);
}

CODE(fault_push, "nop; push %rax; hlt")

static void test_non_canonical_push(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, fault_push);
	g->cpu->gpr[RSP] = (1ull << 47) + 0x1000;
	expect_fault(g, EXC_SS, 0, 1);
	assert_int_equal(g->cpu->gpr[RSP], (1ull << 47) + 0x1000);
}

CODE(fault_cross, "nop; movq $-1, (%rdi); hlt")

static void test_crossing_store_is_all_or_nothing(void **state)
{
	struct guest_cpu *g = *state;
	unsigned page = DATA_GPA >> PAGE_SHIFT;

	guest_cpu_load(g, CODE_GPA, fault_cross);
	g->pt[page + 1] &= ~PTE_W;
	g->cpu->gpr[RDI] = DATA_GPA + PAGE_SIZE - 3;
	expect_fault(g, EXC_PF, PFEC_P | PFEC_W, 1);
	assert_int_equal(g->cpu->exc.cr2, DATA_GPA + PAGE_SIZE);
	assert_int_equal(g->ram[DATA_GPA + PAGE_SIZE - 1], 0);
	/* The first page's fault comes first. */
	g->cpu->exc_pending = false;
	g->cpu->event = 0;
	g->pt[page] &= ~PTE_W;
	tlb_flush_all(&g->cpu->tlb);
	expect_fault(g, EXC_PF, PFEC_P | PFEC_W, 1);
	assert_int_equal(g->cpu->exc.cr2, DATA_GPA + PAGE_SIZE - 3);
}

CODE(fault_div, "xor %edx, %edx; mov $7, %eax; xor %ecx, %ecx; div %ecx; hlt")
CODE(fault_ud, "nop; nop; ud2")

static void test_other_faults(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, fault_div);
	expect_fault(g, EXC_DE, 0, 9);
	assert_int_equal(g->cpu->gpr[RAX], 7);
	g->cpu->exc_pending = false;
	g->cpu->event = 0;
	g->cpu->rip = CODE_GPA + 0x1000;
	guest_cpu_load(g, CODE_GPA + 0x1000, fault_ud);
	expect_fault(g, EXC_UD, 0, 0x1002);
}

CODE(long_insn, ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66\n"
		".byte 0x90; hlt")
CODE(too_long, ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66\n"
	       ".byte 0x66,0x90; hlt")

static void test_instruction_length_limit(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, long_insn);
	run_to_halt(g);
	guest_cpu_load(g, CODE_GPA + 0x1000, too_long);
	g->cpu->rip = CODE_GPA + 0x1000;
	expect_fault(g, EXC_GP, 0, 0x1000);
}

/* mov $0x11223344, %eax, of which the last two bytes lie in the next page. */
CODE(crossing, "mov $0x11223344, %eax; hlt")

static void test_fetch_faults(void **state)
{
	struct guest_cpu *g = *state;
	unsigned at = PAGE_SIZE - 3, next = (CODE_GPA >> PAGE_SHIFT) + 1;

	guest_cpu_load(g, CODE_GPA + at - 1, crossing);
	memmove(g->ram + CODE_GPA + at, g->ram + CODE_GPA + at - 1, 6);
	g->ram[CODE_GPA + at - 1] = 0x90;
	g->cpu->rip = CODE_GPA + at - 1;
	g->pt[next] = 0;
	/* The fault is the crossing instruction's, at the second page's address. */
	expect_fault(g, EXC_PF, PFEC_I, at);
	assert_int_equal(g->cpu->exc.cr2, CODE_GPA + PAGE_SIZE);
	assert_int_equal(g->stats.instructions, 1);
	g->cpu->exc_pending = false;
	g->cpu->event = 0;
	g->pt[next] = (uint64_t)next << PAGE_SHIFT | PTE_P;
	run_to_halt(g);
	assert_int_equal(g->cpu->gpr[RAX], 0x11223344);
	/* Execution that merely runs up to the end of its page does not touch the next one. */
	g->pt[next] = 0;
	tlb_flush_all(&g->cpu->tlb);
	g->ram[CODE_GPA + PAGE_SIZE - 1] = 0xf4;
	g->cpu->rip = CODE_GPA + PAGE_SIZE - 1;
	run_to_halt(g);
}

CODE(jump_out, "mov $0x40000000, %eax; jmp *%rax")

static void test_jump_to_nowhere(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, jump_out);
	expect_fault(g, EXC_PF, PFEC_I, 0x40000000 - CODE_GPA);
	assert_int_equal(g->cpu->exc.cr2, 0x40000000);
	assert_int_equal(g->stats.instructions, 2);
}

CODE(triple, "ud2")

static void test_triple_fault(void **state)
{
	struct guest_cpu *g = *state;

	/* The IDT has no room for any gate: #UD, #GP, #DF, shutdown. */
	guest_cpu_load(g, CODE_GPA, triple);
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_SHUTDOWN);
	assert_int_equal(g->cpu->rip, CODE_GPA);
}

/* --- code that changes ------------------------------------------------------------------------ */

/* The store patches the immediate of the instruction behind it, in the same block. */
CODE(smc, "mov %ecx, 1f-4(%rip); mov $0, %eax; 1: add %eax, %edx; dec %ecx; hlt")

static void test_patch_ahead_in_block(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, smc);
	/* Often enough for the frame to be protected, cached, written and protected again. */
	for (unsigned n = 1; n < 200; n++) {
		g->cpu->rip = CODE_GPA;
		g->cpu->gpr[RCX] = n;
		g->cpu->gpr[RDX] = 0;
		run_to_halt(g);
		assert_int_equal(g->cpu->gpr[RDX], n);
	}
}

CODE(smc_target, "mov $0, %eax; ret")
CODE(smc_call, "1: call *%rsi; add %eax, %edx; mov %ecx, (%rdi); dec %ecx; jnz 1b; hlt")

/* A function in another page, patched through another address of it. */
static void test_patch_by_alias(void **state)
{
	struct guest_cpu *g = *state;
	unsigned alias = 0x1f0;

	guest_cpu_load(g, CODE_GPA, smc_call);
	guest_cpu_load(g, CODE_GPA + 0x1000, smc_target);
	g->pt[alias] = (CODE_GPA + 0x1000) | PTE_P | PTE_W;
	g->cpu->gpr[RSI] = CODE_GPA + 0x1000;
	g->cpu->gpr[RDI] = (uint64_t)alias * PAGE_SIZE + 1;
	g->cpu->gpr[RCX] = 100;
	g->cpu->gpr[RDX] = 0;
	run_to_halt(g);
	/* Each call returns what the turn before it wrote: 0, 100, 99 ... 2. */
	assert_int_equal(g->cpu->gpr[RDX], 100 * 101 / 2 - 1);
	assert_true(g->stats.code_writes > 0);
}

CODE(smc_rep, "mov $0x90, %al; mov $6, %ecx; lea 1f(%rip), %rdi; rep stosb\n"
	      "1: inc %edx; inc %edx; inc %edx; hlt")

static void test_rep_store_over_own_block(void **state)
{
	struct guest_cpu *g = *state;

	for (unsigned n = 0; n < 20; n++) {
		guest_cpu_load(g, CODE_GPA, smc_rep);
		gmem_wrote(&g->gm, CODE_GPA, PAGE_SIZE);
		g->cpu->rip = CODE_GPA;
		g->cpu->gpr[RDX] = 0;
		run_to_halt(g);
		assert_int_equal(g->cpu->gpr[RDX], 0);
	}
}

CODE(smc_xchg, "xchg %al, 1f+1(%rip); 1: inc %edx; hlt")

static void test_locked_store_over_own_block(void **state)
{
	struct guest_cpu *g = *state;

	for (unsigned n = 0; n < 20; n++) {
		guest_cpu_load(g, CODE_GPA, smc_xchg);
		gmem_wrote(&g->gm, CODE_GPA, PAGE_SIZE);
		g->cpu->rip = CODE_GPA;
		g->cpu->gpr[RAX] = 0xc3; /* inc %ebx */
		g->cpu->gpr[RBX] = g->cpu->gpr[RDX] = 0;
		run_to_halt(g);
		assert_int_equal(g->cpu->gpr[RDX], 0);
		assert_int_equal(g->cpu->gpr[RBX], 1);
	}
}

CODE(smc_push, "push %rax; inc %edx; nop; nop; nop; nop; nop; nop; hlt")

/* A push into the running block. */
static void test_push_over_own_block(void **state)
{
	struct guest_cpu *g = *state;

	for (unsigned n = 0; n < 20; n++) {
		guest_cpu_load(g, CODE_GPA, smc_push);
		gmem_wrote(&g->gm, CODE_GPA, PAGE_SIZE);
		g->cpu->rip = CODE_GPA;
		g->cpu->gpr[RSP] = CODE_GPA + 9;
		g->cpu->gpr[RAX] = 0x90909090c3ff9090; /* nop; nop; inc %ebx; nop ... */
		g->cpu->gpr[RBX] = g->cpu->gpr[RDX] = 0;
		run_to_halt(g);
		assert_int_equal(g->cpu->gpr[RDX], 0);
		assert_int_equal(g->cpu->gpr[RBX], 1);
	}
}

CODE(ret_1, "mov $1, %eax; hlt")
CODE(ret_2, "mov $2, %eax; hlt")

static void test_device_write_to_code(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, ret_1);
	for (unsigned n = 0; n < 10; n++) {
		g->cpu->rip = CODE_GPA;
		run_to_halt(g);
		assert_int_equal(g->cpu->gpr[RAX], 1);
	}
	assert_int_equal(code_word_state(gmem_code_word(&g->gm, CODE_GPA >> PAGE_SHIFT)),
			 CODE_STABLE);
	assert_int_equal(gmem_write(&g->gm, CODE_GPA, ret_2_code, ret_2_end - ret_2_code), 0);
	g->cpu->rip = CODE_GPA;
	run_to_halt(g);
	assert_int_equal(g->cpu->gpr[RAX], 2);
	assert_true(g->stats.blocks_dropped > 0);
}

static void test_crossing_instruction_changes(void **state)
{
	struct guest_cpu *g = *state;
	unsigned at = CODE_GPA + PAGE_SIZE - 3;

	guest_cpu_load(g, at, crossing);
	for (unsigned n = 0; n < 20; n++) {
		uint8_t v = n;

		/* The immediate's highest byte, in the second page. */
		assert_int_equal(gmem_write(&g->gm, at + 4, &v, 1), 0);
		g->cpu->rip = at;
		run_to_halt(g);
		assert_int_equal(g->cpu->gpr[RAX], 0x223344 | n << 24);
	}
}

static void test_cached_code_is_not_decoded_again(void **state)
{
	struct guest_cpu *g = *state;
	uint64_t decoded;

	guest_cpu_load(g, CODE_GPA, spin);
	guest_cpu_run(g, 1000, false);
	decoded = g->stats.blocks_decoded;
	guest_cpu_run(g, 100000, false);
	assert_int_equal(g->stats.blocks_decoded, decoded);
}

/* A remapped page: the same address is other code after INVLPG or a CR3 write. */
CODE(remap, "call *%rsi; add %eax, %edx; mov %rcx, (%rdi); invlpg (%rsi); call *%rsi\n"
	    "add %eax, %edx; hlt")
CODE(remap_cr3, "call *%rsi; add %eax, %edx; mov %rcx, (%rdi); mov %cr3, %rax; mov %rax, %cr3\n"
		"call *%rsi; add %eax, %edx; hlt")
CODE(fn_10, "mov $10, %eax; ret")
CODE(fn_200, "mov $200, %eax; ret")

static void remap_case(struct guest_cpu *g)
{
	unsigned fn = 0x1e0;

	guest_cpu_load(g, DATA_GPA, fn_10);
	guest_cpu_load(g, DATA_GPA + 0x1000, fn_200);
	for (unsigned n = 0; n < 20; n++) {
		g->pt[fn] = DATA_GPA | PTE_P | PTE_W;
		tlb_flush_page(&g->cpu->tlb, fn * PAGE_SIZE);
		g->cpu->rip = CODE_GPA;
		g->cpu->gpr[RSP] = STACK_TOP;
		g->cpu->gpr[RSI] = fn * PAGE_SIZE;
		g->cpu->gpr[RDI] = TABLES_GPA + 0x3000 + fn * 8;
		g->cpu->gpr[RCX] = (DATA_GPA + 0x1000) | PTE_P | PTE_W;
		g->cpu->gpr[RDX] = 0;
		run_to_halt(g);
		assert_int_equal(g->cpu->gpr[RDX], 210);
	}
}

static void test_remapped_code(void **state)
{
	struct guest_cpu *g = *state;

	guest_cpu_load(g, CODE_GPA, remap);
	remap_case(g);
	guest_cpu_load(g, CODE_GPA, remap_cr3);
	gmem_wrote(&g->gm, CODE_GPA, PAGE_SIZE);
	remap_case(g);
}

/* --- real mode -------------------------------------------------------------------------------- */

CODE(real_a, ".code16; mov $0x1111, %ax; ljmp $0x2000, $0")
CODE(real_b, ".code16; mov $0x2222, %bx; hlt")

/* The same offset in two code segments is different code. */
static void test_code_segment_base(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	cpu_reset(c, true);
	guest_cpu_load(g, 0x10000, real_a);
	guest_cpu_load(g, 0x20000, real_b);
	for (unsigned n = 0; n < 10; n++) {
		struct seg cs = {.sel = 0x1000, .base = 0x10000, .limit = 0xffff};

		cs.attr = c->seg[SEG_CS].attr;
		cpu_set_cs(c, cs);
		c->rip = 0;
		c->gpr[RAX] = c->gpr[RBX] = 0;
		run_to_halt(g);
		assert_int_equal(c->gpr[RAX], 0x1111);
		assert_int_equal(c->gpr[RBX], 0x2222);
		assert_int_equal(c->seg[SEG_CS].base, 0x20000);
	}
}

CODE(limit, ".code16; inc %ax; inc %bx; mov $0x1234, %cx; hlt")

static void test_code_segment_limit(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	/* INC, INC, and a MOV of three bytes whose last lies at offset 4, then HLT. */
	cpu_reset(c, true);
	guest_cpu_load(g, CODE_GPA, limit);
	c->seg[SEG_CS].sel = CODE_GPA >> 4;
	c->seg[SEG_CS].base = CODE_GPA;
	for (unsigned n = 0; n < 6; n++) {
		c->seg[SEG_CS].limit = n < 3 ? 3 : n < 5 ? 4 : 5;
		c->rip = 0;
		c->gpr[RAX] = c->gpr[RCX] = 0;
		c->exc_pending = false;
		c->event = 0;
		if (n == 5) {
			run_to_halt(g);
		} else {
			assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_EXCEPTION);
			assert_int_equal(c->exc.vector, EXC_GP);
			assert_int_equal(c->rip, n < 3 ? 2 : 5);
		}
		assert_int_equal(c->gpr[RAX], 1);
		assert_int_equal(c->gpr[RCX], n < 3 ? 0 : 0x1234);
	}
}

CODE(real_push, ".code16; push %ax; pushl %eax; pop %bx; hlt")

static void test_real_mode_stack_wraps(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	cpu_reset(c, true);
	guest_cpu_load(g, 0x10000, real_push);
	c->seg[SEG_CS].sel = 0x1000;
	c->seg[SEG_CS].base = 0x10000;
	c->seg[SEG_SS].sel = 0x3000;
	c->seg[SEG_SS].base = 0x30000;
	c->rip = 0;
	c->gpr[RAX] = 0x12345678;
	c->gpr[RSP] = 0xabcd0000; /* SP is 0: the push wraps to 0xfffe */
	run_to_halt(g);
	assert_int_equal(c->gpr[RSP], 0xabcdfffc);
	assert_int_equal(c->gpr[RBX], 0x5678);
	assert_int_equal(*(uint16_t *)(g->ram + 0x3fffe), 0x5678);
	assert_int_equal(*(uint32_t *)(g->ram + 0x3fffa), 0x12345678);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_flags, setup, teardown),
		cmocka_unit_test_setup_teardown(test_exact_stops, setup, teardown),
		cmocka_unit_test_setup_teardown(test_budget_and_requests, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rep_leaves_between_iterations, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_load_fault, setup, teardown),
		cmocka_unit_test_setup_teardown(test_non_canonical, setup, teardown),
		cmocka_unit_test_setup_teardown(test_non_canonical_stack, setup, teardown),
		cmocka_unit_test_setup_teardown(test_non_canonical_push, setup, teardown),
		cmocka_unit_test_setup_teardown(test_crossing_store_is_all_or_nothing, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_other_faults, setup, teardown),
		cmocka_unit_test_setup_teardown(test_instruction_length_limit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fetch_faults, setup, teardown),
		cmocka_unit_test_setup_teardown(test_jump_to_nowhere, setup, teardown),
		cmocka_unit_test_setup_teardown(test_triple_fault, setup_delivering, teardown),
		cmocka_unit_test_setup_teardown(test_patch_ahead_in_block, setup, teardown),
		cmocka_unit_test_setup_teardown(test_patch_by_alias, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rep_store_over_own_block, setup, teardown),
		cmocka_unit_test_setup_teardown(test_locked_store_over_own_block, setup, teardown),
		cmocka_unit_test_setup_teardown(test_push_over_own_block, setup, teardown),
		cmocka_unit_test_setup_teardown(test_device_write_to_code, setup, teardown),
		cmocka_unit_test_setup_teardown(test_crossing_instruction_changes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cached_code_is_not_decoded_again, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_remapped_code, setup, teardown),
		cmocka_unit_test_setup_teardown(test_code_segment_base, setup, teardown),
		cmocka_unit_test_setup_teardown(test_code_segment_limit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_real_mode_stack_wraps, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
