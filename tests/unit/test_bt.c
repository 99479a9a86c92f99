/* The translator where it differs in kind from the interpreter: leaving compiled code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "src/engine/bt/bt_int.h"
#include "src/x86/mem.h"
#include "tests/unit/guest_cpu.h"

#define MAX_INSNS 100000

static int setup(void **state)
{
	struct guest_cpu *g = guest_cpu_create(true);

	guest_cpu_translate(g, false);
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

/* Returns to addresses that could be taken for the base of what is kept of calls. */
CODE(return_far, "push %rax; inc %ebx; ret")

static void test_return_to_nowhere(void **state)
{
	static const uint64_t nowhere[] = {1ull << 63, 1ull << 63 | 1, ~(1ull << 63), 0};
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	guest_cpu_load(g, CODE_GPA, return_far);
	/* Whatever is at 0 shall not run. */
	g->pt[0] = 0;
	tlb_flush_page(&c->tlb, 0);
	for (unsigned n = 0; n < 20; n++) {
		uint64_t to = nowhere[n % ARRAY_SIZE(nowhere)];

		c->gpr[RSP] = STACK_TOP;
		c->gpr[RAX] = to;
		assert_int_equal(guest_cpu_run_at(g, CODE_GPA, MAX_INSNS), INTERP_EXCEPTION);
		assert_int_equal(c->exc.vector, to ? EXC_GP : EXC_PF);
		assert_int_equal(c->rip, to ? CODE_GPA + 3 : 0);
		assert_int_equal(c->gpr[RSP], to ? STACK_TOP - 8 : STACK_TOP);
		assert_int_equal(c->gpr[RBX], n + 1);
	}
	assert_true(g->stats.blocks_compiled > 0);
}

CODE(branchy, "test %eax, %eax; jnz 1f; mov (%rsp), %rdx; call 1f; 1: add $8, %ebx; ud2")

/* Code that does not fit where room is nearly used up leaves alone what was there before. */
static void test_room_ends(void **state)
{
	struct guest_cpu *g = *state;
	struct bt *bt = g->cpu->bt.owner;
	struct code_room *room = &bt->bc->room;
	uint8_t before[32];

	for (unsigned n = 0; n < 16; n++) {
		uint64_t compiled = g->stats.blocks_compiled;
		gpa_t at = CODE_GPA + 64 * n;
		const uint8_t *end = room->hot;

		if (n) {
			memcpy(before, end - sizeof(before), sizeof(before));
			room->hot_end = room->hot + n - 1;
		}
		guest_cpu_load(g, at, branchy);
		g->cpu->gpr[RAX] = n & 1;
		for (unsigned k = 0; k < 3; k++) {
			g->cpu->gpr[RSP] = STACK_TOP;
			assert_int_equal(guest_cpu_run_at(g, at, MAX_INSNS), INTERP_EXCEPTION);
			assert_int_equal(g->cpu->exc.vector, EXC_UD);
		}
		assert_true(g->stats.blocks_compiled > compiled);
		if (n)
			assert_memory_equal(before, end - sizeof(before), sizeof(before));
	}
}

/* mov $0x1234567, %r11d behind a REX that the second one makes void; then UD2. */
CODE(two_rex, ".byte 0x4b, 0x41, 0xbb; .long 0x1234567; ud2")

static void test_two_rex(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	guest_cpu_load(g, CODE_GPA, two_rex);
	for (unsigned n = 0; n < 4; n++) {
		c->rip = CODE_GPA;
		c->gpr[R11] = c->gpr[RBX] = ~0ull;
		assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_EXCEPTION);
		assert_int_equal(c->gpr[R11], 0x1234567);
		assert_int_equal(c->gpr[RBX], ~0ull);
		c->exc_pending = false;
		c->event = 0;
	}
	assert_true(g->stats.blocks_compiled > 0);
}

/* LZCNT and JKZD with a VEX prefix: the decoder knows them, processors do not. */
CODE(vex_lzcnt, "inc %ebx; .byte 0xc4, 0x41, 0x7a, 0xbd, 0xea; inc %ebx")
CODE(vex_branch, "inc %ebx; .byte 0xc4, 0xe1, 0x78, 0x84, 0, 0, 0, 0; inc %ebx")

