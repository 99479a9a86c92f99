#include "src/x86/cpu.h"

#include <stdio.h>

#include "src/x86/vec.h"

int cpu_init(struct cpu *cpu)
{
	int r = vec_cache_get(&cpu->vec_cache);

	if (r)
		return r;
	tlb_init(&cpu->tlb);
	cpu_reset(cpu, true);
	return 0;
}

void cpu_fini(struct cpu *cpu)
{
	vec_cache_put(cpu->vec_cache);
	cpu->vec_cache = NULL;
}

void cpu_reset(struct cpu *cpu, bool cold)
{
	static const uint16_t data_attr = SEG_P | SEG_S | SEG_RW | SEG_A;

	memset(cpu->gpr, 0, sizeof(cpu->gpr));
	cpu->gpr[RDX] = 0x00a00f10; /* family, model, stepping */
	for (unsigned s = 0; s < SEG_COUNT; s++)
		cpu->seg[s] = (struct seg){.limit = 0xffff, .attr = data_attr};
	cpu->seg[SEG_NONE] = (struct seg){.limit = 0xffffffff, .attr = data_attr};
	cpu->seg[SEG_CS] = (struct seg){
		.sel = 0xf000, .base = 0xffff0000, .limit = 0xffff, .attr = data_attr | SEG_CODE};
	cpu->seg[SEG_LDTR] = (struct seg){.limit = 0xffff, .attr = SEG_P | 2};
	cpu->seg[SEG_TR] = (struct seg){.limit = 0xffff, .attr = SEG_P | 0xb};
	cpu->gdtr = cpu->idtr = (struct dtable){.limit = 0xffff};
	cpu->rip = 0xfff0;
	cpu->rflags = 0;
	flags_set_arith(cpu, 0);
	cpu->event = 0;
	cpu->exc_pending = cpu->delivering = cpu->nmi_blocked = false;
	cpu->cr0 = CR0_CD | CR0_NW | CR0_ET;
	cpu->cr2 = cpu->cr3 = cpu->cr4 = cpu->efer = 0;
	memset(cpu->dr, 0, sizeof(cpu->dr));
	cpu->dr6 = DR6_FIXED;
	cpu->dr7 = DR7_FIXED;
	cpu->dr6_pending = 0;
	if (cold) {
		cpu->xcr0 = 1;
		cpu->star = cpu->lstar = cpu->cstar = cpu->sfmask = 0;
		cpu->kernel_gs_base = cpu->tsc_aux = 0;
		cpu->sysenter_cs = cpu->sysenter_esp = cpu->sysenter_eip = 0;
		cpu->pat = 0x0007040600070406ull;
		cpu->mtrr_deftype = 0;
		memset(cpu->mtrr_fix, 0, sizeof(cpu->mtrr_fix));
		memset(cpu->mtrr_var, 0, sizeof(cpu->mtrr_var));
		cpu->misc_enable = 1;
		cpu->mcg_status = cpu->tsc_adjust = cpu->syscfg = 0;
		cpu->hwcr = HWCR_TSC_FREQ_SEL;
		vec_reset(&cpu->vec);
	}
	cpu->cpl = 0;
	tlb_flush_all(&cpu->tlb);
	tlb_switch(&cpu->tlb, 0, false);
	cpu_update_ctx(cpu);
}

void cpu_update_ctx(struct cpu *cpu)
{
	enum tlb_ctx ctx;

	if (cpu->cpl == 3)
		ctx = (cpu->rflags & FLAG_AC) && (cpu->cr0 & CR0_AM) ? TLB_ALIGN : TLB_USER;
	else if ((cpu->cr4 & CR4_SMAP) && !(cpu->rflags & FLAG_AC))
		ctx = TLB_SUPER;
	else
		ctx = TLB_SUPER_AC;
	cpu->ctx = ctx;
	cpu->tlb_cur = cpu->tlb.e[ctx];
}

void cpu_dump(const struct cpu *cpu, char *buf, size_t size)
{
	static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					    "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15"};
	static const char *const segs[] = {"es", "cs", "ss", "ds", "fs", "gs", "", "ldt", "tr"};
	size_t n = 0;

#define ADD(...) n += snprintf(buf + n, n < size ? size - n : 0, __VA_ARGS__)
	ADD("rip %016lx rflags %08lx cpl %u\n", cpu->rip, flags_get(cpu), cpu->cpl);
	for (unsigned i = 0; i < 16; i++)
		ADD("%s %016lx%s", names[i], cpu->gpr[i], i % 4 == 3 ? "\n" : "  ");
	for (unsigned i = 0; i < SEG_COUNT; i++)
		if (i != SEG_NONE)
			ADD("%-3s %04x base %016lx limit %08x attr %04x\n", segs[i],
			    cpu->seg[i].sel, cpu->seg[i].base, cpu->seg[i].limit, cpu->seg[i].attr);
	ADD("gdt %016lx/%04x idt %016lx/%04x\n", cpu->gdtr.base, cpu->gdtr.limit, cpu->idtr.base,
	    cpu->idtr.limit);
	ADD("cr0 %08lx cr2 %016lx cr3 %016lx cr4 %08lx efer %08lx\n", cpu->cr0, cpu->cr2, cpu->cr3,
	    cpu->cr4, cpu->efer);
	ADD("last exception: vector %u error %x kind %u\n", cpu->exc.vector, cpu->exc.error,
	    cpu->exc.kind);
#undef ADD
}
