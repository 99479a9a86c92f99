/*
 * Starts every other processor in long mode: it calls ap_main, which the guest defines, with its
 * number (1 and up) in edi, on its own stack. The number also follows from the task register.
 */
#include "guest.h"

#define TRAMPOLINE 0x8000
#define STACK_SIZE 8192
#define FW_CFG_NB_CPUS 5

	.text
	.globl smp_start
smp_start:
	APIC_ENABLE
	movw $FW_CFG_NB_CPUS, %ax
	movw $0x510, %dx
	outw %ax, %dx
	movw $0x511, %dx
	inb %dx, %al
	movzbl %al, %eax
	movl %eax, ncpus
	movl APIC_ID(%r15), %eax
	shrl $24, %eax
	movl %eax, apic_ids
	movq $trampoline, %rsi
	movl $TRAMPOLINE, %edi
	movl $trampoline_end - trampoline, %ecx
	rep movsb
	APIC_WRITE(APIC_ICR, 0xc4500)			/* INIT, all but self */
	call smp_delay
	APIC_WRITE(APIC_ICR, 0xc4600 | TRAMPOLINE >> 12)	/* STARTUP */
	call smp_delay
	movl ncpus, %eax
	cmpl cpus_up, %eax
	je 2f
	APIC_WRITE(APIC_ICR, 0xc4600 | TRAMPOLINE >> 12)
1:	pause
	movl ncpus, %eax
	cmpl cpus_up, %eax
	jne 1b
2:	ret

	.globl smp_delay
smp_delay:
	movl $200000, %ecx
1:	decl %ecx
	jnz 1b
	ret

	.code16
trampoline:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	lgdtl TRAMPOLINE + trampoline_gdt - trampoline
	movl %cr0, %eax
	orl $CR0_PE, %eax
	movl %eax, %cr0
	ljmpl $SEL_CODE32, $ap_start32
	.balign 8
trampoline_gdt:
	.word SEL_TEST - 1
	.long gdt
trampoline_end:

	.code32
ap_start32:
	movl $SEL_DATA, %eax				/* real mode's segments are too short */
	movl %eax, %ds
	movl %eax, %ss
	movl $1, %ebx
	lock xaddl %ebx, next_cpu
	movl %ebx, %esp
	shll $13, %esp					/* STACK_SIZE */
	addl $ap_stacks, %esp
	call enable_long_mode
	ljmp $SEL_CODE64, $ap_start64

	.code64
ap_start64:
	movl %esp, %esp
	lgdt gdt_pointer
	lidt idt_pointer
	movl %ebx, %edi
	call load_tss
	APIC_ENABLE
	movl APIC_ID(%r15), %eax
	shrl $24, %eax
	movl %eax, apic_ids(,%rbx,4)
	lock incl cpus_up
	movl %ebx, %edi
	call ap_main
1:	sti
	hlt
	jmp 1b

/* eax: the number of this processor; nothing else changes. */
	.globl this_cpu
this_cpu:
	str %eax
	subl $SEL_TSS, %eax
	shrl $4, %eax
	ret

/* Waits until every processor is here. Changes eax and ecx. */
	.globl barrier
barrier:
	movl barrier_round, %ecx
	movl $1, %eax
	lock xaddl %eax, barrier_count
	incl %eax
	cmpl ncpus, %eax
	jne 1f
	movl $0, barrier_count
	incl barrier_round
	ret
1:	pause
	cmpl barrier_round, %ecx
	je 1b
	ret

	.data
	.globl ncpus, cpus_up, apic_ids, next_cpu
next_cpu: .long 1
cpus_up: .long 1
ncpus:	.long 0
barrier_round: .long 0
barrier_count: .long 0
apic_ids: .skip 4 * MAX_CPUS

	.bss
	.balign 16
ap_stacks: .skip STACK_SIZE * (MAX_CPUS + 1)