static void test_foreign_vex(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	guest_cpu_load(g, CODE_GPA, vex_lzcnt);
	guest_cpu_load(g, CODE_GPA + 0x100, vex_branch);
	for (unsigned n = 0; n < 8; n++) {
		c->rip = CODE_GPA + (n & 1) * 0x100;
		c->gpr[RBX] = 0;
		assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_EXCEPTION);
		assert_int_equal(c->exc.vector, EXC_UD);
		assert_int_equal(c->gpr[RBX], 1);
		c->exc_pending = false;
		c->event = 0;
	}
	assert_true(g->stats.blocks_compiled > 0);
}

CODE(smap_push, "mov $0x20000, %edi; mov $0x29000, %esp; push (%rdi); pop 8(%rdi); pushw $1; hlt")

/* With AC set the supervisor's stack may be the user's pages, whichever form pushes. */
static void test_smap_stack(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	guest_cpu_load(g, CODE_GPA, smap_push);
	memcpy(g->ram + DATA_GPA, "operand", 8);
	c->cr4 |= CR4_SMAP;
	c->rflags |= FLAG_AC;
	tlb_flush_all(&c->tlb);
	cpu_update_ctx(c);
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_HALT);
	assert_string_equal((char *)g->ram + DATA_GPA + 8, "operand");
	c->rip = CODE_GPA;
	c->rflags &= ~FLAG_AC;
	cpu_update_ctx(c);
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_EXCEPTION);
	assert_int_equal(c->exc.vector, EXC_PF);
}

CODE(movaps, "movaps (%rdi), %xmm0; hlt")

/* A misaligned address is not taken for one of an address space whose number is so much larger. */
static void test_alignment_and_number(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;
	const unsigned off = 8;

	guest_cpu_load(g, CODE_GPA, movaps);
	c->cr4 |= CR4_OSFXSR;
	c->gpr[RDI] = DATA_GPA;
	for (unsigned n = 0; n < 4; n++) {
		c->rip = CODE_GPA;
		assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_HALT);
	}
	assert_true(g->stats.blocks_compiled > 0);
	for (unsigned n = 1; n <= off; n++)
		tlb_switch(&c->tlb, n, false);
	assert_true(mem_fill(c, DATA_GPA, false));
	tlb_switch(&c->tlb, 0, true);
	assert_int_equal(c->tlb.e[c->ctx][TLB_LOADS][tlb_index(DATA_GPA)].tag,
			 tlb_tag(&c->tlb, DATA_GPA) + off);
	c->rip = CODE_GPA;
	c->gpr[RDI] += off;
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_EXCEPTION);
	assert_int_equal(c->exc.vector, EXC_GP);
	assert_int_equal(c->rip, CODE_GPA);
}

/*
 * At the end of a page, so that the immediate operand and the UD2 behind it lie in the next;
 * entered by a jump in the page.
 */
CODE(crossing, "xor %eax, %eax; jmp 1f; .fill 32, 1, 0x90; 1: mov $0x44332211, %eax; ud2")

#define CROSS_GPA (CODE_GPA + PAGE_SIZE - 2 - 2 - 32 - 2)

static uint64_t run_crossing(struct guest_cpu *g)
{
	struct cpu *c = g->cpu;

	/* Often enough for all of it to be compiled and looked up. */
	for (unsigned n = 0; n < 8; n++) {
		assert_int_equal(guest_cpu_run_at(g, CROSS_GPA, MAX_INSNS), INTERP_EXCEPTION);
	}
	return c->gpr[RAX];
}

/* An instruction in two pages is what lies there now, whichever of them changes, and how. */
static void test_crossing(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;
	const gva_t next = CODE_GPA + PAGE_SIZE;
	const uint64_t pte = g->pt[next >> PAGE_SHIFT];
	uint64_t compiled;

	guest_cpu_load(g, CROSS_GPA, crossing);
	assert_int_equal(run_crossing(g), 0x44332211);
	assert_int_equal(c->exc.vector, EXC_UD);
	compiled = g->stats.blocks_compiled;
	/* Another second page. */
	memcpy(g->ram + DATA_GPA, "\x55\x66\x77\x0f\x0b", 5);
	g->pt[next >> PAGE_SHIFT] = (pte & ~PAGE_MASK) | DATA_GPA;
	tlb_flush_page(&c->tlb, next);
	assert_int_equal(run_crossing(g), 0x77665511);
	assert_true(g->stats.blocks_compiled > compiled);
	/* A store to the second page, and to the first. */
	assert_int_equal(gmem_write(&g->gm, DATA_GPA, "\x99", 1), 0);
	assert_int_equal(run_crossing(g), 0x77669911);
	assert_int_equal(gmem_write(&g->gm, next - 1, "\xaa", 1), 0);
	assert_int_equal(run_crossing(g), 0x776699aa);
	/* Back to the page of before. */
	g->pt[next >> PAGE_SHIFT] = pte;
	tlb_flush_page(&c->tlb, next);
	assert_int_equal(run_crossing(g), 0x443322aa);
	/* And none at all. */
	g->pt[next >> PAGE_SHIFT] = 0;
	tlb_flush_page(&c->tlb, next);
	assert_int_equal(run_crossing(g), 0);
	assert_int_equal(c->exc.vector, EXC_PF);
	assert_int_equal(c->exc.cr2, next);
	assert_int_equal(c->rip, next - 2);
}

