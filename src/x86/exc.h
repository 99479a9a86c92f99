/*
 * Exceptions and interrupts: recording, combining (double and triple fault) and delivery through
 * the IDT in every mode (AMD64 APM volume 2, chapter 8). Owner thread only.
 */
#ifndef X86_EXC_H
#define X86_EXC_H

#include "src/x86/seg.h"

enum exc_kind { EXC_KIND_EXTERNAL, EXC_KIND_FAULT, EXC_KIND_SOFT };

/*
 * Called where the unwinding lands. Moves rip to the instruction that faulted, or combines the new
 * exception with the one that was being delivered. Afterwards exc_deliver() is due unless
 * CPU_EVENT_SHUTDOWN is set.
 */
void exc_landed(struct cpu *cpu);
/* Delivers cpu->exc with rip as the saved address; may unwind. */
void exc_deliver(struct cpu *cpu);
/* External interrupt or NMI at an instruction boundary; may unwind. */
void exc_interrupt(struct cpu *cpu, uint8_t vector);
/* INT n, INT3, INTO, INT1: return address next_rip; may unwind. */
void exc_soft_interrupt(struct cpu *cpu, uint8_t vector, uint64_t next_rip, bool privileged);
/*
 * In compiled code: a page fault at an access of 64-bit code, with these RIP and arithmetic flags,
 * delivered if nothing is the matter: it is one, the IDT's gate is of 64-bit code of CPL 0 whose
 * descriptor has its accessed bit set, and the frame lies in one page that may be stored to. False:
 * nothing has changed. Uses general registers only.
 */
bool exc_quick_fault(struct cpu *cpu, gva_t gva, bool write, uint64_t rip, uint64_t arith);
/* The last part of a delivery in protected mode, when the frame and the new stack are there. */
static inline void exc_enter(struct cpu *cpu, const struct code_target *t, bool trap)
{
	cpu->rflags &= ~(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM);
	if (!trap)
		cpu->rflags &= ~FLAG_IF;
	code_commit(cpu, t);
}
/* #DB trap at an instruction boundary; dr6_bits are set in DR6 first. */
void exc_debug_trap(struct cpu *cpu, uint64_t dr6_bits);

#endif
