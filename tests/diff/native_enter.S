/*
 * native_enter(const struct native_regs *, bool compat): loads everything and jumps to the code
 * under test, 64-bit or 32-bit. It does not return: the code ends in a trap, and the signal handler
 * leaves by siglongjmp().
 */
	.macro load_and_jump
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
	ljmpl	*native_target(%rip)
	.endm

	.text
	.globl native_enter
	.type native_enter, @function
native_enter:
	mov	$7, %eax
	xor	%edx, %edx
	xrstor64 (%rdi)
	lea	1024(%rdi), %rsp	/* struct native_regs.gpr */
	test	%sil, %sil
	jnz	1f
	xor	%eax, %eax
	mov	%eax, %ds
	mov	%eax, %es
	pushq	136(%rsp)		/* rflags; below the array is free room */
	popfq
	load_and_jump
1:	mov	$0x2b, %eax		/* USER_SS: 32-bit code needs data segments */
	mov	%eax, %ds
	mov	%eax, %es
	pushq	136(%rsp)
	popfq
	load_and_jump
	.size native_enter, . - native_enter

	.bss
	.balign 8
	.globl native_target
native_target:				/* offset and selector */
	.skip	6

	.section .note.GNU-stack, "", @progbits
