/*
 * Start of every guest: multiboot header, protected mode to long mode, descriptor tables, exception
 * entry, and the report of failures. Success is 0x10 written to the debug-exit port, failure 0x20.
 */
#include "guest.h"

#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 3

	.section .multiboot, "a"
	.balign 4
	.long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

	.text
	.code32
	.globl _start
_start:
	cli
	cld
	movl $boot_stack_top, %esp
	lgdt gdt_pointer
	ljmp $SEL_CODE32, $1f
1:
	call enable_long_mode
	ljmp $SEL_CODE64, $start64

/* Data segments, and long mode with the boot tables, still in a 32-bit code segment. */
	.globl enable_long_mode
enable_long_mode:
	movl $SEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	movl $BOOT_CR4, %eax
	movl %eax, %cr4
	movl $boot_pml4, %eax
	movl %eax, %cr3
	movl $MSR_EFER, %ecx
	movl $(EFER_SCE | EFER_LME | EFER_NXE), %eax
	xorl %edx, %edx
	wrmsr
	movl $BOOT_CR0, %eax
	movl %eax, %cr0
	ret

	.code64
start64:
	movq $boot_stack_top, %rsp
	call fill_idt
	lidt idt_pointer
	xorl %edi, %edi
	call load_tss
	/* The legacy interrupt controllers say nothing unless a guest asks. */
	movb $0xff, %al
	outb %al, $0x21
	outb %al, $0xa1
	movl $0x40000000, %eax
	cpuid
	cmpl $0x54474354, %ebx		/* "TCGT" */
	sete under_tcg
	call main
	.globl success
success:
	movq $text_ok, %rsi
	call puts
	movb $0x10, %al
	outb %al, $0xf4
1:	cli
	hlt
	jmp 1b

/* The TSS of CPU %edi: its stack for exceptions from user mode, and IST1 and IST2. */
	.globl load_tss
load_tss:
	movl %edi, %ecx
	shll $7, %ecx			/* TSS_SIZE */
	leaq tss(%rcx), %rax
	movl %edi, %ecx
	shll $4, %ecx
	leaq gdt + SEL_TSS(%rcx), %rdx
	movw $0x67, (%rdx)
	movw %ax, 2(%rdx)
	shrl $16, %eax
	movb %al, 4(%rdx)
	movb $0x89, 5(%rdx)
	movb $0, 6(%rdx)
	movb %ah, 7(%rdx)
	movq $0, 8(%rdx)
	leal SEL_TSS(%rcx), %eax
	ltr %ax
	ret

fill_idt:
	xorl %ecx, %ecx
1:	movl %ecx, %eax
	shll $4, %eax
	leaq stubs(%rax), %rdx
	leaq idt(%rax), %rdi
	movw %dx, (%rdi)
	movw $SEL_CODE64, 2(%rdi)
	movw $0x8e00, 4(%rdi)
	shrq $16, %rdx
	movw %dx, 6(%rdi)
	movq $0, 8(%rdi)
	incl %ecx
	cmpl $256, %ecx
	jb 1b
	/* Breakpoints, overflow and the system call are open to user mode. */
	movb $0xee, idt + 16 * VEC_BP + 5
	movb $0xee, idt + 16 * VEC_OF + 5
	movb $0xee, idt + 16 * VEC_USER + 5
	/* Double faults have a stack of their own. */
	movb $1, idt + 16 * VEC_DF + 4
	ret

/* --- exceptions --------------------------------------------------------------------------- */

	.balign 16
	.globl stubs
stubs:
	.set vector, 0
	.rept 256
	.balign 16
	.if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17
	.else
	pushq $0
	.endif
	pushq $vector
	jmp exception_entry
	.set vector, vector + 1
	.endr

exception_entry:
	pushq %r15
	pushq %r14
	pushq %r13
	pushq %r12
	pushq %r11
	pushq %r10
	pushq %r9
	pushq %r8
	pushq %rdi
	pushq %rsi
	pushq %rbp
	pushq %rbx
	pushq %rdx
	pushq %rcx
	pushq %rax
	cld
	movq %rsp, %rdi
	movq F_VECTOR(%rdi), %rax
	movq handlers(,%rax,8), %rax
	testq %rax, %rax
	jnz 1f
	movq $record_exception, %rax
