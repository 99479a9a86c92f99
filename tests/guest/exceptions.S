/* Every exception the processor can raise by itself: vector, error code, saved address, stack. */
#include "guest.h"

#define GATE(vector) (idt + 16 * (vector))
#define GATE_TYPE(vector) (GATE(vector) + 5)
#define DESC_NOT_PRESENT 0x0000130000000000
/* Makes a gate not present for the instructions given. */
#define ABSENT_GATE(vector, ...)                                                                   \
	andb $0x7f, GATE_TYPE(vector); __VA_ARGS__; orb $0x80, GATE_TYPE(vector)

	.text
	.globl main
main:
	call arithmetic
	call software
	call invalid
	call segments
	call protection
	call privileges
	call double_faults
	call stacks
	call x87_sse
	call alignment
	ret

arithmetic:
	TEST("divide error")
	xorl %edx, %edx
	movl $7, %eax
	xorl %ecx, %ecx
	FAULT(VEC_DE, 0, divl %ecx)
	CHECK_EQ(%rax, 7)
	movl $2, %edx
	movl $2, %ecx
	FAULT(VEC_DE, 0, divl %ecx)	/* quotient too large */
	CHECK_EQ(%rdx, 2)
	movabsq $0x8000000000000000, %rax
	movq $-1, %rdx
	movq $-1, %rcx
	FAULT(VEC_DE, 0, idivq %rcx)
	movw $0x8000, %ax
	movb $1, %cl
	FAULT(VEC_DE, 0, idivb %cl)
	ret

software:
	TEST("software interrupts")
	TRAP(VEC_BP, 0, int3)
	TRAP(0x41, 0, int $0x41)
	TRAP(VEC_USER, 0, int $VEC_USER)
	UNLESS_TCG(TRAP(VEC_DB, 0, .byte 0xf1))	/* INT1 */
	/* A software interrupt pushes no error code, whatever its vector. */
	movq GATE(VEC_GP), %r12
	movq GATE(0x41), %rax
	movq %rax, GATE(VEC_GP)
	TRAP(0x41, 0, int $VEC_GP)
	movq %r12, GATE(VEC_GP)
	ret

invalid:
	TEST("invalid opcode")
	FAULT(VEC_UD, 0, ud2)
	FAULT(VEC_UD, 0, .byte 0x0f, 0xb9, 0xc0)	/* UD1 */
	FAULT(VEC_UD, 0, .byte 0xf0; addl %eax, %ecx)	/* LOCK with a register */
	UNLESS_TCG(FAULT(VEC_UD, 0, .byte 0xf0; movl %eax, (%rsp)))	/* LOCK with MOV */
	FAULT(VEC_UD, 0, .byte 0x06)			/* PUSH ES in 64-bit mode */
	FAULT(VEC_UD, 0, .byte 0x9a, 0, 0, 0, 0, 0, 0)	/* CALL ptr16:32 */
	FAULT(VEC_UD, 0, .byte 0x0f, 0x20, 0xc8)	/* MOV from CR1 */
	FAULT(VEC_UD, 0, .byte 0x8e, 0xc8)		/* MOV to CS */
	FAULT(VEC_UD, 0, .byte 0x8d, 0xc0)		/* LEA of a register */
	TEST("device not available")
	SET_CR(0, BOOT_CR0 | CR0_TS)
	FAULT(VEC_NM, 0, fnop)
	FAULT(VEC_NM, 0, fwait)
	FAULT(VEC_NM, 0, movaps %xmm0, %xmm1)
	SET_CR(0, (BOOT_CR0 | CR0_TS) & ~CR0_MP)
	fwait
	FAULT(VEC_NM, 0, fnop)
	SET_CR(0, BOOT_CR0 | CR0_TS)
	clts
	fnop
	SET_CR(0, BOOT_CR0 | CR0_EM)
	FAULT(VEC_NM, 0, fnop)
	FAULT(VEC_UD, 0, movaps %xmm0, %xmm1)
	SET_CR(0, BOOT_CR0)
	SET_CR(4, BOOT_CR4 & ~CR4_OSFXSR)
	FAULT(VEC_UD, 0, movaps %xmm0, %xmm1)
	SET_CR(4, BOOT_CR4)
	ret

segments:
	TEST("segment faults")
	xorl %eax, %eax
	lldt %ax
	movabsq $DESC_NOT_PRESENT, %rax
	movq %rax, gdt + SEL_TEST
	movl $SEL_TEST, %eax
	FAULT(VEC_NP, SEL_TEST, movl %eax, %ds)
	FAULT(VEC_NP, SEL_TEST, movl %eax, %fs)
	FAULT(VEC_SS, SEL_TEST, movl %eax, %ss)
	movl $SEL_TEST + 1, %eax
	FAULT(VEC_GP, SEL_TEST, movl %eax, %ss)		/* RPL is not CPL; no RPL in the code */
	movl $0x200, %eax
	FAULT(VEC_GP, 0x200, movl %eax, %es)		/* beyond the table */
	movl $SEL_TEST | 4, %eax
	FAULT(VEC_GP, SEL_TEST | 4, movl %eax, %es)	/* no LDT */
	movl $SEL_TSS, %eax
	FAULT(VEC_GP, SEL_TSS, movl %eax, %ds)		/* a system descriptor */
	FAULT(VEC_GP, SEL_TSS, ltr %ax)			/* busy already */
	movl $SEL_CODE64, %eax
	FAULT(VEC_GP, SEL_CODE64, movl %eax, %ss)	/* not writable */
	FAULT(VEC_GP, SEL_CODE64, lldt %ax)
	xorl %eax, %eax
	UNLESS_TCG(FAULT(VEC_GP, 0, ltr %ax))
	lldt %ax
	/* Null selectors may be loaded, SS included at CPL 0 of 64-bit mode. */
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $SEL_DATA, %eax
	movl %eax, %ss
	movl %eax, %ds
	movl %eax, %es
	TEST("interrupt gates")
	UNLESS_TCG(ABSENT_GATE(0x41, FAULT(VEC_NP, 0x41 * 8 + 2, int $0x41)))
	/* A fault during the delivery of an exception carries EXT. */
	UNLESS_TCG(ABSENT_GATE(VEC_UD, FAULT(VEC_NP, VEC_UD * 8 + 3, ud2)))
	movb $0x85, GATE_TYPE(0x41)			/* a task gate */
	UNLESS_TCG(FAULT(VEC_GP, 0x41 * 8 + 2, int $0x41))
	movb $0x8e, GATE_TYPE(0x41)
	movw $16 * 0x41 - 1, short_idt
	lidt short_idt
	UNLESS_TCG(FAULT(VEC_GP, 0x41 * 8 + 2, int $0x41))
	lidt idt_pointer
	movw $0, GATE(0x41) + 2				/* null code selector */
	FAULT(VEC_GP, 0, int $0x41)
	movw $SEL_DATA, GATE(0x41) + 2
	FAULT(VEC_GP, SEL_DATA, int $0x41)
	movw $SEL_CODE32, GATE(0x41) + 2		/* not a 64-bit segment */
	FAULT(VEC_GP, SEL_CODE32, int $0x41)
	movw $SEL_CODE64, GATE(0x41) + 2
	ret

protection:
	/* QEMU's interpreter checks little of what follows. */
	cmpb $0, under_tcg
	jne 1f
	call non_canonical
	call registers
1:	ret

