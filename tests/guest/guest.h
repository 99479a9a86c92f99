/*
 * What the assembly guests share: the layout set up by boot.S, and macros to expect results and
 * exceptions. A guest defines `main`, called on the boot processor in 64-bit mode at CPL 0 with
 * interrupts off; returning from it is success.
 *
 * Everything below 4 GiB is mapped one to one for the supervisor. The first GiB is mapped again at
 * USER_BASE with the rights of user mode, so that a label is user code at UADDR(label).
 */
#ifndef TESTS_GUEST_H
#define TESTS_GUEST_H

/* Assembler, which the formatter takes for C. */
/* clang-format off */

#define SEL_CODE64  0x08
#define SEL_DATA    0x10
#define SEL_CODE32  0x18
#define SEL_UCODE32 0x23
#define SEL_UDATA   0x2b
#define SEL_UCODE64 0x33
#define SEL_CODE16  0x38
#define SEL_DATA16  0x40
#define SEL_TSS	    0x48 /* 16 bytes a CPU, MAX_CPUS of them */
#define SEL_TEST    0x88 /* eight descriptors for the guest's own use */

#define MAX_CPUS  4
#define USER_BASE 0x8000000000
#define UADDR(x)  (x + USER_BASE)

#define VEC_DE 0
#define VEC_DB 1
#define VEC_NMI 2
#define VEC_BP 3
#define VEC_OF 4
#define VEC_BR 5
#define VEC_UD 6
#define VEC_NM 7
#define VEC_DF 8
#define VEC_TS 10
#define VEC_NP 11
#define VEC_SS 12
#define VEC_GP 13
#define VEC_PF 14
#define VEC_MF 16
#define VEC_AC 17
#define VEC_XM 19
#define VEC_USER 0x80 /* software interrupt open to user mode: the way back to the supervisor */
#define NO_EXC (-1)

#define CR0_PE 0x1
#define CR0_MP 0x2
#define CR0_EM 0x4
#define CR0_TS 0x8
#define CR0_NE 0x20
#define CR0_WP 0x10000
#define CR0_AM 0x40000
#define CR0_PG 0x80000000
#define CR4_DE 0x8
#define CR4_PSE 0x10
#define CR4_PAE 0x20
#define CR4_PGE 0x80
#define CR4_OSFXSR 0x200
#define CR4_OSXMM 0x400
#define CR4_UMIP 0x800
#define CR4_FSGSBASE 0x10000
#define CR4_PCIDE 0x20000
#define CR4_SMEP 0x100000
#define CR4_SMAP 0x200000
#define MSR_APIC_BASE 0x1b
#define MSR_EFER 0xc0000080
#define EFER_SCE 0x1
#define EFER_LME 0x100
#define EFER_NXE 0x800

/* CR0 and CR4 as main finds them. */
#define BOOT_CR0 (CR0_PE | CR0_MP | CR0_NE | CR0_WP | CR0_PG)
#define BOOT_CR4 (CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMM)

#define LAPIC 0xfee00000
#define APIC_ID 0x20
#define APIC_TPR 0x80
#define APIC_PPR 0xa0
#define APIC_EOI 0xb0
#define APIC_LDR 0xd0
#define APIC_DFR 0xe0
#define APIC_SVR 0xf0
#define APIC_ISR 0x100
#define APIC_IRR 0x200
#define APIC_ESR 0x280
#define APIC_ICR 0x300
#define APIC_ICR2 0x310
#define APIC_TIMER 0x320
#define APIC_LINT0 0x350
#define APIC_INITIAL 0x380
#define APIC_CURRENT 0x390
#define APIC_DIVIDE 0x3e0

/* The frame of an exception as handlers get it in %rdi. */
#define F_RAX 0
#define F_RCX 8
#define F_RDX 16
#define F_RBX 24
#define F_RBP 32
#define F_RSI 40
#define F_RDI 48
#define F_VECTOR 120
#define F_ERROR 128
#define F_RIP 136
#define F_CS 144
#define F_RFLAGS 152
#define F_RSP 160
#define F_SS 168

#ifdef __ASSEMBLER__

/* Names the test that runs, for messages. */
#define TEST(name)                                                                                 \
	.pushsection .rodata; 79: .asciz name; .popsection; movq $79b, current_test

