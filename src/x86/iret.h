/*
 * The last part of IRET, when all its checks have passed. Inline, for compiled code does it with
 * the guest's vector registers in the host's; nothing here can fault.
 */
#ifndef X86_IRET_H
#define X86_IRET_H

#include "src/x86/seg.h"

/* Data segments that the new level may not use become null. */
static inline void drop_inner_segments(struct cpu *cpu)
{
	static const uint8_t segs[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	for (unsigned i = 0; i < ARRAY_SIZE(segs); i++) {
		struct seg *s = &cpu->seg[segs[i]];
		bool conforming = (s->attr & (SEG_CODE | SEG_EC)) == (SEG_CODE | SEG_EC);

		if (!conforming && (s->attr & SEG_DPL) >> SEG_DPL_SHIFT < cpu->cpl) {
			s->sel = 0;
			s->attr = 0;
			if (segs[i] != SEG_FS && segs[i] != SEG_GS)
				s->base = 0;
		}
	}
}

/* The flags that IRET may change at a privilege level. */
static inline void iret_flags(struct cpu *cpu, uint64_t f, unsigned opsize, unsigned cpl)
{
	uint32_t mask = FLAG_TF | FLAG_DF | FLAG_NT;

	if (opsize > 2)
		mask |= FLAG_RF | FLAG_AC | FLAG_ID;
	if (cpl == 0)
		mask |= FLAG_IOPL;
	if (cpl <= (cpu->rflags & FLAG_IOPL) >> 12)
		mask |= FLAG_IF;
	cpu->rflags = (cpu->rflags & ~mask) | (f & mask);
	flags_set_arith(cpu, f);
	cpu_update_ctx(cpu);
}

/* In protected mode; the stack is the new one already. */
static inline void iret_commit(struct cpu *cpu, const struct code_target *t, uint64_t f,
			       unsigned opsize)
{
	unsigned old_cpl = cpu->cpl;

	code_commit(cpu, t);
	iret_flags(cpu, f, opsize, old_cpl);
	if (t->cpl > old_cpl)
		drop_inner_segments(cpu);
}

/*
 * IRETQ at CPL 0 of 64-bit mode to 64-bit code, where nothing is the matter: its frame and the
 * descriptors can be read at once, no check fails, no descriptor's accessed bit has to be set, and
 * there is no TF in the flags. The new flags are in *flags, too. False: nothing has changed, and
 * seg_iret() is to do it. NMIs stay as they are. Uses general registers only.
 */
bool iret_quick(struct cpu *cpu, uint64_t *flags);

#endif
