/*
 * Latches of compiled code: what they hold is used, and is not any more after whatever changes
 * translations. The TLB proper is emptied behind its back, so that only a latch can be stale.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "src/engine/interp/code.h"
#include "src/x86/sys.h"
#include "tests/unit/guest_cpu.h"

#define MAX_INSNS  100000
#define WARM	   32
#define UPPER_BASE 0xffffff8000000000ull
#define PAGE_A	   (DATA_GPA >> PAGE_SHIFT)
#define PAGE_CODE  (CODE_GPA >> PAGE_SHIFT)
#define PAGE_B	   (PAGE_A + 1)
#define LOAD_GPA   CODE_GPA
#define STORE_GPA  (CODE_GPA + 0x100)
#define ALIGN_GPA  (CODE_GPA + 0x200)
#define PAIR_GPA   (CODE_GPA + 0x300)
#define STACK_GPA  (CODE_GPA + 0x400)
#define FIELDS_GPA (CODE_GPA + 0x500)
#define R10_GPA	   (CODE_GPA + 0x600)
#define FIXED_GPA  (CODE_GPA + 0x700)
#define CROSS_GPA  (CODE_GPA + 0x800)
#define OLD	   0x1d
#define NEW	   0xe3

CODE(load, "mov (%rdi), %rax; hlt")
CODE(store, "mov %rax, (%rdi); hlt")
CODE(load_aligned, "movaps (%rdi), %xmm0; movq %xmm0, %rax; hlt")
CODE(load_pair, "mov (%rdi), %rax; mov 8(%rdi), %rbx; hlt")
/* Six groups, each of two accesses far from each other. */
CODE(stack, "mov $0, %eax\n"
	    ".irp n, 0, 1, 2, 3, 4, 5\n"
	    "add \\n * 0x1000(%rsp), %rax\n"
	    ".endr\n"
	    ".irp n, 0, 1, 2, 3, 4, 5\n"
	    "add %rax, \\n * 0x1000 + 8(%rsp)\n"
	    ".endr\n"
	    "hlt")
/* Accesses to one structure, again and again. */
CODE(fields, "1: mov (%rdi), %rax\n"
	     "mov 0x10(%rdi), %rbx\n"
	     "mov 0x18(%rdi), %rcx\n"
	     "mov 8(%rdi), %rdx\n"
	     "dec %esi\n"
	     "jnz 1b\n"
	     "hlt")
/* The base is a register that is kept in memory, and still in scratch; flags are not in the way. */
CODE(load_r10, "mov %rdi, %r10; mov 0x1000(%r10), %rax; xor %ecx, %ecx; hlt")
/* mov rax, [rip + disp]: DATA_GPA, and the bytes before the page and in it. */
CODE(load_fixed, ".byte 0x48, 0x8b, 0x05\n.long 0x20000 - 0x10707\nhlt")
CODE(load_cross, ".byte 0x48, 0x8b, 0x05\n.long 0x20ffc - 0x10807\nhlt")
CODE(answer, "mov $1, %eax; hlt")

static int setup(void **state)
{
	struct guest_cpu *g = guest_cpu_create(true);
	uint64_t *top = (uint64_t *)(g->ram + TABLES_GPA);

	guest_cpu_translate(g, false);
	top[511] = top[0];
	/* Supervisor pages, or with SMAP off the code would not have latches. */
	for (unsigned n = 0; n < 512; n++)
		g->pt[n] &= ~PTE_U;
	g->cpu->cr4 |= CR4_PCIDE | CR4_OSFXSR | CR4_SMAP;
	cpu_update_ctx(g->cpu);
	tlb_flush_all(&g->cpu->tlb);
	guest_cpu_load(g, LOAD_GPA, load);
	guest_cpu_load(g, STORE_GPA, store);
	guest_cpu_load(g, ALIGN_GPA, load_aligned);
	guest_cpu_load(g, PAIR_GPA, load_pair);
	guest_cpu_load(g, STACK_GPA, stack);
	guest_cpu_load(g, FIELDS_GPA, fields);
	guest_cpu_load(g, R10_GPA, load_r10);
	guest_cpu_load(g, FIXED_GPA, load_fixed);
	guest_cpu_load(g, CROSS_GPA, load_cross);
	g->ram[PAGE_A << PAGE_SHIFT] = OLD;
	g->ram[PAGE_B << PAGE_SHIFT] = NEW;
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	guest_cpu_destroy(*state);
	return 0;
}

static enum interp_exit run(struct guest_cpu *g, gva_t code, gva_t data)
{
	g->cpu->gpr[RDI] = data;
	return guest_cpu_run_at(g, code, MAX_INSNS);
}

/* code: of a load of DATA_GPA. */
static uint64_t loaded_by(struct guest_cpu *g, gva_t code, gva_t half)
{
	assert_int_equal(run(g, half + code, half + DATA_GPA), INTERP_HALT);
	return g->cpu->gpr[RAX];
}

static uint64_t loaded(struct guest_cpu *g, gva_t half)
{
	return loaded_by(g, LOAD_GPA, half);
}

/* The code is compiled and its latch filled; then the page is another's. */
static void make_stale(struct guest_cpu *g, gva_t code, gva_t half, uint64_t flags)
{
	struct tlb *t = &g->cpu->tlb;

	g->pt[PAGE_A] = (uint64_t)PAGE_A << PAGE_SHIFT | PTE_P | PTE_W | flags;
	g->pt[PAGE_CODE] = (uint64_t)PAGE_CODE << PAGE_SHIFT | PTE_P | PTE_W | flags;
	sys_invpcid(g->cpu, 2, 0, 0);
	for (unsigned n = 0; n < WARM; n++)
		assert_int_equal(loaded_by(g, code, half), OLD);
	assert_true(g->stats.blocks_compiled > 0);
	g->pt[PAGE_A] = (uint64_t)PAGE_B << PAGE_SHIFT | PTE_P | PTE_W | flags;
	memset(t->e, 0, sizeof(t->e));
	memset(t->e2, 0, sizeof(t->e2));
	memset(t->chain, 0, sizeof(t->chain));
	psc_flush(&t->psc);
	/* Nobody told the latch, if there is one. */
	assert_int_equal(loaded_by(g, code, half), half && !(flags & PTE_G) ? NEW : OLD);
}

static void invlpg(struct cpu *c)
{
	tlb_flush_page(&c->tlb, DATA_GPA);
}

static void invlpg_upper(struct cpu *c)
{
	tlb_flush_page(&c->tlb, UPPER_BASE + DATA_GPA);
}

static void invpcid_page(struct cpu *c)
{
	sys_invpcid(c, 0, 0, DATA_GPA);
}

static void invpcid_space(struct cpu *c)
{
	sys_invpcid(c, 1, 0, 0);
}

static void invpcid_all(struct cpu *c)
{
	sys_invpcid(c, 2, 0, 0);
}

static void invpcid_nonglobal(struct cpu *c)
{
	sys_invpcid(c, 3, 0, 0);
}

static void cr3(struct cpu *c)
{
	sys_write_cr(c, 3, TABLES_GPA);
}

static void cr3_keep(struct cpu *c)
{
	sys_write_cr(c, 3, TABLES_GPA | CR3_NOFLUSH);
}

/* To another address space and back, each of which keeps what it has. */
static void cr3_and_back(struct cpu *c)
{
	sys_write_cr(c, 3, TABLES_GPA | 7 | CR3_NOFLUSH);
	cr3_keep(c);
}

/* Another address space is told of the page, which might be global. */
static void invlpg_elsewhere(struct cpu *c)
{
	sys_write_cr(c, 3, TABLES_GPA | 7 | CR3_NOFLUSH);
	tlb_flush_page(&c->tlb, DATA_GPA);
	cr3_keep(c);
}

static void invpcid_elsewhere(struct cpu *c)
{
	sys_write_cr(c, 3, TABLES_GPA | 7 | CR3_NOFLUSH);
	sys_invpcid(c, 1, 0, 0);
	cr3_keep(c);
}

static void invpcid_other(struct cpu *c)
{
	sys_invpcid(c, 1, 7, 0);
}

static void cr0(struct cpu *c)
{
	sys_write_cr(c, 0, c->cr0 ^ CR0_WP);
}

static void cr4(struct cpu *c)
{
	sys_write_cr(c, 4, c->cr4 ^ CR4_PGE);
}

static void dr(struct cpu *c)
{
	sys_write_dr(c, 0, 0);
}

/* So often that the numbers of tags run out, and of address spaces in the TLB, too. */
static void wrap(struct cpu *c)
{
	for (unsigned n = 0; n < TLB_MAX_ASID + LATCH_NUMBERS; n++)
		sys_write_cr(c, 3, TABLES_GPA | 7);
	cr3_keep(c);
}

static const struct event {
	void (*happens)(struct cpu *c);
	gva_t half;
	uint64_t flags;
	bool drops;
} events[] = {
	{invlpg, 0, 0, true},
	{invlpg, 0, PTE_G, true},
	{invlpg_elsewhere, 0, PTE_G, true},
	{invlpg_upper, UPPER_BASE, 0, true},
	{invlpg_upper, UPPER_BASE, PTE_G, true},
	{invlpg_upper, 0, 0, false},
	{invlpg, UPPER_BASE, PTE_G, false},
	{invpcid_page, 0, 0, true},
	{invpcid_space, 0, 0, true},
	{invpcid_space, UPPER_BASE, 0, true},
	{invpcid_space, UPPER_BASE, PTE_G, false},
	{invpcid_all, 0, PTE_G, true},
	{invpcid_all, UPPER_BASE, PTE_G, true},
	{invpcid_nonglobal, 0, 0, true},
	{invpcid_nonglobal, UPPER_BASE, 0, true},
	{invpcid_elsewhere, 0, 0, true},
	{invpcid_other, 0, 0, false},
	{cr3, 0, 0, true},
	{cr3, UPPER_BASE, 0, true},
	{cr3, UPPER_BASE, PTE_G, false},
	{cr3_keep, 0, 0, false},
	{cr3_and_back, 0, 0, false},
	{cr3_and_back, UPPER_BASE, 0, true},
	{cr3_and_back, UPPER_BASE, PTE_G, false},
	{cr0, 0, 0, true},
	{cr0, UPPER_BASE, PTE_G, true},
	/* The second enables global pages again. */
	{cr4, UPPER_BASE, PTE_G, true},
	{cr4, 0, 0, true},
	{dr, 0, 0, true},
	{dr, UPPER_BASE, PTE_G, true},
	{wrap, 0, 0, true},
	{wrap, UPPER_BASE, PTE_G, true},
};

static void happens(struct guest_cpu *g, const struct event *e, gva_t code)
{
	make_stale(g, code, e->half, e->flags);
	e->happens(g->cpu);
	sys_write_cr(g->cpu, 3, TABLES_GPA | CR3_NOFLUSH);
	/* The first run may be the interpreter's. */
	for (unsigned k = 0; k < WARM; k++)
		if (e->drops)
			assert_int_equal(loaded_by(g, code, e->half), NEW);
	assert_int_equal(loaded_by(g, code, e->half), e->drops ? NEW : OLD);
}

static void test_events(void **state)
{
	static const gva_t code[] = {LOAD_GPA, FIXED_GPA};

	for (unsigned k = 0; k < ARRAY_SIZE(code); k++)
		for (unsigned n = 0; n < ARRAY_SIZE(events); n++) {
			print_message("code %u, event %u\n", k, n);
			happens(*state, &events[n], code[k]);
		}
}

/* The code's page at two addresses, and so at the same distance from two pages of data. */
static void test_fixed(void **state)
{
	const unsigned by = 64; /* pages */
	struct guest_cpu *g = *state;
	int fills;

	g->pt[PAGE_CODE + by] = g->pt[PAGE_CODE];
	g->pt[PAGE_A + by] = g->pt[PAGE_B];
	sys_invpcid(g->cpu, 2, 0, 0);
	for (unsigned n = 0; n < 2 * WARM; n++) {
		assert_int_equal(loaded_by(g, FIXED_GPA, 0), OLD);
		assert_int_equal(loaded_by(g, FIXED_GPA, by << PAGE_SHIFT), NEW);
	}
	/* It holds. */
	assert_int_equal(loaded_by(g, FIXED_GPA, 0), OLD);
	fills = g->cpu->bt.fills;
	assert_int_equal(loaded_by(g, FIXED_GPA, 0), OLD);
	assert_int_equal(g->cpu->bt.fills, fills);
	/* One whose operand crosses pages. */
	memset(g->ram + DATA_GPA + PAGE_SIZE - 4, OLD, 4);
	for (unsigned n = 0; n < 2 * WARM; n++)
		assert_int_equal(loaded_by(g, CROSS_GPA, 0), (uint64_t)NEW << 32 | 0x1d1d1d1d);
}

/* Stores to a page stop being unnoticed when it gets code, be its TLB entry long gone. */
static void test_code(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;
	struct tlb *t = &c->tlb;

	for (unsigned n = 0; n < WARM; n++) {
		c->gpr[RAX] = 0;
		assert_int_equal(run(g, STORE_GPA, DATA_GPA + 0x800), INTERP_HALT);
	}
	/* Its places are taken by other pages, one after the other. */
	for (unsigned n = 0; n < 2 * TLB2_WAYS; n++) {
		struct tlb_fill f = {.gva = DATA_GPA + (n + 1ull) * TLB2_SIZE * PAGE_SIZE,
				     .gfn = 1,
				     .allow = TLB_READS | TLB_WRITES,
				     .page_size = PAGE_SIZE};

		tlb2_insert(t, &f);
	}
	assert_null(tlb2_find(t, DATA_GPA));
	guest_cpu_load(g, DATA_GPA, answer);
	for (unsigned n = 0; n < 20; n++) {
		uint64_t code;

		for (unsigned k = 0; k < WARM; k++) {
			assert_int_equal(run(g, DATA_GPA, 0), INTERP_HALT);
			assert_int_equal(c->gpr[RAX], n + 1);
		}
		memcpy(&code, g->ram + DATA_GPA, sizeof(code));
		c->gpr[RAX] = code + 0x100; /* the immediate operand's first byte */
		assert_int_equal(run(g, STORE_GPA, DATA_GPA), INTERP_HALT);
	}
}

/* A page that becomes watched, and is not any more. */
static void test_watched(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	for (unsigned n = 0; n < WARM; n++)
		assert_int_equal(loaded(g, 0), OLD);
	sys_write_dr(c, 0, DATA_GPA);
	sys_write_dr(c, 7, 0xf0002);
	/* There is no handler. */
	assert_int_equal(c->dr6 & 1, 0);
	assert_int_equal(run(g, LOAD_GPA, DATA_GPA), INTERP_EXCEPTION);
	assert_int_equal(c->dr6 & 1, 1);
	sys_write_dr(c, 7, 0);
	assert_int_equal(loaded(g, 0), OLD);
}

static void fault(struct guest_cpu *g, gva_t code, gva_t data, unsigned vector)
{
	assert_int_equal(run(g, code, data), INTERP_EXCEPTION);
	assert_int_equal(g->cpu->exc.vector, vector);
	assert_int_equal(g->cpu->rip, code);
}

/* What is near the page of a latch by some measure, but not in it. */
static void test_near(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;
	uint64_t word = 0x1122334455667788ull;

	memcpy(g->ram + DATA_GPA + 0xffc, &word, 8);
	for (unsigned n = 0; n < WARM; n++)
		assert_int_equal(loaded(g, 0), OLD);
	for (unsigned bit = 47; bit < 64; bit++) {
		fault(g, LOAD_GPA, DATA_GPA ^ 1ull << bit, EXC_GP);
		fault(g, LOAD_GPA, DATA_GPA + ((uint64_t)bit << 48), EXC_GP);
	}
	assert_int_equal(loaded(g, 0), OLD);
	assert_int_equal(run(g, LOAD_GPA, DATA_GPA + 0xffc), INTERP_HALT);
	assert_int_equal(c->gpr[RAX], word);
	assert_int_equal(run(g, LOAD_GPA, DATA_GPA - 1), INTERP_HALT);
	assert_int_equal(c->gpr[RAX], OLD << 8);
	assert_int_equal(run(g, LOAD_GPA, UPPER_BASE + DATA_GPA), INTERP_HALT);
	assert_int_equal(c->gpr[RAX], OLD);
	g->pt[PAGE_B] = 0;
	tlb_flush_page(&c->tlb, DATA_GPA + PAGE_SIZE);
	fault(g, LOAD_GPA, DATA_GPA + 0xff9, EXC_PF);
	assert_int_equal(c->exc.cr2, DATA_GPA + PAGE_SIZE);
}

static void test_groups(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;
	uint64_t words[2] = {3, 4};

	/* The next page is not the next in the host. */
	g->pt[PAGE_B] += PAGE_SIZE;
	tlb_flush_page(&c->tlb, DATA_GPA + PAGE_SIZE);
	memcpy(g->ram + DATA_GPA + 0xff0, &words[0], 8);
	memcpy(g->ram + DATA_GPA + 0xff8, &words[0], 8);
	memcpy(g->ram + DATA_GPA + 2 * PAGE_SIZE, &words[1], 8);
	for (unsigned n = 0; n < WARM; n++) {
		assert_int_equal(run(g, PAIR_GPA, DATA_GPA), INTERP_HALT);
		assert_int_equal(run(g, ALIGN_GPA, DATA_GPA), INTERP_HALT);
		assert_int_equal(c->gpr[RAX], OLD);
	}
	/* The last that fits, and one that does not. */
	assert_int_equal(run(g, PAIR_GPA, DATA_GPA + 0xff0), INTERP_HALT);
	assert_int_equal(c->gpr[RBX], 3);
	assert_int_equal(run(g, PAIR_GPA, DATA_GPA + 0xff8), INTERP_HALT);
	assert_int_equal(c->gpr[RAX], 3);
	assert_int_equal(c->gpr[RBX], 4);
	assert_int_equal(run(g, ALIGN_GPA, DATA_GPA + 0xff0), INTERP_HALT);
	assert_int_equal(c->gpr[RAX], 3);
	for (unsigned off = 1; off < 16; off++)
		fault(g, ALIGN_GPA, DATA_GPA + off, EXC_GP);
}

/* Misaligned by what two address spaces' numbers in the TLB differ. */
static void test_misaligned_elsewhere(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;

	for (unsigned pcid = 0; pcid < 32; pcid++) {
		sys_write_cr(c, 3, TABLES_GPA | pcid | CR3_NOFLUSH);
		assert_int_equal(run(g, ALIGN_GPA, DATA_GPA), INTERP_HALT);
		for (unsigned other = 0; other <= pcid; other++) {
			sys_write_cr(c, 3, TABLES_GPA | other | CR3_NOFLUSH);
			for (unsigned off = 1; off < 16; off++)
				fault(g, ALIGN_GPA, DATA_GPA + off, EXC_GP);
		}
	}
}

#define STACK_PAGES 6

static uint64_t *stack_page(struct guest_cpu *g, unsigned k)
{
	return (uint64_t *)(g->ram + DATA_GPA + (STACK_PAGES - 1 - k) * PAGE_SIZE);
}

/* Latches that groups share are no two groups' of one unit. Each page has a distance of its own. */
static void test_stack(void **state)
{
	struct guest_cpu *g = *state;

	for (unsigned k = 0; k < STACK_PAGES; k++)
		g->pt[PAGE_A + k] = ((hva_t)stack_page(g, k) - (hva_t)g->ram) | PTE_P | PTE_W;
	sys_invpcid(g->cpu, 2, 0, 0);
	for (unsigned n = 0; n < WARM; n++) {
		for (unsigned k = 0; k < STACK_PAGES; k++) {
			stack_page(g, k)[0] = 1ull << k;
			stack_page(g, k)[1] = k << 16;
		}
		g->cpu->gpr[RSP] = DATA_GPA;
		assert_int_equal(run(g, STACK_GPA, 0), INTERP_HALT);
		assert_int_equal(g->cpu->gpr[RAX], (1u << STACK_PAGES) - 1);
		for (unsigned k = 0; k < STACK_PAGES; k++)
			assert_int_equal(stack_page(g, k)[1], (k << 16) + g->cpu->gpr[RAX]);
	}
}

