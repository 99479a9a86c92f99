/* A fault that finds no interrupt descriptors at all shuts the processor down. */
#include "guest.h"

	.text
	.globl main
main:
	lidt no_idt
	ud2
	FAIL()

	.data
no_idt:	.word 0
	.quad 0
