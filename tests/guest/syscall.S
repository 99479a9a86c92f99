/* Fast system calls, SWAPGS and the FSGSBASE instructions. */
#include "guest.h"

#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define IF 0x200
#define DF 0x400
#define ID 0x200000

	.text
	.globl main
main:
	WRMSR(MSR_STAR, (SEL_UCODE32 << 48) | (SEL_CODE64 << 32))
	WRMSR(MSR_LSTAR, entry64)
	WRMSR(MSR_CSTAR, entry32)
	WRMSR(MSR_SFMASK, DF)
	call far_out
	call syscall64
	call syscall32
	call absent
	call swap
	call bases
	ret

/* By turns a call is left by a return and by a far one, to user code that returns to the caller. */
far_out:
	TEST("user code that returns to the supervisor's caller")
	movl $100, rounds
1:	movl $0, far
	EXPECT(VEC_USER, 0, jmp caller)
	CHECK_EQ(exc_cs, SEL_CODE64)
	movl $1, far
	EXPECT(VEC_PF, 0x15, jmp caller)
	CHECK_EQ(exc_rip, back)
	decl rounds
	jnz 1b
	CHECK_EQ32(returned, 100)
	ret

caller:
	call callee
back:
	incl returned
	int $VEC_USER

callee:
	cmpl $0, far
	jne 1f
	ret
1:	pushq $SEL_UDATA
	movabsq $UADDR(user_stack_top), %rax
	pushq %rax
	pushq $SEL_UCODE64
	movabsq $UADDR(user_returns), %rax
	pushq %rax
	lretq

user_returns:
	pushq $back
	ret

/* SYSCALL leaves the stack alone, so the entry must find one. */
entry64:
	movq %rsp, user_rsp
	movq $entry_stack_top, %rsp
	pushfq
	popq entry_flags
	movq %rcx, entry_rcx
	movq %r11, entry_r11
	movq %cs, %rax
	movq %rax, entry_cs
	movq %ss, %rax
	movq %rax, entry_ss
	incl entries
	movq user_rsp, %rsp
	cmpl $0, return32
	jne 1f
	sysretq
1:	movl $user32, %ecx
	sysretl

syscall64:
	TEST("SYSCALL and SYSRET, 64 bits")
	movl $0, return32
	EXPECT(VEC_USER, 0, ENTER_USER(user64))
	CHECK_EQ32(entries, 1)
	CHECK_EQ(entry_cs, SEL_CODE64)
	CHECK_EQ(entry_ss, SEL_DATA)
	movabsq $UADDR(after_syscall), %rax
	cmpq %rax, entry_rcx
	CHECK(e)
	/* R11 has the flags of before; SFMASK's are clear inside, others stay. */
	andl $DF | ID, entry_r11
	CHECK_EQ32(entry_r11, DF | ID)
	andl $DF | ID, entry_flags
	CHECK_EQ32(entry_flags, ID)
	/* Back in user mode, with the flags of R11. */
	CHECK_EQ(exc_cs, SEL_UCODE64)
	CHECK_EQ(exc_ss, SEL_UDATA)
	andl $DF | ID, exc_rflags
	CHECK_EQ32(exc_rflags, DF | ID)
	movabsq $UADDR(user_stack_top), %rax
	cmpq %rax, exc_rsp
	CHECK(e)
	ret

user64:
	pushfq
	orl $DF | ID, (%rsp)
	popfq
	syscall
after_syscall:
	int $VEC_USER

/* The first 2 MiB, this guest, become accessible to user mode below 4 GiB. */
#define OPEN_LOW_MEMORY                                                                            \
	orl $4, boot_pml4; orl $4, boot_pdpt; movl boot_pdpt, %eax; andl $~0xfff, %eax;             \
	orl $4, (%rax); movq %cr3, %rax; movq %rax, %cr3

syscall32:
	TEST("SYSRET to a 32-bit program, and SYSCALL from it")
	OPEN_LOW_MEMORY
	movl $0, entries
	movl $1, return32
	EXPECT(VEC_USER, 0, ENTER_USER(user_to32))
	CHECK_EQ32(entries, 1)
	CHECK_EQ(exc_cs, SEL_UCODE32)
	CHECK_EQ(exc_ss, SEL_UDATA)
	CHECK_EQ32(compat_result, 0xfffffffe)	/* 32-bit arithmetic */
	CHECK_EQ32(compat_entries, 1)
	CHECK_EQ(compat_cs, SEL_CODE64)
	CHECK_EQ(compat_rcx, after_compat)
	ret

