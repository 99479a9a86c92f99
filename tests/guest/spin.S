/*
 * Runs without end, on every processor: for gdb.sh to look at. CPUID is done by C code.
 */
#include "guest.h"

	.text
	.globl main, ap_main, leaf
main:
	call smp_start
ap_main:
1:	xorl %eax, %eax
	cpuid
	call leaf
	jmp 1b

leaf:
	movl counter(%rip), %eax
	incl %eax
	movl %eax, counter(%rip)
	ret

	.data
counter:
	.long 0
