/*
 * native_enter(const struct native_regs *): loads everything and jumps to the code under test.
 * It does not return: the code ends in a trap, and the signal handler leaves by siglongjmp().
 */
	.text
	.globl native_enter
	.type native_enter, @function
native_enter:
	mov	$7, %eax
	xor	%edx, %edx
	xrstor64 (%rdi)
	mov	%rdi, %rsp
	add	$1024, %rsp		/* struct native_regs.gpr */
	pushq	136(%rsp)		/* rflags, below the array: the area ends at 832 */
	popfq
	mov	0(%rsp), %rax
	mov	8(%rsp), %rcx
	mov	16(%rsp), %rdx
	mov	24(%rsp), %rbx
	mov	40(%rsp), %rbp
	mov	48(%rsp), %rsi
	mov	56(%rsp), %rdi
	mov	64(%rsp), %r8
	mov	72(%rsp), %r9
	mov	80(%rsp), %r10
	mov	88(%rsp), %r11
	mov	96(%rsp), %r12
	mov	104(%rsp), %r13
	mov	112(%rsp), %r14
	mov	120(%rsp), %r15
	mov	32(%rsp), %rsp
	jmp	*native_target(%rip)
	.size native_enter, . - native_enter

	.section .rodata
	.balign 8
native_target:
	.quad	0x10000000		/* CODE_BASE */

	.section .note.GNU-stack, "", @progbits