/* The value of a 64-bit register or memory operand; the constant is sign-extended 32 bits. */
#define CHECK_EQ(what, value)                                                                      \
	pushfq; cmpq $(value), what; je 78f; pushq what; movl $__LINE__, %edi; popq %rsi;          \
	movq $(value), %rdx; jmp fail; 78: popfq

/* The same for a 32-bit operand. */
#define CHECK_EQ32(what, value)                                                                    \
	pushfq; cmpl $(value), what; je 78f; movl what, %esi; movl $__LINE__, %edi;                 \
	movl $(value), %edx; jmp fail; 78: popfq

/* A condition code after a comparison. */
#define CHECK(cc)                                                                                  \
	j##cc 78f; movl $__LINE__, %edi; xorl %esi, %esi; xorl %edx, %edx; jmp fail; 78:

#define FAIL()                                                                                     \
	movl $__LINE__, %edi; xorl %esi, %esi; xorl %edx, %edx; jmp fail

/*
 * Runs instructions that must raise an exception with this error code (0 for none), and goes on
 * behind them at CPL 0 in 64-bit mode. The saved registers are in exc_rip and so on.
 */
#define EXPECT(vector, error, ...)                                                                 \
	movq $77f, exc_resume; movq %rsp, exc_resume_rsp; movl $NO_EXC, exc_vector; __VA_ARGS__;   \
	77: movq $0, exc_resume;                                                                   \
	cmpl $(vector), exc_vector; je 78f; movl exc_vector, %esi; movl $(vector), %edx;           \
	movl $__LINE__, %edi; jmp fail_exception; 78:                                              \
	cmpl $(error), exc_error; je 78f; movl exc_error, %esi; movl $(error), %edx;               \
	movl $__LINE__, %edi; jmp fail; 78:

/* The same for one instruction that faults: the saved address is its own. */
#define FAULT(vector, error, ...)                                                                  \
	EXPECT(vector, error, 76: __VA_ARGS__); CHECK_RIP(76b)
/* ... that traps: the saved address is the next one's. */
#define TRAP(vector, error, ...)                                                                   \
	EXPECT(vector, error, __VA_ARGS__; 75: nop); CHECK_RIP(75b)

#define CHECK_RIP(label)                                                                           \
	pushq %rax; movq $label, %rax; cmpq %rax, exc_rip; popq %rax; je 78f;                      \
	movq exc_rip, %rsi; movq $label, %rdx; movl $__LINE__, %edi; jmp fail; 78:

/* Where an exception came from in user code. */
#define CHECK_USER_RIP(label)                                                                      \
	pushq %rax; movabsq $UADDR(label), %rax; cmpq %rax, exc_rip; popq %rax; je 78f;            \
	movq exc_rip, %rsi; movq $label, %rdx; movl $__LINE__, %edi; jmp fail; 78:

/* To user mode at a label; user code comes back by an exception or int $VEC_USER. */
#define ENTER_USER(label)                                                                          \
	pushq $SEL_UDATA; pushq $0; movabsq $UADDR(user_stack_top), %rax;                          \
	movq %rax, (%rsp); pushq $2; pushq $SEL_UCODE64; movabsq $UADDR(label), %rax;              \
	pushq %rax; iretq

/* Skips what QEMU's own interpreter, the outside witness of these guests, does not do right. */
#define UNLESS_TCG(...) cmpb $0, under_tcg; jne 73f; __VA_ARGS__; 73:

#define SET_HANDLER(vector, label) movq $label, handlers + 8 * (vector)

/* The local APIC's page is beyond the reach of 32-bit addresses: its address is kept in r15. */
#define APIC_BASE movl $LAPIC, %r15d
#define APIC_WRITE(reg, value) movl $(value), (reg)(%r15)
#define APIC_ENABLE APIC_BASE; APIC_WRITE(APIC_SVR, 0x1ff); APIC_WRITE(APIC_TPR, 0)
#define SELF_IPI(vector) APIC_WRITE(APIC_ICR, 0x44000 | (vector))

#define SET_CR(n, value) movq $(value), %rax; movq %rax, %cr##n
#define WRMSR(msr, value)                                                                          \
	movl $(msr), %ecx; movabsq $(value), %rax; movq %rax, %rdx; shrq $32, %rdx; wrmsr

#endif
#endif
