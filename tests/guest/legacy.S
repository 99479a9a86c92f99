/*
 * Without long mode: 32-bit protected mode with and without paging (32-bit and PAE), privilege levels,
 * SYSENTER, and real mode. Ends back in long mode.
 */
#include "guest.h"

#define SEL_TSS32 SEL_TEST	      /* a 32-bit TSS */
#define SEL_GATE32 (SEL_TEST + 0x8)   /* call gate with two parameters, for user mode */
#define SEL_LDT (SEL_TEST + 0x10)
#define SEL_BIG (SEL_TEST + 0x18)     /* data of 4 GiB, for "unreal" mode */
#define SEL_REAL (SEL_TEST + 0x20)    /* 16-bit code at base 1 MiB: the way to real mode */
#define SEL_LDT_DATA 0x4	      /* entry 0 of the LDT */
#define MSR_SYSENTER_CS 0x174
#define RM_CODE 0x9000		      /* real-mode code, copied there */
#define RM_STACK 0x7000
#define P 1
#define W 2
#define U 4
#define A 0x20
#define D 0x40
#define PS 0x80
#define G 0x100

/* Expectations in 32-bit code; the handlers in this file keep what a 32-bit frame holds. */
#define EXPECT32(vector, error, ...)                                                               \
	movl $77f, exc_resume; movl %esp, exc_resume_rsp; movl $NO_EXC, exc_vector; __VA_ARGS__;   \
	77: movl $0, exc_resume; cmpl $(vector), exc_vector; je 78f; movl $__LINE__, fail_line;    \
	movl exc_vector, %esi; movl $(vector), %edx; jmp fail32; 78:                               \
	cmpl $(error), exc_error; je 78f; movl $__LINE__, fail_line; movl exc_error, %esi;         \
	movl $(error), %edx; jmp fail32; 78:
#define CHECK32(what, value)                                                                       \
	cmpl $(value), what; je 78f; movl $__LINE__, fail_line; movl what, %esi;                    \
	movl $(value), %edx; jmp fail32; 78:
#define CHECK32_CC(cc)                                                                             \
	j##cc 78f; movl $__LINE__, fail_line; xorl %esi, %esi; xorl %edx, %edx; jmp fail32; 78:
#define FAULT32(vector, error, ...)                                                                \
	EXPECT32(vector, error, 76: __VA_ARGS__); CHECK32(exc_rip, 76b)
#define TEST32(name)                                                                               \
	.pushsection .rodata; 79: .asciz name; .popsection; movl $79b, current_test
#define UNLESS32_TCG(...) cmpb $0, under_tcg; jne 73f; __VA_ARGS__; 73:
#define ENTER_USER32(label)                                                                        \
	pushl $SEL_UDATA; pushl $user_stack_top; pushl $2; pushl $SEL_UCODE32; pushl $label; iretl

	.text
	.globl main
main:
	movq %rsp, saved_rsp
	call fill_idt32
	pushq $SEL_CODE32
	pushq $1f
	lretq

	.code32
1:	call leave_long_mode
	lidt idt32_pointer
	movl $user32_mode_stack, %esp
	call make_descriptors
	call protected
	call privileges
	call sysenter
	call paging_32
	call paging_pae
	call real_mode
	jmp to_long_mode

to_long_mode:
	call enable_long_mode
	ljmp $SEL_CODE64, $1f
	.code64
1:	lidt idt_pointer
	movq saved_rsp, %rsp
	cmpl $0, failed
	jne 2f
	ret
2:	movl fail_line, %edi
	movl fail_found, %esi
	movl fail_expected, %edx
	jmp fail

	.code32
/* esi, edx: found and expected; the report is made in long mode. */
fail32:
	movl $1, failed
	movl %esi, fail_found
	movl %edx, fail_expected
	movl %cr0, %eax
	andl $~CR0_PG, %eax
	movl %eax, %cr0
	xorl %eax, %eax
	movl %eax, %cr4
	jmp to_long_mode