1:	movq %rsp, %rbp
	andq $-16, %rsp
	call *%rax
	movq %rbp, %rsp
	popq %rax
	popq %rcx
	popq %rdx
	popq %rbx
	popq %rbp
	popq %rsi
	popq %rdi
	popq %r8
	popq %r9
	popq %r10
	popq %r11
	popq %r12
	popq %r13
	popq %r14
	popq %r15
	addq $16, %rsp
	iretq

/* Keeps what was saved and goes on at exc_resume; without that the exception is a failure. */
	.globl record_exception
record_exception:
	movq F_VECTOR(%rdi), %rax
	movl %eax, exc_vector
	movq F_ERROR(%rdi), %rax
	movl %eax, exc_error
	movq F_RIP(%rdi), %rax
	movq %rax, exc_rip
	movq F_CS(%rdi), %rax
	movq %rax, exc_cs
	movq F_RFLAGS(%rdi), %rax
	movq %rax, exc_rflags
	movq F_RSP(%rdi), %rax
	movq %rax, exc_rsp
	movq F_SS(%rdi), %rax
	movq %rax, exc_ss
	movq %rdi, exc_frame
	movq %cr2, %rax
	movq %rax, exc_cr2
	movq exc_resume, %rax
	testq %rax, %rax
	jz 1f
	movq $0, exc_resume
	movq %rax, F_RIP(%rdi)
	movq $SEL_CODE64, F_CS(%rdi)
	movq $2, F_RFLAGS(%rdi)
	movq exc_resume_rsp, %rax
	movq %rax, F_RSP(%rdi)
	movq $SEL_DATA, F_SS(%rdi)
	ret
1:	xorl %edi, %edi
	movl exc_vector, %esi
	movl $NO_EXC, %edx
	jmp fail_exception

/* --- reports -------------------------------------------------------------------------------- */

/* A vector other than the expected: adds what is known of it. */
	.globl fail_exception
fail_exception:
	pushq %rdi
	pushq %rsi
	pushq %rdx
	movq $text_exception, %rsi
	call puts
	movl exc_error, %edi
	call put_hex
	movq $text_at, %rsi
	call puts
	movq exc_rip, %rdi
	call put_hex
	movq $text_cr2, %rsi
	call puts
	movq exc_cr2, %rdi
	call put_hex
	movq $text_newline, %rsi
	call puts
	popq %rdx
	popq %rsi
	popq %rdi
/* edi: line, rsi: what was found, rdx: what was expected. Does not return. */
	.globl fail
fail:
	cli
	pushq %rdx
	pushq %rsi
	pushq %rdi
	movq $text_fail, %rsi
	call puts
	movq current_test, %rsi
	call puts
	movq $text_line, %rsi
	call puts
	popq %rdi
	call put_dec
	movq $text_got, %rsi
	call puts
	popq %rdi
	call put_hex
	movq $text_expected, %rsi
	call puts
	popq %rdi
	call put_hex
	movq $text_newline, %rsi
	call puts
	movb $0x20, %al
	outb %al, $0xf4
1:	cli
	hlt
	jmp 1b

/* rsi: zero-terminated text to the serial port. Keeps no register but rdi and rbp. */
	.globl puts
puts:
	movb (%rsi), %cl
	testb %cl, %cl
	jz 2f
	movw $0x3fd, %dx
1:	inb %dx, %al
	testb $0x20, %al
	jz 1b
	movw $0x3f8, %dx
	movb %cl, %al
	outb %al, %dx
	incq %rsi
	jmp puts
2:	ret

	.globl put_hex
put_hex:
	movq $number_end - 1, %rsi
1:	movl %edi, %eax
	andl $15, %eax
	movb digits(%rax), %al
	decq %rsi
	movb %al, (%rsi)
	shrq $4, %rdi
	jnz 1b
	decq %rsi
	movb $'x', (%rsi)
	decq %rsi
	movb $'0', (%rsi)
	jmp puts

	.globl put_dec
put_dec:
	movq $number_end - 1, %rsi
	movl %edi, %eax
	movl $10, %ecx