/*
 * A call to another page, and a jump to a third; two places more where the code may lie, and what
 * it calls.
 */
CODE(branches, "xor %ebx, %ebx; mov $50, %ecx\n"
	       "1: call branches_code + 0x10000; add %eax, %ebx; dec %ecx; jnz 1b\n"
	       "jmp branches_code + 0x11000")
CODE(callee, "mov $1, %eax; ret")

#define ELSEWHERE  0x40000u
#define OTHER_GPA  (DATA_GPA + 0x8000)
#define CALLEE_GVA DATA_GPA

static uint64_t run_branches(struct guest_cpu *g, gva_t at)
{
	for (unsigned n = 0; n < 4; n++) {
		assert_int_equal(guest_cpu_run_at(g, at, MAX_INSNS), INTERP_EXCEPTION);
		assert_int_equal(g->cpu->exc.vector, EXC_UD);
		assert_int_equal(g->cpu->rip, at + 0x11000);
	}
	return g->cpu->gpr[RBX];
}

static void map_page(struct guest_cpu *g, gva_t gva, gpa_t gpa)
{
	g->pt[gva >> PAGE_SHIFT] = gpa | PTE_P | PTE_W | PTE_U;
}

static void load_branches(struct guest_cpu *g)
{
	guest_cpu_load(g, CODE_GPA, branches);
	guest_cpu_load(g, CALLEE_GVA, callee);
	guest_cpu_load(g, OTHER_GPA, callee);
	g->ram[OTHER_GPA + 1] = 2;
	memcpy(g->ram + CODE_GPA + 0x11000, "\x0f\x0b", 2);
	assert_int_equal(run_branches(g, CODE_GPA), 50);
}

/* Branches between pages go where the target's page is mapped now, to what it holds now. */
static void test_far_branches(void **state)
{
	struct guest_cpu *g = *state;
	struct tlb *tlb = &g->cpu->tlb;

	load_branches(g);
	map_page(g, CALLEE_GVA, OTHER_GPA);
	tlb_flush_page(tlb, CALLEE_GVA);
	assert_int_equal(run_branches(g, CODE_GPA), 100);
	assert_int_equal(gmem_write(&g->gm, OTHER_GPA + 1, "\x05", 1), 0);
	assert_int_equal(run_branches(g, CODE_GPA), 250);
	/* The same code at another place has a neighbour of its own, whoever ran last. */
	map_page(g, ELSEWHERE, CODE_GPA);
	map_page(g, ELSEWHERE + 0x10000, DATA_GPA);
	map_page(g, ELSEWHERE + 0x11000, CODE_GPA + 0x11000);
	assert_int_equal(run_branches(g, ELSEWHERE), 50);
	assert_int_equal(run_branches(g, CODE_GPA), 250);
	assert_int_equal(run_branches(g, ELSEWHERE), 50);
}

/*
 * A flush that changes no mapping of code costs no look-up of it; it is as if the code was fetched
 * again behind it, though.
 */
static void test_flush_keeps_code(void **state)
{
	struct guest_cpu *g = *state;
	uint64_t misses, *pte = &g->pt[CODE_GPA >> PAGE_SHIFT];

	load_branches(g);
	misses = g->stats.jump_misses;
	tlb_switch(&g->cpu->tlb, 0, false);
	assert_int_equal(run_branches(g, CODE_GPA), 50);
	tlb_switch(&g->cpu->tlb, 1, false);
	assert_int_equal(run_branches(g, CODE_GPA), 50);
	assert_int_equal(g->stats.jump_misses, misses);
	assert_true(*pte & PTE_A);
	*pte &= ~PTE_A;
	tlb_switch(&g->cpu->tlb, 0, false);
	assert_int_equal(run_branches(g, CODE_GPA), 50);
	assert_true(*pte & PTE_A);
}

