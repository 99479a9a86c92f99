#include "src/x86/sys.h"

#define EFER_VALID (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_FFXSR | EFER_AIBRS)

static bool pat_valid(uint64_t v)
{
	for (unsigned i = 0; i < 8; i++, v >>= 8) {
		uint8_t t = v;

		if (t > 7 || t == 2 || t == 3)
			return false;
	}
	return true;
}

static int write_efer(struct cpu *cpu, uint64_t v)
{
	uint64_t old = cpu->efer;

	if (v & ~(uint64_t)EFER_VALID)
		return -EINVAL;
	if (((v ^ old) & EFER_LME) && (cpu->cr0 & CR0_PG))
		return -EINVAL;
	cpu->efer = (v & ~(uint64_t)EFER_LMA) | (old & EFER_LMA);
	if ((v ^ old) & EFER_NXE)
		tlb_flush_all(&cpu->tlb);
	return 0;
}

/* The fixed-range MTRR registers in the order of mtrr_fix, or NULL. */
static uint64_t *mtrr_fixed(struct cpu *cpu, uint32_t msr)
{
	if (msr == MSR_MTRR_FIX64K)
		return &cpu->mtrr_fix[0];
	if (msr == MSR_MTRR_FIX16K_80 || msr == MSR_MTRR_FIX16K_A0)
		return &cpu->mtrr_fix[1 + msr - MSR_MTRR_FIX16K_80];
	if (msr >= MSR_MTRR_FIX4K_C0 && msr < MSR_MTRR_FIX4K_C0 + 8)
		return &cpu->mtrr_fix[3 + msr - MSR_MTRR_FIX4K_C0];
	if (msr >= MSR_MTRR_PHYSBASE0 && msr < MSR_MTRR_PHYSBASE0 + 16)
		return &cpu->mtrr_var[msr - MSR_MTRR_PHYSBASE0];
	return NULL;
}

/* MSRs that are plain storage to the guest. */
static uint64_t *plain(struct cpu *cpu, uint32_t msr)
{
	switch (msr) {
	case MSR_STAR: return &cpu->star;
	case MSR_SFMASK: return &cpu->sfmask;
	case MSR_SYSENTER_CS: return &cpu->sysenter_cs;
	case MSR_MTRR_DEFTYPE: return &cpu->mtrr_deftype;
	case MSR_MISC_ENABLE: return &cpu->misc_enable;
	case MSR_MCG_STATUS: return &cpu->mcg_status;
	case MSR_HWCR: return &cpu->hwcr;
	case MSR_SYSCFG: return &cpu->syscfg;
	default: return mtrr_fixed(cpu, msr);
	}
}

/* MSRs that hold a canonical address. */
static uint64_t *address(struct cpu *cpu, uint32_t msr)
{
	switch (msr) {
	case MSR_LSTAR: return &cpu->lstar;
	case MSR_CSTAR: return &cpu->cstar;
	case MSR_SYSENTER_ESP: return &cpu->sysenter_esp;
	case MSR_SYSENTER_EIP: return &cpu->sysenter_eip;
	case MSR_FS_BASE: return &cpu->seg[SEG_FS].base;
	case MSR_GS_BASE: return &cpu->seg[SEG_GS].base;
	case MSR_KERNEL_GS_BASE: return &cpu->kernel_gs_base;
	default: return NULL;
	}
}

int msr_read(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	uint64_t *p = plain(cpu, msr);
	int r;

	if (!p)
		p = address(cpu, msr);
	if (p) {
		*value = *p;
		return 0;
	}
	switch (msr) {
	case MSR_TSC: *value = cpu->ops->rdtsc(cpu); return 0;
	case MSR_TSC_ADJUST: *value = cpu->tsc_adjust; return 0;
	case MSR_EFER: *value = cpu->efer; return 0;
	case MSR_PAT: *value = cpu->pat; return 0;
	case MSR_TSC_AUX: *value = cpu->tsc_aux; return 0;
	case MSR_MTRRCAP: *value = 0x508; return 0; /* 8 variable, fixed, write-combining */
	case MSR_MCG_CAP:			    /* no banks */
	case MSR_MCG_CTL:
	case MSR_BIOS_SIGN_ID:
	case MSR_DEBUGCTL:
	case MSR_NB_CFG: *value = 0; return 0;
	case MSR_DE_CFG: *value = 2; return 0; /* LFENCE is serialising */
	default:
		r = cpu->ops->rdmsr(cpu, msr, value);
		if (r)
			STAT_INC(cpu->stats, unknown_msrs);
		return r;
	}
}

/* Moved by a distance, not set: so no time is lost between reading the clock and writing. */
static int move_tsc(struct cpu *cpu, uint64_t delta)
{
	cpu->tsc_adjust += delta;
	cpu->ops->move_tsc(cpu, delta);
	return 0;
}

int msr_write(struct cpu *cpu, uint32_t msr, uint64_t v)
{
	uint64_t *p = plain(cpu, msr);
	int r;

	if (p) {
		*p = v;
		return 0;
	}
	p = address(cpu, msr);
	if (p) {
		if (!gva_canonical(v))
			return -EINVAL;
		*p = v;
		return 0;
	}
	switch (msr) {
	case MSR_TSC: return move_tsc(cpu, v - cpu->ops->rdtsc(cpu));
	case MSR_TSC_ADJUST: return move_tsc(cpu, v - cpu->tsc_adjust);
	case MSR_EFER: return write_efer(cpu, v);
	case MSR_PAT:
		if (!pat_valid(v))
			return -EINVAL;
		cpu->pat = v;
		return 0;
	case MSR_TSC_AUX:
		if (v >> 32)
			return -EINVAL;
		cpu->tsc_aux = v;
		return 0;
	case MSR_MCG_CTL:
	case MSR_BIOS_SIGN_ID:
	case MSR_DEBUGCTL: return v ? -EINVAL : 0;
	case MSR_NB_CFG:
	case MSR_DE_CFG: return 0;
	default:
		r = cpu->ops->wrmsr(cpu, msr, v);
		if (r)
			STAT_INC(cpu->stats, unknown_msrs);
		return r;
	}
}