non_canonical:
	TEST("non-canonical addresses")
	movabsq $0x800000000000, %rbx
	FAULT(VEC_GP, 0, movl (%rbx), %eax)
	FAULT(VEC_GP, 0, movl %eax, -1(%rbx))		/* the last byte only */
	FAULT(VEC_GP, 0, jmp *%rbx)
	FAULT(VEC_GP, 0, call *%rbx)
	TEST("non-canonical stack")
	movb $2, GATE(VEC_SS) + 4			/* on a stack that works */
	EXPECT(VEC_SS, 0, movq %rbx, %rsp; 74: popq %rax)
	CHECK_RIP(74b)
	EXPECT(VEC_SS, 0, leaq 8(%rbx), %rsp; 74: pushq %rax)
	CHECK_RIP(74b)
	EXPECT(VEC_SS, 0, leaq 8(%rbx), %rsp; 74: call main)
	CHECK_RIP(74b)
	EXPECT(VEC_SS, 0, movq %rbx, %rsp; 74: ret)
	CHECK_RIP(74b)
	EXPECT(VEC_SS, 0, movq %rbx, %rsp; 74: movl 4(%rsp), %eax)
	CHECK_RIP(74b)
	movq %rbx, %rbp
	xorl %ecx, %ecx
	FAULT(VEC_SS, 0, movl (%rbp), %eax)
	FAULT(VEC_SS, 0, movl 8(%rbp,%rcx), %eax)
	FAULT(VEC_SS, 0, leave)
	FAULT(VEC_GP, 0, movl 8(%rcx,%rbp), %eax)	/* RBP as an index does not count */
	movb $0, GATE(VEC_SS) + 4
	ret

registers:
	TEST("control registers and MSRs")
	movl $0xdeadbeef, %ecx
	FAULT(VEC_GP, 0, rdmsr)
	FAULT(VEC_GP, 0, wrmsr)
	movl $MSR_EFER, %ecx
	rdmsr
	orl $0x10000, %eax
	FAULT(VEC_GP, 0, wrmsr)
	movl $0xc0000082, %ecx				/* LSTAR takes canonical addresses only */
	movl $0x8000, %edx
	FAULT(VEC_GP, 0, wrmsr)
	movq $BOOT_CR0 & ~CR0_PE, %rax
	FAULT(VEC_GP, 0, movq %rax, %cr0)
	movq $BOOT_CR0 & ~CR0_PG, %rax
	FAULT(VEC_GP, 0, movq %rax, %cr0)		/* not from a 64-bit segment */
	movq $BOOT_CR0 | 0x20000000, %rax		/* NW without CD */
	FAULT(VEC_GP, 0, movq %rax, %cr0)
	movq $BOOT_CR4 & ~CR4_PAE, %rax
	FAULT(VEC_GP, 0, movq %rax, %cr4)
	movq $BOOT_CR4 | 0x80000000, %rax
	FAULT(VEC_GP, 0, movq %rax, %cr4)
	movq %cr3, %rax
	btsq $60, %rax
	FAULT(VEC_GP, 0, movq %rax, %cr3)
	movl $0x10, %eax
	FAULT(VEC_GP, 0, movq %rax, %cr8)
	ret

/* --- user mode -------------------------------------------------------------------------------- */

#define USER_FAULT(vector, error, ...)                                                             \
	EXPECT(vector, error, ENTER_USER(76f); 76: __VA_ARGS__; ud2); CHECK_USER_RIP(76b);         \
	CHECK_EQ(exc_cs, SEL_UCODE64); CHECK_EQ(exc_ss, SEL_UDATA)

privileges:
	TEST("user mode may not")
	USER_FAULT(VEC_GP, 0, hlt)
	USER_FAULT(VEC_GP, 0, cli)
	USER_FAULT(VEC_GP, 0, sti)
	USER_FAULT(VEC_GP, 0, inb $0x80, %al)
	USER_FAULT(VEC_GP, 0, movq %cr0, %rax)
	USER_FAULT(VEC_GP, 0, movq %rax, %cr3)
	USER_FAULT(VEC_GP, 0, movq %db7, %rax)
	USER_FAULT(VEC_GP, 0, rdmsr)
	USER_FAULT(VEC_GP, 0, wrmsr)
	USER_FAULT(VEC_GP, 0, lgdt gdt_pointer)
	USER_FAULT(VEC_GP, 0, lidt idt_pointer)
	USER_FAULT(VEC_GP, 0, ltr %ax)
	USER_FAULT(VEC_GP, 0, lldt %ax)
	USER_FAULT(VEC_GP, 0, invlpg (%rax))
	USER_FAULT(VEC_GP, 0, clts)
	USER_FAULT(VEC_GP, 0, wbinvd)
	USER_FAULT(VEC_GP, 0, lmsw %ax)
	USER_FAULT(VEC_GP, 0, sysretl)
	USER_FAULT(VEC_GP, 0, swapgs)
	UNLESS_TCG(USER_FAULT(VEC_GP, 0x41 * 8 + 2, int $0x41))	/* the gate is not for user mode */
	USER_FAULT(VEC_PF, 5, movl boot_pml4, %eax)
	TEST("user mode may")
	EXPECT(VEC_USER, 0, ENTER_USER(user_may))
	EXPECT(VEC_BP, 0, ENTER_USER(1f); 1: int3)
	TEST("I/O permission map")
	movw $0x68, tss + 0x66				/* behind the TSS; its limit grows */
	movw $0x68 + 32, gdt + SEL_TSS
	movb $0x89, gdt + SEL_TSS + 5
	movl $SEL_TSS, %eax
	ltr %ax
	movq $-1, tss + 0x68
	movq $-1, tss + 0x70
	movq $-1, tss + 0x78
	movq $-1, tss + 0x80
	andb $0xfe, tss + 0x68 + 0x80 / 8		/* port 0x80 alone */
	EXPECT(VEC_USER, 0, ENTER_USER(1f); 1: inb $0x80, %al; int $VEC_USER)
	USER_FAULT(VEC_GP, 0, inw $0x80, %ax)
	USER_FAULT(VEC_GP, 0, inb $0x81, %al)
	USER_FAULT(VEC_GP, 0, outb %al, $0x7f)
	movw $0x67, gdt + SEL_TSS
	movb $0x89, gdt + SEL_TSS + 5
	movl $SEL_TSS, %eax
	ltr %ax
	USER_FAULT(VEC_GP, 0, inb $0x80, %al)
	TEST("UMIP")
	EXPECT(VEC_USER, 0, ENTER_USER(user_umip))
	movl $7, %eax
	xorl %ecx, %ecx
	cpuid
	btl $2, %ecx
	jnc 1f
	SET_CR(4, BOOT_CR4 | CR4_UMIP)
	USER_FAULT(VEC_GP, 0, sgdt -64(%rsp))
	USER_FAULT(VEC_GP, 0, sidt -64(%rsp))
	USER_FAULT(VEC_GP, 0, sldt %eax)
	USER_FAULT(VEC_GP, 0, smsw %eax)
	USER_FAULT(VEC_GP, 0, str %eax)
	sldt %eax
	str %eax
	CHECK_EQ(%rax, SEL_TSS)
	SET_CR(4, BOOT_CR4)
1:	ret

user_may:
	pushfq
	popq %rax
	orl $0x200, %eax		/* POPF keeps IF as it is, without a fault */
	pushq %rax
	popfq
	pushfq
	popq %rax
	testl $0x200, %eax
	jnz 1f
	smsw %eax
	cpuid
	int $VEC_USER
1:	ud2

user_umip:
	sgdt -64(%rsp)
	sidt -64(%rsp)
	sldt %eax
	str %eax
	smsw %eax
	int $VEC_USER

/* --- faults in the delivery of faults ----------------------------------------------------------- */

double_faults:
	TEST("double fault")
	/* #GP, and its gate is not present: #NP on top of it, both contributory. */
	movabsq $0x800000000000, %rbx
	ABSENT_GATE(VEC_GP, FAULT(VEC_DF, 0, movl (%rbx), %eax))
	/* #UD is benign: the #NP comes alone. */
	UNLESS_TCG(ABSENT_GATE(VEC_UD, FAULT(VEC_NP, VEC_UD * 8 + 3, ud2)))
	/* #PF, and the fault handler's gate is not present. */
	movq $0x100000000, %rbx
	ABSENT_GATE(VEC_PF, FAULT(VEC_DF, 0, movl (%rbx), %eax))
	/* #NP (contributory) during #DE. */
	ABSENT_GATE(VEC_DE, xorl %ecx, %ecx; FAULT(VEC_DF, 0, divl %ecx))
	/* The stack for user exceptions is not mapped: page faults within page faults. */
	movabsq $0x100001000, %rax
	movq %rax, tss + 4
	EXPECT(VEC_DF, 0, ENTER_USER(1f); 1: int $VEC_USER)
	CHECK_USER_RIP(1b)
	EXPECT(VEC_DF, 0, ENTER_USER(1f); 1: ud2)
	movq $trap_stacks + 8192, tss + 4
	CHECK_EQ(exc_cs, SEL_UCODE64)
	ret

