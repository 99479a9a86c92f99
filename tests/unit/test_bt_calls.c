/* What compiled code does behind a call: with whatever the callee has left, and where it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/bt_scenario.h"

/*
 * Each of these goes around some times, and is compiled when what is behind its calls is known,
 * too.
 */
#define AFTER		   4
#define LOOP(text, callee) "1: " text "\ndec %r12; jnz 1b; hlt; .balign 64\n" callee

/* Flags that the caller had, that the callee sets, and that it brings from a call of its own. */
CODE(carry, LOOP("add %rax, %rcx; call 2f; adc $0, %rbx; setc %dl; sbb %rax, %rsi",
		 "2: lea 5(%rax), %rax; bt $3, %eax; ret"))
CODE(carried,
     LOOP("add %rax, %rcx; call 2f; adc $0, %rbx; rol $1, %rax", "2: lea 3(%rbx), %rbx; ret"))
CODE(passed, LOOP("add $3, %rax; call 2f; jc 3f; add $7, %rbx; 3: lahf; mov %rax, %rcx",
		  "2: call 4f; mov %rbx, %rdx; ret; 4: cmp %rax, %rbx; ret"))
CODE(killed, LOOP("add %rax, %rcx; call 2f; setz %dl; adc $9, %rbx", "2: xor %esi, %esi; ret"))

/* Registers that are in memory, and an address that was known before the call. */
CODE(registers, LOOP("mov %rax, %r10; lea (%rdi,%r10), %r11; mov %rdi, %r15; mov (%r15), %rcx\n"
		     "call 2f; mov 8(%r15), %rdx; add %r10, %rbx; xor %r11, %rbx; mov (%rdi), %rsi",
		     "2: inc %r10; not %r11; lea 8(%rdi), %r15; xor $16, %rdi; ret"))
/* The callee moves RSP, takes what is on the stack, and stores there. */
CODE(stack, LOOP("push %rax; push %rbx; mov 8(%rsp), %rcx; call 2f; mov (%rsp), %rdx\n"
		 "add %rcx, %rdx; add %rsp, %rbx; lea 8(%rsp), %rsp",
		 "2: add $3, 8(%rsp); mov %rcx, 16(%rsp); ret $8"))
/* By a register, by memory, to another page and back, with data relative to RIP. */
CODE(indirect, LOOP("lea 2f(%rip), %rax; call *%rax; add 2f(%rip), %rbx; mov %rax, (%rdi)\n"
		    "call *(%rdi); xor 2f(%rip), %rcx",
		    "2: add $5, %rbx; ret"))
CODE(far_away, LOOP("mov 1b(%rip), %rcx; call 2f; add 1b(%rip), %rbx; lea 1b(%rip), %rsi; call 2f\n"
		    "sub %rsi, %rcx; add 2f(%rip), %rdx",
		    ".fill 4096, 1, 0x90; 2: lea 2b(%rip), %rax; add %rax, %rbx; ret"))
/* Recursion, and a callee that does not return there, or twice. */
CODE(recursive,
     LOOP("mov $6, %ecx; call 2f; add %rbx, %rdx",
	  "2: inc %rbx; dec %ecx; jz 3f; push %rcx; call 2b; pop %rcx; lea (%rbx,%rcx), %rbx\n"
	  "3: ret"))
CODE(elsewhere, LOOP("call 2f; add $1, %rbx; call 3f; add $16, %rbx; 4: add $256, %rbx",
		     "2: add $4096, %rbx; ret; 3: lea 4b(%rip), %rax; mov %rax, (%rsp); ret"))
CODE(twice,
     LOOP("call 2f; add $1, %rbx; push %rsi; test $1, %ebx; lea 3f(%rip), %rax; jnz 4f; pop %rsi\n"
	  "3: add $16, %rdx; jmp 5f; 4: pop %rsi; 5:",
	  "2: mov (%rsp), %rcx; push %rcx; ret"))