static uint64_t read_fields(struct guest_cpu *g, uint64_t rounds)
{
	uint64_t before = g->stats.blocks_compiled;

	g->cpu->gpr[RSI] = rounds;
	assert_int_equal(run(g, FIELDS_GPA, DATA_GPA + PAGE_SIZE - 0x10), INTERP_HALT);
	assert_int_equal(g->cpu->gpr[RAX], 1);
	assert_int_equal(g->cpu->gpr[RDX], 2);
	assert_int_equal(g->cpu->gpr[RBX], 3);
	assert_int_equal(g->cpu->gpr[RCX], 4);
	return g->stats.blocks_compiled - before;
}

/* A structure that lies in two pages is read by checks that do not cross them, after a while. */
static void test_narrow(void **state)
{
	static const uint64_t field[] = {1, 2, 3, 4};
	struct guest_cpu *g = *state;

	memcpy(g->ram + DATA_GPA + PAGE_SIZE - 0x10, field, sizeof(field));
	read_fields(g, WARM);
	/* Three groups crossed, one after the other: from each access to all that follow. */
	assert_int_equal(read_fields(g, 2000), 3);
	assert_int_equal(read_fields(g, 2000), 0);
}

static void spin(uint32_t ticks)
{
	for (uint32_t start = code_now(); code_now() - start < ticks;)
		;
}

/* ... also if the code has its turn some hundred times a second; not if it hardly ever runs. */
static void test_narrow_slowly(void **state)
{
	static const uint64_t field[] = {1, 2, 3, 4};
	struct guest_cpu *g = *state;
	unsigned made = 0;

	memcpy(g->ram + DATA_GPA + PAGE_SIZE - 0x10, field, sizeof(field));
	read_fields(g, 1);
	for (unsigned n = 0; n < 70; n++, spin(40000))
		made += read_fields(g, 1);
	assert_int_equal(made, 0);
	for (unsigned n = 0; n < 4000 && made < 3; n++, spin(100))
		made += read_fields(g, 1);
	assert_int_equal(made, 3);
}

/* A look-up that failed is done again from the start, whatever scratch registers held before. */
static void test_retry(void **state)
{
	struct guest_cpu *g = *state;

	/* Without SMAP there are no latches. */
	g->cpu->cr4 &= ~CR4_SMAP;
	cpu_update_ctx(g->cpu);
	for (unsigned n = 0; n < 2 * WARM; n++) {
		sys_invpcid(g->cpu, 2, 0, 0);
		assert_int_equal(run(g, R10_GPA, DATA_GPA - 0x1000), INTERP_HALT);
		assert_int_equal(g->cpu->gpr[RAX], OLD);
	}
	assert_true(g->stats.blocks_compiled > 0);
}

#define RUNS 400u

/*
 * Whether the code that such runs lead to fills a latch; pause: after how many some time passes.
 * Then so many more come, at such a distance.
 */
static bool gets_latch_later(unsigned pause, unsigned more, uint32_t distance)
{
	struct guest_cpu *g;
	void *state;
	bool filled;

	setup(&state);
	g = state;
	guest_cpu_translate_after(g, RUNS, false);
	g->cpu->bt.fills = 0;
	for (unsigned n = 0; n < RUNS; n++) {
		/* Twice what the second half of them may take. */
		if (n == pause)
			spin(1000 * RUNS);
		assert_int_equal(run(g, LOAD_GPA, DATA_GPA), INTERP_HALT);
	}
	for (unsigned n = 0; n < more; n++) {
		spin(distance);
		assert_int_equal(run(g, LOAD_GPA, DATA_GPA), INTERP_HALT);
	}
	filled = g->cpu->bt.fills;
	teardown(&state);
	return filled;
}

static bool gets_latch(unsigned pause)
{
	return gets_latch_later(pause, 0, 0);
}

/* What runs seldom has no latches. */
static void test_seldom(void **state)
{
	assert_true(gets_latch(RUNS));
	assert_false(gets_latch(RUNS - 1));
	/* What was long before the code ran often does not count. */
	assert_true(gets_latch(1));
	/* Later the code may run often: when that was seen twice, from one count to the next. */
	assert_false(gets_latch_later(RUNS - 1, 400, 0));
	assert_true(gets_latch_later(RUNS - 1, 6000, 0));
	assert_false(gets_latch_later(RUNS - 1, 600, 300));
}

static void switch_spaces(struct guest_cpu *g)
{
	sys_write_cr(g->cpu, 3, TABLES_GPA | 1 | CR3_NOFLUSH);
	sys_write_cr(g->cpu, 3, TABLES_GPA | CR3_NOFLUSH);
}

/* Loads of pages of the upper half that are not global. */
static void load_own(struct guest_cpu *g, unsigned pages)
{
	for (unsigned n = 0; n < pages; n++) {
		gva_t data = UPPER_BASE + DATA_GPA + n * PAGE_SIZE;

		assert_int_equal(run(g, UPPER_BASE + LOAD_GPA, data), INTERP_HALT);
	}
}

/* With a few pages that are not global an address space is left without loss of anything else. */
static void test_own(void **state)
{
	static const struct own {
		unsigned pages;
		uint64_t code;
		bool forgets;
	} cases[] = {
		{1, PTE_G, false},
		{TLB_OWN_PAGES, PTE_G, false},
		{TLB_OWN_PAGES + 1, PTE_G, true},
		{1, 0, true},
	};
	struct guest_cpu *g = *state;
	struct tlb *t = &g->cpu->tlb;

	for (unsigned n = 0; n < ARRAY_SIZE(cases); n++) {
		const struct own *o = &cases[n];
		uint64_t gen;

		g->pt[PAGE_CODE] = (uint64_t)PAGE_CODE << PAGE_SHIFT | PTE_P | o->code;
		g->pt[PAGE_A] = (uint64_t)PAGE_A << PAGE_SHIFT | PTE_P;
		sys_invpcid(g->cpu, 2, 0, 0);
		for (unsigned k = 0; k < WARM; k++)
			assert_int_equal(loaded(g, UPPER_BASE), OLD);
		switch_spaces(g);
		load_own(g, o->pages);
		gen = t->code_gen;
		g->pt[PAGE_A] = (uint64_t)PAGE_B << PAGE_SHIFT | PTE_P;
		switch_spaces(g);
		assert_int_equal(t->code_gen != gen, o->forgets);
		assert_int_equal(loaded(g, UPPER_BASE), NEW);
	}
}

static unsigned filled(struct latches *l)
{
	unsigned n = 0;

	for (unsigned k = 0; k < LATCHES; k++)
		n += (l->latch[0][k].base != 0) + (l->latch[1][k].base != 0);
	return n;
}

/* Before tags are used again no latch has them; nor when the code is another's. */
static void test_clearing(void **state)
{
	struct guest_cpu *g = *state;
	struct latches *l = &g->cpu->tlb.latches;
	unsigned before;

	make_stale(g, LOAD_GPA, 0, 0);
	assert_true(filled(l) > 0);
	do {
		before = l->next;
		sys_write_cr(g->cpu, 3, TABLES_GPA);
	} while (l->next > before);
	assert_int_equal(filled(l), 0);
	for (unsigned n = 0; n < WARM; n++)
		assert_int_equal(loaded(g, 0), NEW);
	assert_true(filled(l) > 0);
	interp_forget_code(g->in);
	assert_int_equal(filled(l), 0);
	assert_int_equal(loaded(g, 0), NEW);
}

/* No tag is near another, or near that of a latch that was never filled. */
static void test_distances(void **state)
{
	struct guest_cpu *g = *state;
	const struct latches *l = &g->cpu->tlb.latches;

	for (unsigned n = 1; n < LATCH_NUMBERS; n++) {
		assert_int_equal(l->number[n] & ~PAGE_MASK, 0);
		for (unsigned k = 1; k <= n; k++) {
			uint64_t d = l->number[n] - (k < n ? l->number[k] : 0);

			assert_true(MIN(d, -d) >= 1ull << 49);
		}
	}
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_events),    TEST(test_code),		TEST(test_watched),
		TEST(test_near),      TEST(test_groups),	TEST(test_misaligned_elsewhere),
		TEST(test_distances), TEST(test_clearing),	TEST(test_stack),
		TEST(test_own),	      TEST(test_narrow),	TEST(test_fixed),
		TEST(test_retry),     TEST(test_narrow_slowly), cmocka_unit_test(test_seldom),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
