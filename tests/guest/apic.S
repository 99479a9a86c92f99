/* The local APIC: priorities, timer, errors, x2APIC; the IOAPIC and the 8259 in front of it. */
#include "guest.h"

#define IOAPIC 0xfec00000
#define COM1 0x3f8
#define MSR_TSC_DEADLINE 0x6e0
#define LOG_SIZE 64
#define LVT_MASKED 0x10000
#define PERIODIC 0x20000
#define DEADLINE 0x40000

	.text
	.globl main
main:
	movl $1, %eax
	cpuid
	movl %ecx, leaf1_ecx
	APIC_ENABLE
	movq $0x40, %rcx			/* one handler for all vectors from 0x40 */
1:	movq $log_interrupt, handlers(,%rcx,8)
	incl %ecx
	cmpl $0x100, %ecx
	jb 1b
	call registers
	call priorities
	call timer
	call ioapic
	call pic
	call errors
	call x2apic
	ret

/* Logs the vector, then runs the vector's own piece of code, then EOI. */
log_interrupt:
	movl $LAPIC, %r15d
	movl F_VECTOR(%rdi), %eax
	movl log_count, %ecx
	cmpl $LOG_SIZE, %ecx
	jae 1f
	movb %al, log(%rcx)
1:	incl log_count
	movq inside, %rdx
	testq %rdx, %rdx
	jz 2f
	call *%rdx
2:	cmpb $0, x2_mode
	jne 3f
	movl $LAPIC, %r15d
	movl $0, APIC_EOI(%r15)
	ret
3:	movl $0x80b, %ecx
	xorl %eax, %eax
	xorl %edx, %edx
	wrmsr
	ret

#define LOG_CLEAR movl $0, log_count; movq $0, log
#define LOG_IS(n, vectors) CHECK_EQ32(log_count, n); CHECK_EQ(log, vectors)
/* Lets in what is pending. */
#define WINDOW sti; nop; nop; cli
/* Waits for the n-th interrupt. */
#define WAIT_LOG(n)                                                                                \
	sti; movl $200000000, %ecx; 71: pause; cmpl $n, log_count; jae 72f; decl %ecx; jnz 71b;     \
	FAIL(); 72: cli

registers:
	TEST("registers")
	movl 0x30(%r15), %eax			/* version */
	andl $0xff, %eax
	cmpl $0x10, %eax
	CHECK(ae)
	movl APIC_ID(%r15), %eax
	CHECK_EQ(%rax, 0)
	movl APIC_LINT0(%r15), %eax
	APIC_WRITE(APIC_TPR, 0x31)
	movl APIC_TPR(%r15), %eax
	CHECK_EQ(%rax, 0x31)
	movq %cr8, %rax
	CHECK_EQ(%rax, 3)
	movl APIC_PPR(%r15), %eax
	CHECK_EQ(%rax, 0x31)
	APIC_WRITE(APIC_TPR, 0)
	TEST("software disable masks the LVT")
	APIC_WRITE(APIC_TIMER, 0x50)
	APIC_WRITE(APIC_SVR, 0xff)
	movl APIC_TIMER(%r15), %eax
	UNLESS_TCG(CHECK_EQ(%rax, LVT_MASKED | 0x50))
	APIC_WRITE(APIC_TIMER, 0x50)
	movl APIC_TIMER(%r15), %eax
	UNLESS_TCG(CHECK_EQ(%rax, LVT_MASKED | 0x50))
	APIC_WRITE(APIC_SVR, 0x1ff)
	APIC_WRITE(APIC_TIMER, 0x50)
	movl APIC_TIMER(%r15), %eax
	CHECK_EQ(%rax, 0x50)
	APIC_WRITE(APIC_TIMER, LVT_MASKED)
	ret

priorities:
	TEST("higher vectors first")
	LOG_CLEAR
	SELF_IPI(0x51)
	SELF_IPI(0x91)
	SELF_IPI(0x71)
	movl APIC_IRR + 0x20(%r15), %eax	/* vectors 0x40 - 0x5f */
	CHECK_EQ(%rax, 1 << 0x11)
	WINDOW
	WINDOW
	WINDOW
	LOG_IS(3, 0x517191)
	TEST("the same vector twice is one interrupt")
	LOG_CLEAR
	SELF_IPI(0x51)
	SELF_IPI(0x51)
	WINDOW
	WINDOW
	LOG_IS(1, 0x51)
	TEST("TPR holds back")
	LOG_CLEAR
	APIC_WRITE(APIC_TPR, 0x70)
	SELF_IPI(0x7f)
	SELF_IPI(0x80)
	WINDOW
	WINDOW
	LOG_IS(1, 0x80)
	APIC_WRITE(APIC_TPR, 0x60)
	WINDOW
	LOG_IS(2, 0x7f80)
	TEST("CR8 holds back")
	LOG_CLEAR
	movl $9, %eax
	movq %rax, %cr8
	movl APIC_TPR(%r15), %eax
	CHECK_EQ(%rax, 0x90)
	SELF_IPI(0x9f)
	WINDOW
	LOG_IS(0, 0)
	xorl %eax, %eax
	sti
	nop
	movq %rax, %cr8
	nop
	cli
	LOG_IS(1, 0x9f)
	TEST("in service")
	LOG_CLEAR
	movq $inside_71, inside
	SELF_IPI(0x71)
	WINDOW
	WINDOW
	/* 0x71 is interrupted by 0x81, and 0x7f waits for its end. */
	LOG_IS(3, 0x7f8171)
	movl APIC_ISR + 0x30(%r15), %eax
	CHECK_EQ(%rax, 0)
	movq $0, inside
	ret

inside_71:
	movq $0, inside
	movl APIC_PPR(%r15), %eax
	CHECK_EQ(%rax, 0x70)
	movl APIC_ISR + 0x30(%r15), %eax	/* vectors 0x60 - 0x7f */
	CHECK_EQ(%rax, 1 << 0x11)
	SELF_IPI(0x7f)
	SELF_IPI(0x81)
	WINDOW
	CHECK_EQ32(log_count, 2)
	ret

timer:
	TEST("timer, one shot")
	LOG_CLEAR
	APIC_WRITE(APIC_DIVIDE, 0xb)		/* by 1 */
	APIC_WRITE(APIC_TIMER, 0x60)
	APIC_WRITE(APIC_INITIAL, 1000000)
	movl APIC_CURRENT(%r15), %eax
	cmpl $1000000, %eax
	CHECK(be)
	WAIT_LOG(1)
	movl APIC_CURRENT(%r15), %eax
	CHECK_EQ(%rax, 0)
	call pause_a_while
	WINDOW
	LOG_IS(1, 0x60)
	TEST("timer, counting down and cancelled")
	LOG_CLEAR
	APIC_WRITE(APIC_DIVIDE, 0)		/* by 2 */
	APIC_WRITE(APIC_INITIAL, 0xffffffff)
	movl APIC_CURRENT(%r15), %ebx
	call pause_a_while
	movl APIC_CURRENT(%r15), %eax
	cmpl %ebx, %eax
	CHECK(b)
	APIC_WRITE(APIC_INITIAL, 0)
	movl APIC_CURRENT(%r15), %eax
	CHECK_EQ(%rax, 0)
	TEST("timer, periodic")
	LOG_CLEAR
	APIC_WRITE(APIC_TIMER, PERIODIC | 0x61)
	APIC_WRITE(APIC_INITIAL, 100000)
	WAIT_LOG(5)
	TEST("timer, masked")
	APIC_WRITE(APIC_TIMER, LVT_MASKED | PERIODIC | 0x61)
	WINDOW
	LOG_CLEAR
	call pause_a_while
	WINDOW
	LOG_IS(0, 0)
	APIC_WRITE(APIC_INITIAL, 0)
	TEST("timer wakes from HLT")
	LOG_CLEAR
	APIC_WRITE(APIC_TIMER, 0x62)
	APIC_WRITE(APIC_INITIAL, 3000000)
	sti
	hlt
	cli
	LOG_IS(1, 0x62)
	btl $24, leaf1_ecx
	jnc 1f
	TEST("timer, TSC deadline")
	LOG_CLEAR
	APIC_WRITE(APIC_TIMER, DEADLINE | 0x63)
	rdtsc
	addl $2000000, %eax
	adcl $0, %edx
	movl %eax, deadline
	movl %edx, deadline + 4
	movl $MSR_TSC_DEADLINE, %ecx
	wrmsr
	rdmsr
	cmpl deadline, %eax
	CHECK(e)
	WAIT_LOG(1)
	rdtsc
	shlq $32, %rdx
	orq %rdx, %rax
	cmpq deadline, %rax
	CHECK(ae)
	movl $MSR_TSC_DEADLINE, %ecx
	rdmsr
	orl %edx, %eax
	CHECK_EQ(%rax, 0)
	movl $1, %eax				/* long ago: at once */
	xorl %edx, %edx
	movl $MSR_TSC_DEADLINE, %ecx
	wrmsr
	WAIT_LOG(2)
	/* Disarmed by 0. Only a disarming that comes before its deadline says something: while one
	 * comes too late (the host ran something else meanwhile), with twice the time. */
	movq $1000000, %rbx
