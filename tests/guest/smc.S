/*
 * Code that changes under the processors' feet: by the processor that runs it, and by another one,
 * with the protocols that the manuals (SDM volume 3, 9.1.3) and Linux's text_poke() prescribe.
 */
#include "guest.h"

#define ROUNDS 3000		/* by one processor */
#define MP_ROUNDS 500		/* by several, which wait for each other */
#define VEC_SYNC 0x60
#define VEC_STOP 0x61

	.text
	.globl main, ap_main
main:
	call own_code
	SET_HANDLER(VEC_SYNC, serialise)
	SET_HANDLER(VEC_STOP, stop)
	SET_HANDLER(VEC_BP, patched_breakpoint)
	call smp_start
	cmpl $1, ncpus
	je 1f
	xorl %edi, %edi
	call all_cpus
1:	ret

ap_main:
	jmp all_cpus

/* --- one processor -------------------------------------------------------------------------------- */

own_code:
	TEST("store, then jump")
	movl $ROUNDS, %r12d
1:	movl %r12d, victim + 1
	call victim
	cmpl %eax, %r12d
	CHECK(e)
	decl %r12d
	jnz 1b

	TEST("the next instruction of straight code")
	movl $ROUNDS, %r12d
1:	movl %r12d, 2f - 4
	movl $0, %eax
2:	cmpl %eax, %r12d
	CHECK(e)
	decl %r12d
	jnz 1b

	TEST("opcode bytes: INC becomes DEC and back")
	movl $ROUNDS, %r12d
	xorl %ebx, %ebx
1:	movb $0xc3, 2f + 1			/* inc %ebx */
2:	incl %ebx
	movb $0xcb, 3f + 1			/* dec %ebx */
3:	incl %ebx
	movb $0xc3, 3b + 1
	decl %r12d
	jnz 1b
	CHECK_EQ(%rbx, 0)

	TEST("targets of jumps and calls")
	movl $ROUNDS, %r12d
1:	movl $target_a - 3f, 3f - 4
	call 2f
	CHECK_EQ(%rax, 1)
	movl $target_b - 3f, 3f - 4
	call 2f
	CHECK_EQ(%rax, 2)
	decl %r12d
	jnz 1b
	jmp 4f
2:	.byte 0xe9				/* jmp rel32 */
	.long 0
3:	ud2
4:
	TEST("an instruction that crosses pages")
	movl $ROUNDS, %r12d
1:	movl %r12d, crossing + 1
	call crossing
	cmpl %eax, %r12d
	CHECK(e)
	decl %r12d
	jnz 1b

	TEST("string stores over code")
	movl $ROUNDS / 4, %r12d
1:	movq $code_a, %rsi
	movq $generated, %rdi
	movl $code_a_end - code_a, %ecx
	rep movsb
	call generated
	CHECK_EQ(%rax, 1)
	movq $code_b, %rsi
	movq $generated, %rdi
	movl $code_a_end - code_a, %ecx
	rep movsb
	call generated
	CHECK_EQ(%rax, 2)
	decl %r12d
	jnz 1b

	TEST("locked and exchanging stores over code")
	movl $ROUNDS, %r12d
1:	lock incl victim + 1
	movl %r12d, %ecx
	xchgl %ecx, victim + 1
	call victim
	cmpl %eax, %r12d
	CHECK(e)
	movl victim + 1, %eax
	leal 7(%rax), %ecx
	lock cmpxchgl %ecx, victim + 1
	call victim
	leal 7(%r12), %ecx
	cmpl %eax, %ecx
	CHECK(e)
	decl %r12d
	jnz 1b

	TEST("vector stores over code")
	movl $ROUNDS, %r12d
1:	movups code_a, %xmm0
	movups %xmm0, generated
	call generated
	CHECK_EQ(%rax, 1)
	movups code_b, %xmm0
	movups %xmm0, generated
	call generated
	CHECK_EQ(%rax, 2)
	decl %r12d
	jnz 1b

	TEST("through another address of the page, then serialised")
	movl $ROUNDS, %r12d
	movq $alias_pdpt + 3, boot_pml4 + 16
	movq $alias_pd + 3, alias_pdpt
	movq $0x83, alias_pd
	movabsq $0x10000000000 + victim + 1, %rbx
1:	movl %r12d, (%rbx)
	xorl %eax, %eax
	pushq %rbx
	cpuid
	popq %rbx
	call victim
	cmpl %eax, %r12d
	CHECK(e)
	decl %r12d
	jnz 1b

	TEST("code on the stack")
	movl $ROUNDS, %r12d
1:	movl %r12d, %eax
	shlq $8, %rax
	movb $0xb8, %al				/* mov $imm32, %eax */
	movabsq $0xc30000000000, %rcx		/* ret */
	orq %rcx, %rax
	pushq %rax
	call *%rsp
	addq $8, %rsp
	cmpl %eax, %r12d
	CHECK(e)
	decl %r12d
	jnz 1b

	TEST("many pages of generated code, rewritten")
	movl $8, %r13d
1:	movq $generated, %rdi
	movl $256, %r12d
2:	movl %r12d, %eax
	addl %r13d, %eax
	movb $0xb8, (%rdi)
	movl %eax, 1(%rdi)
	movb $0xc3, 5(%rdi)
	addq $1040, %rdi
	decl %r12d
	jnz 2b
	movq $generated, %rdi
	movl $256, %r12d
3:	call *%rdi
	leal (%r12,%r13), %ecx
	cmpl %eax, %ecx
	CHECK(e)
	addq $1040, %rdi
	decl %r12d
	jnz 3b
	decl %r13d
	jnz 1b
	ret

target_a:
	movl $1, %eax
	ret
target_b:
	movl $2, %eax
	ret

code_a:	movl $1, %eax
	.fill 9, 1, 0x90
	ret
	.byte 0
code_a_end:
code_b:	movl $2, %eax
	.fill 9, 1, 0x90
	ret
	.byte 0

/* --- several processors ----------------------------------------------------------------------------- */

all_cpus:
	pushq %rbp
	movl %edi, %ebp
	movl $LAPIC, %r15d
	call barrier
	call by_flag
	call barrier
	call by_stopping
	call barrier
	call by_breakpoint
	call barrier
	call with_neighbours
	call barrier
	popq %rbp
	ret

/*
 * The writer changes code, then raises the version; a reader that sees the new version serialises
 * and must run the new code.
 */
by_flag:
	testl %ebp, %ebp
	jnz 2f
	TEST("cross-modifying code, by a flag")
	movl $1, %r12d
1:	movl $0, readers
	movl %r12d, shared_code + 1
	movl %r12d, version
3:	pause
	movl readers, %eax
	incl %eax
	cmpl ncpus, %eax
	jne 3b
	incl %r12d
	cmpl $MP_ROUNDS, %r12d
	jb 1b
	ret
2:	movl $1, %r12d
1:	pause
	cmpl %r12d, version
	jne 1b
	xorl %eax, %eax
	cpuid
	call shared_code
	cmpl %eax, %r12d
	CHECK(e)
	lock incl readers
	incl %r12d
	cmpl $MP_ROUNDS, %r12d
	jb 1b
	ret

/* As by stop_machine(): all others wait in an interrupt handler while one writes. */
stop:
	lock incl stopped
1:	pause
	cmpl $0, may_go
	je 1b
	lock decl stopped
	pushq %rdi
	xorl %eax, %eax
	cpuid
	popq %rdi
	movl $LAPIC, %edx
	movl $0, APIC_EOI(%rdx)
	ret

by_stopping:
	testl %ebp, %ebp
	jnz 2f
	TEST("cross-modifying code, by stopping the others")
	movl $1, %r12d
1:	movl $0, may_go
	APIC_WRITE(APIC_ICR, 0xc4000 | VEC_STOP)
3:	pause
	movl stopped, %eax
	incl %eax
	cmpl ncpus, %eax
	jne 3b
	movl %r12d, stopped_code + 1
	movl %r12d, stopped_version
	movl $1, may_go
4:	pause
	cmpl $0, stopped
	jne 4b
	incl %r12d
	cmpl $MP_ROUNDS / 5, %r12d
	jb 1b
	movl $1, stopping_done
	ret
2:	sti
1:	movl stopped_version, %r12d
	call stopped_code
	cmpl %r12d, %eax		/* the version cannot be older than was known before */
	CHECK(ae)
	cmpl $0, stopping_done
	je 1b
	cli
	ret

/*
 * As by text_poke(): a breakpoint over the first byte, then the tail, then the first byte, with every
 * processor serialised after each step. The tail's bytes are all the same, so that a mixture shows.
 */
serialise:
	pushq %rdi
	xorl %eax, %eax
	cpuid
	popq %rdi
	lock incl serialised
	movl $LAPIC, %edx
	movl $0, APIC_EOI(%rdx)
	ret