user_to32:
	syscall
	ud2				/* entry64 returns to user32 */

entry32:
	incl compat_entries
	movq %rcx, compat_rcx
	movq %cs, %rax
	movq %rax, compat_cs
	sysretl

	.code32
user32:
	movl $SEL_UDATA, %eax		/* IRET to user mode emptied DS */
	movl %eax, %ds
	movl $0x7fffffff, %eax
	addl %eax, %eax
	.byte 0x48			/* DEC EAX here, and no REX prefix */
	.byte 0x40			/* INC EAX */
	movl %eax, compat_result
	syscall
after_compat:
	int $VEC_USER
	.code64

absent:
	TEST("SYSCALL without EFER.SCE")
	WRMSR(MSR_EFER, EFER_LME | EFER_NXE | 0x400)
	FAULT(VEC_UD, 0, syscall)
	FAULT(VEC_UD, 0, sysretq)
	WRMSR(MSR_EFER, EFER_SCE | EFER_LME | EFER_NXE | 0x400)
	ret

swap:
	TEST("SWAPGS")
	WRMSR(MSR_GS_BASE, data_a)
	WRMSR(MSR_KERNEL_GS_BASE, data_b)
	CHECK_EQ(%gs:0, 0xa)
	swapgs
	CHECK_EQ(%gs:0, 0xb)
	movl $MSR_KERNEL_GS_BASE, %ecx
	rdmsr
	CHECK_EQ(%rax, data_a)
	movl $MSR_GS_BASE, %ecx
	rdmsr
	CHECK_EQ(%rax, data_b)
	swapgs
	CHECK_EQ(%gs:0, 0xa)
	WRMSR(MSR_FS_BASE, data_b)
	movq $8, %rbx
	CHECK_EQ(%fs:(,%rbx), 0xbb)
	CHECK_EQ(%fs:-8(%rbx), 0xb)
	ret

bases:
	TEST("FSGSBASE")
	FAULT(VEC_UD, 0, rdfsbase %rax)
	FAULT(VEC_UD, 0, wrgsbase %rax)
	SET_CR(4, BOOT_CR4 | CR4_FSGSBASE)
	movl $0, return32
	movabsq $UADDR(data_a), %rax
	wrfsbase %rax
	CHECK_EQ(%fs:0, 0xa)
	xorl %eax, %eax
	rdfsbase %rax
	movabsq $UADDR(data_a), %rcx
	cmpq %rcx, %rax
	CHECK(e)
	movq $-1, %rbx
	rdfsbase %ebx
	movl %eax, %ecx
	cmpq %rcx, %rbx			/* zero-extended */
	CHECK(e)
	movabsq $0xffffffff00000000 + data_b, %rax
	wrgsbase %eax
	CHECK_EQ(%gs:0, 0xb)
	rdgsbase %rax
	CHECK_EQ(%rax, data_b)
	movabsq $0x800000000000, %rax
	UNLESS_TCG(FAULT(VEC_GP, 0, wrfsbase %rax))
	EXPECT(VEC_USER, 0, ENTER_USER(user_bases))
	rdgsbase %rax
	movabsq $UADDR(data_b), %rcx
	cmpq %rcx, %rax
	CHECK(e)
	SET_CR(4, BOOT_CR4)
	EXPECT(VEC_UD, 0, ENTER_USER(user_bases))
	ret

user_bases:
	rdfsbase %rax
	movabsq $UADDR(data_b), %rax
	wrgsbase %rax
	cmpq $0xb, %gs:0
	jne 1f
	int $VEC_USER
1:	ud2

	.data
	.balign 8
data_a:	.quad 0xa, 0xaa
data_b:	.quad 0xb, 0xbb
user_rsp: .quad 0
entry_flags: .quad 0
entry_rcx: .quad 0
entry_r11: .quad 0
entry_cs: .quad 0
entry_ss: .quad 0
compat_rcx: .quad 0
compat_cs: .quad 0
compat_result: .quad 0
compat_entries: .long 0
rounds: .long 0
far: .long 0
returned: .long 0
entries: .long 0
return32: .long 0

	.bss
	.balign 16
	.skip 4096
entry_stack_top:
