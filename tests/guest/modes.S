/* Segmentation around long mode: compatibility mode, far transfers, gates, IRET to every level. */
#include "guest.h"

#define SEL_LIMITED SEL_TEST	      /* data, limit 0xfff */
#define SEL_DOWN (SEL_TEST + 0x8)     /* data, expands down from 0xfff */
#define SEL_RDONLY (SEL_TEST + 0x10)
#define SEL_XONLY (SEL_TEST + 0x18)   /* code that cannot be read */
#define SEL_SPARE (SEL_TEST + 0x20)
#define SEL_GATE (SEL_TEST + 0x28)    /* call gate: two descriptors */
#define SEL_BASED16 (SEL_TEST + 0x38) /* 16-bit code, base 1 MiB */

#define SET_DESC(sel, value) movabsq $value, %rax; movq %rax, gdt + (sel)

/*
 * Runs 32-bit code in compatibility mode; it ends by itself in VEC_USER, or by the exception that is
 * expected. Registers of the end are in the exception's frame.
 */
#define IN32(vector, error, ...)                                                                   \
	EXPECT(vector, error, pushq $SEL_CODE32; pushq $74f; lretq; .code32; 74: __VA_ARGS__;       \
	       int $VEC_USER; .code64)
/* The same with 16-bit code. */
#define IN16(vector, error, ...)                                                                   \
	EXPECT(vector, error, pushq $SEL_BASED16; pushq $74f - 0x100000; lretq; .code16;           \
	       74: __VA_ARGS__; int $VEC_USER; .code64)
#define RESULT(reg, value) movq exc_frame, %rdi; CHECK_EQ(reg(%rdi), value)
#define DATA_SEGMENTS(sel) movl $sel, %eax; movl %eax, %ds; movl %eax, %es

	.text
	.globl main
main:
	movq %rsp, %rbp
	call make_descriptors
	call compatibility
	call sixteen
	UNLESS_TCG(call limits)			/* QEMU checks no limits */
	call queries
	call far_transfers
	call far_errors
	call gates
	call returns
	ret

make_descriptors:
	SET_DESC(SEL_LIMITED, 0x0040930000000fff)
	SET_DESC(SEL_DOWN, 0x0040970000000fff)
	SET_DESC(SEL_RDONLY, 0x00cf91000000ffff)
	SET_DESC(SEL_XONLY, 0x00cf99000000ffff)
	SET_DESC(SEL_BASED16, 0x00009b100000ffff)
	ret

compatibility:
	TEST("compatibility mode")
	IN32(VEC_USER, 0, movl $0x7fffffff, %eax; .byte 0x40)	/* INC EAX, not REX */
	CHECK_EQ(exc_cs, SEL_CODE32)
	movl $0x80000000, %ecx
	movq exc_frame, %rdi
	cmpq %rcx, F_RAX(%rdi)
	CHECK(e)
	testl $0x800, exc_rflags			/* OF */
	CHECK(nz)
	/* A 32-bit push, and PUSHA as one of eight. */
	IN32(VEC_USER, 0, movl %esp, %ebx; pushl %eax; pusha; popa; popl %ecx; subl %esp, %ebx)
	RESULT(F_RBX, 0)
	IN32(VEC_USER, 0, movl %esp, %ebx; pusha; subl %esp, %ebx; addl $32, %esp)
	RESULT(F_RBX, 32)
	IN32(VEC_USER, 0, pushl %ds; popl %ebx)
	RESULT(F_RBX, SEL_DATA)
	IN32(VEC_USER, 0, movl $0x09, %eax; addb $0x08, %al; daa; movzbl %al, %ebx)
	RESULT(F_RBX, 0x17)
	IN32(VEC_USER, 0, movw $0x0c0a, %ax; aad; movzwl %ax, %ebx)
	RESULT(F_RBX, 130)
	IN32(VEC_USER, 0, movl $4, %ebx; movl $text, %esi; addr16 movb 4(%si), %al; nop)
	IN32(VEC_USER, 0, movl $-1, %ebx; .byte 0x8d, 0x5b, 0x05)	/* LEA wraps at 32 bits */
	RESULT(F_RBX, 4)
	IN32(VEC_USER, 0, xorl %eax, %eax; movl $text, %ebx; movb $2, %al; xlat)
	RESULT(F_RAX, 'x')
	TEST("BOUND and INTO")
	IN32(VEC_USER, 0, movl $5, %eax; bound %eax, bounds)
	IN32(VEC_BR, 0, movl $8, %eax; 76: bound %eax, bounds)
	CHECK_RIP(76b)
	IN32(VEC_BR, 0, movl $-4, %eax; 76: bound %eax, bounds)
	IN32(VEC_USER, 0, xorl %eax, %eax; into)
	IN32(VEC_OF, 0, movl $0x7fffffff, %eax; incl %eax; into; 76: nop)
	CHECK_RIP(76b)
	TEST("compatibility mode: what 64-bit mode has, and not")
	IN32(VEC_UD, 0, .byte 0x0f, 0x01, 0xf8)			/* SWAPGS */
	IN32(VEC_USER, 0, ljmp $SEL_CODE32, $73f; ud2; 73: nop)
	IN32(VEC_USER, 0, ljmp $SEL_CODE64, $73f; .code64; 73: movabsq $0x123456789a, %rbx; .code32)
	CHECK_EQ(exc_cs, SEL_CODE64)
	movabsq $0x123456789a, %rax
	movq exc_frame, %rdi
	cmpq %rax, F_RBX(%rdi)
	CHECK(e)
	ret