disarm:	shlq $1, %rbx
	LOG_CLEAR
	rdtsc
	shlq $32, %rdx
	orq %rdx, %rax
	addq %rbx, %rax
	movq %rax, deadline
	movq %rax, %rdx
	shrq $32, %rdx
	movl $MSR_TSC_DEADLINE, %ecx
	wrmsr
	xorl %eax, %eax
	xorl %edx, %edx
	wrmsr
	call ticks_to_deadline
	jg 2f
	WINDOW
	jmp disarm
2:	call ticks_to_deadline
	jg 2b
	call pause_a_while
	WINDOW
	CHECK_EQ32(log_count, 0)
	movl APIC_CURRENT(%r15), %eax
	CHECK_EQ(%rax, 0)
	APIC_WRITE(APIC_INITIAL, 1000)		/* ignored in this mode */
	call pause_a_while
	WINDOW
	CHECK_EQ32(log_count, 0)
1:	APIC_WRITE(APIC_TIMER, LVT_MASKED)
	ret

/* rax, and the flags as if it were compared with 0: how far the deadline is ahead. */
ticks_to_deadline:
	rdtsc
	shlq $32, %rdx
	orq %rax, %rdx
	movq deadline, %rax
	subq %rdx, %rax
	ret

pause_a_while:
	movl $3000000, %ecx
1:	decl %ecx
	jnz 1b
	ret

/* --- IOAPIC ---------------------------------------------------------------------------------------- */

/* A redirection entry for processor 0. */
#define IO_PIN(pin, low)                                                                           \
	movl $IOAPIC, %ebx; movl $0x10 + 2 * (pin), (%rbx); movl $(low), 0x10(%rbx);               \
	movl $0x11 + 2 * (pin), (%rbx); movl $0, 0x10(%rbx)
#define OUTB(port, value) movb $(value), %al; movw $(port), %dx; outb %al, %dx
#define LEVEL 0x8000

ioapic:
	TEST("UART through the IOAPIC, edge")
	LOG_CLEAR
	OUTB(COM1 + 1, 0)
	OUTB(COM1 + 4, 8)			/* OUT2 gates the interrupt */
	IO_PIN(4, 0x70)
	OUTB(COM1 + 1, 2)			/* the transmitter is empty */
	WAIT_LOG(1)
	call pause_a_while
	WINDOW
	LOG_IS(1, 0x70)
	OUTB(COM1 + 1, 0)
	TEST("UART through the IOAPIC, level")
	LOG_CLEAR
	IO_PIN(4, LEVEL | 0x71)
	movq $quiet_third_time, inside
	OUTB(COM1 + 1, 2)
	WAIT_LOG(3)				/* again after each EOI until it is quiet */
	call pause_a_while
	WINDOW
	LOG_IS(3, 0x717171)
	movq $0, inside
	IO_PIN(4, 0x10000)
	TEST("PIT through the IOAPIC")
	LOG_CLEAR
	IO_PIN(2, 0x72)
	OUTB(0x43, 0x34)			/* counter 0, mode 2 */
	OUTB(0x40, 0x00)
	OUTB(0x40, 0x04)			/* about 1 ms */
	WAIT_LOG(4)
	IO_PIN(2, 0x10000)
	WINDOW
	LOG_CLEAR
	call pause_a_while
	WINDOW
	LOG_IS(0, 0)
	ret

quiet_third_time:
	cmpl $3, log_count
	jb 1f
	OUTB(COM1 + 1, 0)
1:	ret

/* --- 8259 ------------------------------------------------------------------------------------------ */

pic_interrupt:
	incl pic_count
	movb $0x20, %al
	outb %al, $0x20
	ret

pic:
	TEST("PIT through the 8259 and LINT0")
	SET_HANDLER(0x30, pic_interrupt)
	OUTB(0x20, 0x11)
	OUTB(0x21, 0x30)
	OUTB(0x21, 4)
	OUTB(0x21, 1)
	OUTB(0xa0, 0x11)
	OUTB(0xa1, 0x38)
	OUTB(0xa1, 2)
	OUTB(0xa1, 1)
	OUTB(0xa1, 0xff)
	APIC_WRITE(APIC_LINT0, 0x700)		/* ExtINT */
	OUTB(0x21, 0xfe)
	sti
	movl $200000000, %ecx