static void test_flags(void **state)
{
	static const struct scenario s[] = {
		{.code = carry_code, .code_end = carry_end, .after = AFTER},
		{.code = carried_code, .code_end = carried_end, .after = AFTER},
		{.code = passed_code, .code_end = passed_end, .after = AFTER},
		{.code = killed_code, .code_end = killed_end, .after = AFTER},
	};

	for (unsigned n = 0; n < ARRAY_SIZE(s); n++)
		compare(&s[n]);
}

SCENARIO(registers, registers, NULL, .after = AFTER)
SCENARIO(stack, stack, NULL, .after = AFTER)
SCENARIO(indirect, indirect, NULL, .after = AFTER)
SCENARIO(far_away, far_away, NULL, .after = AFTER)
SCENARIO(recursive, recursive, NULL, .after = AFTER)
SCENARIO(elsewhere, elsewhere, NULL, .after = AFTER)

static void few_rounds(struct guest_cpu *g, unsigned round)
{
	g->cpu->gpr[R12] = 2;
}
SCENARIO(twice, twice, few_rounds, .after = AFTER)

/* What is behind the call faults, at an address and with registers that the callee has left. */
CODE(fault, LOOP("mov (%rdi), %rax; call 2f; add (%rdi), %rax; inc %rbx",
		 "2: inc %rcx; cmp $3, %r12; jne 3f; mov $0x900000, %edi; 3: ret"))
SCENARIO(fault, fault, NULL, .after = AFTER)

/* The callee stores over what is behind the call, when that has been compiled. */
CODE(patch, LOOP("call 2f; mov $1, %eax; add %rax, %rbx",
		 "2: cmp $1, %r12; jne 3f; xorb $2, 1b+6(%rip); 3: ret"))

static void many_rounds(struct guest_cpu *g, unsigned round)
{
	g->cpu->gpr[R12] = 40;
}
SCENARIO(patch, patch, many_rounds, .after = AFTER)

/* Vector registers behind the call, which are saved when the callee leaves compiled code. */
CODE(vectors, LOOP("movq %rax, %xmm1; call 2f; paddq %xmm1, %xmm0; movq %xmm0, %rbx",
		   "2: pause; inc %rax; ret"))

static uint64_t run_vectors(struct guest_cpu *g, unsigned round)
{
	enum interp_exit e;

	begin(g, &(struct scenario){0}, round);
	g->cpu->cr0 |= CR0_MP;
	g->cpu->cr4 |= CR4_OSFXSR;
	cpu_update_ctx(g->cpu);
	do {
		e = interp_run(g->in, MAX_INSNS, false);
		/* As C code may, which has the VCPU's thread now. */
		__asm__ volatile("pcmpeqd %%xmm0, %%xmm0\n"
				 "pxor %%xmm1, %%xmm1" ::
					 : "xmm0", "xmm1");
	} while (e == INTERP_PAUSE);
	assert_int_equal(e, INTERP_HALT);
	return g->cpu->gpr[RBX];
}

static void test_vectors(void **state)
{
	uint64_t want[ROUNDS];

	for (unsigned translate = 0; translate < 2; translate++) {
		struct guest_cpu *g = create(false, false);

		if (translate)
			guest_cpu_translate_after(g, AFTER, false);
		guest_cpu_load(g, CODE_GPA, vectors);
		for (unsigned n = 0; n < ROUNDS; n++) {
			uint64_t got = run_vectors(g, n);

			if (translate)
				assert_int_equal(got, want[n]);
			want[n] = got;
		}
		guest_cpu_destroy(g);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flags),	  cmocka_unit_test(test_registers),
		cmocka_unit_test(test_stack),	  cmocka_unit_test(test_indirect),
		cmocka_unit_test(test_far_away),  cmocka_unit_test(test_recursive),
		cmocka_unit_test(test_elsewhere), cmocka_unit_test(test_twice),
		cmocka_unit_test(test_fault),	  cmocka_unit_test(test_patch),
		cmocka_unit_test(test_vectors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