leave_long_mode:
	movl %cr0, %eax
	andl $~CR0_PG, %eax
	movl %eax, %cr0
	movl $MSR_EFER, %ecx
	rdmsr
	testl $0x400, %eax			/* LMA went with paging */
	jnz 1f
	xorl %eax, %eax
	xorl %edx, %edx
	wrmsr
	movl %eax, %cr4
	ret
1:	hlt

/* --- 32-bit exceptions ----------------------------------------------------------------------------- */

	.balign 16
stubs32:
	.set vector, 0
	.rept 256
	.balign 16
	.if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17
	.else
	pushl $0
	.endif
	pushl $vector
	jmp record32
	.set vector, vector + 1
	.endr

/* Frame: vector, error code, EIP, CS, EFLAGS, and from user mode ESP and SS. */
record32:
	pushl %eax
	pushl %ds
	movl $SEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl 8(%esp), %eax
	movl %eax, exc_vector
	movl 12(%esp), %eax
	movl %eax, exc_error
	movl 16(%esp), %eax
	movl %eax, exc_rip
	movl 20(%esp), %eax
	movl %eax, exc_cs
	movl 24(%esp), %eax
	movl %eax, exc_rflags
	movl 28(%esp), %eax
	movl %eax, exc_rsp
	movl 32(%esp), %eax
	movl %eax, exc_ss
	movl %esp, exc_frame
	movl %cr2, %eax
	movl %eax, exc_cr2
	popl %eax				/* the interrupted DS */
	popl %eax
	cmpl $0, exc_resume
	je 1f
	movl exc_resume_rsp, %esp
	jmp *exc_resume
1:	movl $0, fail_line
	movl exc_vector, %esi
	movl exc_rip, %edx
	jmp fail32

	.code64
fill_idt32:
	xorl %ecx, %ecx
1:	movl %ecx, %eax
	shll $4, %eax
	leal stubs32(%rax), %edx
	movw %dx, idt32(,%rcx,8)
	movw $SEL_CODE32, idt32 + 2(,%rcx,8)
	movw $0x8e00, idt32 + 4(,%rcx,8)
	shrl $16, %edx
	movw %dx, idt32 + 6(,%rcx,8)
	incl %ecx
	cmpl $256, %ecx
	jb 1b
	movb $0xee, idt32 + 8 * VEC_USER + 5
	movb $0xee, idt32 + 8 * VEC_OF + 5
	ret

	.code32
make_descriptors:
	movl $tss32, %eax
	movw $0x67, gdt + SEL_TSS32
	movw %ax, gdt + SEL_TSS32 + 2
	shrl $16, %eax
	movb %al, gdt + SEL_TSS32 + 4
	movb $0x89, gdt + SEL_TSS32 + 5
	movw $0, gdt + SEL_TSS32 + 6
	movl $trap_stacks + 8192, tss32 + 4
	movl $SEL_DATA, tss32 + 8
	movl $SEL_TSS32, %eax
	ltr %ax
	movl $gate32, %eax
	movw %ax, gdt + SEL_GATE32
	movw $SEL_CODE32, gdt + SEL_GATE32 + 2
	movw $0xec02, gdt + SEL_GATE32 + 4	/* two parameters */
	shrl $16, %eax
	movw %ax, gdt + SEL_GATE32 + 6
	movl $ldt, %eax
	movw $7, gdt + SEL_LDT
	movw %ax, gdt + SEL_LDT + 2
	shrl $16, %eax
	movb %al, gdt + SEL_LDT + 4
	movb $0x82, gdt + SEL_LDT + 5
	movw $0, gdt + SEL_LDT + 6
	movl $0x0000ffff, gdt + SEL_BIG
	movl $0x00cf9300, gdt + SEL_BIG + 4
	movl $0x0000ffff, gdt + SEL_REAL
	movl $0x00009b10, gdt + SEL_REAL + 4
	ret

