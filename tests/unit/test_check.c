/*
 * The lockstep checker: agrees where compiled code is right, and names what is wrong where it is
 * not. What is wrong is planted in the checker's second CPU, which stands for the interpreter.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "src/engine/check/check.h"
#include "src/engine/interp/ops.h"
#include "src/x86/exc.h"
#include "tests/unit/guest_cpu.h"

#define MAX_INSNS 1000000

static int setup(void **state)
{
	struct guest_cpu *g = guest_cpu_create(true);

	guest_cpu_translate(g, true);
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	guest_cpu_destroy(*state);
	return 0;
}

/* --- through the whole engine ------------------------------------------------------------------
 */

CODE(work,
     "mov $0x20000, %edi; mov $200, %ecx\n"
     "1: lea (%rdi,%rcx,8), %rsi; mov %rcx, (%rsi); lock addq $3, (%rsi); mov (%rsi), %rax\n"
     "imul %rax, %rax; call 2f; add %rax, %rbx; dec %ecx; jnz 1b; ud2\n"
     "2: push %rax; xor %edx, %edx; cmpxchg %rdx, (%rsi); movq %rax, %xmm1; paddd %xmm1, %xmm2\n"
     "movups %xmm2, 16(%rdi); mov $5, %r8d; 3: rol %cl, %rax; dec %r8d; jnz 3b\n"
     "pop %rax; ret")

static void start_work(struct guest_cpu *g)
{
	guest_cpu_load(g, CODE_GPA, work);
	g->cpu->cr4 |= CR4_OSFXSR;
	g->cpu->rip = CODE_GPA;
	g->cpu->gpr[RSP] = STACK_TOP;
	g->cpu->exc_pending = false;
	g->cpu->event = 0;
}

static void test_agrees(void **state)
{
	struct guest_cpu *g = *state;

	for (unsigned n = 0; n < 3; n++) {
		start_work(g);
		assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_EXCEPTION);
		assert_int_equal(g->cpu->exc.vector, EXC_UD);
	}
	assert_true(g->stats.blocks_checked > 1000);
	assert_true(g->stats.blocks_unchecked < g->stats.blocks_checked / 100);
	assert_string_equal(check_report(interp_check(g->in)), "");
}

CODE(load, "1: mov 0x20000, %rax; add %rax, %rbx; dec %ecx; jnz 1b; ud2")

/* The second CPU finds other memory, so it loads something else. */
static void test_differs(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *twin = check_twin(interp_check(g->in));
	struct memslot slot = {.size = RAM_SIZE};
	struct gmem other;
	uint8_t *ram =
		mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	enum interp_exit e;

	assert_ptr_not_equal(ram, MAP_FAILED);
	guest_cpu_load(g, CODE_GPA, load);
	memcpy(ram, g->ram, RAM_SIZE);
	ram[DATA_GPA + 3] = 0x5a;
	slot.hva = (hva_t)ram;
	assert_int_equal(gmem_init(&other), 0);
	assert_int_equal(gmem_add_slot(&other, &slot), 0);
	twin->gmem = &other;
	g->cpu->gpr[RCX] = 100;
	e = guest_cpu_run(g, MAX_INSNS, false);
	twin->gmem = &g->gm;
	gmem_fini(&other);
	munmap(ram, RAM_SIZE);
	assert_int_equal(e, INTERP_DIFFERS);
	assert_non_null(strstr(check_report(interp_check(g->in)),
			       "rax+0: before 0000000000000000, bt 0000000000000000, interp "
			       "000000005a000000"));
}

/* Not what cannot be done twice: that is skipped, and the rest is checked. */
CODE(clock, "1: rdtsc; mov %eax, 0x20000; dec %ecx; jnz 1b; ud2")

static uint64_t fake_tsc(struct cpu *cpu)
{
	return cpu->stats->instructions * 977;
}

static void test_skips(void **state)
{
	static const struct cpu_ops ops = {.rdtsc = fake_tsc};
	struct guest_cpu *g = *state;

	g->cpu->ops = &ops;
	guest_cpu_load(g, CODE_GPA, clock);
	g->cpu->gpr[RCX] = 100;
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_EXCEPTION);
	assert_true(g->stats.blocks_unchecked >= 90);
}

/* --- the checker alone: the test does what compiled code would have done -------------------- */

CODE(block, "mov (%rdi), %rax; add %rbx, %rax; mov %rax, 8(%rdi); setc 3(%rdi); jmp .")

struct by_hand {
	struct guest_cpu *g;
	struct code_cache *code;
	struct block_cache bc;
	struct block_unit *unit;
	struct block *block;
	struct check *check;
};

/* Runs the block on the CPU itself. */
static void run_block(struct by_hand *h)
{
	struct cpu *c = h->g->cpu;

	c->gpr[REG_PC] = c->rip;
	h->block->slot[0].exec(c, &h->block->slot[0]);
}

static void begin(struct by_hand *h)
{
	struct cpu *c = h->g->cpu;

	c->rip = CODE_GPA;
	c->gpr[RDI] = DATA_GPA + 0x100;
	c->gpr[RBX] = 0x1234;
	flags_set_arith(c, 0);
	check_begin(h->check, h->block);
}

static void by_hand_init(struct by_hand *h, struct guest_cpu *g)
{
	guest_cpu_load(g, CODE_GPA, block);
	memset(h, 0, sizeof(*h));
	h->g = g;
	assert_int_equal(code_cache_create(&h->code, g->cpu->gmem, MIB(1), 0), 0);
	assert_int_equal(block_cache_init(&h->bc, g->cpu, 0, h->code), 0);
	g->cpu->rip = CODE_GPA;
	h->block = block_find(&h->bc, CODE_GPA, 0);
	h->unit = malloc(sizeof(*h->unit) + sizeof(h->unit->block[0]));
	assert_non_null(h->unit);
	h->unit->n = 1;
	h->unit->block[0] = h->block;
	h->block->unit = h->unit;
	assert_int_equal(check_create(&h->check, g->cpu, 1, false), 0);
}

static void by_hand_fini(struct by_hand *h)
{
	check_destroy(h->check);
	free(h->unit);
	block_cache_fini(&h->bc);
	code_cache_destroy(h->code);
}

static void wrong_register(struct cpu *c, uint8_t *ram)
{
	c->gpr[R9] ^= 1ull << 63;
}

static void wrong_rip(struct cpu *c, uint8_t *ram)
{
	c->rip++;
}

static void wrong_flag(struct cpu *c, uint8_t *ram)
{
	flags_set_arith(c, flags_get(c) ^ FLAG_ZF);
}

static void wrong_vector(struct cpu *c, uint8_t *ram)
{
	c->vec.ymm[15][31] ^= 1;
}

static void wrong_control(struct cpu *c, uint8_t *ram)
{
	c->cr2 = 1;
}

static void wrong_segment(struct cpu *c, uint8_t *ram)
{
	c->seg[SEG_GS].base = 1;
}

static void wrong_memory(struct cpu *c, uint8_t *ram)
{
	ram[DATA_GPA + 0x10f] ^= 0x80;
}

static void lost_store(struct cpu *c, uint8_t *ram)
{
	ram[DATA_GPA + 0x103] = 0xee;
}

static void wrong_exception(struct cpu *c, uint8_t *ram)
{
	c->exc_pending = true;
}

/* Each of these is noticed, and told in words that name it. */
static void test_notices(void **state)
{
	static const struct {
		void (*spoil)(struct cpu *c, uint8_t *ram);
		const char *report;
	} wrong[] = {
		{wrong_register, "r9+0"},
		{wrong_rip, "rip+0"},
		{wrong_flag, "flags+0"},
		{wrong_vector, "vec.ymm+504"},
		{wrong_control, "cr2+0"},
		{wrong_segment, "seg+"},
		{wrong_memory, "memory 20108"},
		{lost_store, "memory 20100"},
		{wrong_exception, "bt raised exception"},
	};
	struct guest_cpu *g = *state;
	static struct by_hand h;

	by_hand_init(&h, g);
	for (unsigned n = 0; n < ARRAY_SIZE(wrong); n++) {
		begin(&h);
		run_block(&h);
		assert_true(check_end(h.check));
		begin(&h);
		run_block(&h);
		wrong[n].spoil(g->cpu, g->ram);
		assert_false(check_end(h.check));
		assert_non_null(strstr(check_report(h.check), wrong[n].report));
		assert_non_null(strstr(check_report(h.check), "mov [rdi+0x08], rax"));
		guest_cpu_long_mode(g);
		g->cpu->exc_pending = false;
		g->cpu->cr2 = g->cpu->gpr[R9] = 0;
		memset(&g->cpu->vec, 0, sizeof(g->cpu->vec));
	}
	by_hand_fini(&h);
}

/* What a device did to a word that the block loads is not held against anybody. */
static void test_race(void **state)
{
	struct guest_cpu *g = *state;
	uint64_t before;
	static struct by_hand h;

	by_hand_init(&h, g);
	begin(&h);
	g->ram[DATA_GPA + 0x101] = 7;
	run_block(&h);
	before = g->stats.blocks_unchecked;
	assert_true(check_end(h.check));
	assert_int_equal(g->stats.blocks_unchecked, before + 1);
	by_hand_fini(&h);
}

/* The interpreter's part changes nothing in memory by itself. */
static void test_overlay(void **state)
{
	struct guest_cpu *g = *state;
	static uint8_t copy[PAGE_SIZE];
	static struct by_hand h;

	by_hand_init(&h, g);
	memcpy(copy, g->ram + DATA_GPA, PAGE_SIZE);
	begin(&h);
	assert_memory_equal(copy, g->ram + DATA_GPA, PAGE_SIZE);
	assert_int_equal(check_twin(h.check)->gpr[RAX], 0x1234);
	run_block(&h);
	assert_memory_not_equal(copy, g->ram + DATA_GPA, PAGE_SIZE);
	assert_true(check_end(h.check));
	by_hand_fini(&h);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_agrees),  TEST(test_differs), TEST(test_skips),
		TEST(test_notices), TEST(test_race),	TEST(test_overlay),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
