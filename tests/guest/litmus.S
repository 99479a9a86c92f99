/*
 * Memory order between processors: x86-TSO litmus tests (Intel SDM volume 3, 9.2.3). Each processor
 * walks through arrays of independent cells, so that one pass is thousands of trials.
 */
#include "guest.h"

#define CELLS 8192		/* of 64 bytes: one cache line each */
#define BATCH 32		/* cells between two meetings, so that all walk abreast */
#define PASSES 10
#define CELL_SHIFT 6
#define X 0
#define Y 4
#define R0 8
#define R1 12
#define R2 16
#define R3 20

	.text
	.globl main, ap_main
main:
	call smp_start
	xorl %edi, %edi
	call all_cpus
	TEST("message passing")
	CHECK_EQ32(bad_mp, 0)
	TEST("load buffering")
	CHECK_EQ32(bad_lb, 0)
	TEST("store buffering with MFENCE")
	CHECK_EQ32(bad_sb_fence, 0)
	TEST("store buffering with a locked instruction")
	CHECK_EQ32(bad_sb_lock, 0)
	TEST("store buffering with XCHG")
	CHECK_EQ32(bad_sb_xchg, 0)
	TEST("independent reads of independent writes")
	CHECK_EQ32(bad_iriw, 0)
	TEST("writes are transitively visible")
	CHECK_EQ32(bad_wrc, 0)
	TEST("a read of one's own write")
	CHECK_EQ32(bad_own, 0)
	/* Allowed, and seen or not depending on the host: reported only. */
	movq $text_sb, %rsi
	call puts
	movl seen_sb, %edi
	call put_dec
	movq $text_newline, %rsi
	call puts
	ret

ap_main:
	jmp all_cpus

all_cpus:
	pushq %rbp
	movl %edi, %ebp
	movl $PASSES, %r13d
1:
#define RUN(test, check)                                                                           \
	call clear; call barrier; xorl %r14d, %r14d; call test; call barrier; call check; call barrier
	RUN(mp, check_mp)
	RUN(lb, check_lb)
	RUN(sb, check_sb)
	RUN(sb_fence, check_sb_fence)
	RUN(sb_lock, check_sb_lock)
	RUN(sb_xchg, check_sb_xchg)
	RUN(iriw, check_iriw)
	RUN(wrc, check_wrc)
	RUN(own, check_own)
	decl %r13d
	jnz 1b
	popq %rbp
	ret

/* Processor 0 clears the cells; results start as -1. */
clear:
	testl %ebp, %ebp
	jnz 1f
	movq $cells, %rdi
	movl $CELLS * 64 / 4, %ecx
	xorl %eax, %eax
	rep stosl
	movl $0, met
1:	ret

/* Waits, at first without giving way, until r14d processors were here. */
meet:	lock incl met
	movl $3000, %ecx
1:	cmpl %r14d, met
	jge 2f
	decl %ecx
	jnz 1b
	pause
	movl $100, %ecx
	jmp 1b
2:	ret

/* One processor's walk over all cells, with rbx at the cell, abreast of the others of n. */
#define WALK(n, ...)                                                                               \
	movq $cells, %rbx; movl $CELLS, %r12d; 71: testl $BATCH - 1, %r12d; jnz 70f;               \
	addl $(n), %r14d; call meet; 70: __VA_ARGS__; addq $64, %rbx; decl %r12d; jnz 71b; ret
#define ROLE(n) cmpl $n, %ebp; jne 72f
#define ROLE_END 72:

/* Counts the cells in which all conditions hold: a chain of jumps to 73 for those that do not. */
#define COUNT(counter, ...)                                                                        \
	testl %ebp, %ebp; jnz 74f; movq $cells, %rbx; movl $CELLS, %r12d; 71: __VA_ARGS__;         \
	incl counter; 73: addq $64, %rbx; decl %r12d; jnz 71b; 74: ret
#define IS(reg, value) cmpl $(value), reg(%rbx); jne 73f

mp:	ROLE(0)
	WALK(2, movl $1, X(%rbx); movl $1, Y(%rbx))
	ROLE_END
	ROLE(1)
	WALK(2, movl Y(%rbx), %eax; movl X(%rbx), %edx; movl %eax, R0(%rbx); movl %edx, R1(%rbx))
	ROLE_END
	ret
check_mp:
	COUNT(bad_mp, IS(R0, 1); IS(R1, 0))

lb:	ROLE(0)
	WALK(2, movl X(%rbx), %eax; movl $1, Y(%rbx); movl %eax, R0(%rbx))
	ROLE_END
	ROLE(1)
	WALK(2, movl Y(%rbx), %eax; movl $1, X(%rbx); movl %eax, R1(%rbx))
	ROLE_END
	ret
check_lb:
	COUNT(bad_lb, IS(R0, 1); IS(R1, 1))

#define SB(name, counter, store_x, store_y)                                                        \
	name: ROLE(0);                                                                             \
	WALK(2, store_x; movl Y(%rbx), %eax; movl %eax, R0(%rbx));                                    \
	ROLE_END; ROLE(1);                                                                         \
	WALK(2, store_y; movl X(%rbx), %eax; movl %eax, R1(%rbx));                                    \
	ROLE_END; ret;                                                                             \
	check_##name: COUNT(counter, IS(R0, 0); IS(R1, 0))

#define MOV_1(to) movl $1, to
#define LOCKED lock addl $0, (%rsp)
#define XCHG_1(to) movl $1, %eax; xchgl %eax, to

SB(sb, seen_sb, MOV_1(X(%rbx)), MOV_1(Y(%rbx)))
SB(sb_fence, bad_sb_fence, MOV_1(X(%rbx)); mfence, MOV_1(Y(%rbx)); mfence)
SB(sb_lock, bad_sb_lock, MOV_1(X(%rbx)); LOCKED, MOV_1(Y(%rbx)); LOCKED)
SB(sb_xchg, bad_sb_xchg, XCHG_1(X(%rbx)), XCHG_1(Y(%rbx)))

iriw:	ROLE(0)
	WALK(4, movl $1, X(%rbx))
	ROLE_END
	ROLE(1)
	WALK(4, movl $1, Y(%rbx))
	ROLE_END
	ROLE(2)
	WALK(4, movl X(%rbx), %eax; movl Y(%rbx), %edx; movl %eax, R0(%rbx); movl %edx, R1(%rbx))
	ROLE_END
	WALK(4, movl Y(%rbx), %eax; movl X(%rbx), %edx; movl %eax, R2(%rbx); movl %edx, R3(%rbx))
check_iriw:
	COUNT(bad_iriw, IS(R0, 1); IS(R1, 0); IS(R2, 1); IS(R3, 0))

wrc:	ROLE(0)
	WALK(3, movl $1, X(%rbx))
	ROLE_END
	ROLE(1)
	WALK(3, movl X(%rbx), %eax; movl %eax, Y(%rbx))
	ROLE_END
	ROLE(2)
	WALK(3, movl Y(%rbx), %eax; movl X(%rbx), %edx; movl %eax, R0(%rbx); movl %edx, R1(%rbx))
	ROLE_END
	ret
check_wrc:
	COUNT(bad_wrc, IS(R0, 1); IS(R1, 0))

/* Store forwarding: one's own store is seen by one's own later load, of any width. */
own:	ROLE(0)
	WALK(1, movl $0x01020304, X(%rbx); movzbl X + 1(%rbx), %eax; movl %eax, R0(%rbx))
	ROLE_END
	ret
check_own:
	COUNT(bad_own, movl R0(%rbx), %eax; cmpl $3, %eax; je 73f)

	.section .rodata
text_sb: .asciz "store buffering seen "
text_newline: .asciz " times\n"

	.data
met:	.long 0
bad_mp:	.long 0
bad_lb:	.long 0
seen_sb: .long 0
bad_sb_fence: .long 0
bad_sb_lock: .long 0
bad_sb_xchg: .long 0
bad_iriw: .long 0
bad_wrc: .long 0
bad_own: .long 0

	.bss
	.balign 4096
cells:	.skip CELLS * 64