/* --- protected mode without paging --------------------------------------------------------------------- */

protected:
	TEST32("32-bit exceptions")
	FAULT32(VEC_UD, 0, ud2)
	xorl %ecx, %ecx
	FAULT32(VEC_DE, 0, divl %ecx)
	EXPECT32(VEC_BP, 0, int3; 76: nop)
	CHECK32(exc_rip, 76b)
	CHECK32(exc_cs, SEL_CODE32)
	movl $0x400, %eax
	FAULT32(VEC_GP, 0x400, movl %eax, %ds)
	andb $0x7f, idt32 + 8 * 0x41 + 5
	FAULT32(VEC_NP, 0x41 * 8 + 2, int $0x41)
	orb $0x80, idt32 + 8 * 0x41 + 5
	TEST32("LDT")
	movl $0x1000000f, ldt			/* data, limit 0xf, base 0x1000 */
	movl $0x00409300, ldt + 4
	movl $SEL_LDT, %eax
	lldt %ax
	sldt %ebx
	CHECK32(%ebx, SEL_LDT)
	movl $0x5a5a, 0x100c
	movl $SEL_LDT_DATA, %eax
	movl %eax, %fs
	movl %fs:0xc, %ebx
	CHECK32(%ebx, 0x5a5a)
	UNLESS32_TCG(FAULT32(VEC_GP, 0, movl %fs:0xd, %ebx))
	movl $SEL_LDT_DATA + 8, %eax
	FAULT32(VEC_GP, SEL_LDT_DATA + 8, movl %eax, %fs)
	xorl %eax, %eax
	lldt %ax
	movl %eax, %fs
	ret

privileges:
	TEST32("user mode, 32 bits")
	EXPECT32(VEC_USER, 0, ENTER_USER32(1f); 1: int $VEC_USER)
	CHECK32(exc_cs, SEL_UCODE32)
	CHECK32(exc_ss, SEL_UDATA)
	CHECK32(exc_rsp, user_stack_top)
	CHECK32(exc_frame, trap_stacks + 8192 - 36)
	EXPECT32(VEC_GP, 0, ENTER_USER32(1f); 1: hlt)
	EXPECT32(VEC_GP, 0x41 * 8 + 2, ENTER_USER32(1f); 1: int $0x41)
	EXPECT32(VEC_GP, 0, ENTER_USER32(1f); 1: movl %cr0, %eax)
	EXPECT32(VEC_OF, 0, ENTER_USER32(1f); 1: movb $0x7f, %al; incb %al; into)
	TEST32("call gate with parameters")
	EXPECT32(VEC_USER, 0, ENTER_USER32(user_call))
	CHECK32(gate_param, 0x1111)
	CHECK32(gate_param + 4, 0x2222)
	CHECK32(exc_cs, SEL_UCODE32)
	CHECK32(exc_rsp, user_stack_top)	/* the callee released its parameters on both stacks */
	ret

user_call:
	pushl $0x1111
	pushl $0x2222
	lcall $SEL_GATE32 + 3, $0
	int $VEC_USER

/* Return address and CS, then the parameters, then the caller's stack. */
gate32:
	movl $SEL_DATA, %eax
	movl %eax, %ds
	movl 12(%esp), %eax
	movl %eax, gate_param
	movl 8(%esp), %eax
	movl %eax, gate_param + 4
	lretl $8

sysenter:
	TEST32("SYSENTER")
	movl $MSR_SYSENTER_CS, %ecx
	xorl %eax, %eax
	xorl %edx, %edx
	wrmsr
	FAULT32(VEC_GP, 0, sysenter)
	lgdt sysenter_gdt_pointer
	movl $MSR_SYSENTER_CS, %ecx
	movl $8, %eax
	wrmsr
	incl %ecx
	movl $trap_stacks + 8192, %eax
	wrmsr
	incl %ecx
	movl $sysenter_target, %eax
	wrmsr
	movl $1f, exc_resume
	movl %esp, exc_resume_rsp
	movl $0, sysenters
	/* SYSENTER's layout: code, data, user code, user data. */
	pushl $0x23
	pushl $user_stack_top
	pushl $2
	pushl $0x1b
	pushl $user_sysenter
	iretl
