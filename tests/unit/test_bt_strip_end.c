/*
 * How loops whose checks are made once for many rounds end, and where their addresses come from:
 * the same from the same state on the interpreter and compiled.
 */
#include <setjmp.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/unit/guest_cpu.h"

#define MAX_INSNS 100000
#define FROM	  0x40000u /* sixteen pages; none but the last is where its address says */
#define PAGES	  16u
#define SIZE	  (PAGES << PAGE_SHIFT)
#define LAST	  (FROM + SIZE - PAGE_SIZE) /* not present, nor is the page before all */
#define RUNS	  60u
#define END	  "; pushf; pop %r13; ud2"

/* The counter in a register and in memory, up and down, on either side of the comparison. */
CODE(up, "1: mov (%rsi), %rax; add %rax, %rbx; add $8, %rsi; cmp %rdx, %rsi; jne 1b" END)
CODE(down, "1: add -8(%rsi), %rbx; sub $16, %rsi; cmp %rsi, %rdx; jne 1b" END)
CODE(memory, "1: add (%r10), %rbx; add $32, %r10; cmp %r15, %r10; jne 1b" END)
/* A limit in the instruction; two registers of an address, of which the one or the other stays. */
CODE(constant, "1: mov (%rsi,%rcx,8), %rax; mov %rax, (%rdi,%rcx,8); inc %rcx; cmp $700, %rcx\n"
	       "jne 1b" END)
CODE(rows, "1: mov (%rdx,%r9,8), %rax; add 8(%rdx,%r8,8), %rax; mov %rax, (%rdi)\n"
	   "add $0x100, %rdx; add $8, %rdi; cmp %rdx, %rcx; jne 1b" END)
CODE(both, "1: mov (%rsi,%rcx,4), %eax; add %rax, %rbx; add $8, %rsi; inc %rcx; cmp %rbp, %rcx\n"
	   "jne 1b" END)
/* The register that stays is named by others, at other distances; and one comes and goes. */
CODE(by_others, "1: mov (%rsi,%r9,8), %rax; lea 1(%r9), %r8; add 16(%rsi,%r8,8), %rax\n"
		"add %rax, %rbx; add $16, %rsi; cmp %rdx, %rsi; jne 1b" END)
CODE(by_copies, "1: mov (%rsi,%r9,8), %rax; mov %rsi, %r11; add 32(%r11,%r9,8), %rax\n"
		"add %rax, %rbx; add $16, %rsi; cmp %rdx, %rsi; jne 1b" END)
CODE(by_bases, "1: mov (%rsi,%rcx,8), %rax; lea 24(%rsi), %r8; add (%r8,%rcx,8), %rax\n"
	       "add %rax, %rbx; inc %rcx; cmp %rbp, %rcx; jne 1b" END)
CODE(renamed, "1: mov (%rsi,%r9,8), %rax; mov %r9, %r8; add 16(%rsi,%r8,8), %rax\n"
	      "add %rax, %rbx; mov %rax, %r8; add $16, %rsi; cmp %rdx, %rsi; jne 1b" END)
CODE(returns, "1: mov (%rsi,%r9,8), %rax; add $1, %r9; add (%rsi,%r9,8), %rax; add %rax, %rbx\n"
	      "sub $1, %r9; add $16, %rsi; cmp %rdx, %rsi; jne 1b" END)
/* Limits that move, for good or only for the comparison. */
CODE(meet, "1: add (%rsi), %rbx; sub $8, %rdx; add $8, %rsi; cmp %rdx, %rsi; jne 1b" END)
CODE(lifted, "1: add (%rsi), %rbx; add $64, %rdx; add $8, %rsi; cmp %rdx, %rsi\n"
	     "lea -64(%rdx), %rdx; jne 1b" END)
/* Not the counter's whole, not after it has moved, not by a power of two, not a comparison. */
CODE(low_half, "1: add (%rsi), %rbx; add $8, %rsi; cmp %edx, %esi; jne 1b" END)
CODE(before, "1: add (%rsi), %rbx; cmp %rdx, %rsi; lea 8(%rsi), %rsi; jne 1b" END)
CODE(by_24, "1: add (%rsi), %rbx; add $24, %rsi; cmp %rdx, %rsi; jne 1b" END)
CODE(below, "1: add (%rsi), %rbx; add $8, %rsi; cmp %rdx, %rsi; jb 1b" END)
CODE(subtracted, "1: add (%rsi), %rbx; add $8, %rsi; sub $1, %rcx; jne 1b" END)
CODE(counted, "1: add (%rsi), %rbx; add $8, %rsi; dec %rcx; jne 1b" END)
/* Vector registers, and flags from before the comparison that only it overwrites. */
CODE(vectors, "1: movsd (%rdx), %xmm0; mulsd (%rax), %xmm0; add $0x100, %rax; add $8, %rdx\n"
	      "addsd %xmm0, %xmm1; cmp %rcx, %rax; jne 1b; movq %xmm1, %rbx" END)