/* Emulates the instruction under the breakpoint as "any value". */
patched_breakpoint:
	cmpq $poked + 1, F_RIP(%rdi)
	jne 1f
	movq $poked + 5, F_RIP(%rdi)
	movq $0, F_RAX(%rdi)
	lock incl breakpoints
	ret
1:	FAIL()

sync_others:
	movl $0, serialised
	APIC_WRITE(APIC_ICR, 0xc4000 | VEC_SYNC)
1:	pause
	movl serialised, %eax
	incl %eax
	cmpl ncpus, %eax
	jne 1b
	ret

by_breakpoint:
	testl %ebp, %ebp
	jnz 2f
	TEST("cross-modifying code, by breakpoints")
	movl $1, %r12d
1:	movb $0xcc, poked
	call sync_others
	movl %r12d, %eax
	andl $0x7f, %eax
	imull $0x01010101, %eax, %eax
	movl %eax, poked + 1
	call sync_others
	movb $0xb8, poked
	call sync_others
	incl %r12d
	cmpl $MP_ROUNDS / 5, %r12d
	jb 1b
	movl $1, poking_done
	ret
2:	sti
1:	call poked
	movl %eax, %ecx
	rorl $8, %ecx
	cmpl %eax, %ecx
	CHECK(e)
	cmpl $0, poking_done
	je 1b
	cli
	ret

/*
 * One page of code, at an address of each processor's own. Behind it each has a page of its own,
 * which the code calls and jumps to. Then another common one, to whose last instruction it jumps,
 * and that goes on in a page of its own.
 */
#define WINDOWS 0x18000000000
#define WINDOW_BITS 21

with_neighbours:
	testl %ebp, %ebp
	jnz 2f
	TEST("the same code with another neighbour for each processor")
	movq $window_pdpt + 3, boot_pml4 + 24
	movq $window_pd + 3, window_pdpt
	movq $window_pt + 3, %rax
	movq $neighbours + 3, %rdx
	movq $tails + 3, %rsi
	xorl %ecx, %ecx
1:	movq %rax, window_pd(, %rcx, 8)
	movq $common_code + 3, -3(%rax)
	movq %rdx, 8 - 3(%rax)
	movq $common_end + 3, 16 - 3(%rax)
	movq %rsi, 24 - 3(%rax)
	addq $4096, %rsi
	addq $4096, %rax
	addq $4096, %rdx
	incl %ecx
	cmpl $MAX_CPUS, %ecx
	jb 1b
2:	call barrier
	movl %ebp, %ebx
	shlq $WINDOW_BITS, %rbx
	movabsq $WINDOWS, %rax
	addq %rax, %rbx
	movl $20 * ROUNDS, %r12d
1:	call *%rbx
	cmpl %eax, %ebp
	CHECK(e)
	leaq 16(%rbx), %rax
	call *%rax
	cmpl %eax, %ebp
	CHECK(e)
	leaq 32(%rbx), %rax
	call *%rax
	shrl $16, %eax
	cmpl %eax, %ebp
	CHECK(e)
	decl %r12d
	jnz 1b
	ret

	.balign 64
victim:	movl $0, %eax
	ret
	.balign 64
shared_code:
	movl $0, %eax
	ret
	.balign 64
stopped_code:
	movl $0, %eax
	ret
	.balign 64
	.skip 61
poked:	movl $0, %eax			/* crosses cache lines */
	ret

	.balign 4096
	.skip 4093
crossing: movl $0, %eax
	ret
	.balign 4096
common_code:
	call common_code + 4096
	ret
	.balign 16
	jmp common_code + 4096
	.balign 16
	jmp common_code + 3 * 4096 - 3
	.balign 4096
common_end:
	.skip 4093
	.byte 0xb8, 0, 0		/* mov $imm32, %eax */
neighbours:
	.set n, 0
	.rept MAX_CPUS
	movl $n, %eax
	ret
	.balign 4096
	.set n, n + 1
	.endr
tails:
	.set n, 0
	.rept MAX_CPUS
	.byte n, 0			/* of imm32 */
	ret
	.balign 4096
	.set n, n + 1
	.endr

	.data
	.balign 64
version: .long 0
readers: .long 0
stopped: .long 0
may_go:	.long 0
stopped_version: .long 0
stopping_done: .long 0
serialised: .long 0
breakpoints: .long 0
poking_done: .long 0

	.bss
	.balign 4096
alias_pdpt: .skip 4096
alias_pd: .skip 4096
window_pdpt: .skip 4096
window_pd: .skip 4096
window_pt: .skip 4096 * MAX_CPUS
generated: .skip 257 * 1040