sysenter_target:
	incl %ss:sysenters
	movl $16, %eax
	movl %eax, %ds
	cmpl $2, sysenters
	je 2f
	movl $user_sysenter_again, %edx
	movl $user_stack_top, %ecx
	sysexit
user_sysenter:
	sysenter
	ud2
user_sysenter_again:
	movl %cs, %eax
	cmpl $0x1b, %eax
	jne 3f
	movl %ss, %eax
	cmpl $0x23, %eax
	jne 3f
	sysenter
3:	ud2
2:	movl %cs, %ebx
	movl %ss, %ecx
	movl %esp, %edx
	movl exc_resume_rsp, %esp
1:	lgdt gdt_pointer
	ljmp $SEL_CODE32, $4f
4:	movl $SEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $0, exc_resume
	CHECK32(sysenters, 2)
	CHECK32(%ebx, 8)
	CHECK32(%ecx, 16)
	CHECK32(%edx, trap_stacks + 8192)
	ret

/* --- 32-bit paging -------------------------------------------------------------------------------------- */

#define VA32 0x40000000			/* entry 256 of the directory */

paging_32:
	TEST32("32-bit paging")
	movl $page_dir, %edi			/* one to one, by 4 MiB pages */
	movl $P | W | PS, %eax
	movl $1024, %ecx
1:	movl %eax, (%edi)
	addl $0x400000, %eax
	addl $4, %edi
	decl %ecx
	jnz 1b
	movl $page_table + P + W + U, page_dir + 4 * 256
	movl $data_page + P + W + U, page_table
	movl $CR4_PSE, %eax
	movl %eax, %cr4
	movl $page_dir, %eax
	movl %eax, %cr3
	movl %cr0, %eax
	orl $CR0_PG | CR0_WP, %eax
	movl %eax, %cr0
	movl $0x1234, data_page + 16
	CHECK32(VA32 + 16, 0x1234)
	movl page_table, %eax
	andl $A | D, %eax
	CHECK32(%eax, A)
	movl $0x5678, VA32 + 16
	movl page_table, %eax
	andl $A | D, %eax
	CHECK32(%eax, A | D)
	CHECK32(data_page + 16, 0x5678)
	movl page_dir + 4 * 256, %eax
	andl $A, %eax
	CHECK32(%eax, A)
	FAULT32(VEC_PF, 2, movl %eax, VA32 + 0x1000)
	CHECK32(exc_cr2, VA32 + 0x1000)
	movl $data_page + P, page_table
	invlpg VA32
	FAULT32(VEC_PF, 3, movl %eax, VA32 + 16)
	movl VA32 + 16, %eax
	EXPECT32(VEC_PF, 5, ENTER_USER32(1f); 1: movl VA32 + 16, %eax)
	TEST32("4 MiB pages")
	movl $0x1000000 + P + W + PS, page_dir + 4 * 257
	movl $0x4321, 0x1000000 + 0x3ffffc
	CHECK32(VA32 + 0x7ffffc, 0x4321)
	movl $0x1000000 + P + W + PS + 0x200000, page_dir + 4 * 257	/* bit 21 is reserved */
	invlpg VA32 + 0x400000
	UNLESS32_TCG(FAULT32(VEC_PF, 9, movl VA32 + 0x400000, %eax))
	jmp paging_off

paging_off:
	movl %cr0, %eax
	andl $~(CR0_PG | CR0_WP), %eax
	movl %eax, %cr0
	xorl %eax, %eax
	movl %eax, %cr3
	movl %eax, %cr4
	ret

paging_pae:
	TEST32("PAE paging")
	movl $page_dir, %edi			/* four directories, one to one by 2 MiB pages */
	movl $P | W | PS, %eax
	movl $2048, %ecx
