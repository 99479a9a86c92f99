/*
 * Control registers, MSRs and other state that system instructions change, with every side effect
 * on the TLB and on the current mode. Owner thread only; all may unwind with #GP, #UD or #NM.
 */
#ifndef X86_SYS_H
#define X86_SYS_H

#include "src/x86/cpu.h"

uint64_t sys_read_cr(struct cpu *cpu, unsigned n);
void sys_write_cr(struct cpu *cpu, unsigned n, uint64_t value);
uint64_t sys_read_dr(struct cpu *cpu, unsigned n);
void sys_write_dr(struct cpu *cpu, unsigned n, uint64_t value);
void sys_lmsw(struct cpu *cpu, uint16_t value);
void sys_invpcid(struct cpu *cpu, uint64_t type, uint64_t pcid, gva_t gva);

/* 0, or -EINVAL for #GP; the instruction handlers raise. */
int msr_read(struct cpu *cpu, uint32_t msr, uint64_t *value);
int msr_write(struct cpu *cpu, uint32_t msr, uint64_t value);

/* POPF: what the privilege level allows. #GP with CPL > IOPL is not POPF's. */
void sys_popf(struct cpu *cpu, uint64_t value, unsigned opsize);
/* Raises #GP unless CPL <= IOPL or the TSS permits all len ports. */
void sys_check_io(struct cpu *cpu, uint16_t port, unsigned len);
/* Raises #GP unless CPL is 0. */
static inline void sys_check_cpl0(struct cpu *cpu)
{
	if (unlikely(cpu->cpl))
		cpu_raise_gp(cpu);
}
void sys_cpuid(struct cpu *cpu);
#endif
