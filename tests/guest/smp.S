/* Several processors: locked instructions, interprocessor interrupts, shootdown, INIT and SIPI. */
#include "guest.h"

#define ROUNDS 20000
#define VEC_IPI 0x60
#define VEC_FLUSH 0x61
#define FLUSH_ROUNDS 300

	.text
	.globl main, ap_main
main:
	SET_HANDLER(VEC_IPI, count_ipi)
	SET_HANDLER(VEC_FLUSH, flush)
	SET_HANDLER(VEC_NMI, count_nmi)
	call smp_start
	xorl %edi, %edi
	call all_cpus
	call restart
	ret

ap_main:
	cmpl $0, restarted
	jne 1f
	call all_cpus
	ret
1:	lock incl restarts
	ret

/* ebp: number of this processor. */
all_cpus:
	pushq %rbp
	movl %edi, %ebp
	call barrier
	call locked
	call barrier
	testl %ebp, %ebp
	jnz 1f
	call check_locked
	call send_ipis
1:	call ipi_target
	call barrier
	call shootdown
	call barrier
	popq %rbp
	ret

/* --- locked instructions ------------------------------------------------------------------------ */

locked:
	movl $ROUNDS, %r12d
1:	lock incq count_inc
	lock addl $3, count_add
	movl $1, %eax
	lock xaddw %ax, count_xadd
	lock subb $1, count_byte
	/* Compare and exchange, of 8 and of 16 bytes. */
	movq count_cmpxchg, %rax
2:	leaq 1(%rax), %rcx
	lock cmpxchgq %rcx, count_cmpxchg
	jne 2b
	movq count_16, %rax
	movq count_16 + 8, %rdx
3:	leaq 1(%rax), %rbx
	leaq 3(%rdx), %rcx
	lock cmpxchg16b count_16
	jne 3b
	/* A counter that crosses cache lines, and one that crosses pages. */
	lock incl split_line
	lock incl split_page
	/* Locks by XCHG and by BTS around plain increments. */
4:	movl $1, %eax
	xchgl %eax, lock_xchg
	testl %eax, %eax
	jz 5f
	pause
	jmp 4b
5:	incq count_plain
	movl $0, lock_xchg
6:	lock btsl $5, lock_bts
	jnc 7f
	pause
	jmp 6b
7:	incq count_plain2
	lock btrl $5, lock_bts
	lock orl $1, count_or
	lock notq count_not
	lock negl count_neg
	decl %r12d
	jnz 1b
	ret

#define CHECK_TOTAL(what, each)                                                                    \
	movq $(each), %rax; imulq %rbx, %rax; cmpq what, %rax; CHECK(e)

check_locked:
	TEST("locked instructions")
	movl ncpus, %ebx
	CHECK_TOTAL(count_inc, ROUNDS)
	CHECK_TOTAL(count_add, 3 * ROUNDS)
	movl count_xadd, %eax
	imull $ROUNDS, %ebx, %ecx
	cmpw %cx, %ax
	CHECK(e)
	movb count_byte, %al
	addb %cl, %al
	CHECK(z)
	CHECK_TOTAL(count_cmpxchg, ROUNDS)
	CHECK_TOTAL(count_16, ROUNDS)
	CHECK_TOTAL(count_16 + 8, 3 * ROUNDS)
	CHECK_TOTAL(count_plain, ROUNDS)
	CHECK_TOTAL(count_plain2, ROUNDS)
	cmpl split_line, %ecx
	CHECK(e)
	cmpl split_page, %ecx
	CHECK(e)
	CHECK_EQ(count_not, 0)			/* an even number of inversions */
	CHECK_EQ32(count_neg, 5)
	ret

/* --- interprocessor interrupts ------------------------------------------------------------------ */

/* Waits with interrupts on until the sender is done. */
ipi_target:
	testl %ebp, %ebp
	jz 2f
	movl $LAPIC, %r15d
	movl $0x01000000, %eax			/* logical, flat: bit number = CPU number */
	movl %ebp, %ecx
	shll %cl, %eax
	movl %eax, APIC_LDR(%r15)
	APIC_WRITE(APIC_DFR, 0xffffffff)
	lock incl targets_ready
	sti
1:	hlt
	cmpl $0, ipis_done
	je 1b
	cli
2:	ret

count_ipi:
	call this_cpu
	lock incl ipi_count(,%rax,4)
	movl $LAPIC, %edx
	movl $0, APIC_EOI(%rdx)
	ret

count_nmi:
	call this_cpu
	lock incl nmi_count(,%rax,4)
	ret

/* Waits until the counters of processors 0 to 3 are as given, or fails. */
#define EXPECT_COUNTS(array, c0, c1, c2, c3)                                                       \
	movq $array, %rsi; movl $c0, want; movl $c1, want + 4; movl $c2, want + 8;                 \
	movl $c3, want + 12; movl $__LINE__, %edi; call wait_counts

wait_counts:
	movl $100000000, %r12d
1:	movq (%rsi), %rax
	movq 8(%rsi), %rdx
	cmpq want, %rax
	jne 2f
	cmpq want + 8, %rdx
	je 3f
2:	pause
	decl %r12d
	jnz 1b
	movq %rax, %rsi
	jmp fail
3:	call smp_delay				/* and not more */
	cmpq want, %rax
	jne 2b
	cmpq want + 8, %rdx
	jne 2b
	ret

#define ICR_TO(cpu, low)                                                                           \
	movl apic_ids + 4 * (cpu), %eax; shll $24, %eax; movl %eax, APIC_ICR2(%r15);               \
	APIC_WRITE(APIC_ICR, low)
#define ICR_LOGICAL(mask, low)                                                                     \
	APIC_WRITE(APIC_ICR2, (mask) << 24); APIC_WRITE(APIC_ICR, 0x800 | (low))

send_ipis:
	TEST("IPIs")
	movl $LAPIC, %r15d
	APIC_WRITE(APIC_LDR, 0x01000000)
	APIC_WRITE(APIC_DFR, 0xffffffff)
	sti
1:	pause
	movl targets_ready, %eax
	incl %eax
	cmpl ncpus, %eax
	jne 1b
	TEST("IPI to one")
	ICR_TO(1, VEC_IPI)
	EXPECT_COUNTS(ipi_count, 0, 1, 0, 0)
	ICR_TO(3, VEC_IPI)
	EXPECT_COUNTS(ipi_count, 0, 1, 0, 1)
	TEST("IPI to self by number")
	ICR_TO(0, VEC_IPI)
	EXPECT_COUNTS(ipi_count, 1, 1, 0, 1)
	TEST("IPI to self by shorthand")
	APIC_WRITE(APIC_ICR, 0x44000 | VEC_IPI)
	EXPECT_COUNTS(ipi_count, 2, 1, 0, 1)
	TEST("IPI to all but self")
	APIC_WRITE(APIC_ICR, 0xc4000 | VEC_IPI)
	EXPECT_COUNTS(ipi_count, 2, 2, 1, 2)
	TEST("IPI to all")
	APIC_WRITE(APIC_ICR, 0x84000 | VEC_IPI)
	EXPECT_COUNTS(ipi_count, 3, 3, 2, 3)
	TEST("IPI to everyone by broadcast id")
	APIC_WRITE(APIC_ICR2, 0xff000000)
	APIC_WRITE(APIC_ICR, VEC_IPI)
	EXPECT_COUNTS(ipi_count, 4, 4, 3, 4)
	TEST("IPI by logical destination")
	ICR_LOGICAL(0xc, VEC_IPI)
	EXPECT_COUNTS(ipi_count, 4, 4, 4, 5)
	ICR_LOGICAL(0x10, VEC_IPI)		/* nobody */
	EXPECT_COUNTS(ipi_count, 4, 4, 4, 5)
	TEST("lowest priority goes to one")
	ICR_LOGICAL(0x2, 0x100 | VEC_IPI)
	EXPECT_COUNTS(ipi_count, 4, 5, 4, 5)
	TEST("NMI to one, and to all but self")
	ICR_TO(2, 0x4400)
	EXPECT_COUNTS(nmi_count, 0, 0, 1, 0)
	APIC_WRITE(APIC_ICR, 0xc4400)
	EXPECT_COUNTS(nmi_count, 0, 1, 2, 1)
	TEST("a burst of IPIs")
	movl $1000, %ebx
1:	APIC_WRITE(APIC_ICR, 0xc4000 | VEC_IPI)
	movl ipi_count + 4, %ecx
	decl %ebx
	jnz 1b
2:	pause					/* at least one more each: a lost one times out */
	cmpl $6, ipi_count + 4
	jb 2b
	cmpl $5, ipi_count + 8
	jb 2b
	cmpl $6, ipi_count + 12
	jb 2b
	cmpl $1005, ipi_count + 4		/* at most all */
	CHECK(be)
	cli
	movl $1, ipis_done
	APIC_WRITE(APIC_ICR, 0xc4000 | VEC_IPI)
	ret

/* --- TLB shootdown --------------------------------------------------------------------------------- */

/*
 * Processor 0 moves a page between two frames. Once all others have flushed, it poisons the frame it
 * took away; who still reads through a stale translation sees the poison.
 */
#define VA 0x10000000000
#define GOOD 0x600d
#define POISON 0xbad

flush:
	movabsq $VA, %rdx
	invlpg (%rdx)
	lock incl flushed
	movl $LAPIC, %edx
	movl $0, APIC_EOI(%rdx)
	ret

shootdown:
	testl %ebp, %ebp
	jz 2f
	call barrier
	movabsq $VA, %rbx
	sti
1:	CHECK_EQ32((%rbx), GOOD)
	CHECK_EQ32((%rbx), GOOD)
	cmpl $0, shootdown_done
	je 1b
	cli
	ret
2:	TEST("TLB shootdown")
	movq $pdpt + 3, boot_pml4 + 16
	movq $pd + 3, pdpt
	movq $pt + 3, pd
	movq $frames + 3, pt
	movl $GOOD, frames
	call barrier
	movl $FLUSH_ROUNDS, %r12d
	movl $LAPIC, %r15d
	xorl %ebx, %ebx				/* offset of the frame in use */
3:	movl %ebx, %r13d
	xorl $4096, %ebx
	movl $GOOD, frames(%rbx)
	leaq frames + 3(%rbx), %rax
	movq %rax, pt
	movabsq $VA, %rax
	invlpg (%rax)
	movl $0, flushed
	APIC_WRITE(APIC_ICR, 0xc4000 | VEC_FLUSH)
4:	pause
	movl flushed, %eax
	incl %eax
	cmpl ncpus, %eax
	jne 4b
	movl $POISON, frames(%r13)
	movl $300, %ecx
5:	decl %ecx
	jnz 5b
	decl %r12d
	jnz 3b
	movl $1, shootdown_done
	ret

/* --- INIT and STARTUP of a processor that runs --------------------------------------------------- */

restart:
	TEST("INIT and STARTUP")
	movl $LAPIC, %r15d
	movl $1, restarted
	movl $1, next_cpu			/* numbers, stacks and TSSs from 1 again */
	movb $0x89, gdt + SEL_TSS + 16 + 5
	ICR_TO(3, 0x4500)
	call smp_delay
	CHECK_EQ32(restarts, 0)
	/* A processor that waits for STARTUP takes no other interrupt. */
	ICR_TO(3, 0x4400)
	ICR_TO(3, VEC_IPI)
	call smp_delay
	movl nmi_count + 12, %ebx
	ICR_TO(3, 0x4608)
	movl $100000000, %ecx
1:	pause
	cmpl $1, restarts
	je 2f
	decl %ecx
	jnz 1b
	FAIL()
2:	cmpl nmi_count + 12, %ebx
	CHECK(e)
	/* STARTUP is ignored by processors that run. */
	ICR_TO(2, 0x4608)
	call smp_delay
	CHECK_EQ32(restarts, 1)
	ret

	.data
	.balign 64
count_inc: .quad 0
count_add: .quad 0
count_xadd: .quad 0
count_byte: .quad 0
count_cmpxchg: .quad 0
count_plain: .quad 0
	.balign 64
count_16: .quad 0, 0
count_plain2: .quad 0
lock_xchg: .long 0
lock_bts: .long 0
count_or: .long 0
count_neg: .long 5
count_not: .quad 0
	.balign 64
	.skip 62
split_line: .long 0
	.balign 4096
	.skip 4094
split_page: .long 0
	.balign 16
want:	.skip 16
ipi_count: .skip 16
nmi_count: .skip 16
targets_ready: .long 0
ipis_done: .long 0
flushed: .long 0
shootdown_done: .long 0
restarted: .long 0
restarts: .long 0

	.bss
	.balign 4096
pdpt:	.skip 4096
pd:	.skip 4096
pt:	.skip 4096
frames:	.skip 8192