1:	movl %eax, (%edi)
	movl $0, 4(%edi)
	addl $0x200000, %eax
	addl $8, %edi
	decl %ecx
	jnz 1b
	movl $page_dir + P, pdpt32
	movl $page_dir + 0x1000 + P, pdpt32 + 8
	movl $page_dir + 0x2000 + P, pdpt32 + 16
	movl $page_dir + 0x3000 + P, pdpt32 + 24
	movl $page_table + P + W + U, page_dir + 0x1000
	movl $data_page + P + W + U, page_table
	movl $0, page_table + 4
	movl $CR4_PAE, %eax
	movl %eax, %cr4
	movl $MSR_EFER, %ecx
	movl $EFER_NXE, %eax
	xorl %edx, %edx
	wrmsr
	movl $pdpt32, %eax
	movl %eax, %cr3
	movl %cr0, %eax
	orl $CR0_PG | CR0_WP, %eax
	movl %eax, %cr0
	movl $0x1234, data_page + 16
	CHECK32(VA32 + 16, 0x1234)
	movl $0x5678, VA32 + 16
	CHECK32(data_page + 16, 0x5678)
	movl page_table, %eax
	andl $A | D, %eax
	CHECK32(%eax, A | D)
	movl $0x80000000, page_table + 4	/* NX */
	invlpg VA32
	movl $VA32, %ebx
	EXPECT32(VEC_PF, 0x11, call *%ebx)
	CHECK32(exc_rip, VA32)
	movl VA32 + 16, %eax
	movl $0x40000000, page_table + 4	/* bit 62 is reserved here */
	invlpg VA32
	UNLESS32_TCG(FAULT32(VEC_PF, 9, movl VA32 + 16, %eax))
	movl $0, page_table + 4
	invlpg VA32
	/* The four top entries are registers, loaded by CR3 writes alone. */
	TEST32("PAE top entries")
	movl $page_dir + P, pdpt32 + 8
	UNLESS32_TCG(CHECK32(VA32 + 16, 0x5678))
	movl $0, pdpt32 + 8
	movl %cr3, %eax
	movl %eax, %cr3
	FAULT32(VEC_PF, 0, movl VA32 + 16, %eax)
	movl $page_dir + 0x1000 + P + W, pdpt32 + 8	/* W is reserved in them */
	movl %cr3, %eax
	UNLESS32_TCG(FAULT32(VEC_GP, 0, movl %eax, %cr3))
	call paging_off
	movl $MSR_EFER, %ecx
	xorl %eax, %eax
	xorl %edx, %edx
	wrmsr
	ret

/* --- real mode ---------------------------------------------------------------------------------------- */

real_mode:
	TEST32("real mode")
	movl $rm_start, %esi
	movl $RM_CODE, %edi
	movl $rm_end - rm_start, %ecx
	rep movsb
	movl %esp, saved_esp
	movl $SEL_BIG, %eax			/* FS keeps its limit: "unreal" mode */
	movl %eax, %fs
	lidt rm_idt_pointer
	movl $SEL_DATA16, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	ljmp $SEL_CODE16, $RM_CODE

	.code16
rm_start:
	movl %cr0, %eax
	andl $~CR0_PE, %eax
	movl %eax, %cr0
	ljmp $0, $RM_CODE + 1f - rm_start
1:	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl $RM_STACK, %esp
	xorl %ebx, %ebx				/* bits of what worked */
	/* Segments are base / 16. */
	movl $0x77, 0x6008
	movw $0x600, %ax
	movw %ax, %es
	cmpb $0x77, %es:8
	jne 2f
	orl $1, %ebx
	/* Interrupts through the vector table at 0. */
2:	movw $RM_CODE + rm_int - rm_start, 0x42 * 4
	movw $0, 0x42 * 4 + 2
	movl $0, %ecx
	stc
	int $0x42
	jc 3f
	cmpw $0x4242, %cx
	jne 3f
	cmpw $RM_STACK, %sp
	jne 3f
	orl $2, %ebx
	/* A divide error's saved address is the instruction's. */
