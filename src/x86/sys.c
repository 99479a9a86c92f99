#include "src/x86/sys.h"

#include "src/x86/mem.h"

#define CR0_VALID                                                                                  \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
	 CR0_PG)
#define CR4_VALID                                                                                 \
	(CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | \
	 CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE |        \
	 CR4_SMEP | CR4_SMAP)
/* A change of any of these may change what a cached translation permits. */
#define CR0_TLB (CR0_PG | CR0_WP | CR0_PE)
#define CR4_TLB (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP | CR4_PCIDE)

uint64_t sys_read_cr(struct cpu *cpu, unsigned n)
{
	sys_check_cpl0(cpu);
	switch (n) {
	case 0: return cpu->cr0;
	case 2: return cpu->cr2;
	case 3: return cpu->cr3;
	case 4: return cpu->cr4;
	case 8: return cpu->ops->get_cr8(cpu);
	default: cpu_raise_ud(cpu);
	}
}

static bool pae_paging(const struct cpu *cpu)
{
	return (cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !(cpu->efer & EFER_LMA);
}

/* #GP on reserved bits, with nothing changed. */
static void load_pdptes(struct cpu *cpu, uint64_t cr3, uint64_t efer)
{
	uint64_t pdpte[4];

	if (gmem_read(cpu->gmem, cr3 & 0xffffffe0, pdpte, sizeof(pdpte)))
		cpu_raise_gp(cpu);
	for (unsigned i = 0; i < 4; i++)
		if ((pdpte[i] & PTE_P) && (pdpte[i] & (0x1e6 | ~((1ull << GUEST_PHYS_BITS) - 1))))
			cpu_raise_gp(cpu);
	memcpy(cpu->pdpte, pdpte, sizeof(pdpte));
}

static void write_cr0(struct cpu *cpu, uint64_t v)
{
	uint64_t old = cpu->cr0, efer = cpu->efer;

	if (v >> 32 || ((v & CR0_PG) && !(v & CR0_PE)) || ((v & CR0_NW) && !(v & CR0_CD)))
		cpu_raise_gp(cpu);
	v = (v & CR0_VALID) | CR0_ET;
	if ((v & ~old) & CR0_PG) {
		if (efer & EFER_LME) {
			if (!(cpu->cr4 & CR4_PAE) || (cpu->seg[SEG_CS].attr & SEG_L))
				cpu_raise_gp(cpu);
			cpu->efer |= EFER_LMA;
		} else if (cpu->cr4 & CR4_PAE) {
			load_pdptes(cpu, cpu->cr3, efer);
		}
	} else if ((old & ~v) & CR0_PG) {
		if (cpu_code64(cpu) || (cpu->cr4 & CR4_PCIDE))
			cpu_raise_gp(cpu);
		cpu->efer &= ~(uint64_t)EFER_LMA;
	}
	cpu->cr0 = v;
	if ((v ^ old) & CR0_TLB)
		tlb_flush_all(&cpu->tlb);
	if ((v ^ old) & CR0_PE)
		cpu->cpl = 0; /* only CPL 0 gets here; real mode has no other */
	cpu_update_ctx(cpu);
}

static void write_cr3(struct cpu *cpu, uint64_t v)
{
	bool keep = false;
	uint16_t pcid = 0;

	if (cpu->cr4 & CR4_PCIDE) {
		keep = v & CR3_NOFLUSH;
		v &= ~CR3_NOFLUSH;
		pcid = v & 0xfff;
	}
	if (cpu_long_mode(cpu) && v >> GUEST_PHYS_BITS)
		cpu_raise_gp(cpu);
	if (pae_paging(cpu))
		load_pdptes(cpu, v, cpu->efer);
	cpu->cr3 = v;
	tlb_switch(&cpu->tlb, pcid, keep);
	STAT_INC(cpu->stats, tlb_flushes);
}

static void write_cr4(struct cpu *cpu, uint64_t v)
{
	uint64_t old = cpu->cr4;

	if (v & ~(uint64_t)CR4_VALID)
		cpu_raise_gp(cpu);
	if (cpu_long_mode(cpu) && !(v & CR4_PAE))
		cpu_raise_gp(cpu);
	if ((v & ~old & CR4_PCIDE) && (!cpu_long_mode(cpu) || (cpu->cr3 & 0xfff)))
		cpu_raise_gp(cpu);
	cpu->cr4 = v;
	if (((v ^ old) & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP)) && pae_paging(cpu)) {
		cpu->cr4 = old;
		load_pdptes(cpu, cpu->cr3, cpu->efer);
		cpu->cr4 = v;
	}
	if ((v ^ old) & CR4_TLB)
		tlb_flush_all(&cpu->tlb);
	if ((v ^ old) & CR4_PCIDE)
		tlb_switch(&cpu->tlb, v & CR4_PCIDE ? cpu->cr3 & 0xfff : 0, false);
	cpu_update_ctx(cpu);
}

void sys_write_cr(struct cpu *cpu, unsigned n, uint64_t v)
{
	sys_check_cpl0(cpu);
	switch (n) {
	case 0: write_cr0(cpu, v); break;
	case 2: cpu->cr2 = v; break;
	case 3: write_cr3(cpu, v); break;
	case 4: write_cr4(cpu, v); break;
	case 8:
		if (v & ~0xfull)
			cpu_raise_gp(cpu);
		cpu->ops->set_cr8(cpu, v);
		break;
	default: cpu_raise_ud(cpu);
	}
}

