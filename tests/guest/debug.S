/* Debug exceptions, and what interrupts and NMIs wait for. */
#include "guest.h"

#define TF 0x100
#define RF 0x10000
#define DR6_BD 0x2000
#define DR6_BS 0x4000
#define DR6_NONE 0xffff0ff0

#define LOG_SIZE 64

/* Runs instructions with TF set by a POPF in front of them, until rip gets to label 70. */
#define STEPPED(...)                                                                               \
	movl $0, db_count; movq $70f, step_end; pushfq; orl $TF, (%rsp); popfq; __VA_ARGS__; 70: nop; \
	pushfq; andl $~TF, (%rsp); popfq
/* The n-th trap was at this label, with these bits in DR6. */
#define LOGGED(n, label, bits)                                                                     \
	CHECK_EQ(db_rip + 8 * (n), label); CHECK_EQ32(db_dr6 + 4 * (n), DR6_NONE ^ (bits))
#define LOG_COUNT(n) CHECK_EQ32(db_count, n)
#define SET_DR(n, value) movq $(value), %rax; movq %rax, %db##n

	.text
	.globl main
main:
	SET_HANDLER(VEC_DB, log_debug)
	SET_DR(6, DR6_NONE)
	call single_step
	call code_breakpoints
	call data_breakpoints
	call debug_registers
	SET_HANDLER(VEC_DB, 0)
	APIC_ENABLE
	call interrupt_shadow
	call nmi
	ret

log_debug:
	movl db_count, %ecx
	cmpl $LOG_SIZE, %ecx
	jae 1f
	movq F_RIP(%rdi), %rax
	movq %rax, db_rip(,%rcx,8)
	movq %db6, %rax
	movl %eax, db_dr6(,%rcx,4)
1:	incl db_count
	movl $DR6_NONE, %eax
	movq %rax, %db6
	movq F_RIP(%rdi), %rax
	cmpq step_end, %rax
	jne 2f
	andl $~TF, F_RFLAGS(%rdi)
2:	movl set_rf, %eax
	orl %eax, F_RFLAGS(%rdi)
	ret

single_step:
	TEST("single step")
	STEPPED(nop; 1: incl %eax; 2:)
	LOG_COUNT(2)
	LOGGED(0, 1b, DR6_BS)
	LOGGED(1, 2b, DR6_BS)
	/* A faulting instruction is not stepped over; its handler runs without TF. */
	TEST("step into a fault")
	SET_HANDLER(VEC_UD, skip_ud2)
	STEPPED(nop; 1: ud2; 2: nop; 3:)
	LOG_COUNT(2)
	LOGGED(0, 1b, DR6_BS)
	LOGGED(1, 3b, DR6_BS)
	SET_HANDLER(VEC_UD, 0)
	TEST("step over a software interrupt")
	SET_HANDLER(0x41, do_nothing)
	STEPPED(nop; 1: int $0x41; 2: nop; 3:)
	LOG_COUNT(2)
	LOGGED(0, 1b, DR6_BS)
	LOGGED(1, 3b, DR6_BS)
	TEST("step a repeated string instruction")
	movl $3, %ecx
	movq $buffer, %rdi
	STEPPED(1: rep stosb; 2:)
	LOG_COUNT(3)
	LOGGED(0, 1b, DR6_BS)
	LOGGED(1, 1b, DR6_BS)
	LOGGED(2, 2b, DR6_BS)
	TEST("step over a load of SS")
	movl $SEL_DATA, %eax
	STEPPED(nop; 1: movl %eax, %ss; nop; 2: nop; 3:)
	LOG_COUNT(3)
	LOGGED(0, 1b, DR6_BS)
	LOGGED(1, 2b, DR6_BS)
	LOGGED(2, 3b, DR6_BS)
	TEST("step over the POPF that ends stepping")
	STEPPED(pushfq; andl $~TF, (%rsp); popfq; 1: nop)
	LOG_COUNT(3)
	LOGGED(2, 1b, DR6_BS)
	TEST("step over branches")
	STEPPED(1: jmp 2f; ud2; 2: call do_nothing; 3:)
	LOG_COUNT(3)
	LOGGED(0, 2b, DR6_BS)
	LOGGED(1, do_nothing, DR6_BS)
	LOGGED(2, 3b, DR6_BS)
	ret

do_nothing:
	ret

skip_ud2:
	addq $2, F_RIP(%rdi)
	ret

code_breakpoints:
	TEST("code breakpoint")
	movl $RF, set_rf
	movq $-1, step_end
	movl $0, db_count
	SET_DR(0, broken)
	SET_DR(7, 0x401)
	movl $3, %ecx
	xorl %ebx, %ebx
1:	nop
broken:	incl %ebx
	decl %ecx
	jnz 1b
	CHECK_EQ(%rbx, 3)
	LOG_COUNT(3)
	LOGGED(0, broken, 1)
	LOGGED(2, broken, 1)
	/* Only the first byte of an instruction counts. */
	SET_DR(0, 1f + 1)
	movl $0, db_count
1:	incl %ebx
	LOG_COUNT(0)
	ret

data_breakpoints:
	TEST("data breakpoints")
	movl $0, set_rf
	movq $-1, step_end
	SET_DR(0, 0)
	SET_DR(1, watched)
	SET_DR(7, 0x400 | 1 << 2 | 0xd << 20)	/* DR1: writes of four bytes */
	movl $0, db_count
	movl watched, %eax
	movl %eax, watched - 4
	movl %eax, watched + 4
	LOG_COUNT(0)
	movl %eax, watched
1:	nop
	LOG_COUNT(1)
	LOGGED(0, 1b, 2)
	movb %al, watched + 3
2:	nop
	LOGGED(1, 2b, 2)
	movq %rax, watched - 7			/* the first byte only */
3:	nop
	LOGGED(2, 3b, 2)
	lock incl watched
4:	nop
	LOGGED(3, 4b, 2)
	xchgl %eax, watched
5:	nop
	LOGGED(4, 5b, 2)
	movups %xmm0, watched - 8
6:	nop
	LOGGED(5, 6b, 2)
	LOG_COUNT(6)
	/* Reads as well, and a second breakpoint at the same place. */
	SET_DR(2, watched)
	SET_DR(7, 0x400 | 1 << 2 | 0xf << 20 | 1 << 4 | 1 << 24)
	movl watched, %eax
1:	nop
	LOG_COUNT(7)
	LOGGED(6, 1b, 2)
	incb watched				/* a byte, written */
2:	nop
	UNLESS_TCG(LOGGED(7, 2b, 6))
	/* The trap comes between the iterations of a string instruction. */
	SET_DR(7, 0x400 | 1 << 4 | 1 << 24)
	movl $0, db_count
	movl $8, %ecx
	movq $watched - 3, %rdi
3:	rep stosb
	LOG_COUNT(1)
	LOGGED(0, 3b, 4)
	CHECK_EQ(%rcx, 0)
	/* Code elsewhere in the page of the breakpoint runs as ever; disabled ones do nothing. */
	SET_DR(7, 0x400)
	movl %eax, watched
	LOG_COUNT(1)
	ret

debug_registers:
	TEST("debug registers")
	movq $0, step_end
	movl $0, db_count
	movabsq $0x100000000, %rax
	FAULT(VEC_GP, 0, movq %rax, %db7)
	FAULT(VEC_GP, 0, movq %rax, %db6)
	SET_DR(7, 0)
	movq %db7, %rax
	CHECK_EQ(%rax, 0x400)
	SET_DR(6, 0)
	movq %db6, %rax
	UNLESS_TCG(movl $DR6_NONE, %ecx; cmpq %rcx, %rax; CHECK(e))
	/* DR4 and DR5 stand for DR6 and DR7, unless CR4.DE forbids. */
	.byte 0x0f, 0x21, 0xe8			/* mov %db5, %rax */
	CHECK_EQ(%rax, 0x400)
	SET_CR(4, BOOT_CR4 | CR4_DE)
	FAULT(VEC_UD, 0, .byte 0x0f, 0x21, 0xe8)
	FAULT(VEC_UD, 0, .byte 0x0f, 0x21, 0xe0)
	SET_CR(4, BOOT_CR4)
	cmpb $0, under_tcg			/* QEMU's interpreter has no general detect */
	jne 1f
	TEST("general detect")
	SET_HANDLER(VEC_DB, 0)
	SET_DR(7, 0x2400)
	FAULT(VEC_DB, 0, movq %db0, %rax)
	movq %db6, %rax
	andl $0xe00f, %eax
	CHECK_EQ(%rax, DR6_BD)
	movq %db7, %rax				/* GD is clear now */
	CHECK_EQ(%rax, 0x400)
1:	SET_DR(6, DR6_NONE)
	ret

/* --- interrupts --------------------------------------------------------------------------------- */

note_interrupt:
	movq F_RIP(%rdi), %rax
	movq %rax, int_rip
	incl int_count
	movl $LAPIC, %edx
	movl $0, APIC_EOI(%rdx)
	ret

#define INTERRUPTED_AT(n, label) CHECK_EQ32(int_count, n); CHECK_EQ(int_rip, label)

interrupt_shadow:
	TEST("shadow of STI")
	SET_HANDLER(0x50, note_interrupt)
	SELF_IPI(0x50)
	nop
	CHECK_EQ32(int_count, 0)
	sti
	nop
1:	nop
	cli
	INTERRUPTED_AT(1, 1b)
	TEST("STI, CLI lets nothing in")
	SELF_IPI(0x50)
	sti
	cli
	nop
	CHECK_EQ32(int_count, 1)
	TEST("POPF has no shadow")
	pushfq
	orl $0x200, (%rsp)
	popfq
2:	nop
	cli
	INTERRUPTED_AT(2, 2b)
	TEST("STI with interrupts on has no shadow")
	SELF_IPI(0x50)
	sti
	sti
3:	nop
	cli
	INTERRUPTED_AT(3, 3b)
	TEST("a branch in the shadow")
	SELF_IPI(0x50)
	sti
	jmp 4f
	ud2
4:	nop
	cli
	INTERRUPTED_AT(4, 4b)
	TEST("HLT in the shadow")
	SELF_IPI(0x50)
	sti
	hlt
5:	cli
	INTERRUPTED_AT(5, 5b)
	TEST("a fault in the shadow ends it")
	SELF_IPI(0x50)
	SET_HANDLER(VEC_UD, skip_ud2)
	sti
	ud2
6:	nop
	cli
	CHECK_EQ32(int_count, 6)
	SET_HANDLER(VEC_UD, 0)
	TEST("IRET lets interrupts in at its target")
	SELF_IPI(0x50)
	pushq $SEL_DATA
	leaq 8(%rsp), %rax
	pushq %rax
	pushq $0x202
	pushq $SEL_CODE64
	pushq $7f
	iretq
7:	cli
	INTERRUPTED_AT(7, 7b)
	ret

/* An NMI to this processor itself. */
#define NMI_SELF                                                                                   \
	movl APIC_ID(%r15), %eax; andl $0xff000000, %eax; movl %eax, APIC_ICR2(%r15);              \
	APIC_WRITE(APIC_ICR, 0x4400)

nmi:
	TEST("NMI")
	SET_HANDLER(VEC_NMI, count_nmi)
	NMI_SELF
	call pause_a_while
	CHECK_EQ32(nmi_count, 1)
	TEST("NMI waits for the end of the one before")
	movl $0, nmi_count
	SET_HANDLER(VEC_NMI, nmi_in_nmi)
	NMI_SELF
	call pause_a_while
	CHECK_EQ32(nmi_count, 2)
	CHECK_EQ32(nmi_nested, 0)
	TEST("any IRET lets the next NMI in")
	movl $0, nmi_count
	SET_HANDLER(VEC_NMI, nmi_iret)
	SET_HANDLER(VEC_BP, do_nothing)
	NMI_SELF
	call pause_a_while
	CHECK_EQ32(nmi_count, 2)
	CHECK_EQ32(nmi_nested, 1)
	ret

pause_a_while:
	movl $20000, %ecx
1:	decl %ecx
	jnz 1b
	ret

count_nmi:
	incl nmi_count
	ret

nmi_in_nmi:
	incl nmi_count
	cmpl $1, nmi_count
	jne 1f
	movl $1, in_nmi
	NMI_SELF
	call pause_a_while
	movl $0, in_nmi
	ret
1:	movl in_nmi, %eax
	movl %eax, nmi_nested
	ret

nmi_iret:
	incl nmi_count
	cmpl $1, nmi_count
	jne 1f
	movl $1, in_nmi
	NMI_SELF
	call pause_a_while
	CHECK_EQ32(nmi_count, 1)
	int3
	call pause_a_while
	movl $0, in_nmi
	ret
1:	movl in_nmi, %eax
	movl %eax, nmi_nested
	ret

	.bss
	.balign 4096
	.skip 64
watched: .skip 64
buffer:	.skip 64
db_rip:	.skip 8 * LOG_SIZE
db_dr6:	.skip 4 * LOG_SIZE
step_end: .skip 8
int_rip: .skip 8
db_count: .skip 4
set_rf:	.skip 4
int_count: .skip 4
nmi_count: .skip 4
nmi_nested: .skip 4
in_nmi:	.skip 4