3:	movw $RM_CODE + rm_de - rm_start, 0
	movw $0, 2
	xorl %ecx, %ecx
	movw $1, %ax
rm_div:	divb %cl
	cmpw $0xdede, %dx
	jne 4f
	orl $4, %ebx
	/* The limit of 64 KiB holds for DS, whose descriptor was a 16-bit one, and not for FS. */
4:	movw $RM_CODE + rm_gp - rm_start, 13 * 4
	movw $0, 13 * 4 + 2
	movl $0x100000, %esi
	xorl %edx, %edx
rm_far:	addr32 movl (%esi), %eax
	cmpw $0x6666, %dx
	jne 5f
	orl $8, %ebx
5:	addr32 movl %fs:(%esi), %eax
	cmpl $0x1badb002, %eax
	jne 6f
	orl $16, %ebx
	/* Far call and return; the stack wraps within 64 KiB. */
6:	xorl %ecx, %ecx
	lcall $RM_CODE / 16, $rm_callee - rm_start
	cmpl $0x99, %ecx
	jne 7f
	orl $32, %ebx
7:	movw $2, %sp
	pushw $0x1111
	pushw $0x2222
	cmpw $0xfffe, %sp
	jne 8f
	cmpw $0x2222, %ss:0xfffe
	jne 8f
	orl $64, %ebx
8:	movw $RM_STACK, %sp
	/* Back, by way of a data segment for the result. */
	lgdtl %cs:RM_CODE + rm_gdt_pointer - rm_start
	movl %cr0, %eax
	orl $CR0_PE, %eax
	movl %eax, %cr0
	ljmpl $SEL_CODE32, $rm_back

rm_int:	movw $0x4242, %cx
	pushw %bp
	movw %sp, %bp
	andw $~1, 6(%bp)			/* CF of the saved flags */
	popw %bp
	iretw
rm_de:	movw %sp, %bp
	cmpw $RM_CODE + rm_div - rm_start, (%bp)
	jne 1f
	movw $0xdede, %dx
1:	addw $2, (%bp)				/* over the DIVB */
	iretw
rm_gp:	movw %sp, %bp
	cmpw $RM_CODE + rm_far - rm_start, (%bp)
	jne 1f
	movw $0x6666, %dx
1:	addw $4, (%bp)
	iretw
rm_callee:
	movl $0x99, %ecx
	lret
	.balign 4
rm_gdt_pointer:
	.word SEL_TEST + 0x3f
	.long gdt
rm_end:

	.code32
rm_back:
	movl $SEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl saved_esp, %esp
	xorl %eax, %eax
	movl %eax, %fs
	lidt idt32_pointer
	cmpb $0, under_tcg
	je 1f
	orl $8, %ebx				/* QEMU checks no limits */
1:	CHECK32(%ebx, 127)
	ret

	.data
	.balign 8
idt32_pointer: .word 256 * 8 - 1
	.long idt32
rm_idt_pointer: .word 0x3ff
	.long 0
	.balign 8
sysenter_gdt:
	.quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff
sysenter_gdt_end:
sysenter_gdt_pointer: .word sysenter_gdt_end - sysenter_gdt - 1
	.long sysenter_gdt
saved_rsp: .quad 0
saved_esp: .long 0
failed:	.long 0
fail_line: .long 0
fail_found: .long 0
fail_expected: .long 0
gate_param: .long 0, 0
sysenters: .long 0
	.balign 8
ldt:	.quad 0
tss32:	.skip 0x68

	.bss
	.balign 4096
idt32:	.skip 256 * 8
	.balign 32
pdpt32:	.skip 32
	.balign 4096
page_dir: .skip 4 * 4096
page_table: .skip 4096
data_page: .skip 4096
	.skip 4096
user32_mode_stack:
