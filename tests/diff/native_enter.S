/*
 * native_enter(const struct native_regs *, bool compat): loads everything and goes to native_frame,
 * the code under test, 64-bit or 32-bit. It does not return: the code ends in a trap, and the signal
 * handler leaves by siglongjmp().
 *
 * IRET serialises: the code was stored to at another address, so the processor need not have
 * noticed that what it may have fetched before has changed.
 */
	.text
	.globl native_enter
	.type native_enter, @function
native_enter:
	mov	$7, %eax
	xor	%edx, %edx
	xrstor64 (%rdi)
	lea	1024(%rdi), %rsp	/* struct native_regs.gpr */
	xor	%eax, %eax
	test	%sil, %sil
	jz	1f
	mov	$0x2b, %eax		/* USER_SS: 32-bit code needs data segments */
1:	mov	%eax, %ds
	mov	%eax, %es
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
	lea	native_frame(%rip), %rsp
	iretq
	.size native_enter, . - native_enter

	.bss
	.balign 16
	.globl native_frame
native_frame:				/* RIP, CS, RFLAGS, RSP, SS */
	.skip	40

	.section .note.GNU-stack, "", @progbits