sixteen:
	TEST("16-bit code")
	IN16(VEC_USER, 0, movl $0x12345678, %ebx; movw $0xffff, %bx; incw %bx)
	RESULT(F_RBX, 0x12340000)
	CHECK_EQ(exc_cs, SEL_BASED16)
	IN16(VEC_USER, 0, movl %esp, %ebx; pushw %ax; subl %esp, %ebx; addw $2, %sp; movzwl %bx, %ebx)
	RESULT(F_RBX, 2)
	IN16(VEC_USER, 0, movl %esp, %ebx; pushl %eax; subl %esp, %ebx; addw $4, %sp; movzwl %bx, %ebx)
	RESULT(F_RBX, 4)
	IN16(VEC_USER, 0, movw $SEL_BASED16, %ax; movw %ax, %gs; movw $text - 0x100000, %si; movzbl %gs:2(%si), %ebx)
	RESULT(F_RBX, 'x')
	IN16(VEC_USER, 0, call 73f; jmp 72f; 73: movl $7, %ebx; ret; 72:)
	RESULT(F_RBX, 7)
	IN16(VEC_USER, 0, movl $0x10003, %ecx; xorl %ebx, %ebx; 73: incl %ebx; loop 73b)
	RESULT(F_RBX, 3)					/* CX counts */
	RESULT(F_RCX, 0x10000)
	IN16(VEC_USER, 0, movw $0xfffe, %bx; leaw 4(%bx), %cx; movzwl %cx, %ecx)
	RESULT(F_RCX, 2)
	ret

limits:
	TEST("segment limits")
	movl $0x1234, 0xffc
	IN32(VEC_USER, 0, DATA_SEGMENTS(SEL_LIMITED); movl 0xffc, %ebx)
	RESULT(F_RBX, 0x1234)
	IN32(VEC_GP, 0, DATA_SEGMENTS(SEL_LIMITED); 76: movl 0xffd, %ebx)
	CHECK_RIP(76b)
	IN32(VEC_GP, 0, DATA_SEGMENTS(SEL_LIMITED); movb %al, 0x1000)
	IN32(VEC_GP, 0, DATA_SEGMENTS(SEL_LIMITED); movb -1, %al)
	IN32(VEC_USER, 0, DATA_SEGMENTS(SEL_DOWN); movl 0x1000, %ebx)
	IN32(VEC_GP, 0, DATA_SEGMENTS(SEL_DOWN); movb 0xfff, %bl)
	IN32(VEC_GP, 0, DATA_SEGMENTS(SEL_DOWN); movl 0xffd, %ebx)
	IN32(VEC_USER, 0, DATA_SEGMENTS(SEL_RDONLY); movl 0, %ebx)
	IN32(VEC_GP, 0, DATA_SEGMENTS(SEL_RDONLY); movl %ebx, 0)
	IN32(VEC_GP, SEL_XONLY, movl $SEL_XONLY, %eax; movl %eax, %ds)
	IN32(VEC_GP, 0, xorl %eax, %eax; movl %eax, %ds; movl 0, %ebx)
	IN32(VEC_GP, 0, movl %eax, %cs:0)			/* code is not writable */
	IN32(VEC_GP, 0, xorl %eax, %eax; movl %eax, %ss)	/* SS may not be null here */
	TEST("stack limits")
	movb $2, idt + 16 * VEC_SS + 4				/* a stack that works */
	movb $2, idt + 16 * VEC_USER + 4
	IN32(VEC_SS, 0, movl $SEL_LIMITED, %eax; movl %eax, %ss; movl $0x1002, %esp; pushl %eax)
	IN32(VEC_SS, 0, movl $SEL_LIMITED, %eax; movl %eax, %ss; movl $0xffd, %esp; popl %eax)
	IN32(VEC_SS, 0, movl $SEL_LIMITED, %eax; movl %eax, %ss; movl $0x1000, %ebp; movb (%ebp), %al)
	IN32(VEC_USER, 0, movl $SEL_LIMITED, %eax; movl %eax, %ss; movl $0x1000, %esp; pushl $0x77; popl %ebx)
	RESULT(F_RBX, 0x77)
	movb $0, idt + 16 * VEC_SS + 4
	movb $0, idt + 16 * VEC_USER + 4
	/* In 64-bit mode limits and the bases of DS, ES and SS mean nothing. */
	DATA_SEGMENTS(SEL_LIMITED)
	movl boot_pml4, %eax
	DATA_SEGMENTS(SEL_DATA)
	ret

queries:
	TEST("LAR, LSL, VERR, VERW")
	movl $SEL_CODE64, %eax
	xorl %ebx, %ebx
	lar %eax, %ebx
	CHECK(z)
	CHECK_EQ(%rbx, 0x00a09b00)
	lsl %eax, %ebx
	CHECK(z)
	movl $0xffffffff, %ecx
	cmpq %rcx, %rbx
	CHECK(e)
	verr %ax
	CHECK(z)
	verw %ax
	CHECK(nz)
	movl $SEL_LIMITED, %eax
	lsl %eax, %ebx
	CHECK(z)
	CHECK_EQ(%rbx, 0xfff)
	verw %ax
	CHECK(z)
	movl $SEL_XONLY, %eax
	verr %ax
	CHECK(nz)
	movl $SEL_RDONLY, %eax
	verr %ax
	CHECK(z)
	verw %ax
	CHECK(nz)
	xorl %eax, %eax
	lar %eax, %ebx
	CHECK(nz)
	verr %ax
	CHECK(nz)
	movl $0x400, %eax
	movl $0x55, %ebx
	lar %eax, %ebx
	CHECK(nz)
	CHECK_EQ(%rbx, 0x55)
	movl $SEL_TSS, %eax
	lar %eax, %ebx
	CHECK(z)
	CHECK_EQ(%rbx, 0x8b00)
	lsl %eax, %ebx
	CHECK(z)
	CHECK_EQ(%rbx, 0x67)
	verr %ax
	CHECK(nz)
	movl $SEL_DATA + 3, %eax				/* RPL counts */
	verr %ax
	CHECK(nz)
	lar %eax, %ebx
	CHECK(nz)
	ret

/* --- far transfers at one level ---------------------------------------------------------------------- */

far_transfers:
	TEST("far calls")
	movq %rsp, %rbx
	lcall *far_same						/* m16:32 */
	cmpq %rsp, %rbx
	CHECK(e)
	CHECK_EQ(%rcx, 64)
	lcall *far_compat
	cmpq %rsp, %rbx
	CHECK(e)
	CHECK_EQ(%rcx, 32)
	rex.w lcall *far_same64					/* m16:64, pushes 8 bytes each */
	cmpq %rsp, %rbx
	CHECK(e)
	CHECK_EQ(%rcx, 65)
	TEST("far jumps")
	ljmp *far_jump
1:	FAIL()
jumped:	pushq $SEL_CODE64
	pushq $2f
	lretq
	FAIL()
2:	TEST("conforming code")
	SET_DESC(SEL_SPARE, 0x00af9f000000ffff)			/* 64-bit, conforming, DPL 0 */
	pushq $SEL_SPARE
	pushq $3f
	lretq
	FAIL()
3:	movl %cs, %eax
	CHECK_EQ(%rax, SEL_SPARE)
	pushq $SEL_CODE64
	pushq $4f
	lretq
4:	ret

same:	movl $64, %ecx
	lretl
same64:	movl $65, %ecx
	lretq
	.code32
compat:	movl $32, %ecx
	lret
	.code64

#define FAR_ERROR(vector, error, sel)                                                              \
	movw $sel, far_bad + 4; FAULT(vector, error, ljmp *far_bad);                               \
	FAULT(vector, error, lcall *far_bad);                                                      \
	EXPECT(vector, error, pushq $sel; pushq $same; 76: lretq); CHECK_RIP(76b)

far_errors:
	TEST("far transfers that fail")
	FAR_ERROR(VEC_GP, 0, 0)
	FAR_ERROR(VEC_GP, 0x400, 0x400)
	FAR_ERROR(VEC_GP, SEL_DATA, SEL_DATA)
	SET_DESC(SEL_SPARE, 0x00af1b000000ffff)			/* not present */
	FAR_ERROR(VEC_NP, SEL_SPARE, SEL_SPARE)
	SET_DESC(SEL_SPARE, 0x00ef9b000000ffff)			/* L and D */
	UNLESS_TCG(FAR_ERROR(VEC_GP, SEL_SPARE, SEL_SPARE))
	movw $SEL_TSS, far_bad + 4				/* no task switches */
	FAULT(VEC_GP, SEL_TSS, ljmp *far_bad)
	movw $SEL_UCODE64, far_bad + 4				/* another level */
	FAULT(VEC_GP, SEL_UCODE64 & ~3, ljmp *far_bad)
	FAULT(VEC_GP, SEL_UCODE64 & ~3, lcall *far_bad)
	TEST("IRET that fails")
	EXPECT(VEC_GP, SEL_DATA, pushq $SEL_DATA; pushq $0; pushq $2; pushq $SEL_DATA; pushq $same; iretq)
	EXPECT(VEC_GP, SEL_CODE64, pushq $SEL_CODE64; pushq $0; pushq $2; pushq $SEL_CODE64; pushq $same; iretq)
	EXPECT(VEC_GP, 0, pushfq; orl $0x4000, (%rsp); popfq; 76: iretq)	/* NT */
	CHECK_RIP(76b)
	movabsq $0x800000000000, %rbx
	UNLESS_TCG(EXPECT(VEC_GP, 0, pushq $SEL_DATA; pushq %rsp; pushq $2; pushq $SEL_CODE64; pushq %rbx; 76: iretq); CHECK_RIP(76b))
	ret

/* --- gates ------------------------------------------------------------------------------------------- */

/* A 64-bit call gate of privilege level 3 at SEL_GATE. */
#define SET_GATE(sel, target)                                                                      \
	movq $target, %rax; movw %ax, gdt + SEL_GATE; movw $sel, gdt + SEL_GATE + 2;               \
	movw $0xec00, gdt + SEL_GATE + 4; shrq $16, %rax; movw %ax, gdt + SEL_GATE + 6;            \
	movq $0, gdt + SEL_GATE + 8

gates:
	TEST("call gate, same level")
	SET_GATE(SEL_CODE64, gate_target)
	movw $SEL_GATE, far_bad + 4
	movq %rsp, %rbx
	lcall *far_bad
	cmpq %rsp, %rbx
	CHECK(e)
	CHECK_EQ(gate_cs, SEL_CODE64)
	subq gate_rsp, %rbx
	CHECK_EQ(%rbx, 16)
	TEST("call gate, to an inner level")
	EXPECT(VEC_USER, 0, ENTER_USER(user_gate))
	CHECK_EQ(gate_cs, SEL_CODE64)
	CHECK_EQ(gate_rsp, trap_stacks + 8192 - 32)
	CHECK_EQ(gate_frame + 8, SEL_UCODE64)
	CHECK_EQ(gate_frame + 24, SEL_UDATA)
	movabsq $UADDR(user_stack_top), %rax
	cmpq %rax, gate_frame + 16
	CHECK(e)
	movabsq $UADDR(user_after_gate), %rax
	cmpq %rax, gate_frame
	CHECK(e)
	CHECK_EQ(exc_cs, SEL_UCODE64)
	cmpq %rax, exc_rip
	CHECK(ne)
	TEST("call gate that is not for user mode")
	movb $0x8c, gdt + SEL_GATE + 5
	EXPECT(VEC_GP, SEL_GATE, ENTER_USER(user_gate))
	movb $0x6c, gdt + SEL_GATE + 5				/* not present */
	EXPECT(VEC_NP, SEL_GATE, ENTER_USER(user_gate))
	ret

