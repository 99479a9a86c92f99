/*
 * SYSCALL and SYSRET between 64-bit code. Inline, for compiled code does them with the guest's
 * vector registers in the host's; nothing here can fault.
 */
#ifndef X86_SYSCALL_H
#define X86_SYSCALL_H

#include "src/x86/seg.h"

static inline struct seg seg_flat_code(uint16_t sel, unsigned cpl, bool is64)
{
	return (struct seg){
		.sel = sel,
		.limit = 0xffffffff,
		.attr = SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_A | SEG_G | cpl << SEG_DPL_SHIFT |
			(is64 ? SEG_L : SEG_DB),
	};
}

static inline struct seg seg_flat_data(uint16_t sel, unsigned cpl)
{
	return (struct seg){
		.sel = sel,
		.limit = 0xffffffff,
		.attr = SEG_P | SEG_S | SEG_RW | SEG_A | SEG_G | SEG_DB | cpl << SEG_DPL_SHIFT,
	};
}

/*
 * In long mode; target: LSTAR or CSTAR. flags: all of RFLAGS. The caller sets the new arithmetic
 * flags, which are returned.
 */
static inline uint64_t seg_syscall_long(struct cpu *cpu, uint64_t next_rip, uint64_t target,
					uint64_t flags)
{
	uint16_t sel = cpu->star >> 32 & 0xfffc;

	cpu->gpr[RCX] = next_rip;
	cpu->gpr[R11] = flags & ~(uint64_t)FLAG_RF;
	cpu->rip = target;
	cpu->rflags &= ~(uint32_t)cpu->sfmask & ~FLAG_RF;
	cpu_set_cs(cpu, seg_flat_code(sel, 0, true));
	cpu->seg[SEG_SS] = seg_flat_data(sel + 8, 0);
	cpu_set_cpl(cpu, 0);
	return flags & ~cpu->sfmask & FLAGS_ARITH;
}

/*
 * In long mode at CPL 0, to 64-bit code or to compatibility mode. The caller sets the new
 * arithmetic flags: those of R11.
 */
static inline void seg_sysret_long(struct cpu *cpu, bool to64)
{
	uint16_t sel = cpu->star >> 48;

	/* AMD leaves a non-canonical RIP to fault at the target; so do we. */
	cpu->rip = to64 ? cpu->gpr[RCX] : (uint32_t)cpu->gpr[RCX];
	cpu_set_cs(cpu, seg_flat_code((to64 ? sel + 16 : sel) | 3, 3, to64));
	cpu->rflags = cpu->gpr[R11] &
		      (FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_ID);
	cpu->seg[SEG_SS] = seg_flat_data((sel + 8) | 3, 3);
	cpu_set_cpl(cpu, 3);
}

#endif