1:	pause
	cmpl $4, pic_count
	jae 2f
	decl %ecx
	jnz 1b
	FAIL()
2:	TEST("LINT0 masked")
	cli
	APIC_WRITE(APIC_LINT0, LVT_MASKED | 0x700)
	movl pic_count, %ebx
	sti
	call pause_a_while
	cli
	cmpl pic_count, %ebx
	CHECK(e)
	OUTB(0x21, 0xff)
	ret

errors:
	TEST("errors")
	APIC_WRITE(APIC_ESR, 0)
	APIC_WRITE(APIC_ESR, 0)
	movl APIC_ESR(%r15), %eax
	CHECK_EQ(%rax, 0)
	UNLESS_TCG(SELF_IPI(5); APIC_WRITE(APIC_ESR, 0); movl APIC_ESR(%r15), %eax; andl $0x20, %eax; CHECK_EQ(%rax, 0x20))
	ret

/* --- x2APIC ---------------------------------------------------------------------------------------- */

#define X2(reg) (0x800 + (reg) / 16)
#define X2_READ(reg) movl $X2(reg), %ecx; rdmsr
#define X2_WRITE(reg, value) movl $X2(reg), %ecx; movl $(value), %eax; xorl %edx, %edx; wrmsr
#define NO_X2(what, reg)                                                                           \
	movl $X2(reg), %ecx; xorl %eax, %eax; xorl %edx, %edx; FAULT(VEC_GP, 0, what)

x2apic:
	btl $21, leaf1_ecx
	jnc 1f
	TEST("x2APIC")
	NO_X2(rdmsr, APIC_ID)			/* not yet */
	movl $MSR_APIC_BASE, %ecx
	rdmsr
	btl $8, %eax				/* the boot processor */
	CHECK(c)
	orl $0x400, %eax
	wrmsr
	movb $1, x2_mode
	X2_READ(APIC_ID)
	CHECK_EQ(%rax, 0)
	X2_READ(APIC_LDR)
	CHECK_EQ(%rax, 1)
	X2_READ(APIC_SVR)
	CHECK_EQ(%rax, 0x1ff)
	LOG_CLEAR
	X2_WRITE(0x3f0, 0x58)			/* self IPI */
	WINDOW
	LOG_IS(1, 0x58)
	LOG_CLEAR
	movl $X2(APIC_ICR), %ecx		/* to APIC id 0 */
	movl $0x59, %eax
	xorl %edx, %edx
	wrmsr
	WINDOW
	LOG_IS(1, 0x59)
	movl $X2(APIC_ICR), %ecx		/* logical: cluster 0, processor 0 */
	movl $0x85a, %eax
	movl $1, %edx
	wrmsr
	WINDOW
	LOG_IS(2, 0x5a59)
	X2_WRITE(APIC_TPR, 0x60)
	movq %cr8, %rax
	CHECK_EQ(%rax, 6)
	LOG_CLEAR
	X2_WRITE(0x3f0, 0x58)
	WINDOW
	LOG_IS(0, 0)
	sti
	nop
	X2_WRITE(APIC_TPR, 0)
	nop
	cli
	LOG_IS(1, 0x58)
	NO_X2(rdmsr, APIC_EOI)
	NO_X2(rdmsr, APIC_DFR)
	NO_X2(rdmsr, APIC_ICR2)
	NO_X2(wrmsr, APIC_ID)
	NO_X2(wrmsr, APIC_LDR)
	NO_X2(wrmsr, APIC_CURRENT)
	NO_X2(rdmsr, 0x3f0)
	movl $X2(APIC_EOI), %ecx
	movl $1, %eax
	FAULT(VEC_GP, 0, wrmsr)
	/* Out of x2APIC mode only through "off". */
	movl $MSR_APIC_BASE, %ecx
	rdmsr
	andl $~0x400, %eax
	FAULT(VEC_GP, 0, wrmsr)
	andl $~0xc00, %eax
	wrmsr
	orl $0xc00, %eax
	FAULT(VEC_GP, 0, wrmsr)			/* and into it only through xAPIC mode */
	andl $~0x400, %eax
	wrmsr
	movb $0, x2_mode
	APIC_WRITE(APIC_SVR, 0x1ff)
	LOG_CLEAR
	SELF_IPI(0x5b)
	WINDOW
	LOG_IS(1, 0x5b)
1:	ret

	.bss
	.balign 8
inside:	.skip 8
deadline: .skip 8
log:	.skip LOG_SIZE
log_count: .skip 4
leaf1_ecx: .skip 4
pic_count: .skip 4
x2_mode: .skip 1