/* The frame of the call lies on the stack: RIP, CS and, from an outer level, RSP and SS. */
gate_target:
	movq %rsp, gate_rsp
	movl %cs, %eax
	movq %rax, gate_cs
	movq (%rsp), %rax
	movq %rax, gate_frame
	movq 8(%rsp), %rax
	movq %rax, gate_frame + 8
	testb $3, %al
	jz 1f
	movq 16(%rsp), %rax
	movq %rax, gate_frame + 16
	movq 24(%rsp), %rax
	movq %rax, gate_frame + 24
1:	lretq

user_gate:
	lcall *far_user(%rip)
user_after_gate:
	int $VEC_USER

/* --- returns to outer levels -------------------------------------------------------------------------- */

returns:
	TEST("far return to user mode")
	EXPECT(VEC_USER, 0, pushq $SEL_UDATA; movabsq $UADDR(user_stack_top), %rax; pushq %rax; pushq $SEL_UCODE64; movabsq $UADDR(just_int), %rax; pushq %rax; lretq)
	CHECK_EQ(exc_cs, SEL_UCODE64)
	movabsq $UADDR(user_stack_top), %rax
	cmpq %rax, exc_rsp
	CHECK(e)
	TEST("IRET to a 32-bit user program")
	orl $4, boot_pml4
	orl $4, boot_pdpt
	movl boot_pdpt, %eax
	andl $~0xfff, %eax
	orl $4, (%rax)
	movq %cr3, %rax
	movq %rax, %cr3
	EXPECT(VEC_USER, 0, pushq $SEL_UDATA; pushq $user_stack_top; pushq $2; pushq $SEL_UCODE32; pushq $user32; iretq)
	CHECK_EQ(exc_cs, SEL_UCODE32)
	CHECK_EQ(exc_ss, SEL_UDATA)
	CHECK_EQ(exc_rsp, user_stack_top - 4)
	TEST("IRET from compatibility mode: 32-bit frame, same level")
	IN32(VEC_USER, 0, movl %esp, %ebx; pushfl; pushl $SEL_CODE32; pushl $73f; iretl; 73: subl %esp, %ebx)
	RESULT(F_RBX, 0)
	TEST("IRET keeps privileged flags from user mode")
	EXPECT(VEC_USER, 0, ENTER_USER(user_iret))
	testl $0x3200, exc_rflags				/* IOPL and IF */
	CHECK(z)
	TEST("data segments of inner levels are emptied on the way out")
	DATA_SEGMENTS(SEL_DATA)
	EXPECT(VEC_USER, 0, ENTER_USER(just_int))
	movl %ds, %eax
	CHECK_EQ(%rax, 0)
	DATA_SEGMENTS(SEL_UDATA)
	EXPECT(VEC_USER, 0, ENTER_USER(just_int))
	movl %ds, %eax
	CHECK_EQ(%rax, SEL_UDATA)
	DATA_SEGMENTS(SEL_DATA)
	ret

just_int:
	int $VEC_USER

	.code32
user32:	pushl %eax
	int $VEC_USER
	.code64

user_iret:
	movq %rsp, %rax
	pushq $SEL_UDATA
	pushq %rax
	pushq $0x3202
	pushq $SEL_UCODE64
	leaq 1f(%rip), %rax
	pushq %rax
	iretq
1:	int $VEC_USER

	.data
	.balign 8
far_same: .long same
	.word SEL_CODE64
	.balign 8
far_same64: .quad same64
	.word SEL_CODE64
	.balign 8
far_compat: .long compat
	.word SEL_CODE32
	.balign 8
far_jump: .long jumped
	.word SEL_CODE64
	.balign 8
far_bad: .long same
	.word 0
	.balign 8
far_user: .long 0
	.word SEL_GATE + 3
	.balign 8
bounds:	.long -3, 7
text:	.ascii "txxxxx"
	.balign 8
gate_rsp: .quad 0
gate_cs: .quad 0
gate_frame: .quad 0, 0, 0, 0