void sys_lmsw(struct cpu *cpu, uint16_t value)
{
	uint64_t v = (cpu->cr0 & ~0xeull) | (value & 0xf);

	/* LMSW can set PE but not clear it. */
	sys_check_cpl0(cpu);
	write_cr0(cpu, v | (cpu->cr0 & CR0_PE));
}

static unsigned dr_index(struct cpu *cpu, unsigned n)
{
	if (n == 4 || n == 5) {
		if (cpu->cr4 & CR4_DE)
			cpu_raise_ud(cpu);
		n += 2;
	}
	if (n > 7)
		cpu_raise_ud(cpu);
	sys_check_cpl0(cpu);
	if (cpu->dr7 & DR7_GD) {
		cpu->dr6 |= DR6_BD;
		cpu->dr7 &= ~(uint64_t)DR7_GD;
		cpu_raise(cpu, EXC_DB);
	}
	return n;
}

uint64_t sys_read_dr(struct cpu *cpu, unsigned n)
{
	n = dr_index(cpu, n);
	return n < 4 ? cpu->dr[n] : n == 6 ? cpu->dr6 : cpu->dr7;
}

void sys_write_dr(struct cpu *cpu, unsigned n, uint64_t v)
{
	n = dr_index(cpu, n);
	if (n >= 4 && v >> 32)
		cpu_raise_gp(cpu);
	if (n < 4) {
		cpu->dr[n] = v;
	} else if (n == 6) {
		cpu->dr6 = (v & 0xe00f) | DR6_FIXED;
		return;
	} else {
		cpu->dr7 = (v & 0xffff2bff) | DR7_FIXED;
	}
	/* Watched pages leave the TLB, others may return; code breakpoints change blocks. */
	tlb_flush_all(&cpu->tlb);
}

void sys_invpcid(struct cpu *cpu, uint64_t type, uint64_t pcid, gva_t gva)
{
	sys_check_cpl0(cpu);
	if (type > 3 || (type <= 1 && (pcid & ~0xfffull)))
		cpu_raise_gp(cpu);
	if (type == 0 && !gva_canonical(gva))
		cpu_raise_gp(cpu);
	if (type <= 1 && !(cpu->cr4 & CR4_PCIDE) && pcid)
		cpu_raise_gp(cpu);
	switch (type) {
	case 0:
		tlb_flush_page(&cpu->tlb, gva);
		STAT_INC(cpu->stats, tlb_page_flushes);
		return;
	case 1: tlb_flush_pcid(&cpu->tlb, pcid); break;
	default: tlb_flush_all(&cpu->tlb); break;
	}
	STAT_INC(cpu->stats, tlb_flushes);
}

void sys_popf(struct cpu *cpu, uint64_t v, unsigned opsize)
{
	uint32_t mask = FLAG_TF | FLAG_DF | FLAG_NT;

	if (opsize > 2)
		mask |= FLAG_AC | FLAG_ID;
	if (cpu->cpl == 0)
		mask |= FLAG_IOPL;
	if (cpu->cpl <= (cpu->rflags & FLAG_IOPL) >> 12)
		mask |= FLAG_IF;
	cpu->rflags = (cpu->rflags & ~(mask | FLAG_RF)) | (v & mask);
	flags_set_arith(cpu, v);
	cpu_update_ctx(cpu);
}

void sys_check_io(struct cpu *cpu, uint16_t port, unsigned len)
{
	const struct seg *tr = &cpu->seg[SEG_TR];
	uint16_t map, bits;
	unsigned at;

	if (cpu_real_mode(cpu) || cpu->cpl <= (cpu->rflags & FLAG_IOPL) >> 12)
		return;
	if (!(tr->attr & SEG_P) || !(tr->attr & 8) || tr->limit < 0x67)
		cpu_raise_gp(cpu);
	map = mem_sys_read(cpu, tr->base + 0x66, 2);
	at = map + port / 8;
	/* The processor always reads two bytes of the map. */
	if (at + 1 > tr->limit)
		cpu_raise_gp(cpu);
	bits = mem_sys_read(cpu, tr->base + at, 2) >> (port % 8);
	if (bits & ((1u << len) - 1))
		cpu_raise_gp(cpu);
}

void sys_cpuid(struct cpu *cpu)
{
	uint32_t out[4], leaf = cpu->gpr[RAX], sub = cpu->gpr[RCX];

	cpu->ops->cpuid(cpu, leaf, sub, out);
	if (leaf == 1 && (cpu->cr4 & CR4_OSXSAVE))
		out[2] |= 1u << 27;
	if (leaf == 0xd && (sub == 0 || sub == 1)) {
		/* Size of the area for the features now enabled; AVX follows the header. */
		if (sub == 0 || (out[0] & 2))
			out[1] = cpu->xcr0 & 4 ? 576 + 256 : 576;
	}
	cpu->gpr[RAX] = out[0];
	cpu->gpr[RBX] = out[1];
	cpu->gpr[RCX] = out[2];
	cpu->gpr[RDX] = out[3];
}