stacks:
	TEST("stacks of exceptions")
	/* Same level, no IST: 16-byte aligned below the current top. */
	movq %rsp, %rbp
	andq $-16, %rsp
	subq $8, %rsp
	FAULT(VEC_UD, 0, ud2)
	leaq -8 - 40 - 16 - 120(%rsp), %rax
	cmpq %rax, exc_frame
	CHECK(e)
	leaq (%rsp), %rax
	cmpq %rax, exc_rsp
	CHECK(e)
	movq %rbp, %rsp
	/* IST: the top of that stack, also without a change of level. */
	movb $2, GATE(VEC_UD) + 4
	FAULT(VEC_UD, 0, ud2)
	CHECK_EQ(exc_frame, ist_stacks + 8192 - 40 - 16 - 120)
	CHECK_EQ(exc_ss, SEL_DATA)
	EXPECT(VEC_UD, 0, ENTER_USER(1f); 1: ud2)
	CHECK_EQ(exc_frame, ist_stacks + 8192 - 40 - 16 - 120)
	movb $0, GATE(VEC_UD) + 4
	/* From user mode: the stack of the TSS. */
	EXPECT(VEC_UD, 0, ENTER_USER(1f); 1: ud2)
	CHECK_EQ(exc_frame, trap_stacks + 8192 - 40 - 16 - 120)
	movabsq $UADDR(user_stack_top), %rax
	cmpq %rax, exc_rsp
	CHECK(e)
	/* RF is set in the image of a fault, and not in that of a trap. */
	UNLESS_TCG(testl $0x10000, exc_rflags; CHECK(nz))
	TRAP(VEC_BP, 0, int3)
	testl $0x10000, exc_rflags
	CHECK(z)
	TEST("a trap gate keeps interrupts on")
	movb $0x8f, GATE_TYPE(0x41)
	SET_HANDLER(0x41, note_flags)
	sti
	int $0x41
	cli
	testl $0x200, noted_flags
	CHECK(nz)
	movb $0x8e, GATE_TYPE(0x41)
	sti
	int $0x41
	cli
	testl $0x200, noted_flags
	CHECK(z)
	TEST("nested")
	SET_HANDLER(0x41, nest)
	movl $5, depth
	int $0x41
	CHECK_EQ32(depth, 0)
	SET_HANDLER(0x41, 0)
	ret

note_flags:
	pushfq
	popq %rax
	movl %eax, noted_flags
	ret

nest:
	decl depth
	jz 1f
	int $0x41
1:	ret

x87_sse:
	TEST("x87 and SSE exceptions")
	fninit
	movw $0x0340, -8(%rsp)		/* all unmasked */
	fldcw -8(%rsp)
	fldz
	fld1
	fdivp				/* pending until the next waiting instruction */
	FAULT(VEC_MF, 0, fwait)
	UNLESS_TCG(FAULT(VEC_MF, 0, fld1))
	fnclex
	fwait
	fninit
	ret

alignment:
	TEST("alignment of SSE operands")
	FAULT(VEC_GP, 0, movaps unaligned, %xmm0)
	movups unaligned, %xmm0
	ret

	.data
	.balign 16
	.skip 1
unaligned: .skip 31
	.bss
	.balign 8
noted_flags: .skip 4
depth:	.skip 4
	.data
short_idt: .word 0
	.quad idt
