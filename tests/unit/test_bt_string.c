/* Strings of bits and bytes, and sixteen bytes at once, in compiled code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/bt_scenario.h"

/* Bits by numbers that are within the operand or not; the base is a register that is in memory. */
CODE(bits, "lea 32(%rdi), %r15; mov $63, %ecx\n"
	   "1: movsbq %bl, %rcx; bts %rcx, (%r15); mov %r15, %rdx; setc %al; add %rax, %r8\n"
	   "movsbq %r8b, %r10; lock btc %r10, 8(%r15); adc %r9, %rbp; and $0x3f, %r10d\n"
	   "btr %r10d, (%rdi); adc %rdx, %rbp; cmp %r8, %r9; bt %rcx, (%r15); pushfq; pop %rsi\n"
	   "and $0x41, %esi; add %rsi, %rbp; btc %cx, 4(%r15); adc $0, %rbp\n"
	   "rol $3, %rbx; dec %r12d; jnz 1b; ud2")
SCENARIO(bits, bits, NULL)

static uint64_t *second_page(struct guest_cpu *g)
{
	return &g->pt[(DATA_GPA >> PAGE_SHIFT) + 1];
}

/*
 * The second page is there or not, and was not accessed before. It does not lie behind the first
 * one in the guest's memory, so not in the host's.
 */
static void map_second(struct guest_cpu *g, bool present)
{
	*second_page(g) = (DATA_GPA + 5 * PAGE_SIZE) | PTE_W | PTE_U | (present ? PTE_P : 0);
}

/* Bits of an operand at the end of the first page, or just behind it, or far from it. */
CODE(far_bits,
     "mov %rdx, 8(%rdi); lea 0xff8(%rdi), %r15; btr %rcx, (%r15); adc %rax, %rbx; bt %rcx, (%r15)\n"
     "adc %rbx, (%rdi); ud2")

static void any_far_bit(struct guest_cpu *g, unsigned round)
{
	static const int64_t bits[] = {63, 64, 65, -1, 127, -0x7000};

	map_second(g, round % 5);
	memset(g->ram + DATA_GPA + PAGE_SIZE, round, PAGE_SIZE);
	memset(g->ram + DATA_GPA + 5 * PAGE_SIZE, ~round, PAGE_SIZE);
	g->cpu->gpr[RCX] = bits[round % 6];
}
SCENARIO(far_bits, far_bits, any_far_bit)

/*
 * The operand is in the second page, the bit is not. What is not stored to does not become dirty,
 * and need not even be there.
 */
CODE(clean, "lea 0x1000(%rdi), %r15; btr %rcx, (%r15); adc %rax, (%rdi)\n"
	    "mov 0x80000 + 0x3000 + 8 * 0x21, %rdx; and $0x40, %edx; ud2")

static void far_away(struct guest_cpu *g, unsigned round)
{
	map_second(g, round % 5);
	g->cpu->gpr[RCX] = -0x7000 - (int64_t)round;
}
SCENARIO(clean, clean, far_away)

#define REP(insn)                                                                          \
	"adc %rdi, %rbx; add %rsi, %rbp; lea (%r15, %r13), %rdi; lea (%r15, %r10), %rsi\n" \
	"mov %r14, %rcx; cmp %r8, %r9; rep " insn "\n"
#define REPS(name) REP(name "b") REP(name "w") REP(name "l") REP(name "q")

CODE(strings, "mov %rdi, %r15\n"
	      "1: " REPS("movs") REPS("stos") "add 0xff8(%r15), %rbx; add 0x1000(%r15), %rbx\n"
					      "add 0xfec(%r15), %rbp; dec %r12d; jnz 1b; ud2")

static void any_string(struct guest_cpu *g, unsigned round)
{
	static const uint16_t at[] = {0, 3, 0xff0, 0xffd, 0xfc0, 0x1000, 16};
	static const uint16_t counts[] = {0, 1, 3, 8, 17, 513};
	struct cpu *c = g->cpu;

	map_second(g, round % 4);
	c->rflags |= round % 9 == 8 ? FLAG_DF : 0;
	c->gpr[R13] = at[round % 7];
	c->gpr[R10] = at[round / 3 % 7] + round % 2;
	c->gpr[R14] = counts[round % 6];
}
SCENARIO(strings, strings, any_string)

/* So many that their bytes come round, up to the page that is not there. */
CODE(endless, "mov %rax, (%rdi); rep stosq; ud2")

static void any_endless(struct guest_cpu *g, unsigned round)
{
	static const uint64_t counts[] = {1ull << 61, (1ull << 61) + 1, 5ull << 61, ~0ull,
					  1ull << 63};

	map_second(g, false);
	g->cpu->gpr[RCX] = counts[round % 5];
	g->cpu->gpr[RDI] += round % 3 ? 16 : 0xff0;
}
SCENARIO(endless, endless, any_endless)

CODE(pair, "lea 16(%rdi), %r15\n"
	   "1: mov (%r15), %rax; mov 8(%r15), %rdx; test $1, %r12d; jz 2f; not %rdx\n"
	   "2: mov %r8, %rbx; mov %r9, %rcx; cmp %r8, %rbp; lock cmpxchg16b (%r15, %r13)\n"
	   "setz %bpl; pushfq; pop %rsi; add %rsi, %r14; add %rdx, %r8; dec %r12d; jnz 1b; ud2")

static void any_pair(struct guest_cpu *g, unsigned round)
{
	g->cpu->gpr[R13] = round % 5 == 3 ? 8 : round % 5 == 4 ? 1 : 0;
}
SCENARIO(pair, pair, any_pair)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(bits), TEST(far_bits), TEST(clean), TEST(endless), TEST(strings), TEST(pair),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