static void test_far_branches_by_pcid(void **state)
{
	struct guest_cpu *g = *state;
	struct tlb *tlb = &g->cpu->tlb;

	load_branches(g);
	map_page(g, CALLEE_GVA, OTHER_GPA);
	tlb_switch(tlb, 1, false);
	assert_int_equal(run_branches(g, CODE_GPA), 100);
	tlb_switch(tlb, 0, true);
	assert_int_equal(run_branches(g, CODE_GPA), 50);
	tlb_switch(tlb, 1, true);
	assert_int_equal(run_branches(g, CODE_GPA), 100);
}

/* As often as it takes for tags to be the same again. */
static void test_far_branches_round(void **state)
{
	struct guest_cpu *g = *state;

	load_branches(g);
	map_page(g, CALLEE_GVA, OTHER_GPA);
	g->cpu->tlb.code_gen += 1ull << BRANCH_GEN_BITS;
	memset(g->cpu->tlb.i, 0, sizeof(g->cpu->tlb.i));
	memset(g->cpu->tlb.e2, 0, sizeof(g->cpu->tlb.e2));
	assert_int_equal(run_branches(g, CODE_GPA), 100);
}

/* A jump to another page as code has it, and what a VCPU found where it leads. */
struct link {
	_Alignas(8) uint8_t jump[8];
	struct bt_far far;
};

static void link_to(struct guest_cpu *g, struct link *l, struct block *found)
{
	struct cpu *c = g->cpu;

	c->bt.far_exit = &l->far;
	bt_link(c->bt.owner, found);
	assert_null(c->bt.far_exit);
}

static bool leads_to(const struct guest_cpu *g, const struct link *l, const struct block *b)
{
	const struct bt *bt = g->cpu->bt.owner;
	const uint8_t *to = (uint8_t *)b->far_native - bt->e.to_exec;
	int32_t disp;

	memcpy(&disp, l->jump, sizeof(disp));
	/* This memory may be too far away: some bits of the distance are lost. */
	return disp == (int32_t)(to - (l->jump + sizeof(disp)));
}

static struct block *block_at(const struct guest_cpu *g, gpa_t gpa)
{
	const struct bt *bt = g->cpu->bt.owner;
	struct block *b = code_find(bt->bc->code, gpa, block_key(g->cpu, gpa, 0), NO_GFN);

	assert_non_null(b);
	assert_non_null(b->far_native);
	return b;
}

/*
 * What happens to a jump when others were quicker. Another VCPU may by then have joined it to newer
 * code, and run that: it must not be joined to what is dead.
 */
static void test_far_links(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;
	struct link l = {.far = {.gpa = NO_FAR_GPA}};
	void *native;
	struct block *b, *other;

	load_branches(g);
	b = block_at(g, CALLEE_GVA);
	map_page(g, CALLEE_GVA, OTHER_GPA);
	tlb_flush_page(&c->tlb, CALLEE_GVA);
	assert_int_equal(run_branches(g, CODE_GPA), 100);
	other = block_at(g, OTHER_GPA);
	l.far.jump = l.jump;
	l.far.key = b->key;
	c->bt.far_rip = c->rip = CALLEE_GVA;

	b->dead = true;
	link_to(g, &l, b);
	assert_false(leads_to(g, &l, b));
	assert_int_equal(l.far.gpa, NO_FAR_GPA);
	b->dead = false;
	/* An interrupt was taken meanwhile, and its handler found. */
	c->rip = CODE_GPA;
	link_to(g, &l, b);
	assert_false(leads_to(g, &l, b));
	assert_int_equal(l.far.gpa, NO_FAR_GPA);
	c->rip = CALLEE_GVA;
	link_to(g, &l, b);
	assert_true(leads_to(g, &l, b));
	assert_int_equal(l.far.gpa, b->gpa);
	assert_null(l.far.refused);
	/* The jump is the first one's for ever. */
	link_to(g, &l, other);
	assert_true(leads_to(g, &l, b));
	assert_ptr_equal(l.far.refused, other->far_native);
	/* ... be it compiled again. */
	native = b->far_native;
	b->far_native = other->far_native;
	link_to(g, &l, b);
	assert_true(leads_to(g, &l, b));
	b->far_native = native;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_sysret_to_nowhere),
		TEST(test_flush_keeps_code),
		TEST(test_jump_to_nowhere),
		TEST(test_return_to_nowhere),
		TEST(test_room_ends),
		TEST(test_two_rex),
		TEST(test_foreign_vex),
		TEST(test_smap_stack),
		TEST(test_alignment_and_number),
		TEST(test_crossing),
		TEST(test_far_branches),
		TEST(test_far_branches_by_pcid),
		TEST(test_far_branches_round),
		TEST(test_far_links),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