1:	xorl %edx, %edx
	divl %ecx
	addb $'0', %dl
	decq %rsi
	movb %dl, (%rsi)
	testl %eax, %eax
	jnz 1b
	jmp puts

	.section .rodata
digits:		.ascii "0123456789abcdef"
text_ok:	.asciz "ok\n"
text_fail:	.asciz "FAIL "
text_line:	.asciz ", line "
text_got:	.asciz ": got "
text_expected:	.asciz ", expected "
text_exception:	.asciz "exception, error code "
text_at:	.asciz " at "
text_cr2:	.asciz ", cr2 "
text_newline:	.asciz "\n"
text_start:	.asciz "start"

	.data
	.globl current_test
current_test:	.quad text_start
	.globl gdt, gdt_pointer, idt, idt_pointer, tss, boot_pml4, boot_pdpt
	.balign 16
gdt:
	.quad 0
	.quad 0x00af9b000000ffff	/* SEL_CODE64 */
	.quad 0x00cf93000000ffff	/* SEL_DATA */
	.quad 0x00cf9b000000ffff	/* SEL_CODE32 */
	.quad 0x00cffb000000ffff	/* SEL_UCODE32 */
	.quad 0x00cff3000000ffff	/* SEL_UDATA */
	.quad 0x00affb000000ffff	/* SEL_UCODE64 */
	.quad 0x00009b000000ffff	/* SEL_CODE16 */
	.quad 0x000093000000ffff	/* SEL_DATA16 */
	.fill 2 * MAX_CPUS, 8, 0	/* SEL_TSS */
	.quad 0, 0, 0, 0, 0, 0, 0, 0	/* SEL_TEST */
gdt_end:
gdt_pointer:
	.word gdt_end - gdt - 1
	.quad gdt
idt_pointer:
	.word 256 * 16 - 1
	.quad idt

	.balign 4096
boot_pml4:
	.quad boot_pdpt + 3
	.quad user_pdpt + 7
	.fill 510, 8, 0
boot_pdpt:
	.quad boot_pd + 3, boot_pd + 0x1003, boot_pd + 0x2003, boot_pd + 0x3003
	.fill 508, 8, 0
user_pdpt:
	.quad user_pd + 7
	.fill 511, 8, 0
boot_pd:
	.set page, 0
	.rept 2048
	.quad page + 0x83
	.set page, page + 0x200000
	.endr
user_pd:
	.set page, 0
	.rept 512
	.quad page + 0x87
	.set page, page + 0x200000
	.endr

	.balign 128
tss:
	.set cpu, 0
	.rept MAX_CPUS
	.long 0
	.quad trap_stacks + 8192 * (cpu + 1)	/* RSP0 */
	.quad 0, 0, 0
	.quad ist_stacks + 8192 * cpu + 4096	/* IST1 */
	.quad ist_stacks + 8192 * cpu + 8192	/* IST2 */
	.quad 0, 0, 0, 0, 0, 0
	.word 0, 0x68				/* no I/O permission map */
	.balign 128
	.set cpu, cpu + 1
	.endr

	.bss
	.globl exc_vector, exc_error, exc_rip, exc_cs, exc_rflags, exc_rsp, exc_ss, exc_cr2
	.globl under_tcg, exc_resume, exc_resume_rsp, exc_frame, handlers
	.globl user_stack_top, trap_stacks, ist_stacks, boot_stack_top
	.balign 16
exc_vector:	.skip 8
exc_error:	.skip 8
exc_rip:	.skip 8
exc_cs:		.skip 8
exc_rflags:	.skip 8
exc_rsp:	.skip 8
exc_ss:		.skip 8
exc_cr2:	.skip 8
exc_frame:	.skip 8
exc_resume:	.skip 8
exc_resume_rsp:	.skip 8
handlers:	.skip 256 * 8
under_tcg:	.skip 1
number:		.skip 31
number_end:	.skip 1
	.balign 4096
idt:		.skip 4096
trap_stacks:	.skip 8192 * MAX_CPUS
ist_stacks:	.skip 8192 * MAX_CPUS
		.skip 16384
boot_stack_top:
		.skip 4096
user_stack_top:
