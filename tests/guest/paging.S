/* 4-level paging: rights, error codes, accessed and dirty bits, page sizes, TLB invalidation, PCID. */
#include "guest.h"

#define P 1
#define W 2
#define U 4
#define A 0x20
#define D 0x40
#define PS 0x80
#define G 0x100
#define NX 0x8000000000000000
#define RSVD 0x8000000000000	/* bit 51 */

#define VA 0x10000000000	/* entry 2 of the PML4, all others 0 */
#define DATA_OFF 64

/* Accesses. */
#define R 0
#define WR 1
#define X 2
#define USER 4
/* Settings. */
#define WP 1
#define SMEP 2
#define SMAP 4
#define AC 8
#define NXE 16
#define STD (WP | NXE)
#define FINE (-1)

/* Rights at each level, from the PML4 down. */
#define CASE(l4, l3, l2, l1, access, settings, expected)                                           \
	.quad l4, l3, l2, l1; .long access, settings, expected, __LINE__
#define CASE_SIZE 48

	.text
	.globl main
main:
	movq $pdpt + P + W + U, boot_pml4 + 16
	call check_features
	call rights
	call sizes
	call invalidation
	call pcid
	ret

check_features:
	movl $7, %eax
	xorl %ecx, %ecx
	cpuid
	movl %ebx, leaf7_ebx
	movl $1, %eax
	cpuid
	movl %ecx, leaf1_ecx
	movl $0x80000001, %eax
	cpuid
	movl %edx, ext_edx
	ret

/* --- rights: a table of cases ------------------------------------------------------------------- */

rights:
	TEST("rights")
	movq $cases, %r12
1:	cmpq $cases_end, %r12
	je 3f
	call run_case
	addq $CASE_SIZE, %r12
	jmp 1b
3:	SET_CR(0, BOOT_CR0)
	SET_CR(4, BOOT_CR4)
	WRMSR(MSR_EFER, EFER_SCE | EFER_LME | EFER_NXE | 0x400)
	ret

/* r12: the case. */
run_case:
	movl 36(%r12), %r13d		/* settings */
	movl leaf7_ebx, %eax
	testl $SMEP, %r13d
	jz 1f
	btl $7, %eax
	jnc 9f
1:	testl $SMAP, %r13d
	jz 1f
	btl $20, %eax
	jnc 9f
1:	movq $pdpt, %rax
	orq (%r12), %rax
	movq %rax, boot_pml4 + 16
	movq $pd, %rax
	orq 8(%r12), %rax
	movq %rax, pdpt
	movq $pt, %rax
	orq 16(%r12), %rax
	movq %rax, pd
	movq $page_a, %rax
	orq 24(%r12), %rax
	movq %rax, pt
	call apply_settings
	movq %cr3, %rax
	movq %rax, %cr3
	movabsq $VA, %rbx
	movl $NO_EXC, exc_vector
	movl $0, exc_error
	movq $case_done, exc_resume
	movq %rsp, exc_resume_rsp
	testl $AC, %r13d
	jz 1f
	stac
1:	movl 32(%r12), %eax
	jmp *access_code(,%rax,8)
case_done:
	movq $0, exc_resume
	testl $SMAP, %r13d
	jz 1f
	clac
1:	cmpl $VEC_USER, exc_vector	/* user code's way back */
	jne 1f
	movl $NO_EXC, exc_vector
1:	cmpl $FINE, 40(%r12)
	je 6f
	/* A page fault with this error code, at the address accessed, and nothing dirty. */
	cmpl $VEC_PF, exc_vector
	jne failed_case
	movl exc_error, %eax
	cmpb $0, under_tcg
	je 1f
	testb $8, %al			/* QEMU's interpreter leaves out P of reserved bits */
	jz 1f
	orl $1, %eax
1:	cmpl %eax, 40(%r12)
	jne failed_case
	movl 32(%r12), %eax
	movl access_offset(,%rax,4), %eax
	addq %rbx, %rax
	cmpq %rax, exc_cr2
	jne failed_case
	movq boot_pml4 + 16, %rax
	orq pdpt, %rax
	orq pd, %rax
	orq pt, %rax
	testl $D, %eax
	jnz failed_case
	jmp 9f
6:	cmpl $NO_EXC, exc_vector
	jne failed_case
	movq boot_pml4 + 16, %rax
	andq pdpt, %rax
	andq pd, %rax
	andq pt, %rax
	testl $A, %eax
	jz failed_case
	movl 32(%r12), %eax
	andl $3, %eax
	cmpl $WR, %eax
	sete %al
	testl $D, pt
	setnz %ah
	cmpb %al, %ah
	jne failed_case
	testl $D, pd
	jnz failed_case
9:	ret

failed_case:
	movl 44(%r12), %edi
	movl exc_error, %esi
	movl 40(%r12), %edx
	cmpl $VEC_PF, exc_vector
	je fail
	movl exc_vector, %esi
	jmp fail_exception

/* r13: settings. */
apply_settings:
	movl $BOOT_CR0 & ~CR0_WP, %eax
	testl $WP, %r13d
	jz 1f
	orl $CR0_WP, %eax
1:	movq %rax, %cr0
	movl $BOOT_CR4, %eax
	testl $SMEP, %r13d
	jz 1f
	orl $CR4_SMEP, %eax
1:	testl $SMAP, %r13d
	jz 1f
	orl $CR4_SMAP, %eax
1:	movq %rax, %cr4
	movl $MSR_EFER, %ecx
	xorl %edx, %edx
	movl $EFER_SCE | EFER_LME | 0x400, %eax
	testl $NXE, %r13d
	jz 1f
	orl $EFER_NXE, %eax
1:	wrmsr
	ret

super_read:
	movl DATA_OFF(%rbx), %eax
	jmp case_done
super_write:
	movl %eax, DATA_OFF(%rbx)
	jmp case_done
super_exec:
	call *%rbx
	jmp case_done
user_read_entry:
	ENTER_USER(user_read)
user_write_entry:
	ENTER_USER(user_write)
user_exec_entry:
	ENTER_USER(user_exec)
user_read:
	movl DATA_OFF(%rbx), %eax
	int $VEC_USER
user_write:
	movl %eax, DATA_OFF(%rbx)
	int $VEC_USER
user_exec:
	leaq 16(%rbx), %rax
	jmp *%rax

	.section .rodata
	.balign 8
access_code:
	.quad super_read, super_write, super_exec, 0, user_read_entry, user_write_entry
	.quad user_exec_entry
access_offset:
	.long DATA_OFF, DATA_OFF, 0, 0, DATA_OFF, DATA_OFF, 16
	.balign 8
#define RWU (P | W | U)
#define SYS (P | W)
cases:
	CASE(RWU, RWU, RWU, RWU, R, STD, FINE)
	CASE(RWU, RWU, RWU, RWU, WR, STD, FINE)
	CASE(RWU, RWU, RWU, RWU, X, STD, FINE)
	CASE(RWU, RWU, RWU, RWU, USER | R, STD, FINE)
	CASE(RWU, RWU, RWU, RWU, USER | WR, STD, FINE)
	CASE(RWU, RWU, RWU, RWU, USER | X, STD, FINE)
	/* Not present, at each level. */
	CASE(W | U, RWU, RWU, RWU, R, STD, 0)
	CASE(RWU, W | U, RWU, RWU, WR, STD, 2)
	CASE(RWU, RWU, W | U, RWU, USER | R, STD, 4)
	CASE(RWU, RWU, RWU, W | U, USER | WR, STD, 6)
	CASE(RWU, RWU, RWU, 0, X, STD, 0x10)
	CASE(RWU, RWU, RWU, 0, USER | X, STD, 0x14)
	CASE(RWU, RWU, RWU, 0, X, WP, 0)
	CASE(RWU, RWU, RWU, 0, X, WP | SMEP, 0x10)
	CASE(RWU, RWU, RWU, RSVD, R, STD, 0)
	/* Supervisor pages, by any level. */
	CASE(SYS, RWU, RWU, RWU, USER | R, STD, 5)
	CASE(RWU, SYS, RWU, RWU, USER | WR, STD, 7)
	CASE(RWU, RWU, SYS, RWU, USER | X, STD, 0x15)
	CASE(RWU, RWU, RWU, SYS, USER | R, STD, 5)
	CASE(RWU, RWU, RWU, SYS, USER | X, WP, 5)
	CASE(RWU, SYS, RWU, RWU, WR, STD, FINE)
	/* Read-only pages, by any level. */
	CASE(P | U, RWU, RWU, RWU, USER | WR, STD, 7)
	CASE(RWU, P | U, RWU, RWU, USER | WR, STD, 7)
	CASE(RWU, RWU, P | U, RWU, WR, STD, 3)
	CASE(RWU, RWU, RWU, P | U, WR, STD, 3)
	CASE(RWU, RWU, RWU, P | U, USER | R, STD, FINE)
	CASE(RWU, RWU, RWU, P | U, WR, NXE, FINE)
	CASE(RWU, RWU, P | U, RWU, WR, NXE, FINE)
	CASE(RWU, RWU, RWU, P | U, USER | WR, NXE, 7)
	CASE(SYS, SYS, SYS, P, WR, NXE, FINE)
	CASE(SYS, SYS, SYS, P, WR, STD, 3)
	/* No execution, by any level; the bit is reserved without EFER.NXE. */
	CASE(NX | RWU, RWU, RWU, RWU, X, STD, 0x11)
	CASE(RWU, NX | RWU, RWU, RWU, USER | X, STD, 0x15)
	CASE(RWU, RWU, NX | RWU, RWU, X, STD, 0x11)
	CASE(RWU, RWU, RWU, NX | RWU, USER | X, STD, 0x15)
	CASE(RWU, RWU, RWU, NX | RWU, USER | WR, STD, FINE)
	CASE(RWU, RWU, RWU, NX | RWU, R, WP, 9)
	CASE(RWU, NX | RWU, RWU, RWU, USER | WR, WP, 0xf)
	CASE(NX | RWU, RWU, RWU, RWU, X, WP, 9)
	/* Reserved bits. */
	CASE(RSVD | RWU, RWU, RWU, RWU, R, STD, 9)
	CASE(RWU, RSVD | RWU, RWU, RWU, WR, STD, 0xb)
	CASE(RWU, RWU, RSVD | RWU, RWU, USER | R, STD, 0xd)
	CASE(RWU, RWU, RWU, RSVD | RWU, USER | X, STD, 0x1d)
	CASE(PS | RWU, RWU, RWU, RWU, R, STD, 9)
	/* SMEP: the supervisor executes no user page. */
	CASE(RWU, RWU, RWU, RWU, X, STD | SMEP, 0x11)
	CASE(RWU, RWU, RWU, RWU, X, WP | SMEP, 0x11)
	CASE(RWU, RWU, RWU, SYS, X, STD | SMEP, FINE)
	CASE(RWU, SYS, RWU, RWU, X, STD | SMEP, FINE)
	CASE(RWU, RWU, RWU, RWU, R, STD | SMEP, FINE)
	CASE(RWU, RWU, RWU, RWU, USER | X, STD | SMEP, FINE)
	/* SMAP: nor does it read or write one, unless AC is set. */
	CASE(RWU, RWU, RWU, RWU, R, STD | SMAP, 1)
	CASE(RWU, RWU, RWU, RWU, WR, STD | SMAP, 3)
	CASE(RWU, RWU, RWU, RWU, WR, NXE | SMAP, 3)
	CASE(RWU, RWU, RWU, RWU, X, STD | SMAP, FINE)
	CASE(RWU, RWU, RWU, RWU, R, STD | SMAP | AC, FINE)
	CASE(RWU, RWU, RWU, RWU, WR, STD | SMAP | AC, FINE)
	CASE(RWU, RWU, RWU, P | U, WR, STD | SMAP | AC, 3)
	CASE(RWU, RWU, RWU, SYS, WR, STD | SMAP, FINE)
	CASE(RWU, RWU, SYS, RWU, R, STD | SMAP, FINE)
	CASE(RWU, RWU, RWU, RWU, USER | WR, STD | SMAP, FINE)
	CASE(RWU, RWU, RWU, RWU, USER | R, STD | SMAP | SMEP, FINE)
cases_end:
	.text

/* --- page sizes --------------------------------------------------------------------------------- */

#define MAP_4K(entry, frame, flags)                                                                \
	movq $pdpt + RWU, boot_pml4 + 16; movq $pd + RWU, pdpt; movq $pt + RWU, pd;                \
	movq $frame, %rax; orq $(flags), %rax; movq %rax, pt + 8 * (entry)

#define LARGE 0x1000000		/* 16 MiB: free memory */

sizes:
	TEST("2 MiB pages")
	movq $pdpt + RWU, boot_pml4 + 16
	movq $pd + RWU, pdpt
	movq $LARGE + PS + RWU, pd + 8
	movabsq $VA + 0x200000, %rbx
	invlpg (%rbx)
	movq $0x1234, LARGE
	movq $0x5678, LARGE + 0x1ff000
	CHECK_EQ((%rbx), 0x1234)
	movl $D, %eax
	testq %rax, pd + 8
	CHECK(z)
	CHECK_EQ(0x1ff000(%rbx), 0x5678)
	movq $0x9abc, 0x12345(%rbx)
	CHECK_EQ(LARGE + 0x12345, 0x9abc)
	testl $D, pd + 8
	CHECK(nz)
	movq $LARGE + 0x2000 + PS + RWU, pd + 8		/* bit 13 is reserved */
	invlpg (%rbx)
	UNLESS_TCG(FAULT(VEC_PF, 9, movl (%rbx), %eax))
	movq $LARGE + 0x1000 + PS + RWU, pd + 8		/* bit 12 is PAT */
	CHECK_EQ((%rbx), 0x1234)
	TEST("1 GiB pages")
	btl $26, ext_edx
	jnc 1f
	movq $PS + RWU, pdpt + 8			/* guest-physical 0 to 1 GiB */
	movabsq $VA + 0x40000000, %rbx
	CHECK_EQ(LARGE(%rbx), 0x1234)
	movq $0x1111, LARGE + 8(%rbx)
	CHECK_EQ(LARGE + 8, 0x1111)
	testl $D, pdpt + 8
	CHECK(nz)
	movq $0x2000 + PS + RWU, pdpt + 8
	invlpg (%rbx)
	UNLESS_TCG(FAULT(VEC_PF, 0xb, movl %eax, LARGE(%rbx)))
	movq $0, pdpt + 8
	invlpg (%rbx)
	FAULT(VEC_PF, 0, movl LARGE(%rbx), %eax)
1:	ret

/* --- invalidation -------------------------------------------------------------------------------- */

/* Reads through a stale translation would see page_a's mark instead of page_b's. */
#define MARK_A 0xaaaa
#define MARK_B 0xbbbb
#define SEES(mark) CHECK_EQ32(DATA_OFF(%rbx), mark)
#define REMAP(frame, flags) movq $frame, %rax; orq $(flags), %rax; movq %rax, pt

invalidation:
	TEST("INVLPG")
	movl $MARK_A, page_a + DATA_OFF
	movl $MARK_B, page_b + DATA_OFF
	movabsq $VA, %rbx
	MAP_4K(0, page_a, RWU)
	movq %cr3, %rax
	movq %rax, %cr3
	SEES(MARK_A)
	REMAP(page_b, RWU)
	invlpg 0xfff(%rbx)
	SEES(MARK_B)
	TEST("CR3 reload")
	REMAP(page_a, RWU)
	movq %cr3, %rax
	movq %rax, %cr3
	SEES(MARK_A)
	TEST("rights shrink")
	movl $MARK_A, DATA_OFF(%rbx)		/* writable in the TLB */
	REMAP(page_a, P | U)
	invlpg (%rbx)
	FAULT(VEC_PF, 3, movl %eax, DATA_OFF(%rbx))
	SEES(MARK_A)
	TEST("rights grow without invalidation")
	REMAP(page_a, RWU)
	/* A stale fault is allowed, once: it drops the entry. */
	movq $1f, exc_resume
	movq %rsp, exc_resume_rsp
	movl $MARK_A, DATA_OFF(%rbx)
1:	movq $0, exc_resume
	movl $MARK_A, DATA_OFF(%rbx)
	TEST("a new dirty bit after it was cleared")
	REMAP(page_a, RWU)
	invlpg (%rbx)
	movl DATA_OFF(%rbx), %eax
	testl $D, pt
	CHECK(z)
	movl $MARK_A, DATA_OFF(%rbx)
	testl $D, pt
	CHECK(nz)
	andl $~(A | D), pt
	invlpg (%rbx)
	movl $MARK_A, DATA_OFF(%rbx)
	testl $D, pt
	CHECK(nz)
	TEST("global pages")
	REMAP(page_a, RWU | G)
	invlpg (%rbx)
	SEES(MARK_A)
	REMAP(page_b, RWU | G)
	invlpg (%rbx)
	SEES(MARK_B)
	REMAP(page_a, RWU | G)
	SET_CR(4, BOOT_CR4 & ~CR4_PGE)
	SEES(MARK_A)
	REMAP(page_b, RWU | G)
	SET_CR(4, BOOT_CR4)
	SEES(MARK_B)
	TEST("upper levels")
	movq $other_pt + RWU, pd
	movq $page_a + RWU, other_pt
	invlpg (%rbx)
	SEES(MARK_A)
	TEST("INVLPG in a large page drops all of it")
	movq $LARGE + PS + RWU, pd
	invlpg (%rbx)
	movq $MARK_A, LARGE
	movq $MARK_A, LARGE + 0x100000
	movq $MARK_A, LARGE + 0x1ff000
	movq $MARK_B, LARGE + 0x200000
	movq $MARK_B, LARGE + 0x300000
	movq $MARK_B, LARGE + 0x3ff000
	CHECK_EQ((%rbx), MARK_A)
	CHECK_EQ(0x100000(%rbx), MARK_A)
	CHECK_EQ(0x1ff000(%rbx), MARK_A)
	movq $LARGE + 0x200000 + PS + RWU, pd
	invlpg 0x54321(%rbx)
	CHECK_EQ((%rbx), MARK_B)
	CHECK_EQ(0x100000(%rbx), MARK_B)
	CHECK_EQ(0x1ff000(%rbx), MARK_B)
	TEST("a stale entry may go at any time, a fresh one counts at once")
	movq $0, pd + 16
	FAULT(VEC_PF, 0, movl 0x400000(%rbx), %eax)
	movq $LARGE + PS + RWU, pd + 16
	CHECK_EQ(0x400000(%rbx), MARK_A)	/* non-present entries are not cached */
	TEST("code that is remapped")
	movq $pt + RWU, pd
	movl $0xc311b090, page_a		/* nop; mov $0x11, %al; ret */
	movl $0xc322b090, page_b
	REMAP(page_a, RWU)
	invlpg (%rbx)
	xorl %eax, %eax
	movl $100, %r12d
1:	call *%rbx
	cmpb $0x11, %al
	CHECK(e)
	REMAP(page_b, RWU)
	invlpg (%rbx)
	call *%rbx
	cmpb $0x22, %al
	CHECK(e)
	REMAP(page_a, RWU)
	movq %cr3, %rax
	movq %rax, %cr3
	decl %r12d
	jnz 1b
	ret

/* --- PCID ----------------------------------------------------------------------------------------- */

#define NOFLUSH 0x8000000000000000
/* Space n has its own PML4, equal but for entry 2. */
#define SWITCH(n, flags)                                                                           \
	movabsq $(flags) + (n), %rax; addq $space_pml4 + 4096 * ((n) - 1), %rax; movq %rax, %cr3
#define SPACE_PT(n) (space_pt + 4096 * ((n) - 1))
#define SPACE_REMAP(n, frame) movq $frame + RWU, SPACE_PT(n)
#define INVPCID(type, pcid)                                                                        \
	movq $(pcid), invpcid_desc; movq %rbx, invpcid_desc + 8; movq $(type), %rax;               \
	invpcid invpcid_desc, %rax

pcid:
	btl $17, leaf1_ecx
	jnc 9f
	TEST("PCID")
	movq %cr3, %rax
	movq %rax, saved_cr3
	orq $8, %rax
	movq %rax, %cr3
	movq $BOOT_CR4 | CR4_PCIDE, %rax
	FAULT(VEC_GP, 0, movq %rax, %cr4)	/* CR3 holds PWT or PCD, or a PCID other than 0 */
	movq saved_cr3, %rax
	movq %rax, %cr3
	call build_spaces
	SET_CR(4, BOOT_CR4 | CR4_PCIDE)
	movabsq $VA, %rbx
	SWITCH(1, 0)
	movq %cr3, %rax
	andl $0xfff, %eax
	CHECK_EQ(%rax, 1)
	SEES(MARK_A)
	SWITCH(2, 0)
	SEES(MARK_B)
	SWITCH(1, NOFLUSH)
	movq %cr3, %rax
	btq $63, %rax				/* bit 63 is not kept */
	CHECK(nc)
	SEES(MARK_A)
	SWITCH(2, NOFLUSH)
	SEES(MARK_B)
	TEST("CR3 write flushes its PCID")
	SPACE_REMAP(1, page_b)
	SWITCH(1, 0)
	SEES(MARK_B)
	SPACE_REMAP(1, page_a)
	invlpg (%rbx)
	SEES(MARK_A)
	btl $10, leaf7_ebx
	jnc 8f
	TEST("INVPCID")
	SWITCH(2, NOFLUSH)
	SEES(MARK_B)
	SPACE_REMAP(1, page_b)
	INVPCID(0, 1)				/* one address of another space */
	SWITCH(1, NOFLUSH)
	SEES(MARK_B)
	SPACE_REMAP(1, page_a)
	INVPCID(0, 1)				/* of the current one */
	SEES(MARK_A)
	SWITCH(2, NOFLUSH)
	SPACE_REMAP(1, page_b)
	INVPCID(1, 1)
	SWITCH(1, NOFLUSH)
	SEES(MARK_B)
	SPACE_REMAP(1, page_a)
	INVPCID(1, 1)
	SEES(MARK_A)
	SPACE_REMAP(1, page_b)
	SPACE_REMAP(2, page_a)
	INVPCID(2, 0)
	SEES(MARK_B)
	SWITCH(2, NOFLUSH)
	SEES(MARK_A)
	SPACE_REMAP(1, page_a)
	SPACE_REMAP(2, page_b)
	INVPCID(3, 0)
	SEES(MARK_B)
	SWITCH(1, NOFLUSH)
	SEES(MARK_A)
	UNLESS_TCG(EXPECT(VEC_GP, 0, INVPCID(4, 0)))
8:	TEST("leaving PCID mode")
	SWITCH(2, NOFLUSH)
	SPACE_REMAP(2, page_a)
	SET_CR(4, BOOT_CR4)			/* flushes everything */
	SEES(MARK_A)
	movq saved_cr3, %rax
	movq %rax, %cr3
9:	ret

build_spaces:
	cld
	movq $boot_pml4, %rsi
	movq $space_pml4, %rdi
	movl $512, %ecx
	rep movsq
	movq $boot_pml4, %rsi
	movl $512, %ecx
	rep movsq
	movq $space_pdpt + RWU, space_pml4 + 16
	movq $space_pdpt + 4096 + RWU, space_pml4 + 4096 + 16
	movq $space_pd + RWU, space_pdpt
	movq $space_pd + 4096 + RWU, space_pdpt + 4096
	movq $space_pt + RWU, space_pd
	movq $space_pt + 4096 + RWU, space_pd + 4096
	movl $MARK_A, page_a + DATA_OFF
	movl $MARK_B, page_b + DATA_OFF
	SPACE_REMAP(1, page_a)
	SPACE_REMAP(2, page_b)
	ret

	.data
	.balign 4096
/* For the supervisor RET at 0, for user code INT at 16. */
page_a:	ret
	.skip 15
	int $VEC_USER
	.balign 4096
page_b:	ret
	.balign 4096

	.bss
	.balign 4096
pdpt:	.skip 4096
pd:	.skip 4096
pt:	.skip 4096
other_pt: .skip 4096
space_pml4: .skip 2 * 4096
space_pdpt: .skip 2 * 4096
space_pd: .skip 2 * 4096
space_pt: .skip 2 * 4096
saved_cr3: .skip 8
invpcid_desc: .skip 16
leaf7_ebx: .skip 4
leaf1_ecx: .skip 4
ext_edx: .skip 4