/* Registers that the loop does not name have changed before; one way out more. */
#define CHANGE "not %rax; not %rcx; not %rbp; not %rdi; not %r8; not %r9; not %r12; not %r14\n"
CODE(changed, CHANGE "1: add (%rsi), %rbx; add $8, %rsi; cmp %rdx, %rsi; jne 1b" END)
CODE(two_ways, CHANGE "1: add (%rsi), %ebx; jz 2f; add $8, %rsi; cmp %rdx, %rsi; jne 1b; 2:" END)

struct loop {
	const uint8_t *code, *end;
	uint8_t counter, limit; /* registers */
	int stride;
	bool steps_over; /* it is worth to try: nothing is stored */
};

#define LOOP(name, ...)                              \
	{                                            \
		name##_code, name##_end, __VA_ARGS__ \
	}

static const struct loop loops[] = {
	LOOP(up, RSI, RDX, 8, true),	     LOOP(down, RSI, RDX, -16, true),
	LOOP(memory, R10, R15, 32, true),    LOOP(constant, RCX, RCX, 1, false),
	LOOP(rows, RDX, RCX, 0x100, false),  LOOP(both, RCX, RBP, 1, true),
	LOOP(renamed, RSI, RDX, 16, true),   LOOP(returns, RSI, RDX, 16, true),
	LOOP(meet, RSI, RDX, 8, true),	     LOOP(lifted, RSI, RDX, 8, true),
	LOOP(low_half, RSI, RDX, 8, true),   LOOP(before, RSI, RDX, 8, true),
	LOOP(by_24, RSI, RDX, 24, true),     LOOP(below, RSI, RDX, 8, true),
	LOOP(by_others, RSI, RDX, 16, true), LOOP(by_copies, RSI, RDX, 16, true),
	LOOP(by_bases, RCX, RBP, 1, true),   LOOP(subtracted, RSI, RDX, 8, true),
	LOOP(counted, RSI, RDX, 8, true),    LOOP(changed, RSI, RDX, 8, true),
	LOOP(two_ways, RSI, RDX, 8, true),   LOOP(vectors, RAX, RCX, 0x100, true),
};

struct sides {
	struct guest_cpu *interp, *bt;
	uint64_t seed;
};

static uint64_t next(struct sides *s)
{
	s->seed = s->seed * 6364136223846793005ull + 1442695040888963407ull;
	return s->seed >> 33;
}

static struct guest_cpu *create(void)
{
	struct guest_cpu *g = guest_cpu_create(true);

	/* Supervisor pages and SMAP, or data might lie in either half of addresses. */
	for (unsigned n = 0; n < 512; n++)
		g->pt[n] &= ~PTE_U;
	for (unsigned n = 0; n < PAGES - 1; n++)
		g->pt[(FROM >> PAGE_SHIFT) + n] =
			(FROM + (n * 7 % (PAGES - 1) << PAGE_SHIFT)) | PTE_P | PTE_W;
	g->pt[LAST >> PAGE_SHIFT] = g->pt[(FROM >> PAGE_SHIFT) - 1] = 0;
	g->cpu->cr0 |= CR0_MP;
	g->cpu->cr4 |= CR4_SMAP | CR4_OSFXSR;
	tlb_flush_all(&g->cpu->tlb);
	cpu_update_ctx(g->cpu);
	return g;
}

/* Each loop has a page, for nobody tells the interpreter that another one has come. */
static gva_t place_of(const struct loop *l)
{
	return CODE_GPA + (l - loops) * PAGE_SIZE;
}

/* Without a count of instructions in compiled code, as VCPUs have it. */
static void translate(struct guest_cpu *g)
{
	guest_cpu_translate_as(g,
			       (struct interp_config){.translate_after = 1, .until_kicked = true});
}

static void set_up(struct sides *s, struct guest_cpu *g, const struct loop *l, const uint64_t *gpr)
{
	uint64_t was = s->seed;

	memcpy(g->ram + place_of(l), l->code, l->end - l->code);
	s->seed = 1;
	for (unsigned n = 0; n < SIZE; n += 8)
		memcpy(g->ram + FROM + n, &(uint64_t){next(s)}, 8);
	s->seed = was;
	memcpy(g->cpu->gpr, gpr, 16 * sizeof(*gpr));
	g->cpu->exc.cr2 = 0;
}

static void run_both(struct sides *s, const struct loop *l, const uint64_t *gpr)
{
	struct guest_cpu *sides[] = {s->interp, s->bt};
	enum interp_exit e[2];
	struct cpu *a = s->interp->cpu, *b = s->bt->cpu;

	for (unsigned n = 0; n < 2; n++) {
		set_up(s, sides[n], l, gpr);
		e[n] = guest_cpu_run_at(sides[n], place_of(l), MAX_INSNS);
	}
	assert_int_equal(e[0], INTERP_EXCEPTION);
	assert_int_equal(e[1], e[0]);
	assert_int_equal(b->exc.vector, a->exc.vector);
	assert_int_equal(b->exc.cr2, a->exc.cr2);
	assert_int_equal(b->rip, a->rip);
	assert_memory_equal(b->gpr, a->gpr, 16 * sizeof(a->gpr[0]));
	assert_memory_equal(s->bt->ram + FROM, s->interp->ram + FROM, SIZE);
}

/* Registers that no loop moves are somewhere in the pages, or small indices. */
static void choose(struct sides *s, const struct loop *l, uint64_t *gpr)
{
	unsigned most = (LAST - FROM) / 2 / abs(l->stride), rounds = 1 + next(s) % MIN(most, 1500u);
	uint64_t middle = FROM + (LAST - FROM) / 2 + (next(s) & 0xff8), start;

	for (unsigned n = 0; n < 16; n++)
		gpr[n] = FROM + 0x2000 + (next(s) % 0x3000 & ~7ull);
	gpr[RSP] = STACK_TOP;
	gpr[RBX] = 0;
	gpr[R8] = next(s) % 64;
	gpr[R9] = next(s) % 64;
	start = l->stride < 0 ? middle + 0x2000 : FROM + (next(s) & 0xffd);
	if (abs(l->stride) == 1)
		start = next(s) % 4;
	gpr[l->counter] = start;
	if (l->limit != l->counter)
		gpr[l->limit] = start + (int64_t)l->stride * rounds;
	if (l->code == counted_code || l->code == subtracted_code)
		gpr[RCX] = rounds;
	if (l->code == low_half_code)
		gpr[RDX] |= 3ull << 32;
	if (l->code == meet_code)
		gpr[RDX] = start + 16 * rounds;
	if (l->code == lifted_code)
		gpr[RDX] -= 64;
}

static void run_loops(bool counted)
{
	struct sides s = {create(), create(), 7};

	for (unsigned k = 0; k < ARRAY_SIZE(loops); k++) {
		const struct loop *l = &loops[k];

		if (counted)
			guest_cpu_translate(s.bt, false);
		else
			translate(s.bt);
		for (unsigned run = 0; run < RUNS; run++) {
			uint64_t gpr[16];

			choose(&s, l, gpr);
			/* It comes to its limit by no round, or only when it has gone around. */
			if (l->steps_over && run % 8 == 5)
				gpr[l->limit] += 4;
			else if (l->steps_over && run % 8 == 6)
				gpr[l->limit] = gpr[l->counter];
			run_both(&s, l, gpr);
		}
	}
	guest_cpu_destroy(s.bt);
	guest_cpu_destroy(s.interp);
}

static void test_ends(void **state)
{
	run_loops(false);
}

static void test_ends_counted(void **state)
{
	run_loops(true);
}

/* Strip after strip, and nobody would have the VCPU. */
CODE(endless, "1: add (%rsi), %rbx; add $8, %rcx; cmp %rdx, %rcx; jne 1b" END)

static void *want(void *arg)
{
	struct guest_cpu *g = arg;

	/* Any time is good: the loop goes on for years. */
	usleep(20000);
	atomic_store_seq(&g->requests, 1);
	cpu_kick(g->cpu);
	return NULL;
}

static void test_wanted(void **state)
{
	struct guest_cpu *g = create();
	struct cpu *c = g->cpu;
	pthread_t thread;

	translate(g);
	guest_cpu_load(g, CODE_GPA, endless);
	c->gpr[RSI] = FROM;
	c->gpr[RCX] = 0;
	c->gpr[RDX] = 1ull << 60;
	assert_int_equal(pthread_create(&thread, NULL, want, g), 0);
	assert_int_equal(guest_cpu_run_at(g, CODE_GPA, ~0u), INTERP_REQUEST);
	assert_true(c->rip == CODE_GPA);
	assert_true(c->gpr[RCX] > 8000);
	pthread_join(thread, NULL);
	guest_cpu_destroy(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_ends),
					   cmocka_unit_test(test_ends_counted),
					   cmocka_unit_test(test_wanted)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
