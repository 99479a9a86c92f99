#include "src/x86/mem.h"

gva_t seg_linear(struct cpu *cpu, enum seg_index s, uint64_t off, unsigned len, bool write)
{
	const struct seg *seg = &cpu->seg[s];
	uint64_t last = off + len - 1;
	uint8_t vector = s == SEG_SS ? EXC_SS : EXC_GP;
	bool ok;

	if (cpu_code64(cpu)) {
		gva_t a = off + (s == SEG_FS || s == SEG_GS ? seg->base : 0);

		if (unlikely(!gva_canonical(a)))
			cpu_raise_err(cpu, vector, 0);
		return a;
	}
	if (s == SEG_NONE)
		return (uint32_t)off;
	if (!cpu_real_mode(cpu)) {
		if (!(seg->attr & SEG_P))
			cpu_raise_err(cpu, vector, 0);
		if (seg->attr & SEG_CODE) {
			if (write || !(seg->attr & SEG_RW))
				cpu_raise_err(cpu, vector, 0);
		} else if (write && !(seg->attr & SEG_RW)) {
			cpu_raise_err(cpu, vector, 0);
		}
	}
	if ((seg->attr & (SEG_CODE | SEG_EC)) == SEG_EC)
		ok = off > seg->limit && last <= (seg->attr & SEG_DB ? 0xffffffff : 0xffff);
	else
		ok = last <= seg->limit;
	if (unlikely(!ok))
		cpu_raise_err(cpu, vector, 0);
	return (uint32_t)(seg->base + off);
}

gva_t ea_offset(struct cpu *cpu, const struct insn *i, int64_t offset, unsigned len, bool write)
{
	uint64_t off = cpu->gpr[i->base] + (cpu->gpr[i->index] << i->scale) + (int64_t)i->disp;

	off += offset;
	cpu->cur = i;
	if (i->flags & INSN_ADDR16)
		off = (uint16_t)off;
	else if (i->flags & INSN_ADDR32)
		off = (uint32_t)off;
	if (i->mode == 8)
		return cpu->seg[i->seg].base + off;
	return seg_linear(cpu, i->seg, off, len, write);
}

gva_t ea_slow(struct cpu *cpu, const struct insn *i, unsigned len, bool write)
{
	return ea_offset(cpu, i, 0, len, write);
}
